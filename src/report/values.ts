// Collected values as people read them: plain numbers, powers of two, ticks, times.

import type { KeyKind, Unit } from '../probe/aggregates.js'
import type { AggregateNumbers, Bucket, KeyNumbers } from './aggregates.js'
import { duration, grouped } from './printable.js'

const UNITS = ['', 'K', 'M', 'G', 'T', 'P', 'E'] as const

/** 4096 -> 4K, where that is exact. */
export const binary = (value: bigint): string => {
  let unit = 0
  let rest = value
  while (unit < UNITS.length - 1 && rest !== 0n && rest % 1024n === 0n) {
    rest /= 1024n
    unit++
  }
  return `${rest}${UNITS[unit]!}`
}

/** How values of a unit are written. */
export const valueText = (unit: Unit): ((value: bigint) => string) => {
  if (unit === 'ns') return (ns) => (ns < 0n ? `-${duration(-ns)}` : duration(ns))
  return unit === 'ticks' ? (value) => `${grouped(value)} ticks` : grouped
}

/** How the bounds of an aggregate's buckets are written. */
export const boundText = ({ unit, kind }: Pick<AggregateNumbers, 'unit' | 'kind'>): ((value: bigint) => string) =>
  unit === 'number' && kind === 'hist' ? binary : valueText(unit)

/** 'CPU 3', 'key 7', or '' where there is no key. */
export const keyName = (kind: KeyKind, key: number): string => (kind === 'none' ? '' : kind === 'cpu' ? `CPU ${key}` : `key ${key}`)

/** What a key holds but for how many values and its buckets. */
export const figuresOf = ({ count, sum, min, max }: KeyNumbers): { readonly title: string; readonly value: bigint }[] => {
  const average = sum === undefined || count === undefined ? undefined : sum / count
  return Object.entries({ average, sum, least: min, greatest: max }).flatMap(([title, value]) => (value === undefined ? [] : [{ title, value }]))
}

/** '[4K, 8K)', '(..., 0)', '[0]', '[1.0 µs, 2.0 µs)'. */
export const boundsText = ({ low, high }: Bucket, text: (value: bigint) => string): string => {
  if (low === undefined) return `(..., ${text(high!)})`
  if (high === undefined) return `[${text(low)}, ...)`
  return high - low === 1n ? `[${text(low)}]` : `[${text(low)}, ${text(high)})`
}
