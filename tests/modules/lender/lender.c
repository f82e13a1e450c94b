// SPDX-License-Identifier: GPL-2.0-only
/* Has a function that other modules use, by linking or by symbol_get(). */
#include <linux/module.h>

int lend(int what);

int lend(int what)
{
	return what < 0 ? -EINVAL : what;
}
EXPORT_SYMBOL_GPL(lend);

MODULE_DESCRIPTION("Lends a function");
MODULE_LICENSE("GPL");
