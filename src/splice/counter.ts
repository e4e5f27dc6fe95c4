// Counting code: adds one to this CPU's counter of each slot, and leaves every live register and flag as it was.
//
//     movabs $slot,%r          the slot's per-CPU pointer, filled in on the target
//     incq   %gs:(%r)          one instruction, so neither preemption nor migration nor an interrupt can split it
//
// It is what this_cpu_inc() compiles to for a dynamic per-CPU pointer (arch/x86/include/asm/percpu.h). No lock prefix
// is needed: only this CPU writes its counter, and interrupts and NMIs come between instructions. inc leaves CF alone;
// the other flags, where live, are kept in AH and AL by lahf and seto, since pushf and popf are slow.

import { FLAGS, CF, OF, RAX, REGISTER_NAMES, type RegisterSet } from '../code/registers.js'
import type { CodeBuffer } from './code.js'
import { FIXUP_KIND } from './tables.js'

// In this order a pointer register is taken. rsp, rbp, r12 and r13 would need longer encodings of (%r).
const POINTERS = [0, 1, 2, 6, 7, 8, 9, 10, 11, 3, 14, 15] as const

const POINTER_SET: RegisterSet = POINTERS.reduce<RegisterSet>((set, r) => set | (1 << r), 0)

const push = (code: CodeBuffer, r: number): void => (r < 8 ? code.emit(0x50 + r) : code.emit(0x41, 0x50 + (r & 7)))
const pop = (code: CodeBuffer, r: number): void => (r < 8 ? code.emit(0x58 + r) : code.emit(0x41, 0x58 + (r & 7)))

/** movabs $slot,%r; incq %gs:(%r) */
const increment = (code: CodeBuffer, r: number, slot: number): void => {
  const high = r >>> 3
  const low = r & 7
  code.emit(0x48 | high, 0xb8 | low)
  code.field(FIXUP_KIND.slot64, slot, 0)
  code.word(0) // its upper half
  code.emit(0x65, 0x48 | high, 0xff, low)
}

/** Appends code that counts `slots`, given what is live where it runs. */
export const emitCounters = (code: CodeBuffer, live: RegisterSet, slots: readonly number[]): void => {
  const flags = live & FLAGS & ~CF
  if (flags === 0) {
    const dead = POINTERS.find((r) => (live & (1 << r)) === 0)
    const r = dead ?? 0
    if (dead === undefined) push(code, r)
    for (const slot of slots) increment(code, r, slot)
    if (dead === undefined) pop(code, r)
    return
  }
  const saveRax = (live & RAX) !== 0
  const dead = POINTERS.find((r) => r !== 0 && (live & (1 << r)) === 0)
  const r = dead ?? 1
  if (saveRax) push(code, 0)
  if (dead === undefined) push(code, r)
  code.emit(0x9f) // lahf: SF, ZF, AF, PF, CF
  if (flags & OF) code.emit(0x0f, 0x90, 0xc0) // seto %al
  for (const slot of slots) increment(code, r, slot)
  if (flags & OF) code.emit(0x04, 0x7f) // add $0x7f,%al: overflows exactly when %al is 1
  code.emit(0x9e) // sahf
  if (dead === undefined) pop(code, r)
  if (saveRax) pop(code, 0)
}

/** How many instructions emitCounters would append for one slot. */
export const counterCost = (live: RegisterSet): number => {
  if ((live & FLAGS & ~CF) === 0) return (live & POINTER_SET) === POINTER_SET ? 4 : 2
  return 4 + (live & OF ? 2 : 0) + (live & RAX ? 2 : 0) + ((live & POINTER_SET & ~RAX) === (POINTER_SET & ~RAX) ? 2 : 0)
}

/** What the code uses, for listings: 'rcx', 'rax (saved), flags'. */
export const describeLive = (live: RegisterSet): string => {
  const dead = REGISTER_NAMES.filter((_, r) => (live & (1 << r)) === 0 && r !== 4)
  const flags = live & FLAGS & ~CF ? 'flags live' : 'flags free'
  return `${dead.length ? `free: ${dead.join(' ')}` : 'no free register'}; ${flags}`
}
