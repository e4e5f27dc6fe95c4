// The numbers of a report. In: a bundle and dumps of the heaps that its patches counted into. Out: for every point its
// count; and on demand, since there may be a million points, its name, and its count and that of its parts column by column: of
// one host by CPU, of several by host.
// Invariant: a point's count is the sum of its parts', less that of those to be taken away, and each of these the sum
// over the columns; no sum can overflow. A derived count may be negative: on one CPU where threads migrate between the
// places counted, and in all where a thread was between them when counting began or ended; that is an imbalance, which
// the report names. Left out: how it looks (text.ts, json.ts, csv.ts), and the order, which is the plan's.

import type { Bundle } from '../bundle/bundle.js'
import { signerOf } from '../bundle/cms.js'
import type { Dump } from '../dump/dump.js'
import type { Run } from '../dump/fleet.js'
import { EXIT, KerninstError } from '../error.js'
import { NONE } from '../image/rva.js'
import {
  aggregateOf, isCounted, placeName, pointName, pointPlace, pointText, pointsWhere, refusalText, summarize, type Manifest, type ManifestPart,
  type ManifestRefusal, type Summary,
} from '../splice/manifest.js'
import { aggregateNumbers, type AggregateNumbers, type Counters } from './aggregates.js'
import { intervalsOf, type SeriesNumbers } from './series.js'

