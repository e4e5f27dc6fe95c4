// SPDX-License-Identifier: GPL-2.0-only
/*
 * In: where kerninst's patch area is. Out: what the kernel's unwinder makes of
 * threads that are in it, in the log.
 *
 * Loading looks for them in two ways and then prints what it saw:
 *
 *   interrupted - a timer on every CPU walks the stack that it interrupts, as
 *	perf does, from the registers on;
 *   preempted - the machine is stopped `scans` times, and the stack of every
 *	thread that is not running is walked, as livepatch does it
 *	(stack_trace_save_tsk_reliable()) and frame by frame.
 *
 * Of each: how often a thread was seen in the area, how often the walk went on
 * past it (further), and how often that walk called itself reliable.
 */
#include <linux/delay.h>
#include <linux/hrtimer.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/sched/signal.h>
#include <linux/sched/task_stack.h>
#include <linux/stop_machine.h>
#include <asm/irq_regs.h>
#include <asm/unwind.h>

static unsigned long area, bytes;
static unsigned int scans = 100, period_us = 200;

module_param(area, ulong, 0);
module_param(bytes, ulong, 0);
module_param(scans, uint, 0);
module_param(period_us, uint, 0);

struct seen {
	unsigned long ticks, walked, inside, further, reliable;
	unsigned long behind;	/* the first address past one inside */
};

static DEFINE_PER_CPU(struct seen, interrupted);
static DEFINE_PER_CPU(struct hrtimer, timer);
static struct seen preempted;
static bool stopping;
static int (*save_reliable)(struct task_struct *task, unsigned long *store,
			    unsigned int size);

static bool within(unsigned long addr)
{
	return addr - area < bytes;
}

/*
 * Walks on from @state, which is behind a frame that was @inside or not. True:
 * one was.
 */
static bool walk(struct unwind_state *state, bool inside, struct seen *seen)
{
	unsigned long addr;
	bool further = false;

	for (; !unwind_done(state); unwind_next_frame(state)) {
		addr = unwind_get_return_address(state);
		if (!addr)
			break;
		if (inside && !further) {
			further = true;
			seen->behind = addr;
		}
		inside |= within(addr);
	}
	seen->walked++;
	if (!inside)
		return false;
	seen->inside++;
	seen->further += further;
	seen->reliable += !unwind_error(state);
	return true;
}

static enum hrtimer_restart tick(struct hrtimer *hrtimer)
{
	struct seen *seen = this_cpu_ptr(&interrupted);
	struct pt_regs *regs = get_irq_regs();
	struct unwind_state state;

	seen->ticks++;
	if (regs && !user_mode(regs) && within(regs->ip)) {
		/* Starts at the caller. */
		unwind_start(&state, current, regs, NULL);
		walk(&state, true, seen);
	}
	if (READ_ONCE(stopping))
		return HRTIMER_NORESTART;
	hrtimer_forward_now(hrtimer, ns_to_ktime(period_us * 1000ull));
	return HRTIMER_RESTART;
}

static void start_timer(void *unused)
{
	struct hrtimer *hrtimer = this_cpu_ptr(&timer);

	hrtimer_init(hrtimer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	hrtimer->function = tick;
	hrtimer_start(hrtimer, ns_to_ktime(period_us * 1000ull),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

/* Context: stop_machine, one CPU. */
static int scan(void *unused)
{
	static unsigned long store[64];
	struct task_struct *process, *task;
	struct unwind_state state;
	unsigned long reliable;

	for_each_process_thread(process, task) {
		if (task == current || task->on_cpu)
			continue;
		reliable = preempted.reliable;
		unwind_start(&state, task, NULL, NULL);
		if (!walk(&state, false, &preempted))
			continue;
		/* What livepatch would hear counts, not what we made of it. */
		preempted.reliable = reliable +
			(save_reliable(task, store, ARRAY_SIZE(store)) >= 0);
	}
	preempted.ticks++;
	return 0;
}

static void report(const char *what, const struct seen *seen)
{
	pr_info("walk: %s: %lu looks, %lu walks, %lu inside, %lu further, %lu reliable, behind %pS\n",
		what, seen->ticks, seen->walked, seen->inside, seen->further,
		seen->reliable, (void *)seen->behind);
}

static int __init walk_init(void)
{
	struct kprobe probe = { .symbol_name = "stack_trace_save_tsk_reliable" };
	struct seen all = {};
	unsigned int i;
	int cpu, err;

	err = register_kprobe(&probe);
	if (err)
		return err;
	save_reliable = (void *)probe.addr;
	unregister_kprobe(&probe);

	on_each_cpu(start_timer, NULL, 1);
	for (i = 0; i < scans; i++) {
		stop_machine(scan, NULL, NULL);
		usleep_range(1000, 5000);
	}
	WRITE_ONCE(stopping, true);
	for_each_online_cpu(cpu) {
		const struct seen *one = per_cpu_ptr(&interrupted, cpu);

		hrtimer_cancel(per_cpu_ptr(&timer, cpu));
		all.ticks += one->ticks;
		all.walked += one->walked;
		all.inside += one->inside;
		all.further += one->further;
		all.reliable += one->reliable;
		all.behind = all.behind ?: one->behind;
	}
	report("interrupted", &all);
	report("preempted", &preempted);
	return 0;
}

static void __exit walk_exit(void)
{
}

module_init(walk_init);
module_exit(walk_exit);

MODULE_DESCRIPTION("what the unwinder makes of kerninst's patches; for tests alone");
MODULE_LICENSE("GPL");
