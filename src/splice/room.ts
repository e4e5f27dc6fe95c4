// What each byte of .text is for while a plan is made: code as it is, padding that nobody uses, bytes of a site, bytes
// that a site leaves dead, springboards. Every change can be taken back, so that a tactic that needs several places
// takes all of them or none.

import type { Rva } from '../image/rva.js'

/** What a byte is for. */
export const BYTE = {
  code: 0, //        as the kernel has it, padding that may be used by others included
  padding: 1, //     between functions, and free
  site: 2, //        of a splice, or of the instruction around it
  dead: 3, //        of a window behind its jump: nobody runs it any more
  springboard: 4,
} as const

/** A jump with a 32-bit displacement. */
export const JUMP_BYTES = 5

/** What a jump with an 8-bit displacement reaches, from its first byte: it has two bytes, its displacement one. */
const REACH_BACK = 2 - 128
const REACH_AHEAD = 2 + 127

export class Room {
  readonly #start: Rva
  readonly #state: Uint8Array // rva - #start -> BYTE
  #log = new Uint32Array(1024) // changes: offset << 3 | what was there
  #logged = 0

  constructor(textStart: Rva, textEnd: Rva) {
    this.#start = textStart
    this.#state = new Uint8Array(textEnd - textStart)
  }

  /** What a byte is for; code outside the text. */
  at(rva: Rva): number {
    return this.#state[rva - this.#start] ?? BYTE.code
  }

  /** Whether all of [start, end) is for one thing. */
  all(start: Rva, end: Rva, what: number): boolean {
    const state = this.#state
    for (let i = start - this.#start; i < end - this.#start; i++) if (state[i] !== what) return false
    return true
  }

  /** Makes [start, end) be for something. */
  set(start: Rva, end: Rva, what: number): void {
    for (let i = start - this.#start; i < end - this.#start; i++) {
      if (this.#logged === this.#log.length) {
        const grown = new Uint32Array(this.#logged * 2)
        grown.set(this.#log)
        this.#log = grown
      }
      this.#log[this.#logged++] = ((i << 3) | this.#state[i]!) >>> 0
      this.#state[i] = what
    }
  }

  /** Keeps what has been changed. */
  commit(): void {
    this.#logged = 0
  }

  /** How much has been changed since the last commit: where undo() can go back to. */
  mark(): number {
    return this.#logged
  }

  /** Takes back what has been changed since a mark, or since the last commit. */
  undo(mark = 0): void {
    while (this.#logged > mark) {
      const change = this.#log[--this.#logged]!
      this.#state[change >>> 3] = change & 7
    }
  }

  /**
   * A place for a springboard that a short jump at `from` reaches, or -1. Places lie one behind the other from where
   * the free bytes begin, so that a stretch of them holds as many as it can.
   */
  springboardFrom(from: Rva): Rva {
    const low = Math.max(0, from + REACH_BACK - this.#start)
    const high = Math.min(from + REACH_AHEAD - this.#start, this.#state.length - JUMP_BYTES)
    for (const what of [BYTE.padding, BYTE.dead]) {
      const found = this.#find(low, high, what)
      if (found >= 0) return found + this.#start
    }
    return -1
  }

  /** The first place in [low, high], as offsets. */
  #find(low: number, high: number, what: number): number {
    const state = this.#state
    for (let i = low; i <= high; i++) {
      if (state[i] !== what) continue
      let first = i
      while (first > 0 && state[first - 1] === what) first--
      let at = i + ((JUMP_BYTES - ((i - first) % JUMP_BYTES)) % JUMP_BYTES)
      let end = i
      while (end < state.length && state[end] === what && end < at + JUMP_BYTES) end++
      if (at <= high && end >= at + JUMP_BYTES) return at
      i = end - 1 < i ? i : end - 1
    }
    return -1
  }
}
