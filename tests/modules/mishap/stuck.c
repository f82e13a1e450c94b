// SPDX-License-Identifier: GPL-2.0-only
/* CPUs and tasks that do not go on. */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/irqflags.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/preempt.h>
#include <linux/rcupdate.h>
#include <linux/rwsem.h>
#include <linux/sched.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include "mishap.h"

static DEFINE_SPINLOCK(spinlock);
static DEFINE_MUTEX(mutex);
static DECLARE_COMPLETION(never);

static noinline void mishap_doze_atomic(void)
{
	preempt_disable();
	schedule_timeout_uninterruptible(1);
	preempt_enable();
}

static noinline void mishap_nap_with_lock(void)
{
	spin_lock(&spinlock);
	msleep(10);
	spin_unlock(&spinlock);
}

static noinline void mishap_nap_irqs_off(void)
{
	local_irq_disable();
	might_sleep();
	local_irq_enable();
}

static noinline void mishap_lock_with_lock(void)
{
	spin_lock(&spinlock);
	mutex_lock(&mutex);
	mutex_unlock(&mutex);
	spin_unlock(&spinlock);
}

static void reclaim(struct rcu_head *unused)
{
}

/* RCU stalls only where somebody waits for it. */
static void wait_for_rcu(void)
{
	static struct rcu_head head;

	call_rcu(&head, reclaim);
}

static noinline void mishap_busy(void)
{
	unsigned long end = jiffies + 60 * HZ;

	wait_for_rcu();
	preempt_disable();
	while (time_before(jiffies, end))
		cpu_relax();
	preempt_enable();
}

static noinline void mishap_busy_reader(void)
{
	unsigned long end = jiffies + 60 * HZ;

	wait_for_rcu();
	rcu_read_lock();
	while (time_before(jiffies, end))
		cpu_relax();
	rcu_read_unlock();
}

static noinline void mishap_busy_irqs_off(void)
{
	wait_for_rcu();
	local_irq_disable();
	for (;;)
		cpu_relax();
}

/* The lock is never given back. */
static noinline void mishap_own_lock(void)
{
	spin_lock(&spinlock);
	spin_lock(&spinlock);
}

static noinline void mishap_forever(void)
{
	wait_for_completion(&never);
}

static int mishap_holder(void *unused)
{
	mutex_lock(&mutex);
	wait_for_completion(&never);
	mutex_unlock(&mutex);
	return 0;
}

static noinline void mishap_second_holder(void)
{
	kthread_run(mishap_holder, NULL, "holder");
	msleep(100);
	mutex_lock(&mutex);
	mutex_unlock(&mutex);
}

static void mishap_work(struct work_struct *unused)
{
	mishap_busy();
}
static DECLARE_WORK(work, mishap_work);

static noinline void mishap_busy_work(void)
{
	schedule_work(&work);
	msleep(60000);
}

static void mishap_busy_softirq(struct timer_list *unused)
{
	unsigned long end = jiffies + 60 * HZ;

	while (time_before(jiffies, end))
		cpu_relax();
}
static DEFINE_TIMER(timer, mishap_busy_softirq);

static noinline void mishap_busy_timer(void)
{
	mod_timer(&timer, jiffies + 1);
	msleep(60000);
}

const struct mishap mishap_stuck[] = {
	{"doze-atomic", mishap_doze_atomic},
	{"nap-with-lock", mishap_nap_with_lock},
	{"nap-irqs-off", mishap_nap_irqs_off},
	{"lock-with-lock", mishap_lock_with_lock},
	{"busy", mishap_busy},
	{"busy-reader", mishap_busy_reader},
	{"busy-irqs-off", mishap_busy_irqs_off},
	{"own-lock", mishap_own_lock},
	{"forever", mishap_forever},
	{"second-holder", mishap_second_holder},
	{"busy-work", mishap_busy_work},
	{"busy-timer", mishap_busy_timer},
	{},
};
