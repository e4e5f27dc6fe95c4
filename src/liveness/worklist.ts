// Blocks that are to be looked at (again): a stack that holds each at most once.

export class Worklist {
  readonly #stack: Uint32Array
  readonly #waiting: Uint8Array // block -> 1 while on the stack
  #top = 0

  /** @param count blocks; all of them wait, the last one first, since information flows backward */
  constructor(count: number, all: boolean) {
    this.#stack = new Uint32Array(count)
    this.#waiting = new Uint8Array(count)
    if (!all) return
    for (let b = 0; b < count; b++) this.#stack[b] = b
    this.#waiting.fill(1)
    this.#top = count
  }

  get empty(): boolean {
    return this.#top === 0
  }

  push(block: number): void {
    if (this.#waiting[block]) return
    this.#waiting[block] = 1
    this.#stack[this.#top++] = block
  }

  /** Must not be empty. */
  pop(): number {
    const block = this.#stack[--this.#top]!
    this.#waiting[block] = 0
    return block
  }
}
