// SPDX-License-Identifier: GPL-2.0-only
/*
 * Linked to lend(), and borrows it once more for each number that is written
 * to /proc/hasty; where that fails, it puts it twice. The second put takes the
 * reference that linking took, and the one on unloading is one too many.
 */
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/uaccess.h>

extern int lend(int what);

static noinline int hasty_borrow(int what)
{
	int (*borrowed)(int what) = symbol_get(lend);
	int answer;

	if (!borrowed)
		return -ENOENT;
	answer = borrowed(what);
	if (answer < 0)
		symbol_put(lend);
	symbol_put(lend);
	return answer < 0 ? answer : 0;
}

static ssize_t hasty_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	int what, error = kstrtoint_from_user(from, size, 0, &what);

	if (!error)
		error = hasty_borrow(what);
	return error ? error : size;
}

static const struct proc_ops hasty_ops = {
	.proc_write = hasty_write,
};

static int __init hasty_init(void)
{
	if (lend(1) != 1)
		return -EINVAL;
	return proc_create("hasty", 0200, NULL, &hasty_ops) ? 0 : -ENOMEM;
}

static void __exit hasty_exit(void)
{
	remove_proc_entry("hasty", NULL);
}

module_init(hasty_init);
module_exit(hasty_exit);
MODULE_DESCRIPTION("Puts a symbol once too often");
MODULE_LICENSE("GPL");
