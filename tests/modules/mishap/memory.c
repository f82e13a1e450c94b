// SPDX-License-Identifier: GPL-2.0-only
/* Memory used as it should not be. */
#include <linux/delay.h>
#include <linux/gfp.h>
#include <linux/kfence.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>
#include "mishap.h"

#define SIZE 64
#define ORDER 5 /* smaller pages are checked late, or never */

struct thing {
	struct rcu_head rcu;
	struct work_struct work;
	char text[SIZE];
};

static void *volatile kept;
static volatile size_t beyond = SIZE;

static noinline void mishap_add_linked(void)
{
	LIST_HEAD(head);
	LIST_HEAD(other);
	struct list_head entry;

	list_add(&entry, &head);
	head.next = &other;
	list_add(&entry, &head);
}

static noinline void mishap_unlink_twice(void)
{
	LIST_HEAD(head);
	struct list_head entry;

	list_add(&entry, &head);
	list_del(&entry);
	list_del(&entry);
}

static noinline void mishap_double_free(void)
{
	void *object = kmalloc(SIZE, GFP_KERNEL);

	kfree(object);
	kfree(object);
}

static noinline void mishap_invalid_free(void)
{
	char *object = kmalloc(SIZE, GFP_KERNEL);

	kfree(object + 8);
}

static noinline char *mishap_allocate(void)
{
	return kmalloc(SIZE, GFP_ATOMIC);
}

static noinline void mishap_release(void *object)
{
	kfree(object);
}

static noinline void mishap_read_freed(void)
{
	char *object = mishap_allocate();

	mishap_release(object);
	pr_info("%d\n", READ_ONCE(object[8]));
}

static noinline void mishap_write_freed(void)
{
	char *object = mishap_allocate();

	mishap_release(object);
	WRITE_ONCE(object[8], 1);
}

static noinline void mishap_read_beyond(void)
{
	char *object = mishap_allocate();

	pr_info("%d\n", READ_ONCE(object[beyond + 4]));
	mishap_release(object);
}

static noinline void mishap_write_beyond(void)
{
	char *object = mishap_allocate();

	WRITE_ONCE(object[beyond], 1);
	mishap_release(object);
}

static noinline void mishap_stack_beyond(void)
{
	char frame[SIZE] = "";
	char *volatile p = frame;

	pr_info("%d\n", READ_ONCE(p[beyond]));
}

static char global[SIZE] = "global";

static noinline void mishap_global_beyond(void)
{
	pr_info("%d\n", READ_ONCE(*(global + beyond)));
}

static noinline void mishap_beyond_pages(void)
{
	char *object = vmalloc(PAGE_SIZE - 8);

	pr_info("%d\n", READ_ONCE(object[PAGE_SIZE - 8 + beyond - SIZE]));
	vfree(object);
}

static void mishap_reclaim(struct rcu_head *head)
{
	kfree(container_of(head, struct thing, rcu));
}

static noinline void mishap_read_freed_by_rcu(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	call_rcu(&thing->rcu, mishap_reclaim);
	rcu_barrier();
	pr_info("%d\n", READ_ONCE(thing->text[0]));
}

static noinline void mishap_copy_freed(void)
{
	char *object = mishap_allocate(), *to = kmalloc(SIZE, GFP_KERNEL);

	mishap_release(object);
	memcpy(to, object, beyond);
	kfree(to);
}

/* One allocation in some thousand is KFENCE's: take the first that is. */
static noinline char *mishap_guarded(void)
{
	unsigned long end = jiffies + 20 * HZ;
	char *object;

	while (time_before(jiffies, end)) {
		object = mishap_allocate();
		if (is_kfence_address(object))
			return object;
		kfree(object);
		cond_resched();
	}
	return NULL;
}

static noinline void mishap_guarded_read(void)
{
	char *object = mishap_guarded();

	if (!object)
		return;
	mishap_release(object);
	pr_info("%d\n", READ_ONCE(object[8]));
}

/* An object is at one end of its page, by chance. */
static noinline void mishap_guarded_beyond(void)
{
	char *object = mishap_guarded();

	if (!object)
		return;
	if (offset_in_page(object))
		WRITE_ONCE(object[beyond], 1);
	else
		WRITE_ONCE(object[-1], 1);
}

static noinline void mishap_guarded_margin(void)
{
	char *object = mishap_guarded();

	if (!object)
		return;
	if (offset_in_page(object))
		WRITE_ONCE(object[-1], 1);
	else
		WRITE_ONCE(object[beyond], 1);
	mishap_release(object);
}

static noinline void mishap_guarded_free(void)
{
	char *object = mishap_guarded();

	if (!object)
		return;
	mishap_release(object);
	mishap_release(object);
}

static noinline void mishap_mapped_page(void)
{
	struct page *page = alloc_pages(GFP_KERNEL, ORDER);

	page->mapping = (struct address_space *)0x1000;
	__free_pages(page, ORDER);
}

static noinline void mishap_unmap_twice(void)
{
	char *object = vmalloc(3 * PAGE_SIZE);

	vfree(object);
	vfree(object);
}

static noinline void mishap_too_large(void)
{
	kfree(kmalloc(KMALLOC_MAX_SIZE << 1, GFP_KERNEL));
}

static noinline void mishap_copy_too_much(void)
{
	char *object = mishap_allocate();
	unsigned long address = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
					MAP_ANONYMOUS | MAP_PRIVATE, 0);

	if (copy_to_user((void __user *)address, object, 2 * beyond))
		pr_info("not copied\n");
	mishap_release(object);
}

static noinline void mishap_overflow(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	strscpy(thing->text, "a text", sizeof(thing->text));
	memset(thing->text, 0, beyond + 1);
	kfree(thing);
}

static void mishap_construct(void *object)
{
	memset(object, 0, SIZE);
}

static noinline void mishap_cache_not_empty(void)
{
	struct kmem_cache *cache = kmem_cache_create("mishap", SIZE, 0, 0, mishap_construct);

	kept = kmem_cache_alloc(cache, GFP_KERNEL);
	kmem_cache_destroy(cache);
}

static noinline void mishap_leak(void)
{
	int i;

	for (i = 0; i < 4; i++)
		kept = kzalloc(sizeof(struct thing), GFP_KERNEL);
	kept = NULL;
}

const struct mishap mishap_memory[] = {
	{"add-linked", mishap_add_linked},
	{"unlink-twice", mishap_unlink_twice},
	{"double-free", mishap_double_free},
	{"invalid-free", mishap_invalid_free},
	{"read-freed", mishap_read_freed},
	{"write-freed", mishap_write_freed},
	{"read-beyond", mishap_read_beyond},
	{"write-beyond", mishap_write_beyond},
	{"stack-beyond", mishap_stack_beyond},
	{"global-beyond", mishap_global_beyond},
	{"beyond-pages", mishap_beyond_pages},
	{"read-freed-by-rcu", mishap_read_freed_by_rcu},
	{"copy-freed", mishap_copy_freed},
	{"guarded-read", mishap_guarded_read},
	{"guarded-beyond", mishap_guarded_beyond},
	{"guarded-margin", mishap_guarded_margin},
	{"guarded-free", mishap_guarded_free},
	{"mapped-page", mishap_mapped_page},
	{"unmap-twice", mishap_unmap_twice},
	{"too-large", mishap_too_large},
	{"copy-too-much", mishap_copy_too_much},
	{"overflow", mishap_overflow},
	{"cache-not-empty", mishap_cache_not_empty},
	{"leak", mishap_leak},
	{},
};
