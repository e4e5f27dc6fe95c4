// The kernel's own unwind tables (ORC), as far as two questions need them: where on the stack a function's return
// address lies at an instruction, and whether a return is one. In: .orc_unwind_ip and .orc_unwind. objtool makes them
// by following every path, so a return for which they say otherwise than "on top" is no return but a jump.
// Invariant: an answer is one that the tables give in so many words. An image without them, or with tables that are not
// as expected, answers "not known" and no. So do the tables where objtool was told not to look: in functions that are
// STACK_FRAME_NON_STANDARD, in files that are OBJECT_FILES_NON_STANDARD.
// Left out: everything else that ORC tells, and frames that are found by another register than %rsp.

import { viewOf } from './address.js'
import type { Memory } from './memory.js'
import type { Rva } from './rva.js'
import { lowerBound } from './search.js'

// struct orc_entry (arch/x86/include/asm/orc_types.h, 6.1 and 6.12): s16 sp_offset, s16 bp_offset, then 4 bits sp_reg
// and 4 bits bp_reg, then a byte of:
//   6.1   bits 0-1 type, bit 2 end of the stack; a call's frame is type 0 (UNWIND_HINT_TYPE_CALL, linux/objtool.h)
//   6.12  bits 0-2 type, bit 3 signal; a call's frame is type 2 (ORC_TYPE_CALL)
// Type 2 of 6.1 is an interrupt's frame (REGS_PARTIAL), which may have the very offset that a call's has. No version
// number says which form a table has: .orc_header, which 6.1 lacks and 6.12 has, holds a hash of that header's text.
// Signal and end are bits of other places in versions between; a call's frame that has either set is not believed.
const ENTRY_BYTES = 6
const REG_SP = 5
const TYPE_MASK = 7
/** The whole byte, of a call's frame. */
const CALL_OLD = 0
const CALL_NEW = 2
const RETURN_ADDRESS_BYTES = 8
const UNKNOWN = -1

/**
 * Which byte a call's frame has in a table, told from the table itself. In the new form types 0 and 1 mean that there
 * is no frame, and objtool leaves the rest of such an entry zero (init_orc_entry, tools/objtool/arch/x86/orc.c, 6.12);
 * so an entry of type 0 that names %rsp is of the old form, whose tables are full of them.
 * @returns undefined where the image has a header, which the old form has not, and yet such entries
 */
const callByte = (entries: DataView, hasHeader: boolean): number | undefined => {
  for (let at = 0; at < entries.byteLength; at += ENTRY_BYTES) {
    const isOld = (entries.getUint8(at + 4) & 15) === REG_SP && (entries.getUint8(at + 5) & TYPE_MASK) === CALL_OLD
    if (isOld) return hasHeader ? undefined : CALL_OLD
  }
  return CALL_NEW
}

export class Orc {
  readonly #ip: Uint32Array // entry -> rva from which it holds, ascending
  readonly #offset: Int16Array // entry -> sp_offset, from %rsp to the end of the frame; UNKNOWN: not from %rsp
  readonly #isCall: Uint8Array // entry -> 1 when that is the frame of a call, whose return address is its last word

  constructor(memory: Memory) {
    const named = (name: string) => memory.sections.find(({ section }) => section.name === name)
    const ips = named('.orc_unwind_ip')
    const rows = named('.orc_unwind')
    const count = ips && rows ? (ips.end - ips.start) / 4 : 0
    const whole = Number.isInteger(count) && rows !== undefined && rows.end - rows.start === count * ENTRY_BYTES
    this.#ip = new Uint32Array(whole ? count : 0)
    this.#offset = new Int16Array(whole ? count : 0)
    this.#isCall = new Uint8Array(whole ? count : 0)
    if (!whole) return
    const ipView = viewOf(memory.bytesOf(ips!))
    const view = viewOf(memory.bytesOf(rows))
    const call = callByte(view, named('.orc_header') !== undefined)
    let sorted = true // as the kernel's build leaves them (scripts/sorttable.h, 6.1 and 6.12)
    for (let i = 0; i < count; i++) {
      this.#ip[i] = (ips!.start + i * 4 + ipView.getInt32(i * 4, true)) >>> 0
      if (i > 0 && this.#ip[i]! < this.#ip[i - 1]!) sorted = false
      const at = i * ENTRY_BYTES
      this.#offset[i] = (view.getUint8(at + 4) & 15) === REG_SP ? view.getInt16(at, true) : UNKNOWN
      this.#isCall[i] = view.getUint8(at + 5) === call ? 1 : 0
    }
    if (!sorted) this.#ip = new Uint32Array(0)
  }

  /** The last entry for an rva: of several at one place, what begins there follows what ends there. */
  #entryAt(rva: Rva): number {
    return lowerBound(this.#ip, rva + 1) - 1
  }

  /**
   * How many bytes above %rsp the word lies that holds the return address of the function, before the instruction at an
   * rva: 0 at its entry. -1 where the tables do not say so.
   */
  returnAddressAt(rva: Rva): number {
    const entry = this.#entryAt(rva)
    if (entry < 0 || this.#isCall[entry] === 0) return UNKNOWN
    const above = this.#offset[entry]! - RETURN_ADDRESS_BYTES
    return above >= 0 && above % RETURN_ADDRESS_BYTES === 0 ? above : UNKNOWN
  }

  /**
   * Whether the return address is on top of the stack before the return at an rva. Other frames than a call's count
   * too: entry code calls functions that have an interrupt's registers right above their return address (error_entry,
   * arch/x86/entry/entry_64.S, 6.1 and 6.12).
   */
  returnsThere(rva: Rva): boolean {
    const entry = this.#entryAt(rva)
    return entry >= 0 && this.#offset[entry] === RETURN_ADDRESS_BYTES
  }
}
