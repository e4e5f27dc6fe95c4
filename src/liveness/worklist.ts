// Blocks that are to be looked at (again): a stack that holds each at most once. One list serves several solvers in turn:
// fresh memory is dear.

export class Worklist {
  readonly #stack: Uint32Array
  readonly #waiting: Uint8Array // block -> 1 while on the stack
  #top = 0

  /** Empty. @param count blocks */
  constructor(count: number) {
    this.#stack = new Uint32Array(count)
    this.#waiting = new Uint8Array(count)
  }

  /** Lets all blocks wait, the last one first, since information flows backward. */
  fill(): this {
    const count = this.#stack.length
    for (let b = 0; b < count; b++) this.#stack[b] = b
    this.#waiting.fill(1)
    this.#top = count
    return this
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
