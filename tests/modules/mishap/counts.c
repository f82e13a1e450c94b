// SPDX-License-Identifier: GPL-2.0-only
/* Counts that go wrong. */
#include <linux/device.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/netdevice.h>
#include <linux/percpu-refcount.h>
#include <linux/refcount.h>
#include <linux/slab.h>
#include "mishap.h"

static noinline void mishap_underflow(void)
{
	refcount_t count = REFCOUNT_INIT(1);

	if (refcount_dec_and_test(&count) && refcount_dec_and_test(&count))
		pr_info("twice zero\n");
}

static noinline void mishap_saturated(void)
{
	refcount_t count = REFCOUNT_INIT(INT_MAX);

	refcount_inc(&count);
}

static noinline void mishap_addition_on_zero(void)
{
	refcount_t count = REFCOUNT_INIT(0);

	refcount_inc(&count);
}

static noinline void mishap_leaking(void)
{
	refcount_t count = REFCOUNT_INIT(1);

	refcount_dec(&count);
}

/* A loaded module counts itself: the first drop is silent, the second one goes below zero. */
static noinline void mishap_module_put(void)
{
	module_put(THIS_MODULE);
	module_put(THIS_MODULE);
}

static noinline void mishap_put_unset_object(void)
{
	struct kobject *object = kzalloc(sizeof(*object), GFP_KERNEL);

	kobject_put(object);
}

static noinline void mishap_get_unset_object(void)
{
	struct kobject *object = kzalloc(sizeof(*object), GFP_KERNEL);

	kobject_get(object);
}

static struct kobj_type ktype;

static noinline void mishap_set_up_twice(void)
{
	struct kobject *object = kzalloc(sizeof(*object), GFP_KERNEL);

	kobject_init(object, &ktype);
	kobject_init(object, &ktype);
}

static noinline void mishap_same_name(void)
{
	struct kobject *first = kobject_create_and_add("mishap", NULL);
	struct kobject *second = kobject_create_and_add("mishap", NULL);

	kobject_put(second);
	kobject_put(first);
}

static noinline void mishap_device_without_release(void)
{
	struct device *device = kzalloc(sizeof(*device), GFP_KERNEL);

	device_initialize(device);
	dev_set_name(device, "mishap");
	put_device(device);
}

static void mishap_release(struct percpu_ref *ref)
{
}

static noinline void mishap_kill_twice(void)
{
	static struct percpu_ref ref;

	if (percpu_ref_init(&ref, mishap_release, 0, GFP_KERNEL))
		return;
	percpu_ref_kill(&ref);
	percpu_ref_kill(&ref);
}

static netdevice_tracker tracker;

static noinline void mishap_hold_netdevice(void)
{
	struct net_device *dev = dev_get_by_name(&init_net, "dummy0");

	if (!dev)
		return;
	netdev_hold(dev, &tracker, GFP_KERNEL);
	dev_put(dev);
}

const struct mishap mishap_counts[] = {
	{"underflow", mishap_underflow},
	{"saturated", mishap_saturated},
	{"addition-on-zero", mishap_addition_on_zero},
	{"leaking", mishap_leaking},
	{"module-put", mishap_module_put},
	{"put-unset-object", mishap_put_unset_object},
	{"get-unset-object", mishap_get_unset_object},
	{"set-up-twice", mishap_set_up_twice},
	{"same-name", mishap_same_name},
	{"device-without-release", mishap_device_without_release},
	{"kill-twice", mishap_kill_twice},
	{"hold-netdevice", mishap_hold_netdevice},
	{},
};
