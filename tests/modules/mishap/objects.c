// SPDX-License-Identifier: GPL-2.0-only
/* Timers, works and /proc entries that are not treated as they should be. */
#include <linux/dcache.h>
#include <linux/fs.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/workqueue.h>
#include "mishap.h"

struct thing {
	struct timer_list timer;
	struct work_struct work;
	struct rcu_head rcu;
};

static void mishap_timer(struct timer_list *unused)
{
}

static void mishap_rcu(struct rcu_head *unused)
{
}

static noinline void mishap_free_active_timer(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	timer_setup(&thing->timer, mishap_timer, 0);
	mod_timer(&thing->timer, jiffies + 1000 * HZ);
	kfree(thing);
}

static noinline void mishap_arm_unset(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	mod_timer(&thing->timer, jiffies + 1000 * HZ);
}

static noinline void mishap_work_not_set_up(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	schedule_work(&thing->work);
	flush_work(&thing->work);
}

static noinline void mishap_reclaim_twice(void)
{
	struct thing *thing = kzalloc(sizeof(*thing), GFP_KERNEL);

	preempt_disable();
	call_rcu(&thing->rcu, mishap_rcu);
	call_rcu(&thing->rcu, mishap_rcu);
	preempt_enable();
}

static const struct proc_ops ops;

static noinline void mishap_registered_twice(void)
{
	proc_create("mishap-twice", 0400, NULL, &ops);
	proc_create("mishap-twice", 0400, NULL, &ops);
}

static noinline void mishap_not_registered(void)
{
	remove_proc_entry("mishap-gone", NULL);
}

static noinline void mishap_dentry_in_use(void)
{
	struct path path;

	if (kern_path("/mnt/file", 0, &path))
		return;
	dget(path.dentry);
	path_put(&path);
}

static noinline void mishap_inode_in_use(void)
{
	struct path path;

	if (kern_path("/mnt/file", 0, &path))
		return;
	ihold(d_inode(path.dentry));
	path_put(&path);
}

const struct mishap mishap_objects[] = {
	{"free-active-timer", mishap_free_active_timer},
	{"arm-unset", mishap_arm_unset},
	{"work-not-set-up", mishap_work_not_set_up},
	{"reclaim-twice", mishap_reclaim_twice},
	{"registered-twice", mishap_registered_twice},
	{"not-registered", mishap_not_registered},
	{"dentry-in-use", mishap_dentry_in_use},
	{"inode-in-use", mishap_inode_in_use},
	{},
};
