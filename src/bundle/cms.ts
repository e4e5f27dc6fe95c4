// The detached signature over a payload: CMS SignedData (RFC 5652) with one signer, without attributes, certificates or
// the content, RSA PKCS #1 v1.5 over SHA-256: what `openssl cms -sign -binary -noattr -nocerts -md sha256` writes, and
// what verify_pkcs7_signature() reads (crypto/asymmetric_keys/pkcs7_parser.c, 6.1 and 6.12).
// In: payload, key, certificate. Out: DER; or a verdict. Invariant: a given signature by a given certificate has two
// encodings, and verifying writes them out and compares, so that no bit of the input goes unread.
// Left out: signers named by key identifier (openssl's -keyid), which the injector does not read either.

import { sign, verify } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { EXIT, KerninstError } from '../error.js'
import type { Certificate } from './certificate.js'
import { TAG, children, contents, der, integer, oid, readNode, sequence, whole, type DerNode } from './der.js'

const OID = {
  data: '1.2.840.113549.1.7.1',
  signedData: '1.2.840.113549.1.7.2',
  rsaEncryption: '1.2.840.113549.1.1.1',
  sha256: '2.16.840.1.101.3.4.2.1',
} as const

/**
 * The signature in its frame.
 * @param digestNull the digest algorithm has NULL parameters, as some writers have it; RFC 5754 omits them
 */
const write = (digestNull: boolean, certificate: Certificate, signature: Uint8Array): Uint8Array => {
  const sha256 = digestNull ? sequence(oid(OID.sha256), der(TAG.null)) : sequence(oid(OID.sha256))
  const version = integer(Uint8Array.of(1)) // the signer is named by issuer and serial number
  return sequence(
    oid(OID.signedData),
    der(
      TAG.contextConstructed,
      sequence(
        version,
        der(TAG.set, sha256),
        sequence(oid(OID.data)),
        der(
          TAG.set,
          sequence(
            version,
            sequence(certificate.issuer, certificate.serial),
            sha256,
            sequence(oid(OID.rsaEncryption), der(TAG.null)),
            der(TAG.octetString, signature),
          ),
        ),
      ),
    ),
  )
}

/** Signs the payload: DER, the same bytes for the same inputs. */
export const signCms = (payload: Uint8Array, key: KeyObject, certificate: Certificate): Uint8Array =>
  write(false, certificate, sign('sha256', payload, key))

/**
 * Returns when `cms` is a signature over the payload by the certificate's key.
 * @throws KerninstError (77) saying whether it is by someone else, or something was altered
 */
export const verifyCms = (cms: Uint8Array, payload: Uint8Array, certificate: Certificate): void => {
  const signature = cms.subarray(Math.max(0, cms.length - certificate.signatureBytes)) // it comes last
  const frames = [write(false, certificate, signature), write(true, certificate, signature)]
  if (!frames.some((frame) => Buffer.compare(frame, cms) === 0)) {
    throw new KerninstError(
      EXIT.refused,
      'the signature is not by the key of this certificate, or was altered; give the certificate it was made with',
    )
  }
  if (!verify('sha256', payload, certificate.publicKey, signature)) {
    throw new KerninstError(EXIT.refused, 'the signature does not fit the payload: one of them was altered')
  }
}

/** Attributes of names, as people abbreviate them (RFC 4514). */
const ATTRIBUTES: readonly (readonly [oid: string, short: string])[] = [
  ['2.5.4.3', 'CN'], ['2.5.4.6', 'C'], ['2.5.4.7', 'L'], ['2.5.4.8', 'ST'], ['2.5.4.10', 'O'], ['2.5.4.11', 'OU'],
  ['1.2.840.113549.1.9.1', 'emailAddress'],
]

/** A Name: 'CN=Alice, O=Example'. */
const nameText = (name: DerNode, what: string): string => children(name, what).flatMap((set) => children(set, what)).map((pair) => {
  const [type, value] = children(pair, what)
  if (type === undefined || value === undefined) throw new KerninstError(EXIT.data, `${what}: a name without a value`)
  const short = ATTRIBUTES.find(([id]) => Buffer.compare(whole(type), oid(id)) === 0)?.[1] ?? 'other'
  return `${short}=${Buffer.from(contents(value)).toString('utf8')}`
}).join(', ')

/**
 * In whose name a signature is, as it says itself: that nobody has checked.
 * @returns issuer and serial number of the certificate; undefined where it is none that signCms writes
 */
export const signerOf = (cms: Uint8Array): string | undefined => {
  const what = 'signature'
  const inside = (node: DerNode | undefined): DerNode[] => (node === undefined ? [] : children(node, what))
  try {
    const signedData = inside(inside(readNode(cms, 0, cms.length, what))[1])[0]
    const [, name] = inside(inside(inside(signedData).at(-1))[0])
    const [issuer, serial] = inside(name)
    if (issuer === undefined || serial === undefined) return undefined
    return `${nameText(issuer, what)}, serial number ${Buffer.from(contents(serial)).toString('hex')}`
  } catch (error) {
    if (error instanceof KerninstError) return undefined
    throw error
  }
}
