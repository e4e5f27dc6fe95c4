// SPDX-License-Identifier: GPL-2.0-only
/*
 * stop: mapped spots and a phase in, one step of their way done on a stopped
 * machine.
 *
 *	          plain sites          springboards        windows
 *	TRAP      compared             compared            ORIGINAL -> TRAPPED
 *	APPLY     ORIGINAL -> APPLIED  the same, first     TRAPPED -> APPLIED
 *	RETRACT   APPLIED -> ORIGINAL  -                   APPLIED -> BYPASSED,
 *	                                                   TRAPPED -> ORIGINAL
 *	RESTORE   -                    APPLIED -> ORIGINAL, BYPASSED -> ORIGINAL
 *	                               first
 *
 * TRAP and APPLY end where one spot does not hold what its state says.
 * RETRACT and RESTORE write what they can and count the rest. REHEARSE writes
 * bytes over themselves: what it takes is what is asked. course.c knows in
 * which order the phases come, and what is waited for.
 *
 * Without a limit of time, a phase is one stop, in which all spots are looked
 * at before the first is written. With a limit, spots are looked at and
 * written in chunks, and the stop ends while the time for another chunk is
 * still there; the next stop goes on with the next spot. So springboards, which
 * must be whole before a hop leads to them, have stops of their own then.
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
 * serialized in between; and a CPU that runs into the int3 finds in trap.c
 * that it stands for the splice. A window that APPLY finds under its int3 is
 * written the same way: an NMI is the only one who could notice. Nobody runs
 * a springboard before a hop leads to it, nor in RESTORE, when none does any
 * more; so it needs no such care, only to be whole, and seen by all CPUs,
 * before the first hop is written, and restored before its window is. The
 * patches are complete before the first step and stay until after the last,
 * in both directions.
 *
 * Between the first step and the last no text of the kernel's may be called,
 * memcpy and memcmp included: it may be what is being written. Everything
 * here is inline, loops over volatile bytes, and neither traced nor probed.
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/stop_machine.h>
#include <linux/timekeeping.h>
#include <asm/sync_core.h>
#include <asm/text-patching.h>
#include "kerninst.h"

/* How many spots are written together where time is limited. */
#define CHUNK_SPOTS	32

/* How much more the next chunk may take than any before it. */
#define CHUNK_RESERVE	2

enum step {
	STEP_BOARDS,	/* springboards, whole */
	STEP_WORDS,	/* words whole, int3 into the split ones */
	STEP_TAILS,
	STEP_OPENERS,	/* the first bytes */
};

#define TICKET_LEAVE	(-1)

struct stop {
	struct kerninst_spots *spots;
	struct kerninst_outcome *outcome;
	enum kerninst_phase phase;
	enum kerninst_part part;
	u32 from, to;		/* the spots at hand: [from, to) */
	atomic_t entered;	/* CPUs that came in */
	atomic_t synced;	/* followers that have seen the ticket */
	int ticket;		/* release: text is written; acquire: seen */
};

#ifdef KERNINST_FAULT
/* For tests alone: bit p: in phase p, windows are taken for changed. */
static unsigned int fault;
module_param(fault, uint, 0600);
#else
static const unsigned int fault;
#endif

static __always_inline bool is_window(const struct kerninst_spot *spot)
{
	return spot->flags == KERNINST_WINDOW;
}

static __always_inline bool is_board(const struct kerninst_spot *spot)
{
	return spot->flags == KERNINST_SPRINGBOARD;
}

static __always_inline u8 live_byte(const struct kerninst_spot *spot, u8 at)
{
	return READ_ONCE(((const u8 *)spot->addr)[at]);
}

/* Do the first @bytes of the spot, but for @skip, hold what its state says? */
static __always_inline bool holds(const struct kerninst_spot *spot, u8 bytes,
				  u16 skip)
{
	u8 i, due;

	for (i = 0; i < bytes; i++) {
		due = spot->old[i];
		if (spot->state == SPOT_TRAPPED) {
			if (!i)
				due = INT3_INSN_OPCODE;
		} else if (spot->state != SPOT_ORIGINAL) {
			due = spot->fresh[i];
		}
		if (!(skip & 1u << i) && live_byte(spot, i) != due)
			return false;
	}
	return true;
}

