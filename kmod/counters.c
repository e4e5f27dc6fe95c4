// SPDX-License-Identifier: GPL-2.0-only
/*
 * counters: a heap in; all its counters copied, or zeroed, at one moment.
 *
 * At one moment, since counts are derived from one another: a thread that ran
 * on between the copying of two counters would show as an imbalance. So the
 * machine is stopped, and each CPU handles its own area, at the same time as
 * the others; the first one in also those of CPUs that are offline. Only an
 * NMI can count meanwhile.
 */
#include <linux/atomic.h>
#include <linux/cpumask.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include "kerninst.h"

struct moment {
	const struct kheap *heap;
	u8 *to;			/* a mapping's bytes; NULL: zero the counters */
	atomic_t entered;
	atomic64_t ns;		/* how long the slowest CPU took */
	u64 when;		/* CLOCK_REALTIME */
};

/* No call: what the kernel's memcpy and memset count is not ours to add to. */
static __always_inline void copy_words(void *to, const void *from, u64 bytes)
{
	u64 words = bytes / sizeof(u64);

	asm volatile("rep movsq" : "+D" (to), "+S" (from), "+c" (words)
		     : : "memory");
}

static __always_inline void zero_words(void *to, u64 bytes)
{
	u64 words = bytes / sizeof(u64);

	asm volatile("rep stosq" : "+D" (to), "+c" (words) : "a" (0ull)
		     : "memory");
}

/* Where CPU @cpu's area lies in a copy of the mapping. */
static u64 area_offset(const struct kheap *heap, u32 cpu)
{
	return heap->head->header_bytes + cpu * heap->head->cpu_stride;
}

static notrace void handle(const struct kheap *heap, u32 cpu, u8 *to)
{
	u64 bytes;
	void *from;
	u32 i;

	if (to)
		to += area_offset(heap, cpu);
	for (i = 0; (from = kheap_piece(heap, cpu, i, &bytes)); i++) {
		if (!to) {
			zero_words(from, bytes);
			continue;
		}
		copy_words(to, from, bytes);
		to += bytes;
	}
}

/* Context: stop_machine, on every online CPU, interrupts off. */
static notrace int handle_stopped(void *data)
{
	u64 began = ktime_get_mono_fast_ns(), ns, most;
	struct moment *moment = data;
	u32 cpu;

	handle(moment->heap, raw_smp_processor_id(), moment->to);
	if (atomic_inc_return(&moment->entered) == 1) {
		moment->when = ktime_get_real_fast_ns();
		if (!moment->to)
			kheap_begin(moment->heap);
		for (cpu = 0; cpu < nr_cpu_ids; cpu++)
			if (!cpu_online(cpu))
				handle(moment->heap, cpu, moment->to);
	}
	ns = ktime_get_mono_fast_ns() - began;
	most = atomic64_read(&moment->ns);
	while (ns > most && !atomic64_try_cmpxchg(&moment->ns, &most, ns))
		;
	return 0;
}

static int at_one_moment(const struct kheap *heap, void *to,
			 struct kerninst_outcome *outcome, u64 *when)
{
	struct moment moment = { .heap = heap, .to = to };
	int err = MAY_ERR(-ENOMEM, stop_machine(handle_stopped, &moment,
						cpu_online_mask));

	if (err)
		return err;
	if (!atomic_read(&moment.entered))
		return -EIO;
	outcome->stops++;
	outcome->ns = max_t(u64, outcome->ns, atomic64_read(&moment.ns));
	*when = moment.when;
	return 0;
}

/**
 * kerninst_counters_copy - copy all counters at one moment
 * @heap: the heap
 * @to: heap->bytes of memory; the header is left as it is
 * @outcome: its stops and ns grow
 * @when: out: CLOCK_REALTIME
 *
 * Context: may sleep. Return: 0, or the errno that stopping failed with.
 */
int kerninst_counters_copy(const struct kheap *heap, void *to,
			   struct kerninst_outcome *outcome, u64 *when)
{
	return at_one_moment(heap, to, outcome, when);
}

/* The same, but all counters become zero. */
int kerninst_counters_zero(const struct kheap *heap,
			   struct kerninst_outcome *outcome, u64 *when)
{
	return at_one_moment(heap, NULL, outcome, when);
}

/* Copy all counters. Context: nobody counts any more. */
void kerninst_counters_read(const struct kheap *heap, void *to)
{
	u32 cpu;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++)
		handle(heap, cpu, to);
}

/* The copy's counters become the heap's. Context: nobody counts any more. */
void kerninst_counters_put(const struct kheap *heap, const void *from)
{
	u64 bytes, at;
	void *to;
	u32 cpu, i;

	for (cpu = 0; cpu < nr_cpu_ids; cpu++) {
		at = area_offset(heap, cpu);
		for (i = 0; (to = kheap_piece(heap, cpu, i, &bytes)); i++) {
			copy_words(to, from + at, bytes);
			at += bytes;
		}
	}
}

/**
 * kerninst_counters_estimate - how long would copying stop the machine?
 * @heap: the heap
 * @scratch: heap->bytes of memory, which is overwritten
 *
 * The running machine copies this CPU's area once to have it at hand, and once
 * more by the clock; the first CPU in a stop copies those of offline CPUs too.
 *
 * Context: may sleep. Return: ns, with as much again in reserve.
 */
u64 kerninst_counters_estimate(const struct kheap *heap, void *scratch)
{
	u64 began, ns;
	u32 cpu;

	cpu = get_cpu();
	handle(heap, cpu, scratch);
	began = ktime_get_mono_fast_ns();
	handle(heap, cpu, scratch);
	ns = ktime_get_mono_fast_ns() - began;
	put_cpu();
	return 2 * ns * (1 + nr_cpu_ids - num_online_cpus());
}
