// bundle/: the contract's numbers against the C compiler, MessagePack, payloads against the module's own parser,
// certificates and signatures against openssl, and every bit of a bundle. One long file, since every test file costs a
// second to start; the sections do not depend on each other.

import { X509Certificate, createPublicKey, generateKeyPairSync, sign } from 'node:crypto'
import type { KeyObject } from 'node:crypto'
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { isDeepStrictEqual } from 'node:util'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { readBundle, verifyBundle, writeBundle } from '../src/bundle/bundle.js'
import { parseCertificate, selfSigned } from '../src/bundle/certificate.js'
import { signCms, verifyCms } from '../src/bundle/cms.js'
import { integer, oid, readNode } from '../src/bundle/der.js'
import { checkPair, keygen, parseKey, readCertificateDer, readKey } from '../src/bundle/keys.js'
import * as layout from '../src/bundle/layout.js'
import { pack as packColumn, writeNumbers } from '../src/bundle/columns.js'
import { decodeManifest, encodeManifest, manifestSha256 } from '../src/bundle/manifest.js'
import { PIECE_SLOTS } from '../src/probe/aggregates.js'
import { pointText, refusalText, summarize, type Manifest } from '../src/splice/manifest.js'
import { decode, encode } from '../src/bundle/msgpack.js'
import type { Packable } from '../src/bundle/msgpack.js'
import { decodePayload, encodePayload } from '../src/bundle/payload.js'
import { EXIT, KerninstError } from '../src/error.js'
import { NONE as OWN_NONE } from '../src/image/rva.js'
import { FIXUP_KIND, FORM_KIND, FRAME, MAX_FRAME_WORDS, RELOC_KIND, SITE_FLAG, SITE_KIND } from '../src/splice/tables.js'
import type { PatchTables } from '../src/splice/tables.js'
import { HEADER, compileJudge, newScratch, run, runC } from './judge.js'
import { NONE, sampleManifest, sampleTables, sampleTarget, tacticTables } from './sample.js'

const scratch = newScratch()
t.teardown(() => rmSync(scratch, { recursive: true }))
const judge = compileJudge(scratch)

/** The error that fn ends in, which must be one of ours, one line long. */
const refusal = (fn: () => unknown): KerninstError => {
  try {
    fn()
  } catch (error) {
    if (!(error instanceof KerninstError)) throw error
    if (/\n/.test(error.message)) throw new Error(`more than a line: ${error.message}`)
    return error
  }
  throw new Error('nothing was refused')
}
const throwsWith = (test: Test, exit: number, message: RegExp, fn: () => unknown, name?: string): void => {
  const error = refusal(fn)
  test.equal(error.exit, exit, name ?? `${message} gives exit code ${exit}`)
  test.match(error.message, message, name ?? `${message}`)
}

const SEED = Number(process.env['KERNINST_SEED'] ?? Date.now() % 2 ** 31)
t.comment(`KERNINST_SEED=${SEED}`)
const random = ((): ((below: number) => number) => {
  let state = SEED
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0
    return Math.floor((state / 2 ** 32) * below)
  }
})()

// ---------------------------------------------------------------- layout

const camel = (snake: string): string => snake.replace(/_([a-z0-9])/g, (_, c: string) => c.toUpperCase())

