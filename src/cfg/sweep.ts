// Every instruction of the image, once, in ascending order, and where each starts. Decoding starts anew at every
// function, so that data in between cannot shift it for long.
// Left out: padding between functions, and the variants of alternatives, which never run where they lie.

import { decodeRanges, type CodeRange, type Instructions } from '../code/instructions.js'
import type { Image, Region } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'

/** Where alternatives wait to be copied over what they replace (arch/x86/kernel/vmlinux.lds.S, 6.1 and 6.12). */
const VARIANTS = '.altinstr_replacement'

const bitCount = (word: number): number => {
  let n = word - ((word >>> 1) & 0x55555555)
  n = (n & 0x33333333) + ((n >>> 2) & 0x33333333)
  return Math.imul((n + (n >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

/** rva -> insn, by one bit a byte and a running count. */
export class InsnIndex {
  readonly #start: Rva
  readonly #bits: Uint32Array //   rva / 32 -> bit i: an instruction starts at byte i
  readonly #before: Uint32Array // rva / 32 -> how many start below

  constructor(rva: Uint32Array) {
    const count = rva.length
    this.#start = count === 0 ? 0 : rva[0]!
    const words = count === 0 ? 0 : ((rva[count - 1]! - this.#start) >>> 5) + 1
    this.#bits = new Uint32Array(words)
    this.#before = new Uint32Array(words)
    for (let i = 0; i < count; i++) {
      const at = rva[i]! - this.#start
      this.#bits[at >>> 5]! |= 1 << (at & 31)
    }
    let before = 0
    for (let w = 0; w < words; w++) {
      this.#before[w] = before
      before += bitCount(this.#bits[w]!)
    }
  }

  /** The instruction that starts at an rva, or NONE. */
  at(rva: Rva): number {
    const at = rva - this.#start
    const word = at >>> 5
    if (at < 0 || word >= this.#bits.length) return NONE
    const bits = this.#bits[word]!
    const bit = 1 << (at & 31)
    return bits & bit ? this.#before[word]! + bitCount(bits & (bit - 1)) : NONE
  }

  /** The first instruction that starts at or after an rva; the number of instructions when there is none. */
  from(rva: Rva): number {
    const at = Math.max(0, rva - this.#start)
    const word = at >>> 5
    if (word >= this.#bits.length) return this.#total()
    return this.#before[word]! + bitCount(this.#bits[word]! & ((1 << (at & 31)) - 1))
  }

  #total(): number {
    const last = this.#bits.length - 1
    return last < 0 ? 0 : this.#before[last]! + bitCount(this.#bits[last]!)
  }
}

/** Where the padding at `at` ends: int3 and nops (0f 1f /0 and 90, with any number of 66 and 2e in front). */
export const paddingEnd = (bytes: Uint8Array, at: number, end: number): number => {
  for (;;) {
    while (at < end && (bytes[at] === 0xcc || bytes[at] === 0x90)) at++
    let p = at
    while (p < end && (bytes[p] === 0x66 || bytes[p] === 0x2e)) p++
    if (p < end && bytes[p] === 0x90) {
      at = p + 1
      continue
    }
    if (p + 2 >= end || bytes[p] !== 0x0f || bytes[p + 1] !== 0x1f) return at
    const modrm = bytes[p + 2]!
    const mode = modrm >>> 6
    const length = 3 + ((modrm & 7) === 4 && mode !== 3 ? 1 : 0) + (mode === 1 ? 1 : mode === 2 ? 4 : 0)
    if (mode === 3 || (mode === 0 && (modrm & 7) === 5) || p + length > end) return at
    at = p + length
  }
}

// The functions of a region, cut at every start, and what lies between them where that is more than padding. `known`
// are places that are code even where they look like padding, ascending.
const cutRegion = (image: Image, region: Region, known: Uint32Array): CodeRange => {
  const { functions } = image
  const { bytes, start: base } = region
  const pieces: number[] = []
  let covered: Rva = base // up to which functions reach
  let at: Rva = base
  let f = 0
  while (f < functions.count && functions.start[f]! < base) f++
  while (at < region.end) {
    while (f < functions.count && functions.start[f]! <= at && functions.start[f]! < region.end) {
      covered = Math.max(covered, functions.end[f]!)
      f++
    }
    let next = Math.min(region.end, f < functions.count ? functions.start[f]! : NONE)
    if (at < covered) next = Math.min(next, covered)
    else {
      const k = lowerBound(known, at)
      at = base + paddingEnd(bytes, at - base, Math.min(next, k < known.length ? known[k]! : next) - base)
    }
    if (next > at) pieces.push(at - base, next - base)
    at = next
  }
  return { start: base, bytes, pieces }
}

export interface Sweep {
  readonly insns: Instructions
  readonly index: InsnIndex
}

/** Decodes all code of an image. */
export const sweepImage = (image: Image): Sweep => {
  const { alternatives, exTable, staticKeys } = image.tables
  const known = Uint32Array.from([...alternatives.rva, ...exTable.fixup, ...staticKeys.target]).sort()
  const regions = image.regions.filter(({ name }) => name !== VARIANTS)
  const insns = decodeRanges(regions.map((region) => cutRegion(image, region, known)))
  return { insns, index: new InsnIndex(insns.rva) }
}
