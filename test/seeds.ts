// What the C fuzz targets start from (test/native/fuzz): payloads, bundles and signatures that the planner wrote, for
// the tables of sample.ts, kernels in miniature, and functions of a real kernel.
// In: a folder. Out: in it, a folder for each target, a file for each seed. `node build/test/seeds.js FOLDER`, then
// `node build/test/fuzz.js` keeps of them what reaches something new (corpora/fuzz/README.md).

import { createPrivateKey, generateKeyPairSync } from 'node:crypto'
import { mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import { parseCertificate, selfSigned } from '../src/bundle/certificate.js'
import { signCms } from '../src/bundle/cms.js'
import { encodePayload } from '../src/bundle/payload.js'
import { ROOT, kernel, must, mustKerninst } from './guest/artefacts.js'
import { sampleManifest, sampleTables, sampleTarget, tacticTables } from './sample.js'

const [folder] = process.argv.slice(2)
if (folder === undefined) throw new Error('usage: seeds.js FOLDER')

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-seeds-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const keep = (target: string, name: string, bytes: Uint8Array): void => {
  mkdirSync(join(folder, target), { recursive: true })
  writeFileSync(join(folder, target, name), bytes)
}

const FROM = new Date('2024-01-01T00:00:00Z')
const UNTIL = new Date('2034-01-01T00:00:00Z')
const newKey = (bits: number) => createPrivateKey(
  generateKeyPairSync('rsa', { modulusLength: bits, privateKeyEncoding: { type: 'pkcs8', format: 'pem' }, publicKeyEncoding: { type: 'spki', format: 'pem' } }).privateKey)

// ---- Signatures ----

const keys = [2048, 3072, 4096].map((bits) => {
  const key = newKey(bits)
  return { key, cert: selfSigned(key, `fuzz ${bits}`, FROM, UNTIL) }
})
for (const [i, { key, cert }] of keys.entries()) {
  keep('cms', `own-${i}`, signCms(Buffer.from('content'), key, parseCertificate(cert, 'certificate')))
}
// Issuers with more to them, and parameters that may be there or not, as openssl writes them.
const content = join(scratch, 'content')
writeFileSync(content, 'content')
for (const subject of ['/C=DE/O=An Organisation/OU=One/CN=a name/emailAddress=me@here', '/CN=ünï+UID=me']) {
  const [pem, cert, cms] = ['key.pem', 'crt.pem', 'cms'].map((name) => join(scratch, name)) as [string, string, string]
  must('openssl', ['req', '-x509', '-utf8', '-newkey', 'rsa:2048', '-nodes', '-keyout', pem, '-out', cert, '-days', '1', '-subj', subject,
    '-multivalue-rdn'])
  must('openssl', ['cms', '-sign', '-binary', '-noattr', '-nocerts', '-md', 'sha256', '-outform', 'DER', '-signer', cert, '-inkey', pem,
    '-in', content, '-out', cms])
  keep('cms', `openssl-${subject.length}`, readFileSync(cms))
}

// ---- Payloads and bundles ----

const [{ key, cert }] = keys as [(typeof keys)[number]]
const manifest = sampleManifest()
for (const [name, tables] of [['sample', sampleTables()], ['tactics', tacticTables()]] as const) {
  keep('payload', name, encodePayload(sampleTarget(), tables, new Uint8Array(32)))
}
keep('bundle', 'sample', writeBundle({ manifest, target: sampleTarget(), tables: sampleTables() }))
keep('bundle', 'signed', writeBundle({ manifest, target: sampleTarget(), tables: sampleTables(), key, cert }))

const planned = (name: string, image: string, programs: readonly string[], isBundle: boolean): void => {
  const bundle = join(scratch, 'bundle')
  mustKerninst('plan', image, '-o', bundle, ...programs.flatMap((program) => ['-e', `${program} { @ = count() }`]))
  const bytes = readFileSync(bundle)
  keep('payload', name, readBundle(bytes).payload)
  if (isBundle) keep('bundle', name, bytes)
}
const miniatures = join(ROOT, 'corpora/miniature')
for (const source of readdirSync(miniatures).filter((name) => name.endsWith('.S'))) {
  const image = join(scratch, 'miniature')
  must(join(miniatures, 'build.sh'), [join(miniatures, source), image])
  const name = source.replace('.S', '')
  planned(name, image, ['block:*', 'entry:*', 'return:*'], true)
}
for (const name of ['6.1-cloud', '6.12-cloud']) {
  const { vmlinux } = kernel(name)
  for (const program of ['entry:vfs_read, return:vfs_read', 'block:vfs_write', 'edge:filp_close', 'block:strncpy']) {
    planned(`${name}-${program.replaceAll(/\W+/g, '-')}`, vmlinux, [program], false)
  }
}