t.test('layout.ts and the header name the same fields, offsets, sizes and constants', async (t) => {
  const header = readFileSync(HEADER, 'utf8').replace(/\/\*[\s\S]*?\*\//g, '')
  const structs = new Map<string, string[]>()
  for (const [, name, body] of header.matchAll(/struct kerninst_(\w+) \{([\s\S]*?)\n\};/g)) {
    structs.set(name!, [...body!.matchAll(/__u\d+\s+(\w+)/g)].map((match) => match[1]!))
  }
  const constants = [...header.matchAll(/#define KERNINST_(\w+)\s+\S/g)].map((match) => match[1]!)
  t.ok(structs.size >= 8 && constants.length >= 40, 'the header was understood')

  const lines = ['#include <stdio.h>', '#include <stddef.h>', `#include "uapi/kerninst.h"`, 'int main(void) {']
  for (const [struct, fields] of structs) {
    lines.push(`printf("size.${struct} %zu\\n", sizeof(struct kerninst_${struct}));`)
    for (const field of fields) {
      const at = `struct kerninst_${struct}, ${field}`
      lines.push(`printf("${struct}.${camel(field)} %zu\\n", offsetof(${at}));`)
      const size = `sizeof(((struct kerninst_${struct} *)0)->${field})`
      lines.push(`printf("bytes.${struct}.${camel(field)} %zu\\n", ${size});`)
    }
  }
  for (const name of constants.filter((each) => !/^(IOC_|DEVICE$|UAPI_H$)/.test(each))) {
    const format = name.endsWith('_MAGIC') ? '%s' : '%u'
    lines.push(`printf("${name} ${format}\\n", KERNINST_${name});`)
  }
  lines.push('return 0; }')
  const fromC = new Map(
    runC(scratch, lines.join('\n'))
      .trim()
      .split('\n')
      .map((line) => [line.slice(0, line.indexOf(' ')), line.slice(line.indexOf(' ') + 1)] as const),
  )
  const bytes = new Map([...fromC].filter(([name]) => name.startsWith('bytes.')))
  for (const name of bytes.keys()) fromC.delete(name)

  const ours = new Map<string, string>()
  const add = (prefix: string, table: { readonly [name: string]: number }, rename = (name: string) => name): void => {
    for (const [name, value] of Object.entries(table)) ours.set(prefix + rename(name), String(value))
  }
  const upper = (name: string): string => name.replace(/[A-Z]/g, (c) => `_${c}`).toUpperCase()
  add('size.', layout.SIZE)
  add('payload.', layout.PAYLOAD)
  add('site.', layout.SITE)
  add('form.', layout.FORM)
  add('fixup.', layout.FIXUP)
  add('heap.', layout.HEAP)
  add('directory.', layout.DIRECTORY)
  add('dump.', layout.DUMP)
  add('request.', layout.REQUEST)
  add('misfit.', layout.MISFIT)
  add('status.', layout.STATUS)
  add('MAX_', layout.MAX, upper)
  add('HEAP_', layout.HEAP_STATE, upper)
  add('', layout.MODULE_STATE, upper)
  add('', SITE_KIND, upper)
  add('', SITE_FLAG, upper)
  add('RELOC_', RELOC_KIND, upper)
  add('FORM_', FORM_KIND, upper)
  add('FIX_', FIXUP_KIND, upper)
  add('FRAME_', FRAME, upper)
  add('', layout.REASON, (name) => (name === 'ok' ? 'OK' : `E_${upper(name)}`))
  add('', layout.REQUEST_FLAG, upper)
  add('TRUST_', layout.TRUST, upper)
  add('', { VERSION: layout.VERSION, NONE: OWN_NONE, DIRECTORY_PFNS: layout.LENGTH.directoryPfns, PIECE_SLOTS, MAX_FRAME_WORDS })
  ours.set('PAYLOAD_MAGIC', layout.PAYLOAD_MAGIC)
  ours.set('HEAP_MAGIC', layout.HEAP_MAGIC)
  ours.set('DUMP_MAGIC', layout.DUMP_MAGIC)
  const sorted = (map: Map<string, string>): object => Object.fromEntries([...map].sort())
  t.same(sorted(ours), sorted(fromC), 'nothing differs, nothing is missing')

  const { LENGTH } = layout
  for (const [field, length] of [
    ['payload.magic', LENGTH.magic],
    ['payload.buildId', LENGTH.buildId],
    ['payload.anchorRva', 4 * LENGTH.anchors],
    ['payload.kprobeRva', 4 * LENGTH.kprobes],
    ['payload.manifestSha256', LENGTH.sha256],
    ['site.expected', LENGTH.expected],
    ['form.bytes', LENGTH.formBytes],
    ['heap.buildId', LENGTH.buildId],
    ['heap.payloadSha256', LENGTH.sha256],
    ['dump.host', LENGTH.host],
    ['dump.release', LENGTH.host],
    ['request.live', LENGTH.live],
  ] as const) {
    t.equal(bytes.get(`bytes.${field}`), String(length), `length of ${field}`)
  }
})

// --------------------------------------------------------------- msgpack

const bytesOf = (hex: string): Uint8Array => new Uint8Array(Buffer.from(hex, 'hex'))
const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex')

t.test('msgpack: values and their one encoding', async (t) => {
  for (const [hex, value] of [
    ['00', 0],
    ['7f', 127],
    ['cc80', 128],
    ['cd0100', 256],
    ['ce00010000', 65536],
    ['ceffffffff', 0xffffffff],
    ['ff', -1],
    ['e0', -32],
    ['d0df', -33],
    ['d1ff7f', -129],
    ['d280000000', -(2 ** 31)],
    ['d30000000000000005', 5n],
    ['d3fffffffffffffffb', -5n],
    ['cfffffffffffffffff', 2n ** 64n - 1n],
    ['c2', false],
    ['c3', true],
    ['a0', ''],
    ['a2c3a9', 'é'],
    ['d920' + '78'.repeat(32), 'x'.repeat(32)],
    ['c40100', Uint8Array.of(0)],
    ['90', []],
    ['920180', [1, {}]],
    ['82a16202a16101', { b: 2, a: 1 }],
  ] as const) {
    t.equal(hexOf(encode(value)), hex, `writes ${hex.slice(0, 24)}`)
    t.same(decode(bytesOf(hex), 'test'), value, `reads ${hex.slice(0, 24)}`)
  }
  const sixteen = Object.fromEntries(Array.from({ length: 16 }, (_, i) => [`k${i}`, i]))
  t.equal(hexOf(encode(sixteen)).slice(0, 6), 'de0010', 'a map with a length of its own')
  for (const length of [10_000, 63, 64, 100, 1000, 10_000, 100]) {
    const text = 'é€😀'.repeat(length)
    t.same(decode(encode({ text }), 'test'), { text }, `text of ${length}, after other sizes`)
  }
  for (const value of [1.5, NaN, 2 ** 32, -(2 ** 31) - 1, 2n ** 64n, { 12: 1 }, undefined, null]) {
    t.throws(() => encode(value as unknown as Packable), { message: /^internal: / }, `does not write ${String(value)}`)
  }
  throwsWith(t, EXIT.data, /surrogate/, () => encode('\ud800'))
})

t.test('msgpack: input that is not canonical, or hostile', async (t) => {
  for (const [hex, why] of [
    ['', 'nothing'],
    ['c0', 'nil'],
    ['c1', 'the unused type'],
    ['ca00000000', 'a float'],
    ['cb0000000000000000', 'a double'],
    ['d40000', 'an extension'],
    ['c70100ff', 'an extension'],
    ['d4724091a161', 'a record'],
    ['cc7f', 'an integer that is too long'],
    ['cd00ff', 'an integer that is too long'],
    ['cf0000000000000005', 'a bigint that is positive, yet unsigned'],
    ['d90161', 'a string length that is too long'],
    ['dc000101', 'an array length that is too long'],
    ['de0001a16101', 'a map length that is too long'],
    ['c500010a', 'a length of bytes that is too long'],
    ['a1ff', 'no UTF-8'],
    ['a3eda080', 'half a surrogate pair'],
    ['82a16101a16102', 'a key twice'],
    ['810102', 'a key that is a number'],
    ['81a95f5f70726f746f5f5f01', '__proto__'],
    ['82a161018101', 'a map that ends early'],
    ['82a13201a13101', 'keys that JavaScript reorders'],
    ['0000', 'bytes after the end'],
    ['c6ffffffff', '4 GB of bytes'],
    ['ddffffffff', 'an array of 4 G items'],
    ['dfffffffff', 'a map of 4 G items'],
    ['dbffffffff', 'a string of 4 GB'],
    ['c9ffffffff00', 'an extension of 4 GB'],
    ['91'.repeat(100_000), 'depth'],
    ['dd0001ffff' + '91'.repeat(0x1ffff) + '00', 'depth again'],
  ] as const) {
    const before = process.memoryUsage().rss
    t.equal(refusal(() => decode(bytesOf(hex), 'test')).exit, EXIT.data, why)
    t.ok(process.memoryUsage().rss - before < 2 ** 27, `${why}: takes no memory`)
    t.same(decode(bytesOf('82a16101a16202'), 'test'), { a: 1, b: 2 }, `the decoder works after ${why}`)
  }
  const limits = { bytes: 100, depth: 2, items: 5 }
  t.same(decode(bytesOf('929001'), 'test', limits), [[], 1])
  throwsWith(t, EXIT.data, /limit of 100/, () => decode(encode('x'.repeat(99)), 'test', limits))
  throwsWith(t, EXIT.data, /more than 2 deep/, () => decode(encode([[[]]]), 'test', limits))
  throwsWith(t, EXIT.data, /more than 5 values/, () => decode(encode([1, 2, 3, 4, 5]), 'test', limits))
  const pooled = decode(encode([Uint8Array.of(1, 2, 3)]), 'test') as Uint8Array[]
  t.equal(pooled[0]!.buffer.byteLength, 3, 'bytes are a copy')
  t.equal(encode({ a: 1 }).buffer.byteLength, 4, 'the encoding too')
})

t.test('msgpack: what decodes is what was encoded, whatever the bytes', async (t) => {
  const { packable } = fc.letrec<{ packable: Packable }>((tie) => ({
    packable: fc.oneof(
      { maxDepth: 4 },
      fc.boolean(),
      fc.integer({ min: -(2 ** 31), max: 2 ** 32 - 1 }),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 64n - 1n }),
      fc.string({ unit: 'binary' }).filter((text) => !/\p{Surrogate}/u.test(text)),
      fc.uint8Array(),
      fc.array(tie('packable')),
      fc.dictionary(
        fc.string({ unit: 'grapheme' }).filter((key) => !/^[0-9]+$|^__proto__$/.test(key)),
        tie('packable'),
        { noNullPrototype: true },
      ),
    ),
  }))
  fc.assert(
    fc.property(packable, (value) => Buffer.compare(encode(decode(encode(value), 'test')), encode(value)) === 0),
    { seed: SEED, numRuns: 500 },
  )
  const seeds = [encodeManifest(sampleManifest()), encode({ a: [1n, 'x', Uint8Array.of(1)], b: -5 })]
  let taken = 0
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from(seeds[round % 2]!)
    for (let i = random(3); i >= 0; i--) bytes[random(bytes.length)] = random(256)
    const cut = bytes.subarray(0, random(8) === 0 ? random(bytes.length) : bytes.length)
    try {
      const value = decode(cut, 'test')
      if (Buffer.compare(encode(value), cut) !== 0) t.fail('took another encoding')
      taken++
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
    }
  }
  t.ok(taken > 100 && taken < 19_000, `some mutants decode (${taken}), the others are refused`)
})

// --------------------------------------------------------------- payload

const digest = Uint8Array.from({ length: 32 }, (_, i) => i)
const samplePayload = (): Uint8Array => encodePayload(sampleTarget(), sampleTables(), digest)

t.test('payload: round trip, and what C structs see in it', async (t) => {
  for (const make of [sampleTables, tacticTables]) seenByC(t, make)
})

const seenByC = (t: Test, make: () => PatchTables): void => {
  const payload = encodePayload(sampleTarget(), make(), digest)
  t.same(decodePayload(payload), { target: sampleTarget(), tables: make(), manifestSha256: digest })
  t.equal(hexOf(encodePayload(sampleTarget(), make(), digest)), hexOf(payload), 'the same inputs give the same bytes')
  const target = sampleTarget()
  const tables = make()
  const expected: string[] = [
    `magic ${hexOf(Buffer.from('KINSTPLD'))}`,
    `version ${layout.VERSION}`,
    'headerBytes 160',
    `payloadBytes ${payload.length}`,
    `linkBase ${target.base}`,
    `imageBytes ${target.imageBytes}`,
    `textStart ${target.textStart}`,
    `textEnd ${target.textEnd}`,
    `buildIdRva ${target.buildIdRva}`,
    `buildId ${hexOf(target.buildId)}`,
    ...target.anchors.map((anchor) => `anchor ${anchor}`),
    ...target.kprobes.map((rva) => `kprobe ${rva}`),
    `manifestSha256 ${hexOf(digest)}`,
    `slotCount ${tables.slotCount}`,
    `frameWords ${tables.frameWords}`,
  ]
  for (let i = 0; i < tables.siteCount; i++) {
    const { siteRva, sitePatch, siteLength, siteKind, siteFormClass, siteRelocKind, siteTail, siteRelocOffset } = tables
    const columns = [siteRva, sitePatch, siteLength, siteKind, siteFormClass, siteRelocKind, siteTail, siteRelocOffset,
      tables.siteFlags]
    expected.push(`site ${columns.map((column) => column[i]).join(' ')}`)
    expected.push(`expected ${hexOf(tables.siteExpected.subarray(16 * i, 16 * i + 16))}`)
  }
  for (let i = 0; i < tables.formCount; i++) {
    expected.push(`form ${tables.formClass[i]} ${tables.formKind[i]} ${tables.formTarget[i]}`)
    expected.push(`bytes ${hexOf(tables.formBytes.subarray(6 * i, 6 * i + 6))}`)
  }
  for (let i = 0; i < tables.fixupCount; i++) {
    const { fixupOffset, fixupValue, fixupKind, fixupTrail } = tables
    expected.push(`fixup ${fixupOffset[i]} ${fixupValue[i]} ${fixupKind[i]} ${fixupTrail[i]}`)
  }
  expected.push(`code ${hexOf(tables.code)}`)
  t.same(run(judge, ['fields'], payload).toString().trim().split('\n'), expected)
}

