// General registers as iced names them, by the number that instructions have for the 64-bit register that they lie in.

import { Register } from './iced.js'

/** iced's register -> number of the general register that it is or is part of, or -1. */
const FULL = (() => {
  const numbers = new Int8Array(256).fill(-1)
  const row = (first: Register, count: number, from = 0): void => {
    for (let i = 0; i < count; i++) numbers[first + i] = from + i
  }
  row(Register.AL, 4)
  row(Register.AH, 4)
  row(Register.SPL, 4, 4)
  row(Register.R8L, 8, 8)
  for (const first of [Register.AX, Register.EAX, Register.RAX]) row(first, 16)
  return numbers
})()

/** The number of the general register that one is or is part of, or -1. */
export const fullNumber = (register: Register): number => FULL[register]!

/** The same, but -1 also for high bytes (ah to bh). */
export const lowNumber = (register: Register): number =>
  register >= Register.AH && register <= Register.BH ? -1 : fullNumber(register)
