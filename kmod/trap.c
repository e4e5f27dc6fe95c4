// SPDX-License-Identifier: GPL-2.0-only
/*
 * trap: an int3 of ours in, where the CPU that ran into it goes on out.
 *
 * Two kinds of int3 are ours. One stands for an instant, while the machine is
 * stopped, where a splice cannot be written with one store: only an NMI or a
 * machine check can run into it, and goes where the splice would have sent it.
 * The other stands on the first byte of a window while threads leave it: some
 * tenths of a second in which the machine runs and everybody may run into it.
 * Who does goes to the window's bypass.
 *
 * So what a CPU runs between an int3 and kerninst_trap() must hold none:
 * the planner leaves out what splice/reserved.ts lists, and all that the
 * kernel itself keeps kprobes away from.
 */
#include <linux/kdebug.h>
#include <linux/kprobes.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <asm/text-patching.h>
#include "kerninst.h"

/*
 * The spots whose int3s may be ours. Set before the first is written and
 * cleared after the last is gone, so that every trap on one finds it. Traps
 * are looked up under rcu_read_lock() (kernel/notifier.c,
 * atomic_notifier_call_chain(); 6.1 and 6.12).
 */
static const struct kerninst_spots *trapped;

/* The spot at @addr, or NULL. */
static __always_inline const struct kerninst_spot *
find_spot(const struct kerninst_spots *spots, unsigned long addr)
{
	u32 low = 0, high = spots->count, middle;

	while (low < high) {
		middle = low + (high - low) / 2;
		if (spots->spot[middle].addr < addr)
			low = middle + 1;
		else
			high = middle;
	}
	if (low == spots->count || spots->spot[low].addr != addr)
		return NULL;
	return &spots->spot[low];
}

/*
 * A CPU ran into an int3.
 * Context: exception, anywhere, possibly inside an NMI.
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
	spot = find_spot(spots, regs->ip - INT3_INSN_SIZE);
	/* Written before the int3 was: who runs into that sees it set. */
	if (!spot || !READ_ONCE(spot->trap))
		return NOTIFY_DONE;
	if (spot->flags == KERNINST_WINDOW) {
		int3_emulate_jmp(regs, spot->bypass);
		return NOTIFY_STOP;
	}
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

/* From here on these spots' int3s are ours. Context: any. */
void kerninst_trap_watch(const struct kerninst_spots *spots)
{
	WRITE_ONCE(trapped, spots);
}

/* No int3 of ours is left. Context: may sleep. */
void kerninst_trap_forget(void)
{
	WRITE_ONCE(trapped, NULL);
	/* A trap elsewhere may still be looking its address up. */
	synchronize_rcu();
}

/* Context: module load; may sleep. */
int kerninst_trap_init(void)
{
	return MAY_ERR(-ENOMEM, register_die_notifier(&trap_notifier));
}

/* Context: module unload; may sleep. */
void kerninst_trap_exit(void)
{
	unregister_die_notifier(&trap_notifier);
}
