// dump/ and report/: dumps written through the C structs, damaged dumps, the numbers, and what each rendering shows,
// names that are hostile to a terminal included.

import { mkdirSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Test } from 'tap'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import type { Bundle } from '../src/bundle/bundle.js'
import { DUMP, HEAP, SIZE } from '../src/bundle/layout.js'
import { readDump } from '../src/dump/dump.js'
import { EXIT, KerninstError } from '../src/error.js'
import { reportCsv as csvPieces } from '../src/report/csv.js'
import { reportMarkdown } from '../src/report/markdown.js'
import { reportHtml } from '../src/report/page.js'
import { reportJson as jsonPieces } from '../src/report/json.js'
import { reportNumbers } from '../src/report/numbers.js'
import { duration, grouped, jsonLine, printable, wallTime, wrapped } from '../src/report/printable.js'
import { showJson as showJsonPieces, showText as showTextPieces } from '../src/report/show.js'
import { reportText as textPieces, textOptions } from '../src/report/text.js'
import type { Manifest, ManifestText } from '../src/splice/manifest.js'
import { compileJudge, newScratch, run } from './judge.js'
import { schemaErrors } from './reportschema.js'
import { VFS_READ, sampleManifest, sampleTables, sampleTarget, withDerived } from './sample.js'

const whole = <A extends readonly unknown[]>(make: (...args: A) => Iterable<string>) => (...args: A): string => [...make(...args)].join('')
const [reportCsv, reportJson, reportText] = [whole(csvPieces), whole(jsonPieces), whole(textPieces)]
const [showJson, showText] = [whole(showJsonPieces), whole(showTextPieces)]

const scratch = newScratch()
t.teardown(() => rmSync(scratch, { recursive: true }))
const judge = compileJudge(scratch)

const throwsWith = (test: Test, exit: number, message: RegExp, fn: () => unknown, name: string): void => {
  try {
    fn()
  } catch (error) {
    if (!(error instanceof KerninstError)) throw error
    test.equal(error.exit, exit, `${name}: exit code ${exit}`)
    test.match(error.message, message, name)
    test.notMatch(error.message, /\n/, `${name}: one line`)
    return
  }
  test.fail(`${name}: not refused`)
}

const cDump = (cpus: number, slots: number): Uint8Array => new Uint8Array(run(judge, ['dump', `${cpus}`, `${slots}`]))

const bundleOf = (manifest: Manifest): Bundle =>
  readBundle(writeBundle({ manifest, target: sampleTarget(), tables: sampleTables() }))

const heap = SIZE.dump // where the heap's header lies in a dump

/** A dump as the C side writes it, but of this bundle's heap. */
const dumpOf = (bundle: Bundle, cpus: number): Uint8Array => {
  const bytes = cDump(cpus, 4)
  bytes.set(bundle.payloadSha256, heap + HEAP.payloadSha256)
  bytes.set(bundle.decoded.target.buildId, heap + HEAP.buildId)
  return bytes
}

