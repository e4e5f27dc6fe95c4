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
 *	APPLY   everything; or, if something has changed,
 *	RETRACT takes the int3s back
 *	(wait)  until nobody is in a bypass any more
 *
 * Remove: RETRACT, wait until nobody is in a patch or on the way from a hop
 * to one. With windows or springboards also RESTORE, and wait until nobody is
 * in a bypass.
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
#include <linux/ktime.h>
#include <linux/rcupdate.h>
#include "kerninst.h"

/* Context: may sleep, for as long as the slowest task takes to leave. */
static void wait_for_all(void)
{
	synchronize_rcu_tasks();
	synchronize_rcu_tasks_rude();
}

/* Before the first stop. Return: 0 or -ENOMEM, and nothing has begun. */
static int begin(struct kerninst_spots *spots, struct kerninst_outcome *outcome)
{
	int err;

	memset(outcome, 0, sizeof(*outcome));
	err = kerninst_spots_map(spots);
	if (!err)
		kerninst_trap_watch(spots);
	return err;
}

/* After the last one. */
static void end(struct kerninst_spots *spots,
		const struct kerninst_outcome *outcome)
{
	if (!outcome->standing)
		kerninst_trap_forget();
	kerninst_spots_unmap(spots);
}

/* One more stop: @outcome becomes its own, but for the longest stop. */
static int stop(struct kerninst_spots *spots, enum kerninst_phase phase,
		struct kerninst_outcome *outcome)
{
	struct kerninst_outcome before = *outcome;
	int err = kerninst_stop(spots, phase, outcome);

	outcome->ns = max(outcome->ns, before.ns);
	outcome->retracted = before.retracted;
	outcome->retracted_ns = before.retracted_ns;
	if (!outcome->entered)
		outcome->standing = before.standing;
	return err;
}

/* APPLY did not come to pass: take the int3s back. */
static void retreat(struct kerninst_spots *spots,
		    struct kerninst_outcome *outcome)
{
	struct kerninst_outcome back = *outcome;

	stop(spots, PHASE_RETRACT, &back);
	outcome->ns = back.ns;
	outcome->standing = back.standing;
	if (back.left) {
		outcome->left = back.left;
		outcome->first = back.first;
		memcpy(outcome->live, back.live, sizeof(outcome->live));
	}
	wait_for_all();
}

/**
 * kerninst_course_apply - write all splices, or none
 * @spots: made by kerninst_spots_make(); their patches are in the area. They
 *         must stay where they are while outcome->standing
 * @outcome: out: left > 0: nothing is applied, since outcome->first has
 *           changed; standing > 0: and that many int3s could not be taken back
 *
 * Context: may sleep; the caller holds the state's mutex.
 * Return: 0; -ENOMEM or stop_machine()'s errno: nothing is applied.
 */
int kerninst_course_apply(struct kerninst_spots *spots,
			  struct kerninst_outcome *outcome)
{
	int err = begin(spots, outcome);

	if (err)
		return err;
	if (spots->windows) {
		err = stop(spots, PHASE_TRAP, outcome);
		if (err || outcome->left)
			goto out;
		wait_for_all();
	}
	err = stop(spots, PHASE_APPLY, outcome);
	if (spots->windows && (err || outcome->left))
		retreat(spots, outcome);
out:
	end(spots, outcome);
	return err;
}

/**
 * kerninst_course_remove - write the original bytes back where ours still are
 * @spots: applied before, perhaps removed in part
 * @outcome: out: left: how many were not, since others have changed them
 *
 * After it returns 0 with nothing left, no CPU and no thread is in a patch.
 *
 * Context and return value: as kerninst_course_apply(), but that an error may
 * come after some were restored: outcome->retracted.
 */
int kerninst_course_remove(struct kerninst_spots *spots,
			   struct kerninst_outcome *outcome)
{
	int err = begin(spots, outcome);

	if (err)
		return err;
	err = stop(spots, PHASE_RETRACT, outcome);
	if (err || outcome->left)
		goto out;
	outcome->retracted = true;
	outcome->retracted_ns = ktime_get_real_ns();
	wait_for_all();
	if (!spots->windows && !spots->boards)
		goto out;
	err = stop(spots, PHASE_RESTORE, outcome);
	if (!err && !outcome->left)
		wait_for_all();
out:
	end(spots, outcome);
	return err;
}
