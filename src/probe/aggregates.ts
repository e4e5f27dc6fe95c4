// The aggregates of all programs of a plan: what is collected under which name, and how many slots of the counter heap that
// takes. In: probes. Out: one aggregate for each name; a name means one thing, wherever it is used, as in bpftrace.
// A count() without a key is none of them: it is had for each point by itself (requests.ts).
//
// The slots of one key follow each other, and the keys likewise. Zero is the beginning of all of them:
//
//   count        how many
//   sum          the sum, modulo 2^64
//   avg          the sum, how many
//   min, max     the value, turned so that the one looked for is the highest and zero the lowest of all; how many
//   hist         zero; [1, 2); [2, 4); ... [2^63, 2^64), which is what is negative, where values have signs
//   lhist        below the lowest; each step; from the highest on

import type { Expression } from './expression.js'
import type { Aggregate, AggregateKind, Probe } from './program.js'
import { rangeOf } from './range.js'
import { Scanner } from './scanner.js'
import { eachStatement } from './trees.js'

/** A piece of the counter heap whose slots lie side by side (KERNINST_PIECE_SLOTS); an aggregate lies in one. */
export const PIECE_SLOTS = 4096

/** Buckets of hist: zero, and one for each highest bit. */
export const HIST_BUCKETS = 65

/** How the keys of an aggregate are told apart. */
export const KEY_KINDS = ['none', 'cpu', 'index'] as const
export type KeyKind = (typeof KEY_KINDS)[number]

/** What the values of an aggregate are, where that is known: ticks of the time-stamp counter, or nanoseconds. */
export const UNITS = ['number', 'ticks', 'ns'] as const
export type Unit = (typeof UNITS)[number]

export interface AggregateTable {
  readonly name: string // '' for @
  readonly kind: AggregateKind
  readonly signed: boolean
  readonly unit: Unit
  readonly keyKind: KeyKind
  /** How many keys there are slots for; 1 where there is no key, or where each CPU's own slots tell the key. */
  readonly keys: number
  readonly range: Aggregate['range'] | undefined
  /** Slots of one key. */
  readonly width: number
}

/** Slots of one key of an aggregate. */
export const widthOf = ({ kind, range }: Pick<Aggregate, 'kind'> & { readonly range?: Aggregate['range'] | undefined }): number => {
  switch (kind) {
    case 'count': case 'sum': return 1
    case 'avg': case 'min': case 'max': return 2
    case 'hist': return HIST_BUCKETS
    case 'lhist': return Number((range!.high - range!.low) / range!.step) + 2
  }
}

/** Whether a value is a time, or made of times of one kind alone. */
const unitOf = (one: Expression): Unit => {
  switch (one.op) {
    case 'input': return one.input === 'elapsed' || one.input === 'oncpu' ? 'ns' : one.input === 'ticks' ? 'ticks' : 'number'
    case 'choice': return unitOf(one.a) === unitOf(one.b) ? unitOf(one.a) : 'number'
    case 'binary': return (one.operator === '+' || one.operator === '-') && unitOf(one.a) === unitOf(one.b) ? unitOf(one.a) : 'number'
    case 'cast': return unitOf(one.a)
    default: return 'number'
  }
}

const tableOf = (scanner: Scanner, one: Aggregate): AggregateTable => {
  const { name, kind, key, value, range } = one
  const width = widthOf(one)
  let keyKind: KeyKind = 'none'
  let keys = 1
  if (key !== undefined && key.op === 'input' && key.input === 'cpu') keyKind = 'cpu'
  else if (key !== undefined) {
    keyKind = 'index'
    const { high } = rangeOf(key)
    const most = Math.floor(PIECE_SLOTS / width)
    if (high >= BigInt(most)) {
      scanner.fail(`a key of ${kind}() must be known to be less than ${most}, as in @[arg0 & 7] or @[arg0 % 10]`, key.at)
    }
    keys = Number(high) + 1
  }
  if (range !== undefined && range.low < 0n && !value!.signed) scanner.fail('lhist from a negative number on, of a value that has no sign: write (int64) before it', value!.at)
  return {
    name, kind, keyKind, keys, range, width,
    signed: value?.signed ?? false,
    unit: value === undefined ? 'number' : unitOf(value),
  }
}

const sameRange = (a: Aggregate['range'], b: Aggregate['range']): boolean =>
  a === b || (a !== undefined && b !== undefined && a.low === b.low && a.high === b.high && a.step === b.step)

/** Aggregates by name. */
export class Aggregates {
  readonly tables: AggregateTable[] = []
  readonly #of = new Map<string, number>()
  readonly #counts = new Set<string>()

  /**
   * Learns the aggregates of one program.
   * @throws KerninstError (65) where a name means two things
   */
  learn(probes: readonly Probe[], text: string, source: string): void {
    const scanner = new Scanner(text, source)
    for (const { body } of probes) {
      eachStatement(body, (one) => {
        if (one.op === 'aggregate') this.#learn(scanner, one)
      })
    }
  }

  #learn(scanner: Scanner, one: Aggregate): void {
    if (isPointCount(one)) {
      const other = this.#of.get(one.name)
      if (other !== undefined) this.#clash(scanner, one, `${this.tables[other]!.kind}()${this.tables[other]!.keyKind === 'none' ? '' : ' with a key'}`)
      this.#counts.add(one.name)
      return
    }
    if (this.#counts.has(one.name)) this.#clash(scanner, one, 'count()')
    const table = tableOf(scanner, one)
    const known = this.#of.get(one.name)
    if (known === undefined) {
      this.#of.set(one.name, this.tables.length)
      this.tables.push(table)
      return
    }
    const other = this.tables[known]!
    if (other.kind !== table.kind) this.#clash(scanner, one, `${other.kind}()`)
    if (!sameRange(other.range, table.range)) this.#clash(scanner, one, 'lhist() of another range')
    if ((other.keyKind === 'none') !== (table.keyKind === 'none')) this.#clash(scanner, one, other.keyKind === 'none' ? 'without a key' : 'with a key')
    if (other.signed !== table.signed && table.kind !== 'sum') this.#clash(scanner, one, other.signed ? 'of values with a sign' : 'of values without a sign')
    // Different keys of one name: the slots of the more numerous one.
    if (other.keyKind !== table.keyKind) this.#clash(scanner, one, other.keyKind === 'cpu' ? 'with cpu as its key' : 'with another key than cpu')
    this.tables[known] = {
      ...other, keys: Math.max(other.keys, table.keys), unit: other.unit === table.unit ? other.unit : 'number',
    }
  }

  #clash(scanner: Scanner, one: Aggregate, other: string): never {
    scanner.fail(`@${one.name} is ${other} elsewhere: take another name`, one.at)
  }

  /** Index in tables, of an aggregate that was learned. */
  indexOf(one: Aggregate): number {
    return this.#of.get(one.name)!
  }
}

/** Whether it counts for each point by itself, in a slot of its own. */
export const isPointCount = (one: Aggregate): boolean => one.kind === 'count' && one.key === undefined
