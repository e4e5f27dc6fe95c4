// The report as JSON, schema kerninst.report/1: scripts depend on its names, which only ever gain company. In: the
// numbers. Out: one JSON text, in pieces. Invariant: 64-bit values are decimal strings, since JSON numbers lose their
// last digits; points are in the plan's order. Of several hosts, perHost stands in place of perCpu, in the order of hosts. Of several
// dumps of one run, intervals are the stretches between them, and overTime has what was counted in each. Of a memory image dumpedNs is
// "0", host is "" where it does not say, and release then comes from the bundle; state is "applying" where the machine died in apply.

import type { AggregateNumbers } from './aggregates.js'
import type { HostNumbers, PartNumbers, PointNumbers, ReportNumbers } from './numbers.js'
import { jsonList, jsonText } from './printable.js'
import type { Interval } from './series.js'

const counts = ({ count, perColumn }: PartNumbers, by: ReportNumbers['by']): object => ({
  count: count.toString(),
  [by === 'cpu' ? 'perCpu' : 'perHost']: perColumn.map(String),
})

const pointJson = (point: PointNumbers, by: ReportNumbers['by'], overTime: readonly bigint[] | undefined): object => ({
  point: point.point,
  at: point.at,
  ...counts(point, by),
  ...(overTime && { overTime: overTime.map(String) }),
  derived: point.derived,
  aggregate: point.aggregate,
  parts: point.parts.map((part) => ({ at: part.at, ...counts(part, by) })),
  ...(point.derived && { less: point.less.map((part) => ({ at: part.at, ...counts(part, by) })) }),
})

const text = (value: bigint | undefined): string | null => value?.toString() ?? null

const keysJson = ({ keys }: AggregateNumbers): object[] =>
  keys.map(({ key, count, sum, min, max, buckets }) => ({
    key,
    ...(count !== undefined && { count: text(count) }),
    ...(sum !== undefined && { sum: text(sum) }),
    ...(min !== undefined && { min: text(min) }),
    ...(max !== undefined && { max: text(max) }),
    ...(buckets && { buckets: buckets.map((bucket) => ({ low: text(bucket.low), high: text(bucket.high), count: text(bucket.count) })) }),
  }))

const aggregateJson = (one: AggregateNumbers, seen: readonly AggregateNumbers[] | undefined): object => {
  const { name, kind, unit, keyKind } = one
  return { aggregate: name, kind, unit, keyKind, keys: keysJson(one), ...(seen && { overTime: seen.map(keysJson) }) }
}

const intervalJson = ({ fromNs, toNs, afterReset }: Interval): object => ({ fromNs: fromNs.toString(), toNs: toNs.toString(), afterReset })

const hostJson = ({ name, release, state, dumpedNs, appliedNs, removedNs, resetNs, stopNs, cpuCount }: HostNumbers): object => ({
  host: name, release, state, dumpedNs: dumpedNs.toString(), appliedNs: appliedNs.toString(), removedNs: removedNs.toString(),
  stopNs: stopNs.toString(), resetNs: resetNs.toString(), cpus: cpuCount,
})

function* pointsJson(numbers: ReportNumbers): Generator<object, void> {
  let row = 0
  for (const point of numbers.points()) yield pointJson(point, numbers.by, numbers.series?.counts(row++))
}

export function* reportJson(numbers: ReportNumbers): Generator<string, void> {
  const head = {
    schema: 'kerninst.report/1',
    host: numbers.host,
    release: numbers.release,
    buildId: numbers.buildId,
    state: numbers.state,
    dumpedNs: numbers.dumpedNs.toString(),
    appliedNs: numbers.appliedNs.toString(),
    removedNs: numbers.removedNs.toString(),
    stopNs: numbers.stopNs.toString(),
    resetNs: numbers.resetNs.toString(),
    ...(numbers.series && { intervals: numbers.series.intervals.map(intervalJson) }),
    ...(numbers.by === 'host' && { hosts: numbers.hosts.map(hostJson) }),
  }
  yield `${jsonText(head).slice(0, -1)},"points":`
  yield* jsonList(pointsJson(numbers))
  yield ',"aggregates":'
  yield* jsonList(numbers.aggregates.map((one, number) => aggregateJson(one, numbers.series?.aggregate(number))))
  yield `,"missed":"${numbers.missed}"`
  yield ',"refusals":'
  yield* jsonList(numbers.refusals())
  yield '}\n'
}
