// Instructions of some code, as a table: what the control flow and the liveness stages need to know of each. Decoding
// goes through one table for the whole process (table.ts), behind which iced-x86 answers what is new.
// Left out: operands. Who moves an instruction decodes it again (splice/move.ts).

import { NONE, type Rva } from '../image/rva.js'
import { FACT_WORDS, FLOW_MASK, FLOW_SHIFT, REL_MASK, REL_SHIFT, RIP_MASK, RIP_SHIFT } from './facts.js'
import { FLOW } from './flow.js'
import { DecodeTable } from './table.js'

export { FLOW } from './flow.js'

export interface Instructions {
  readonly count: number
  readonly rva: Uint32Array //    insn -> rva, ascending within a range
  readonly length: Uint8Array //  insn -> bytes
  readonly flow: Uint8Array //    insn -> FLOW
  readonly target: Uint32Array // insn -> rva that a direct transfer goes to, or NONE
  readonly effect: Uint16Array // insn -> what it does to registers, a row of effects.ts
  readonly ripAt: Uint8Array //   insn -> place in it of the 4-byte displacement of a rip-relative operand; 0: none
}

/** A range of code: bytes[0] lies at `start`. */
export interface CodeRange {
  readonly start: Rva
  readonly bytes: Uint8Array
  /** Where in `bytes` the pieces lie that are decoded, each by itself: from, to, from, to…, ascending. Default: all. */
  readonly pieces?: readonly number[]
}

/** Ranges up to this many bytes are decoded in a buffer that is kept; nearly all functions are smaller. */
const KEPT_BYTES = 1 << 16
/** Room for a longer piece of code, in bytes per instruction; kernels have 3.9 on average, so that it rarely grows. */
const BYTES_PER_INSN = 3

const table = new DecodeTable()

// Where a direct transfer that ends at `end` (an rva) goes; its displacement is the last `size` bytes before `past`.
// A target below rva 0 (a per-CPU address, say) or above 4 GiB is NONE.
const targetOf = (bytes: Uint8Array, past: number, size: number, end: Rva): Rva => {
  let offset: number
  if (size === 4) {
    offset = bytes[past - 4]! | (bytes[past - 3]! << 8) | (bytes[past - 2]! << 16) | (bytes[past - 1]! << 24)
  } else if (size === 1) {
    offset = (bytes[past - 1]! << 24) >> 24
  } else {
    offset = ((bytes[past - 2]! << 16) | (bytes[past - 1]! << 24)) >> 16
  }
  const to = end + offset
  return to >= 0 && to < NONE ? to : NONE
}

/** Room for instructions, filled from the front. */
class InstructionBuffer {
  count = 0
  rva: Uint32Array
  length: Uint8Array
  flow: Uint8Array
  target: Uint32Array
  effect: Uint16Array
  ripAt: Uint8Array

  /** @param bound instructions; as many as there are bytes is always enough */
  constructor(bound: number) {
    this.rva = new Uint32Array(bound)
    this.length = new Uint8Array(bound)
    this.flow = new Uint8Array(bound)
    this.target = new Uint32Array(bound)
    this.effect = new Uint16Array(bound)
    this.ripAt = new Uint8Array(bound)
  }

  /** Makes room for `more` instructions. */
  reserve(more: number): void {
    const needed = this.count + more
    if (needed <= this.rva.length) return
    const bound = Math.max(needed, Math.ceil(this.rva.length * 1.25))
    const bytes = (old: Uint8Array): Uint8Array => {
      const grown = new Uint8Array(bound)
      grown.set(old.subarray(0, this.count))
      return grown
    }
    const words = (old: Uint32Array): Uint32Array => {
      const grown = new Uint32Array(bound)
      grown.set(old.subarray(0, this.count))
      return grown
    }
    this.rva = words(this.rva)
    this.length = bytes(this.length)
    this.flow = bytes(this.flow)
    this.target = words(this.target)
    const effect = new Uint16Array(bound)
    effect.set(this.effect.subarray(0, this.count))
    this.effect = effect
    this.ripAt = bytes(this.ripAt)
  }

