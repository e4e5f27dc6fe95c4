// The numbers of a report. In: a bundle and a dump of the heap that its patches counted into. Out: for every point its
// count; and on demand, since there may be a million points, its name, and its count and that of its parts per CPU.
// Invariant: a point's count is the sum of its parts', less that of those to be taken away, and each of these the sum
// over the CPUs; no sum can overflow. A derived count may be negative: on one CPU where threads migrate between the
// places counted, and in all where a thread was between them when counting began or ended; that is an imbalance, which
// the report names. Left out: how it looks (text.ts, json.ts, csv.ts), and the order, which is the plan's.

import type { Bundle } from '../bundle/bundle.js'
import type { Dump } from '../dump/dump.js'
import { EXIT, KerninstError } from '../error.js'
import { NONE } from '../image/rva.js'
import {
  aggregateOf, isCounted, placeName, pointName, pointPlace, pointText, pointsWhere, refusalText, summarize, type Manifest, type ManifestPart,
  type ManifestRefusal, type Summary,
} from '../splice/manifest.js'
import { aggregateNumbers, total, type AggregateNumbers } from './aggregates.js'

export interface PartNumbers {
  readonly at: string
  readonly count: bigint
  readonly perCpu: readonly bigint[] // cpu -> count
}

export interface PointNumbers extends PartNumbers {
  readonly point: string
  readonly aggregate: string
  /** Solved for from other counts, rather than counted. */
  readonly derived: boolean
  readonly parts: readonly PartNumbers[]
  /** What is taken away; only of derived counts. */
  readonly less: readonly PartNumbers[]
}

/** A point without its parts. */
export type RowNumbers = Omit<PointNumbers, 'parts' | 'less'>

export interface ReportNumbers {
  readonly host: string
  readonly release: string
  readonly buildId: string
  readonly payloadSha256: string
  readonly state: Dump['state']
  readonly dumpedNs: bigint
  readonly appliedNs: bigint
  readonly removedNs: bigint
  readonly stopNs: bigint
  readonly slide: bigint
  readonly siteCount: number
  readonly cpuCount: number
  readonly manifest: Manifest
  readonly summary: Summary
  readonly served: Uint32Array //      row -> point that has a count; in the plan's order
  readonly counts: readonly bigint[] // row -> count
  readonly aggregates: readonly AggregateNumbers[]
  readonly missed: bigint // how often something could not be recorded
  readonly row: (row: number) => RowNumbers
  readonly point: (row: number) => PointNumbers
  readonly points: () => Generator<PointNumbers, void>
  readonly refusals: () => Generator<ManifestRefusal, void>
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** @throws KerninstError: 76 where the dump was counted by another bundle, 65 where it contradicts this one */
export const reportNumbers = (bundle: Bundle, dump: Dump): ReportNumbers => {
  const bundleDigest = hexOf(bundle.payloadSha256)
  const dumpDigest = hexOf(dump.payloadSha256)
  if (bundleDigest !== dumpDigest) {
    throw new KerninstError(
      EXIT.mismatch,
      `the dump was counted by another bundle: its payload is sha256 ${dumpDigest}, this bundle's is ${bundleDigest}`,
    )
  }
  const { manifest, decoded: { tables } } = bundle
  if (
    dump.slotCount !== tables.slotCount ||
    dump.siteCount !== tables.siteCount ||
    dump.buildId !== manifest.image.buildId
  ) {
    throw new KerninstError(EXIT.data, 'the dump names this bundle, but differs in slots, sites or build id: damaged?')
  }
  const cpus = Array.from({ length: dump.cpuCount }, (_, cpu) => cpu)
  const { points } = manifest
  const { termStart, term } = points
  const slots = Array.from({ length: dump.slotCount }, (_, slot) => {
    let total = 0n
    for (const cpu of cpus) total += dump.count(cpu, slot)
    return total
  })
  /** A point's terms, added up. */
  const solve = (p: number, of: (slot: number) => bigint): bigint => {
    let total = 0n
    for (let t = termStart[p]!; t < termStart[p + 1]!; t++) {
      const value = of(term[t]! >>> 1)
      if (term[t]! & 1) total -= value
      else total += value
    }
    return total
  }
  // What programs collect beside counts is of all points together.
  const served = Uint32Array.from(pointsWhere(manifest, true)).filter((p) => isCounted(manifest, p))
  const counts = Array.from(served, (p) => solve(p, (slot) => slots[slot]!))
  const perCpuOf = (p: number): bigint[] => cpus.map((cpu) => solve(p, (slot) => dump.count(cpu, slot)))
  const numbersOf = (part: ManifestPart): PartNumbers => {
    const perCpu = cpus.map((cpu) => dump.count(cpu, part.slot))
    return { at: part.at, count: total(perCpu), perCpu }
  }
  const point = (row: number): PointNumbers => {
    const p = served[row]!
    const { parts, less, ...text } = pointText(manifest, tables.siteRva, p)
    return { ...text, count: counts[row]!, perCpu: perCpuOf(p), parts: parts.map(numbersOf), less: less.map(numbersOf) }
  }
  const { host, buildId, state, dumpedNs, appliedNs, removedNs, stopNs, slide, siteCount, cpuCount } = dump
  return {
    host, release: dump.release === '' ? manifest.image.release : dump.release, buildId, payloadSha256: dumpDigest, state, dumpedNs,
    appliedNs, removedNs, stopNs, slide, siteCount, cpuCount, manifest,
    summary: summarize(manifest),
    served,
    counts,
    aggregates: manifest.aggregates.map((one) => aggregateNumbers(one, dump)),
    missed: manifest.missed === NONE ? 0n : slots[manifest.missed]!,
    row: (row) => {
      const p = served[row]!
      return {
        point: pointName(manifest, p), aggregate: aggregateOf(manifest, p), derived: points.derived[p] === 1,
        at: placeName(manifest, pointPlace(manifest, tables.siteRva, p)), count: counts[row]!, perCpu: perCpuOf(p),
      }
    },
    point,
    points: function* () {
      for (let row = 0; row < served.length; row++) yield point(row)
    },
    refusals: function* () {
      for (const p of pointsWhere(manifest, false)) yield refusalText(manifest, p)
    },
  }
}
