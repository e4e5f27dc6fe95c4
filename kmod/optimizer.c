// SPDX-License-Identifier: GPL-2.0-only
/*
 * optimizer: the kernel's optimizer of kprobes, held while a bundle is applied:
 * no kprobe that is registered meanwhile becomes a jump. It stays a trap.
 *
 * Before the kernel writes a jump of five bytes over several instructions, it
 * decodes the whole function, lest something jumps to one of them but the
 * first (arch/x86/kernel/kprobes/opt.c, can_optimize(); 6.1 and 6.12). While
 * we are applied, it does not find all such jumps there: some run in our
 * patches. With one hidden so, a kprobe at the instruction before its target
 * crashes the kernel (seen on 6.1). What was registered before us was decided
 * on the kernel's own text, and decides nothing again; what we jump to were
 * jump targets then.
 *
 * So arch_prepare_optimized_kprobe() is replaced by one that always says no,
 * the way livepatch replaces a function: by the tracer, with
 * FTRACE_OPS_FL_IPMODIFY. It is asked once, in register_kprobe(), and a kprobe
 * that it has denied is none that could be optimized later, also when we are
 * gone. Kprobes that the tracer runs (at a function's entry) do not ask.
 */
#include <linux/ftrace.h>
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/slab.h>
#include "compat.h"
#include "kerninst.h"

#if !IS_ENABLED(CONFIG_OPTPROBES) /* no optimizer */

int kerninst_optimizer_hold(struct kerninst_request *req)
{
	return 0;
}

void kerninst_optimizer_release(void)
{
}

#elif !IS_ENABLED(CONFIG_DYNAMIC_FTRACE_WITH_REGS) /* nothing to hold it with */

int kerninst_optimizer_hold(struct kerninst_request *req)
{
	req->value = EOPNOTSUPP;
	return kerninst_refuse(req, KERNINST_E_OPTIMIZER);
}

void kerninst_optimizer_release(void)
{
}

#else

/*
 * While held, else NULL; state.c's mutex guards it. A new one each time: in
 * 6.1, a filter that was freed stays in it.
 */
static struct ftrace_ops *holder;

/* Context: kprobe_mutex held; does not sleep. */
static notrace int deny(struct optimized_kprobe *op, struct kprobe *unused)
{
	return -EBUSY;
}

static void notrace go_to_deny(unsigned long ip, unsigned long parent_ip,
			       struct ftrace_ops *ops, struct ftrace_regs *regs)
{
	ftrace_regs_set_instruction_pointer(regs, (unsigned long)deny);
}

static int hold(void)
{
	static unsigned char name[] = "arch_prepare_optimized_kprobe";
	struct ftrace_ops *ops = MAY_FAIL(kzalloc(sizeof(*ops), GFP_KERNEL));
	int err;

	if (!ops)
		return -ENOMEM;
	ops->func = go_to_deny;
	/* As livepatch has them: kernel/livepatch/patch.c, 6.1 and 6.12. */
	ops->flags = FTRACE_OPS_FL_IPMODIFY | FTRACE_OPS_FL_PERMANENT |
		(IS_ENABLED(CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS) ? 0 :
		 FTRACE_OPS_FL_SAVE_REGS);
	err = MAY_ERR(-ENOMEM, ftrace_set_filter(ops, name, sizeof(name) - 1,
						 1));
	if (err)
		goto free_ops;
	err = MAY_ERR(-ENOMEM, register_ftrace_function(ops));
	if (err)
		goto free_filter;
	holder = ops;
	return 0;

free_filter:
	ftrace_free_filter(ops);
free_ops:
	kfree(ops);
	return err;
}

/**
 * kerninst_optimizer_hold - from here on no new kprobe becomes a jump
 * @req: takes the reason
 *
 * Context: may sleep; the kprobes' mutex is held, as the kernel's own holds it
 * where it registers with the tracer (kernel/kprobes.c, __arm_kprobe_ftrace();
 * 6.1 and 6.12). Return: 0, or the errno of KERNINST_E_OPTIMIZER.
 */
int kerninst_optimizer_hold(struct kerninst_request *req)
{
	int err = holder ? 0 : hold();

	if (!err)
		return 0;
	req->value = -err;
	return kerninst_refuse(req, KERNINST_E_OPTIMIZER);
}

/* Nothing is applied any more. Context: may sleep; nothing to do if not held. */
void kerninst_optimizer_release(void)
{
	int err;

	if (!holder)
		return;
	/*
	 * Waits for every CPU that may be in go_to_deny() or deny(), and for
	 * every task that may be preempted there: synchronize_rcu_tasks() in
	 * kernel/trace/ftrace.c, ftrace_shutdown(), since the ops are not the
	 * kernel's own (6.1 and 6.12).
	 */
	err = unregister_ftrace_function(holder);
	if (err) {
		/* The tracer has given up (ftrace_kill()), and may still call us. */
		pr_warn("kerninst: the function tracer does not let go (%d): the module stays\n",
			err);
		__module_get(THIS_MODULE);
		return;
	}
	ftrace_free_filter(holder);
	kfree(holder);
	holder = NULL;
}

#endif
