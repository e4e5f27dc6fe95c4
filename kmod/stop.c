// SPDX-License-Identifier: GPL-2.0-only
/*
 * stop: mapped spots in, all of them written or none, on a stopped machine.
 *
 * stop_machine() brings every CPU here with interrupts off. The first one in
 * leads: it compares every spot's bytes, writes, and after each step waits
 * until all the others have serialized their instruction stream and said so.
 * So nobody runs bytes of two steps, and nobody leaves before the last step.
 *
 * What stop_machine() does not stop are NMIs and machine checks, on the
 * leader as well. A splice whose bytes lie in one aligned word is written
 * with one store, which an NMI sees as a whole or not at all (AMD64 manual,
 * volume 2, "Cross-Modifying Code"; Intel processors do the same). Any other
 * gets an int3 first, then its tail, then its first byte, with all CPUs
 * serialized in between; and a CPU that runs into the int3 finds in
 * kerninst_trap() that it stands for the splice. The patches are complete
 * before the first step and stay until after the last, in both directions.
 *
 * Between the first step and the last no text of the kernel's may be called,
 * memcpy and memcmp included: it may be what is being written. Everything
 * here is inline, loops over volatile bytes, and neither traced nor probed.
 */
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <asm/sync_core.h>
#include <asm/text-patching.h>
#include "kerninst.h"

enum step {
	STEP_NONE,
	STEP_WORDS,	/* words whole, int3 into the split ones */
	STEP_TAILS,
	STEP_OPENERS,	/* the first bytes */
	STEP_LEAVE,
};

struct stop {
	struct kerninst_spots *spots;
	struct kerninst_outcome *outcome;
	bool apply;
	atomic_t entered;	/* CPUs that came in */
	atomic_t synced;	/* followers that have seen the step */
	int step;		/* release: the text is written; acquire: seen */
};

/*
 * The spots whose int3s are ours, while a stop is under way. Set before the
 * machine stops and cleared after it runs again, so that every trap on one of
 * them finds it; readers are in NMI context, which RCU waits for.
 */
static const struct kerninst_spots *trapped;

/* The spot at @addr, if the int3 there can be ours. */
static __always_inline const struct kerninst_spot *
find_split(const struct kerninst_spots *spots, unsigned long addr)
{
	u32 low = 0, high = spots->count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (spots->spot[middle].addr < addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == spots->count || spots->spot[low].addr != addr ||
	    !spots->spot[low].split || !spots->spot[low].chosen)
		return NULL;
	return &spots->spot[low];
}

/*
 * A CPU ran into an int3: do what the splice there would have done.
 * Context: exception, possibly inside an NMI; the machine is stopped.
 */
static notrace int kerninst_trap(struct notifier_block *nb,
				 unsigned long event, void *data)
{
	const struct kerninst_spots *spots = READ_ONCE(trapped);
	const struct kerninst_spot *spot;
	struct die_args *args = data;
	struct pt_regs *regs = args->regs;
	unsigned long after;

	if (!spots || event != DIE_INT3 || user_mode(regs))
		return NOTIFY_DONE;
	spot = find_split(spots, regs->ip - INT3_INSN_SIZE);
	if (!spot)
		return NOTIFY_DONE;
	switch (spot->kind) {
	case KERNINST_CALL:
		int3_emulate_call(regs, spot->patch);
		break;
	case KERNINST_JCC:
		after = spot->addr + 6;
		int3_emulate_jcc(regs, spot->fresh[1] & 0xf, after,
				 spot->patch - after);
		break;
	default:
		int3_emulate_jmp(regs, spot->patch);
	}
	return NOTIFY_STOP;
}
NOKPROBE_SYMBOL(kerninst_trap);

static struct notifier_block trap_notifier = {
	.notifier_call = kerninst_trap,
	.priority = INT_MAX,	/* the fewer others run before, the better */
};

/* One byte of text. volatile, lest the compiler call memcpy or memset. */
static __always_inline void put_byte(const struct kerninst_spot *spot, u8 at,
				     u8 byte)
{
	WRITE_ONCE(spot->alias[at], byte);
}

/* [from, to) of @bytes in one store; !split says that one word holds them. */
static __always_inline void put_word(const struct kerninst_spot *spot,
				     const u8 *bytes)
{
	unsigned long at = (unsigned long)spot->alias + spot->from;
	u64 *word = (u64 *)(at & ~(sizeof(u64) - 1));
	u64 value = READ_ONCE(*word);
	u8 i, shift = (at & (sizeof(u64) - 1)) * 8;

	for (i = spot->from; i < spot->to; i++, shift += 8) {
		value &= ~(0xffull << shift);
		value |= (u64)bytes[i] << shift;
	}
	WRITE_ONCE(*word, value);
}

/* Are the spot's live bytes @bytes up to @to, and old behind that? */
static __always_inline bool holds(const struct kerninst_spot *spot,
				  const u8 *bytes, u8 to)
{
	const u8 *live = (const u8 *)spot->addr;
	u8 i;

	for (i = 0; i < spot->length; i++)
		if (READ_ONCE(live[i]) != (i < to ? bytes[i] : spot->old[i]))
			return false;
	return true;
}

