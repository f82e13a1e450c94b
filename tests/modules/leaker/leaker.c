// SPDX-License-Identifier: GPL-2.0-only
/* Loses a reference on request: "WHAT [NAME]", written to /proc/leaker. */
#include <linux/delay.h>
#include <linux/etherdevice.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/namei.h>
#include <linux/net.h>
#include <linux/netdevice.h>
#include <linux/proc_fs.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <net/net_namespace.h>
#include <net/sock.h>

static unsigned int init_seconds, exit_seconds;
module_param(init_seconds, uint, 0);
module_param(exit_seconds, uint, 0);

static struct timer_list left_armed;
static struct net_device *unregistered;
static struct work_struct unregistering;

static void leaker_expired(struct timer_list *timer)
{
}

static netdev_tx_t leaker_xmit(struct sk_buff *skb, struct net_device *dev)
{
	dev_kfree_skb(skb);
	return NETDEV_TX_OK;
}

static const struct net_device_ops leaker_netdev_ops = {
	.ndo_start_xmit = leaker_xmit,
};

static void leaker_setup(struct net_device *dev)
{
	ether_setup(dev);
	eth_hw_addr_random(dev);
	dev->netdev_ops = &leaker_netdev_ops;
}

/* Opened, and never closed. */
static int leak_file(const char *path)
{
	return PTR_ERR_OR_ZERO(filp_open(path, O_RDONLY, 0));
}

/* A second reference to a file that is open: its last close does not free it. */
static int leak_fd(const char *number)
{
	unsigned int fd;

	return kstrtouint(number, 10, &fd) ?: fget(fd) ? 0 : -EBADF;
}

/* Held, and never put. */
static int leak_netdev(const char *name)
{
	return dev_get_by_name(&init_net, name) ? 0 : -ENODEV;
}

/* Allocated, and neither registered nor freed. */
static int leak_alloc(const char *name)
{
	return alloc_netdev(0, name, NET_NAME_UNKNOWN, leaker_setup) ? 0 : -ENOMEM;
}

static void leaker_unregister(struct work_struct *work)
{
	unregister_netdev(unregistered);
}

/* Held while it is removed: the removal waits for ever. */
static int leak_unregister(const char *name)
{
	int error;

	unregistered = alloc_netdev(0, name, NET_NAME_UNKNOWN, leaker_setup);
	if (!unregistered)
		return -ENOMEM;
	error = register_netdev(unregistered);
	if (error)
		return error;
	dev_hold(unregistered);
	schedule_work(&unregistering);
	return 0;
}

/* The socket is released, its sock is still held. */
static int leak_sock(const char *name)
{
	struct socket *sock;
	int error = sock_create_kern(&init_net, AF_INET, SOCK_DGRAM, 0, &sock);

	if (error)
		return error;
	sock_hold(sock->sk);
	sock_release(sock);
	return 0;
}

/* Out of sysfs, and still held. */
static int leak_kobject(const char *name)
{
	struct kobject *kobj = kobject_create_and_add(name, kernel_kobj);

	if (!kobj)
		return -ENOMEM;
	kobject_get(kobj);
	kobject_del(kobj);
	kobject_put(kobj);
	return 0;
}

/* A path, that is a mount and a dentry. */
static int leak_path(const char *name)
{
	struct path path;

	return kern_path(name, 0, &path);
}

static int leak_module(const char *name)
{
	__module_get(THIS_MODULE);
	return 0;
}

/* One that nobody had. */
static int leak_put(const char *name)
{
	atomic_dec(&THIS_MODULE->refcnt);
	return 0;
}

/* Armed, and left so when the module is unloaded. */
static int leak_timer(const char *name)
{
	mod_timer(&left_armed, jiffies + 3600 * HZ);
	return 0;
}

static const struct {
	const char *what;
	int (*leak)(const char *name);
} leaks[] = {
	{"file", leak_file},	   {"fd", leak_fd},	       {"netdev", leak_netdev}, {"alloc", leak_alloc},
	{"unregister", leak_unregister}, {"sock", leak_sock}, {"kobject", leak_kobject}, {"path", leak_path},
	{"module", leak_module},   {"put", leak_put},	       {"timer", leak_timer},
};

static ssize_t leaker_write(struct file *file, const char __user *from, size_t size, loff_t *pos)
{
	char line[64] = "", *name = line, *what;
	int error;

	if (size >= sizeof(line) || copy_from_user(line, from, size))
		return -EFAULT;
	strim(line);
	what = strsep(&name, " ");
	for (size_t i = 0; i < ARRAY_SIZE(leaks); i++) {
		if (strcmp(what, leaks[i].what))
			continue;
		error = leaks[i].leak(name ?: "leaker");
		return error ? error : size;
	}
	return -EINVAL;
}

static const struct proc_ops leaker_ops = {
	.proc_write = leaker_write,
};

static int __init leaker_init(void)
{
	timer_setup(&left_armed, leaker_expired, 0);
	INIT_WORK(&unregistering, leaker_unregister);
	msleep(init_seconds * 1000);
	return proc_create("leaker", 0200, NULL, &leaker_ops) ? 0 : -ENOMEM;
}

static void __exit leaker_exit(void)
{
	msleep(exit_seconds * 1000);
	remove_proc_entry("leaker", NULL);
}

module_init(leaker_init);
module_exit(leaker_exit);
MODULE_DESCRIPTION("Loses references on request");
MODULE_LICENSE("GPL");