type Numbers = { [K in keyof PatchTables as PatchTables[K] extends Uint8Array | Uint32Array ? K : never]: number }

/** offset, bytes of the field, value, the message */
type Case = readonly [number, 1 | 4 | 8, number | bigint, RegExp]

const refusedByAll = (t: Test, payload: Uint8Array, cases: readonly Case[]): void => {
  const mutants: Uint8Array[] = []
  for (const [offset, width, value, message] of cases) {
    const bytes = Uint8Array.from(payload)
    const view = new DataView(bytes.buffer)
    if (typeof value === 'bigint') view.setBigUint64(offset, value, true)
    else if (width === 4) view.setUint32(offset, value, true)
    else bytes[offset] = value
    mutants.push(bytes)
    throwsWith(t, EXIT.data, message, () => decodePayload(bytes), `byte ${offset} set to ${value}: ${message}`)
  }
  mutants.push(payload.subarray(0, 159), payload.subarray(0, payload.length - 1), new Uint8Array([...payload, 0]))
  for (const bytes of mutants.slice(-3)) t.equal(refusal(() => decodePayload(bytes)).exit, EXIT.data)
  const verdicts = judgeAll(mutants)
  t.same(verdicts.filter((reason) => reason === layout.REASON.ok), [], 'the module refuses all of them too')
}

t.test('payload: every rule of windows, springboards and hops', async (t) => {
  const payload = encodePayload(sampleTarget(), tacticTables(), digest)
  const site = (i: number, field: keyof typeof layout.SITE): number => 160 + i * layout.SIZE.site + layout.SITE[field]
  refusedByAll(t, payload, [
    [site(0, 'flags'), 1, 1, /length|flags on a kind/],
    [site(0, 'flags'), 1, 2, /length/],
    [site(2, 'flags'), 1, 3, /unknown flags/],
    [site(2, 'flags'), 1, 0, /a length of 16/],
    [site(2, 'flags'), 1, 2, /a length of 16/],
    [site(0, 'length'), 1, 1, /a length of 1/],
    [site(7, 'length'), 1, 16, /a length of 16/],
    [site(2, 'length'), 1, 17, /a length of 17/],
    [site(1, 'length'), 1, 6, /a length of 6/],
    [site(3, 'length'), 1, 3, /a length of 3/],
    [site(0, 'patch'), 4, 0, /hops to no springboard/],
    [site(0, 'patch'), 4, 2, /hops to no springboard/],
    [site(0, 'patch'), 4, 9, /hops to no springboard/],
    [site(0, 'patch'), 4, NONE, /hops to no springboard/],
    [site(3, 'patch'), 4, 3, /hops too often/],
    [site(1, 'flags'), 1, 0, /hops to no springboard/],
    [site(0, 'rva'), 4, 0x1010 - 2 - 128, /hops too far/],
    [site(7, 'rva'), 4, 0x1045 - 2 + 129, /hops too far/],
    [site(1, 'patch'), 4, 100, /its patch/],
    [site(4, 'patch'), 4, 100, /its patch/],
    [site(3, 'kind'), 1, 1, /flags on a kind|length/],
    [site(4, 'kind'), 1, 1, /flags on a kind/],
    [site(2, 'kind'), 1, 2, /flags on a kind/],
    [site(2, 'kind'), 1, 3, /flags on a kind|hops/],
    [site(0, 'relocOffset'), 1, 1, /reloc_offset/],
    [site(7, 'relocOffset'), 1, 0, /adjusted field/],
    [site(7, 'relocOffset'), 1, 12, /adjusted field/],
    [site(2, 'relocOffset'), 1, 13, /adjusted field/],
    [site(4, 'relocOffset'), 1, 2, /adjusted field/],
    [site(2, 'tail'), 4, NONE, /bypass/],
    [site(2, 'tail'), 4, 100, /bypass/],
    [site(0, 'tail'), 4, 0, /a tail without/],
    [site(4, 'tail'), 4, 0, /a tail without/],
    [site(3, 'rva'), 4, 0x1044, /site 3: overlaps/],
    [site(4, 'rva'), 4, 0x1046, /site 4: overlaps/],
    [site(4, 'rva'), 4, 0x104c, /site 4: overlaps/],
    [site(8, 'rva'), 4, 0x1042, /site 8: overlaps/],
    [site(1, 'rva'), 4, 0x1002, /site 1: overlaps/],
    [site(6, 'rva'), 4, 0x1064, /site 6: overlaps/],
    [site(5, 'rva'), 4, 0x104e, /site 5: overlaps/],
  ])
  for (const [offset, width, value] of [
    [site(0, 'rva'), 4, 0x1010 - 2 - 127], [site(7, 'rva'), 4, 0x1045 - 2 + 128], [site(4, 'rva'), 4, 0x104b],
    [site(4, 'rva'), 4, 0x1047], [site(2, 'length'), 1, 17 - 1], [site(0, 'length'), 1, 3],
  ] as const) {
    const bytes = Uint8Array.from(payload)
    if (width === 4) new DataView(bytes.buffer).setUint32(offset, value, true)
    else bytes[offset] = value
    decodePayload(bytes)
    t.same(judgeAll([bytes]), [layout.REASON.ok], `byte ${offset} set to ${value} is at the limit`)
  }
})

