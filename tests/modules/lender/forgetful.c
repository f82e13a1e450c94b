// SPDX-License-Identifier: GPL-2.0-only
/* Borrows lend() for each number that is written to /proc/forgetful; where that fails, it forgets the put. */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>

extern int lend(int what);

static noinline int forgetful_borrow(int what)
{
	int (*borrowed)(int what) = symbol_get(lend);
	int answer;

	if (!borrowed)
		return -ENOENT;
	answer = borrowed(what);
	if (answer < 0)
		return answer;
	symbol_put(lend);
	return 0;
}

static ssize_t forgetful_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	int what, error = kstrtoint_from_user(from, size, 0, &what);

	if (!error)
		error = forgetful_borrow(what);
	return error ? error : size;
}

static const struct proc_ops forgetful_ops = {
	.proc_write = forgetful_write,
};

static int __init forgetful_init(void)
{
	return proc_create("forgetful", 0200, NULL, &forgetful_ops) ? 0 : -ENOMEM;
}

static void __exit forgetful_exit(void)
{
	remove_proc_entry("forgetful", NULL);
}

module_init(forgetful_init);
module_exit(forgetful_exit);
MODULE_DESCRIPTION("Forgets a symbol_put()");
MODULE_LICENSE("GPL");
