// The numbers of a report, computed once. In: a bundle and a dump of the heap that its patches counted into. Out: for
// every point its count, in all and per CPU, and the same for its parts. Invariant: a point's count is the sum of its
// parts', less that of those to be taken away, and each of these the sum over the CPUs; no sum can overflow. A derived
// count may be negative: on one CPU where threads migrate between the places counted, and in all where a thread was
// between them when counting began or ended; that is an imbalance, which the report names. Left out: how it looks (text.ts, json.ts,
// csv.ts), and the order, which is the plan's.

import type { Bundle } from '../bundle/bundle.js'
import type { Dump } from '../dump/dump.js'
import { EXIT, KerninstError } from '../error.js'
import type { ManifestPart, ManifestRefusal } from '../splice/manifest.js'

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

export interface ReportNumbers {
  readonly host: string
  readonly release: string
  readonly buildId: string
  readonly state: Dump['state']
  readonly dumpedNs: bigint
  readonly appliedNs: bigint
  readonly removedNs: bigint
  readonly stopNs: bigint
  readonly slide: bigint
  readonly siteCount: number
  readonly cpuCount: number
  readonly points: readonly PointNumbers[]
  readonly refusals: readonly ManifestRefusal[]
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

const sum = (values: readonly bigint[]): bigint => values.reduce((total, value) => total + value, 0n)

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
  const { manifest, decoded } = bundle
  if (
    dump.slotCount !== decoded.tables.slotCount ||
    dump.siteCount !== decoded.tables.siteCount ||
    dump.buildId !== manifest.image.buildId
  ) {
    throw new KerninstError(EXIT.data, 'the dump names this bundle, but differs in slots, sites or build id: damaged?')
  }
  const cpus = Array.from({ length: dump.cpuCount }, (_, cpu) => cpu)
  const points = manifest.points.map((point): PointNumbers => {
    const numbersOf = (part: ManifestPart): PartNumbers => {
      const perCpu = cpus.map((cpu) => dump.count(cpu, part.slot))
      return { at: part.at, count: sum(perCpu), perCpu }
    }
    const parts = point.parts.map(numbersOf)
    const less = point.less.map(numbersOf)
    const onCpu = (list: readonly PartNumbers[], cpu: number): bigint => sum(list.map((part) => part.perCpu[cpu] ?? 0n))
    const perCpu = cpus.map((cpu) => onCpu(parts, cpu) - onCpu(less, cpu))
    return {
      point: point.point,
      aggregate: point.aggregate,
      at: point.at,
      derived: point.derived,
      count: sum(perCpu),
      perCpu,
      parts,
      less,
    }
  })
  const { host, release, buildId, state, dumpedNs, appliedNs, removedNs, stopNs, slide, siteCount, cpuCount } = dump
  return {
    host,
    release,
    buildId,
    state,
    dumpedNs,
    appliedNs,
    removedNs,
    stopNs,
    slide,
    siteCount,
    cpuCount,
    points,
    refusals: manifest.refusals,
  }
}