  /** Appends what bytes[from, to) hold; bytes[0] lies at `base`. Allocates nothing but for what is new to the table. */
  append(bytes: Uint8Array, base: Rva, from: number, to: number): void {
    const { facts } = table
    const { rva, length, flow, target, effect, ripAt } = this
    let n = this.count
    for (let at = from; at < to; n++) {
      const row = table.decode(bytes, at, to)
      const size = table.length
      const shape = facts[row + 3]!
      const kind = (facts[row + 2]! >>> FLOW_SHIFT) & FLOW_MASK
      rva[n] = base + at
      length[n] = size
      flow[n] = kind
      effect[n] = table.effect[row / FACT_WORDS]!
      const rip = (shape >>> RIP_SHIFT) & RIP_MASK
      ripAt[n] = rip === 0 ? 0 : rip + table.opcodeAt - at
      at += size
      target[n] = kind === FLOW.jump || kind === FLOW.branch || kind === FLOW.call
        ? targetOf(bytes, at, (shape >>> REL_SHIFT) & REL_MASK, base + at) : NONE
    }
    this.count = n
  }

  /** The table; as views of the buffer, or as copies where the buffer is to be filled again. */
  instructions(copy: boolean): Instructions {
    const { count } = this
    const cut = <T extends Uint8Array | Uint16Array | Uint32Array>(column: T): T =>
      (copy ? column.slice(0, count) : column.subarray(0, count)) as T
    return {
      count, rva: cut(this.rva), length: cut(this.length), flow: cut(this.flow), target: cut(this.target),
      effect: cut(this.effect), ripAt: cut(this.ripAt),
    }
  }
}

const kept = new InstructionBuffer(KEPT_BYTES)

/**
 * Decodes the ranges, or their pieces, from first to last byte. Bytes that do not decode become one-byte instructions of flow `invalid`,
 * which read everything.
 */
export const decodeRanges = (ranges: readonly CodeRange[]): Instructions => {
  let bytes = 0
  for (const range of ranges) bytes += range.bytes.length
  const small = bytes <= KEPT_BYTES
  const buffer = small ? kept : new InstructionBuffer(Math.ceil(bytes / BYTES_PER_INSN))
  buffer.count = 0
  for (const { bytes, start, pieces = [0, bytes.length] } of ranges) {
    for (let p = 0; p < pieces.length; p += 2) {
      const from = pieces[p]!
      const to = pieces[p + 1]!
      if (!small) buffer.reserve(to - from)
      buffer.append(bytes, start, from, to)
    }
  }
  return buffer.instructions(small)
}

/** The instructions [first, last) of a table, as views of it. */
export const sliceInstructions = (insns: Instructions, first: number, last: number): Instructions => ({
  count: last - first,
  rva: insns.rva.subarray(first, last), length: insns.length.subarray(first, last), flow: insns.flow.subarray(first, last),
  target: insns.target.subarray(first, last), effect: insns.effect.subarray(first, last),
  ripAt: insns.ripAt.subarray(first, last),
})

/** Several tables one after the other, copied. */
export const joinInstructions = (parts: readonly Instructions[]): Instructions => {
  let count = 0
  for (const part of parts) count += part.count
  const join = <T extends Uint8Array | Uint16Array | Uint32Array>(joined: T, column: (part: Instructions) => T): T => {
    let at = 0
    for (const part of parts) {
      joined.set(column(part), at)
      at += part.count
    }
    return joined
  }
  return {
    count, rva: join(new Uint32Array(count), (p) => p.rva), length: join(new Uint8Array(count), (p) => p.length),
    flow: join(new Uint8Array(count), (p) => p.flow), target: join(new Uint32Array(count), (p) => p.target),
    effect: join(new Uint16Array(count), (p) => p.effect), ripAt: join(new Uint8Array(count), (p) => p.ripAt),
  }
}