/* @what goes to the bytes [start, end) of the spot. */
static __always_inline void choose(struct kerninst_spot *spot,
				   enum kerninst_spot_write what, u8 start,
				   u8 end)
{
	spot->write = what;
	spot->start = start;
	spot->end = end;
	spot->split = (spot->addr + start) / sizeof(u64) !=
		      (spot->addr + end - 1) / sizeof(u64);
}

/* A window's splice leads to its bypass from now on; it always reaches. */
static __always_inline void aim_at_bypass(struct kerninst_spot *spot)
{
	u32 rel = spot->bypass - (spot->addr + KERNINST_JMP_BYTES);
	u8 i;

	for (i = 1; i < KERNINST_JMP_BYTES; i++, rel >>= 8)
		WRITE_ONCE(spot->fresh[i], (u8)rel);
}

/* Forwards: what TRAP and APPLY do with a spot. False: it has changed. */
static __always_inline bool advance(const struct stop *stop,
				    struct kerninst_spot *spot)
{
	/* Springboards in it are looked at for themselves. */
	if (!holds(spot, spot->length, spot->hosted))
		return false;
	if (stop->phase == PHASE_REHEARSE) {
		choose(spot, WRITE_OLD, spot->from,
		       min_t(u8, spot->length, KERNINST_JMP_BYTES));
		if (spot->split)
			spot->write = WRITE_NOTHING; /* not without an int3 */
		return true;
	}
	if (stop->phase == PHASE_TRAP) {
		if (is_window(spot))
			choose(spot, WRITE_INT3, 0, 1);
		return true;
	}
	choose(spot, WRITE_FRESH, spot->from, spot->length);
	if (is_window(spot))
		spot->split = true;	/* its int3 stands already */
	return true;
}

/* Back, so that no splice leads to a patch: what RETRACT does with a spot. */
static __always_inline bool retract(struct kerninst_spot *spot)
{
	if (spot->state == SPOT_TRAPPED) {
		/* Ours is one byte; the others may change the rest. */
		if (!holds(spot, 1, 0))
			return false;
		choose(spot, WRITE_OLD, 0, 1);
		return true;
	}
	if (spot->state != SPOT_APPLIED || is_board(spot))
		return true;
	if (spot->probed)
		return false;
	if (!is_window(spot)) {
		if (!holds(spot, spot->length, 0))
			return false;
		choose(spot, WRITE_OLD, spot->from, spot->length);
		return true;
	}
	if (!holds(spot, KERNINST_JMP_BYTES, 0))
		return false;
	aim_at_bypass(spot);
	choose(spot, WRITE_FRESH, 1, KERNINST_JMP_BYTES);
	return true;
}

/*
 * Back to what was found: what RESTORE does with a spot. A window keeps its
 * bypass as long as a springboard in it cannot be restored (@stuck): whoever
 * changed that one may bring our bytes back, where they would then be run.
 */
static __always_inline bool restore(struct kerninst_spot *spot, bool stuck)
{
	if (spot->state == SPOT_ORIGINAL)
		return true;
	if (stuck || spot->probed ||
	    !holds(spot, spot->length, spot->hosted))
		return false;
	choose(spot, WRITE_OLD, spot->from, spot->length);
	return true;
}

/* Is a springboard in this window not restored yet, nor about to be? */
static __always_inline bool is_stuck(const struct kerninst_spots *spots, u32 i)
{
	const struct kerninst_spot *spot;

	for (i++; i < spots->count && spots->spot[i].inside; i++) {
		spot = &spots->spot[i];
		if (spot->state != SPOT_ORIGINAL && !spot->write)
			return true;
	}
	return false;
}

/* Is the spot's turn in this part of the phase? */
static __always_inline bool takes_part(const struct stop *stop,
				       const struct kerninst_spot *spot)
{
	return stop->part == PART_ALL ||
	       is_board(spot) == (stop->part == PART_BOARDS);
}

