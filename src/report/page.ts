// The report as one page of HTML (pageframe.ts). In: the numbers, and what is known of functions. Out: markup, in pieces. Of many points
// those with the highest counts are shown, and what is left out is said.

import type { Unit } from '../probe/aggregates.js'
import { askedName } from '../splice/manifest.js'
import { aggregateSection } from './aggregatepage.js'
import { callRows } from './callpage.js'
import { bar, sparkline, spread } from './chart.js'
import { insideFunctions } from './functionpage.js'
import { el, type Content, type Markup } from './html.js'
import type { HostNumbers, ReportNumbers } from './numbers.js'
import { byCount, ended, falling, greatest, sumsByAsked } from './order.js'
import { outliers, type Outlier } from './outliers.js'
import {
  AGGREGATE_BYTES, countCell, fixedRate, headerOf, LIST_BYTES, listOf, MOST_ROWS, pageOf, POINT_BYTES, rateCell, some, table, type Cell, type Part,
} from './pageframe.js'
import { duration, grouped, wallTime } from './printable.js'
import { MOST_STEPS, ratesOf, type SeriesNumbers } from './series.js'
import { keyName, valueText } from './values.js'
import type { Inside } from './views.js'

const MOST_LISTED = 500
/** Characters of a program. */
const MOST_PROGRAM = 2 ** 16

const hostFacts = (host: HostNumbers): string =>
  `${host.release}, ${host.cpuCount} CPUs, applied ${wallTime(host.appliedNs)}, counted ${ended(host)}, stopped ${duration(host.stopNs)} at most`

const signedFact = ({ signer }: ReportNumbers): [string, string] =>
  ['signed', signer === undefined ? 'no' : `in the name of ${signer} (kerninst verify checks it)`]

const fleetHeader = (numbers: ReportNumbers): Markup => {
  const { hosts, buildId, payloadSha256, siteCount, manifest } = numbers
  return headerOf(`What ran on ${hosts.length} hosts`, `Counted by kerninst with one bundle at ${siteCount} sites`, [
    ...hosts.map((host) => [host.name || 'unknown', hostFacts(host)] as const),
    ['bundle', `build id ${buildId}, payload sha256 ${payloadSha256}, planned by kerninst ${manifest.tool.version}`],
    signedFact(numbers),
  ])
}

/** Hosts that are far from the others. */
const outlierRows = (numbers: ReportNumbers, all: readonly Outlier[]): Content => {
  const shown = all.slice(0, MOST_LISTED)
  return table('outlier-table', 'Counts a second, beside the median of all hosts, the farthest first', [
    { title: 'Host' }, { title: 'Point' }, { title: 'A second', number: true }, { title: 'Median', number: true },
  ], shown.map(({ row, host, rate, median }): Cell[] => [
    { content: numbers.columns[host]!, name: true }, { content: numbers.row(row).point, name: true },
    rateCell(rate), rateCell(median),
  ]), all.length - shown.length)
}

const header = (numbers: ReportNumbers): Markup => {
  if (numbers.by === 'host') return fleetHeader(numbers)
  const { host, release, buildId, state, appliedNs, removedNs, resetNs, dumpedNs, siteCount, cpuCount, stopNs } = numbers
  const facts: [string, string][] = [
    ['host', host || 'unknown'],
    ['kernel', `${release || 'unknown'}, build id ${buildId}`],
    ['applied', state === 'applying' ? 'not wholly: the machine died meanwhile'
      : `${wallTime(appliedNs)}, ${state === 'applied' ? 'still applied' : `removed ${wallTime(removedNs)}`}`],
    ...(resetNs > 0n ? [['counters zeroed', wallTime(resetNs)] as [string, string]] : []),
    ['dumped', dumpedNs === 0n ? 'in a memory image, at an unknown time' : wallTime(dumpedNs)],
    ['counted', `${ended(numbers)}, ${siteCount} sites, ${cpuCount} CPUs`],
    ...(state === 'applying' ? [] : [['stopped', `${duration(stopNs)} at most, for apply`] as [string, string]]),
    ['bundle', `payload sha256 ${numbers.payloadSha256}, planned by kerninst ${numbers.manifest.tool.version}`],
    signedFact(numbers),
  ]
  return headerOf(`What ran on ${host || 'an unnamed host'}`, `Linux ${release || 'unknown'}, counted by kerninst for ${ended(numbers)}`, facts)
}

const cards = (numbers: ReportNumbers): Markup => {
  const { summary: { points, served, derived }, counts, missed } = numbers
  const ran = counts.reduce((sum, count) => (count > 0n ? sum + 1 : sum), 0)
  const card = (figure: string, what: string): Markup => el('li', {}, el('b', {}, figure), what)
  return el('ul', { class: 'cards' },
    card(grouped(BigInt(counts.length)), 'points counted'),
    card(grouped(BigInt(ran)), 'of them ran'),
    ...(derived > 0 ? [card(grouped(BigInt(derived)), 'follow from others')] : []),
    ...(points > served ? [card(grouped(BigInt(points - served)), 'refused')] : []),
    ...(numbers.aggregates.length > 0 ? [card(grouped(missed), 'values missed')] : []))
}

