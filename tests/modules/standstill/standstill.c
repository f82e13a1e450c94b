// SPDX-License-Identifier: GPL-2.0-only
/* Stands still on request: what is written to /proc/standstill says how. */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/proc_fs.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/rwsem.h>
#include <linux/semaphore.h>
#include <linux/slab.h>
#include <linux/srcu.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

static DEFINE_MUTEX(lock_a);
static DEFINE_MUTEX(lock_b);
static DEFINE_MUTEX(lock_c);
static DECLARE_RWSEM(sem_rw);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 4, 0)
static DEFINE_SEMAPHORE(sem_counting);
#else
static DEFINE_SEMAPHORE(sem_counting, 1);
#endif
static DECLARE_COMPLETION(a_taken);
static DECLARE_COMPLETION(b_taken);
static DECLARE_COMPLETION(never);
static DECLARE_WAIT_QUEUE_HEAD(nobody_wakes);
static struct workqueue_struct *own_wq;

struct standstill_job {
	char name[16];
	struct work_struct work;
	struct work_struct spinner;
	struct delayed_work later;
	struct timer_list timer;
	struct mutex lock;
};

static struct standstill_job *job;

static int holds_a_wants_b(void *unused)
{
	mutex_lock(&lock_a);
	complete(&a_taken);
	wait_for_completion(&b_taken);
	mutex_lock(&lock_b);
	return 0;
}

static int holds_b_wants_a(void *unused)
{
	mutex_lock(&lock_b);
	complete(&b_taken);
	wait_for_completion(&a_taken);
	mutex_lock(&lock_a);
	return 0;
}

static int waits_for_completion(void *unused)
{
	wait_for_completion(&never);
	return 0;
}

static int waits_in_queue(void *unused)
{
	wait_event(nobody_wakes, false);
	return 0;
}

static int holds_rtnl(void *unused)
{
	rtnl_lock();
	wait_for_completion(&never);
	rtnl_unlock();
	return 0;
}

static int wants_rtnl(void *unused)
{
	rtnl_lock();
	rtnl_unlock();
	return 0;
}

static int reads_sem(void *unused)
{
	down_read(&sem_rw);
	wait_for_completion(&never);
	return 0;
}

static int wants_to_write_sem(void *unused)
{
	down_write(&sem_rw);
	return 0;
}

static int writes_sem(void *unused)
{
	down_write(&sem_rw);
	wait_for_completion(&never);
	return 0;
}

static int wants_to_read_sem(void *unused)
{
	down_read(&sem_rw);
	return 0;
}

static int downs_twice(void *unused)
{
	down(&sem_counting);
	down(&sem_counting);
	return 0;
}

static int locks_twice(void *unused)
{
	mutex_lock(&lock_c);
	mutex_lock(&lock_c);
	return 0;
}

static int locks_page(void *page)
{
	lock_page(page);
	return 0;
}

static int dies_with_lock(void *unused)
{
	mutex_lock(&job->lock);
	return 0;
}

static int wants_job_lock(void *unused)
{
	mutex_lock(&job->lock);
	return 0;
}

static int deaf(void *unused)
{
	wait_for_completion(&never);
	return 0;
}

static int stops_deaf(void *thread)
{
	kthread_stop(thread);
	return 0;
}

static int holds_rcu(void *unused)
{
	rcu_read_lock();
	for (;;)
		cpu_relax();
	return 0;
}

static int waits_for_rcu(void *unused)
{
	synchronize_rcu();
	return 0;
}

static int waits_for_barrier(void *unused)
{
	rcu_barrier();
	return 0;
}

static void stuck_work(struct work_struct *work)
{
	wait_for_completion(&never);
}

static int flushes_work(void *unused)
{
	flush_work(&job->work);
	return 0;
}

static int drains_queue(void *unused)
{
	flush_workqueue(own_wq);
	return 0;
}

static void spinning_work(struct work_struct *work)
{
	for (;;)
		cpu_relax();
}

static int spins(void *unused)
{
	for (;;)
		cpu_relax();
	return 0;
}

static irqreturn_t not_mine(int irq, void *data)
{
	return IRQ_NONE;
}

static void storm(void)
{
	int irq = irq_alloc_desc(-1);
	int i;

	if (irq < 0)
		return;
	irq_set_chip_and_handler(irq, &dummy_irq_chip, handle_simple_irq);
	if (request_irq(irq, not_mine, 0, "standstill", job))
		return;
	/* The kernel gives a line up when nobody has handled 99,900 of 100,000 interrupts. */
	for (i = 0; i < 100000; i++) {
		local_irq_disable();
		generic_handle_irq(irq);
		local_irq_enable();
		if (!(i % 1000))
			cond_resched();
	}
}

static void later_work(struct work_struct *work)
{
}

static void tick(struct timer_list *timer)
{
}

