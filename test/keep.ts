// Remakes corpora/fuzz: what the C fuzz targets start from (test/native/fuzz). Payloads, bundles and signatures that the
// planner writes, for the tables of sample.ts, kernels in miniature, and functions of real kernels; what was kept until
// now; and what a run of `npm run fuzz` left in a folder. Of all of it, for each target, as little as reaches as much.
// In: folders that such runs left, if any: `node build/test/keep.js [FOLDER…]`. Out: an archive for each target.

import { generateKeyPairSync } from 'node:crypto'
import { copyFileSync, existsSync, mkdirSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import { parseCertificate, selfSigned } from '../src/bundle/certificate.js'
import { signCms } from '../src/bundle/cms.js'
import { decodePayload, encodePayload } from '../src/bundle/payload.js'
import { ROOT, kernel, must, mustKerninst } from './guest/artefacts.js'
import { TARGETS, buildTargets, keep, unpackKept, type Target } from './libfuzzer.js'
import { NONE, sampleManifest, sampleTables, sampleTarget, tacticTables } from './sample.js'
import type { PatchTables, TargetIdentity } from '../src/splice/tables.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-keep-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const seedFolder = (target: Target): string => join(scratch, 'seeds', target)
for (const target of TARGETS) mkdirSync(seedFolder(target), { recursive: true })
const seed = (target: Target, name: string, bytes: Uint8Array): void => writeFileSync(join(seedFolder(target), name), bytes)

const FROM = new Date('2024-01-01T00:00:00Z')
const UNTIL = new Date('2034-01-01T00:00:00Z')
// ---- Signatures ----

const keys = [2048, 3072, 4096].map((bits) => {
  const key = generateKeyPairSync('rsa', { modulusLength: bits }).privateKey
  return { key, cert: selfSigned(key, `fuzz ${bits}`, FROM, UNTIL) }
})
for (const [i, { key, cert }] of keys.entries()) {
  seed('cms', `own-${i}`, signCms(Buffer.from('content'), key, parseCertificate(cert, 'certificate')))
}
// Issuers with more to them, and parameters that may be there or not, as openssl writes them.
const content = join(scratch, 'content')
writeFileSync(content, 'content')
const SUBJECTS = [
  '/C=DE/O=An Organisation/OU=One/CN=a name/emailAddress=me@here', '/CN=ünï+UID=me',
  // Of more than 127 and more than 255 bytes: then a length takes a byte more.
  `/O=${'o'.repeat(64)}/CN=${'c'.repeat(64)}`, `/O=${'o'.repeat(64)}/OU=${'u'.repeat(64)}/OU=${'x'.repeat(64)}/CN=${'c'.repeat(64)}`,
]
for (const [i, subject] of SUBJECTS.entries()) {
  const [pem, cert, cms] = ['key.pem', 'crt.pem', 'cms'].map((name) => join(scratch, name)) as [string, string, string]
  must('openssl', ['req', '-x509', '-utf8', '-newkey', 'rsa:2048', '-nodes', '-keyout', pem, '-out', cert, '-days', '1', '-subj', subject,
    '-multivalue-rdn'])
  must('openssl', ['cms', '-sign', '-binary', '-noattr', '-nocerts', '-md', 'sha256', '-outform', 'DER', '-signer', cert, '-inkey', pem,
    '-in', content, '-out', cms])
  seed('cms', `openssl-${i}`, readFileSync(cms))
}

// ---- Payloads and bundles ----

/** All that has a limit is at it, so that the next value is one change away: forms, fixups, places, ways of hops. */
const limitTables = (): PatchTables => {
  const rows = [
    [0x000000, 2, 2, 3, 0, 0, 0, NONE, 0], //    0: hop, to 2, as far forward as there is
    [0x000002, 0, 15, 0, 0, 1, 11, NONE, 0], //  1: an instruction of 15 bytes, adjusted at its end
    [0x000081, 99, 5, 0, 2, 2, 1, NONE, 0], //   2: springboard, to the last byte of the code
    [0x0000ff, 2, 15, 3, 0, 0, 0, NONE, 0], //   3: hop, to 2, as far back as there is
    [0x000200, 0, 16, 0, 1, 2, 12, 99, 0], //    4: window
    [0x000205, 6, 2, 3, 2, 0, 0, NONE, 0], //    5: link, as near to its start as may be
    [0x00020b, 0, 5, 0, 2, 1, 0, NONE, 0], //    6: springboard, up to its end
    [0x000300, 0, 5, 0, 0, 0, 0, 95, 7], //      7: of a class of forms, its tail the last bytes of the code
    [0xfffff1, 0, 15, 0, 0, 0, 0, NONE, 0], //   8: up to the end of the text
  ]
  const column = (i: number): number[] => rows.map((row) => row[i]!)
  return {
    ...sampleTables(),
    siteCount: rows.length,
    siteRva: Uint32Array.from(column(0)), sitePatch: Uint32Array.from(column(1)), siteLength: Uint8Array.from(column(2)),
    siteKind: Uint8Array.from(column(3)), siteFlags: Uint8Array.from(column(4)), siteRelocKind: Uint8Array.from(column(5)),
    siteRelocOffset: Uint8Array.from(column(6)), siteTail: Uint32Array.from(column(7)), siteFormClass: Uint8Array.from(column(8)),
    siteExpected: Uint8Array.from(rows.flatMap((row) => Array.from({ length: 16 }, (_, i) => (i < row[2]! ? 0x90 + i : 0)))),
    fixupCount: 4,
    fixupOffset: Uint32Array.of(0, 64, 72, 86),
    fixupValue: Uint32Array.of(0x80000000, 3, 0, 0x1ffffff),
    fixupKind: Uint8Array.of(2, 3, 1, 0),
    fixupTrail: Uint8Array.of(10, 0, 0, 10),
  }
}
const limitTarget: TargetIdentity = {
  ...sampleTarget(), buildIdRva: 0x2000000 - 20, anchors: [0x1ffffff, 0, 0x1ffffff], kprobes: [0x1fffff8, 0],
}

const [{ key, cert }] = keys as [(typeof keys)[number]]
const manifest = sampleManifest()
for (const [name, tables] of [['sample', sampleTables()], ['tactics', tacticTables()]] as const) {
  seed('payload', name, encodePayload(sampleTarget(), tables, new Uint8Array(32)))
}
const limits = encodePayload(limitTarget, limitTables(), new Uint8Array(32))
decodePayload(limits) // throws where one is past it
seed('payload', 'limits', limits)
seed('bundle', 'sample', writeBundle({ manifest, target: sampleTarget(), tables: sampleTables() }))
seed('bundle', 'signed', writeBundle({ manifest, target: sampleTarget(), tables: sampleTables(), key, cert }))

const planned = (name: string, image: string, programs: readonly string[], isBundle: boolean): void => {
  const bundle = join(scratch, 'bundle')
  mustKerninst('plan', image, '-o', bundle, ...programs.flatMap((program) => ['-e', `${program} { @ = count() }`]))
  const bytes = readFileSync(bundle)
  seed('payload', name, readBundle(bytes).payload)
  if (isBundle) seed('bundle', name, bytes)
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

// ---- As little as reaches as much ----

// These are right, and so near to what is wrong that they are kept whether or not they reach anything else.
copyFileSync(join(seedFolder('payload'), 'limits'), join(ROOT, 'corpora/fuzz/payload-limits'))
copyFileSync(join(seedFolder('cms'), 'openssl-2'), join(ROOT, 'corpora/fuzz/cms-lengths'))

const programs = buildTargets(join(scratch, 'build'))
for (const target of TARGETS) {
  const kept = unpackKept(target, join(scratch, 'kept'))
  const from = [seedFolder(target), kept, ...process.argv.slice(2).map((folder) => join(folder, target)).filter((each) => existsSync(each))]
  const { files, bytes } = keep(target, programs, from, scratch)
  process.stdout.write(`${target}: ${files} inputs, ${bytes} bytes in the archive\n`)
}