export interface PartNumbers {
  readonly at: string
  readonly count: bigint
  readonly perColumn: readonly bigint[] // column -> count; made when it is asked for: there may be thousands of columns
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

/** What one host's last dump says of itself. */
export interface HostNumbers {
  readonly name: string
  readonly release: string
  readonly state: Dump['state']
  readonly dumpedNs: bigint
  readonly appliedNs: bigint
  readonly removedNs: bigint
  readonly resetNs: bigint // 0n: the counters were never zeroed
  readonly snapshotNs: bigint // 0n: they were read while they counted
  readonly stopNs: bigint
  readonly cpuCount: number
}

export interface ReportNumbers extends Omit<HostNumbers, 'name'> {
  readonly host: string
  readonly buildId: string
  readonly payloadSha256: string
  /** In whose name the bundle is signed, as it says itself; undefined: it is not signed. */
  readonly signer: string | undefined
  readonly slide: bigint
  readonly siteCount: number
  /** What columns are, and their titles. */
  readonly by: 'cpu' | 'host'
  readonly columns: readonly string[]
  /** The hosts; the fields above are those of the first one, but for cpuCount, which is of all. */
  readonly hosts: readonly HostNumbers[]
  readonly manifest: Manifest
  readonly summary: Summary
  readonly served: Uint32Array //      row -> point that has a count; in the plan's order
  readonly counts: readonly bigint[] // row -> count
  readonly aggregates: readonly AggregateNumbers[]
  /** Of one run of which there are several dumps. */
  readonly series: SeriesNumbers | undefined
  readonly missed: bigint // how often something could not be recorded
  readonly row: (row: number) => RowNumbers
  /** Of a row alone, its counts by column. */
  readonly perColumn: (row: number) => bigint[]
  readonly point: (row: number) => PointNumbers
  readonly points: () => Generator<PointNumbers, void>
  readonly refusals: () => Generator<ManifestRefusal, void>
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

/** In whose name a bundle is signed. */
export const signerText = ({ signature }: Bundle): string | undefined =>
  signature.length === 0 ? undefined : signerOf(signature) ?? 'a name that cannot be read'

const mustFit = ({ manifest, payloadSha256, decoded: { tables } }: Bundle, dump: Dump): void => {
  const [bundleDigest, dumpDigest] = [hexOf(payloadSha256), hexOf(dump.payloadSha256)]
  if (bundleDigest !== dumpDigest) {
    throw new KerninstError(EXIT.mismatch,
      `the dump was counted by another bundle: its payload is sha256 ${dumpDigest}, this bundle's is ${bundleDigest}`)
  }
  if (dump.slotCount !== tables.slotCount || dump.siteCount !== tables.siteCount || dump.buildId !== manifest.image.buildId) {
    throw new KerninstError(EXIT.data, 'the dump names this bundle, but differs in slots, sites or build id: damaged?')
  }
}

/**
 * @param source one dump, or those of several hosts (runsOf)
 * @throws KerninstError: 76 where a dump was counted by another bundle, 65 where it contradicts this one
 */
export const reportNumbers = (bundle: Bundle, source: Dump | readonly Run[]): ReportNumbers => {
  const runs: readonly Run[] = 'count' in source ? [{ name: source.host, last: source, earlier: [] }] : source
  for (const { earlier, last } of runs) for (const dump of [...earlier, last]) mustFit(bundle, dump)
  const { manifest, decoded: { tables } } = bundle
  const [{ last: dump }] = runs as [Run]
  const cpusOf = ({ last }: Run): Counters[] => Array.from({ length: last.cpuCount }, (_, number) => ({ dump: last, number }))
  const cpus = runs.flatMap(cpusOf)
  const by = runs.length > 1 ? 'host' : 'cpu'
  const groups = by === 'host' ? runs.map(cpusOf) : cpus.map((cpu) => [cpu])
  const countOn = (group: readonly Counters[], slot: number): bigint => group.reduce((sum, one) => sum + one.dump.count(one.number, slot), 0n)
  const { points } = manifest
  const { termStart, term } = points
  const slots = Array.from({ length: dump.slotCount }, (_, slot) => {
    let total = 0n
    for (const cpu of cpus) total += cpu.dump.count(cpu.number, slot)
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
  const perColumnOf = (p: number): bigint[] => groups.map((group) => solve(p, (slot) => countOn(group, slot)))
  const numbersOf = ({ at, slot }: ManifestPart): PartNumbers => ({
    at, count: slots[slot]!, get perColumn() { return groups.map((group) => countOn(group, slot)) },
  })
  const point = (row: number): PointNumbers => {
    const p = served[row]!
    const { parts, less, ...text } = pointText(manifest, tables.siteRva, p)
    return { ...text, count: counts[row]!, get perColumn() { return perColumnOf(p) }, parts: parts.map(numbersOf), less: less.map(numbersOf) }
  }
  const hosts = runs.map(({ name, last }): HostNumbers => ({
    name, release: last.release === '' ? manifest.image.release : last.release, state: last.state, dumpedNs: last.dumpedNs,
    appliedNs: last.appliedNs, removedNs: last.removedNs, resetNs: last.resetNs, snapshotNs: last.snapshotNs, stopNs: last.stopNs,
    cpuCount: last.cpuCount,
  }))
  const series = (): SeriesNumbers | undefined => {
    if (runs.length > 1 || runs[0]!.earlier.length === 0) return undefined
    const intervals = intervalsOf(runs[0]!)
    return {
      intervals,
      events: () => intervals.map(({ cpus: group }) => {
        let sum = 0n
        for (let slot = 0; slot < manifest.slotSite.length; slot++) sum += countOn(group, slot)
        return sum
      }),
      counts: (row) => intervals.map((interval) => solve(served[row]!, (slot) => countOn(interval.cpus, slot))),
      aggregate: (number) => {
        const one = manifest.aggregates[number]!
        return one.kind === 'min' || one.kind === 'max' ? undefined : intervals.map((interval) => aggregateNumbers(one, interval.cpus))
      },
    }
  }
  const { buildId, slide, siteCount } = dump
  const { name, ...facts } = hosts[0]!
  return {
    ...facts, host: name, cpuCount: cpus.length, buildId, payloadSha256: hexOf(dump.payloadSha256), signer: signerText(bundle), slide, siteCount,
    by, columns: by === 'host' ? hosts.map((one) => one.name) : cpus.map(({ number }) => `cpu${number}`), hosts, manifest,
    summary: summarize(manifest),
    served,
    counts,
    aggregates: manifest.aggregates.map((one) => aggregateNumbers(one, cpus)),
    series: series(),
    missed: manifest.missed === NONE ? 0n : slots[manifest.missed]!,
    row: (row) => {
      const p = served[row]!
      return {
        point: pointName(manifest, p), aggregate: aggregateOf(manifest, p), derived: points.derived[p] === 1,
        at: placeName(manifest, pointPlace(manifest, tables.siteRva, p)), count: counts[row]!,
        get perColumn() { return perColumnOf(p) },
      }
    },
    perColumn: (row) => perColumnOf(served[row]!),
    point,
    points: function* () {
      for (let row = 0; row < served.length; row++) yield point(row)
    },
    refusals: function* () {
      for (const p of pointsWhere(manifest, false)) yield refusalText(manifest, p)
    },
  }
}
