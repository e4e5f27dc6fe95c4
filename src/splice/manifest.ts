// What people and reports are told about a plan, as tables: a plan of the whole kernel has a million points. The bundle
// holds them packed (bundle/manifest.ts); texts are made here, one at a time, when somebody asks. The kernel never reads
// any of it. Left out: instructions and listings, which are made from the payload (describe.ts, Lister).
// Index spaces: name; place (a stretch of text that lies in one function); asked; point; site; slot.

import { hex, NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { KeyKind, Unit } from '../probe/aggregates.js'
import { KINDS, type AggregateKind, type PointKind } from '../probe/program.js'
import type { PointTable } from './points.js'

export interface Manifest {
  readonly tool: { readonly name: 'kerninst'; readonly version: string }
  readonly image: {
    readonly kind: 'vmlinux' | 'vmlinuz'
    readonly release: string //   uname -r, from linux_banner
    readonly buildId: string //   hex
    readonly base: string //      '0x...', link-time address of rva 0
    readonly textSha256: string // hex, of the bytes that were analysed
    readonly symbols: readonly string[] // where names came from: 'symtab', 'kallsyms', 'kallsyms-file'
  }
  readonly programs: readonly string[] // the probe programs, as given
  readonly text: { readonly bytes: number; readonly instrumentableBytes: number }
  readonly names: readonly string[] //    name -> text: functions, aggregates, titles
  readonly places: PlaceTable
  readonly asked: AskedTable
  readonly points: ManifestPoints
  readonly refusals: readonly { readonly code: string; readonly reason: string }[] // number of a refusal, less 1 -> what it is
  readonly tactics: readonly string[] //  number of a tactic -> its name
  readonly siteTactic: Uint8Array //      site -> number of a tactic
  readonly slotSite: Uint32Array //       slot -> the site that counts it; slots of aggregates come behind
  readonly aggregates: readonly ManifestAggregate[]
  readonly missed: number //              slot that counts what could not be recorded, or NONE
}

/** What programs collect, of all points together. probe/aggregates.ts says what the slots of one key are. */
export interface ManifestAggregate {
  readonly name: string // '' for @
  readonly kind: AggregateKind
  readonly signed: number // 1 where the values have signs
  readonly unit: Unit
  readonly keyKind: KeyKind
  readonly keys: number
  readonly width: number // slots of one key
  readonly first: number // slot
  readonly range: readonly string[] // of lhist: low, high, step; else empty
}

/** Which function each rva that is named lies in. */
export interface PlaceTable {
  readonly from: Uint32Array //  place -> its first rva; ascending. It ends where the next one starts
  readonly start: Uint32Array // place -> start of its function, at or below `from`; NONE where it lies in none
  readonly name: Uint32Array //  place -> name of that function
}

/** What the programs ask for. One that is asked for may be several points: a function's blocks, say. */
export interface AskedTable {
  readonly kind: Uint8Array //       asked -> index in KINDS
  readonly name: Uint32Array //      asked -> name of the function
  readonly start: Uint32Array //     asked -> start of the function, or NONE where it is not known which
  readonly end: Uint32Array //       asked -> its end, likewise
  readonly offset: Uint32Array //    asked -> of an instruction, else 0
  readonly title: Uint32Array //     asked -> 0, or 1 + name of what it is called where that does not follow from the others
  readonly aggregate: Uint32Array // asked -> name of the aggregate: '' is @
  readonly always: Uint8Array //     asked -> 1, or 0 where a program decides whether it counts
}

export type ManifestPoints = Omit<PointTable, 'asked'>

/** function+0xoffset of an rva that the manifest names. */
export const placeName = ({ places, names, image }: Manifest, rva: Rva): string => {
  const p = lowerBound(places.from, rva + 1) - 1
  const start = p < 0 ? NONE : places.start[p]!
  return start === NONE ? hex(BigInt(image.base) + BigInt(rva)) : `${names[places.name[p]!]!}+${hex(rva - start)}`
}

/** What was asked for, as the program had it. */
export const askedName = ({ asked, names }: Manifest, a: number): string => {
  const title = asked.title[a]!
  if (title !== 0) return names[title - 1]!
  const kind = KINDS[asked.kind[a]!]!
  return `${kind}:${names[asked.name[a]!]!}${kind === 'insn' ? `+${hex(asked.offset[a]!)}` : ''}`
}

/** A place, seen from the function that was asked for. */
const nameFrom = (manifest: Manifest, a: number, rva: Rva): string => {
  const { asked, names } = manifest
  const start = asked.start[a]!
  return start !== NONE && rva >= start && rva < asked.end[a]! ? `${names[asked.name[a]!]!}+${hex(rva - start)}` : placeName(manifest, rva)
}

/** 'entry:vfs_read', 'block:vfs_read+0x1c', 'edge:vfs_read+0x10->0x24'. */
export const pointName = (manifest: Manifest, p: number): string => {
  const { asked, points } = manifest
  const a = points.of[p]!
  const kind = KINDS[asked.kind[a]!]!
  const rva = points.rva[p]!
  if (rva === NONE || (kind !== 'block' && kind !== 'edge' && kind !== 'call')) return askedName(manifest, a)
  const at = `${kind}:${nameFrom(manifest, a, rva)}`
  const to = points.to[p]!
  if (kind !== 'edge' || to === NONE) return at
  const start = asked.start[a]!
  return `${at}->${start !== NONE && to >= start && to < asked.end[a]! ? hex(to - start) : nameFrom(manifest, a, to)}`
}

/** A point that can be served instead of a refused one, or ''. */
export const nearestName = (manifest: Manifest, p: number): string => {
  const nearest = manifest.points.nearest[p]!
  return nearest === NONE ? '' : `insn:${nameFrom(manifest, manifest.points.of[p]!, nearest)}`
}

/** What kind of point a point is. */
export const kindOf = ({ asked, points }: Manifest, p: number): PointKind => KINDS[asked.kind[points.of[p]!]!]!

export const aggregateOf = ({ asked, points, names }: Manifest, p: number): string => names[asked.aggregate[points.of[p]!]!]!

/** Whether a point's count is how often control came there. */
export const countsAlways = ({ asked, points }: Manifest, p: number): boolean => asked.always[points.of[p]!] === 1

/** Where a point is counted, or what place a derived count is of. */
export const pointPlace = ({ points, slotSite }: Manifest, siteRva: Uint32Array, p: number): Rva =>
  points.derived[p] || points.termStart[p] === points.termStart[p + 1]
    ? points.rva[p]! : siteRva[slotSite[points.term[points.termStart[p]!]! >>> 1]!]!

/** A served point, in words. */
export interface ManifestPoint {
  point: string //     'entry:vfs_read', 'call:vfs_read+0x3a'
  aggregate: string // '' for @, 'name' for @name
  at: string //        'vfs_read+0x5': the first place that is counted, or where a derived count is of
  derived: boolean //  solved for from counts taken elsewhere
  parts: ManifestPart[] // the point's count is the sum of these slots,
  less: ManifestPart[] //  less the sum of these
}

export interface ManifestPart {
  at: string //        the place observed, e.g. one of a function's returns; of a derived count, the place counted
  slot: number
  site: number //      index of the site that counts it
}

export interface ManifestRefusal {
  point: string
  code: string //      a RefusalCode
  reason: string
  nearest: string //   a point that can be served, or ''
}

export interface ManifestSite {
  rva: number
  at: string
  tactic: string
  instruction: string // what was there
  listing: string[] //   the patch, one instruction a line
}

/** A manifest in words, as `kerninst show --json` has it under that name. */
export interface ManifestText {
  tool: Manifest['tool']
  image: Manifest['image']
  programs: string[]
  points: ManifestPoint[]
  refusals: ManifestRefusal[]
  sites: ManifestSite[] // index = site index in the payload
  slots: number
  text: Manifest['text']
}

export const pointText = (manifest: Manifest, siteRva: Uint32Array, p: number): ManifestPoint => {
  const { points, slotSite } = manifest
  const parts: ManifestPart[] = []
  const less: ManifestPart[] = []
  for (let t = points.termStart[p]!; t < points.termStart[p + 1]!; t++) {
    const slot = points.term[t]! >>> 1
    ;(points.term[t]! & 1 ? less : parts).push({ at: placeName(manifest, points.termRva[t]!), slot, site: slotSite[slot]! })
  }
  return {
    point: pointName(manifest, p), aggregate: aggregateOf(manifest, p),
    at: placeName(manifest, pointPlace(manifest, siteRva, p)), derived: points.derived[p] === 1, parts, less,
  }
}

export const refusalText = (manifest: Manifest, p: number): ManifestRefusal => {
  const { code, reason } = manifest.refusals[manifest.points.refusal[p]! - 1]!
  return { point: pointName(manifest, p), code, reason, nearest: nearestName(manifest, p) }
}

/** Whether a served point has a count of its own: where programs collect values alone, it has none. */
export const isCounted = ({ points }: Manifest, p: number): boolean =>
  points.refusal[p] === 0 && (points.derived[p] === 1 || points.termStart[p + 1]! > points.termStart[p]!)

/** The points that are served, or those that are refused, in the plan's order. */
export function* pointsWhere({ points }: Manifest, served: boolean): Generator<number, void> {
  for (let p = 0; p < points.count; p++) if ((points.refusal[p] === 0) === served) yield p
}

export interface Summary {
  readonly points: number
  readonly served: number
  readonly derived: number
  readonly refused: { readonly [code: string]: number } // in the order of codes
  readonly tactics: { readonly [name: string]: number }
}

const tally = (names: readonly string[], counts: Uint32Array): { [name: string]: number } =>
  Object.fromEntries(names.map((name, i) => [name, counts[i]!] as const).filter(([, count]) => count > 0)
    .sort(([a], [b]) => (a < b ? -1 : 1)))

export const summarize = ({ points, refusals, tactics, siteTactic }: Manifest): Summary => {
  const codes = new Uint32Array(refusals.length)
  const sites = new Uint32Array(tactics.length)
  let served = 0
  let derived = 0
  for (let p = 0; p < points.count; p++) {
    if (points.refusal[p] === 0) served++
    else codes[points.refusal[p]! - 1]!++
    derived += points.derived[p]!
  }
  for (const tactic of siteTactic) sites[tactic]!++
  return { points: points.count, served, derived, refused: tally(refusals.map(({ code }) => code), codes), tactics: tally(tactics, sites) }
}
