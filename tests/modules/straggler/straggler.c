// SPDX-License-Identifier: GPL-2.0-only
/*
 * Leaves something behind when it is unloaded: exit() says what, and then waits for ever (wedge=1) or goes.
 * Each is in the order that goes wrong, so that nothing depends on luck.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/workqueue.h>

static char *leave = "";
module_param(leave, charp, 0);

static bool wedge;
module_param(wedge, bool, 0);

static bool large;
module_param(large, bool, 0);
MODULE_PARM_DESC(large, "the object is too large for a slab");

static int later = 1000;
module_param(later, int, 0);
MODULE_PARM_DESC(later, "milliseconds until what is left behind comes");

struct straggler {
	char name[24];
	struct timer_list watchdog;
	struct work_struct refill_wk;
	struct delayed_work poll_dw;
	struct hrtimer sampler;
	u64 count;
	u64 *samples;
};

static struct straggler *straggler;
static DECLARE_COMPLETION(never);
static DECLARE_COMPLETION(thread_in);
static int irq = -1;

static void straggler_static(struct work_struct *work)
{
	wait_for_completion(&never);
}
static DECLARE_WORK(straggler_static_wk, straggler_static);

/* The work arms the timer that queues the work: whichever is stopped first is started by the other. */
static void straggler_refill(struct work_struct *work)
{
	struct straggler *s = container_of(work, struct straggler, refill_wk);

	mod_timer(&s->watchdog, jiffies + msecs_to_jiffies(later));
}

static void straggler_watchdog(struct timer_list *timer)
{
	struct straggler *s = container_of(timer, struct straggler, watchdog);

	*s->samples = s->count++;
	schedule_work(&s->refill_wk);
}

static void straggler_poll(struct work_struct *work)
{
	struct straggler *s = container_of(to_delayed_work(work), struct straggler, poll_dw);

	schedule_delayed_work(&s->poll_dw, msecs_to_jiffies(later));
}

static enum hrtimer_restart straggler_sample(struct hrtimer *timer)
{
	return HRTIMER_NORESTART;
}

static irqreturn_t straggler_hard(int number, void *data)
{
	return IRQ_WAKE_THREAD;
}

static irqreturn_t straggler_thread(int number, void *data)
{
	complete(&thread_in);
	wait_for_completion(&never);
	return IRQ_HANDLED;
}

static int straggler_irq(void)
{
	int error;

	/* No owner: a descriptor of this module's would keep it from being unloaded. */
	irq = __irq_alloc_descs(-1, 0, 1, NUMA_NO_NODE, NULL, NULL);
	if (irq < 0)
		return irq;
	irq_set_chip_and_handler(irq, &dummy_irq_chip, handle_simple_irq);
	error = request_threaded_irq(irq, straggler_hard, straggler_thread, IRQF_ONESHOT, "straggler", straggler);
	if (error)
		return error;
	local_irq_disable();
	generic_handle_irq(irq);
	local_irq_enable();
	wait_for_completion(&thread_in);
	return 0;
}

static int __init straggler_init(void)
{
	straggler = kzalloc(large ? SZ_64K : sizeof(*straggler), GFP_KERNEL);
	if (!straggler)
		return -ENOMEM;
	straggler->samples = kzalloc(sizeof(*straggler->samples), GFP_KERNEL);
	timer_setup(&straggler->watchdog, straggler_watchdog, 0);
	INIT_WORK(&straggler->refill_wk, straggler_refill);
	INIT_DELAYED_WORK(&straggler->poll_dw, straggler_poll);
	hrtimer_init(&straggler->sampler, CLOCK_MONOTONIC, HRTIMER_MODE_REL);
	straggler->sampler.function = straggler_sample;
	schedule_work(&straggler->refill_wk);
	schedule_delayed_work(&straggler->poll_dw, msecs_to_jiffies(later));
	return strcmp(leave, "thread") ? 0 : straggler_irq();
}

static noinline void straggler_stop(struct straggler *s)
{
	cancel_work_sync(&s->refill_wk);
	del_timer_sync(&s->watchdog);
	cancel_delayed_work_sync(&s->poll_dw);
}

static void straggler_free(struct straggler *s)
{
	kfree(s->samples);
	s->samples = NULL;
	kfree(s);
}

static void __exit straggler_exit(void)
{
	struct straggler *s = straggler;

	if (!strcmp(leave, "late")) {
		straggler_stop(s);
		schedule_delayed_work(&s->poll_dw, msecs_to_jiffies(later));
		wait_for_completion(&never);
	}
	if (!strcmp(leave, "thread"))
		free_irq(irq, s);
	if (!strcmp(leave, "static"))
		schedule_work(&straggler_static_wk);
	if (!strcmp(leave, "timer")) {
		del_timer_sync(&s->watchdog);
		schedule_work(&s->refill_wk); /* a refill that was asked for just before */
		flush_work(&s->refill_wk);
		cancel_delayed_work_sync(&s->poll_dw);
	} else if (!strcmp(leave, "delayed")) {
		cancel_work_sync(&s->refill_wk);
		del_timer_sync(&s->watchdog);
		cancel_delayed_work(&s->poll_dw);
		schedule_delayed_work(&s->poll_dw, msecs_to_jiffies(later)); /* and one that was late */
	} else if (!strcmp(leave, "hrtimer")) {
		hrtimer_start(&s->sampler, ms_to_ktime(later), HRTIMER_MODE_REL);
	}
	if (strcmp(leave, "timer") && strcmp(leave, "delayed"))
		straggler_stop(s);
	straggler_free(s);
	if (wedge)
		wait_for_completion(&never);
}

module_init(straggler_init);
module_exit(straggler_exit);
MODULE_DESCRIPTION("Leaves something behind");
MODULE_LICENSE("GPL");