t.test('payload: every rule', async (t) => {
  const payload = samplePayload()
  const { SITE, FORM, FIXUP, PAYLOAD, SIZE } = layout
  const place = { site: 160, form: 160 + 4 * 40, fixup: 160 + 4 * 40 + 2 * 16, code: 160 + 160 + 32 + 80 }
  const site = (i: number, field: keyof typeof SITE): number => place.site + i * SIZE.site + SITE[field]
  const form = (i: number, field: keyof typeof FORM): number => place.form + i * SIZE.form + FORM[field]
  const fixup = (i: number, field: keyof typeof FIXUP): number => place.fixup + i * SIZE.fixup + FIXUP[field]
  const cases: readonly Case[] = [
    [PAYLOAD.magic, 1, 0x4c, /magic/],
    [PAYLOAD.version, 4, 1, /version 1/],
    [PAYLOAD.headerBytes, 4, 168, /header_bytes/],
    [PAYLOAD.payloadBytes, 8, 1n, /payload_bytes/],
    [PAYLOAD.linkBase, 8, 0xffffffff81000800n, /link_base/],
    [PAYLOAD.linkBase, 8, 0x81000000n, /link_base/],
    [PAYLOAD.linkBase, 8, 0xfffffffffffff000n, /address space/],
    [PAYLOAD.imageBytes, 4, 0, /address space/],
    [PAYLOAD.textStart, 4, 0x1000000, /text/],
    [PAYLOAD.textEnd, 4, 0x2000001, /text/],
    [PAYLOAD.buildIdRva, 4, 0x2000000 - 19, /build_id_rva/],
    [PAYLOAD.buildIdRva, 4, 0xffffffff, /build_id_rva/],
    [PAYLOAD.anchorRva + 8, 4, 0x2000000, /anchor/],
    [PAYLOAD.kprobeRva, 4, 0x2000000, /kprobe_rva lies outside/],
    [PAYLOAD.kprobeRva + 4, 4, 0xffffffff, /kprobe_rva/],
    [PAYLOAD.kprobeRva + 4, 4, 0x1a00084, /aligned/],
    [PAYLOAD.siteOffset, 4, 168, /site_offset/],
    [PAYLOAD.siteCount, 4, 0, /nothing to apply/],
    [PAYLOAD.siteCount, 4, 2 ** 20 + 1, /sites, more than/],
    [PAYLOAD.formOffset, 4, place.form + 8, /form_offset/],
    [PAYLOAD.formCount, 4, 257, /forms, more than/],
    [PAYLOAD.fixupOffset, 4, place.fixup - 8, /fixup_offset/],
    [PAYLOAD.fixupCount, 4, 2 ** 23 + 1, /fixups, more than/],
    [PAYLOAD.codeOffset, 4, place.code + 16, /code_offset/],
    [PAYLOAD.codeBytes, 4, 101, /its tables take/],
    [PAYLOAD.codeBytes, 4, 0, /nothing to apply/],
    [PAYLOAD.codeBytes, 4, 2 ** 26 + 1, /bytes of code, more than/],
    [PAYLOAD.slotCount, 4, 0, /nothing to apply/],
    [PAYLOAD.slotCount, 4, 1, /no slot 1/],
    [PAYLOAD.slotCount, 4, 2 ** 20 + 1, /slots, more than/],
    [PAYLOAD.frameWords, 4, 2, /2 frame words/],
    [PAYLOAD.frameWords, 4, 2 ** 23 + 1, /frame words, more than/],
    [site(0, 'rva'), 4, 0x1001, /site 1: overlaps/],
    [site(0, 'rva'), 4, 0xfffffffe, /site 0: lies outside the text/],
    [site(3, 'rva'), 4, 0x1000000 - 4, /site 3: lies outside the text/],
    [site(1, 'patch'), 4, 100, /its patch/],
    [site(0, 'length'), 1, 4, /length/],
    [site(0, 'length'), 1, 16, /length/],
    [site(0, 'length'), 1, 7, /bytes after its expected|adjusted/],
    [site(0, 'kind'), 1, 4, /unknown kind/],
    [site(0, 'kind'), 1, 3, /hops to no springboard/],
    [site(0, 'kind'), 1, 1, /adjusted field/],
    [site(1, 'kind'), 1, 2, /no direct conditional jump/],
    [site(2, 'kind'), 1, 1, /no direct call/],
    [site(3, 'kind'), 1, 1, /form class on another/],
    [site(3, 'formClass'), 1, 8, /no form of its class/],
    [site(1, 'formClass'), 1, 7, /form class on another/],
    [site(3, 'formClass'), 1, 0, /a tail without/],
    [site(0, 'relocKind'), 1, 3, /reloc_kind/],
    [site(0, 'relocKind'), 1, 0, /reloc_offset/],
    [site(1, 'relocKind'), 1, 1, /adjusted field/],
    [site(0, 'relocOffset'), 1, 5, /adjusted field/],
    [site(0, 'relocOffset'), 1, 0, /adjusted field/],
    [site(0, 'tail'), 4, 50, /a tail without/],
    [site(3, 'tail'), 4, NONE, /its tail/],
    [site(3, 'tail'), 4, 96, /its tail/],
    [site(3, 'tail'), 4, 93, /overlaps the tail/],
    [site(3, 'tail'), 4, 20, /overlaps the tail/],
    [site(1, 'expected'), 1, 0xe9, /no direct call/],
    [site(2, 'expected') + 1, 1, 0x74, /no direct conditional/],
    [site(2, 'expected') + 6, 1, 1, /bytes after its expected/],
    [site(0, 'reserved') + 5, 1, 1, /must be zero/],
    [site(3, 'flags'), 1, 2, /form class on another/],
    [site(1, 'flags'), 1, 2, /flags on a kind/],
    [site(2, 'flags'), 1, 1, /flags on a kind/],
    [form(0, 'formClass'), 1, 0, /class of 0/],
    [form(0, 'kind'), 1, 2, /form 0: an unknown kind/],
    [form(0, 'bytes') + 5, 1, 1, /sixth byte/],
    [form(0, 'target'), 4, 0, /literal with a target/],
    [form(1, 'bytes'), 1, 0xe9, /jmp with bytes/],
    [form(1, 'target'), 4, 0x2000000, /outside the image/],
    [form(1, 'target'), 4, NONE, /outside the image/],
    [form(1, 'reserved'), 4, 1, /must be zero/],
    [fixup(0, 'offset'), 4, 0xfffffff9, /outside the code/],
    [fixup(0, 'offset'), 4, 5, /fixup 1: overlaps/],
    [fixup(5, 'offset'), 4, 97, /outside the code/],
    [fixup(2, 'trail'), 1, 11, /trail of 11/],
    [fixup(1, 'trail'), 1, 1, /trail of 1/],
    [fixup(5, 'trail'), 1, 1, /outside the code/],
    [fixup(4, 'trail'), 1, 1, /trail of 1/],
    [fixup(0, 'value'), 4, 4, /no slot 4/],
    [fixup(1, 'value'), 4, 1, /abs32 with a value/],
    [fixup(2, 'value'), 4, 0x2000000, /outside the image/],
    [fixup(4, 'value'), 4, 20, /no frame word 20/],
    [fixup(4, 'kind'), 1, 3, /no slot 19/],
    [fixup(0, 'kind'), 1, 5, /unknown kind/],
    [fixup(0, 'reserved') + 1, 1, 1, /must be zero/],
    [place.fixup + 6 * SIZE.fixup, 1, 1, /byte 424 must be zero/],
  ]
  refusedByAll(t, payload, cases)

  const broken: Partial<Numbers> = { siteTail: 93, sitePatch: 100, fixupValue: 9 }
  for (const [name, value] of Object.entries(broken) as [keyof Numbers, number][]) {
    const tables = sampleTables()
    tables[name][name === 'siteTail' ? 3 : 0] = value
    t.throws(() => encodePayload(sampleTarget(), tables, digest), { message: /^internal: payload/ }, name)
  }
  throwsWith(t, EXIT.data, /slots, more than/, () =>
    encodePayload(sampleTarget(), { ...sampleTables(), slotCount: 2 ** 20 + 1 }, digest),
  )
})

/** The module's verdicts on payloads. */
const judgeAll = (payloads: readonly Uint8Array[]): number[] => {
  const length = (bytes: Uint8Array): Uint8Array => new Uint8Array(Uint32Array.of(bytes.length).buffer)
  const records = Buffer.concat(payloads.flatMap((bytes) => [length(bytes), bytes]))
  return run(judge, ['parse'], records)
    .toString()
    .trim()
    .split('\n')
    .map((line) => Number(line.split(' ')[0]))
}

t.test("payload: the module's parser agrees on every changed bit and on random changes", async (t) => {
  for (const make of [sampleTables, tacticTables]) agreed(t, encodePayload(sampleTarget(), make(), digest))
})

const agreed = (t: Test, payload: Uint8Array): void => {
  const mutants = [payload]
  for (let bit = 0; bit < 8 * payload.length; bit++) {
    const bytes = Uint8Array.from(payload)
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    mutants.push(bytes)
  }
  const interesting = [0, 1, 2, 3, 4, 5, 6, 7, 15, 16, 17, 90, 99, 100, 0x40, 0x45, 0x7f, 0x80, 0xff]
  for (let round = 0; round < 20_000; round++) {
    const bytes = Uint8Array.from(payload)
    for (let i = random(2); i >= 0; i--) {
      bytes[random(payload.length - 100)] = random(2) === 0 ? random(256) : interesting[random(interesting.length)]!
    }
    mutants.push(bytes)
  }
  const verdicts = judgeAll(mutants)
  t.equal(verdicts.length, mutants.length)
  let both = 0
  const disagree: string[] = []
  mutants.forEach((bytes, i) => {
    let ours = 'taken'
    try {
      const { target, tables, manifestSha256 } = decodePayload(bytes)
      const again = encodePayload(target, tables, manifestSha256)
      if (Buffer.compare(again, bytes) !== 0) disagree.push(`mutant ${i}: not the same again`)
      both++
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
      ours = error.message
    }
    const taken = verdicts[i] === layout.REASON.ok
    if ((ours === 'taken') !== taken) disagree.push(`mutant ${i}: ${ours}, C ${verdicts[i]}`)
  })
  t.same(disagree.slice(0, 10), [])
  t.ok(both > 1000 && both < mutants.length / 2, `${both} of ${mutants.length} are payloads`)
}

// ----------------------------------------- DER, certificates, signatures

const newKey = (bits: number): KeyObject => generateKeyPairSync('rsa', { modulusLength: bits }).privateKey
const key = newKey(3072)
const otherKey = newKey(2048)
const FROM = new Date('2024-02-29T12:34:56Z')
const UNTIL = new Date('2124-02-29T12:34:56Z')
const cert = selfSigned(key, 'kerninst test', FROM, UNTIL)
const otherCert = selfSigned(otherKey, 'kerninst test', FROM, UNTIL)
const openssl = (...args: string[]): string => run('openssl', args).toString()
const inScratch = (name: string, bytes: Uint8Array | string): string => {
  const path = join(scratch, name)
  writeFileSync(path, bytes)
  return path
}

