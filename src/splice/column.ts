// Numbers that are appended one by one: columns of the tables that grow while a plan is made.

export class Column {
  #values = new Uint32Array(1 << 10)
  #view = this.#values.subarray(0, 0)
  length = 0

  push(value: number): void {
    if (this.length === this.#values.length) {
      // By much: pages that are not written cost nothing, and copies do.
      const grown = new Uint32Array(this.length * 4)
      grown.set(this.#values)
      this.#values = grown
    }
    this.#values[this.length++] = value
  }

  at(index: number): number {
    return this.#values[index]!
  }

  set(index: number, value: number): void {
    this.#values[index] = value
  }

  /** All of them, as a view. */
  values(): Uint32Array {
    if (this.#view.length !== this.length || this.#view.buffer !== this.#values.buffer) this.#view = this.#values.subarray(0, this.length)
    return this.#view
  }
}
