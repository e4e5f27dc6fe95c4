// The report for a terminal. In: the numbers, a width, colour or not. Out: lines of text: a header about the host, a
// table of points by falling count, what was refused. Invariant: no line is wider than the width (the per-CPU columns
// go first where they do not fit, then names are cut), and nothing from a file reaches the terminal unescaped.

import type { PartNumbers, ReportNumbers } from './numbers.js'
import { cut, duration, grouped, printable, wallTime, widthOf, wrapped } from './printable.js'

export interface TextOptions {
  /** Columns of the terminal; lines stay within them, down to MIN_WIDTH. */
  readonly width: number
  readonly color: boolean
}

const MIN_WIDTH = 60
const DEFAULT_WIDTH = 100
const MAX_WIDTH = 1000
const MAX_CPU_COLUMNS = 16
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
  readonly numbers: readonly string[] // the count, then one a CPU
  readonly isPart: boolean
}

const row = (name: string, numbers: PartNumbers, withCpus: boolean, isPart: boolean): Row => ({
  name,
  at: printable(numbers.at),
  numbers: [numbers.count, ...(withCpus ? numbers.perCpu : [])].map(grouped),
  isPart,
})

const rowsOf = (numbers: ReportNumbers, withCpus: boolean): Row[] => {
  const sorted = numbers.points.toSorted((a, b) => (a.count < b.count ? 1 : a.count > b.count ? -1 : 0))
  return sorted.flatMap((point) => {
    const name = printable(point.point) + (point.aggregate === '' ? '' : ` @${printable(point.aggregate)}`) +
      (point.derived ? ' (derived)' : '')
    // A derived count has its equation in the bundle; here it would only be in the way.
    const parts = point.parts.length > 1 && !point.derived ? point.parts.map((part) => row('', part, withCpus, true)) : []
    return [row(name, point, withCpus, false), ...parts]
  })
}

/** Characters of each column of numbers. */
const numberWidths = (rows: readonly Row[], head: readonly string[]): number[] =>
  head.map((title, i) => rows.reduce((width, each) => Math.max(width, (each.numbers[i] ?? '').length), title.length))

const table = (numbers: ReportNumbers, options: TextOptions): string[] => {
  const cpuTitles = Array.from({ length: numbers.cpuCount }, (_, cpu) => `cpu${cpu}`)
  const bold = (text: string): string => (options.color ? `\x1b[1m${text}\x1b[0m` : text)
  const dim = (text: string): string => (options.color ? `\x1b[2m${text}\x1b[0m` : text)
  const nameRoom = 2 * 12 + GAP.length // what the names need at least
  let withCpus = numbers.cpuCount > 1 && numbers.cpuCount <= MAX_CPU_COLUMNS
  let rows = rowsOf(numbers, withCpus)
  let titles = withCpus ? ['count', ...cpuTitles] : ['count']
  let widths = numberWidths(rows, titles)
  const taken = (): number => widths.reduce((sum, width) => sum + width + GAP.length, 0)
  if (withCpus && taken() + nameRoom > options.width) {
    withCpus = false
    rows = rowsOf(numbers, false)
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
  const line = (values: readonly string[], name: string, at: string): string =>
    [...values.map((value, i) => value.padStart(widths[i]!)), pad(name, nameWidth), pad(at, atWidth)]
      .join(GAP)
      .trimEnd()
  return [
    bold(line(titles, 'point', 'at')),
    ...rows.map((each) =>
      each.isPart ? dim(line(each.numbers, '', `  ${each.at}`)) : line(each.numbers, each.name, each.at),
    ),
  ]
}

const header = (numbers: ReportNumbers): string[] => {
  const { state, appliedNs, removedNs, dumpedNs } = numbers
  const until = state === 'applied' ? dumpedNs : removedNs
  const counted = until >= appliedNs ? duration(until - appliedNs) : 'unknown (the clock was set back)'
  const ended = state === 'applied' ? 'still applied' : `removed ${wallTime(removedNs)}`
  return [
    `host     ${printable(numbers.host)}`,
    `kernel   ${printable(numbers.release)}`,
    `build    ${numbers.buildId}`,
    `applied  ${wallTime(appliedNs)}, ${ended}`,
    `dumped   ${wallTime(dumpedNs)}`,
    `counted  ${counted}, ${numbers.siteCount} sites, ${numbers.cpuCount} CPUs`,
    `stopped  ${duration(numbers.stopNs)} for apply`,
  ]
}

/** Derived counts that came out negative: what they were derived from does not balance. */
const imbalances = (numbers: ReportNumbers, indented: (indent: string, text: string) => string[]): string[] => {
  const negative = numbers.points.filter((point) => point.count < 0n)
  if (negative.length === 0) return []
  return [
    '', `imbalance (${negative.length})`,
    ...indented('  ', 'These counts came out below zero: threads were between two of the places counted when counting ' +
      'began or ended, or left by a way that is not known. Their neighbours are off by as much.'),
    ...negative.flatMap((point) => indented('  ', `${printable(point.point)}: ${point.count}`)),
  ]
}

export const reportText = (numbers: ReportNumbers, options: TextOptions): string => {
  const indented = (indent: string, text: string): string[] =>
    wrapped(text, options.width - indent.length).map((line) => indent + line)
  const refused = numbers.refusals.flatMap((each) => [
    ...indented('  ', `${printable(each.point)}: ${printable(each.code)}`),
    ...indented('    ', printable(each.reason)),
    ...(each.nearest === '' ? [] : indented('    ', `can be served: ${printable(each.nearest)}`)),
  ])
  const lines = [
    ...header(numbers).map((line) => cut(line, options.width)),
    '',
    ...(numbers.points.length > 0 ? table(numbers, options) : ['no points']),
    ...imbalances(numbers, indented),
    ...(refused.length > 0 ? ['', `refused (${numbers.refusals.length})`] : []),
    ...refused,
  ]
  return lines.join('\n') + '\n'
}
