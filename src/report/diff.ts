// Two reports side by side: of one bundle at two times, or of two bundles for the same kernel. In: the numbers of both. Out:
// what rose, fell, appeared and vanished, by counts a second, since nobody counts for the same time twice.

import { EXIT, KerninstError } from '../error.js'
import { aggregateOf, pointName } from '../splice/manifest.js'
import type { ReportNumbers } from './numbers.js'
import { countedNs } from './order.js'

export const CHANGES = ['rose', 'fell', 'appeared', 'vanished', 'same', 'only before', 'only after'] as const
export type Change = (typeof CHANGES)[number]

export interface DiffRow {
  readonly point: string
  readonly aggregate: string
  /** undefined: the bundle has no such point. */
  readonly before: bigint | undefined
  readonly after: bigint | undefined
  readonly change: Change
  /** Counts a second. */
  readonly rates: readonly [before: number, after: number]
}

export interface DiffNumbers {
  readonly before: ReportNumbers
  readonly after: ReportNumbers
  readonly seconds: readonly [before: number, after: number]
  /** Whatever changed most first. */
  readonly rows: readonly DiffRow[]
}

/** Less than so many square roots of the counts is what chance may do. */
const DEVIATIONS = 4

const changeOf = (before: bigint | undefined, after: bigint | undefined, [had, has]: readonly [number, number], seconds: readonly [number, number]): Change => {
  if (before === undefined) return 'only after'
  if (after === undefined) return 'only before'
  if (before === 0n && after === 0n) return 'same'
  if (before === 0n) return 'appeared'
  if (after === 0n) return 'vanished'
  const noise = DEVIATIONS * (Math.sqrt(Math.abs(Number(before))) / seconds[0] + Math.sqrt(Math.abs(Number(after))) / seconds[1])
  if (Math.abs(has - had) <= noise) return 'same'
  return has > had ? 'rose' : 'fell'
}

/** @throws KerninstError (76) where they are of different kernels */
export const diffNumbers = (before: ReportNumbers, after: ReportNumbers): DiffNumbers => {
  if (before.buildId !== after.buildId) {
    throw new KerninstError(EXIT.mismatch, `the dumps are of different kernels: build ids ${before.buildId} and ${after.buildId}`)
  }
  // All counts of several hosts are added up, and so is the time.
  const seconds = [before, after].map(({ hosts }) => hosts.reduce((sum, host) => sum + Number(countedNs(host)) / 1e9, 0)) as [number, number]
  if (!seconds.every((one) => one > 0)) throw new KerninstError(EXIT.data, 'one of the dumps does not tell for how long it counted')
  const keyed = ({ manifest, served, counts }: ReportNumbers): Map<string, { point: string; aggregate: string; count: bigint }> => {
    const rows = new Map<string, { point: string; aggregate: string; count: bigint }>()
    counts.forEach((count, row) => {
      const [point, aggregate] = [pointName(manifest, served[row]!), aggregateOf(manifest, served[row]!)]
      rows.set(`${point} @${aggregate}`, { point, aggregate, count })
    })
    return rows
  }
  const [had, has] = [keyed(before), keyed(after)]
  const rows = [...new Set([...had.keys(), ...has.keys()])].map((key): DiffRow => {
    const [one, other] = [had.get(key), has.get(key)]
    const { point, aggregate } = (one ?? other)!
    const rates = [Number(one?.count ?? 0n) / seconds[0], Number(other?.count ?? 0n) / seconds[1]] as const
    return { point, aggregate, before: one?.count, after: other?.count, rates, change: changeOf(one?.count, other?.count, rates, seconds) }
  })
  const size = ({ rates: [a, b] }: DiffRow): number => Math.abs(b - a)
  return { before, after, seconds, rows: rows.sort((a, b) => size(b) - size(a)) }
}

/** How many times as much. */
export const factorText = ({ change, rates: [before, after] }: DiffRow): string =>
  change === 'same' || before <= 0 || after <= 0 ? change : `${change} ${(after > before ? after / before : before / after).toPrecision(3)}×`
