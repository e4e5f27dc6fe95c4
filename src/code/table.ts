// The fast table in front of iced: key (key.ts) -> facts (facts.ts), open addressing, filled as instructions are met.
// Only instructions that decode are kept, and only iced's own answers; so what the table says of an instruction does not
// depend on which came before. When it is full it starts anew (a kernel has some 35 thousand keys).

import { effectOf } from './effects.js'
import { FLOW } from './flow.js'
import { FACT_WORDS, FLOW_SHIFT, GS_SHIFT, IcedFacts, LENGTH_MASK, MAX_INSN_BYTES } from './facts.js'
import { KeyReader } from './key.js'
import { ALL } from './registers.js'

const SLOT_BITS = 17
const SLOTS = 1 << SLOT_BITS
const MAX_KEYS = SLOTS >>> 1

export class DecodeTable {
  /** Facts, FACT_WORDS a row; `decode` returns where a row begins. */
  readonly facts = new Int32Array((SLOTS + 2) * FACT_WORDS)
  /** Row / FACT_WORDS -> the instruction's effect (effects.ts). */
  readonly effect = new Uint16Array(SLOTS + 2)
  /** Bytes of the instruction that was decoded last. */
  length = 0
  /** Place of its opcode: the facts count from there. */
  opcodeAt = 0
  /** How often iced was asked: because a key was new, and because there was none. */
  misses = 0
  keyless = 0
  readonly #keys = new Int32Array(SLOTS) // slot -> key, where the slot's facts are not 0
  readonly #reader = new KeyReader()
  readonly #iced = new IcedFacts()
  #count = 0

  constructor() {
    const invalid = (SLOTS + 1) * FACT_WORDS
    this.facts[invalid] = ALL
    this.facts[invalid + 2] = ALL | (FLOW.invalid << FLOW_SHIFT)
    this.facts[invalid + 3] = 1
    this.#intern(SLOTS + 1)
  }

  /**
   * Decodes the instruction at `at`, which must be below `end`, as if the bytes ended at `end`.
   * @returns index into `facts`, valid until the next call
   */
  decode(bytes: Uint8Array, at: number, end: number): number {
    const opcodeAt = this.#reader.read(bytes, at, end)
    if (opcodeAt < 0) return this.#withoutKey(bytes, at, end)
    const key = this.#reader.key
    let slot = Math.imul(key ^ (key >>> 15), 0x9e3779b1) >>> (32 - SLOT_BITS)
    let row = slot * FACT_WORDS
    let shape = this.facts[row + 3]!
    while (shape !== 0 && this.#keys[slot] !== key) {
      slot = (slot + 1) & (SLOTS - 1)
      row = slot * FACT_WORDS
      shape = this.facts[row + 3]!
    }
    if (shape === 0) return this.#miss(bytes, at, end, opcodeAt, key, slot)
    const length = opcodeAt - at + (shape & LENGTH_MASK)
    if (length > MAX_INSN_BYTES || at + length > end) return this.#invalid(at)
    this.length = length
    this.opcodeAt = opcodeAt
    return row
  }

  #miss(bytes: Uint8Array, at: number, end: number, opcodeAt: number, key: number, slot: number): number {
    if (this.#count === MAX_KEYS) {
      this.facts.fill(0, 0, SLOTS * FACT_WORDS)
      this.#count = 0
      return this.decode(bytes, at, end)
    }
    this.misses++
    const row = slot * FACT_WORDS
    if (!this.#iced.read(bytes, at, end, opcodeAt, this.facts, row)) {
      this.facts[row + 3] = 0
      return this.#invalid(at)
    }
    this.#keys[slot] = key
    this.#intern(slot)
    this.#count++
    this.length = opcodeAt - at + (this.facts[row + 3]! & LENGTH_MASK)
    this.opcodeAt = opcodeAt
    return row
  }

  #withoutKey(bytes: Uint8Array, at: number, end: number): number {
    this.keyless++
    const row = SLOTS * FACT_WORDS
    this.#iced.read(bytes, at, end, at, this.facts, row)
    this.#intern(SLOTS)
    this.length = this.facts[row + 3]! & LENGTH_MASK
    this.opcodeAt = at
    return row
  }

  #intern(slot: number): void {
    const row = slot * FACT_WORDS
    const change = this.facts[row + 2]!
    this.effect[slot] = effectOf(this.facts[row]!, this.facts[row + 1]!, change & ALL, (change >>> GS_SHIFT) & 1)
  }

  #invalid(at: number): number {
    this.length = 1
    this.opcodeAt = at
    return (SLOTS + 1) * FACT_WORDS
  }
}
