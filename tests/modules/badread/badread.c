// SPDX-License-Identifier: GPL-2.0-only
/*
 * Follows a pointer that it should not, on request: what is written to /proc/badread says which.
 * Each case has its bad pointer at another end of a chain of members.
 */
#include <linux/err.h>
#include <linux/list.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#define RINGS 8

struct ring {
	u64 pad[50];
	u64 *head;
	u32 count;
};

struct card_ops {
	int (*open)(void *card);
	int (*start)(void *card);
};

struct item {
	struct list_head entry;
	struct ring *ring;
	int value;
};

struct card {
	char name[24];
	struct ring *rings[RINGS];
	int num_rings;
	const struct card_ops *ops;
	struct card *parent;
	struct item *item;
	struct list_head items;
};

static struct card *card;
static const struct card_ops ops;

/* A member of an array is NULL. */
static noinline u32 badread_element(struct card *card)
{
	struct ring *ring;
	u32 sum = 0;
	int i;

	for (i = 0; i < card->num_rings; i++) {
		ring = card->rings[i];
		sum += ring->count;
	}
	return sum;
}

/* The second of two pointers that are followed is NULL. */
static noinline void badread_chain(struct card *card)
{
	card->parent->item->value = 7;
}

/* A function pointer is NULL. */
static noinline int badread_call(struct card *card)
{
	return card->ops->start(card) + 1;
}

/* A freed object is used: what it points to is not to be trusted. */
static noinline u32 badread_freed(struct card *card)
{
	struct item *item = card->item;

	return item->ring->count;
}

/* An error that was returned as a pointer is followed. */
static noinline u32 badread_error(struct card *card)
{
	struct ring *ring = card->rings[3];

	return ring->count;
}

/* An entry that was deleted from its list is deleted again. */
static noinline void badread_list(struct card *card)
{
	struct item *item = card->item;

	item->entry.next->prev = item->entry.prev;
}

/* A global is NULL. */
static struct card *other_card;
static noinline int badread_global(void)
{
	return READ_ONCE(other_card)->num_rings;
}

static void badread_set_up(struct card *card)
{
	INIT_LIST_HEAD(&card->items);
	strscpy(card->name, "card0", sizeof(card->name));
	card->num_rings = RINGS;
	card->ops = &ops;
	card->parent = kzalloc(sizeof(*card), GFP_KERNEL);
	card->item = kzalloc(sizeof(*card->item), GFP_KERNEL);
	list_add(&card->item->entry, &card->items);
}

static int badread(const char *how)
{
	if (!strcmp(how, "element")) {
		return badread_element(card);
	} else if (!strcmp(how, "chain")) {
		badread_chain(card);
	} else if (!strcmp(how, "call")) {
		return badread_call(card);
	} else if (!strcmp(how, "freed")) {
		card->item->ring = (struct ring *)0x7461747369676e69;
		kfree(card->item);
		return badread_freed(card);
	} else if (!strcmp(how, "error")) {
		card->rings[3] = ERR_PTR(-ENODEV);
		return badread_error(card);
	} else if (!strcmp(how, "list")) {
		list_del(&card->item->entry);
		badread_list(card);
	} else if (!strcmp(how, "global")) {
		return badread_global();
	} else if (*how) {
		return -EINVAL;
	}
	return 0;
}

static ssize_t badread_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char how[16] = "";
	int error;

	if (size >= sizeof(how) || copy_from_user(how, from, size))
		return -EFAULT;
	error = badread(strim(how));
	return error < 0 ? error : size;
}

static const struct proc_ops badread_ops = {
	.proc_write = badread_write,
};

static int __init badread_init(void)
{
	card = kzalloc(sizeof(*card), GFP_KERNEL);
	if (!card)
		return -ENOMEM;
	badread_set_up(card);
	return proc_create("badread", 0200, NULL, &badread_ops) ? 0 : -ENOMEM;
}

static void __exit badread_exit(void)
{
	remove_proc_entry("badread", NULL);
}

module_init(badread_init);
module_exit(badread_exit);
MODULE_DESCRIPTION("Follows bad pointers on request");
MODULE_LICENSE("GPL");
