// What is known of the processor's state between two instructions of a probe program: a value for each register and
// each pushed word, which flags are those from the beginning, and what the flags tell of registers.
//
// The lattice, from what says most to what says nothing:
//   a number in an interval; it may be known to be what a register held at the start, or to have a low byte of 0 or 1
//   a pointer to a slot or a frame word; the pointer to the current task; a word with flags in AH and AL: each merges with its like
//   UNKNOWN: any number
//
// Invariant: whatever way led here, each claim is true of the processor. Values are never changed, only replaced.

import { ConditionCode } from '../code/iced.js'
import { FLAGS, OF, type RegisterSet } from '../code/registers.js'
import { compared, highestBit, hull, LARGEST, only, truncated, type Bits, type Interval } from './interval.js'

export interface NumberValue extends Interval {
  readonly is: 'number'
  readonly origin: number // it is what this register held at the start; -1: nobody says so
  readonly bit: boolean //   its low byte is 0 or 1
}

/**
 * A slot's per-CPU pointer: `first` and `end` bound the slots that lie with it in one piece of the heap. Or the address of
 * a frame word, likewise.
 */
export interface WordPointer {
  readonly is: 'slot' | 'frame'
  readonly slot: number
  readonly first: number
  readonly end: number
}

/** What lahf made: the flags in `kept` are those from the start. With OF, the low byte is OF as it was, 0 or 1. */
export interface WordValue {
  readonly is: 'word'
  readonly kept: RegisterSet
}

export type Value = NumberValue | WordPointer | WordValue | { readonly is: 'task' }

export const TASK: Value = { is: 'task' }

export const numberIn = ({ low, high }: Interval, bit = false, origin = -1): NumberValue =>
  ({ is: 'number', low, high, bit, origin })

const EVERYTHING: Interval = { low: 0n, high: LARGEST[64]! }
export const UNKNOWN: NumberValue = numberIn(EVERYTHING)
export const UNKNOWN_WITH_BIT: NumberValue = numberIn(EVERYTHING, true)
export const BIT: NumberValue = numberIn({ low: 0n, high: 1n })

export const isPointer = (value: Value): value is WordPointer => value.is === 'slot' || value.is === 'frame'

/** What a value is as a number. */
export const intervalOf = (value: Value): Interval => (value.is === 'number' ? value : EVERYTHING)

/** Whether the low byte is certainly 0 or 1. */
export const hasBit = (value: Value): boolean =>
  value.is === 'number' ? value.bit || value.high <= 1n : value.is === 'word' && (value.kept & OF) !== 0

/** What a register holds when the low half of a value is written to it. */
export const lowHalf = (value: Value): Value => {
  if (value.is === 'number' && value.high <= LARGEST[32]!) return value
  return numberIn(truncated(intervalOf(value), 32), hasBit(value))
}

/** A word with these flags: nothing special without any. */
export const wordOf = (kept: RegisterSet): Value => (kept === 0 ? UNKNOWN : { is: 'word', kept })

/** A value that is one or the other. */
export const mergeValues = (a: Value, b: Value): Value => {
  if (a === b) return a
  if (isPointer(a) && isPointer(b) && a.is === b.is && a.slot === b.slot && a.first === b.first) return a
  if (a.is === 'word' && b.is === 'word') return wordOf(a.kept & b.kept)
  if (a.is === 'number' && b.is === 'number') {
    return numberIn(hull(a, b), hasBit(a) && hasBit(b), a.origin === b.origin ? a.origin : -1)
  }
  return UNKNOWN
}

/**
 * What the flags tell, as long as neither they nor the registers change: how register a compares to register b, or to a
 * constant (b is -1); or, of bsr, that where ZF is clear, a is in `other`.
 */
export interface Relation {
  readonly of: 'cmp' | 'test' | 'bsr'
  readonly bits: Bits
  readonly a: number
  readonly b: number
  readonly other: Interval // the constant, or what bsr found
  readonly source?: Interval // of bsr: where it looked
}

