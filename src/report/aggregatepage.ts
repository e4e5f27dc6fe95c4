// Aggregates in a page. In: what they hold. Out: markup: a histogram as a table with bars, or figures, or a table of keys.

import type { AggregateNumbers, Bucket, KeyNumbers } from './aggregates.js'
import { bar, sparkline } from './chart.js'
import { el, type Content, type Markup } from './html.js'
import { greatest } from './order.js'
import { factList, MOST_ROWS, moreNote, table, type Cell } from './pageframe.js'
import { grouped } from './printable.js'
import { MOST_STEPS, ratesOf, valuesOf, type SeriesNumbers } from './series.js'
import { boundsText, boundText, figuresOf, keyName, valueText } from './values.js'

const MOST_KEYS = 64

/** @param overTime a bucket's picture */
const histogram = (
  id: string, one: AggregateNumbers, caption: string, buckets: readonly Bucket[], overTime: ((bucket: Bucket) => Markup) | undefined,
): Content => {
  const most = greatest(buckets.map(({ count }) => count))
  const text = boundText(one)
  return el('div', { class: 'scroll' }, el('table', { id }, el('caption', {}, caption),
    el('thead', {}, el('tr', {}, ['Values', 'How many', 'Share', ...(overTime ? ['Over time'] : [])].map((title, i) => el('th', { scope: 'col', class: i === 1 ? 'number' : undefined }, title)))),
    el('tbody', {}, buckets.map((bucket) => el('tr', {},
      el('td', { class: 'name' }, boundsText(bucket, text)), el('td', { class: 'number' }, grouped(bucket.count)), el('td', {}, bar(bucket.count, most)),
      overTime === undefined ? '' : el('td', {}, overTime(bucket)))))))
}

/** What a key holds but for its buckets. */
const figures = (key: KeyNumbers, text: (value: bigint) => string): { title: string; value: bigint; text: string }[] => [
  ...(key.count === undefined ? [] : [{ title: 'values', value: key.count, text: grouped(key.count) }]),
  ...figuresOf(key).map(({ title, value }) => ({ title, value, text: text(value) })),
]

/** @param number of the aggregate */
export const aggregateSection = (one: AggregateNumbers, number: number, series: SeriesNumbers | undefined): Content => {
  const { name, kind, unit, keyKind, keys } = one
  const seen = series?.aggregate(number)
  const overTime = seen === undefined ? undefined
    : (key: number, bucket?: Bucket): Markup => sparkline(ratesOf(valuesOf(seen, key, bucket), series!.intervals, MOST_STEPS))
  const text = valueText(unit)
  const title = el('h3', {}, el('code', {}, `@${name}`), ` ${kind}`)
  const [first] = keys
  if (first === undefined) return [title, el('p', { class: 'note' }, 'Nothing was seen.')]
  if (first.buckets !== undefined) {
    const shown = keys.slice(0, MOST_KEYS)
    return [title,
      shown.map((each, k) => histogram(`aggregate-${number}-${k}`, one,
        `${keyKind === 'none' ? '' : `${keyName(keyKind, each.key)}: `}${grouped(each.count ?? 0n)} values`, each.buckets!,
        overTime && ((bucket) => overTime(each.key, bucket)))),
      keys.length > shown.length ? el('p', { class: 'note' }, `${keys.length - shown.length} more keys are left out here.`) : '']
  }
  if (keyKind === 'none') {
    return [title, factList(figures(first, text).map((figure) => [figure.title, figure.text])), overTime?.(first.key) ?? '']
  }
  const rows = keys.slice(0, MOST_ROWS).map((each): Cell[] => [
    { content: keyName(keyKind, each.key), value: BigInt(each.key) }, ...figures(each, text).map(({ text: content, value }) => ({ content, value })),
    ...(overTime ? [{ content: overTime(each.key) }] : []),
  ])
  return [title, table(`aggregate-${number}`, `${keys.length} keys`,
    [{ title: 'Key', number: true }, ...figures(first, text).map((figure) => ({ title: figure.title, number: true })),
      ...(overTime ? [{ title: 'Over time', picture: true }] : [])], rows), moreNote(keys.length - rows.length)]
}
