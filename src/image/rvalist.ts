// A list of rvas that grows. In: rvas, in any order. Out: them, sorted and unique. A JavaScript array of as many numbers
// takes twice the memory, out of a heap that hostile input could fill.

import type { Rva } from './rva.js'

export class RvaList {
  #rvas = new Uint32Array(1024)
  #count = 0

  push(rva: Rva): void {
    if (this.#count === this.#rvas.length) {
      const larger = new Uint32Array(this.#count * 2)
      larger.set(this.#rvas)
      this.#rvas = larger
    }
    this.#rvas[this.#count++] = rva
  }

  sorted(): Uint32Array {
    const rvas = this.#rvas.slice(0, this.#count).sort()
    let count = 0
    for (const rva of rvas) if (count === 0 || rvas[count - 1] !== rva) rvas[count++] = rva
    return rvas.slice(0, count)
  }
}
