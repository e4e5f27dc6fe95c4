// The report as one page of HTML that needs nothing else: no network, no font, no script to be read. In: the numbers. Out:
// markup, in pieces. Invariant: the page's policy allows its own style and script alone, by their digests; nothing from a
// file is markup (html.ts). Of many points those with the highest counts are shown, and what is left out is said.

import { createHash } from 'node:crypto'
import { askedName } from '../splice/manifest.js'
import type { AggregateNumbers, Bucket, KeyNumbers } from './aggregates.js'
import { bar, sparkline, spread } from './chart.js'
import { client } from './client.js'
import { flowchart, MOST_DRAWN } from './flowchart.js'
import { el, markup, verbatim, type Content, type Markup } from './html.js'
import type { HostNumbers, ReportNumbers } from './numbers.js'
import { STYLE } from './pagestyle.js'
import { ratesOf, valuesOf, type SeriesNumbers } from './series.js'
import { byCount, ended, sumsByAsked } from './order.js'
import { outliers } from './outliers.js'
import { duration, grouped, rateText, wallTime } from './printable.js'
import { boundsText, boundText, figuresOf, valueText } from './values.js'
import type { FunctionView } from './views.js'

/** So many rows of a table; a browser has them at once, and people have not read more. */
const MOST_ROWS = 2000
const MOST_KEYS = 64
const MOST_LISTED = 500
/** Steps of a picture over time. */
const MOST_STEPS = 60

const SCRIPT = `(${client.toString()})()\n`

const digest = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

const POLICY = `default-src 'none'; style-src ${digest(STYLE)}; script-src ${digest(SCRIPT)}; base-uri 'none'; form-action 'none'`

interface Column {
  readonly title: string
  readonly number?: boolean
  /** Nothing to sort by. */
  readonly picture?: boolean
  readonly sorted?: boolean // as the rows come, falling
}

interface Cell {
  readonly content: Content
  readonly value?: bigint // what a number is sorted by
  readonly name?: boolean
}

/** A table that can be sorted and filtered where there are scripts. */
const table = (id: string, caption: Content, columns: readonly Column[], rows: readonly (readonly Cell[])[], left = 0): Content => {
  const heads = columns.map(({ title, number, picture, sorted }) => el('th', {
    scope: 'col', class: number ? 'number' : undefined, 'aria-sort': picture ? undefined : sorted ? 'descending' : 'none',
    'data-first': number ? 'descending' : undefined,
  }, picture ? title : el('button', { type: 'button' }, title)))
  const filter = rows.length < 10 ? '' : el('p', { class: 'filter', 'data-for': id, hidden: true },
    el('label', {}, 'Filter ', el('input', { type: 'search', 'aria-controls': id })), ' ', el('output', {}))
  return [
    filter,
    el('div', { class: 'scroll' }, el('table', { id, class: 'sortable' },
      el('caption', {}, caption),
      el('thead', {}, el('tr', {}, heads)),
      el('tbody', {}, rows.map((cells) => el('tr', {}, cells.map(({ content, value, name }) =>
        el('td', { class: value !== undefined ? 'number' : name ? 'name' : undefined, 'data-v': value?.toString() }, content))))))),
    left > 0 ? el('p', { class: 'note' }, `${grouped(BigInt(left))} more with lower counts are left out here: --format json or csv has them all.`) : '',
  ]
}

const section = (id: string, title: string, ...contents: readonly Content[]): Markup =>
  el('section', { 'aria-labelledby': id }, el('h2', { id }, title), ...contents)

const hostFacts = (host: HostNumbers): string =>
  `${host.release}, ${host.cpuCount} CPUs, applied ${wallTime(host.appliedNs)}, counted ${ended(host)}, stopped ${duration(host.stopNs)} at most`

const factList = (facts: readonly (readonly [term: string, text: string])[]): Markup =>
  el('dl', { class: 'facts' }, facts.map(([term, text]) => [el('dt', {}, term), el('dd', {}, text)]))

const headerOf = (title: string, lead: string, facts: readonly (readonly [string, string])[]): Markup => el('header', {},
  el('a', { class: 'skip', href: '#main' }, 'Skip to the counts'), el('h1', {}, title), el('p', { class: 'lead' }, lead), factList(facts))

const fleetHeader = ({ hosts, buildId, payloadSha256, siteCount, manifest }: ReportNumbers): Markup =>
  headerOf(`What ran on ${hosts.length} hosts`, `Counted by kerninst with one bundle at ${siteCount} sites`, [
    ...hosts.map((host) => [host.name || 'unknown', hostFacts(host)] as const),
    ['bundle', `build id ${buildId}, payload sha256 ${payloadSha256}, planned by kerninst ${manifest.tool.version}`],
  ])

