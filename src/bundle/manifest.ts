// The manifest as bytes. In: the Manifest of splice/manifest.ts. Out: a canonical MessagePack map, and back: a head of
// plain fields in the order given here, then columns (columns.ts). Invariant: what decodeManifest() returns has the
// declared shape, and no index in it leads out of its table, but for sites, which are the payload's (bundle.ts); so
// reports may trust it. Left out: whether its texts may be shown on a terminal (they may not, as they are:
// report/printable.ts).

import { createHash } from 'node:crypto'
import { EXIT, KerninstError } from '../error.js'
import { NONE } from '../image/rva.js'
import { KEY_KINDS, PIECE_SLOTS, UNITS, widthOf } from '../probe/aggregates.js'
import { AGGREGATES, KINDS } from '../probe/program.js'
import type { Manifest, ManifestAggregate, ManifestPoints } from '../splice/manifest.js'
import { readNumbers, readTexts, writeNumbers, writeTexts } from './columns.js'
import { MAX } from './layout.js'
import { MSGPACK_LIMITS, decode, encode } from './msgpack.js'
import type { MsgpackLimits, Packable } from './msgpack.js'

export const SCHEMA = 'kerninst.manifest/5'
export const MAX_NAME = 4096 //         bytes of a name, characters of a reason
export const MAX_PROGRAM = 2 ** 20 //   characters of a probe program
export const MAX_NAMES = 2 ** 20
export const MAX_NAME_BYTES = 2 ** 26 // of all names
export const MAX_POINTS = 2 ** 23
export const MAX_TERMS = 2 ** 25 //     of all points
export const MAX_POINT_TERMS = 2 ** 12 // of one; of all blocks and edges of 6.12, none has more than 427
const MAX_PROGRAMS = 2 ** 12
const MAX_AGGREGATES = 2 ** 16
const MAX_NUMBERED = 255 //             refusal codes, tactics: they are numbered in a byte

/**
 * Takes a value of unknown shape apart and puts it together again, fields in the declared order.
 * `strict`: the fields must be in that order already, as they are in a manifest that was read.
 */
type Check<T> = (value: unknown, path: string, strict: boolean) => T

const wrong = (path: string, what: string): never => {
  throw new KerninstError(EXIT.data, `manifest: ${path} ${what}`)
}

const text =
  (limit: number): Check<string> =>
  (value, path) =>
    typeof value === 'string' && value.length <= limit ? value : wrong(path, `is no text of up to ${limit} characters`)

const pattern =
  (form: RegExp, what: string): Check<string> =>
  (value, path) =>
    typeof value === 'string' && form.test(value) ? value : wrong(path, `is not ${what}`)

const literal =
  <T extends string>(...wanted: readonly T[]): Check<T> =>
  (value, path) =>
    wanted.find((one) => one === value) ?? wrong(path, `is not '${wanted.join(`' or '`)}'`)

const upTo =
  (limit: number): Check<number> =>
  (value, path) =>
    typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= limit
      ? value
      : wrong(path, `is no integer from 0 to ${limit}`)

const bytes: Check<Uint8Array> = (value, path) => (value instanceof Uint8Array ? value : wrong(path, 'is not binary'))

const list =
  <T>(item: Check<T>, limit: number): Check<T[]> =>
  (value, path, strict) =>
    Array.isArray(value) && value.length <= limit
      ? value.map((each, i) => item(each, `${path}[${i}]`, strict))
      : wrong(path, `is no list of up to ${limit}`)

const record =
  <T extends object>(fields: { readonly [K in keyof T]: Check<T[K]> }): Check<T> =>
  (value, path, strict) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value) || value instanceof Uint8Array) return wrong(path, 'is no map')
    const given = new Map(Object.entries(value))
    const names = Object.keys(fields) as (keyof T & string)[]
    const found = [...given.keys()]
    if (found.length !== names.length || (strict && found.some((name, i) => name !== names[i]))) {
      return wrong(path, `does not have the fields ${names.join(', ')}`)
    }
    const out: Partial<T> = {}
    for (const name of names) out[name] = fields[name](given.get(name), path === '' ? name : `${path}.${name}`, strict)
    return out as T
  }

/** Everything that is not a number of a table. */
type Head = Pick<Manifest, 'tool' | 'image' | 'programs' | 'text' | 'refusals' | 'tactics' | 'aggregates' | 'missed'> & { readonly counts: Counts }

