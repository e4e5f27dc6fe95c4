// The bundle: the one file between the planning desk and the target. In: manifest, target, tables, and a key or none.
// Out: the MessagePack map that kmod/uapi/kerninst.h describes, and back, and the verdict on its signature. Invariant:
// the same inputs give the same bytes; whatever readBundle() returns was checked in full, and verifyBundle() notices
// any change of any bit. Left out: files and paths, and the question whether the target fits.

import { createHash } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { EXIT, KerninstError, assert } from '../error.js'
import { hex, NONE } from '../image/rva.js'
import type { Manifest } from '../splice/manifest.js'
import type { PatchTables, TargetIdentity } from '../splice/tables.js'
import { parseCertificate } from './certificate.js'
import { signCms, verifyCms } from './cms.js'
import { checkPair } from './keys.js'
import { MAX, VERSION } from './layout.js'
import { decodeManifest, encodeManifest, manifestSha256 } from './manifest.js'
import { MSGPACK_LIMITS, decode, encode } from './msgpack.js'
import { decodePayload, encodePayload } from './payload.js'
import type { Payload } from './payload.js'

export const FORMAT = 'kerninst-bundle'
const KEYS = ['format', 'version', 'manifest', 'payload', 'signature'] as const

export interface BundleLimits {
  /** Bytes of the manifest. */
  readonly manifest: number
  /** Bytes of the payload. */
  readonly payload: number
  /** Values in the manifest. */
  readonly items: number
}

export const BUNDLE_LIMITS: BundleLimits = {
  manifest: MSGPACK_LIMITS.bytes,
  payload: MAX.payload,
  items: MSGPACK_LIMITS.items,
}

export interface BundleInput {
  readonly manifest: Manifest
  readonly target: TargetIdentity
  readonly tables: PatchTables
  /** Without a key the bundle is unsigned: only modules built to take those will. */
  readonly key?: KeyObject
  /** The key's certificate, DER; goes with the key. */
  readonly cert?: Uint8Array
}

export interface Bundle {
  readonly manifest: Manifest
  /** The bytes that the kernel gets, and that the signature is over. */
  readonly payload: Uint8Array
  readonly decoded: Payload
  /** Of the payload; the counter heap and its dumps carry it. */
  readonly payloadSha256: Uint8Array
  /** Detached CMS; empty where the bundle is unsigned. */
  readonly signature: Uint8Array
}

/** Where manifest and payload contradict each other, in words, or ''. */
const contradiction = (manifest: Manifest, { target, tables }: Payload): string => {
  if (manifest.image.buildId !== Buffer.from(target.buildId).toString('hex')) return 'image.buildId'
  if (manifest.image.base !== hex(target.base)) return 'image.base'
  const { slotSite, missed, aggregates } = manifest
  const last = aggregates.at(-1)
  const used = last !== undefined ? last.first + last.keys * last.width : missed === NONE ? slotSite.length : missed + 1
  if (used !== tables.slotCount || (missed === NONE && aggregates.length > 0)) return 'slots'
  return manifest.siteTactic.length === tables.siteCount ? '' : 'sites'
}

/**
 * The bundle's bytes.
 * @throws KerninstError: 65 where the plan is larger than readers take, 77 where key and certificate do not match
 */
export const writeBundle = ({ manifest, target, tables, key, cert }: BundleInput): Uint8Array => {
  assert((key === undefined) === (cert === undefined), 'bundle: a key without a certificate, or the reverse')
  const manifestBytes = encodeManifest(manifest)
  if (manifestBytes.length > BUNDLE_LIMITS.manifest) {
    throw new KerninstError(
      EXIT.data,
      `the manifest takes ${manifestBytes.length} bytes, more than ${BUNDLE_LIMITS.manifest}; choose fewer points`,
    )
  }
  const digest = manifestSha256(manifestBytes)
  const payload = encodePayload(target, tables, digest)
  const found = contradiction(manifest, { target, tables, manifestSha256: digest })
  assert(found === '', `bundle: the manifest's ${found} and the tables differ`)
  let signature: Uint8Array = new Uint8Array(0)
  if (key !== undefined && cert !== undefined) {
    const certificate = parseCertificate(cert, 'certificate')
    checkPair(key, certificate)
    signature = signCms(payload, key, certificate)
  }
  return encode({ format: FORMAT, version: VERSION, manifest: manifestBytes, payload, signature })
}

/**
 * What the bytes hold, checked in full but for the signature.
 * @throws KerninstError (65) where they are no bundle, cut off, or contradict themselves
 */
export const readBundle = (bytes: Uint8Array, limits: BundleLimits = BUNDLE_LIMITS): Bundle => {
  const refuse = (what: string): never => {
    throw new KerninstError(EXIT.data, `bundle: ${what}`)
  }
  const overhead = 128 // keys, lengths, format, version
  const total = limits.manifest + limits.payload + MAX.signature + overhead
  const value = decode(bytes, 'bundle', { bytes: total, depth: 1, items: 64 })
  if (typeof value !== 'object' || Array.isArray(value) || value instanceof Uint8Array) return refuse('no map')
  const fields = new Map(Object.entries(value))
  if ([...fields.keys()].join() !== KEYS.join()) return refuse(`does not have the keys ${KEYS.join(', ')}`)
  if (fields.get('format') !== FORMAT) return refuse(`format is not '${FORMAT}'`)
  const version = fields.get('version')
  if (version !== VERSION) {
    return refuse(`version ${typeof version === 'number' ? version : 'unknown'}, this program reads ${VERSION}`)
  }
  const field = (key: (typeof KEYS)[number], limit: number): Uint8Array => {
    const part = fields.get(key)
    if (!(part instanceof Uint8Array)) return refuse(`${key} is not binary`)
    return part.length <= limit ? part : refuse(`${key} has ${part.length} bytes, more than ${limit}`)
  }
  const manifestBytes = field('manifest', limits.manifest)
  const payload = field('payload', limits.payload)
  const signature = field('signature', MAX.signature)
  const decoded = decodePayload(payload)
  if (Buffer.compare(manifestSha256(manifestBytes), decoded.manifestSha256) !== 0) {
    return refuse('the manifest is not the one that the payload was made with: altered?')
  }
  const manifest = decodeManifest(manifestBytes, { ...MSGPACK_LIMITS, bytes: limits.manifest, items: limits.items })
  const found = contradiction(manifest, decoded)
  if (found !== '') return refuse(`the manifest's ${found} and the payload differ`)
  const payloadSha256 = new Uint8Array(createHash('sha256').update(payload).digest())
  return { manifest, payload, decoded, payloadSha256, signature }
}

/**
 * Returns the bundle where it is whole and signed by the certificate's key.
 * @param certDer the certificate, DER
 * @throws KerninstError: 65 where it is no whole bundle, 77 where it is unsigned, altered, or signed by another key
 */
export const verifyBundle = (bytes: Uint8Array, certDer: Uint8Array, limits: BundleLimits = BUNDLE_LIMITS): Bundle => {
  const bundle = readBundle(bytes, limits)
  if (bundle.signature.length === 0) {
    throw new KerninstError(EXIT.refused, 'the bundle is not signed; plan it again with --key and --cert')
  }
  verifyCms(bundle.signature, bundle.payload, parseCertificate(certDer, 'certificate'))
  return bundle
}
