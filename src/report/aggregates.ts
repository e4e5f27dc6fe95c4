// What an aggregate holds. In: its slots in a dump (probe/aggregates.ts says how they lie). Out: for each key that has seen
// anything how many values, their sum, the least or the greatest, or how many were in each bucket; over all CPUs.
// A sum is that of the values modulo 2^64, as a signed number where the values have signs.

import type { Dump } from '../dump/dump.js'
import { SIGN } from '../probe/constant.js'
import type { ManifestAggregate } from '../splice/manifest.js'

/** The counters of one CPU. */
export interface Counters {
  readonly dump: Pick<Dump, 'count'>
  readonly number: number
}

/** Values from `low` on, below `high`; undefined: there is no end. */
export interface Bucket {
  readonly low: bigint | undefined
  readonly high: bigint | undefined
  readonly count: bigint
}

export interface KeyNumbers {
  readonly key: number // the CPU, where that is the key; 0 where there is no key
  /** How many values; of a sum it is not known. */
  readonly count?: bigint
  readonly sum?: bigint
  readonly min?: bigint
  readonly max?: bigint
  /** From the first to the last one that is not empty. */
  readonly buckets?: readonly Bucket[]
}

export interface AggregateNumbers extends Pick<ManifestAggregate, 'name' | 'kind' | 'unit' | 'keyKind'> {
  readonly keys: readonly KeyNumbers[]
}

/** The values of a histogram's bucket. */
const bucketAt = ({ kind, signed, range, width }: ManifestAggregate, b: number): Omit<Bucket, 'count'> => {
  if (kind === 'hist') {
    if (b === 0) return { low: 0n, high: 1n }
    if (signed && b === 64) return { low: undefined, high: 0n }
    return { low: 1n << BigInt(b - 1), high: 1n << BigInt(b) }
  }
  const [low, , step] = range.map(BigInt) as [bigint, bigint, bigint]
  return {
    low: b === 0 ? undefined : low + BigInt(b - 1) * step,
    high: b === width - 1 ? undefined : low + BigInt(b) * step,
  }
}

/** The buckets in the order of their values. */
const bucketsOf = (one: ManifestAggregate, at: (slot: number) => bigint): Bucket[] => {
  const buckets = Array.from({ length: one.width }, (_, b) => ({ ...bucketAt(one, b), count: at(b) }))
  if (one.kind === 'hist' && one.signed) buckets.unshift(buckets.pop()!)
  const first = buckets.findIndex(({ count }) => count > 0n)
  return buckets.slice(first, buckets.findLastIndex(({ count }) => count > 0n) + 1)
}

const total = (counts: readonly bigint[]): bigint => counts.reduce((sum, count) => sum + count, 0n)

/** What one key has seen on some CPUs; undefined: nothing. */
const keyNumbers = (one: ManifestAggregate, cpus: readonly Counters[], key: number, first: number): KeyNumbers | undefined => {
  const on = (slot: number): bigint[] => cpus.map(({ dump, number }) => dump.count(number, first + slot))
  const at = (slot: number): bigint => total(on(slot))
  const wrapped = (value: bigint): bigint => (one.signed ? BigInt.asIntN(64, value) : BigInt.asUintN(64, value))
  switch (one.kind) {
    case 'count': return at(0) === 0n ? undefined : { key, count: at(0) }
    case 'sum': return at(0) === 0n ? undefined : { key, sum: wrapped(at(0)) }
    case 'avg': return at(1) === 0n ? undefined : { key, count: at(1), sum: wrapped(at(0)) }
    case 'min': case 'max': {
      const count = at(1)
      if (count === 0n) return undefined
      // A CPU that has seen nothing has no extremum.
      const counts = on(1)
      const best = on(0).reduce((a, b, cpu) => (counts[cpu]! > 0n && b > a ? b : a), 0n)
      const value = one.kind === 'max' ? best : BigInt.asUintN(64, ~best)
      return { key, count, [one.kind]: one.signed ? BigInt.asIntN(64, value ^ SIGN) : value }
    }
    case 'hist': case 'lhist': {
      const buckets = bucketsOf(one, at)
      return buckets.length === 0 ? undefined : { key, count: total(buckets.map(({ count }) => count)), buckets }
    }
  }
}

/** CPU -> those of that number, of all hosts. */
const byNumber = (cpus: readonly Counters[]): Counters[][] => {
  const found: Counters[][] = []
  for (const cpu of cpus) (found[cpu.number] ??= []).push(cpu)
  return found
}

/** @param cpus of one host or of several; where the CPU is the key, those of one number are one key */
export const aggregateNumbers = (one: ManifestAggregate, cpus: readonly Counters[]): AggregateNumbers => {
  const { name, kind, unit, keyKind } = one
  const found = keyKind === 'cpu'
    ? byNumber(cpus).map((ofNumber, cpu) => keyNumbers(one, ofNumber, cpu, one.first))
    : Array.from({ length: one.keys }, (_, key) => keyNumbers(one, cpus, key, one.first + key * one.width))
  return { name, kind, unit, keyKind, keys: found.filter((each) => each !== undefined) }
}
