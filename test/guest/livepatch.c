// SPDX-License-Identifier: GPL-2.0-only
/*
 * A livepatch, for tests alone: while it is enabled, /proc/cmdline says
 * "livepatched" instead of the command line.
 */
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>

static int other_show(struct seq_file *m, void *v)
{
	seq_puts(m, "livepatched\n");
	return 0;
}

static struct klp_func funcs[] = {
	{ .old_name = "cmdline_proc_show", .new_func = other_show },
	{ }
};

static struct klp_object objects[] = {
	{ .funcs = funcs },	/* of vmlinux */
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objects };

static int __init livepatch_init(void)
{
	return klp_enable_patch(&patch);
}

static void __exit livepatch_exit(void)
{
}

module_init(livepatch_init);
module_exit(livepatch_exit);

MODULE_DESCRIPTION("another /proc/cmdline; for tests alone");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
