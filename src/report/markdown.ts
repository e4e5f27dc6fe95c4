// The report as Markdown (GitHub's flavour), to be put into an issue or a mail. In: the numbers. Out: text, in pieces. Invariant:
// names from files are code spans, in which nothing is markup.

import type { AggregateNumbers, KeyNumbers } from './aggregates.js'
import type { ReportNumbers } from './numbers.js'
import { byCount, ended } from './order.js'
import { duration, grouped, printable, spark, wallTime } from './printable.js'
import { ratesOf } from './series.js'
import { boundsText, boundText, figuresOf, keyName, valueText } from './values.js'

const SHOWN = 100
const MOST_KEYS = 100
const MOST_STEPS = 24 // of a picture over time

/** A name as a code span that may stand in a table: it has no bars, which readers of tables see also in code, and its fence is longer than any run of backticks in it. */
const code = (text: string): string => {
  const plain = printable(text).replaceAll('|', '\\u{7c}')
  if (plain === '') return ''
  const longest = Math.max(0, ...[...plain.matchAll(/`+/g)].map(([run]) => run.length))
  const fence = '`'.repeat(longest + 1)
  return longest > 0 ? `${fence} ${plain} ${fence}` : `${fence}${plain}${fence}`
}

const line = (cells: readonly string[]): string => `| ${cells.join(' | ')} |\n`

/** @param numbers how many columns from the left hold numbers */
const table = (titles: readonly string[], numbers: number, rows: readonly (readonly string[])[]): string =>
  [line(titles), line(titles.map((_, i) => (i < numbers ? '---:' : '---'))), ...rows.map(line)].join('')

const figures = (key: KeyNumbers, text: (value: bigint) => string): string => [
  ...(key.count !== undefined ? [`${grouped(key.count)} values`] : []),
  ...figuresOf(key).map(({ title, value }) => `${title} ${text(value)}`),
].join(', ')

const aggregate = (one: AggregateNumbers): string => {
  const { name, kind, unit, keyKind, keys } = one
  const [text, bounds] = [valueText(unit), boundText(one)]
  const parts = keys.slice(0, MOST_KEYS).map((each) => {
    const key = keyKind === 'none' ? '' : `${keyName(keyKind, each.key)}: `
    const buckets = each.buckets === undefined ? ''
      : `\n${table(['values', 'how many'], 0, each.buckets.map((bucket) => [boundsText(bucket, bounds), grouped(bucket.count)]))}`
    return `${key}${figures(each, text)}\n${buckets}`
  })
  return `\n### ${code(`@${name}`)} ${kind}\n\n${parts.length === 0 ? 'Nothing was seen.\n' : parts.join('\n')}${keys.length > MOST_KEYS ? `\n${keys.length - MOST_KEYS} more keys are left out.\n` : ''}`
}

export function* reportMarkdown(numbers: ReportNumbers): Generator<string, void> {
  const { hosts, counts, missed, summary: { points, served } } = numbers
  yield `## What ran on ${hosts.length > 1 ? `${hosts.length} hosts` : code(numbers.host) || 'an unnamed host'}\n\n`
  for (const host of hosts) {
    yield `- ${code(host.name) || 'unknown'}: ${code(host.release)}, ${host.cpuCount} CPUs, applied ${wallTime(host.appliedNs)}, counted ${ended(host)}, stopped ${duration(host.stopNs)} at most\n`
  }
  yield `- build id ${numbers.buildId}, ${numbers.siteCount} sites, ${numbers.signer === undefined ? 'not signed' : `signed in the name of ${code(numbers.signer)}`}\n`
  if (counts.length > 0) {
    const order = byCount(counts).slice(0, SHOWN)
    const { series } = numbers
    const titles = ['count', ...(series ? ['over time'] : []), ...(numbers.by === 'host' ? numbers.columns.map(code) : []), 'point', 'counted at']
    yield `\n${table(titles, titles.length - 2, order.map((index) => {
      const { point, aggregate: name, at, count, perColumn, derived } = numbers.row(index)
      const picture = series ? [code(spark(ratesOf(series.counts(index), series.intervals, MOST_STEPS)))] : []
      return [grouped(count), ...picture, ...(numbers.by === 'host' ? perColumn.map(grouped) : []), code(point) + (name === '' ? '' : ` ${code(`@${name}`)}`),
        `${code(at)}${derived ? ', derived' : ''}`]
    }))}`
    if (counts.length > order.length) yield `\n${counts.length - order.length} more with lower counts are left out.\n`
  }
  for (const each of numbers.aggregates) yield aggregate(each)
  if (missed > 0n) yield `\n${grouped(missed)} values could not be recorded.\n`
  if (points > served) yield `\n${points - served} points were refused.\n`
}
