// A comparison for a terminal and for programs. In: what changed. Out: a table, or JSON (schema kerninst.diff/1).

import { CHANGES, factorText, type DiffNumbers } from './diff.js'
import type { ReportNumbers } from './numbers.js'
import { cut, grouped, jsonList, jsonText, printable, rateText, rowName, wallTime, wrapped } from './printable.js'
import type { TextOptions } from './text.js'

const SHOWN = 100

const side = (title: string, { host, hosts, appliedNs }: ReportNumbers, seconds: number): string =>
  `${title.padEnd(8)}${hosts.length > 1 ? `${hosts.length} hosts` : printable(host) || 'unknown'}, ${wallTime(appliedNs)}, ${seconds.toFixed(1)} s`

export function* diffText({ before, after, seconds, rows }: DiffNumbers, { width }: TextOptions): Generator<string, void> {
  yield `kernel  ${printable(before.release)}\n${cut(side('before', before, seconds[0]), width)}\n${cut(side('after', after, seconds[1]), width)}\n`
  const tally = CHANGES.map((change) => [change, rows.filter((row) => row.change === change).length] as const).filter(([, count]) => count > 0)
  yield `${wrapped(`points  ${tally.map(([change, count]) => `${grouped(BigInt(count))} ${change}`).join(', ')}`, width).join('\n')}\n\n`
  const changed = rows.filter(({ change }) => change !== 'same')
  const shown = changed.slice(0, SHOWN)
  const cells = [['before/s', 'after/s', 'change'], ...shown.map((row) => [
    row.before === undefined ? '-' : rateText(row.rates[0]), row.after === undefined ? '-' : rateText(row.rates[1]), factorText(row)])]
  const widths = [0, 1, 2].map((column) => Math.max(...cells.map((row) => row[column]!.length)))
  const names = ['point', ...shown.map(({ point, aggregate }) => rowName(point, aggregate))]
  for (const [i, row] of cells.entries()) {
    yield `${cut([row[0]!.padStart(widths[0]!), row[1]!.padStart(widths[1]!), row[2]!.padEnd(widths[2]!), names[i]!].join('  '), width)}\n`
  }
  if (changed.length > shown.length) yield `and ${changed.length - shown.length} more that changed less: --format json has all\n`
}

const sideJson = ({ host, hosts, appliedNs, payloadSha256 }: ReportNumbers, seconds: number): object =>
  ({ hosts: hosts.length > 1 ? hosts.map(({ name }) => name) : [host], appliedNs: appliedNs.toString(), payloadSha256, seconds })

export function* diffJson({ before, after, seconds, rows }: DiffNumbers): Generator<string, void> {
  const head = { schema: 'kerninst.diff/1', release: before.release, buildId: before.buildId, before: sideJson(before, seconds[0]), after: sideJson(after, seconds[1]) }
  yield `${jsonText(head).slice(0, -1)},"points":`
  yield* jsonList(rows.map(({ point, aggregate, before: had, after: has, change, rates }) =>
    ({ point, aggregate, before: had?.toString() ?? null, after: has?.toString() ?? null, change, perSecond: rates })))
  yield '}\n'
}
