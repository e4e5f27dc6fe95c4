// The kernel's own unwind tables (ORC), as far as one question needs them: whether the return address lies on top of the
// stack at an instruction. In: .orc_unwind_ip and .orc_unwind. objtool makes them by following every path, so a return
// for which they say otherwise is no return but a jump.
// Left out: everything else that ORC tells. An image without it answers no.

import { viewOf } from './address.js'
import type { Memory } from './memory.js'
import type { Rva } from './rva.js'

// struct orc_entry: s16 sp_offset, s16 bp_offset, then bits 0-3 sp_reg, 4-7 bp_reg, and the type from bit 8 on, 2 bits
// in 6.1 and 3 in 6.5 and later (arch/x86/include/asm/orc_types.h).
const ENTRY_BYTES = 6
const REG_SP = 5
const RETURN_ADDRESS_BYTES = 8

export class Orc {
  readonly #ip: Uint32Array // entry -> rva from which it holds, ascending
  readonly #onTop: Uint8Array // entry -> 1 when the return address is at (%rsp)

  constructor(memory: Memory) {
    const ips = memory.sections.find(({ section }) => section.name === '.orc_unwind_ip')
    const entries = memory.sections.find(({ section }) => section.name === '.orc_unwind')
    const count = ips && entries ? (ips.end - ips.start) / 4 : 0
    const whole = Number.isInteger(count) && entries !== undefined && entries.end - entries.start === count * ENTRY_BYTES
    this.#ip = new Uint32Array(whole ? count : 0)
    this.#onTop = new Uint8Array(whole ? count : 0)
    if (!whole) return
    const ipView = viewOf(memory.bytesOf(ips!))
    const view = viewOf(memory.bytesOf(entries))
    for (let i = 0; i < count; i++) {
      this.#ip[i] = (ips!.start + i * 4 + ipView.getInt32(i * 4, true)) >>> 0
      const at = i * ENTRY_BYTES
      this.#onTop[i] = view.getInt16(at, true) === RETURN_ADDRESS_BYTES && (view.getUint8(at + 4) & 15) === REG_SP ? 1 : 0
    }
  }

  /** Whether the return address is on top of the stack before the instruction at an rva. */
  returnsThere(rva: Rva): boolean {
    let low = 0
    let high = this.#ip.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.#ip[middle]! <= rva) low = middle + 1
      else high = middle
    }
    return low > 0 && this.#onTop[low - 1] === 1
  }
}
