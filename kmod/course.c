// SPDX-License-Identifier: GPL-2.0-only
/*
 * course: spots in, all of them applied or none; or all of them as they were
 * found. Which stops that takes, and what is waited for between them.
 *
 * Apply, without windows: APPLY. With windows, as the kernel's own optprobes
 * do it (kernel/kprobes.c and arch/x86/kernel/kprobes/opt.c, 6.1 and 6.12):
 *
 *	TRAP    int3 on every window; who runs into one goes to its bypass
 *	(wait)  until nobody is inside a window any more
 *	APPLY   everything
 *
 * Remove: RETRACT, wait until nobody is in a patch or on the way from a hop
 * to one. With windows or springboards also RESTORE, and wait until nobody is
 * in a bypass. An apply that finds in the middle that something has changed
 * goes back the same way.
 *
 * With a limit on how long the machine may be stopped, each phase takes as many
 * stops as it needs, with pauses between them; whether that limit can hold at
 * all is tried before anything is written.
 *
 * The waits: synchronize_rcu_tasks() returns when every task has slept by its
 * own will, or run in user space, since it was called. A task can do neither
 * inside a patch, a bypass or a window, since these neither call nor fault,
 * nor on a springboard. It passes over idle tasks; those need no wait, since
 * they are preempted nowhere but in schedule_idle() (preemption is off in
 * do_idle(), kernel/sched/idle.c, 6.1 and 6.12), where each of them is while
 * the machine is stopped for the stopper thread runs in its place. The rude
 * flavour, which waits until every CPU has switched, costs little beside, and
 * ftrace asks for it likewise before it frees a trampoline
 * (kernel/trace/ftrace.c, ftrace_shutdown(); 6.1 and 6.12).
 */
#include <linux/delay.h>
#include <linux/ktime.h>
#include <linux/math64.h>
#include <linux/rcupdate.h>
#include "kerninst.h"

/* Context: may sleep, for as long as the slowest task takes to leave. */
static void wait_for_all(void)
{
	synchronize_rcu_tasks();
	synchronize_rcu_tasks_rude();
}

static bool is_trapped(const struct kerninst_spots *spots)
{
	u32 i;

	for (i = 0; i < spots->count; i++)
		if (spots->spot[i].trap)
			return true;
	return false;
}

/* Before the first stop. Return: 0 or -ENOMEM, and nothing has begun. */
static int begin(struct kerninst_spots *spots)
{
	int err = kerninst_spots_map(spots);

	if (!err)
		kerninst_trap_watch(spots);
	return err;
}

/* After the last one. */
static void end(struct kerninst_spots *spots)
{
	if (!is_trapped(spots))
		kerninst_trap_forget();
	kerninst_spots_unmap(spots);
}

/* Let the machine work between two stops: ten times as long as it stood. */
static void pause_between(const struct kerninst_spots *spots)
{
	u64 us = clamp_t(u64, 10 * div_u64(spots->max_stop_ns, NSEC_PER_USEC),
			 1000, 100000);

	usleep_range(us, us + us / 4);
}

/* One part of a phase, in as many stops as it takes. */
static int go(struct kerninst_spots *spots, enum kerninst_phase phase,
	      enum kerninst_part part, struct kerninst_outcome *outcome)
{
	bool back = phase == PHASE_RETRACT || phase == PHASE_RESTORE;
	int err;

	outcome->next = 0;
	for (;;) {
		err = kerninst_stop(spots, phase, part, outcome);
		if (err || (outcome->left && !back) ||
		    outcome->next == spots->count)
			return err;
		pause_between(spots);
	}
}

/* A phase; where it writes springboards and takes several stops, these first. */
static int phase(struct kerninst_spots *spots, enum kerninst_phase phase,
		 struct kerninst_outcome *outcome)
{
	bool boards = phase == PHASE_APPLY || phase == PHASE_RESTORE;
	int err;

