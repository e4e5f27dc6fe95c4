// SPDX-License-Identifier: GPL-2.0-only
/*
 * A small module with what makes the kernel write text when one comes: a
 * static key of its own, which is flipped, and ftrace sites.
 */
#include <linux/jump_label.h>
#include <linux/module.h>

static DEFINE_STATIC_KEY_FALSE(key);
static unsigned int flips = 2, on;

module_param(flips, uint, 0);

static noinline void look(void)
{
	if (static_branch_unlikely(&key))
		on++;
}

static int __init small_init(void)
{
	unsigned int i;

	for (i = 0; i < flips; i++) {
		static_branch_enable(&key);
		look();
		static_branch_disable(&key);
		look();
	}
	return on == flips ? 0 : -EIO;
}

static void __exit small_exit(void)
{
}

module_init(small_init);
module_exit(small_exit);

MODULE_DESCRIPTION("a module that comes and goes; for tests alone");
MODULE_LICENSE("GPL");