t.test('der: one encoding', async (t) => {
  t.equal(hexOf(integer(Uint8Array.of(0))), '020100')
  t.equal(hexOf(integer(Uint8Array.of(0, 0, 0x80))), '02020080')
  t.equal(hexOf(integer(Uint8Array.of())), '020100')
  t.equal(hexOf(oid('1.2.840.113549.1.1.11')), '06092a864886f70d01010b')
  const none = ['', '30', '3001', '308000', '30810100', '3082000100', '30850000000001', '1f8101', '3084ffffffff']
  for (const hex of none) {
    t.equal(refusal(() => readNode(bytesOf(hex), 0, hex.length / 2, 'test')).exit, EXIT.data, `refuses ${hex}`)
  }
})

t.test('certificate: deterministic, read by openssl and node, reads theirs', async (t) => {
  t.equal(hexOf(selfSigned(key, 'kerninst test', FROM, UNTIL)), hexOf(cert), 'the same inputs give the same bytes')
  const path = inScratch('own.crt', cert)
  const text = openssl('x509', '-inform', 'DER', '-in', path, '-noout', '-text')
  for (const line of [
    /Version: 3/,
    /Signature Algorithm: sha256WithRSAEncryption/,
    /Issuer: CN = kerninst test/,
    /Not Before: Feb 29 12:34:56 2024 GMT/,
    /Not After : Feb 29 12:34:56 2124 GMT/,
    /Subject: CN = kerninst test/,
    /Public-Key: \(3072 bit\)/,
    /X509v3 Basic Constraints: critical\s+CA:FALSE/,
    /X509v3 Key Usage: critical\s+Digital Signature\n/,
    /X509v3 Subject Key Identifier/,
    /X509v3 Authority Key Identifier/,
  ]) {
    t.match(text, line, `openssl sees ${line}`)
  }
  const x509 = new X509Certificate(cert)
  t.ok(x509.verify(createPublicKey(key)), 'it signs itself')
  t.match(x509.serialNumber, /^[4-7][0-9A-F]{39}$/, 'a serial number of 20 bytes, positive')

  const mine = parseCertificate(cert, 'own.crt')
  t.equal(hexOf(mine.serial).toUpperCase(), `0214${x509.serialNumber}`)
  t.equal(mine.signatureBytes, 384)

  const pem = inScratch('key.pem', key.export({ type: 'pkcs8', format: 'pem' }))
  // As certs/default_x509.genkey of the kernel has it, and a version 1 certificate without extensions.
  const config = inScratch(
    'x509.genkey',
    [
      '[ req ]\nprompt = no\nstring_mask = utf8only\ndistinguished_name = dn\nx509_extensions = ext',
      '[ dn ]\nO = Example\nCN = Build time autogenerated kernel key\nemailAddress = who@example.org',
      '[ ext ]\nbasicConstraints=critical,CA:FALSE\nkeyUsage=digitalSignature',
      'subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n',
    ].join('\n'),
  )
  const kernel = join(scratch, 'kernel.crt')
  const request509 = ['req', '-new', '-x509', '-utf8', '-sha256', '-days', '36500', '-batch', '-config', config]
  openssl(...request509, '-key', pem, '-outform', 'DER', '-out', kernel)
  const theirs = parseCertificate(readFileSync(kernel), 'kernel.crt')
  t.equal(hexOf(theirs.publicDer), hexOf(mine.publicDer))
  t.equal(hexOf(theirs.serial).slice(4).toUpperCase(), new X509Certificate(readFileSync(kernel)).serialNumber)
  const request = join(scratch, 'plain.csr')
  const plain = join(scratch, 'plain.crt')
  openssl('req', '-new', '-key', pem, '-subj', '/CN=plain', '-out', request)
  openssl('x509', '-req', '-in', request, '-signkey', pem, '-set_serial', '0', '-outform', 'DER', '-out', plain)
  t.equal(hexOf(parseCertificate(readFileSync(plain), 'plain.crt').serial), '020100')

  throwsWith(t, EXIT.data, /not an X.509|not DER/, () => parseCertificate(Buffer.from('hello, world'), 'x'))
  throwsWith(t, EXIT.data, /not an X.509/, () => parseCertificate(new Uint8Array([...cert, 0]), 'x'))
  throwsWith(t, EXIT.data, /RSA with 1024 bits/, () => selfSigned(newKey(1024), 'x', FROM, UNTIL))
  for (let end = 0; end < cert.length; end += 7) {
    t.equal(refusal(() => parseCertificate(cert.subarray(0, end), 'x')).exit, EXIT.data, `cut at ${end}`)
  }
  for (let round = 0; round < 2000; round++) {
    const bytes = Uint8Array.from(cert)
    for (let i = random(3); i >= 0; i--) bytes[random(bytes.length)] = random(256)
    try {
      parseCertificate(bytes, 'x')
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
    }
  }
})

t.test('cms: openssl verifies ours, we verify its', async (t) => {
  const content = samplePayload()
  const certificate = parseCertificate(cert, 'own.crt')
  const cms = signCms(content, key, certificate)
  t.equal(hexOf(signCms(content, key, certificate)), hexOf(cms), 'the same inputs give the same bytes')
  verifyCms(cms, content, certificate)

  const data = inScratch('content', content)
  const pemCert = inScratch('cert.pem', new X509Certificate(cert).toString())
  const pemKey = inScratch('key.pem', key.export({ type: 'pkcs8', format: 'pem' }))
  const verifyArgs = (path: string): string[] =>
    ['cms', '-verify', '-binary', '-inform', 'DER', '-in', path, '-content', data, '-certfile', pemCert]
      .concat(['-nointern', '-noverify', '-out', join(scratch, 'verified')])
  openssl(...verifyArgs(inScratch('own.cms', cms)))
  t.equal(hexOf(readFileSync(join(scratch, 'verified'))), hexOf(content), 'openssl cms -verify takes it')
  const flipped = Uint8Array.from(cms)
  flipped[flipped.length - 1]! ^= 1
  const badCms = verifyArgs(inScratch('bad.cms', flipped))
  t.throws(() => openssl(...badCms), { message: /status/ }, 'and this judge can say no')

  const signArgs = ['cms', '-sign', '-binary', '-noattr', '-nocerts', '-md', 'sha256', '-outform', 'DER']
    .concat(['-signer', pemCert, '-inkey', pemKey, '-in', data])
  t.equal(hexOf(run('openssl', signArgs)), hexOf(cms), 'openssl cms -sign writes the same bytes')
  const byKeyId = run('openssl', [...signArgs, '-keyid'])
  throwsWith(t, EXIT.refused, /not by the key/, () => verifyCms(byKeyId, content, certificate))
  const withNull = insertDigestNull(cms)
  verifyCms(withNull, content, certificate)
  openssl(...verifyArgs(inScratch('null.cms', withNull)))
  t.pass('openssl takes NULL parameters of the digest, and so do we')

  throwsWith(t, EXIT.refused, /not by the key/, () => verifyCms(cms, content, parseCertificate(otherCert, 'x')))
  throwsWith(t, EXIT.refused, /altered/, () => verifyCms(cms, content.subarray(1), certificate))
  throwsWith(t, EXIT.refused, /altered/, () => verifyCms(new Uint8Array(0), content, certificate))
  throwsWith(t, EXIT.refused, /altered/, () => verifyCms(new Uint8Array([...cms, 0]), content, certificate))
  // The right names around a signature by someone else.
  const forged = Uint8Array.from(cms)
  forged.set(sign('sha256', content, newKey(3072)), cms.length - 384)
  throwsWith(t, EXIT.refused, /does not fit/, () => verifyCms(forged, content, certificate))
})

/** The same CMS with NULL parameters at both digest algorithms: two bytes more in each container around them. */
const insertDigestNull = (cms: Uint8Array): Uint8Array => {
  const sha256 = '300b0609608648016503040201'
  const hex = hexOf(cms).replaceAll(sha256, '300d06096086480165030402010500')
  const grown = bytesOf(hex.replace(`310b${sha256}`, `310d${sha256}`))
  const addTo = (bytes: Uint8Array, offset: number, by: number): void => {
    const view = new DataView(bytes.buffer)
    view.setUint16(offset, view.getUint16(offset) + by)
  }
  addTo(grown, 2, 4) //      ContentInfo
  addTo(grown, 17, 4) //     [0]
  addTo(grown, 21, 4) //     SignedData
  grown[27]! += 2 //         SET of digest algorithms
  const signers = 26 + 2 + 15 + 13
  addTo(grown, signers + 2, 2) // SET of signers
  addTo(grown, signers + 6, 2) // SignerInfo
  return grown
}

