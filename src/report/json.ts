// The report as JSON, schema kerninst.report/1: scripts depend on its names, which only ever gain company. In: the
// numbers. Out: one JSON text. Invariant: 64-bit values are decimal strings, since JSON numbers lose their last digits;
// points are in the plan's order.

import type { PartNumbers, ReportNumbers } from './numbers.js'
import { jsonLine } from './printable.js'

const counts = ({ count, perCpu }: PartNumbers): { count: string; perCpu: string[] } => ({
  count: count.toString(),
  perCpu: perCpu.map(String),
})

export const reportJson = (numbers: ReportNumbers): string => {
  return jsonLine({
    schema: 'kerninst.report/1',
    host: numbers.host,
    release: numbers.release,
    buildId: numbers.buildId,
    state: numbers.state,
    dumpedNs: numbers.dumpedNs.toString(),
    appliedNs: numbers.appliedNs.toString(),
    removedNs: numbers.removedNs.toString(),
    stopNs: numbers.stopNs.toString(),
    points: numbers.points.map((point) => ({
      point: point.point,
      at: point.at,
      ...counts(point),
      derived: point.derived,
      aggregate: point.aggregate,
      parts: point.parts.map((part) => ({ at: part.at, ...counts(part) })),
      ...(point.derived && { less: point.less.map((part) => ({ at: part.at, ...counts(part) })) }),
    })),
    refusals: numbers.refusals,
  })
}
