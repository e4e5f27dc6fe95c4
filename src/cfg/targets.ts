// Every place in the image's code where control is known to arrive other than from the instruction before: one bit per
// byte of code. It errs on the side of more: bytes that are not code may add targets.
// Not in it: where a call returns to.

import type { Rva } from '../image/rva.js'

export class BranchTargets {
  readonly #start: Rva
  readonly #bits: Uint8Array

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
