// SPDX-License-Identifier: GPL-2.0-only
/* Locks taken or given back as they should not be; most of it only lockdep sees. */
#include <linux/bottom_half.h>
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/percpu.h>
#include <linux/rculist.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/spinlock.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#include "mishap.h"

static DEFINE_MUTEX(first);
static DEFINE_MUTEX(second);
static DEFINE_SPINLOCK(spinlock);
static DEFINE_PER_CPU(int, counter);
static LIST_HEAD(list);
static int __rcu *pointer;

static noinline void mishap_first_second(void)
{
	mutex_lock(&first);
	mutex_lock(&second);
	mutex_unlock(&second);
	mutex_unlock(&first);
}

static noinline void mishap_abba(void)
{
	mishap_first_second();
	mutex_lock(&second);
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&second);
}

struct thing {
	spinlock_t lock;
	struct mutex mutex;
};

static void set_up(struct thing *thing)
{
	spin_lock_init(&thing->lock);
	mutex_init(&thing->mutex);
}

static noinline void mishap_same_class(void)
{
	static struct thing one, two;

	set_up(&one);
	set_up(&two);
	mutex_lock(&one.mutex);
	mutex_lock(&two.mutex);
	mutex_unlock(&two.mutex);
	mutex_unlock(&one.mutex);
}

static void mishap_timer(struct timer_list *unused)
{
	spin_lock(&spinlock);
	spin_unlock(&spinlock);
}
static DEFINE_TIMER(timer, mishap_timer);

static noinline void mishap_softirq_unsafe(void)
{
	mod_timer(&timer, jiffies + 1);
	msleep(50);
	spin_lock(&spinlock);
	spin_unlock(&spinlock);
}

static noinline void mishap_unlocked_twice(void)
{
	mutex_lock(&first);
	mutex_unlock(&first);
	mutex_unlock(&first);
}

static noinline void mishap_free_held(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	set_up(thing);
	mutex_lock(&thing->mutex);
	kfree(thing);
}

static noinline void mishap_keep_lock(void)
{
	mutex_lock(&first);
}

static noinline void mishap_no_key(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	spin_lock(&thing->lock);
	spin_unlock(&thing->lock);
}

static noinline void mishap_follow_unprotected(void)
{
	pr_info("%p\n", rcu_dereference(pointer));
}

static noinline void mishap_walk_unprotected(void)
{
	struct list_head *entry;

	list_for_each_rcu(entry, &list)
		pr_info("%p\n", entry);
	RCU_LOCKDEP_WARN(!rcu_read_lock_held(), "mishap needs rcu_read_lock()");
}

static noinline void mishap_nap_in_rcu(void)
{
	rcu_read_lock();
	might_sleep();
	rcu_read_unlock();
}

static noinline void mishap_which_cpu(void)
{
	pr_info("on CPU %d\n", smp_processor_id());
}

static noinline void mishap_bump_counter(void)
{
	__this_cpu_add(counter, 1);
}

static noinline void mishap_read_counter(void)
{
	pr_info("%d\n", __this_cpu_read(counter));
}

static void mishap_leaves_lock(struct work_struct *unused)
{
	mutex_lock(&first);
}
static DECLARE_WORK(work, mishap_leaves_lock);

static noinline void mishap_work_leaves_lock(void)
{
	schedule_work(&work);
	msleep(50);
}

static noinline void mishap_bad_magic(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	set_up(thing);
#ifdef CONFIG_DEBUG_SPINLOCK
	thing->lock.rlock.magic = 0;
#endif
	spin_lock(&thing->lock);
	spin_unlock(&thing->lock);
}

static noinline void mishap_give_back_twice(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	set_up(thing);
	spin_lock(&thing->lock);
	spin_unlock(&thing->lock);
	preempt_disable();
	spin_unlock(&thing->lock);
}

const struct mishap mishap_locks[] = {
	{"abba", mishap_abba},
	{"same-class", mishap_same_class},
	{"softirq-unsafe", mishap_softirq_unsafe},
	{"unlocked-twice", mishap_unlocked_twice},
	{"free-held", mishap_free_held},
	{"keep-lock", mishap_keep_lock},
	{"no-key", mishap_no_key},
	{"follow-unprotected", mishap_follow_unprotected},
	{"walk-unprotected", mishap_walk_unprotected},
	{"nap-in-rcu", mishap_nap_in_rcu},
	{"which-cpu", mishap_which_cpu},
	{"bump-counter", mishap_bump_counter},
	{"read-counter", mishap_read_counter},
	{"work-leaves-lock", mishap_work_leaves_lock},
	{"bad-magic", mishap_bad_magic},
	{"give-back-twice", mishap_give_back_twice},
	{},
};