	outcome->left = 0;
	if (!spots->max_stop_ns || !spots->boards || !boards)
		return go(spots, phase, PART_ALL, outcome);
	err = go(spots, phase, PART_BOARDS, outcome);
	if (err || (outcome->left && phase == PHASE_APPLY))
		return err;
	return go(spots, phase, PART_REST, outcome);
}

/* What is left of ours goes; who must stay is counted in outcome->left. */
static int go_back(struct kerninst_spots *spots,
		   struct kerninst_outcome *outcome)
{
	int err = phase(spots, PHASE_RETRACT, outcome);

	if (err || outcome->left)
		return err;
	outcome->retracted = true;
	outcome->retracted_ns = ktime_get_real_ns();
	wait_for_all();
	if (!spots->windows && !spots->boards)
		return 0;
	err = phase(spots, PHASE_RESTORE, outcome);
	if (!err && !outcome->left)
		wait_for_all();
	return err;
}

/* APPLY did not come to pass: take back what was written. */
static void retreat(struct kerninst_spots *spots,
		    struct kerninst_outcome *outcome)
{
	struct kerninst_outcome back = *outcome;

	go_back(spots, &back);
	outcome->ns = back.ns;
	outcome->stops = back.stops;
	outcome->standing = kerninst_spots_standing(spots);
	if (back.left) {
		outcome->left = back.left;
		outcome->first = back.first;
		memcpy(outcome->live, back.live, sizeof(outcome->live));
	}
}

/* Does the limit hold? Return: 0; -ETIME with needed_ns; or as kerninst_stop(). */
static int rehearse(struct kerninst_spots *spots,
		    struct kerninst_outcome *outcome)
{
	struct kerninst_outcome trial = {};
	int err = kerninst_stop(spots, PHASE_REHEARSE, PART_ALL, &trial);

	outcome->ns = max(outcome->ns, trial.ns);
	outcome->stops++;
	if (err || 2 * trial.ns <= spots->max_stop_ns)
		return err;
	outcome->needed_ns = 2 * trial.ns;
	return -ETIME;
}

/**
 * kerninst_course_apply - write all splices, or none
 * @spots: made by kerninst_spots_make(); their patches are in the area. They
 *         must stay where they are while outcome->standing
 * @outcome: in: zero, but for ns and stops. out: left > 0: nothing is applied,
 *           since outcome->first has changed; standing > 0: and so many spots
 *           could not be taken back
 *
 * Context: may sleep; the caller holds the state's and the kprobes' mutex.
 * Return: 0; -ENOMEM, -ETIME or stop_machine()'s errno: nothing is applied.
 */
int kerninst_course_apply(struct kerninst_spots *spots,
			  struct kerninst_outcome *outcome)
{
	int err = begin(spots);

	if (err)
		return err;
	if (spots->max_stop_ns)
		err = rehearse(spots, outcome);
	if (!err && spots->windows) {
		err = phase(spots, PHASE_TRAP, outcome);
		if (!err && !outcome->left)
			wait_for_all();
	}
	if (!err && !outcome->left)
		err = phase(spots, PHASE_APPLY, outcome);
	if ((err || outcome->left) && kerninst_spots_standing(spots))
		retreat(spots, outcome);
	end(spots);
	return err;
}

/**
 * kerninst_course_remove - write the original bytes back where ours still are
 * @spots: applied before, perhaps removed in part
 * @outcome: in: zero, but for ns and stops. out: left: how many were not,
 *           since others have changed them
 *
 * After it returns 0 with nothing left, no CPU and no thread is in a patch.
 *
 * Context and return value: as kerninst_course_apply(), but that an error may
 * come after some were restored: outcome->retracted.
 */
int kerninst_course_remove(struct kerninst_spots *spots,
			   struct kerninst_outcome *outcome)
{
	int err = begin(spots);

	if (err)
		return err;
	err = go_back(spots, outcome);
	end(spots);
	return err;
}
