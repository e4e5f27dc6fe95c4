// What renderers of a report share: orders, sums, and how long counting went on, in words.

import type { HostNumbers, ReportNumbers } from './numbers.js'
import { duration } from './printable.js'

/** Compares, the greater one first. */
export const falling = (a: bigint, b: bigint): number => (a < b ? 1 : a > b ? -1 : 0)

/** The greatest of some numbers; zero where there is none above it. */
export const greatest = (values: readonly (bigint | undefined)[]): bigint =>
  values.reduce<bigint>((best, value) => (value !== undefined && value > best ? value : best), 0n)

/** Indices by falling count, and as in the plan where counts are the same. */
export const byCount = (counts: readonly bigint[]): number[] =>
  Array.from(counts.keys()).sort((a, b) => falling(counts[a]!, counts[b]!) || a - b)

type Times = Pick<HostNumbers, 'state' | 'appliedNs' | 'removedNs' | 'dumpedNs' | 'resetNs' | 'snapshotNs'>

/** When counters began to count: with apply, or when they were zeroed last. */
export const sinceNs = ({ appliedNs, resetNs }: Times): bigint => (resetNs > appliedNs ? resetNs : appliedNs)

/** Until when counters counted what a dump holds; 0n: not known. */
export const untilNs = ({ state, removedNs, dumpedNs, snapshotNs }: Times): bigint =>
  state === 'removed' ? removedNs : snapshotNs > 0n ? snapshotNs : dumpedNs

/** For how long counters counted, in ns; zero where that is not known. */
export const countedNs = (times: Times): bigint => {
  const ns = untilNs(times) - sinceNs(times)
  return ns > 0n ? ns : 0n
}

/** The same in words. */
export const ended = (times: Times): string => {
  const [since, until] = [sinceNs(times), untilNs(times)]
  if (until === 0n) return 'until the machine died'
  if (until < since) return 'unknown (the clock was set back)'
  return duration(until - since)
}

/** All points that one that was asked for became: a function's blocks, say. */
export interface Sum {
  readonly asked: number
  readonly total: bigint
  readonly points: number
  readonly ran: number // of the points
}

/** By falling sum; what has no counts is left out. */
export const sumsByAsked = ({ manifest, served, counts }: ReportNumbers): Sum[] => {
  const { of } = manifest.points
  const total: bigint[] = Array.from(manifest.asked.kind, () => 0n)
  const points = new Uint32Array(total.length)
  const ran = new Uint32Array(total.length)
  counts.forEach((count, index) => {
    const a = of[served[index]!]!
    total[a]! += count
    points[a]!++
    if (count !== 0n) ran[a]!++
  })
  return byCount(total).filter((a) => points[a]! > 0).map((asked) => ({ asked, total: total[asked]!, points: points[asked]!, ran: ran[asked]! }))
}
