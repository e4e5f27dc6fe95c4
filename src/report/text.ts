// The report for a terminal. In: the numbers, a width, colour or not. Out: lines of text: a header about the host, a
// table of points by falling count, what was refused. Of many points only those with the highest counts are shown, and
// the sums of what the programs asked for, function by function; what is left out is counted. Invariant: no line is wider than the width (the columns by CPU or host
// go first where they do not fit, then names are cut), and nothing from a file reaches the terminal unescaped.

import { askedName } from '../splice/manifest.js'
import { aggregateText } from './aggregatetext.js'
import type { PartNumbers, ReportNumbers } from './numbers.js'
import { byCount, ended, sumsByAsked } from './order.js'
import { outliers } from './outliers.js'
import { cut, duration, grouped, printable, rateText, rowName, spark, wallTime, widthOf, wrapped } from './printable.js'
import { ratesOf, valuesOf } from './series.js'

export interface TextOptions {
  /** Columns of the terminal; lines stay within them, down to MIN_WIDTH. */
  readonly width: number
  readonly color: boolean
}

const MIN_WIDTH = 60
const DEFAULT_WIDTH = 100
const MAX_WIDTH = 1000
const MAX_COLUMNS = 16
/** Steps of a picture over time, and CPUs or hosts in one of those. */
const MOST_STEPS = 24
const MOST_SPREAD = 32
/** A report of more points than this shows only the first SHOWN. */
const MANY = 1000
const SHOWN = 100
/** Of more than these, only those that ran. */
const FEW = 60
const GAP = '  '

interface Output {
  readonly isTTY?: boolean | undefined
  readonly columns?: number | undefined
}

/** What suits an output: COLUMNS or its own width; colour only on a terminal, and never under NO_COLOR. */
export const textOptions = (output: Output, env: { readonly [name: string]: string | undefined }): TextOptions => {
  const given = Number(env['COLUMNS'])
  const width = Number.isInteger(given) && given > 0 ? given : (output.columns ?? DEFAULT_WIDTH)
  const color = output.isTTY === true && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb'
  return { width: Math.min(MAX_WIDTH, Math.max(MIN_WIDTH, width)), color }
}

interface Row {
  readonly name: string
  readonly at: string
  readonly spark: string // over time, or by CPU or host; '' where there is none
  readonly numbers: readonly string[] // the count, then one a column
  readonly isPart: boolean
}

const row = (name: string, numbers: PartNumbers, sparks: string, withColumns: boolean, isPart: boolean): Row => ({
  name,
  at: printable(numbers.at),
  spark: sparks,
  numbers: [numbers.count, ...(withColumns ? numbers.perColumn : [])].map(grouped),
  isPart,
})

/** A picture of a row: over time where that is known, else by CPU or host where those have no columns. */
const sparkOf = (numbers: ReportNumbers, index: number, { perColumn }: PartNumbers, withColumns: boolean): string => {
  const { series } = numbers
  if (series !== undefined) return spark(ratesOf(series.counts(index), series.intervals, MOST_STEPS))
  return sparkTitle(numbers, withColumns) === '' ? '' : spark(perColumn.map(Number))
}

const sparkTitle = ({ series, by, columns }: ReportNumbers, withColumns: boolean): string =>
  series !== undefined ? 'over time' : withColumns || columns.length === 1 || columns.length > MOST_SPREAD ? '' : `by ${by}`

const rowsOf = (numbers: ReportNumbers, order: readonly number[], withColumns: boolean): Row[] =>
  order.flatMap((index) => {
    const point = numbers.point(index)
    const name = rowName(point.point, point.aggregate) + (point.derived ? ' (derived)' : '')
    // A derived count has its equation in the bundle; here it would only be in the way.
    const parts = point.parts.length > 1 && !point.derived ? point.parts.slice(0, SHOWN).map((part) => row('', part, '', withColumns, true)) : []
    const left = point.derived ? 0 : point.parts.length - SHOWN
    const more = left > 0 ? [{ name: '', at: `and ${left} more`, spark: '', numbers: [], isPart: true }] : []
    return [row(name, point, sparkOf(numbers, index, point, withColumns), withColumns, false), ...parts, ...more]
  })

/** Characters of each column of numbers. */
const numberWidths = (rows: readonly Row[], head: readonly string[]): number[] =>
  head.map((title, i) => rows.reduce((width, each) => Math.max(width, (each.numbers[i] ?? '').length), title.length))

