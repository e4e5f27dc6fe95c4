// From one instruction to another that differs in its registers alone, so that iced is asked once for `add r, [m]` and
// not for each register and address. The sibling has r13 for the register of ModRM.reg, r14 for that of ModRM.rm and a
// bare 32-bit address for memory, neither of which any of the opcodes below uses of itself. Facts then carry over by
// role: r13 and r14 become the true registers, and base and index are read.
// Exact, not an approximation: test/code.test.ts compares every instruction of two kernels with iced's own answer.
// Left out, and so asked of iced: other opcodes, and forms with one register in both roles (xor r,r does not read r).

import { FLOW_MASK, FLOW_SHIFT, LENGTH_MASK, RIP_SHIFT } from './facts.js'
import { FLOW } from './flow.js'
import { ALL, R13, R14, type RegisterSet } from './registers.js'

// What the fields of ModRM are.
const SERVED = 1
const EXTENDS = 2 //   reg is part of the opcode
const REG_BYTE = 4 //  the register of reg is a byte; so ah..bh without REX
const RM_BYTE = 8

/** (0F ? 256 : 0) + opcode -> bits; 0: not served */
const ROLES = new Uint8Array(512)
{
  const set = (roles: number, ...opcodes: number[]): void => {
    for (const opcode of opcodes) ROLES[opcode] = SERVED | roles
  }
  const span = (roles: number, first: number, last: number): void => {
    for (let opcode = first; opcode <= last; opcode++) set(roles, opcode)
  }
  const bytes = REG_BYTE | RM_BYTE
  for (let row = 0; row < 0x40; row += 8) {
    set(bytes, row, row + 2)
    set(0, row + 1, row + 3)
  }
  set(0, 0x63, 0x69, 0x6b, 0x85, 0x87, 0x89, 0x8b, 0x8d)
  set(bytes, 0x84, 0x86, 0x88, 0x8a)
  set(EXTENDS | RM_BYTE, 0x80, 0xc0, 0xc6, 0xd0, 0xd2, 0xf6, 0xfe)
  set(EXTENDS, 0x81, 0x83, 0xc1, 0xc7, 0xd1, 0xd3, 0xf7, 0xff)
  span(0, 0x140, 0x14f)
  span(EXTENDS | RM_BYTE, 0x190, 0x19f)
  set(0, 0x1a3, 0x1a4, 0x1a5, 0x1ab, 0x1ac, 0x1ad, 0x1af, 0x1b1, 0x1b3, 0x1b7, 0x1b8, 0x1bb, 0x1bc, 0x1bd, 0x1bf, 0x1c1)
  set(bytes, 0x1b0, 0x1c0)
  set(RM_BYTE, 0x1b6, 0x1be)
  set(EXTENDS, 0x1ba)
}

const REX = 0x40
const REX_R = 4
const REX_X = 2
const REX_B = 1
const NO_BASE_SIB = 0x25
const MAX_TRAIL = 8 //  bytes of immediate
const MAX_HEAD = 24 //  bytes before it: 14 of prefixes, REX, two of opcode, ModRM, SIB, displacement


/** The set of one register by its number. Without REX, the bytes 4..7 are ah..bh. */
const bitOf = (number: number, byte: boolean, rex: boolean): RegisterSet =>
  1 << (byte && !rex && number >= 4 ? number - 4 : number)

export class Sibling {
  /** The sibling's bytes, padded with zeros. */
  readonly bytes = new Uint8Array(MAX_HEAD + MAX_TRAIL)
  #reg: RegisterSet = 0 // the true register of ModRM.reg; 0: none
  #rm: RegisterSet = 0 //  of ModRM.rm; 0: memory
  #address: RegisterSet = 0 // base and index
  #lengthChange = 0 // the instruction's length less the sibling's, from the opcode on
  #ripAt = 0 //        place of a rip-relative displacement, from the opcode on; 0: none

