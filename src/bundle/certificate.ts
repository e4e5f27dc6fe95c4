// X.509 certificates. In: an RSA key and a name, or a DER certificate from anywhere. Out: a self-signed certificate, or
// what a signature needs of the given one: issuer, serial number, public key. Invariant: the same key,
// name and times give the same bytes (PKCS #1 v1.5 signatures have no randomness). Left out: chains, trust and dates;
// whoever names a certificate, or builds it into the module, trusts it, and the kernel looks at no dates either.
//
// What the kernel wants of it (crypto/asymmetric_keys/x509_cert_parser.c, x509_public_key.c, 6.1 and 6.12): UTCTime
// through 2049 and GeneralizedTime after; the same signature algorithm inside and out; issuer and serial number, by
// which the signature names its key; where subject and authority key identifiers are both there, self-signed means
// that they are equal.

import { createHash, createPublicKey, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { EXIT, KerninstError, assert } from '../error.js'
import { TAG, children, contents, der, integer, oid, readNode, sequence, whole } from './der.js'

const OID = {
  sha256WithRsa: '1.2.840.113549.1.1.11',
  commonName: '2.5.4.3',
  subjectKeyIdentifier: '2.5.29.14',
  keyUsage: '2.5.29.15',
  basicConstraints: '2.5.29.19',
  authorityKeyIdentifier: '2.5.29.35',
} as const

/** RSA key sizes in bits that kernels verify with: rsa_check_key_length() in crypto/rsa.c takes no other above 2047. */
export const RSA_BITS: readonly number[] = [2048, 3072, 4096]

const MAX_CERTIFICATE = 64 * 1024
/** X.520's upper bound of a common name, in characters. */
const MAX_COMMON_NAME = 64

export interface Certificate {
  readonly issuer: Uint8Array //     the Name, DER
  readonly serial: Uint8Array //     the INTEGER, DER
  readonly publicKey: KeyObject //   RSA, of one of RSA_BITS
  readonly publicDer: Uint8Array //  SubjectPublicKeyInfo
  readonly signatureBytes: number // of a signature by its key
}

const spki = (key: KeyObject): Uint8Array => new Uint8Array(key.export({ type: 'spki', format: 'der' }))

/** @throws KerninstError where the key is no RSA key of a size that kernels verify with */
export const checkRsa = (key: KeyObject, where: string): number => {
  const bits = key.asymmetricKeyDetails?.modulusLength ?? 0
  if (key.asymmetricKeyType !== 'rsa' || !RSA_BITS.includes(bits)) {
    const found = key.asymmetricKeyType === 'rsa' ? `RSA with ${bits} bits` : `of type ${key.asymmetricKeyType}`
    throw new KerninstError(
      EXIT.data,
      `${where}: the key is ${found}; the kernel verifies RSA with 2048, 3072 or 4096 bits, see kerninst keygen`,
    )
  }
  return bits / 8
}

const time = (at: Date): Uint8Array => {
  const digits = at.toISOString().replaceAll(/[-:T]|\.\d+/g, '') // YYYYMMDDHHMMSSZ
  return at.getUTCFullYear() < 2050
    ? der(TAG.utcTime, Buffer.from(digits.slice(2), 'latin1'))
    : der(TAG.generalizedTime, Buffer.from(digits, 'latin1'))
}

/** The subjectKeyIdentifier of RFC 5280, 4.2.1.2 (1): SHA-1 of the public key's bits. */
const keyIdOf = (publicDer: Uint8Array): Uint8Array => {
  const what = 'public key'
  const [, bits] = children(readNode(publicDer, 0, publicDer.length, what), what)
  assert(bits !== undefined && bits.tag === TAG.bitString, 'certificate: SubjectPublicKeyInfo')
  return new Uint8Array(createHash('sha1').update(contents(bits).subarray(1)).digest())
}

/**
 * A certificate of version 3 that the key signs itself: for signing only (CA:FALSE, digitalSignature).
 * @param name the common name; cut to 64 characters
 * @param notAfter with notBefore: the years 1950 to 9999
 */
export const selfSigned = (key: KeyObject, name: string, notBefore: Date, notAfter: Date): Uint8Array => {
  checkRsa(key, 'key')
  const publicDer = spki(createPublicKey(key))
  const keyId = keyIdOf(publicDer)
  const algorithm = sequence(oid(OID.sha256WithRsa), der(TAG.null))
  const commonName = Buffer.from([...name].slice(0, MAX_COMMON_NAME).join(''), 'utf8')
  const subject = sequence(der(TAG.set, sequence(oid(OID.commonName), der(TAG.utf8String, commonName))))
  // From the key, so that no two keys share issuer and serial number; positive, not zero, 20 bytes at most.
  const serial = createHash('sha256').update(publicDer).digest().subarray(0, 20)
  serial[0] = (serial[0]! & 0x3f) | 0x40
  const extension = (id: string, critical: boolean, value: Uint8Array): Uint8Array =>
    critical
      ? sequence(oid(id), der(TAG.boolean, Uint8Array.of(0xff)), der(TAG.octetString, value))
      : sequence(oid(id), der(TAG.octetString, value))
  const body = sequence(
    der(TAG.contextConstructed, integer(Uint8Array.of(2))), // version 3
    integer(serial),
    algorithm,
    subject, // the issuer
    sequence(time(notBefore), time(notAfter)),
    subject,
    publicDer,
    der(
      TAG.contextConstructed | 3,
      sequence(
        extension(OID.basicConstraints, true, sequence()), // CA:FALSE is the default, and DER omits defaults
        extension(OID.keyUsage, true, der(TAG.bitString, Uint8Array.of(7, 0x80))), // digitalSignature
        extension(OID.subjectKeyIdentifier, false, der(TAG.octetString, keyId)),
        extension(OID.authorityKeyIdentifier, false, sequence(der(TAG.context, keyId))),
      ),
    ),
  )
  const signature = sign('sha256', body, key)
  return sequence(body, algorithm, der(TAG.bitString, Uint8Array.of(0), signature))
}

/**
 * Reads a certificate in DER, whoever made it.
 * @param where its file, for messages
 * @throws KerninstError (65) where it is none, or its key is not one that bundles are signed with
 */
export const parseCertificate = (bytes: Uint8Array, where: string): Certificate => {
  const bad = (): never => {
    throw new KerninstError(EXIT.data, `${where}: not an X.509 certificate in DER`)
  }
  if (bytes.length > MAX_CERTIFICATE) bad()
  const outer = readNode(bytes, 0, bytes.length, where)
  if (outer.tag !== TAG.sequence || outer.end !== bytes.length) bad()
  const [body, algorithm, signature, ...rest] = children(outer, where)
  if (body?.tag !== TAG.sequence || algorithm?.tag !== TAG.sequence || signature?.tag !== TAG.bitString) return bad()
  if (rest.length > 0) bad()
  const fields = children(body, where)
  if (fields[0]?.tag === TAG.contextConstructed) fields.shift() // version
  const [serial, , issuer, , subject, publicKeyInfo] = fields
  if (serial?.tag !== TAG.integer || issuer?.tag !== TAG.sequence || subject?.tag !== TAG.sequence) return bad()
  if (publicKeyInfo?.tag !== TAG.sequence) return bad()
  let publicKey: KeyObject
  try {
    publicKey = createPublicKey({ key: Buffer.from(whole(publicKeyInfo)), format: 'der', type: 'spki' })
  } catch {
    return bad()
  }
  return {
    issuer: new Uint8Array(whole(issuer)),
    serial: new Uint8Array(whole(serial)),
    signatureBytes: checkRsa(publicKey, where),
    publicKey,
    publicDer: spki(publicKey),
  }
}
