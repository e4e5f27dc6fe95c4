// Every place in the image's code where control is known to arrive other than from the instruction before: targets of
// direct jumps, branches and calls anywhere in executable sections, exception fixups, static-key targets, and code that
// data points to. One bit per byte of code. It errs on the side of more: bytes that are not code may add targets.
// Not in it: where a call returns to.

import { visitTransfers } from '../code/instructions.js'
import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'

export class BranchTargets {
  readonly #start: Rva
  readonly #bits: Uint8Array
  /** Transfers into the middle of a function from outside it (.cold parts count as outside): where to; ascending. */
  crossingTo = new Uint32Array(0) //   crossing -> rva
  /** crossing -> rva that the transfer comes from. */
  crossingFrom = new Uint32Array(0)

  constructor(start: Rva, end: Rva) {
    this.#start = start
    this.#bits = new Uint8Array(((end - start) >>> 3) + 1)
  }

  /** Marks an rva; those outside the code are ignored. */
  add(rva: Rva): void {
    const i = rva - this.#start
    if (i >= 0 && i >>> 3 < this.#bits.length) this.#bits[i >>> 3]! |= 1 << (i & 7)
  }

  has(rva: Rva): boolean {
    const i = rva - this.#start
    return i >= 0 && i >>> 3 < this.#bits.length && (this.#bits[i >>> 3]! & (1 << (i & 7))) !== 0
  }

  /** Whether any rva strictly inside (start, end) is a target. */
  anyInside(start: Rva, end: Rva): boolean {
    for (let rva = start + 1; rva < end; rva++) if (this.has(rva)) return true
    return false
  }
}

/** Sweeps the whole image. Decoding starts anew at every function, so that data between them cannot shift it for long. */
export const findTargets = (image: Image): BranchTargets => {
  const { functions, regions, tables } = image
  const first = regions[0]!
  const last = regions[regions.length - 1]!
  const targets = new BranchTargets(first.start, last.end)
  const crossings: [to: Rva, from: Rva][] = []
  // The function being swept: transfers within it are no crossings.
  let start = 0
  let end = 0
  const visit = (from: Rva, to: Rva): void => {
    targets.add(to)
    if (to >= start && to < end) return
    const f = functions.functionAt(to)
    if (f !== NONE && functions.start[f] !== to) crossings.push([to, from])
  }
  let f = 0
  for (const region of regions) {
    start = region.start
    while (start < region.end) {
      while (f < functions.count && functions.start[f]! <= start) f++
      end = f < functions.count ? Math.min(functions.start[f]!, region.end) : region.end
      visitTransfers({ start, bytes: region.bytes.subarray(start - region.start, end - region.start) }, visit)
      start = end
    }
  }
  start = end = 0
  tables.exTable.fixup.forEach((fixup, i) => visit(tables.exTable.insn[i]!, fixup))
  tables.staticKeys.target.forEach((target, i) => visit(tables.staticKeys.rva[i]!, target))
  for (const pointer of image.codePointers) targets.add(pointer)
  crossings.sort((a, b) => a[0] - b[0])
  targets.crossingTo = Uint32Array.from(crossings, (c) => c[0])
  targets.crossingFrom = Uint32Array.from(crossings, (c) => c[1])
  return targets
}