interface Counts {
  readonly names: number
  readonly places: number
  readonly asked: number
  readonly points: number
  readonly terms: number
  readonly sites: number
  readonly slots: number
}

const COLUMNS = [
  'nameLengths', 'names', 'placeFrom', 'placeBack', 'placeName', 'askedKind', 'askedName', 'askedStart', 'askedBytes',
  'askedOffset', 'askedTitle', 'askedAggregate', 'askedAlways', 'of', 'rva', 'to', 'refusal', 'nearest', 'derived', 'termCount', 'term',
  'termRva', 'siteTactic', 'slotSite',
] as const
type Columns = { readonly [name in (typeof COLUMNS)[number]]: Uint8Array }

const name = text(MAX_NAME)
const packed = record<{ schema: string } & Head & { columns: Columns }>({
  schema: literal(SCHEMA),
  tool: record<Manifest['tool']>({ name: literal('kerninst'), version: name }),
  image: record<Manifest['image']>({
    kind: literal('vmlinux', 'vmlinuz'),
    release: name,
    buildId: pattern(/^[0-9a-f]{40}$/, 'a build id of 40 hexadecimal digits'),
    base: pattern(/^0x[0-9a-f]{1,16}$/, 'an address'),
    textSha256: pattern(/^[0-9a-f]{64}$/, 'a SHA-256'),
    symbols: list(name, 16),
  }),
  programs: list(text(MAX_PROGRAM), MAX_PROGRAMS),
  text: record<Manifest['text']>({ bytes: upTo(0xffffffff), instrumentableBytes: upTo(0xffffffff) }),
  refusals: list(record<Manifest['refusals'][number]>({ code: name, reason: name }), MAX_NUMBERED),
  tactics: list(name, MAX_NUMBERED),
  aggregates: list(record<ManifestAggregate>({
    name, kind: literal(...AGGREGATES), signed: upTo(1), unit: literal(...UNITS), keyKind: literal(...KEY_KINDS), keys: upTo(PIECE_SLOTS),
    width: upTo(PIECE_SLOTS), first: upTo(MAX.slots), range: list(pattern(/^-?[0-9]{1,19}$/, 'a number'), 3),
  }), MAX_AGGREGATES),
  missed: upTo(NONE),
  counts: record<Counts>({
    names: upTo(MAX_NAMES), places: upTo(MAX_NAMES), asked: upTo(MAX_NAMES), points: upTo(MAX_POINTS), terms: upTo(MAX_TERMS),
    sites: upTo(MAX.sites), slots: upTo(MAX.slots),
  }),
  columns: record<Columns>(Object.fromEntries(COLUMNS.map((column) => [column, bytes])) as { [K in keyof Columns]: Check<Uint8Array> }),
})

const DELTA = { delta: true } as const

/** NONE becomes 0, so that it is small. */
const shifted = (values: Uint32Array): Uint32Array => values.map((value) => value + 1)
const unshifted = (values: Uint32Array): Uint32Array => values.map((value) => value - 1)

/**
 * Places of terms, less what is likely: each slot is named by several equations, always with the same place but for
 * points that stand in for each other. The first time, the place of the term before is the guess.
 */
const termPlaces = (term: Uint32Array, values: Uint32Array, slots: number, back: boolean): Uint32Array => {
  const known = new Uint32Array(slots)
  let before = 0
  return values.map((value, t) => {
    const slot = term[t]! >>> 1
    const guess = known[slot] || before
    const difference = (value - guess) | 0
    const place = back ? (guess + ((value >>> 1) ^ -(value & 1))) >>> 0 : value
    known[slot] = before = place
    return back ? place : ((difference << 1) ^ (difference >> 31)) >>> 0
  })
}

