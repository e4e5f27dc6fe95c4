// A run over time. In: the dumps of one run. Out: the intervals between them, each with the counters of what was counted in it, which
// give its numbers as a dump's give the whole run's.
// Where counters were zeroed in between, an interval begins then: what was counted before that, since the last dump, is lost.
// Left out: extrema, of which no difference tells anything.

import type { Dump } from '../dump/dump.js'
import type { Run } from '../dump/fleet.js'
import { EXIT, KerninstError } from '../error.js'
import type { AggregateNumbers, Bucket, Counters } from './aggregates.js'
import { sinceNs, untilNs } from './order.js'

/** Steps of a picture over time, of which more are taken together. */
export const MOST_STEPS = 60

export interface Interval {
  readonly fromNs: bigint
  readonly toNs: bigint
  /** Zero where the clock was set back. */
  readonly seconds: number
  /** Counters were zeroed since the dump before. */
  readonly afterReset: boolean
  readonly cpus: readonly Counters[]
}

/** A report's numbers by interval. */
export interface SeriesNumbers {
  readonly intervals: readonly Interval[]
  /** What was counted at all sites together in each interval. */
  readonly events: () => bigint[]
  /** Of a row, what was counted in each interval. */
  readonly counts: (row: number) => bigint[]
  /** Of an aggregate, what each interval saw; undefined of extrema. */
  readonly aggregate: (number: number) => readonly AggregateNumbers[] | undefined
}

const difference = (now: Dump, before: Dump): Counters['dump'] => ({
  count: (cpu, slot) => BigInt.asUintN(64, now.count(cpu, slot) - before.count(cpu, slot)),
})

/**
 * The intervals of a run: one a dump.
 * @throws KerninstError (65) where its dumps contradict each other
 */
export const intervalsOf = ({ earlier, last }: Run): Interval[] => {
  const dumps = [...earlier, last]
  return dumps.map((now, i): Interval => {
    const before = dumps[i - 1]
    if (before !== undefined && (now.cpuCount !== before.cpuCount || now.resets < before.resets)) {
      throw new KerninstError(EXIT.data, 'dumps of one run differ in their CPUs, or in how often counters were zeroed, as no run does: damaged?')
    }
    const afterReset = now.resets !== (before?.resets ?? 0)
    const fromNs = before === undefined || afterReset ? sinceNs(now) : untilNs(before)
    const toNs = untilNs(now)
    const dump = before === undefined || afterReset ? now : difference(now, before)
    return {
      fromNs, toNs, seconds: toNs > fromNs ? Number(toNs - fromNs) / 1e9 : 0, afterReset,
      cpus: Array.from({ length: now.cpuCount }, (_, number) => ({ dump, number })),
    }
  })
}

/** Counts a second, one an interval; of more than `most` intervals, neighbours are taken together. */
export const ratesOf = (counts: readonly bigint[], intervals: readonly Interval[], most: number): number[] => {
  const groups = Math.min(most, counts.length)
  const startOf = (group: number): number => Math.floor((group * counts.length) / groups)
  return Array.from({ length: groups }, (_, group) => {
    let [count, seconds] = [0n, 0]
    for (let i = startOf(group); i < startOf(group + 1); i++) {
      count += counts[i]!
      seconds += intervals[i]!.seconds
    }
    return seconds > 0 ? Number(count) / seconds : 0
  })
}

/** Of one key of an aggregate, or of one of its buckets, how many values each interval saw; of a sum, how much was added. */
export const valuesOf = (seen: readonly AggregateNumbers[], key: number, bucket?: Bucket): bigint[] => seen.map(({ keys }) => {
  const each = keys.find((one) => one.key === key)
  if (bucket === undefined) return each?.count ?? each?.sum ?? 0n
  return each?.buckets?.find(({ low, high }) => low === bucket.low && high === bucket.high)?.count ?? 0n
})
