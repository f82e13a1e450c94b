// SPDX-License-Identifier: GPL-2.0-only
/*
 * A network driver without a card, with a bug that real ones have had: remove() cancels the reset work
 * while the interrupt that queues it can still come. A timer stands for the interrupt.
 *
 * In which order things happen is fixed, not left to chance: with late_irq=1 the interrupt comes once more
 * while unregister_netdev() stops the device. The reset work then waits for the rtnl, gets it when the
 * device is torn down, and works on queues that are gone.
 */
#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/platform_device.h>
#include <linux/rcupdate.h>
#include <linux/rtnetlink.h>
#include <linux/sched.h>
#include <linux/timer.h>
#include <linux/version.h>
#include <linux/workqueue.h>

#define RESETNIC_QUEUES 8
#define RESETNIC_ISR_FATAL 0x1

static bool late_irq;
module_param(late_irq, bool, 0);
MODULE_PARM_DESC(late_irq, "a fatal interrupt comes while the device is being removed, after the works were cancelled");

static bool linger;
module_param(linger, bool, 0);
MODULE_PARM_DESC(linger, "the reset waits for a card that never answers, holding the rtnl");

static bool leak;
module_param(leak, bool, 0);
MODULE_PARM_DESC(leak, "a reference to the device is never put");

struct resetnic_queue {
	u32 index;
	u32 pending;
	struct napi_struct napi;
	u64 head;
};

struct resetnic_priv {
	struct net_device *dev;
	struct list_head list;
	struct platform_device *pdev;
	u32 isr;
	struct resetnic_queue *queues[RESETNIC_QUEUES];
	int num_queues;
	spinlock_t lock;
	struct work_struct link_check_wk;
	struct work_struct reset_wk;
	struct timer_list irq;
	struct completion irq_seen;
	struct completion card_up;
	struct rcu_head rcu;
};

static struct platform_device *resetnic_pdev;
static struct workqueue_struct *resetnic_wq; /* of high priority: a reset that waits for the rtnl gets it */
static LIST_HEAD(resetnic_devices); /* under the rtnl */

static noinline void resetnic_init_rings(struct resetnic_priv *priv)
{
	struct resetnic_queue *queue;
	int i;

	for (i = 0; i < priv->num_queues; i++) {
		queue = priv->queues[i];
		queue->head = 0;
		queue->pending = 0;
	}
}

static noinline void resetnic_activate(struct resetnic_priv *priv)
{
	resetnic_init_rings(priv);
	netif_carrier_on(priv->dev);
}

static noinline void resetnic_halt(struct resetnic_priv *priv)
{
	int i;

	netif_carrier_off(priv->dev);
	/* The card's DMA comes to rest, and remove() gets as far as it can: it comes before this worker. */
	set_user_nice(current, MAX_NICE);
	for (i = 0; i < 50; i++) {
		mdelay(1);
		cond_resched();
	}
}

static void resetnic_rings_seen(struct rcu_head *rcu)
{
}

static void resetnic_reset(struct work_struct *work)
{
	struct resetnic_priv *priv = container_of(work, struct resetnic_priv, reset_wk);

	rtnl_lock();
	if (linger)
		wait_for_completion(&priv->card_up);
	/* A barrier that is begun from now on waits for this callback, and that for this reader. */
	rcu_read_lock();
	call_rcu(&priv->rcu, resetnic_rings_seen);
	resetnic_halt(priv);
	resetnic_activate(priv);
	rcu_read_unlock();
	rtnl_unlock();
}

static void resetnic_link_check(struct work_struct *work)
{
	struct resetnic_priv *priv = container_of(work, struct resetnic_priv, link_check_wk);

	netif_carrier_on(priv->dev);
}

static noinline void resetnic_schedule_reset(struct resetnic_priv *priv)
{
	queue_work(resetnic_wq, &priv->reset_wk);
}

static noinline bool resetnic_intr_handle_misc(struct resetnic_priv *priv, u32 isr)
{
	if (isr & RESETNIC_ISR_FATAL) {
		netdev_warn(priv->dev, "fatal interrupt 0x%x, resetting\n", isr);
		resetnic_schedule_reset(priv);
		return true;
	}
	schedule_work(&priv->link_check_wk);
	return false;
}

static void resetnic_intr(struct timer_list *timer)
{
	struct resetnic_priv *priv = from_timer(priv, timer, irq);

	resetnic_intr_handle_misc(priv, priv->isr);
	complete(&priv->irq_seen);
}

static noinline void resetnic_free_queues(struct resetnic_priv *priv)
{
	int i;

	for (i = 0; i < priv->num_queues; i++) {
		kfree(priv->queues[i]);
		priv->queues[i] = NULL;
	}
}

