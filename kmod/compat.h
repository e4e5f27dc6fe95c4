/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What differs between the kernels that one source serves: the only place
 * with version #ifs. Built and run on 6.1 and 6.12.
 */
#ifndef KERNINST_COMPAT_H
#define KERNINST_COMPAT_H

#include <linux/version.h>
#include <linux/ftrace.h>
#include <linux/mm.h>

/* vm_flags became read-only, with helpers that write them, in 6.3. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void kerninst_vm_flags_mod(struct vm_area_struct *vma,
					 unsigned long set, unsigned long clear)
{
	vma->vm_flags = (vma->vm_flags | set) & ~clear;
}
#else
static inline void kerninst_vm_flags_mod(struct vm_area_struct *vma,
					 unsigned long set, unsigned long clear)
{
	vm_flags_mod(vma, set, clear);
}
#endif

/* Until 6.1 it had another name, for the same (both are macros on x86). */
#ifndef ftrace_regs_set_instruction_pointer
#define ftrace_regs_set_instruction_pointer(regs, ip) \
	ftrace_instruction_pointer_set(regs, ip)
#endif

#endif