t.test('keys: keygen, and what is not a key', async (t) => {
  const name = join(scratch, 'bundle-key')
  const paths = keygen(name)
  t.same(paths, { key: `${name}.key`, certificate: `${name}.crt` })
  t.equal(statSync(paths.key).mode & 0o777, 0o600, 'the key is for its owner alone')
  const made = readKey(paths.key)
  const der = readCertificateDer(paths.certificate)
  checkPair(made, parseCertificate(der, 'x'))
  t.match(readFileSync(paths.key, 'utf8'), /^-----BEGIN PRIVATE KEY-----\n/)
  t.match(new X509Certificate(der).subject, /^CN=kerninst bundle-key$/)
  t.ok(new Date(new X509Certificate(der).validTo).getUTCFullYear() > 2100)
  const before = readFileSync(paths.key, 'utf8')
  throwsWith(t, EXIT.cannotCreate, /bundle-key\.key: it exists/, () => keygen(name))
  t.equal(readFileSync(paths.key, 'utf8'), before)
  rmSync(paths.key)
  throwsWith(t, EXIT.cannotCreate, /bundle-key\.crt: it exists/, () => keygen(name))
  t.notOk(existsSync(paths.key), 'and no half of a pair is left')
  throwsWith(t, EXIT.cannotCreate, /ENOENT/, () => keygen(join(scratch, 'no-such-folder', 'x')))
  t.same(readdirSync(scratch).filter((file) => file.endsWith('.tmp')), [], 'no temporary file is left')

  const pkcs8 = { type: 'pkcs8', format: 'pem' } as const
  throwsWith(t, EXIT.refused, /is encrypted/, () =>
    parseKey(Buffer.from(key.export({ ...pkcs8, cipher: 'aes-256-cbc', passphrase: 'x' })), 'k.pem'),
  )
  throwsWith(t, EXIT.refused, /is encrypted/, () =>
    parseKey(Buffer.from(key.export({ type: 'pkcs1', format: 'pem', cipher: 'aes-256-cbc', passphrase: 'x' })), 'k'),
  )
  t.equal(parseKey(Buffer.from(key.export({ type: 'pkcs1', format: 'pem' })), 'k').asymmetricKeyType, 'rsa')
  const ec = generateKeyPairSync('ec', { namedCurve: 'P-256' }).privateKey
  throwsWith(t, EXIT.data, /of type ec/, () => parseKey(Buffer.from(ec.export(pkcs8)), 'k.pem'))
  const pss = generateKeyPairSync('rsa-pss', { modulusLength: 2048 }).privateKey
  throwsWith(t, EXIT.data, /of type rsa-pss/, () => parseKey(Buffer.from(pss.export(pkcs8)), 'k.pem'))
  throwsWith(t, EXIT.data, /RSA with 1024 bits/, () => parseKey(Buffer.from(newKey(1024).export(pkcs8)), 'k.pem'))
  throwsWith(t, EXIT.data, /no private key/, () => parseKey(Buffer.from('hello'), 'k.pem'))
  throwsWith(t, EXIT.data, /no private key/, () => parseKey(cert, 'k.pem'))
  throwsWith(t, EXIT.noInput, /ENOENT/, () => readKey(join(scratch, 'missing')))
  throwsWith(t, EXIT.data, /more than the limit/, () => readKey(inScratch('large', new Uint8Array(70_000))))
  const pem = inScratch('as.pem', new X509Certificate(cert).toString())
  t.equal(hexOf(readCertificateDer(pem)), hexOf(cert), 'a certificate in PEM is taken too')
  const bad = inScratch('bad.pem', '-----BEGIN CERTIFICATE-----\nxx\n')
  throwsWith(t, EXIT.data, /no X.509/, () => readCertificateDer(bad))
})

// ---------------------------------------------------------------- bundle

const DELTA = { delta: true } as const

const input = (): Parameters<typeof writeBundle>[0] => ({
  manifest: sampleManifest(),
  target: sampleTarget(),
  tables: sampleTables(),
  key,
  cert,
})

/** A bundle whose parts the caller may change, resealed as far as asked. */
const resealed = (change: {
  manifest?: Uint8Array
  map?: (map: Record<string, Packable>) => Record<string, Packable>
}): Uint8Array => {
  const manifest = change.manifest ?? encodeManifest(sampleManifest())
  const payload = encodePayload(sampleTarget(), sampleTables(), manifestSha256(manifest))
  const map = { format: 'kerninst-bundle', version: layout.VERSION, manifest, payload, signature: new Uint8Array(0) }
  return encode(change.map === undefined ? map : change.map(map))
}

t.test('bundle: the same bytes, and back', async (t) => {
  const bytes = writeBundle(input())
  t.equal(hexOf(writeBundle(input())), hexOf(bytes), 'the same inputs give the same bytes')
  const shuffled = input()
  const { image, tool, ...rest } = shuffled.manifest
  const again = writeBundle({ ...shuffled, manifest: { ...rest, tool, image } })
  t.equal(hexOf(again), hexOf(bytes), 'in any order of fields')
  const bundle = verifyBundle(bytes, cert)
  t.same(bundle.manifest, sampleManifest())
  t.same(bundle.decoded.tables, sampleTables())
  t.same(bundle.decoded.target, sampleTarget())
  t.equal(hexOf(bundle.payload), hexOf(encodePayload(sampleTarget(), sampleTables(), bundle.decoded.manifestSha256)))
  t.same(Object.keys(decode(bytes, 'test') as object), ['format', 'version', 'manifest', 'payload', 'signature'])

  const { key: _key, cert: _cert, ...noKey } = input()
  const unsigned = writeBundle(noKey)
  t.equal(readBundle(unsigned).signature.length, 0)
  throwsWith(t, EXIT.refused, /not signed/, () => verifyBundle(unsigned, cert))
  throwsWith(t, EXIT.refused, /not by the key/, () => verifyBundle(bytes, otherCert))
  throwsWith(t, EXIT.refused, /another key/, () => writeBundle({ ...input(), key: otherKey }))
  t.throws(() => writeBundle({ ...noKey, key }), { message: /^internal: / })
})

t.test('bundle: what is none', async (t) => {
  const small = resealed({})
  readBundle(small)
  const { length } = encodeManifest(sampleManifest())
  const limits = { manifest: length, payload: samplePayload().length, items: 1000 }
  readBundle(small, limits)
  throwsWith(t, EXIT.data, /manifest has/, () => readBundle(small, { ...limits, manifest: length - 1 }))
  throwsWith(t, EXIT.data, /payload has/, () => readBundle(small, { ...limits, payload: 100 }))
  throwsWith(t, EXIT.data, /more than 50 values/, () => readBundle(small, { ...limits, items: 50 }))
  for (const [what, message, map] of [
    ['another format', /format/, (m) => ({ ...m, format: 'other' })],
    ['another version', /version 1/, (m) => ({ ...m, version: 1 })],
    ['a version that is text', /version unknown/, (m) => ({ ...m, version: '\x1b[2J' })],
    ['a key too many', /keys/, (m) => ({ ...m, more: 1 })],
    ['a key too few', /keys/, ({ signature: _, ...m }) => m],
    ['another order', /keys/, ({ format, ...m }) => ({ ...m, format: format! })],
    ['text for bytes', /payload is not binary/, (m) => ({ ...m, payload: 'x' })],
    ['a map inside', /deep/, (m) => ({ ...m, payload: {} })],
    ['an empty payload', /cut off/, (m) => ({ ...m, payload: new Uint8Array(0) })],
    ['a long signature', /signature has/, (m) => ({ ...m, signature: new Uint8Array(65537) })],
    ['another manifest', /altered/, (m) => ({ ...m, manifest: encodeManifest({ ...sampleManifest(), programs: [] }) })],
  ] as [string, RegExp, (m: Record<string, Packable>) => Record<string, Packable>][]) {
    throwsWith(t, EXIT.data, message, () => readBundle(resealed({ map })), what)
  }
  for (const bytes of [new Uint8Array(0), bytesOf('90'), bytesOf('01'), bytesOf('c40100'), bytesOf('c6ffffffff')]) {
    t.equal(refusal(() => readBundle(bytes)).exit, EXIT.data)
  }
  for (let end = 0; end < small.length; end += 13) {
    t.equal(refusal(() => readBundle(small.subarray(0, end))).exit, EXIT.data, `cut at ${end}`)
  }
})

const AGGREGATE = { name: 'x', kind: 'avg', signed: 0, unit: 'number', keyKind: 'index', keys: 3, width: 2, first: 5, range: [] as string[] }

