// SPDX-License-Identifier: GPL-2.0-only
/*
 * Crashes on request. What is written to /proc/mishap is the name of a crash
 * and, where it is not to happen in the writing task, where: "softirq",
 * "hardirq", "nmi", "work", or "all" for a thread on each CPU at once.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/workqueue.h>
#include <asm/apic.h>
#include <asm/nmi.h>
#include "mishap.h"

#define WAIT (10 * HZ)

static void (*happen)(void);
static struct timer_list timer;
static struct hrtimer hrtimer;
static DECLARE_COMPLETION(happened);
static atomic_t ready;

static void mishap_softirq(struct timer_list *unused)
{
	happen();
	complete(&happened);
}

static enum hrtimer_restart mishap_hardirq(struct hrtimer *unused)
{
	happen();
	complete(&happened);
	return HRTIMER_NORESTART;
}

static int mishap_nmi(unsigned int type, struct pt_regs *regs)
{
	happen();
	return NMI_HANDLED;
}

static void mishap_work(struct work_struct *unused)
{
	happen();
	complete(&happened);
}
static DECLARE_WORK(work, mishap_work);

static int mishap_thread(void *unused)
{
	atomic_dec(&ready);
	while (atomic_read(&ready) > 0)
		cpu_relax();
	happen();
	complete(&happened);
	return 0;
}

static void everywhere(void)
{
	struct task_struct *task;
	int cpu;

	atomic_set(&ready, num_online_cpus());
	for_each_online_cpu(cpu) {
		task = kthread_create_on_cpu(mishap_thread, NULL, cpu, "mishap/%u");
		if (!IS_ERR(task))
			wake_up_process(task);
	}
	for_each_online_cpu(cpu)
		wait_for_completion_timeout(&happened, WAIT);
}

static int elsewhere(const char *where)
{
	if (!strcmp(where, "softirq")) {
		timer_setup(&timer, mishap_softirq, 0);
		mod_timer(&timer, jiffies + 1);
	} else if (!strcmp(where, "hardirq")) {
		hrtimer_init(&hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_HARD);
		hrtimer.function = mishap_hardirq;
		hrtimer_start(&hrtimer, ms_to_ktime(1), HRTIMER_MODE_REL_HARD);
	} else if (!strcmp(where, "nmi")) {
		register_nmi_handler(NMI_LOCAL, mishap_nmi, 0, "mishap");
		apic->send_IPI(raw_smp_processor_id(), NMI_VECTOR);
		mdelay(10);
		unregister_nmi_handler(NMI_LOCAL, "mishap");
		return 0;
	} else if (!strcmp(where, "work")) {
		schedule_work(&work);
	} else if (!strcmp(where, "all")) {
		everywhere();
		return 0;
	} else {
		return -EINVAL;
	}
	wait_for_completion_timeout(&happened, WAIT);
	return 0;
}

static const struct mishap *find(const char *name)
{
	const struct mishap *const lists[] = {mishap_counts, mishap_faults,  mishap_locks,
					      mishap_memory, mishap_objects, mishap_stuck};
	const struct mishap *one;
	int i;

	for (i = 0; i < ARRAY_SIZE(lists); i++)
		for (one = lists[i]; one->name; one++)
			if (!strcmp(one->name, name))
				return one;
	return NULL;
}

static ssize_t mishap_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char text[64] = "", *where = text, *name;
	const struct mishap *one;
	int error;

	if (size >= sizeof(text) || copy_from_user(text, from, size))
		return -EFAULT;
	where = strim(text);
	name = strsep(&where, " ");
	one = find(name);
	if (!one)
		return -EINVAL;
	happen = one->happen;
	if (where) {
		error = elsewhere(where);
		return error ? error : size;
	}
	happen();
	return size;
}

static const struct proc_ops mishap_ops = {
	.proc_write = mishap_write,
	.proc_flags = PROC_ENTRY_PERMANENT,
};

static int __init mishap_init(void)
{
	return proc_create("mishap", 0200, NULL, &mishap_ops) ? 0 : -ENOMEM;
}

static void __exit mishap_exit(void)
{
	remove_proc_entry("mishap", NULL);
}

module_init(mishap_init);
module_exit(mishap_exit);
MODULE_DESCRIPTION("Crashes on request");
MODULE_LICENSE("GPL");
