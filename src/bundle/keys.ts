// Signing keys and certificates as files. In: paths. Out: NAME.key (PKCS #8 PEM, for its owner only) and NAME.crt
// (X.509, DER), or the key and certificate read from such files. Invariant: keygen never overwrites, and never leaves
// half a file under a final name. Left out: encrypted keys, tokens, and who may trust what.

import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { rmSync } from 'node:fs'
import { basename } from 'node:path'
import { EXIT, KerninstError } from '../error.js'
import { mustNotExist, readLimited, writeNew } from '../file.js'
import { checkRsa, parseCertificate, selfSigned } from './certificate.js'
import type { Certificate } from './certificate.js'

const MAX_KEY_FILE = 64 * 1024
/** Kernels and modules outlive calendars, and nothing on the target looks at the dates: 100 years. */
const VALID_YEARS = 100

/**
 * Makes a new RSA-3072 key: `NAME.key` (mode 0600) and its self-signed certificate `NAME.crt`.
 * @throws KerninstError (73) where either exists or cannot be written; then neither is new
 */
export const keygen = (name: string): { key: string; certificate: string } => {
  const paths = { key: `${name}.key`, certificate: `${name}.crt` }
  for (const path of [paths.key, paths.certificate]) mustNotExist(path)
  const { privateKey } = generateKeyPairSync('rsa', { modulusLength: 3072 })
  const from = new Date()
  const until = new Date(from)
  until.setUTCFullYear(from.getUTCFullYear() + VALID_YEARS)
  const certificate = selfSigned(privateKey, `kerninst ${basename(name)}`, from, until)
  const pem = privateKey.export({ type: 'pkcs8', format: 'pem' })
  writeNew(paths.key, Buffer.from(pem), 0o600)
  try {
    writeNew(paths.certificate, certificate, 0o644)
  } catch (error) {
    rmSync(paths.key, { force: true })
    throw error
  }
  return paths
}

/**
 * The private key in a PEM.
 * @param where its file, for messages
 * @throws KerninstError: 77 where it is encrypted, 65 where it is no RSA key that kernels verify with
 */
export const parseKey = (pem: Uint8Array, where: string): KeyObject => {
  const text = Buffer.from(pem).toString('latin1')
  if (/BEGIN ENCRYPTED PRIVATE KEY|^Proc-Type: 4,ENCRYPTED/m.test(text)) {
    throw new KerninstError(EXIT.refused, `${where}: the key is encrypted; decrypt it with openssl pkey -in ${where}`)
  }
  let key: KeyObject
  try {
    key = createPrivateKey({ key: text, format: 'pem' })
  } catch {
    throw new KerninstError(EXIT.data, `${where}: no private key in PEM`)
  }
  checkRsa(key, where)
  return key
}

export const readKey = (path: string): KeyObject => parseKey(readLimited(path, MAX_KEY_FILE), path)

/** Reads a certificate file, DER or PEM, as DER. */
export const readCertificateDer = (path: string): Uint8Array => {
  const bytes = readLimited(path, MAX_KEY_FILE)
  if (!bytes.subarray(0, 256).includes('-----BEGIN ')) return new Uint8Array(bytes)
  try {
    return new Uint8Array(new X509Certificate(bytes).raw)
  } catch {
    throw new KerninstError(EXIT.data, `${path}: no X.509 certificate in it`)
  }
}

export const readCertificate = (path: string): Certificate => parseCertificate(readCertificateDer(path), path)

/** @throws KerninstError (77) where the certificate is not of this key */
export const checkPair = (key: KeyObject, certificate: Certificate): void => {
  const own = createPublicKey(key).export({ type: 'spki', format: 'der' })
  if (Buffer.compare(own, certificate.publicDer) !== 0) {
    throw new KerninstError(EXIT.refused, 'the certificate is of another key than the private key given')
  }
}
