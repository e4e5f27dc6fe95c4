// What the rest of the kernel may expect of registers at calls and returns, from facts that hold for single functions.
//
// The calling convention alone is unsound: gcc's -fipa-ra lets a caller keep a value in a caller-saved register over a
// call to a function of its own file that it knows not to touch it, and assembly has contracts of its own. So the
// convention is used only for *traced* functions, those with an ftrace site, where the kernel itself relies on it:
//  - At their entry, ftrace_caller keeps rax, rcx, rdx, rsi, rdi, r8, r9 and rbp for the function, and loses r10, r11
//    and the flags (arch/x86/kernel/ftrace_64.S, save_mcount_regs/restore_mcount_regs; 6.1 and 6.12).
//  - At their return, the function graph tracer and kretprobes may run return_to_handler or a rethook trampoline;
//    the former keeps only rax and rdx (ftrace_64.S, return_to_handler), and the C it calls keeps what the convention
//    says: rbx, rbp, rsp, r12-r15. Whatever else a caller might keep over the call would be lost by tracing.
// A call to anything else (assembly, untraced code, through a pointer, a thunk or a static call) is taken to read every
// register and flag and to overwrite none; a return from an untraced function leaves all live.

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

/** What may be read after a jump to a traced function in place of a return: its arguments, and the caller's registers. */
export const LIVE_AT_TAIL_CALL: RegisterSet = CALLEE_SAVED | READ_AT_ENTRY

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

/** What is live where a function returns. */
export const liveAtReturn = (image: Image, start: Rva): RegisterSet => (isTraced(image, start) ? LIVE_AT_RETURN : ALL)

/** What is live where a function jumps away to `target` (NONE: unknown) in place of a return. */
export const liveAtTailCall = (image: Image, target: Rva): RegisterSet =>
  target !== NONE && isTraced(image, target) ? LIVE_AT_TAIL_CALL : ALL
