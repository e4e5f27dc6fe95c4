// What the rest of the kernel may expect of registers at calls and returns where summaries cannot tell: rules, each with
// its evidence.
//
// The calling convention alone is unsound: gcc's -fipa-ra lets a caller keep a value in a caller-saved register over a
// call to a function of its own file that it knows not to touch it, and assembly has contracts of its own. So the
// convention is used only for *traced* functions, those with an ftrace site, where the kernel itself relies on it:
//  - At their entry, ftrace_caller keeps rax, rcx, rdx, rsi, rdi, r8, r9 and rbp for the function, and loses r10, r11
//    and the flags (arch/x86/kernel/ftrace_64.S, save_mcount_regs/restore_mcount_regs; 6.1 and 6.12).
//  - At their return, the function graph tracer and kretprobes may run return_to_handler or a rethook trampoline;
//    the former keeps only rax and rdx (ftrace_64.S, return_to_handler), and the C it calls keeps what the convention
//    says: rbx, rbp, rsp, r12-r15. Whatever else a caller might keep over the call would be lost by tracing.
//  - A traced callee may read every argument register, whatever its own code reads: livepatch, BPF and fault injection
//    may put another function of the same prototype in its place.
//
// A call through a pointer, a retpoline thunk, a static call or a paravirtual call is taken to overwrite nothing, since
// inline assembly makes some with clobber lists of its own (Hyper-V's hypercalls keep rsi and rdi,
// arch/x86/include/asm/mshyperv.h, 6.1). In a traced function, which is compiled, it is taken to read everything but r11
// and the flags: no convention passes anything in those (System V ABI 3.2.3; r10 is the static chain, and an argument of
// Xen's hypercalls), and the inline assembly that calls through pointers hands over flags only from a popf of its own
// (KVM's fastop, arch/x86/kvm/emulate.c): where an instruction that sets flags for someone stands before such a call, it
// reads them too. Anywhere else it reads everything.

import {
  ALL, FLAGS, R10, R11, R12, R13, R14, R15, R8, R9, RAX, RBP, RBX, RCX, RDI, RDX, RSI, RSP, type RegisterSet,
} from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'

const CALLEE_SAVED: RegisterSet = RBX | RBP | RSP | R12 | R13 | R14 | R15

/** What a traced function may read when it is entered, beside what it only saves and restores. */
export const READ_AT_ENTRY: RegisterSet = RAX | RCX | RDX | RSI | RDI | R8 | R9 | RSP

/** What is lost when a traced function is called, whatever it does itself. */
export const LOST_OVER_CALL: RegisterSet = RCX | RSI | RDI | R8 | R9 | R10 | R11 | FLAGS

/** What a caller of a traced function may read after the return. */
export const LIVE_AT_RETURN: RegisterSet = CALLEE_SAVED | RAX | RDX

/** What may be read behind an ftrace site, or by the tracer that it calls. */
export const READ_AT_FTRACE_SITE: RegisterSet = CALLEE_SAVED | READ_AT_ENTRY

/** What is lost at an ftrace site where someone traces, so that nobody relies on it. */
export const LOST_AT_FTRACE_SITE: RegisterSet = R10 | R11 | FLAGS

/** What a call through a pointer may read when compiled code makes it, beside what holds the pointer. */
export const READ_BY_POINTER_CALL: RegisterSet = ALL & ~(R11 | FLAGS)

/**
 * Whether the function that starts at an rva has an ftrace site: at its start, or after an ENDBR of four bytes
 * (CONFIG_X86_KERNEL_IBT).
 */
export const isTraced = (image: Image, start: Rva): boolean => ftraceSite(image, start) !== NONE

/** The rva of a function's ftrace site, or NONE. */
export const ftraceSite = (image: Image, start: Rva): Rva => {
  const { ftrace } = image.tables
  const i = lowerBound(ftrace, start)
  if (i >= ftrace.length) return NONE
  const site = ftrace[i]!
  return site === start || (site === start + 4 && image.functions.functionAt(site) === image.functions.functionAt(start))
    ? site
    : NONE
}
