// How often blocks of the kernel's graph ran. In: the numbers of a report, the graph. Out: counts of those blocks of which an
// instruction is counted each time. A derived count that came out below zero is none.

import type { KernelGraph } from '../cfg/graph.js'
import { NONE } from '../image/rva.js'
import type { PointKind } from '../probe/program.js'
import { countsAlways, kindOf } from '../splice/manifest.js'
import type { ReportNumbers } from './numbers.js'

/** Points whose count is how often one instruction ran. */
const OF_INSTRUCTIONS: ReadonlySet<PointKind> = new Set<PointKind>(['entry', 'insn', 'call', 'block'])

/** The value of a key becomes at least this. */
export const atLeast = <K>(map: Map<K, bigint>, key: K, count: bigint): void => {
  const known = map.get(key)
  if (known === undefined || known < count) map.set(key, count)
}

/** Counts are added to those of the same keys. */
export const addTo = <K>(map: Map<K, bigint>, counts: Iterable<readonly [K, bigint]>): void => {
  for (const [key, count] of counts) map.set(key, (map.get(key) ?? 0n) + count)
}

/** Block -> how often it ran. */
export const blockRuns = ({ manifest, served, counts }: ReportNumbers, { index, blockOf }: KernelGraph): Map<number, bigint> => {
  const ran = new Map<number, bigint>()
  served.forEach((p, row) => {
    const rva = manifest.points.rva[p]!
    const insn = rva === NONE || !OF_INSTRUCTIONS.has(kindOf(manifest, p)) || !countsAlways(manifest, p) ? NONE : index.at(rva)
    if (insn !== NONE) atLeast(ran, blockOf[insn]!, counts[row]! < 0n ? 0n : counts[row]!)
  })
  return ran
}

/** How often a function was entered at its start; undefined: not counted. @param ran by blockRuns */
export const entriesOf = (ran: ReadonlyMap<number, bigint>, { index, blockOf, image: { functions } }: KernelGraph, fn: number): bigint | undefined => {
  const insn = index.at(functions.start[fn]!)
  return insn === NONE ? undefined : ran.get(blockOf[insn]!)
}