/* Choose what to write; count and show what does not hold what it should. */
static __always_inline void survey(const struct stop *stop)
{
	struct kerninst_outcome *outcome = stop->outcome;
	struct kerninst_spot *spot;
	u32 i;
	u8 j;

	for (i = 0; i < stop->spots->count; i++) {
		spot = &stop->spots->spot[i];
		if (stop->apply)
			spot->chosen = holds(spot, spot->old, 0);
		else
			spot->chosen = spot->ours &&
				       holds(spot, spot->fresh, spot->to);
		if (spot->chosen || (!stop->apply && !spot->ours))
			continue;
		if (!outcome->left++) {
			outcome->first = i;
			for (j = 0; j < spot->length; j++)
				outcome->live[j] =
					READ_ONCE(((const u8 *)spot->addr)[j]);
		}
	}
}

/* One step of writing. Returns whether split spots need the next ones. */
static __always_inline bool put(const struct stop *stop, enum step step)
{
	struct kerninst_spot *spot;
	bool more = false;
	const u8 *bytes;
	u32 i;
	u8 j;

	for (i = 0; i < stop->spots->count; i++) {
		spot = &stop->spots->spot[i];
		if (!spot->chosen)
			continue;
		bytes = stop->apply ? spot->fresh : spot->old;
		if (!spot->split) {
			if (step == STEP_WORDS)
				put_word(spot, bytes);
			continue;
		}
		more = true;
		switch (step) {
		case STEP_WORDS:
			put_byte(spot, 0, INT3_INSN_OPCODE);
			break;
		case STEP_TAILS:
			for (j = spot->from ?: 1; j < spot->to; j++)
				put_byte(spot, j, bytes[j]);
			break;
		default:
			put_byte(spot, 0, bytes[0]);
		}
	}
	return more;
}

/* Tell the followers, serialize, and wait until each has. */
static __always_inline void publish(struct stop *stop, enum step step)
{
	int followers = num_online_cpus() - 1;

	atomic_set(&stop->synced, 0);
	smp_store_release(&stop->step, step);	/* pairs with follow() */
	sync_core();
	while (atomic_read_acquire(&stop->synced) != followers)
		cpu_relax();
}

static __always_inline void lead(struct stop *stop)
{
	/* The text is whole before the first step and after the last. */
	u64 began = ktime_get_mono_fast_ns();
	u32 i;

	stop->outcome->entered = true;
	survey(stop);
	if (!stop->apply || !stop->outcome->left) {
		if (put(stop, STEP_WORDS)) {
			publish(stop, STEP_WORDS);
			put(stop, STEP_TAILS);
			publish(stop, STEP_TAILS);
			put(stop, STEP_OPENERS);
		}
		for (i = 0; i < stop->spots->count; i++)
			if (stop->spots->spot[i].chosen)
				stop->spots->spot[i].ours = stop->apply;
	}
	publish(stop, STEP_LEAVE);
	stop->outcome->ns = ktime_get_mono_fast_ns() - began;
}

static __always_inline void follow(struct stop *stop)
{
	int step, seen = STEP_NONE;

	while (seen != STEP_LEAVE) {
		step = smp_load_acquire(&stop->step);	/* pairs with publish() */
		if (step == seen) {
			cpu_relax();
			continue;
		}
		seen = step;
		sync_core();
		atomic_inc_return_release(&stop->synced);
	}
}

/* Context: stop_machine, on every online CPU, interrupts off. */
static notrace int kerninst_stopped(void *data)
{
	struct stop *stop = data;

	if (atomic_inc_return(&stop->entered) == 1)
		lead(stop);
	else
		follow(stop);
	return 0;
}
NOKPROBE_SYMBOL(kerninst_stopped);

static int run(struct kerninst_spots *spots, struct kerninst_outcome *outcome,
	       bool apply)
{
	struct stop stop = {
		.spots = spots,
		.outcome = outcome,
		.apply = apply,
	};
	int err;

	memset(outcome, 0, sizeof(*outcome));
	err = kerninst_spots_map(spots);
	if (err)
		return err;
	WRITE_ONCE(trapped, spots);
	err = stop_machine(kerninst_stopped, &stop, cpu_online_mask);
	WRITE_ONCE(trapped, NULL);
	/* A trap elsewhere may still be looking its address up. */
	synchronize_rcu();
	kerninst_spots_unmap(spots);
	return err;
}

/**
 * kerninst_stop_apply - write all splices, or none
 * @spots: made by kerninst_spots_make(); their patches are in the area
 * @outcome: out: left > 0: nothing was written, @outcome->first has changed
 *
 * Context: may sleep; the caller holds the state's mutex.
 * Return: 0; -ENOMEM or stop_machine()'s errno: the machine was not stopped.
 */
int kerninst_stop_apply(struct kerninst_spots *spots,
			struct kerninst_outcome *outcome)
{
	return run(spots, outcome, true);
}

/**
 * kerninst_stop_remove - write the original bytes back where ours still are
 * @spots: applied before; those restored lose ->ours
 * @outcome: out: left: how many were not, since others have changed them
 *
 * Context and return value: as kerninst_stop_apply().
 */
int kerninst_stop_remove(struct kerninst_spots *spots,
			 struct kerninst_outcome *outcome)
{
	return run(spots, outcome, false);
}

/* Context: module load; may sleep. */
int kerninst_stop_init(void)
{
	return register_die_notifier(&trap_notifier);
}

/* Context: module unload; may sleep. */
void kerninst_stop_exit(void)
{
	unregister_die_notifier(&trap_notifier);
}