  /**
   * Makes the sibling of the instruction at `at`, whose opcode is at `opcodeAt` and which ends before `end`; it must
   * have a key (key.ts).
   * @returns whether there is one, other than itself
   */
  make(bytes: Uint8Array, at: number, opcodeAt: number, end: number): boolean {
    let p = opcodeAt
    let code = bytes[p++]!
    if (code === 0x0f) code = 0x100 | bytes[p++]!
    const roles = ROLES[code]!
    if (roles === 0) return false
    const modrm = bytes[p++]!
    const lastPrefix = opcodeAt > at ? bytes[opcodeAt - 1]! : 0
    const hasRex = (lastPrefix & 0xf0) === REX
    const rex = hasRex ? lastPrefix : 0
    const regNumber = ((modrm >>> 3) & 7) | (rex & REX_R ? 8 : 0)
    let rmNumber = (modrm & 7) | (rex & REX_B ? 8 : 0)
    const extended = (roles & EXTENDS) !== 0
    const regBit = extended ? 0 : bitOf(regNumber, (roles & REG_BYTE) !== 0, hasRex)
    const inRegister = modrm >= 0xc0
    let rmBit = 0
    let address = 0
    let lengthChange = 0
    let ripAt = 0
    if (inRegister) {
      rmBit = bitOf(rmNumber, (roles & RM_BYTE) !== 0, hasRex)
      if (rmBit === regBit) return false
      if (rmNumber === 14 && (extended || regNumber === 13)) return false
    } else {
      let noBase = false
      const withSib = (modrm & 7) === 4
      if (withSib) {
        const sib = bytes[p++]!
        rmNumber = (sib & 7) | (rex & REX_B ? 8 : 0)
        const index = ((sib >>> 3) & 7) | (rex & REX_X ? 8 : 0)
        if (index !== 4) address |= 1 << index
        noBase = modrm < 0x40 && (sib & 7) === 5
        if (noBase && address === 0 && (extended || regNumber === 13)) return false
      } else if (modrm < 0x40 && (modrm & 7) === 5) {
        noBase = true
        ripAt = p - opcodeAt
      }
      if (!noBase) address |= 1 << rmNumber
      const displacement = noBase || modrm >= 0x80 ? 4 : modrm >= 0x40 ? 1 : 0
      p += displacement
      lengthChange = (withSib ? 1 : 0) + displacement - 5
    }
    // Nothing changes before here: asking for the sibling's facts asks whether it has a sibling.
    this.#reg = regBit
    this.#rm = rmBit
    this.#address = address
    this.#lengthChange = lengthChange
    this.#ripAt = ripAt

    const to = this.bytes
    to.fill(0)
    let n = 0
    for (let i = at; i < opcodeAt - (hasRex ? 1 : 0); i++) to[n++] = bytes[i]!
    to[n++] = REX | (rex & (8 | REX_R)) | (extended ? 0 : REX_R) | (inRegister ? REX_B : 0)
    if (code >= 0x100) to[n++] = 0x0f
    to[n++] = code & 0xff
    const reg = extended ? modrm & 0x38 : 5 << 3
    if (inRegister) to[n++] = 0xc0 | reg | 6
    else {
      to[n++] = reg | 4
      to[n++] = NO_BASE_SIB
      n += 4
    }
    for (let i = 0; i < MAX_TRAIL && p + i < end; i++) to[n++] = bytes[p + i]!
    return true
  }

  /**
   * Writes the facts of the instruction of the last `make` to facts[row...], from its sibling's at facts[from...].
   * @returns false where they do not carry over; then nothing is written
   */
  carry(facts: Int32Array, from: number, row: number): boolean {
    const effect = facts[from + 2]!
    const flow = (effect >>> FLOW_SHIFT) & FLOW_MASK
    if (flow === FLOW.system || flow === FLOW.invalid) return false
    const reads = this.#named(facts[from]!) | this.#address
    const shape = facts[from + 3]!
    facts[row] = reads
    facts[row + 1] = this.#named(facts[from + 1]!) & ~reads
    facts[row + 2] = this.#named(effect & ALL) | (effect & ~ALL)
    facts[row + 3] = (shape & ~LENGTH_MASK) | ((shape & LENGTH_MASK) + this.#lengthChange) | (this.#ripAt << RIP_SHIFT)
    return true
  }

  #named(set: RegisterSet): RegisterSet {
    return (set & ~(R13 | R14)) | (set & R13 ? this.#reg : 0) | (set & R14 ? this.#rm : 0)
  }
}
