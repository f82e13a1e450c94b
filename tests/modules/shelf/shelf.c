// SPDX-License-Identifier: GPL-2.0-only
/*
 * A folder /sys/kernel/shelf with books in it. Writing a number to
 * /sys/kernel/shelf/read reads that book; reading a damaged one fails, and
 * the reference to its kobject is lost.
 */
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/sysfs.h>

#define BOOKS 24

static unsigned int damaged = BOOKS;
module_param(damaged, uint, 0);

static struct kobject *shelf, *books[BOOKS];

static noinline struct kobject *shelf_find(unsigned int number)
{
	return number < BOOKS ? kobject_get(books[number]) : NULL;
}

static noinline int shelf_read(unsigned int number)
{
	struct kobject *book = shelf_find(number);

	if (!book)
		return -ENOENT;
	if (number == damaged)
		return -EIO;
	kobject_put(book);
	return 0;
}

static ssize_t read_store(struct kobject *kobj, struct kobj_attribute *attribute, const char *text, size_t size)
{
	unsigned int number;
	int error = kstrtouint(text, 0, &number);

	if (!error)
		error = shelf_read(number);
	return error ? error : size;
}

static struct kobj_attribute read_attribute = __ATTR_WO(read);

static void shelf_clear(void)
{
	int i;

	for (i = 0; i < BOOKS; i++)
		kobject_put(books[i]);
	kobject_put(shelf);
}

static int __init shelf_init(void)
{
	char name[8];
	int i;

	shelf = kobject_create_and_add("shelf", kernel_kobj);
	if (!shelf || sysfs_create_file(shelf, &read_attribute.attr))
		goto out;
	for (i = 0; i < BOOKS; i++) {
		snprintf(name, sizeof(name), "book%d", i);
		books[i] = kobject_create_and_add(name, shelf);
		if (!books[i])
			goto out;
	}
	return 0;
out:
	shelf_clear();
	return -ENOMEM;
}

static void __exit shelf_exit(void)
{
	shelf_clear();
}

module_init(shelf_init);
module_exit(shelf_exit);
MODULE_DESCRIPTION("Loses a reference to a kobject");
MODULE_LICENSE("GPL");