static int resetnic_open(struct net_device *dev)
{
	struct resetnic_priv *priv = netdev_priv(dev);
	int i;

	for (i = 0; i < RESETNIC_QUEUES; i++) {
		priv->queues[i] = kzalloc(sizeof(*priv->queues[i]), GFP_KERNEL);
		if (!priv->queues[i])
			return -ENOMEM;
		priv->queues[i]->index = i;
	}
	priv->num_queues = RESETNIC_QUEUES;
	resetnic_activate(priv);
	mod_timer(&priv->irq, jiffies + 1);
	return 0;
}

static noinline void resetnic_late_interrupt(struct resetnic_priv *priv)
{
	reinit_completion(&priv->irq_seen);
	priv->isr = RESETNIC_ISR_FATAL;
	mod_timer(&priv->irq, jiffies + 1);
	wait_for_completion(&priv->irq_seen);
}

static int resetnic_stop(struct net_device *dev)
{
	struct resetnic_priv *priv = netdev_priv(dev);

	if (late_irq && dev->dismantle)
		resetnic_late_interrupt(priv);
	del_timer_sync(&priv->irq);
	resetnic_free_queues(priv);
	return 0;
}

static netdev_tx_t resetnic_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops resetnic_ops = {
	.ndo_open = resetnic_open,
	.ndo_stop = resetnic_stop,
	.ndo_start_xmit = resetnic_xmit,
	.ndo_set_mac_address = eth_mac_addr,
};

static int resetnic_probe(struct platform_device *pdev)
{
	struct net_device *dev = alloc_etherdev(sizeof(struct resetnic_priv));
	struct resetnic_priv *priv;
	int error;

	if (!dev)
		return -ENOMEM;
	priv = netdev_priv(dev);
	priv->dev = dev;
	priv->pdev = pdev;
	spin_lock_init(&priv->lock);
	INIT_WORK(&priv->link_check_wk, resetnic_link_check);
	INIT_WORK(&priv->reset_wk, resetnic_reset);
	timer_setup(&priv->irq, resetnic_intr, 0);
	init_completion(&priv->irq_seen);
	init_completion(&priv->card_up);
	dev->netdev_ops = &resetnic_ops;
	strscpy(dev->name, "rnic%d", sizeof(dev->name));
	eth_hw_addr_random(dev);
	SET_NETDEV_DEV(dev, &pdev->dev);
	platform_set_drvdata(pdev, dev);
	error = register_netdev(dev);
	if (error) {
		free_netdev(dev);
		return error;
	}
	rtnl_lock();
	list_add(&priv->list, &resetnic_devices);
	if (leak)
		dev_hold(dev);
	rtnl_unlock();
	return 0;
}

/* Returned an int until commit 0edb555a65d1 (Linux 6.11). */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 11, 0)
#define RESETNIC_REMOVED int
#define RESETNIC_DONE 0
#else
#define RESETNIC_REMOVED void
#define RESETNIC_DONE
#endif

static RESETNIC_REMOVED resetnic_remove(struct platform_device *pdev)
{
	struct net_device *dev = platform_get_drvdata(pdev);
	struct resetnic_priv *priv = netdev_priv(dev);

	cancel_work_sync(&priv->link_check_wk);
	cancel_work_sync(&priv->reset_wk);
	unregister_netdev(dev);
	rtnl_lock();
	list_del(&priv->list);
	rtnl_unlock();
	free_netdev(dev);
	return RESETNIC_DONE;
}

static struct platform_driver resetnic_driver = {
	.probe = resetnic_probe,
	.remove = resetnic_remove,
	.driver = { .name = "resetnic" },
};

static int __init resetnic_init(void)
{
	int error;

	resetnic_wq = alloc_workqueue("resetnic", WQ_HIGHPRI, 0);
	if (!resetnic_wq)
		return -ENOMEM;
	error = platform_driver_register(&resetnic_driver);
	if (error) {
		destroy_workqueue(resetnic_wq);
		return error;
	}
	resetnic_pdev = platform_device_register_simple("resetnic", -1, NULL, 0);
	if (IS_ERR(resetnic_pdev)) {
		platform_driver_unregister(&resetnic_driver);
		destroy_workqueue(resetnic_wq);
		return PTR_ERR(resetnic_pdev);
	}
	return 0;
}

static void __exit resetnic_exit(void)
{
	platform_driver_unregister(&resetnic_driver);
	platform_device_unregister(resetnic_pdev);
	destroy_workqueue(resetnic_wq);
}

module_init(resetnic_init);
module_exit(resetnic_exit);
MODULE_DESCRIPTION("A network driver whose reset outlives its removal");
MODULE_LICENSE("GPL");
