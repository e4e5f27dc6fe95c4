// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own ways to have code run at a place, each made to do what our
 * counter does and no more: add one to a per-CPU counter.
 *
 *	insmod peers.ko mode=kprobe symbol=do_getpgid offset=0x1b
 *	insmod peers.ko mode=kretprobe symbol=do_getpgid
 *	insmod peers.ko mode=ftrace symbol=do_getpgid
 *
 * /sys/module/peers/parameters/count is the sum. Whether a kprobe was
 * optimized to a jump, or sits on an ftrace site, is the kernel's choice:
 * /sys/kernel/debug/kprobes/list tells. Left out: trace events, which would
 * add the writing of a record to each hit.
 */
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>

static char *mode = "";
module_param(mode, charp, 0400);
static char *symbol = "";
module_param(symbol, charp, 0400);
static unsigned int offset;
module_param(offset, uint, 0400);

static DEFINE_PER_CPU(unsigned long, hits);

static int get_count(char *buffer, const struct kernel_param *param)
{
	unsigned long sum = 0;
	int cpu;

	for_each_possible_cpu(cpu)
		sum += per_cpu(hits, cpu);
	return sysfs_emit(buffer, "%lu\n", sum);
}

static const struct kernel_param_ops count_ops = { .get = get_count };
module_param_cb(count, &count_ops, NULL, 0400);

static int on_kprobe(struct kprobe *probe, struct pt_regs *regs)
{
	this_cpu_inc(hits);
	return 0;
}

static int on_return(struct kretprobe_instance *instance, struct pt_regs *regs)
{
	this_cpu_inc(hits);
	return 0;
}

static void on_ftrace(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		      struct ftrace_regs *regs)
{
	this_cpu_inc(hits);
}

static struct kprobe probe = { .pre_handler = on_kprobe };
static struct kretprobe retprobe = { .handler = on_return, .maxactive = 16 };
static struct ftrace_ops ops = { .func = on_ftrace };

static int __init peers_init(void)
{
	int ret;

	if (!strcmp(mode, "kprobe")) {
		probe.symbol_name = symbol;
		probe.offset = offset;
		return register_kprobe(&probe);
	}
	if (!strcmp(mode, "kretprobe")) {
		retprobe.kp.symbol_name = symbol;
		return register_kretprobe(&retprobe);
	}
	if (!strcmp(mode, "ftrace")) {
		ret = ftrace_set_filter(&ops, symbol, strlen(symbol), 1);
		return ret ? ret : register_ftrace_function(&ops);
	}
	return -EINVAL;
}

static void __exit peers_exit(void)
{
	if (!strcmp(mode, "kprobe"))
		unregister_kprobe(&probe);
	else if (!strcmp(mode, "kretprobe"))
		unregister_kretprobe(&retprobe);
	else
		unregister_ftrace_function(&ops);
}

module_init(peers_init);
module_exit(peers_exit);
MODULE_DESCRIPTION("Counters by kprobe, kretprobe and ftrace, to be compared with");
MODULE_LICENSE("GPL");