/* Choose what to write; count and show what does not hold what it should. */
static __always_inline void survey(const struct stop *stop)
{
	struct kerninst_outcome *outcome = stop->outcome;
	struct kerninst_spot *spot;
	bool good;
	u32 i;
	u8 j;

	/* Downwards: springboards in a window before the window. */
	for (i = stop->to; i-- > stop->from; ) {
		spot = &stop->spots->spot[i];
		spot->write = WRITE_NOTHING;
		if (!takes_part(stop, spot))
			continue;
		if (fault & 1u << stop->phase && is_window(spot))
			good = false;
		else if (stop->phase == PHASE_RETRACT)
			good = retract(spot);
		else if (stop->phase == PHASE_RESTORE)
			good = restore(spot, is_window(spot) &&
					     is_stuck(stop->spots, i));
		else
			good = advance(stop, spot);
		if (good) {
			/* Before the int3 that it explains. */
			if (spot->write == WRITE_INT3 ||
			    (spot->write && spot->split))
				WRITE_ONCE(spot->trap, true);
			continue;
		}
		if (!outcome->left++ || i < outcome->first) {
			outcome->first = i;
			for (j = 0; j < sizeof(outcome->live); j++)
				WRITE_ONCE(outcome->live[j], j < spot->length ?
					   live_byte(spot, j) : 0);
		}
	}
}

/* One byte of text. volatile, lest the compiler call memcpy or memset. */
static __always_inline void put_byte(const struct kerninst_spot *spot, u8 at,
				     u8 byte)
{
	WRITE_ONCE(spot->alias[at], byte);
}

/* The byte that the stop writes to the spot at @at. */
static __always_inline u8 next_byte(const struct kerninst_spot *spot, u8 at)
{
	switch (spot->write) {
	case WRITE_INT3:
		return INT3_INSN_OPCODE;
	case WRITE_OLD:
		return spot->old[at];
	default:
		return spot->fresh[at];
	}
}

/* [start, end) in one store; !split says that one word holds them. */
static __always_inline void put_word(const struct kerninst_spot *spot)
{
	unsigned long at = (unsigned long)spot->alias + spot->start;
	u64 *word = (u64 *)(at & ~(sizeof(u64) - 1));
	u64 value = READ_ONCE(*word);
	u8 i, shift = (at & (sizeof(u64) - 1)) * 8;

	for (i = spot->start; i < spot->end; i++, shift += 8) {
		if (spot->hosted & 1u << i)
			continue;
		value &= ~(0xffull << shift);
		value |= (u64)next_byte(spot, i) << shift;
	}
	WRITE_ONCE(*word, value);
}

/* One step of writing. Returns whether split spots need the next ones. */
static __always_inline bool put(const struct stop *stop, enum step step)
{
	struct kerninst_spot *spot;
	bool more = false;
	u32 i;
	u8 j;

	for (i = stop->from; i < stop->to; i++) {
		spot = &stop->spots->spot[i];
		if (!spot->write || is_board(spot) != (step == STEP_BOARDS))
			continue;
		if (step == STEP_BOARDS) {
			for (j = spot->start; j < spot->end; j++)
				put_byte(spot, j, next_byte(spot, j));
			continue;
		}
		if (!spot->split) {
			if (step == STEP_WORDS)
				put_word(spot);
			continue;
		}
		more = true;
		switch (step) {
		case STEP_WORDS:
			put_byte(spot, 0, INT3_INSN_OPCODE);
			break;
		case STEP_TAILS:
			for (j = spot->start ?: 1; j < spot->end; j++)
				if (!(spot->hosted & 1u << j))
					put_byte(spot, j, next_byte(spot, j));
			break;
		default:
			put_byte(spot, 0, next_byte(spot, 0));
		}
	}
	return more;
}

/* Tell the followers, serialize, and wait until each has. */
static __always_inline void publish(struct stop *stop, int ticket)
{
	int followers = num_online_cpus() - 1;

	atomic_set(&stop->synced, 0);
	smp_store_release(&stop->ticket, ticket);	/* pairs with follow() */
	sync_core();
	while (atomic_read_acquire(&stop->synced) != followers)
		cpu_relax();
}

