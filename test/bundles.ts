// Bundles that no planner writes, whole by their digests, so that what lies behind these is read. In: a bundle's bytes, what is to
// be changed in its manifest. Out: a bundle's bytes.
// Left out: damage that the digests tell (bundle.test.ts).

import { FORMAT } from '../src/bundle/bundle.js'
import { readNumbers, writeNumbers, writeTexts } from '../src/bundle/columns.js'
import { MAX, VERSION } from '../src/bundle/layout.js'
import { manifestSha256 } from '../src/bundle/manifest.js'
import { decode, encode, type Packable } from '../src/bundle/msgpack.js'
import { decodePayload, encodePayload } from '../src/bundle/payload.js'
import type { PatchTables } from '../src/splice/tables.js'

type Count = 'names' | 'places' | 'asked' | 'points' | 'terms' | 'sites' | 'slots'

/** Column of numbers -> what it has a number for each of, and whether it holds differences. */
export const COLUMNS: Readonly<Record<string, readonly [of: Count, delta: boolean]>> = {
  nameLengths: ['names', false], placeFrom: ['places', true], placeBack: ['places', false], placeName: ['places', true],
  askedKind: ['asked', false], askedName: ['asked', true], askedStart: ['asked', true], askedBytes: ['asked', false],
  askedOffset: ['asked', false], askedTitle: ['asked', true], askedAggregate: ['asked', true], askedAlways: ['asked', false], of: ['points', true], rva: ['points', true],
  to: ['points', true], refusal: ['points', false], nearest: ['points', false], derived: ['points', false], termCount: ['points', false],
  term: ['terms', true], termRva: ['terms', false], siteTactic: ['sites', false], slotSite: ['slots', true],
}

/** A manifest as it is packed. */
export interface Packed {
  tool: { version: string }
  image: { release: string; symbols: string[] }
  programs: string[]
  refusals: { code: string; reason: string }[]
  tactics: string[]
  aggregates: { name: string; kind: string; signed: number; unit: string; keyKind: string; keys: number; width: number; first: number; range: string[] }[]
  missed: number
  counts: Record<Count, number>
  columns: Record<string, Uint8Array>
}

/** The numbers of a column. */
export const numbersIn = ({ counts, columns }: Packed, name: string): Uint32Array => {
  const [of, delta] = COLUMNS[name]!
  return readNumbers(columns[name]!, counts[of], name, { delta })
}

export const setNumbers = ({ columns }: Packed, name: string, values: ArrayLike<number>): void => {
  columns[name] = writeNumbers(values, { delta: COLUMNS[name]![1] })
}

export const setNames = ({ counts, columns }: Packed, names: readonly string[]): void => {
  const { lengths, bytes } = writeTexts(names)
  Object.assign(columns, { nameLengths: lengths, names: bytes })
  counts.names = names.length
}

/**
 * @param change what is changed in the manifest
 * @param more what is changed in the tables of the payload
 * @param patch what is changed in the manifest's bytes
 */
export const resealed = (
  bytes: Uint8Array, change: (packed: Packed) => void, more: Partial<PatchTables> = {}, patch: (manifest: Buffer) => void = () => undefined,
): Uint8Array => {
  const limits = { bytes: 2 ** 30, depth: 16, items: 2 ** 24 }
  const { manifest, payload } = decode(bytes, 'bundle', limits) as { manifest: Uint8Array; payload: Uint8Array }
  const packed = decode(manifest, 'manifest', limits) as unknown as Packed
  change(packed)
  const written = Buffer.from(encode(packed as unknown as Packable))
  patch(written)
  const { target, tables } = decodePayload(payload)
  return encode({
    format: FORMAT, version: VERSION, manifest: new Uint8Array(written),
    payload: encodePayload(target, { ...tables, ...more }, manifestSha256(written)), signature: new Uint8Array(0),
  })
}

/** As many slots as there may be. */
export const MOST_SLOTS = MAX.slots