static void start(int (*what)(void *), void *data, const char *name)
{
	struct task_struct *thread = kthread_run(what, data, "%s", name);

	if (!IS_ERR(thread))
		get_task_struct(thread);
	msleep(20);
}

static struct standstill_job *new_job(void)
{
	struct standstill_job *new = kzalloc(sizeof(*new), GFP_KERNEL);

	if (!new)
		return NULL;
	INIT_WORK(&new->work, stuck_work);
	INIT_WORK(&new->spinner, spinning_work);
	INIT_DELAYED_WORK(&new->later, later_work);
	timer_setup(&new->timer, tick, 0);
	mutex_init(&new->lock);
	return new;
}

static void waits(const char *how)
{
	struct task_struct *thread;
	struct page *page;

	if (!strcmp(how, "abba")) {
		start(holds_a_wants_b, NULL, "first");
		start(holds_b_wants_a, NULL, "second");
	} else if (!strcmp(how, "completion")) {
		start(waits_for_completion, NULL, "forgotten");
	} else if (!strcmp(how, "queue")) {
		start(waits_in_queue, NULL, "queued");
	} else if (!strcmp(how, "rtnl")) {
		start(holds_rtnl, NULL, "rtnl-holder");
		start(wants_rtnl, NULL, "rtnl-1");
		start(wants_rtnl, NULL, "rtnl-2");
		start(wants_rtnl, NULL, "rtnl-3");
	} else if (!strcmp(how, "read")) {
		start(reads_sem, NULL, "reader");
		start(wants_to_write_sem, NULL, "writer");
	} else if (!strcmp(how, "write")) {
		start(writes_sem, NULL, "writer");
		start(wants_to_read_sem, NULL, "reader");
	} else if (!strcmp(how, "semaphore")) {
		start(downs_twice, NULL, "downs");
	} else if (!strcmp(how, "dead")) {
		start(dies_with_lock, NULL, "dead-holder");
		start(wants_job_lock, NULL, "bereft");
	} else if (!strcmp(how, "twice")) {
		start(locks_twice, NULL, "narcissus");
	} else if (!strcmp(how, "page")) {
		page = alloc_page(GFP_KERNEL);
		if (!page)
			return;
		lock_page(page);
		start(locks_page, page, "page-locker");
	} else if (!strcmp(how, "stop")) {
		thread = kthread_run(deaf, NULL, "deaf");
		msleep(20);
		start(stops_deaf, thread, "stopper");
	} else if (!strcmp(how, "rcu")) {
		thread = kthread_create(holds_rcu, NULL, "rcu-holder");
		kthread_bind(thread, num_online_cpus() - 1);
		wake_up_process(thread);
		start(waits_for_rcu, NULL, "synchronizer");
		start(waits_for_barrier, NULL, "barrier");
	}
}

static void works(const char *how)
{
	if (!strcmp(how, "flush")) {
		queue_work(own_wq, &job->work);
		msleep(20);
		start(flushes_work, NULL, "flusher");
		start(drains_queue, NULL, "drainer");
	} else if (!strcmp(how, "freed")) {
		mod_delayed_work(own_wq, &job->later, 1000 * HZ);
		mod_timer(&job->timer, jiffies + 1000 * HZ);
		kfree(job);
		job = NULL;
	} else if (!strcmp(how, "later")) {
		mod_delayed_work(own_wq, &job->later, 1000 * HZ);
		mod_timer(&job->timer, jiffies + 1000 * HZ);
	} else if (!strcmp(how, "stall")) {
		queue_work_on(1, system_wq, &job->spinner);
		msleep(20);
		queue_work_on(1, system_wq, &job->work);
	} else if (!strcmp(how, "spin")) {
		start(spins, NULL, "spinner");
	} else if (!strcmp(how, "storm")) {
		storm();
	} else if (!strcmp(how, "soon")) {
		mod_timer(&job->timer, jiffies + HZ / 2);
	}
}

static ssize_t standstill_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char how[16] = "";

	if (size >= sizeof(how) || copy_from_user(how, from, size))
		return -EFAULT;
	waits(strim(how));
	works(strim(how));
	return size;
}

static const struct proc_ops standstill_ops = {
	.proc_write = standstill_write,
};

static int __init standstill_init(void)
{
	own_wq = alloc_workqueue("standstill", 0, 1);
	job = new_job();
	if (!own_wq || !job)
		return -ENOMEM;
	return proc_create("standstill", 0200, NULL, &standstill_ops) ? 0 : -ENOMEM;
}

static void __exit standstill_exit(void)
{
	/* The timer of "later" and "soon" is left behind on purpose: its code is gone when it comes. */
	remove_proc_entry("standstill", NULL);
}

module_init(standstill_init);
module_exit(standstill_exit);
MODULE_DESCRIPTION("Stands still on request");
MODULE_LICENSE("GPL");
