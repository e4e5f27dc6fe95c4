// What may stand in place of the code in the file: for every alternative, what its variant reads, where it jumps and what
// it calls. In: the kernel's table of alternatives. Out: one row an alternative, in the table's order.
// The variant is assembled where it lies, so its displacements give the true targets there (arch/x86/kernel/alternative.c,
// apply_relocation or its forerunners, 6.1 and 6.12).
// Left out: which variant a processor gets. What is concluded must hold for all of them, the file's own included.

import { effectReads } from '../code/effects.js'
import { decodeRanges, FLOW, type CodeRange } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'

export interface Variant {
  /** What its instructions may read themselves, callees aside. */
  reads: RegisterSet
  readonly jumps: Rva[]
  readonly calls: Rva[]
  /** It traps, or calls through a pointer or what the kernel writes there as a direct call. */
  callsAnything: boolean
  /** It returns, jumps through a pointer, or does what is not known. */
  leaves: boolean
}

/**
 * In place of a call to it the kernel writes a call to wherever the pointer in the file's own instruction leads
 * (ALT_FLAG_DIRECT_CALL, arch/x86/kernel/alternative.c, alt_replace_call, 6.8 and later).
 */
const POINTER_CALL = 'BUG_func'

/** One variant for each row of image.tables.alternatives; undefined where it is nothing but nops. */
export const readVariants = (image: Image): (Variant | undefined)[] => {
  const { replRva, replLen } = image.tables.alternatives
  const pointerCall = image.symbols.rvaOf(POINTER_CALL)
  const ranges: CodeRange[] = []
  replRva.forEach((start, k) => {
    if (replLen[k] !== 0) ranges.push({ start, bytes: bytesAt(image, start, replLen[k]!) })
  })
  const insns = decodeRanges(ranges)
  let i = 0
  return Array.from(replRva, (start, k) => {
    if (replLen[k] === 0) return undefined
    const variant: Variant = { reads: 0, jumps: [], calls: [], callsAnything: false, leaves: false }
    const end = start + replLen[k]!
    for (let at = start; at < end; at += insns.length[i++]!) {
      variant.reads |= effectReads[insns.effect[i]!]!
      const target = insns.target[i]!
      switch (insns.flow[i]) {
        case FLOW.next: break
        case FLOW.jump:
        case FLOW.branch:
          if (target < start || target >= end) variant.jumps.push(target)
          break
        case FLOW.call:
          if (target !== NONE && target === pointerCall) variant.callsAnything = true
          else variant.calls.push(target)
          break
        case FLOW.indirectCall:
        case FLOW.trap:
          variant.callsAnything = true
          break
        default:
          variant.leaves = true
      }
    }
    return variant
  })
}
