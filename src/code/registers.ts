// A register set is one integer. Bit i (0..15) is the general register with encoding number i, at any width; the flags
// follow, one bit each. DF, IF and the system flags are left out: no patch changes them. So are vector, mask, segment
// and control registers, for the same reason.

export type RegisterSet = number

export const RAX = 1 << 0
export const RCX = 1 << 1
export const RDX = 1 << 2
export const RBX = 1 << 3
export const RSP = 1 << 4
export const RBP = 1 << 5
export const RSI = 1 << 6
export const RDI = 1 << 7
export const R8 = 1 << 8
export const R9 = 1 << 9
export const R10 = 1 << 10
export const R11 = 1 << 11
export const R12 = 1 << 12
export const R13 = 1 << 13
export const R14 = 1 << 14
export const R15 = 1 << 15
export const CF = 1 << 16
export const PF = 1 << 17
export const AF = 1 << 18
export const ZF = 1 << 19
export const SF = 1 << 20
export const OF = 1 << 21

export const GPRS: RegisterSet = 0xffff
export const FLAGS: RegisterSet = CF | PF | AF | ZF | SF | OF
export const ALL: RegisterSet = GPRS | FLAGS

/** Number (0..15) -> name of the 64-bit register. */
export const REGISTER_NAMES = [
  'rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi',
  'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15',
] as const

/** Bit 16 + i -> name of the flag. */
export const FLAG_NAMES = ['cf', 'pf', 'af', 'zf', 'sf', 'of'] as const

/** The names in a set, registers first. */
export const namesOf = (set: RegisterSet): string[] => [
  ...REGISTER_NAMES.filter((_, i) => set & (1 << i)),
  ...FLAG_NAMES.filter((_, i) => set & (1 << (16 + i))),
]