/** What a bsr of this would find, where it finds something. */
export const foundBy = (source: Interval, bits: Bits): Interval => {
  const { low, high } = truncated(source, bits)
  return highestBit({ low: low > 1n ? low : 1n, high: high > 1n ? high : 1n })
}

export class State {
  readonly #registers: Value[] // number -> value; that of %rsp is not used
  readonly words: Value[] //      what was pushed, the first first
  flags: RegisterSet //           those that are what they were at the start
  relation: Relation | undefined

  private constructor(registers: Value[], words: Value[], flags: RegisterSet, relation: Relation | undefined) {
    this.#registers = registers
    this.words = words
    this.flags = flags
    this.relation = relation
  }

  static start(): State {
    return new State(Array.from({ length: 16 }, (_, n) => numberIn(EVERYTHING, false, n)), [], FLAGS, undefined)
  }

  copy(): State {
    return new State([...this.#registers], [...this.words], this.flags, this.relation)
  }

  get(register: number): Value {
    return this.#registers[register]!
  }

  set(register: number, value: Value): void {
    this.#registers[register] = value
    if (this.#isTold(register)) this.relation = undefined
  }

  /** The registers and flags that certainly are what they were at the start; of %rsp, what is pushed tells. */
  unharmed(): RegisterSet {
    let set = this.flags
    this.#registers.forEach((value, n) => {
      if (value.is === 'number' && value.origin === n) set |= 1 << n
    })
    return set
  }

  changeFlags(changed: RegisterSet): void {
    this.flags &= ~changed
    this.relation = undefined
  }

  /** What a register holds if a condition is met. */
  getIf(register: number, condition: ConditionCode): Value {
    const value = this.get(register)
    const { relation } = this
    if (relation === undefined || value.is !== 'number' || !this.#isTold(register)) return value
    const told = this.#told(relation, condition)
    if (told === undefined) return value
    const { low, high } = told[relation.a === register ? 0 : 1]
    return low === value.low && high === value.high ? value : numberIn({ low, high }, value.bit, value.origin)
  }

  /** Whether a condition can be met, as far as the values tell. */
  mayBe(condition: ConditionCode): boolean {
    return this.relation === undefined || this.#told(this.relation, condition) !== undefined
  }

  /** Takes a condition as met. */
  assume(condition: ConditionCode): void {
    if (this.relation === undefined) return
    const { a, b } = this.relation
    const [one, other] = [this.getIf(a, condition), b >= 0 ? this.getIf(b, condition) : undefined]
    this.#registers[a] = one
    if (other !== undefined) this.#registers[b] = other
  }

  /** Whether the flags tell something of a register. */
  #isTold(register: number): boolean {
    return this.relation !== undefined && (this.relation.a === register || this.relation.b === register)
  }

  /** What registers a and b hold if a condition is met; undefined where it cannot be. */
  #told({ of, bits, a, b, other, source }: Relation, condition: ConditionCode): readonly [Interval, Interval] | undefined {
    const one = intervalOf(this.get(a))
    const two = b >= 0 ? intervalOf(this.get(b)) : other
    if (of === 'cmp') return compared(one, two, condition, bits)
    if (of === 'bsr') {
      if (condition === ConditionCode.ne) return source?.high === 0n ? undefined : [other, two]
      return condition === ConditionCode.e && (source?.low ?? 0n) > 0n ? undefined : [one, two]
    }
    // Where the low half is not zero, the whole is not; but a low half of zero says nothing of the upper one.
    const found = condition === ConditionCode.ne ? compared(one, only(0n), condition, 64)
      : compared(one, only(0n), condition === ConditionCode.e ? condition : ConditionCode.None, bits)
    return found && [found[0], two]
  }

  /** What is known where one or the other state may be; undefined where not as much is pushed. */
  merge(that: State): State | undefined {
    if (this.words.length !== that.words.length) return undefined
    return new State(
      this.#registers.map((value, n) => mergeValues(value, that.get(n))),
      this.words.map((value, n) => mergeValues(value, that.words[n]!)),
      this.flags & that.flags,
      this.relation === that.relation ? this.relation : undefined, // of the same instruction, and held since
    )
  }
}