const table = (numbers: ReportNumbers, order: readonly number[], options: TextOptions): string[] => {
  const columnTitles = numbers.columns.map(printable)
  const bold = (text: string): string => (options.color ? `\x1b[1m${text}\x1b[0m` : text)
  const dim = (text: string): string => (options.color ? `\x1b[2m${text}\x1b[0m` : text)
  const nameRoom = 2 * 12 + GAP.length // what the names need at least
  let withColumns = numbers.columns.length > 1 && numbers.columns.length <= MAX_COLUMNS
  let rows = rowsOf(numbers, order, withColumns)
  let titles = withColumns ? ['count', ...columnTitles] : ['count']
  let widths = numberWidths(rows, titles)
  const sparkWidth = (): number => rows.reduce((most, { spark: each }) => Math.max(most, widthOf(each)), widthOf(sparkTitle(numbers, withColumns)))
  const taken = (): number => widths.reduce((sum, width) => sum + width + GAP.length, sparkWidth() > 0 ? sparkWidth() + GAP.length : 0)
  if (withColumns && taken() + nameRoom > options.width) {
    withColumns = false
    rows = rowsOf(numbers, order, false)
    titles = ['count']
    widths = numberWidths(rows, titles)
  }
  const room = Math.max(2, options.width - taken() - GAP.length)
  const longest = (texts: readonly string[]): number => texts.reduce((most, text) => Math.max(most, widthOf(text)), 0)
  const nameNeed = longest(['point', ...rows.map((each) => each.name)])
  const atNeed = longest(['at', ...rows.map((each) => (each.isPart ? `  ${each.at}` : each.at))])
  const atWidth = Math.min(atNeed, Math.max(Math.floor(room / 2), room - nameNeed))
  const nameWidth = Math.min(nameNeed, Math.max(1, room - atWidth))
  const pad = (text: string, width: number): string => {
    const fitted = cut(text, width)
    return fitted + ' '.repeat(width - widthOf(fitted))
  }
  const sparks = sparkWidth()
  const line = (values: readonly string[], picture: string, name: string, at: string): string =>
    [...values.map((value, i) => value.padStart(widths[i]!)), ...(sparks > 0 ? [pad(picture, sparks)] : []), pad(name, nameWidth), pad(at, atWidth)]
      .join(GAP)
      .trimEnd()
  return [
    bold(line(titles, sparkTitle(numbers, withColumns), 'point', 'at')),
    ...rows.map((each) =>
      each.isPart ? dim(line(each.numbers, '', '', `  ${each.at}`)) : line(each.numbers, each.spark, each.name, each.at),
    ),
  ]
}

/** What each of several hosts says of itself. */
const hostsHeader = ({ hosts, buildId, siteCount }: ReportNumbers): string[] => [
  `hosts    ${hosts.length}`,
  `build    ${buildId}, ${siteCount} sites`,
  ...hosts.map((host) => `  ${printable(host.name) || 'unknown'}: ${printable(host.release)}, ${host.cpuCount} CPUs, applied ${wallTime(host.appliedNs)}, counted ${ended(host)}`),
]

/** Hosts that are far from the others, the farthest first. */
const outlierLines = (numbers: ReportNumbers, indented: (indent: string, text: string) => string[]): string[] => {
  const all = outliers(numbers)
  if (all.length === 0) return []
  const shown = all.slice(0, SHOWN)
  return ['', `outliers (${all.length})`, ...shown.flatMap(({ row, host, rate, median }) => indented('  ',
    `${printable(numbers.columns[host]!)}: ${printable(numbers.row(row).point)}: ${rateText(rate)} a second, where the median is ${rateText(median)}`)),
  ...(shown.length < all.length ? [`  and ${all.length - shown.length} nearer to it`] : [])]
}

const header = (numbers: ReportNumbers): string[] => {
  if (numbers.by === 'host') return hostsHeader(numbers)
  const { state, appliedNs, removedNs, resetNs, dumpedNs, signer, series } = numbers
  const then = state === 'applied' ? 'still applied' : `removed ${wallTime(removedNs)}`
  return [
    `host     ${printable(numbers.host) || 'unknown'}`,
    `kernel   ${printable(numbers.release) || 'unknown'}`,
    `build    ${numbers.buildId}`,
    `signed   ${signer === undefined ? 'no' : `in the name of ${printable(signer)}`}`,
    `applied  ${state === 'applying' ? 'not wholly: the machine died meanwhile' : `${wallTime(appliedNs)}, ${then}`}`,
    ...(resetNs > 0n ? [`zeroed   ${wallTime(resetNs)}`] : []),
    `dumped   ${dumpedNs === 0n ? 'in a memory image, at an unknown time' : wallTime(dumpedNs)}`,
    `counted  ${ended(numbers)}, ${numbers.siteCount} sites, ${numbers.cpuCount} CPUs`,
    ...(series === undefined ? [] : [`series   ${series.intervals.length} dumps; pictures show counts a second, from left to right`]),
    ...(state === 'applying' ? [] : [`stopped  ${duration(numbers.stopNs)} for apply`]),
  ]
}

