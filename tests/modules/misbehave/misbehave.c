// SPDX-License-Identifier: GPL-2.0-only
/* Goes wrong on request: what is written to /proc/misbehave says how. */
#include <linux/delay.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>

static char *at_load = "";
module_param(at_load, charp, 0);

static noinline void misbehave_warn(void)
{
	WARN(1, "asked to warn\n");
}

static noinline void misbehave_oops(void)
{
	WRITE_ONCE(*(int *)0x38, 1);
}

static noinline void misbehave_spin(void)
{
	local_irq_disable();
	for (;;)
		cpu_relax();
}

static int misbehave(const char *how)
{
	if (!strcmp(how, "warn"))
		misbehave_warn();
	else if (!strcmp(how, "oops"))
		misbehave_oops();
	else if (!strcmp(how, "spin"))
		misbehave_spin();
	else if (!strcmp(how, "put"))
		atomic_dec(&THIS_MODULE->refcnt); /* what module_put does, without its warning */
	else if (!strcmp(how, "get"))
		__module_get(THIS_MODULE);
	else if (*how)
		return -EINVAL;
	return 0;
}

static ssize_t misbehave_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char how[16] = "";
	int error;

	if (size >= sizeof(how) || copy_from_user(how, from, size))
		return -EFAULT;
	error = misbehave(strim(how));
	return error ? error : size;
}

static const struct proc_ops misbehave_ops = {
	.proc_write = misbehave_write,
	.proc_flags = PROC_ENTRY_PERMANENT,
};

static int __init misbehave_init(void)
{
	int error = misbehave(at_load);

	if (error)
		return error;
	return proc_create("misbehave", 0200, NULL, &misbehave_ops) ? 0 : -ENOMEM;
}

static void __exit misbehave_exit(void)
{
	remove_proc_entry("misbehave", NULL);
}

module_init(misbehave_init);
module_exit(misbehave_exit);
MODULE_DESCRIPTION("Goes wrong on request");
MODULE_LICENSE("GPL");
