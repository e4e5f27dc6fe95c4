// General registers as iced names them, of any width, as bits of a set: what the programs of test/native take.

import { Register } from 'iced-x86'

/** The set of one general register, of 16, 32 or 64 bits; 0 for others. */
export const setOf = (register: Register): number => {
  for (const first of [Register.AX, Register.EAX, Register.RAX]) {
    if (register >= first && register < first + 16) return 1 << (register - first)
  }
  return 0
}