t.test('dump: what the C side wrote', async (t) => {
  const bytes = cDump(3, 600)
  const dump = readDump(bytes)
  const { count, ...fields } = dump
  t.same(fields, {
    host: 'target-7',
    release: '6.1.0-test-amd64',
    dumpedNs: 1700000003123456789n,
    buildId: 'b1'.repeat(20),
    payloadSha256: new Uint8Array(32).fill(0x5d),
    state: 'removed',
    slide: 0x1c200000n,
    appliedNs: 1700000000000000000n,
    removedNs: 1700000002500000000n,
    stopNs: 123456n,
    resets: 2,
    resetNs: 1700000001000000000n,
    snapshotNs: 1700000003000000000n,
    cpuCount: 3,
    slotCount: 600,
    siteCount: 4,
  })
  for (const [cpu, slot] of [[0, 0], [0, 599], [1, 0], [2, 511], [2, 599]] as const) {
    t.equal(count(cpu, slot), BigInt(1000 * cpu + slot), `CPU ${cpu}, slot ${slot}`)
  }
  t.throws(() => count(3, 0), { message: /^internal: dump/ })
  t.throws(() => count(0, 600), { message: /^internal: dump/ })

  const path = join(scratch, 'dump')
  writeFileSync(path, bytes)
  t.equal(readDump(path).count(2, 599), 2599n, 'from a file')
  const shifted = new Uint8Array(bytes.length + 3)
  shifted.set(bytes, 3)
  t.equal(readDump(shifted.subarray(3)).count(1, 1), 1001n, 'from bytes that are not aligned')
  throwsWith(t, EXIT.data, /limit of 1000/, () => readDump(path, { bytes: 1000 }), 'a limit, file')
  throwsWith(t, EXIT.data, /limit of 1000/, () => readDump(bytes, { bytes: 1000 }), 'a limit, bytes')
  throwsWith(t, EXIT.noInput, /ENOENT/, () => readDump(join(scratch, 'none')), 'no file')
  mkdirSync(join(scratch, 'folder'))
  throwsWith(t, EXIT.noInput, /not a file/, () => readDump(join(scratch, 'folder')), 'a folder')
  truncateSync(path, bytes.length - 1)
  throwsWith(t, EXIT.data, /cut off: 28671 of the heap's 28672/, () => readDump(path), 'cut off')
})

t.test('dump: damaged', async (t) => {
  const bytes = cDump(2, 4)
  for (const [what, offset, width, value, message] of [
    ['dump magic', DUMP.magic, 1, 0, /no kerninst dump/],
    ['dump version', DUMP.version, 4, 1, /version 1,/],
    ['dump header_bytes', DUMP.headerBytes, 4, 255, /header_bytes/],
    ['heap_bytes, less', DUMP.heapBytes, 8, 4096n, /after its end/],
    ['heap_bytes, more', DUMP.heapBytes, 8, 2n ** 63n, /cut off/],
    ['host with more', DUMP.host + 64, 1, 65, /padding of host/],
    ['release with more', DUMP.release + 64, 1, 65, /padding of release/],
    ['dump reserved', DUMP.reserved + 93, 1, 1, /reserved/],
    ['heap magic', heap + HEAP.magic, 1, 0, /no counter heap/],
    ['heap version', heap + HEAP.version, 4, 9, /version 9/],
    ['heap header_bytes', heap + HEAP.headerBytes, 4, 8192, /header_bytes/],
    ['state', heap + HEAP.state, 4, 3, /state is 3/],
    ['removed without a time', heap + HEAP.removedNs, 8, 0n, /removed_ns is zero/],
    ['slide', heap + HEAP.slide, 8, 4096n, /slide/],
    ['slots', heap + HEAP.slotCount, 4, 513, /cpu_stride/],
    ['many slots', heap + HEAP.slotCount, 4, 2 ** 20 + 1, /slots, more/],
    ['no CPUs', heap + HEAP.cpuCount, 4, 0, /0 CPUs/],
    ['many CPUs', heap + HEAP.cpuCount, 4, 0xffffffff, /CPUs/],
    ['a CPU more', heap + HEAP.cpuCount, 4, 3, /3 areas/],
    ['a CPU less', heap + HEAP.cpuCount, 4, 1, /1 areas/],
    ['stride', heap + HEAP.cpuStride, 8, 4100n, /cpu_stride/],
    ['huge stride', heap + HEAP.cpuStride, 8, 2n ** 64n - 8n, /areas/],
    ['sites', heap + HEAP.siteCount, 4, 2 ** 20 + 1, /sites, more/],
    ['pages', heap + HEAP.pageCount, 8, 4n, /page_count/],
    ['heap reserved', heap + HEAP.reserved, 4, 1, /reserved/],
  ] as const) {
    const bad = Uint8Array.from(bytes)
    const view = new DataView(bad.buffer)
    if (typeof value === 'bigint') view.setBigUint64(offset, value, true)
    else if (width === 4) view.setUint32(offset, value, true)
    else bad[offset] = value
    throwsWith(t, EXIT.data, message, () => readDump(bad), what)
  }
  const endless = Uint8Array.from(bytes)
  endless.fill(0x41, DUMP.host, DUMP.release)
  throwsWith(t, EXIT.data, /host does not end/, () => readDump(endless), 'host without end')
  for (let end = 0; end < bytes.length; end += end < 512 ? 1 : 97) {
    try {
      readDump(bytes.subarray(0, end))
      t.fail(`taken when cut at ${end}`)
    } catch (error) {
      if (!(error instanceof KerninstError) || error.exit !== EXIT.data) throw error
    }
  }
  throwsWith(t, EXIT.data, /after its end/, () => readDump(new Uint8Array([...bytes, 0])), 'one byte more')
})

const bundle = bundleOf(sampleManifest())
const numbers = reportNumbers(bundle, readDump(dumpOf(bundle, 2)))

t.test('numbers: sums of parts and CPUs', async (t) => {
  t.same(
    [...numbers.points()].map(({ point, count, perColumn, parts }) => [point, count, perColumn, parts.map((part) => part.count)]),
    [
      ['entry:vfs_read', 1000n, [0n, 1000n], [1000n]],
      ['return:vfs_read', 1n + 3n + 1001n + 1003n, [4n, 2004n], [1002n, 1006n]],
      ['call:vfs_read+0xd', 1004n, [2n, 1002n], [1004n]],
    ],
  )
  const full = dumpOf(bundle, 2)
  full.fill(0xff, heap + 4096)
  const most = reportNumbers(bundle, readDump(full)).point(1)
  t.equal(most.count, 4n * (2n ** 64n - 1n), 'sums of full counters do not wrap')

  const other = bundleOf({ ...sampleManifest(), programs: [] })
  const [ours, theirs] = [bundle, other].map((each) => Buffer.from(each.payloadSha256).toString('hex'))
  throwsWith(
    t,
    EXIT.mismatch,
    new RegExp(`${ours}.*${theirs}`),
    () => reportNumbers(other, readDump(dumpOf(bundle, 2))),
    'the dump of another bundle: both are named',
  )
  for (const [field, value] of [[HEAP.siteCount, 5], [HEAP.slotCount, 5], [HEAP.buildId, 0]] as const) {
    const damaged = dumpOf(bundle, 2)
    new DataView(damaged.buffer).setUint32(heap + field, value, true)
    throwsWith(t, EXIT.data, /damaged/, () => reportNumbers(bundle, readDump(damaged)), `field ${field} differs`)
  }
})

t.test('derived counts', async (t) => {
  const [exit, other, entry] = [[1, VFS_READ + 0x1d], [3, VFS_READ + 0x100], [0, VFS_READ + 5]] as [number, number][]
  const manifest = withDerived(sampleManifest(), [
    { rva: VFS_READ + 0x20, plus: [exit!, other!], minus: [entry!] },
    { rva: VFS_READ + 0x30, plus: [entry!], minus: [exit!] },
    { rva: VFS_READ + 0x40, plus: [], minus: [] },
  ])
  const solved = bundleOf(manifest)
  const found = reportNumbers(solved, readDump(dumpOf(solved, 2)))
  t.same([...found.points()].slice(3).map(({ count, perColumn, derived }) => [count, perColumn, derived]),
    [[1008n, [4n, 1004n], true], [-2n, [-1n, -1n], true], [0n, [0n, 0n], true]])
  const { points } = JSON.parse(reportJson(found)) as { points: { count: string, derived: boolean, less?: { count: string }[] }[] }
  t.same(points.slice(3).map(({ count, derived, less }) => [count, derived, less!.map((each) => each.count)]),
    [['1008', true, ['1000']], ['-2', true, ['1002']], ['0', true, []]])
  t.equal(points[0]!.less, undefined)
  const text = reportText(found, { width: 100, color: false })
  t.match(text, /^ *1,008 +4 +1,004 +block:vfs_read\+0x20 \(derived\)/m)
  t.match(text, /\nimbalance \(1\)\n  These counts[^]*\n  block:vfs_read\+0x30: -2\n/)
  t.notMatch(reportText(numbers, { width: 100, color: false }), /imbalance/)
  t.match(reportCsv(found), /block:vfs_read\+0x20,,vfs_read\+0x20,1008,true,4,1004\r\n/)
  t.match(reportCsv(found), /block:vfs_read\+0x30,,vfs_read\+0x30,-2,true,-1,-1\r\n/, 'a number below zero is one')
  t.match(showText(solved), /  block:vfs_read\+0x20  @  derived\n    \+ vfs_read\+0x1d: slot 1,[^]*\n    - vfs_read\+0x5: slot 0,/)
  t.end()
})

const REFUSED = [
  { point: 'insn:vfs_read+0x1', code: 'short', reason: 'an instruction of 2 bytes', nearest: 'insn:vfs_read+0x5' },
  { point: 'entry:no_such', code: 'unknown', reason: 'no function of this name', nearest: '' },
]

t.test('json', async (t) => {
  const report = JSON.parse(reportJson(numbers)) as Record<string, unknown>
  t.same(schemaErrors(report), [], 'as docs/report.schema.json has it')
  t.ok(schemaErrors({ ...report, points: [{ point: 'x' }] }).length === 5 && schemaErrors({ ...report, more: 1 }).length === 1, 'which says what is missing, and what is too much')
  t.same(report, {
    schema: 'kerninst.report/1',
    host: 'target-7',
    release: '6.1.0-test-amd64',
    buildId: Buffer.from(sampleTarget().buildId).toString('hex'),
    payloadSha256: Buffer.from(bundle.payloadSha256).toString('hex'),
    signer: null,
    state: 'removed',
    dumpedNs: '1700000003123456789',
    appliedNs: '1700000000000000000',
    removedNs: '1700000002500000000',
    stopNs: '123456',
    resetNs: '1700000001000000000',
    points: [
      {
        point: 'entry:vfs_read',
        at: 'vfs_read+0x5',
        count: '1000',
        perCpu: ['0', '1000'],
        derived: false,
        aggregate: '',
        parts: [{ at: 'vfs_read+0x5', count: '1000', perCpu: ['0', '1000'] }],
      },
      {
        point: 'return:vfs_read',
        at: 'vfs_read+0x12',
        count: '2008',
        perCpu: ['4', '2004'],
        derived: false,
        aggregate: 'out',
        parts: [
          { at: 'vfs_read+0x1d', count: '1002', perCpu: ['1', '1001'] },
          { at: 'vfs_read+0x100', count: '1006', perCpu: ['3', '1003'] },
        ],
      },
      {
        point: 'call:vfs_read+0xd',
        at: 'vfs_read+0xd',
        count: '1004',
        perCpu: ['2', '1002'],
        derived: false,
        aggregate: '',
        parts: [{ at: 'vfs_read+0xd', count: '1004', perCpu: ['2', '1002'] }],
      },
    ],
    aggregates: [],
    missed: '0',
    refusals: REFUSED,
  })
  t.equal(reportJson(numbers).split('\n').length, 2, 'one line')
})

t.test('text', async (t) => {
  const wide = reportText(numbers, { width: 100, color: false })
  t.equal(
    wide,
    [
      'host     target-7',
      'kernel   6.1.0-test-amd64',
      `build    ${numbers.buildId}`,
      'signed   no',
      'applied  2023-11-14 22:13:20 UTC, removed 2023-11-14 22:13:22 UTC',
      'zeroed   2023-11-14 22:13:21 UTC',
      'dumped   2023-11-14 22:13:23 UTC',
      'counted  1.5 s, 4 sites, 2 CPUs',
      'stopped  123.5 µs for apply',
      '',
      'count  cpu0   cpu1  point                 at',
      '2,008     4  2,004  return:vfs_read @out  vfs_read+0x12',
      '1,002     1  1,001                          vfs_read+0x1d',
      '1,006     3  1,003                          vfs_read+0x100',
      '1,004     2  1,002  call:vfs_read+0xd     vfs_read+0xd',
      '1,000     0  1,000  entry:vfs_read        vfs_read+0x5',
      '',
      'refused (2)',
      '  insn:vfs_read+0x1: short',
      '    an instruction of 2 bytes',
      '    can be served: insn:vfs_read+0x5',
      '  entry:no_such: unknown',
      '    no function of this name',
      '',
    ].join('\n'),
  )
  const colored = reportText(numbers, { width: 100, color: true })
  t.match(colored, /\x1b\[1mcount/)
  t.equal(colored.replaceAll(/\x1b\[[012]m/g, ''), wide, 'colour adds nothing else')

  const live = dumpOf(bundle, 1)
  new DataView(live.buffer).setUint32(heap + HEAP.state, 1, true)
  new DataView(live.buffer).setBigUint64(heap + HEAP.removedNs, 0n, true)
  const one = reportText(reportNumbers(bundle, readDump(live)), { width: 100, color: false })
  t.match(one, /UTC, still applied\n/)
  t.match(one, /counted  2\.0 s/)
  t.notMatch(one, /cpu0/, 'one CPU needs no columns')

  const sample = sampleManifest()
  const manifest: Manifest = {
    ...sample, names: ['long_name_'.repeat(20), ...sample.names.slice(1)],
    refusals: [{ code: 'short', reason: 'a long reason, '.repeat(20) + 'x'.repeat(150) }, sample.refusals[1]!],
  }
  const long = bundleOf(manifest)
  for (const cpus of [1, 2, 8, 16, 17]) {
    for (const width of [60, 80, 100, 131, 300]) {
      const text = reportText(reportNumbers(long, readDump(dumpOf(long, cpus))), { width, color: false })
      const widest = Math.max(...text.split('\n').map((line) => [...line].length))
      t.ok(widest <= width, `${cpus} CPUs: ${widest} columns of ${width}`)
      t.equal(text.split('a long reason').length - 1 > 0 && text.includes('xxx'), true, 'reasons are not cut')
      const fits = cpus > 1 && cpus <= 16 && (cpus <= 2 || width >= 300 || (cpus === 8 && width >= 100))
      t.equal(/cpu0/.test(text), fits, `${cpus} CPUs at ${width}: per-CPU columns ${fits ? '' : 'not '}shown`)
    }
  }
})

t.test('text: what a terminal gets', async (t) => {
  t.same(textOptions({ isTTY: true, columns: 132 }, {}), { width: 132, color: true })
  t.same(textOptions({ isTTY: true, columns: 132 }, { COLUMNS: '90', NO_COLOR: '1' }), { width: 90, color: false })
  t.same(textOptions({ isTTY: true, columns: 132 }, { NO_COLOR: '' }), { width: 132, color: true })
  t.same(textOptions({ isTTY: true, columns: 20 }, { TERM: 'dumb' }), { width: 60, color: false })
  t.same(textOptions({}, { COLUMNS: 'x' }), { width: 100, color: false })
  t.same(textOptions({}, { COLUMNS: '1e99' }), { width: 1000, color: false })

  const evil = '\x1b]0;owned\x07\x1b[2J\r\n\u009b31m\u202ereversed\u2028\u200b\u{e0041}"=,'
  const sample = sampleManifest()
  const manifest: Manifest = {
    ...sample, tool: { name: 'kerninst', version: evil }, image: { ...sample.image, release: evil, symbols: [evil] }, programs: [evil],
    names: sample.names.map(() => evil), refusals: sample.refusals.map(() => ({ code: evil, reason: evil })),
    tactics: sample.tactics.map(() => evil),
  }
  const bad = bundleOf(manifest)
  const bytes = dumpOf(bad, 2)
  bytes.set(Buffer.from('\x1b[2J\u009bx\u202e', 'utf8'), DUMP.host)
  bytes.set(Buffer.from('\x1b[2J\u009bx\u202e\xff', 'latin1'), DUMP.release)
  const sums = reportNumbers(bad, readDump(bytes))
  const outputs = {
    text: reportText(sums, { width: 200, color: false }),
    csv: reportCsv(sums).replaceAll('\r\n', '\n'),
    json: reportJson(sums),
    markdown: [...reportMarkdown(sums)].join(''),
    html: [...reportHtml(sums)].join(''),
    showText: showText(bad),
    showJson: showJson(bad),
  }
  for (const [name, output] of Object.entries(outputs)) {
    t.notMatch(output.replaceAll('\n', ''), /[\p{C}\p{Zl}\p{Zp}]/u, `${name} has no control character`)
    t.match(output, /owned/, `${name} shows the name all the same`)
  }
  const parsed = JSON.parse(outputs.json) as { points: { at: string }[] }
  t.equal(parsed.points[0]!.at, `${evil}+0x5`, 'JSON keeps the very text')
  t.equal(printable('a\x1bé\u{1f600}\ud800'), 'a\\u{1b}é\u{1f600}\\u{d800}')
  t.equal(jsonLine({ a: '\\\u009b"' }), '{"a":"\\\\\\u009b\\""}\n')
})

t.test('numbers and times as text', async (t) => {
  for (const [value, text] of [[0n, '0'], [999n, '999'], [1000n, '1,000'], [123456n, '123,456']] as const) {
    t.equal(grouped(value), text)
  }
  t.equal(grouped(2n ** 64n), '18,446,744,073,709,551,616')
  for (const [ns, text] of [
    [0n, '0 ns'],
    [999n, '999 ns'],
    [1500n, '1.5 µs'],
    [2_500_000n, '2.5 ms'],
    [90_000_000_000n, '90.0 s'],
    [125_000_000_000n, '2 min 5 s'],
    [3_600_000_000_000n, '1 h 0 min'],
    [200_000_000_000_000n, '2 d 7 h'],
  ] as const) {
    t.equal(duration(ns), text)
  }
  t.equal(wallTime(0n), '1970-01-01 00:00:00 UTC')
  t.equal(wallTime(2n ** 64n - 1n), '2554-07-21 23:34:33 UTC', 'the last time that a u64 holds')
  t.same(wrapped('one two three fourteen', 7), ['one two', 'three', 'fourtee', 'n'])
  t.same(wrapped('', 7), [])
})

t.test('csv', async (t) => {
  t.equal(
    reportCsv(numbers),
    [
      'point,aggregate,at,count,derived,cpu0,cpu1',
      'entry:vfs_read,,vfs_read+0x5,1000,false,0,1000',
      'return:vfs_read,out,vfs_read+0x12,2008,false,4,2004',
      'call:vfs_read+0xd,,vfs_read+0xd,1004,false,2,1002',
      '',
    ].join('\r\n'),
  )
  const title = Uint32Array.of(5, 0, 0, 0, 0)
  const manifest = { ...sampleManifest(), names: [...sampleManifest().names, '=cmd("x"),1'], asked: { ...sampleManifest().asked, title } }
  const odd = bundleOf(manifest)
  t.match(reportCsv(reportNumbers(odd, readDump(dumpOf(odd, 1)))), `\r\n"'=cmd(""x""),1",,`)
})

t.test('show', async (t) => {
  const text = showText(bundle)
  for (const line of [
    'kernel    6.1.0-test-amd64',
    'text      16777216 bytes, instrumentable 9000000 (53.6 %)',
    `payload   ${bundle.payload.length} bytes: 4 sites, 4 slots, 20 frame words, 100 bytes of code, 6 fixups, 2 forms`,
    'signed    no',
    'program   return:vfs_read { @out = count() }',
    '  return:vfs_read  @out',
    '    vfs_read+0x100: slot 3, jmp at vfs_read+0x1005',
    '  site 1  vfs_read+0xd  call: call 0xffffffff8133321e',
    '  entry:no_such: unknown: no function of this name',
    '  insn:vfs_read+0x1: short: an instruction of 2 bytes; try insn:vfs_read+0x5',
  ]) {
    t.ok(text.split('\n').includes(line), line)
  }
  const shown = JSON.parse(showJson(bundle)) as { manifest: ManifestText }
  const { tool, image, programs, text: bytes } = sampleManifest()
  const { points, refusals, sites, ...rest } = shown.manifest
  t.same({ ...shown, manifest: rest }, {
    schema: 'kerninst.show/1',
    manifest: { tool, image, programs, aggregates: [], slots: 4, text: bytes },
    payload: { bytes: bundle.payload.length, sites: 4, slots: 4, frameWords: 20, codeBytes: 100, fixups: 6, forms: 2 },
    signed: false,
  })
  t.same(points[1], {
    point: 'return:vfs_read', aggregate: 'out', at: 'vfs_read+0x12', derived: false, less: [],
    parts: [{ at: 'vfs_read+0x1d', slot: 1, site: 2 }, { at: 'vfs_read+0x100', slot: 3, site: 3 }],
  })
  t.equal(points.length, 3)
  t.same(refusals, REFUSED)
  t.same(sites.map(({ rva, at, tactic, instruction }) => [rva, at, tactic, instruction]), [
    [0x1000, 'vfs_read+0x5', 'jmp', 'mov %rax,-0x7dcfdff0(,%rcx,8)'],
    [0x1008, 'vfs_read+0xd', 'call', 'call 0xffffffff8133321e'],
    [0x100d, 'vfs_read+0x12', 'jcc', 'je 0xffffffff81001053'],
    [0x2000, 'vfs_read+0x1005', 'jmp', 'jmp 0xffffffff8177865a'],
  ])
  t.equal(sites[3]!.listing.at(-1), 'ret  # as the running kernel has it')
})

t.test('many points: the first, sums, and what is left out', async (t) => {
  const derived = Array.from({ length: 3000 }, (_, i) => ({
    rva: VFS_READ + i, plus: [[i % 4, VFS_READ]] as [number, number][], minus: (i % 7 ? [] : [[3, VFS_READ]]) as [number, number][],
  }))
  const large = bundleOf(withDerived(sampleManifest(), derived))
  const sums = reportNumbers(large, readDump(dumpOf(large, 2)))
  const text = reportText(sums, { width: 90, color: false })
  t.ok(text.split('\n').every((line) => line.length <= 90))
  t.ok(text.split('\n').length < 400, `${text.split('\n').length} lines`)
  t.match(text, /^points   3003 served, 3000 of them derived; 2896 ran; 2 refused$/m)
  t.match(text, /^and 2903 more: --format json or csv gives all$/m)
  const total = sums.counts.slice(3).reduce((sum, count) => sum + count, 0n)
  t.match(text, new RegExp(`^${grouped(total)} +2893 +3000  block:vfs_read$`, 'm'), 'the sum of the function')
  t.match(text, /^imbalance \(322\)$/m)
  t.match(text, /^  and 222 nearer to zero$/m)
  t.match(text, /^refused \(2\)\n  insn:vfs_read\+0x1: short$/m)
  t.equal((JSON.parse(reportJson(sums)) as { points: unknown[] }).points.length, 3003, 'JSON has all')
  t.equal(reportCsv(sums).split('\r\n').length, 1 + 3003 + 1, 'CSV has all')
})
