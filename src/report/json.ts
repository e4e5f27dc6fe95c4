// The report as JSON, schema kerninst.report/1 (docs/report.schema.json): scripts depend on its names, which only ever gain company. In: the
// numbers. Out: one JSON text, in pieces. Invariant: 64-bit values are decimal strings, since JSON numbers lose their
// last digits; points are in the plan's order. Of several hosts, perHost stands in place of perCpu, in the order of hosts. Of several
// dumps of one run, intervals are the stretches between them, and overTime has what was counted in each. Where the image is given,
// functions has the control flow of those that ran most: edges and loops name blocks by their place in the list, and what is not known
// is null; calls and entered say who called whom, and how often functions were entered otherwise. Of a memory image dumpedNs is
// "0", host is "" where it does not say, and release then comes from the bundle; state is "applying" where the machine died in apply.

import type { AggregateNumbers } from './aggregates.js'
import type { HostNumbers, PartNumbers, PointNumbers, ReportNumbers } from './numbers.js'
import { jsonList, jsonText } from './printable.js'
import type { Interval } from './series.js'
import type { FunctionView, Inside } from './views.js'

const counts = ({ count, perColumn }: PartNumbers, by: ReportNumbers['by']): object => ({
  count: count.toString(),
  [by === 'cpu' ? 'perCpu' : 'perHost']: perColumn.map(String),
})

function* partsJson(parts: readonly PartNumbers[], by: ReportNumbers['by']): Generator<object, void> {
  for (const part of parts) yield { at: part.at, ...counts(part, by) }
}

/** In pieces: a point of a thousand counters, on a thousand CPUs, is larger than a string may be. */
function* pointJson(point: PointNumbers, by: ReportNumbers['by'], overTime: readonly bigint[] | undefined): Generator<string, void> {
  const { point: name, at, derived, aggregate, parts, less } = point
  const head = { point: name, at, ...counts(point, by), ...(overTime && { overTime: overTime.map(String) }), derived, aggregate }
  yield `${jsonText(head).slice(0, -1)},"parts":`
  yield* jsonList(partsJson(parts, by))
  if (derived) {
    yield ',"less":'
    yield* jsonList(partsJson(less, by))
  }
  yield '}'
}

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

function* pointsJson(numbers: ReportNumbers): Generator<string, void> {
  let before = '['
  let row = 0
  for (const point of numbers.points()) {
    yield before
    yield* pointJson(point, numbers.by, numbers.series?.counts(row++))
    before = ','
  }
  yield before === '[' ? '[]' : ']'
}

const functionJson = ({ name, graph, blocks, heat }: FunctionView): object => ({
  name,
  blocks: blocks.map((block, b) => ({ at: block.name, count: text(heat.blocks[b]) })),
  edges: blocks.flatMap((_, b) => Array.from(graph.succ.subarray(graph.succStart[b], graph.succStart[b + 1]), (to, i) => (
    { from: b, to, count: text(heat.edges[graph.succStart[b]! + i]) }))),
  loops: heat.loops.map(({ head, entered, trips }) => ({ head, entered: text(entered), trips: trips ?? null })),
})

const insideJson = ({ views, calls: { calls, entered }, nameOf }: Inside): string => `,${jsonText({
  functions: views.map(functionJson),
  calls: calls.map(({ caller, callee, count }) => ({ caller: nameOf(caller), callee: nameOf(callee), count: count.toString() })),
  entered: [...entered].map(([fn, count]) => ({ callee: nameOf(fn), count: count.toString() })),
}).slice(1, -1)}`

/** @param inside what is known from the image of the functions that ran */
export function* reportJson(numbers: ReportNumbers, inside?: Inside): Generator<string, void> {
  const head = {
    schema: 'kerninst.report/1',
    host: numbers.host,
    release: numbers.release,
    buildId: numbers.buildId,
    payloadSha256: numbers.payloadSha256,
    signer: numbers.signer ?? null,
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
  yield* pointsJson(numbers)
  yield ',"aggregates":'
  yield* jsonList(numbers.aggregates.map((one, number) => aggregateJson(one, numbers.series?.aggregate(number))))
  yield `,"missed":"${numbers.missed}"`
  yield ',"refusals":'
  yield* jsonList(numbers.refusals())
  if (inside !== undefined) yield insideJson(inside)
  yield '}\n'
}
