// The manifest as bytes. In: the Manifest of splice/manifest.ts. Out: canonical MessagePack with the fields in the
// order given here, and back. Invariant: what decodeManifest() returns has exactly the declared shape, so reports may
// trust types and lengths. Left out: whether its numbers fit the payload (bundle.ts), and whether its texts may be
// shown on a terminal (they may not, as they are: report/printable.ts).

import { createHash } from 'node:crypto'
import { EXIT, KerninstError } from '../error.js'
import type {
  Manifest,
  ManifestPart,
  ManifestPoint,
  ManifestRefusal,
  ManifestSite,
} from '../splice/manifest.js'
import { MAX } from './layout.js'
import { MSGPACK_LIMITS, decode, encode } from './msgpack.js'
import type { MsgpackLimits, Packable } from './msgpack.js'

export const MAX_NAME = 4096 //         UTF-16 units of a name, a reason, a line of a listing
export const MAX_PROGRAM = 2 ** 20 //   of a probe program
export const MAX_LIST = 2 ** 23 //      points, refusals
const MAX_LINES = 256 //                of one patch
const MAX_PARTS = 2 ** 16 //            of one point
const MAX_PROGRAMS = 2 ** 12

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

const flag: Check<boolean> = (value, path) => (typeof value === 'boolean' ? value : wrong(path, 'is neither true nor false'))

const u32: Check<number> = (value, path) =>
  typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= 0xffffffff
    ? value
    : wrong(path, 'is no unsigned 32-bit integer')

const list =
  <T>(item: Check<T>, limit: number): Check<T[]> =>
  (value, path, strict) =>
    Array.isArray(value) && value.length <= limit
      ? value.map((each, i) => item(each, `${path}[${i}]`, strict))
      : wrong(path, `is no list of up to ${limit}`)

const record =
  <T extends object>(fields: { readonly [K in keyof T]: Check<T[K]> }): Check<T> =>
  (value, path, strict) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) return wrong(path, 'is no map')
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

const name = text(MAX_NAME)

const part = record<ManifestPart>({ at: name, slot: u32, site: u32 })
const point = record<ManifestPoint>({
  point: name, aggregate: name, at: name, derived: flag, parts: list(part, MAX_PARTS), less: list(part, MAX_PARTS),
})
const refusal = record<ManifestRefusal>({ point: name, code: name, reason: name, nearest: name })
const site = record<ManifestSite>({
  rva: u32,
  at: name,
  tactic: name,
  instruction: name,
  listing: list(name, MAX_LINES),
})
const manifest = record<Manifest>({
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
  points: list(point, MAX_LIST),
  refusals: list(refusal, MAX_LIST),
  sites: list(site, MAX.sites),
  slots: u32,
  text: record<Manifest['text']>({ bytes: u32, instrumentableBytes: u32 }),
})

/** @throws KerninstError (65) where a text or list is longer than readers take */
export const encodeManifest = (value: Manifest): Uint8Array =>
  encode(manifest(value, '', false) as unknown as Packable)

/** @throws KerninstError (65) naming the field that is not as it must be */
export const decodeManifest = (bytes: Uint8Array, limits: MsgpackLimits = MSGPACK_LIMITS): Manifest =>
  manifest(decode(bytes, 'manifest', limits), 'manifest', true)

/** The digest that the payload holds. */
export const manifestSha256 = (bytes: Uint8Array): Uint8Array =>
  new Uint8Array(createHash('sha256').update(bytes).digest())