const columnsOf = ({ names, places, asked, points, siteTactic, slotSite }: Manifest): Columns => {
  const texts = writeTexts(names)
  return {
    nameLengths: texts.lengths,
    names: texts.bytes,
    placeFrom: writeNumbers(places.from, DELTA),
    placeBack: writeNumbers(places.start.map((start, i) => (start === NONE ? 0 : places.from[i]! - start + 1))),
    placeName: writeNumbers(places.name, DELTA),
    askedKind: writeNumbers(asked.kind),
    askedName: writeNumbers(asked.name, DELTA),
    askedStart: writeNumbers(shifted(asked.start), DELTA),
    askedBytes: writeNumbers(asked.end.map((end, i) => end - asked.start[i]!)),
    askedOffset: writeNumbers(asked.offset),
    askedTitle: writeNumbers(asked.title, DELTA),
    askedAggregate: writeNumbers(asked.aggregate, DELTA),
    askedAlways: writeNumbers(asked.always),
    of: writeNumbers(points.of, DELTA),
    rva: writeNumbers(shifted(points.rva), DELTA),
    to: writeNumbers(shifted(points.to), DELTA),
    refusal: writeNumbers(points.refusal),
    nearest: writeNumbers(shifted(points.nearest)),
    derived: writeNumbers(points.derived),
    termCount: writeNumbers(points.termStart.subarray(0, points.count).map((start, p) => points.termStart[p + 1]! - start)),
    term: writeNumbers(points.term, DELTA),
    termRva: writeNumbers(termPlaces(points.term, points.termRva, slotSite.length, false)),
    siteTactic: writeNumbers(siteTactic),
    slotSite: writeNumbers(slotSite, DELTA),
  }
}

/** @throws KerninstError (65) where a text or table is longer than readers take */
export const encodeManifest = (manifest: Manifest): Uint8Array => {
  const { tool, image, programs, text, refusals, tactics, aggregates, missed, names, places, asked, points, siteTactic, slotSite } = manifest
  names.forEach((each, i) => {
    if (Buffer.byteLength(each) > MAX_NAME || /\p{Surrogate}/u.test(each)) wrong(`names[${i}]`, `is no text of up to ${MAX_NAME} bytes`)
  })
  for (let p = 0; p < points.count; p++) {
    if (points.termStart[p + 1]! - points.termStart[p]! > MAX_POINT_TERMS) wrong(`termCount[${p}]`, `is more than ${MAX_POINT_TERMS}`)
  }
  const counts = {
    names: names.length, places: places.from.length, asked: asked.kind.length, points: points.count, terms: points.term.length,
    sites: siteTactic.length, slots: slotSite.length,
  }
  const value = { schema: SCHEMA, tool, image, programs, text, refusals, tactics, aggregates, missed, counts, columns: columnsOf(manifest) }
  return encode(packed(value, '', false) as unknown as Packable)
}

/** Every value is below a bound. */
const below = (values: ArrayLike<number>, bound: number, where: string): void => {
  for (let i = 0; i < values.length; i++) if (values[i]! >= bound) wrong(`${where}[${i}]`, `is ${values[i]!}, not below ${bound}`)
}

/** @throws KerninstError (65) naming the field that is not as it must be */
export const decodeManifest = (input: Uint8Array, limits: MsgpackLimits = MSGPACK_LIMITS): Manifest => {
  const { tool, image, programs, text, refusals, tactics, aggregates, missed, counts, columns } = packed(decode(input, 'manifest', limits), '', true)
  const column = (key: keyof Columns, count: number, delta = false): Uint32Array =>
    readNumbers(columns[key], count, `columns.${key}`, { delta })
  /** A column of small numbers. */
  const small = (key: keyof Columns, count: number, bound: number): Uint8Array => {
    const values = column(key, count)
    below(values, bound, key)
    return Uint8Array.from(values)
  }
  const named = (key: keyof Columns, count: number): Uint32Array => {
    const values = column(key, count, true)
    below(values, counts.names, key)
    return values
  }
  const names = readTexts(columns.nameLengths, columns.names, counts.names, 'names', { one: MAX_NAME, all: MAX_NAME_BYTES })

  const from = column('placeFrom', counts.places, true)
  const back = column('placeBack', counts.places)
  from.forEach((rva, i) => {
    if (rva === NONE || (i > 0 && rva <= from[i - 1]!)) wrong(`placeFrom[${i}]`, 'does not ascend')
    if (back[i]! > rva + 1) wrong(`placeBack[${i}]`, 'leads below the image')
  })
  const places = {
    from, start: back.map((bytes, i) => (bytes === 0 ? NONE : from[i]! - bytes + 1)), name: named('placeName', counts.places),
  }

  const start = unshifted(column('askedStart', counts.asked, true))
  const length = column('askedBytes', counts.asked)
  start.forEach((rva, i) => {
    if (rva === NONE ? length[i] !== 0 : rva + length[i]! > NONE) wrong(`askedBytes[${i}]`, 'leads out of the image')
  })
  const title = column('askedTitle', counts.asked, true)
  below(title, counts.names + 1, 'askedTitle')
  const asked = {
    kind: small('askedKind', counts.asked, KINDS.length), name: named('askedName', counts.asked), start,
    end: start.map((rva, i) => rva + length[i]!), offset: column('askedOffset', counts.asked), title,
    aggregate: named('askedAggregate', counts.asked), always: small('askedAlways', counts.asked, 2),
  }
  return {
    tool, image, programs, text, names, places, asked,
    points: pointsOf(counts, column, small, refusals.length), refusals, tactics,
    siteTactic: small('siteTactic', counts.sites, tactics.length),
    slotSite: slotSites(column('slotSite', counts.slots, true), counts.sites),
    ...aggregatesOf(aggregates, missed, counts.slots),
  }
}