/* Write what was chosen, step by step. */
static __always_inline void put_all(struct stop *stop)
{
	if (stop->spots->boards && stop->part != PART_REST) {
		put(stop, STEP_BOARDS);
		publish(stop, stop->ticket + 1);
	}
	if (stop->part == PART_BOARDS || !put(stop, STEP_WORDS))
		return;
	publish(stop, stop->ticket + 1);
	put(stop, STEP_TAILS);
	publish(stop, stop->ticket + 1);
	put(stop, STEP_OPENERS);
}

/* What was chosen is written: note the state that each spot is in now. */
static __always_inline void commit(const struct stop *stop)
{
	struct kerninst_spot *spot;
	u32 i;

	for (i = stop->from; i < stop->to; i++) {
		spot = &stop->spots->spot[i];
		if (spot->write == WRITE_INT3)
			spot->state = SPOT_TRAPPED;
		else if (spot->write == WRITE_OLD)
			spot->state = SPOT_ORIGINAL;
		else if (spot->write && stop->phase == PHASE_APPLY)
			spot->state = SPOT_APPLIED;
		else if (spot->write)
			spot->state = SPOT_BYPASSED;
		spot->write = WRITE_NOTHING;
	}
}

/* All CPUs have seen the last step: which int3s are still ours? */
static __always_inline void settle(const struct stop *stop)
{
	struct kerninst_spot *spot;
	u32 i;

	for (i = stop->from; i < stop->to; i++) {
		spot = &stop->spots->spot[i];
		WRITE_ONCE(spot->trap, spot->state == SPOT_TRAPPED);
	}
}

/* The spots at hand: look, write, and wait for everybody. False: no further. */
static __always_inline bool handle(struct stop *stop)
{
	survey(stop);
	if (stop->outcome->left && stop->phase != PHASE_RETRACT &&
	    stop->phase != PHASE_RESTORE) {
		settle(stop);
		return false;
	}
	put_all(stop);
	commit(stop);
	/* No CPU is still on its way from an int3 that is gone now. */
	publish(stop, stop->ticket + 1);
	settle(stop);
	return true;
}

static __always_inline void lead(struct stop *stop)
{
	/* The text is whole before the first step and after the last. */
	u64 began = ktime_get_mono_fast_ns(), at = began, now, slowest = 0;
	struct kerninst_outcome *outcome = stop->outcome;
	u64 limit = stop->spots->max_stop_ns;
	u32 count = stop->spots->count, chunk = limit ? CHUNK_SPOTS : count;
	bool more;

	do {
		stop->from = outcome->next;
		stop->to = stop->from + min(chunk, count - stop->from);
		more = handle(stop);
		if (more)
			outcome->next = stop->to;
		now = ktime_get_mono_fast_ns();
		slowest = max(slowest, now - at);
		at = now;
	} while (more && outcome->next < count &&
		 stop->phase != PHASE_REHEARSE &&
		 at - began + CHUNK_RESERVE * slowest < limit);
	publish(stop, TICKET_LEAVE);
	outcome->stops++;
	outcome->ns = max_t(u64, outcome->ns, ktime_get_mono_fast_ns() - began);
}

static __always_inline void follow(struct stop *stop)
{
	int ticket, seen = 0;

	while (seen != TICKET_LEAVE) {
		ticket = smp_load_acquire(&stop->ticket); /* pairs with publish() */
		if (ticket == seen) {
			cpu_relax();
			continue;
		}
		seen = ticket;
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

/**
 * kerninst_stop - stop the machine and do one phase, or some of it
 * @spots: mapped, and watched by trap.c; max_stop_ns is the limit
 * @phase: what to do with them
 * @part: with which of them
 * @outcome: in: next: where to begin. out: next: how far it came, left: grows
 *           by those that do not hold what they should; stops, ns
 *
 * Context: may sleep; the caller holds the state's mutex.
 * Return: 0, or an errno: the machine was not stopped.
 */
int kerninst_stop(struct kerninst_spots *spots, enum kerninst_phase phase,
		  enum kerninst_part part, struct kerninst_outcome *outcome)
{
	struct stop stop = {
		.spots = spots,
		.outcome = outcome,
		.phase = phase,
		.part = part,
	};
	int err = MAY_ERR(-ENOMEM, stop_machine(kerninst_stopped, &stop,
						cpu_online_mask));

	return err ?: atomic_read(&stop.entered) ? 0 : -EIO;
}