t.test('bundle: manifests that are not as declared', async (t) => {
  type Loose = { [name: string]: unknown }
  /** The sample manifest with one place changed; undefined removes it. */
  const changed = (path: string, value: unknown): Packable => {
    const manifest = decode(encodeManifest(sampleManifest()), 'test') as unknown as Loose
    const names = path.split('.')
    const last = names.pop()!
    const parent = names.reduce((at, name) => at[name] as Loose, manifest)
    if (value === undefined) delete parent[last]
    else parent[last] = value
    return manifest as unknown as Packable
  }
  for (const [what, path, value, message] of [
    ['a text for a number', 'counts.slots', '4', /counts\.slots is no/],
    ['a negative number', 'counts.slots', -1, /counts\.slots is no/],
    ['more points than there may be', 'counts.points', 2 ** 23 + 1, /counts\.points is no/],
    ['a missing field', 'columns.rva', undefined, /columns does not have the fields nameLengths/],
    ['an unknown field', 'more', 1, /fields schema, tool/],
    ['another schema', 'schema', 'kerninst.manifest/1', /schema is not 'kerninst\.manifest\/5'/],
    ['another tool', 'tool.name', 'x', /tool.name is not 'kerninst'/],
    ['a wrong build id', 'image.buildId', 'A0', /buildId is not/],
    ['a list that is a map', 'refusals', {}, /refusals is no list/],
    ['a map that is a list', 'image', [], /image is no map/],
    ['bytes for a map', 'columns', new Uint8Array(3), /columns is no map/],
    ['a text for a column', 'columns.of', 'x', /columns\.of is not binary/],
    ['a long reason', 'refusals.0.reason', 'x'.repeat(4097), /reason is no text/],
    ['another base', 'image.base', '0xffffffff80000000', /image.base and/],
    ['another kernel', 'image.buildId', '00'.repeat(20), /image.buildId and/],
    ['a column that does not inflate', 'columns.of', bytesOf('ffffff'), /columns\.of does not inflate to at most 25 bytes/],
    ['an empty column', 'columns.of', new Uint8Array(0), /columns\.of (does not inflate|holds fewer)/],
    ['a bomb', 'columns.derived', packColumn(new Uint8Array(2 ** 24)), /columns\.derived does not inflate to at most 25/],
    ['bytes behind a column', 'columns.of', Uint8Array.of(...writeNumbers([0, 1, 1, 1, 1]), 0), /columns\.of has bytes after its end/],
    ['a value too few', 'columns.refusal', writeNumbers([0, 0, 0, 1]), /columns\.refusal holds fewer than 5/],
    ['a value too many', 'columns.refusal', writeNumbers([0, 0, 0, 1, 2, 0]), /columns\.refusal holds more than 5/],
    ['a number of 33 bits', 'columns.nearest', packColumn(bytesOf('00000000ffffffff1f')), /columns\.nearest holds a number 4 that is none/],
    ['a number of six bytes', 'columns.nearest', packColumn(bytesOf('00000000ffffffffff01')), /columns\.nearest holds a number 4 that is none/],
    ['a number with a zero too many', 'columns.nearest', packColumn(bytesOf('000000008000')), /columns\.nearest holds a number 4 that is none/],
    ['a number cut off', 'columns.nearest', packColumn(bytesOf('0000000080')), /columns\.nearest holds fewer/],
    ['a name cut off', 'columns.names', packColumn(bytesOf('61')), /names\[0\] has 8 bytes/],
    ['names with more', 'columns.names', packColumn(new Uint8Array(100)), /names has bytes after the last/],
    ['a name that is not UTF-8', 'columns.names', packColumn(new Uint8Array(18).fill(0xff)), /names\[0\] is not UTF-8/],
    ['a long name', 'columns.nameLengths', writeNumbers([4097, 0, 0, 0]), /names\[0\] has 4097 bytes/],
    ['places that do not ascend', 'columns.placeFrom', writeNumbers([16, 16], DELTA), /placeFrom\[1\] does not ascend/],
    ['a place below the image', 'columns.placeBack', writeNumbers([0xffb + 2, 0]), /placeBack\[0\] leads below/],
    ['a place without a name', 'columns.placeName', writeNumbers([0, 4], DELTA), /placeName\[1\] is 4, not below 4/],
    ['an unknown kind', 'columns.askedKind', writeNumbers([0, 1, 3, 7, 0]), /askedKind\[3\] is 7, not below 7/],
    ['no such name', 'columns.askedName', writeNumbers([0, 0, 0, 0, 4], DELTA), /askedName\[4\] is 4, not below 4/],
    ['no such title', 'columns.askedTitle', writeNumbers([0, 0, 0, 0, 5], DELTA), /askedTitle\[4\] is 5, not below 5/],
    ['no such aggregate', 'columns.askedAggregate', writeNumbers([0, 0, 0, 0, 9], DELTA), /askedAggregate\[4\] is 9/],
    ['neither always nor not', 'columns.askedAlways', writeNumbers([1, 1, 1, 1, 2]), /askedAlways\[4\] is 2/],
    ['a function that wraps', 'columns.askedBytes', writeNumbers([0xffffffff, 1, 1, 1, 0]), /askedBytes\[0\] leads out/],
    ['an end without a start', 'columns.askedBytes', writeNumbers([1, 1, 1, 1, 1]), /askedBytes\[4\] leads out/],
    ['nothing asked', 'columns.of', writeNumbers([0, 1, 2, 3, 5], DELTA), /of\[4\] is 5, not below 5/],
    ['no such refusal', 'columns.refusal', writeNumbers([0, 0, 0, 1, 3]), /refusal\[4\] is 3, not below 3/],
    ['derived is neither', 'columns.derived', writeNumbers([0, 0, 2, 0, 0]), /derived\[2\] is 2, not below 2/],
    ['too many terms', 'columns.termCount', writeNumbers([1, 2, 2, 0, 0]), /termCount\[2\] leads past the 4 terms/],
    ['terms that wrap', 'columns.termCount', writeNumbers([1, 0xffffffff, 4, 0, 0]), /termCount\[1\] leads past/],
    ['too few terms', 'columns.termCount', writeNumbers([1, 1, 1, 0, 0]), /termCount leaves some/],
    ['terms of a refused point', 'columns.termCount', writeNumbers([1, 1, 1, 1, 0]), /termCount\[3\] is of a point that is refused/],
    ['a derived one that is refused', 'columns.derived', writeNumbers([0, 0, 0, 1, 0]), /termCount\[3\] is of a point that is refused/],
    ['a slot for what is missed that is none', 'missed', 3, /missed is 3/],
    ['an aggregate of no kind', 'aggregates', [{ ...AGGREGATE, kind: 'median' }], /kind is not 'count' or/],
    ['without keys', 'aggregates', [{ ...AGGREGATE, keys: 0 }], /aggregates\[0\]\.keys is 0/],
    ['with keys and no key', 'aggregates', [{ ...AGGREGATE, keyKind: 'none' }], /aggregates\[0\]\.keys is 3/],
    ['too narrow', 'aggregates', [{ ...AGGREGATE, width: 1 }], /aggregates\[0\]\.width is 1/],
    ['with a range', 'aggregates', [{ ...AGGREGATE, range: ['0', '4', '1'] }], /aggregates\[0\]\.range does not suit avg/],
    ['without a range', 'aggregates', [{ ...AGGREGATE, kind: 'lhist' }], /aggregates\[0\]\.range does not suit lhist/],
    ['of a range that is none', 'aggregates', [{ ...AGGREGATE, kind: 'lhist', range: ['0', '4', '3'] }], /aggregates\[0\]\.range is no range/],
    ['of numbers that are none', 'aggregates', [{ ...AGGREGATE, kind: 'lhist', range: ['0', '4', 'x'] }], /range\[2\] is not a number/],
    ['over counters', 'aggregates', [{ ...AGGREGATE, first: 3 }], /aggregates\[0\]\.first is 3/],
    ['over each other', 'aggregates', [AGGREGATE, AGGREGATE], /aggregates\[1\]\.first is 5/],
    ['in two pieces of the heap', 'aggregates', [{ ...AGGREGATE, first: 4091 }], /aggregates\[0\]\.first is 4091/],
    ['slots that the payload has not', 'aggregates', [AGGREGATE], /slots and/],
    ['a served point nowhere', 'columns.rva', writeNumbers([0, 1, 1, 1, 0], DELTA), /rva\[0\] is missing/],
    ['a slot too far', 'columns.term', writeNumbers([0, 2, 6, 8], DELTA), /term\[3\] is 8, not below 8/],
    ['no such tactic', 'columns.siteTactic', writeNumbers([0, 1, 3, 0]), /siteTactic\[2\] is 3, not below 3/],
    ['a site too far', 'columns.slotSite', writeNumbers([0, 2, 4, 3], DELTA), /slotSite\[2\] is 4, not below 4/],
  ] as const) {
    const value2 = encode(changed(path, value))
    throwsWith(t, EXIT.data, message, () => readBundle(resealed({ manifest: value2 })), what)
  }
  const sample = sampleManifest()
  const more = encodeManifest({ ...sample, siteTactic: Uint8Array.of(...sample.siteTactic, 0) })
  throwsWith(t, EXIT.data, /the manifest's sites and/, () => readBundle(resealed({ manifest: more })), 'a site more')
  const slots = encodeManifest({ ...sample, slotSite: Uint32Array.of(...sample.slotSite, 0) })
  throwsWith(t, EXIT.data, /the manifest's slots and/, () => readBundle(resealed({ manifest: slots })), 'a slot more')
  const { tool, ...rest } = decode(encodeManifest(sample), 'test') as Record<string, Packable>
  throwsWith(t, EXIT.data, /fields schema, tool/, () => decodeManifest(encode({ ...rest, tool: tool! })), 'another order of fields')
  throwsWith(t, EXIT.data, /programs\[0\] is no text/, () => encodeManifest({ ...sample, programs: ['x'.repeat(2 ** 20 + 1)] }))
  throwsWith(t, EXIT.data, /names\[0\] is no text/, () => encodeManifest({ ...sample, names: ['x'.repeat(4097), '', 'out', 'no_such'] }))
})

t.test('manifest: random tables, and back', async (t) => {
  const u32 = (): number => random(2) ? random(2 ** 31) * 2 + random(2) : random(300)
  const name = (): string => Array.from({ length: random(12) }, () => String.fromCodePoint([97 + random(26), 0x3b1, 0x1f600, 0x2028, 0x1b][random(5)]!)).join('')
  for (let round = 0; round < 300; round++) {
    const [asked, count, slots, sites] = [1 + random(20), random(200), 1 + random(40), 1 + random(40)]
    const names = Array.from({ length: 1 + random(30) }, name)
    const table = (length: number, value: () => number): Uint32Array => Uint32Array.from({ length }, value)
    const bytes = (length: number, bound: number): Uint8Array => Uint8Array.from({ length }, () => random(bound))
    const from = Uint32Array.from(new Set(table(random(20), () => Math.min(u32(), NONE - 1)))).sort()
    const start = table(asked, () => (random(4) ? u32() : NONE))
    const refusal = bytes(count, 3)
    const derived = refusal.map((code) => (code ? 0 : random(2)))
    const termStart = new Uint32Array(count + 1)
    refusal.forEach((code, p) => (termStart[p + 1] = termStart[p]! + (code ? 0 : random(9) + 1 - derived[p]!)))
    const terms = termStart[count]!
    const maybe = (): number => (random(2) ? NONE : u32())
    const manifest: Manifest = {
      ...sampleManifest(), names, tactics: ['a', 'b'],
      places: { from, start: from.map((rva) => (random(3) ? rva - random(Math.min(rva, 1000) + 1) : NONE)), name: table(from.length, () => random(names.length)) },
      asked: {
        kind: bytes(asked, 7), name: table(asked, () => random(names.length)), start,
        end: start.map((rva) => (rva === NONE ? NONE : rva + random(Math.min(NONE - rva, 5000)))), offset: table(asked, u32),
        title: table(asked, () => random(names.length + 1)), aggregate: table(asked, () => random(names.length)), always: bytes(asked, 2),
      },
      points: {
        count, of: table(count, () => random(asked)), rva: Uint32Array.from(refusal, (code) => (code ? maybe() : Math.min(u32(), NONE - 1))),
        to: table(count, maybe), refusal, nearest: table(count, maybe), derived, termStart,
        term: table(terms, () => random(2 * slots)), termRva: table(terms, u32),
      },
      siteTactic: bytes(sites, 2), slotSite: table(slots, () => random(sites)),
    }
    const encoded = encodeManifest(manifest)
    const back = decodeManifest(encoded)
    if (!isDeepStrictEqual(back, manifest)) t.same(back, manifest, `round ${round}`)
    t.equal(hexOf(encodeManifest(back)) === hexOf(encoded), true, 'the same bytes again')
    // Names of whatever there is, without an exception; changed bytes, without one of another kind.
    for (let p = 0; p < count; p++) {
      if (refusal[p]) refusalText(back, p)
      else pointText(back, table(sites, u32), p)
    }
    summarize(back)
    for (let n = 0; n < 20; n++) {
      const bad = Uint8Array.from(encoded)
      bad[random(bad.length)]! ^= 1 << random(8)
      try {
        decodeManifest(bad)
      } catch (error) {
        if (!(error instanceof KerninstError) || error.exit !== EXIT.data) throw error
      }
    }
  }
})

t.test('bundle: any changed bit is noticed', async (t) => {
  const bytes = writeBundle(input())
  const certificate = cert
  const signatureStart = bytes.length - readBundle(bytes).signature.length
  const codes = new Map<number, number>()
  const wrong: string[] = []
  const start = performance.now()
  for (let bit = 0; bit < 8 * bytes.length; bit++) {
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    const { exit } = refusal(() => verifyBundle(bytes, certificate))
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    codes.set(exit, (codes.get(exit) ?? 0) + 1)
    if (exit !== EXIT.data && exit !== EXIT.refused) wrong.push(`bit ${bit}: ${exit}`)
    if (bit >> 3 >= signatureStart && exit !== EXIT.refused) wrong.push(`bit ${bit} of the signature: ${exit}`)
  }
  t.same(wrong, [])
  t.ok((codes.get(EXIT.data) ?? 0) > 0 && (codes.get(EXIT.refused) ?? 0) > 0)
  t.comment(`${8 * bytes.length} bits in ${Math.round(performance.now() - start)} ms`)
  verifyBundle(bytes, certificate)
})

t.test('bundle: a large one, written, read, and any of its bits', async (t) => {
  const sites = 20_000
  const perSite = 32
  const tables: PatchTables = {
    ...sampleTables(),
    siteCount: sites,
    siteRva: Uint32Array.from({ length: sites }, (_, i) => 16 * i),
    sitePatch: Uint32Array.from({ length: sites }, (_, i) => perSite * i),
    siteLength: new Uint8Array(sites).fill(5),
    siteKind: new Uint8Array(sites).fill(1),
    siteFormClass: new Uint8Array(sites),
    siteFlags: new Uint8Array(sites),
    siteRelocKind: new Uint8Array(sites),
    siteRelocOffset: new Uint8Array(sites),
    siteTail: new Uint32Array(sites).fill(NONE),
    siteExpected: Uint8Array.from({ length: 16 * sites }, (_, i) => (i % 16 === 0 ? 0xe8 : 0)),
    fixupCount: sites,
    fixupOffset: Uint32Array.from({ length: sites }, (_, i) => perSite * i + 2),
    fixupValue: Uint32Array.from({ length: sites }, (_, i) => i),
    fixupKind: new Uint8Array(sites).fill(3),
    fixupTrail: new Uint8Array(sites),
    code: new Uint8Array(perSite * sites),
    slotCount: sites,
    frameWords: 0,
  }
  const manifest: Manifest = {
    ...sampleManifest(), siteTactic: new Uint8Array(sites), slotSite: Uint32Array.from({ length: sites }, (_, i) => i),
  }
  const start = performance.now()
  const bytes = writeBundle({ ...input(), manifest, tables })
  const written = performance.now()
  t.same(verifyBundle(bytes, cert).manifest.siteTactic.length, sites)
  t.comment(
    `${bytes.length} bytes: written in ${Math.round(written - start)} ms, ` +
      `verified in ${Math.round(performance.now() - written)} ms`,
  )
  for (let round = 0; round < 40; round++) {
    const bit = random(8 * bytes.length)
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    const { exit } = refusal(() => verifyBundle(bytes, cert))
    bytes[bit >> 3]! ^= 1 << (bit & 7)
    t.ok(exit === EXIT.data || exit === EXIT.refused, `bit ${bit}`)
  }
})

t.test('the injector\'s parsers pass their own test under sanitizers', (t) => {
  const out = run('make', ['-C', 'injector', 'check', `OUT=${scratch}`]).toString()
  t.match(out, /\n[1-9]\d{4,} checks, 0 failures\n/)
  t.end()
})