/** Aggregates whose slots follow each other behind those of sites and the one for what is missed. */
const aggregatesOf = (aggregates: readonly ManifestAggregate[], missed: number, slots: number): Pick<Manifest, 'aggregates' | 'missed'> => {
  if (missed !== NONE && missed !== slots) wrong('missed', `is ${missed}`)
  let next = slots + 1
  aggregates.forEach((one, a) => {
    mustAgree(one, `aggregates[${a}]`, next)
    next = one.first + one.keys * one.width
  })
  return { aggregates, missed }
}

/** The numbers of an aggregate agree with each other. */
const mustAgree = (one: ManifestAggregate, path: string, slots: number): void => {
  const { kind, keyKind, keys, width, first, range } = one
  if (keys === 0 || (keyKind !== 'index' && keys > 1)) wrong(`${path}.keys`, `is ${keys}`)
  if ((kind === 'lhist') !== (range.length === 3) || (kind !== 'lhist' && range.length > 0)) wrong(`${path}.range`, `does not suit ${kind}`)
  const [low, high, step] = range.map(BigInt)
  if (step !== undefined && (step <= 0n || high! <= low! || (high! - low!) % step !== 0n)) wrong(`${path}.range`, 'is no range')
  const buckets = step === undefined ? undefined : { low: low!, high: high!, step }
  if (width !== widthOf({ kind, range: buckets })) wrong(`${path}.width`, `is ${width}`)
  if (first < slots || Math.floor(first / PIECE_SLOTS) !== Math.floor((first + keys * width - 1) / PIECE_SLOTS)) wrong(`${path}.first`, `is ${first}`)
}

const slotSites = (slotSite: Uint32Array, sites: number): Uint32Array => {
  below(slotSite, sites, 'slotSite')
  return slotSite
}

const pointsOf = (
  { asked, points: count, terms, slots }: Counts, column: (key: keyof Columns, count: number, delta?: boolean) => Uint32Array,
  small: (key: keyof Columns, count: number, bound: number) => Uint8Array, codes: number,
): ManifestPoints => {
  const of = column('of', count, true)
  below(of, asked, 'of')
  const termCount = column('termCount', count)
  const termStart = new Uint32Array(count + 1)
  termCount.forEach((some, p) => {
    if (some > terms - termStart[p]!) wrong(`termCount[${p}]`, `leads past the ${terms} terms`)
    if (some > MAX_POINT_TERMS) wrong(`termCount[${p}]`, `is ${some}, more than ${MAX_POINT_TERMS}`)
    termStart[p + 1] = termStart[p]! + some
  })
  if (termStart[count] !== terms) wrong('termCount', `leaves some of the ${terms} terms to no point`)
  const term = column('term', terms, true)
  below(term, 2 * slots, 'term')
  const points = {
    count, of, rva: unshifted(column('rva', count, true)), to: unshifted(column('to', count, true)),
    refusal: small('refusal', count, codes + 1), nearest: unshifted(column('nearest', count)), derived: small('derived', count, 2),
    termStart, term, termRva: termPlaces(term, column('termRva', terms), slots, true),
  }
  for (let p = 0; p < count; p++) {
    const some = termCount[p]!
    if (points.refusal[p] !== 0) {
      if (some > 0 || points.derived[p]) wrong(`termCount[${p}]`, 'is of a point that is refused')
    } else if (points.rva[p] === NONE) wrong(`rva[${p}]`, 'is missing')
  }
  return points
}

/** The digest that the payload holds. */
export const manifestSha256 = (bytes: Uint8Array): Uint8Array =>
  new Uint8Array(createHash('sha256').update(bytes).digest())