const timeRows = ({ intervals, events }: SeriesNumbers): Content => {
  const counted = events()
  const rates = ratesOf(counted, intervals, intervals.length)
  const most = greatest(rates.map(fixedRate))
  const shown = intervals.slice(0, MOST_ROWS)
  const rows = shown.map(({ fromNs, toNs, afterReset, seconds }, i): Cell[] => [
    { content: `${wallTime(fromNs)}${afterReset ? ', when the counters were zeroed' : ''}`, name: true },
    { content: seconds > 0 ? duration(toNs - fromNs) : 'none', value: toNs - fromNs },
    countCell(counted[i]!),
    rateCell(rates[i]!),
    { content: bar(fixedRate(rates[i]!), most) },
  ])
  return [
    el('p', {}, `There are ${intervals.length} dumps of this run, so it is known what was counted between them. Tables below and above have a picture of it, counts a second from left to right.`),
    table('time-table', 'What was counted at all sites, in the order of time', [
      { title: 'From' }, { title: 'For', number: true }, { title: 'Counted', number: true }, { title: 'A second', number: true }, { title: 'Share', picture: true },
    ], rows, intervals.length - shown.length),
  ]
}

const pointRows = (numbers: ReportNumbers): Content => {
  const order = byCount(numbers.counts)
  const shown = order.slice(0, MOST_ROWS)
  const most = order.length > 0 ? numbers.counts[order[0]!]! : 0n
  const named = shown.map((index) => numbers.row(index))
  const aggregates = named.some(({ aggregate }) => aggregate !== '')
  const { series } = numbers
  const rows = named.map(({ point, aggregate, at, count, perColumn, derived }, i): Cell[] => [
    countCell(count),
    { content: bar(count, most) },
    { content: point, name: true },
    ...(aggregates ? [{ content: `@${aggregate}`, name: true }] : []),
    { content: derived ? `${at}, derived` : at, name: true },
    ...(numbers.columns.length > 1 ? [{ content: spread(perColumn, numbers.by === 'cpu' ? 'CPU' : 'host') }] : []),
    ...(series ? [{ content: sparkline(ratesOf(series.counts(shown[i]!), series.intervals, MOST_STEPS)) }] : []),
  ])
  return table('points', 'Counts by point, highest first', [
    { title: 'Count', number: true, sorted: true }, { title: 'Share', picture: true }, { title: 'Point' }, ...(aggregates ? [{ title: 'Name' }] : []),
    { title: 'Counted at' }, ...(numbers.columns.length > 1 ? [{ title: numbers.by === 'cpu' ? 'By CPU' : 'By host', picture: true }] : []),
    ...(series ? [{ title: 'Over time', picture: true }] : []),
  ], rows, order.length - shown.length, POINT_BYTES)
}

const sumRows = (numbers: ReportNumbers): Content => {
  const { manifest } = numbers
  const sums = sumsByAsked(numbers)
  const shown = sums.slice(0, MOST_ROWS)
  const most = shown[0]?.total ?? 0n
  const rows = shown.map(({ asked, total, ran, points }): Cell[] => [
    countCell(total),
    { content: bar(total, most) },
    { content: askedName(manifest, asked), name: true },
    { content: `${ran}`, value: BigInt(ran) },
    { content: `${points}`, value: BigInt(points) },
    { content: points === 0 ? '' : `${Math.round((100 * ran) / points)} %`, value: BigInt(Math.round((1e6 * ran) / Math.max(1, points))) },
  ])
  return table('functions', 'Sums of the counts of each function, highest first', [
    { title: 'Sum', number: true, sorted: true }, { title: 'Share', picture: true }, { title: 'Asked for' }, { title: 'Ran', number: true },
    { title: 'Points', number: true }, { title: 'Covered', number: true },
  ], rows, sums.length - shown.length)
}

/** @param negative rows with counts below zero */
const imbalances = (numbers: ReportNumbers, negative: readonly number[]): Content => {
  const sorted = negative.toSorted((a, b) => (numbers.counts[a]! < numbers.counts[b]! ? -1 : 1))
  return [
    el('p', {}, 'These counts follow from others and came out below zero. Threads were between two of the places counted when ' +
      'counting began or ended, or left the function by a way that is not known. Their neighbours are off by as much, and no more.'),
    listOf(sorted.slice(0, MOST_LISTED), (index) => [el('code', {}, numbers.row(index).point), ` ${numbers.counts[index]!}`],
      Math.max(0, sorted.length - MOST_LISTED)),
  ]
}