/** Hosts that are far from the others. */
const outlierRows = (numbers: ReportNumbers): Content => {
  const all = outliers(numbers)
  if (all.length === 0) return ''
  const shown = all.slice(0, MOST_LISTED)
  return section('outliers', 'Hosts that stand out', table('outlier-table', 'Counts a second, beside the median of all hosts, the farthest first', [
    { title: 'Host' }, { title: 'Point' }, { title: 'A second', number: true }, { title: 'Median', number: true },
  ], shown.map(({ row, host, rate, median }): Cell[] => [
    { content: numbers.columns[host]!, name: true }, { content: numbers.row(row).point, name: true },
    { content: rateText(rate), value: BigInt(Math.round(rate * 1000)) }, { content: rateText(median), value: BigInt(Math.round(median * 1000)) },
  ]), all.length - shown.length))
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

/** A column of what happened over time, where that is known: its title, and a row's picture. */
const timeColumn = ({ series }: ReportNumbers): { readonly column: Column[]; readonly cells: (counts: () => bigint[]) => Cell[] } => ({
  column: series === undefined ? [] : [{ title: 'Over time', picture: true }],
  cells: (counts) => (series === undefined ? [] : [{ content: sparkline(ratesOf(counts(), series.intervals, MOST_STEPS)) }]),
})

const timeRows = ({ intervals, events }: SeriesNumbers): Content => {
  const counted = events()
  const rates = ratesOf(counted, intervals, intervals.length)
  const fixed = rates.map((rate) => BigInt(Math.round(rate * 1000)))
  const most = fixed.reduce((best, rate) => (rate > best ? rate : best), 0n)
  const shown = intervals.slice(0, MOST_ROWS)
  const rows = shown.map(({ fromNs, toNs, afterReset, seconds }, i): Cell[] => [
    { content: `${wallTime(fromNs)}${afterReset ? ', when the counters were zeroed' : ''}`, name: true },
    { content: seconds > 0 ? duration(toNs - fromNs) : 'none', value: toNs - fromNs },
    { content: grouped(counted[i]!), value: counted[i]! },
    { content: rateText(rates[i]!), value: fixed[i]! },
    { content: bar(fixed[i]!, most) },
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
  const time = timeColumn(numbers)
  const rows = named.map(({ point, aggregate, at, count, perColumn, derived }, i): Cell[] => [
    { content: grouped(count), value: count },
    { content: bar(count, most) },
    { content: point, name: true },
    ...(aggregates ? [{ content: `@${aggregate}`, name: true }] : []),
    { content: derived ? `${at}, derived` : at, name: true },
    ...(numbers.columns.length > 1 ? [{ content: spread(perColumn, numbers.by === 'cpu' ? 'CPU' : 'host') }] : []),
    ...time.cells(() => numbers.series!.counts(shown[i]!)),
  ])
  return table('points', 'Counts by point, highest first', [
    { title: 'Count', number: true, sorted: true }, { title: 'Share', picture: true }, { title: 'Point' }, ...(aggregates ? [{ title: 'Name' }] : []),
    { title: 'Counted at' }, ...(numbers.columns.length > 1 ? [{ title: numbers.by === 'cpu' ? 'By CPU' : 'By host', picture: true }] : []),
    ...time.column,
  ], rows, order.length - shown.length)
}

const sumRows = (numbers: ReportNumbers): Content => {
  const { manifest } = numbers
  const sums = sumsByAsked(numbers)
  const shown = sums.slice(0, MOST_ROWS)
  const most = shown[0]?.total ?? 0n
  const rows = shown.map(({ asked, total, ran, points }): Cell[] => [
    { content: grouped(total), value: total },
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

/** @param overTime a bucket's picture */
const histogram = (
  id: string, one: AggregateNumbers, caption: string, buckets: readonly Bucket[], overTime: ((bucket: Bucket) => Markup) | undefined,
): Content => {
  const most = buckets.reduce((best, { count }) => (count > best ? count : best), 1n)
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

const aggregateSection = (numbers: ReportNumbers, one: AggregateNumbers, number: number): Content => {
  const { name, kind, unit, keyKind, keys } = one
  const { series } = numbers
  const seen = series?.aggregate(number)
  const overTime = seen === undefined ? undefined
    : (key: number, bucket?: Bucket): Markup => sparkline(ratesOf(valuesOf(seen, key, bucket), series!.intervals, MOST_STEPS))
  const text = valueText(unit)
  const title = el('h3', {}, el('code', {}, `@${name}`), ` ${kind}`)
  const [first] = keys
  if (first === undefined) return [title, el('p', { class: 'note' }, 'Nothing was seen.')]
  const keyText = (key: number): string => (keyKind === 'cpu' ? `CPU ${key}` : `key ${key}`)
  if (first.buckets !== undefined) {
    const shown = keys.slice(0, MOST_KEYS)
    return [title,
      shown.map((each, k) => histogram(`aggregate-${number}-${k}`, one,
        `${keyKind === 'none' ? '' : `${keyText(each.key)}: `}${grouped(each.count ?? 0n)} values`, each.buckets!,
        overTime && ((bucket) => overTime(each.key, bucket)))),
      keys.length > shown.length ? el('p', { class: 'note' }, `${keys.length - shown.length} more keys are left out here.`) : '']
  }
  if (keyKind === 'none') {
    return [title, factList(figures(first, text).map((figure) => [figure.title, figure.text])), overTime?.(first.key) ?? '']
  }
  const rows = keys.map((each): Cell[] => [
    { content: keyText(each.key), value: BigInt(each.key) }, ...figures(each, text).map(({ text: content, value }) => ({ content, value })),
    ...(overTime ? [{ content: overTime(each.key) }] : []),
  ])
  return [title, table(`aggregate-${number}`, `${keys.length} keys`,
    [{ title: 'Key', number: true }, ...figures(first, text).map((figure) => ({ title: figure.title, number: true })),
      ...(overTime ? [{ title: 'Over time', picture: true }] : [])], rows)]
}

const imbalances = (numbers: ReportNumbers): Content => {
  const negative = numbers.counts.flatMap((count, index) => (count < 0n ? [index] : []))
  if (negative.length === 0) return ''
  negative.sort((a, b) => (numbers.counts[a]! < numbers.counts[b]! ? -1 : 1))
  return section('imbalances', 'Counts that do not balance',
    el('p', {}, 'These counts follow from others and came out below zero. Threads were between two of the places counted when ' +
      'counting began or ended, or left the function by a way that is not known. Their neighbours are off by as much, and no more.'),
    el('ul', {}, negative.slice(0, MOST_LISTED).map((index) => el('li', {}, el('code', {}, numbers.row(index).point), ` ${numbers.counts[index]!}`))),
    negative.length > MOST_LISTED ? el('p', { class: 'note' }, `${negative.length - MOST_LISTED} more are nearer to zero.`) : '')
}

const refusals = (numbers: ReportNumbers): Content => {
  const { summary: { refused }, manifest } = numbers
  const codes = Object.keys(refused)
  if (codes.length === 0) return ''
  const byCode = new Map<string, string[]>(codes.map((code) => [code, []]))
  let shown = 0
  for (const { point, code, nearest } of numbers.refusals()) {
    if (shown === MOST_LISTED) break
    const list = byCode.get(code)
    if (list === undefined) continue
    list.push(nearest === '' ? point : `${point} (${nearest} can be served)`)
    shown++
  }
  return section('refusals', 'Points that were refused',
    el('p', {}, 'A point is counted exactly or not at all. These could not be served, for these reasons.'),
    codes.map((code) => el('details', {},
      el('summary', {}, el('code', {}, code), ` ${grouped(BigInt(refused[code]!))}: ${manifest.refusals.find((one) => one.code === code)?.reason ?? ''}`),
      el('ul', {}, byCode.get(code)!.map((point) => el('li', {}, el('code', {}, point)))),
      byCode.get(code)!.length < refused[code]! ? el('p', { class: 'note' }, `${refused[code]! - byCode.get(code)!.length} more: kerninst show lists them all.`) : '')))
}

/** Loops in words: the one that went round most for each time that it was entered first. */
const loopsText = ({ blocks, heat }: FunctionView): Content => {
  const known = heat.loops.filter(({ trips }) => trips !== undefined).sort((a, b) => b.trips! - a.trips!)
  if (known.length === 0) return ''
  return el('p', { class: 'note' }, `Loops: ${known.map(({ head, trips, entered }) =>
    `at ${blocks[head]!.name} ${trips!.toFixed(1)} rounds each of ${grouped(entered!)} times`).join('; ')}.`)
}

/** A function in full: its picture, and its instructions block by block. */
const functionDetails = (view: FunctionView, number: number): Markup => {
  const { name, total, blocks, heat } = view
  const id = `f${number}`
  const most = heat.blocks.reduce<bigint>((best, count) => (count !== undefined && count > best ? count : best), 1n)
  const ran = heat.blocks.filter((count) => count !== undefined && count > 0n).length
  const hasLines = blocks.some(({ insns }) => insns.some(({ line }) => line !== ''))
  const titles = ['Address', 'Instruction', 'Live before', 'Splice', ...(hasLines ? ['Source'] : [])]
  return el('details', {},
    el('summary', {}, el('code', {}, name), ` ${grouped(total)}, ${ran} of ${blocks.length} blocks ran`),
    loopsText(view),
    blocks.length <= MOST_DRAWN ? el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Picture of ${name}` }, flowchart(view, id))
      : el('p', { class: 'note' }, `${blocks.length} blocks are more than a picture can show.`),
    el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Instructions of ${name}` }, el('table', { class: 'code' },
      el('caption', {}, `Instructions of ${name}, with how often each block ran`),
      el('thead', {}, el('tr', {}, titles.map((title) => el('th', { scope: 'col' }, title)))),
      blocks.map((block, b) => el('tbody', {},
        el('tr', { id: `${id}-${b}`, class: 'block' }, el('th', { scope: 'rowgroup', colspan: titles.length },
          el('code', {}, block.name), heat.blocks[b] === undefined ? ' not counted ' : [' ran ', grouped(heat.blocks[b]), ' times ', bar(heat.blocks[b], most)],
          block.leaves === '' ? '' : el('span', { class: 'note' }, block.leaves))),
        block.insns.map(({ address, text, live, tactic, line }) => el('tr', {},
          [address, text, live, tactic, ...(hasLines ? [line] : [])].map((cell) => el('td', { class: 'name' }, cell)))))))))
}

/**
 * @param views functions that are shown in full
 * @returns the page, a section a piece
 */
export function* reportHtml(numbers: ReportNumbers, views: readonly FunctionView[] = []): Generator<string, void> {
  const { manifest, counts, aggregates, missed, series } = numbers
  const many = counts.length > manifest.asked.kind.length
  const parts: [string, string][] = [
    ...(counts.length > 0 ? [['#counts', 'Counts'] as [string, string]] : []),
    ...(series ? [['#time', 'Over time'] as [string, string]] : []),
    ...(many ? [['#sums', 'Functions'] as [string, string]] : []),
    ...(views.length > 0 ? [['#inside', 'Inside functions'] as [string, string]] : []),
    ...(aggregates.length > 0 ? [['#collected', 'Collected values'] as [string, string]] : []),
    ...(Object.keys(numbers.summary.refused).length > 0 ? [['#refusals', 'Refused'] as [string, string]] : []),
    ['#programs', 'Programs'],
  ]
  yield '<!DOCTYPE html>\n<html lang="en">\n'
  yield markup(el('head', {},
    el('meta', { charset: 'utf-8' }),
    el('meta', { 'http-equiv': 'Content-Security-Policy', content: POLICY }),
    el('meta', { name: 'viewport', content: 'width=device-width, initial-scale=1' }),
    el('title', {}, `kerninst: ${numbers.by === 'host' ? `${numbers.hosts.length} hosts` : numbers.host || 'report'}`),
    el('style', {}, verbatim(STYLE))))
  yield '\n<body>\n'
  yield markup(header(numbers))
  yield '\n<main id="main">\n'
  yield markup([
    el('nav', { 'aria-label': 'Sections' }, el('ul', {}, parts.map(([href, title]) => el('li', {}, el('a', { href }, title))))),
    cards(numbers),
    missed > 0n ? el('p', { class: 'warn' }, `${grouped(missed)} values could not be recorded: a span's table was full, clocks disagreed, or an extremum was overtaken too often.`) : '',
  ])
  if (counts.length > 0) yield markup(section('counts', 'Counts', pointRows(numbers)))
  if (series) yield markup(section('time', 'Over time', timeRows(series)))
  if (many) yield markup(section('sums', 'Functions', sumRows(numbers)))
  if (views.length > 0) {
    yield markup(el('h2', { id: 'inside' }, 'Inside functions'))
    yield markup(el('p', {}, 'The functions that ran most: how control went through them, and each instruction with the registers that are live before it.'))
    for (const [number, view] of views.entries()) yield markup(functionDetails(view, number))
  }
  if (aggregates.length > 0) yield markup(section('collected', 'Collected values', aggregates.map((one, number) => aggregateSection(numbers, one, number))))
  yield markup(outlierRows(numbers))
  yield markup(imbalances(numbers))
  yield markup(refusals(numbers))
  yield markup(section('programs', 'Programs', manifest.programs.map((program) => el('pre', {}, program))))
  yield '\n</main>\n'
  yield markup(el('footer', {}, el('p', {}, 'Made by kerninst. Everything is in this file; it asks nothing of the network. Press / to filter.')))
  yield `\n<script>${SCRIPT}</script>\n</body>\n</html>\n`
}
