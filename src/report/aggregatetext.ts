// Aggregates for a terminal. In: what they hold. Out: lines: a histogram with bars, as bpftrace draws them, or one line for
// each key. Invariant: no line is wider than the width.

import type { AggregateNumbers, Bucket, KeyNumbers } from './aggregates.js'
import { cut, grouped, printable } from './printable.js'
import { binary, boundsText, figuresOf, valueText } from './values.js'

const MOST_BAR = 52
const LEAST_BAR = 8
const MOST_KEYS = 1000

const histogram = (buckets: readonly Bucket[], width: number, text: (value: bigint) => string): string[] => {
  const labels = buckets.map((bucket) => boundsText(bucket, text))
  const counts = buckets.map(({ count }) => grouped(count))
  const [labelWidth, countWidth] = [labels, counts].map((texts) => Math.max(...texts.map((text) => text.length))) as [number, number]
  const most = buckets.reduce((best, { count }) => (count > best ? count : best), 1n)
  const room = Math.max(LEAST_BAR, Math.min(MOST_BAR, width - labelWidth - countWidth - 6))
  return buckets.map(({ count }, i) => {
    const bar = '@'.repeat(Number((count * BigInt(room) + most - 1n) / most))
    return cut(`${labels[i]!.padEnd(labelWidth)}  ${counts[i]!.padStart(countWidth)} |${bar.padEnd(room)}|`, width)
  })
}

/** What a key holds but for its buckets: '12 values, average 34'. */
const figures = (key: KeyNumbers, text: (value: bigint) => string): string => [
  ...figuresOf(key).map(({ title, value }) => `${title} ${text(value)}`),
  ...(key.count !== undefined ? [`${grouped(key.count)} ${key.count === 1n ? 'value' : 'values'}`] : []),
].join(', ')

/**
 * Lines of one aggregate, an empty one before it.
 * @param overTime a picture of a key
 */
export const aggregateText = (
  { name, kind, unit, keyKind, keys }: AggregateNumbers, width: number, overTime?: (key: number) => string,
): string[] => {
  const title = `@${printable(name)}`
  const text = valueText(unit)
  if (keys.length === 0) return ['', cut(`${title}: ${kind}, nothing was seen`, width)]
  const lines = ['']
  for (const each of keys.slice(0, MOST_KEYS)) {
    const label = keyKind === 'none' ? title : `${title}[${keyKind === 'cpu' ? `cpu ${each.key}` : each.key}]`
    lines.push(cut(`${label}: ${kind === 'count' ? grouped(each.count!) : figures(each, text)}${overTime === undefined ? '' : `  over time |${overTime(each.key)}|`}`, width))
    if (each.buckets !== undefined) lines.push(...histogram(each.buckets, width, unit !== 'number' ? text : kind === 'hist' ? binary : String))
  }
  if (keys.length > MOST_KEYS) lines.push(`and ${keys.length - MOST_KEYS} more keys: --format json has all`)
  return lines
}
