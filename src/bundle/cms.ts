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
import { TAG, der, integer, oid, sequence } from './der.js'

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
