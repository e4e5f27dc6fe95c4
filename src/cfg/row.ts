// Numbers that one call needs and nobody keeps. A whole kernel has 40,000 functions, and making a few dozen small arrays for
// each of them took longer than filling them.

export class Row {
  #numbers = new Uint32Array(256)

  /**
   * At least `length` numbers, of which so many are `value`: of those behind them nothing is known, so the array's own
   * length means nothing. They are good until the next call.
   */
  of(length: number, value = 0): Uint32Array {
    const numbers = this.room(length)
    for (let i = 0; i < length; i++) numbers[i] = value
    return numbers
  }

  /** The same, where all of them are written before they are read. */
  room(length: number): Uint32Array {
    if (length > this.#numbers.length) this.#numbers = new Uint32Array(2 * length)
    return this.#numbers
  }
}