const refusals = (numbers: ReportNumbers): Content => {
  const { summary: { refused }, manifest } = numbers
  const codes = Object.keys(refused)
  const byCode = new Map<string, string[]>(codes.map((code) => [code, []]))
  let shown = 0
  for (const { point, code, nearest } of numbers.refusals()) {
    if (shown === MOST_LISTED) break
    const list = byCode.get(code)
    if (list === undefined) continue
    list.push(nearest === '' ? point : `${point} (${nearest} can be served)`)
    shown++
  }
  return [
    el('p', {}, 'A point is counted exactly or not at all. These could not be served, for these reasons.'),
    some(2 * LIST_BYTES, codes, (code) => el('details', {},
      el('summary', {}, el('code', {}, code), ` ${grouped(BigInt(refused[code]!))}: ${manifest.refusals.find((one) => one.code === code)?.reason ?? ''}`),
      listOf(byCode.get(code)!, (point) => el('code', {}, point)),
      byCode.get(code)!.length < refused[code]! ? el('p', { class: 'note' }, `${refused[code]! - byCode.get(code)!.length} more: kerninst show lists them all.`) : '')),
  ]
}

const programs = (texts: readonly string[]): Content =>
  some(LIST_BYTES, texts, (text) => el('pre', {}, text.length > MOST_PROGRAM ? `${text.slice(0, MOST_PROGRAM)}…` : text))

/** Sums of times, whatever collected them. */
const timeSums = ({ aggregates }: ReportNumbers): { readonly name: string; readonly unit: Unit; readonly key: string; readonly sum: bigint; readonly count: bigint | undefined }[] =>
  aggregates.filter(({ unit }) => unit !== 'number').flatMap(({ name, unit, keyKind, keys }) =>
    keys.flatMap(({ key, sum, count }) => (sum === undefined ? [] : [{ name, unit, key: keyName(keyKind, key), sum, count }])))
    .sort((a, b) => falling(a.sum, b.sum))

const timesTable = (sums: ReturnType<typeof timeSums>): Content => {
  const shown = sums.slice(0, MOST_ROWS)
  const [{ sum: most } = { sum: 0n }] = sums
  const rows = shown.map(({ name, unit, key, sum, count }): Cell[] => {
    const text = valueText(unit)
    const average = count === undefined || count === 0n ? undefined : sum / count
    return [
      { content: text(sum), value: sum }, { content: bar(sum, most) }, { content: `@${name}${key === '' ? '' : `, ${key}`}`, name: true },
      { content: count === undefined ? '' : grouped(count), value: count ?? 0n }, { content: average === undefined ? '' : text(average), value: average ?? 0n },
    ]
  })
  return table('times-table', 'Times that were added up, the longest first', [
    { title: 'Time', number: true, sorted: true }, { title: 'Share', picture: true }, { title: 'Name' }, { title: 'Values', number: true }, { title: 'Average', number: true },
  ], rows, sums.length - shown.length)
}

/**
 * @param inside what is known from the image of the functions that ran
 * @returns the page, a section a piece
 */
export const reportHtml = (numbers: ReportNumbers, inside?: Inside): Generator<string, void> => {
  const { manifest, counts, aggregates, missed, series } = numbers
  const far = outliers(numbers)
  const times = timeSums(numbers)
  const negative = [...counts.keys()].filter((row) => counts[row]! < 0n)
  const parts: (Part | false)[] = [
    counts.length > 0 && { id: 'counts', title: 'Counts', contents: () => pointRows(numbers) },
    series !== undefined && { id: 'time', title: 'Over time', contents: () => timeRows(series) },
    counts.length > manifest.asked.kind.length && { id: 'sums', title: 'Functions', contents: () => sumRows(numbers) },
    inside !== undefined && inside.views.length > 0 && { id: 'inside', title: 'Inside functions', contents: () => insideFunctions(inside) },
    inside !== undefined && inside.calls.calls.length > 0 && { id: 'calls', title: 'Calls', contents: () => callRows(inside) },
    times.length > 1 && { id: 'times', title: 'Times', contents: () => timesTable(times) },
    aggregates.length > 0 && { id: 'collected', title: 'Collected values', contents: () => some(AGGREGATE_BYTES, aggregates, (one, a) => aggregateSection(one, a, series)) },
    far.length > 0 && { id: 'outliers', title: 'Hosts that stand out', contents: () => outlierRows(numbers, far) },
    negative.length > 0 && { id: 'imbalances', title: 'Counts that do not balance', contents: () => imbalances(numbers, negative) },
    Object.keys(numbers.summary.refused).length > 0 && { id: 'refusals', title: 'Points that were refused', contents: () => refusals(numbers) },
    { id: 'programs', title: 'Programs', contents: () => programs(manifest.programs) },
  ]
  const warning = missed === 0n ? ''
    : el('p', { class: 'warn' }, `${grouped(missed)} values could not be recorded: a span's table was full, clocks disagreed, or an extremum was overtaken too often.`)
  return pageOf(`kerninst: ${numbers.by === 'host' ? `${numbers.hosts.length} hosts` : numbers.host || 'report'}`, header(numbers), [cards(numbers), warning],
    parts.filter((part) => part !== false))
}
