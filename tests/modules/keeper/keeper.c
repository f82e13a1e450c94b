// SPDX-License-Identifier: GPL-2.0-only
/*
 * Looks at the network device whose name is written to /proc/keeper. A device
 * that is down it refuses, and keeps its reference to it.
 */
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/proc_fs.h>
#include <linux/rtnetlink.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>

static noinline int keeper_look(struct net_device *dev)
{
	netdevice_tracker *tracker = kzalloc(sizeof(*tracker), GFP_KERNEL);

	if (!tracker)
		return -ENOMEM;
	netdev_hold(dev, tracker, GFP_KERNEL);
	if (!(dev->flags & IFF_UP))
		return -ENETDOWN;
	netdev_put(dev, tracker);
	kfree(tracker);
	return 0;
}

static ssize_t keeper_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char name[IFNAMSIZ] = "";
	struct net_device *dev;
	int error = -ENODEV;

	if (size >= sizeof(name) || copy_from_user(name, from, size))
		return -EFAULT;
	rtnl_lock();
	dev = __dev_get_by_name(&init_net, strim(name));
	if (dev)
		error = keeper_look(dev);
	rtnl_unlock();
	return error ? error : size;
}

static const struct proc_ops keeper_ops = {
	.proc_write = keeper_write,
};

static int __init keeper_init(void)
{
	return proc_create("keeper", 0200, NULL, &keeper_ops) ? 0 : -ENOMEM;
}

static void __exit keeper_exit(void)
{
	remove_proc_entry("keeper", NULL);
}

module_init(keeper_init);
module_exit(keeper_exit);
MODULE_DESCRIPTION("Keeps a reference to a network device");
MODULE_LICENSE("GPL");