/** Derived counts that came out negative: what they were derived from does not balance. */
const imbalances = (numbers: ReportNumbers, indented: (indent: string, text: string) => string[]): string[] => {
  const negative = numbers.counts.flatMap((count, index) => (count < 0n ? [index] : []))
  if (negative.length === 0) return []
  const many = numbers.served.length > MANY
  if (many) negative.sort((a, b) => (numbers.counts[a]! < numbers.counts[b]! ? -1 : numbers.counts[a]! > numbers.counts[b]! ? 1 : a - b))
  const shown = many ? negative.slice(0, SHOWN) : negative
  return [
    '', `imbalance (${negative.length})`,
    ...indented('  ', 'These counts came out below zero: threads were between two of the places counted when counting ' +
      'began or ended, or left by a way that is not known. Their neighbours are off by as much.'),
    ...shown.flatMap((index) => indented('  ', `${printable(numbers.row(index).point)}: ${numbers.counts[index]!}`)),
    ...(shown.length < negative.length ? [`  and ${negative.length - shown.length} nearer to zero`] : []),
  ]
}

/** The sums of the points that each `block:F` became, highest first. */
const sums = (numbers: ReportNumbers, width: number): string[] => {
  const { manifest } = numbers
  const all = sumsByAsked(numbers)
  const shown = all.slice(0, SHOWN)
  const rows = [
    ['sum', 'ran', 'points'], ...shown.map(({ total, ran, points }) => [grouped(total), `${ran}`, `${points}`]),
  ]
  const widths = [0, 1, 2].map((column) => rows.reduce((most, cells) => Math.max(most, cells[column]!.length), 0))
  const names = ['function', ...shown.map(({ asked }) => rowName(askedName(manifest, asked), manifest.names[manifest.asked.aggregate[asked]!]!))]
  const lines = rows.map((cells, i) => cut([...cells.map((cell, column) => cell.padStart(widths[column]!)), names[i]!].join(GAP), width))
  const left = all.length - shown.length
  return ['', ...lines, ...(left > 0 ? [`and ${left} more`] : [])]
}

export function* reportText(numbers: ReportNumbers, options: TextOptions): Generator<string, void> {
  const indented = (indent: string, text: string): string[] =>
    wrapped(text, options.width - indent.length).map((line) => indent + line)
  const { points, served, derived, refused } = numbers.summary
  const order = byCount(numbers.counts)
  const many = served > MANY
  const ran = order.filter((index) => numbers.counts[index]! !== 0n)
  // Of few points, those that never ran are as much to be seen as others.
  const shown = many ? order.slice(0, SHOWN) : order.length > FEW && ran.length > 0 ? ran : order
  const put = (lines: readonly string[]): string => lines.map((line) => `${line}\n`).join('')
  yield put(header(numbers).map((line) => cut(line, options.width)))
  if (many) {
    const figures = `points   ${served} served, ${derived} of them derived; ${ran.length} ran; ${points - served} refused`
    yield put([cut(figures, options.width)])
  }
  yield '\n'
  if (numbers.counts.length > 0) yield put(table(numbers, shown, options))
  else if (numbers.aggregates.length === 0) yield put(['no points'])
  if (many) {
    yield put(wrapped(`and ${order.length - shown.length} more: --format json or csv gives all`, options.width))
    yield put(sums(numbers, options.width))
  } else if (shown.length < order.length) yield put(wrapped(`and ${order.length - shown.length} that never ran: --format json or csv gives all`, options.width))
  for (const [number, each] of numbers.aggregates.entries()) {
    const seen = numbers.series?.aggregate(number)
    yield put(aggregateText(each, options.width, seen && ((key) => spark(ratesOf(valuesOf(seen, key), numbers.series!.intervals, MOST_STEPS)))))
  }
  if (numbers.missed > 0n) yield put(['', ...indented('', `missed ${grouped(numbers.missed)}: so often a value could not be recorded`)])
  yield put(outlierLines(numbers, indented))
  yield put(imbalances(numbers, indented))
  if (points === served) return
  yield put(['', `refused (${points - served})`])
  if (points - served > MANY) {
    for (const { code, reason } of numbers.manifest.refusals) {
      yield put([...indented('  ', `${printable(code)}: ${refused[code] ?? 0}`), ...indented('    ', printable(reason))])
    }
    yield put(indented('  ', 'each by name: --format json, or kerninst show'))
    return
  }
  for (const each of numbers.refusals()) {
    yield put([
      ...indented('  ', `${printable(each.point)}: ${printable(each.code)}`),
      ...indented('    ', printable(each.reason)),
      ...(each.nearest === '' ? [] : indented('    ', `can be served: ${printable(each.nearest)}`)),
    ])
  }
}
