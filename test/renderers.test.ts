// Hostile dumps and bundles, through every renderer of a report. The rule: one error of one line with an exit code for bad input, or
// every renderer finishes, in bounded time and memory, with what renderings.ts says of its output. Dumps whose fields are at their
// borders; manifests whose columns hold what they should not; both with random damage; names that are markup, escapes or longer than
// anybody reads; as much of everything as the limits allow.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readBundle, writeBundle, type Bundle } from '../src/bundle/bundle.js'
import { DUMP, HEAP, SIZE } from '../src/bundle/layout.js'
import { readDump } from '../src/dump/dump.js'
import { runsOf } from '../src/dump/fleet.js'
import { buildGraph } from '../src/cfg/graph.js'
import { loadImage } from '../src/image/image.js'
import { readDeclarations } from '../src/image/declarations.js'
import { readLines } from '../src/image/lines.js'
import { solveLiveness } from '../src/liveness/live.js'
import { reportNumbers, type ReportNumbers } from '../src/report/numbers.js'
import { printable } from '../src/report/printable.js'
import { COLUMNS, MOST_SLOTS, numbersIn, resealed, setNames, setNumbers, type Packed } from './bundles.js'
import { drawnDump, drawnRun } from './dumpfile.js'
import { kernel, keygen, plan } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { errorProblem, problemsOf, type Known } from './renderings.js'
import { NONE, VFS_READ, sampleManifest, sampleTables, sampleTarget, withDerived } from './sample.js'

const RANDOM_DUMPS = 30
const RANDOM_BUNDLES = 60
/** What needs the image is shown of one input in so many: it takes most of the time. */
const WITH_IMAGE = 30
const MAX_SECONDS = 15 // of one input
const MAX_MB = 2500 //    of the whole process, a real kernel's graph included

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-renderers-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
t.comment(seedNote)
const random = lottery(seed)

const PROGRAM = 'block:vfs_read, edge:vfs_readv, entry:vfs_re*, return:vfs_write, insn:vfs_read+1, call:vfs_write { @ = count() } entry:vfs_write { @named = count() } ' +
  'span:vfs_read { @ns = hist(elapsed); @on[cpu] = avg(oncpu); @size[arg2 & 3] = hist(arg2); @steps = lhist(arg2, 0, 65536, 4096); @sum = sum(oncpu); @most = max(elapsed); @least[cpu] = min(elapsed) }'

const target = kernel('6.1-cloud')
const path = join(scratch, 'bundle')
plan(target, [PROGRAM], keygen(scratch, 'trusted'), path)
const BYTES = readFileSync(path)
const REAL = readBundle(BYTES)
const image = loadImage(target.vmlinux)
const lines = readLines(target.vmlinux, image.base, image.imageBytes)
const KNOWN: Known = {
  live: solveLiveness(buildGraph(image)), lines, declarations: readDeclarations(target.vmlinux, image.base, lines), tables: REAL.decoded.tables,
  functions: ['vfs_read', 'vfs_readv'].flatMap((name) => image.functions.functionsNamed(name)),
}

const numbersOf = (bundle: Bundle, dumps: readonly Uint8Array[]): ReportNumbers =>
  reportNumbers(bundle, runsOf(dumps.map((bytes, i) => ({ path: `dump ${i}`, dump: readDump(bytes) }))))
const WHOLE = numbersOf(REAL, [drawnDump(REAL, 2, lottery(1))])

interface Tally {
  shown: number
  refused: number
  slowest: string
  slowestMs: number
}

/** Inputs of one kind; each ends in an error as it should be, or is shown as it should be. */
const kind = (name: string, make: (input: (what: string, bundle: Uint8Array | Bundle, ...dumps: (Uint8Array | ((bundle: Bundle) => Uint8Array))[]) => void, t: Test) => void): void => {
  t.test(name, { timeout: 0 }, (t) => {
    const tally: Tally = { shown: 0, refused: 0, slowest: '', slowestMs: 0 }
    make((what, given, ...dumps) => {
      const start = process.hrtime.bigint()
      let problems: string[]
      try {
        const bundle = given instanceof Uint8Array ? readBundle(given) : given
        const numbers = numbersOf(bundle, dumps.map((dump) => (dump instanceof Uint8Array ? dump : dump(bundle))))
        const isReal = bundle.manifest.image.buildId === REAL.manifest.image.buildId
        problems = isReal ? problemsOf(numbers, WHOLE, tally.shown % WITH_IMAGE === 0 ? KNOWN : undefined) : problemsOf(numbers)
        tally.shown++
      } catch (error) {
        const wrong = errorProblem(error)
        problems = wrong === '' ? [] : [wrong]
        tally.refused++
      }
      const ms = Number(process.hrtime.bigint() - start) / 1e6
      if (ms > tally.slowestMs) Object.assign(tally, { slowest: what, slowestMs: ms })
      if (ms > MAX_SECONDS * 1000) problems.push(`took ${(ms / 1000).toFixed(1)} s`)
      if (problems.length > 0) t.fail(printable(`${what}: ${problems.join('; ').slice(0, 1500)}`))
    }, t)
    const mb = process.resourceUsage().maxRSS / 1024
    t.ok(mb < MAX_MB, `${name}: ${tally.shown} shown, ${tally.refused} refused; the slowest ${tally.slowestMs.toFixed(0)} ms, ${printable(tally.slowest)}; at most ${mb.toFixed(0)} MB`)
    t.end()
  })
}

// ---- Texts -----------------------------------------------------------------------------------------------------------

const MARKUP = '</script><script>alert(1)</script><img src=x onerror=alert(2)>"\'&<!--'
const TEXTS: readonly string[] = [
  MARKUP, '\x1b]0;owned\x07\x1b[2J\r\n', '\u202ereversed\u2066\u2028\u2029', '\u009b31m\u200b\ufeff\u{e0041}\ufffe', 'a|b\\|c\\\\|d`e``f', '| --- |\n| x |',
  '=cmd|\'/c calc\'!A1', '+1,"2"\n@x', '\t-1', 'nul\0nul', '__proto__', 'constructor', '', ' ', '`', '\\', '&#27;&lt;', '%n%s', '\u{1f600}\u0301'.repeat(20), ';a b;c ',
]
/** Bytes that are no text. */
const RAW: readonly Buffer[] = [
  ...TEXTS.map((text) => Buffer.from(text)), Buffer.from([0xff, 0xfe, 0xc0, 0x80]), Buffer.from([0xed, 0xa0, 0x80, 0xed, 0xb0, 0x80]),
  Buffer.from('\udc1b\x9b', 'latin1'), Buffer.alloc(64, 0xff), Buffer.alloc(64, 0x1b),
]

const withText = (dump: Buffer, at: number, text: Buffer): Buffer => {
  dump.fill(0, at, at + 65)
  text.copy(dump, at, 0, 64)
  return dump
}

// ---- Dumps -----------------------------------------------------------------------------------------------------------

const fieldsOf = (layout: Readonly<Record<string, number>>, size: number, base: number): { name: string; at: number; bytes: number }[] => {
  const all = Object.entries(layout)
  return all.map(([name, at], i) => ({ name, at: base + at, bytes: (all[i + 1]?.[1] ?? size) - at }))
}
const FIELDS = [...fieldsOf(DUMP, SIZE.dump, 0), ...fieldsOf(HEAP, SIZE.heap, SIZE.dump)]

/** 0, 1, the most, one less, the sign alone: a number's bytes, or all of a longer field. */
const borders = (bytes: number): Buffer[] => {
  const [top, all] = [Buffer.alloc(bytes), Buffer.alloc(bytes, 0xff)]
  top[bytes - 1] = 0x80
  const less = Buffer.from(all)
  less[0] = 0xfe
  const one = Buffer.alloc(bytes)
  one[0] = 1
  return [Buffer.alloc(bytes), one, all, less, top]
}

const HEAP_AT = SIZE.dump
const u64 = (dump: Buffer, field: number, value: bigint): Buffer => {
  dump.writeBigUInt64LE(value, HEAP_AT + field)
  return dump
}
const fresh = (cpus = 2, host = 'host'): Buffer => drawnDump(REAL, cpus, random, host)
const MOST = 2n ** 64n - 1n

kind('every field of a dump at its borders', (input, t) => {
  for (const { name, at, bytes } of FIELDS) {
    for (const value of borders(bytes)) {
      const dump = fresh()
      value.copy(dump, at)
      input(`${name} ${value.toString('hex').slice(0, 20)}`, REAL, dump)
    }
  }
  // And in one of several dumps of a run: times that go back, counters that shrink, resets.
  const run = drawnRun(REAL, 2, random, [10, 20, 30])
  for (const { name, at, bytes } of FIELDS) {
    for (const value of borders(bytes)) {
      const changed = Buffer.from(run[1]!)
      value.copy(changed, at)
      input(`series: ${name} ${value.toString('hex').slice(0, 20)}`, REAL, run[0]!, changed, run[2]!)
    }
  }
  t.equal(FIELDS.length, Object.keys(DUMP).length + Object.keys(HEAP).length)
})

kind('times, counters, CPUs, hosts', (input) => {
  const full = fresh(3)
  full.fill(0xff, HEAP_AT + 4096)
  input('all counters full', REAL, full)
  const none = fresh(3)
  none.fill(0, HEAP_AT + 4096)
  input('no counter', REAL, none)
  for (const applied of [0n, 1n, 2n ** 63n, MOST]) {
    for (const removed of [1n, 2n ** 63n, MOST]) input(`applied ${applied}, removed ${removed}`, REAL, u64(u64(fresh(), HEAP.appliedNs, applied), HEAP.removedNs, removed))
  }
  for (const cpus of [1, 17, 33, 129]) input(`${cpus} CPUs`, REAL, fresh(cpus))
  for (const text of RAW) {
    input(`host and release ${text.toString('latin1')}`, REAL, withText(withText(fresh(), DUMP.host, text), DUMP.release, text))
    const host = (number: number): Buffer => withText(u64(fresh(), HEAP.appliedNs, BigInt(number)), DUMP.host, text)
    input(`hosts ${text.toString('latin1')}`, REAL, ...Array.from({ length: 3 }, (_, i) => host(i + 1)))
  }
  const [low, high] = [fresh(2, 'low'), fresh(2, 'high')]
  low.fill(0, HEAP_AT + 4096)
  high.fill(0xff, HEAP_AT + 4096)
  input('outliers', REAL, low, high, fresh(2, 'a'), fresh(2, 'b'))
  input('for a nanosecond each', REAL, ...['a', 'b', 'c', 'd'].map((name) => u64(u64(fresh(2, name), HEAP.appliedNs, 5n), HEAP.removedNs, 6n)))
  input('one dump twice', REAL, low, low)
  input('another bundle', REAL, low, drawnDump(bundleOf(sampleManifest()), 2, random))
  input('another bundle, alone', REAL, drawnDump(bundleOf(sampleManifest()), 2, random))
  const whole = fresh()
  for (const end of [0, 7, 8, 255, 256, 4351, 4352, whole.length - 1]) input(`cut at ${end}`, REAL, whole.subarray(0, end))
  for (const more of [1, 8, 4096]) input(`${more} bytes more`, REAL, Buffer.concat([whole, Buffer.alloc(more)]))
})

kind('dumps with random damage', (input) => {
  for (let n = 0; n < RANDOM_DUMPS; n++) {
    const dump = fresh(1 + random(4))
    for (let k = random(4); k >= 0; k--) {
      // Most of it where it is not refused: times, texts and counters.
      const [from, to] = [[0, dump.length], [DUMP.dumpedNs, DUMP.release + 64], [HEAP_AT + HEAP.appliedNs, HEAP_AT + HEAP.siteCount], [HEAP_AT + 4096, dump.length]][random(4)] as [number, number]
      dump[from + random(to - from)] = random(3) === 0 ? 0xff : random(256)
    }
    input(`dump ${n}`, REAL, dump)
  }
})

// ---- Bundles ---------------------------------------------------------------------------------------------------------

const drawn = (cpus: number, host = 'host') => (bundle: Bundle): Uint8Array => drawnDump(bundle, cpus, random, host)

const namesOf = (packed: Packed, text: (i: number) => string): void => setNames(packed, Array.from({ length: packed.counts.names }, (_, i) => text(i)))

kind('texts of a bundle', (input) => {
  for (const text of TEXTS) {
    const all = (packed: Packed): void => {
      namesOf(packed, () => text)
      packed.tool.version = packed.image.release = text
      packed.image.symbols = [text]
      packed.programs = [text, text]
      packed.refusals = packed.refusals.map(() => ({ code: text, reason: text }))
      packed.tactics = packed.tactics.map(() => text)
      packed.aggregates = packed.aggregates.map((one) => ({ ...one, name: text }))
    }
    const bytes = resealed(BYTES, all)
    input(`all texts ${JSON.stringify(text)}`, bytes, drawn(2))
    input(`all texts, three hosts ${JSON.stringify(text)}`, bytes, ...['a', 'b', 'c'].map((host) => drawn(1, host)))
  }
  for (const bytes of [4096, 4097, 65_536]) input(`names of ${bytes} bytes`, resealed(BYTES, (packed) => namesOf(packed, () => 'n'.repeat(bytes))), drawn(2))
  const raw = (text: Buffer) => (manifest: Buffer): void => { text.copy(manifest, manifest.indexOf('MARK')) }
  for (const text of [[0xff, 0xfe, 0xc0, 0x80], [0xed, 0xa0, 0x80, 0x41], [0xf4, 0x90, 0x80, 0x80]]) {
    input(`no UTF-8 ${text.join(' ')}`, resealed(BYTES, (packed) => { packed.tool.version = 'MARK' }, {}, raw(Buffer.from(text))), drawn(2))
  }
})

const BOUNDS = [0, 1, 0xff, 0x7fffffff, 0xffffffff]

kind('columns of a bundle', (input) => {
  for (const name of Object.keys(COLUMNS)) {
    for (const value of BOUNDS) input(`${name}: all ${value}`, resealed(BYTES, (packed) => setNumbers(packed, name, numbersIn(packed, name).map(() => value))), drawn(2))
    input(`${name}: reversed`, resealed(BYTES, (packed) => setNumbers(packed, name, numbersIn(packed, name).reverse())), drawn(2))
    input(`${name}: one more`, resealed(BYTES, (packed) => setNumbers(packed, name, [...numbersIn(packed, name), 0])), drawn(2))
    input(`${name}: junk`, resealed(BYTES, ({ columns }) => { columns[name] = Uint8Array.from({ length: 200 }, () => random(256)) }), drawn(2))
  }
  for (const [count, value] of [['names', 2 ** 20], ['points', 2 ** 23], ['points', 0], ['terms', 2 ** 25], ['terms', 0], ['slots', 2 ** 20], ['asked', 0]] as const) {
    input(`${value} ${count}`, resealed(BYTES, ({ counts }) => { counts[count] = value }), drawn(2))
  }
})

kind('aggregates of a bundle', (input) => {
  const kinds = ['count', 'sum', 'avg', 'min', 'max', 'hist', 'lhist', '']
  const ranges = [
    [], ['0', '1', '1'], ['-9999999999999999999', '9999999999999999999', '6666666666666666666'], ['-0', '4094', '1'], ['0', '0', '0'], ['1', '0', '1'],
    ['-9223372036854775808', '9223372036854775807', '1'], ['9223372036854775800', '9223372036854775807', '7'], ['0', '-1', '-1'], ['0x0', '1', '1'],
  ]
  for (const [i, of] of [...kinds.entries()].filter(([, one]) => one !== 'lhist')) {
    input(`all ${of}`, resealed(BYTES, (packed) => { packed.aggregates = packed.aggregates.map((one) => ({ ...one, kind: of })) }), drawn(2))
    input(`number ${i} overlaps`, resealed(BYTES, (packed) => { packed.aggregates[i % packed.aggregates.length]!.first = 3 }), drawn(2))
  }
  const steps = (packed: Packed): Packed['aggregates'][number] => packed.aggregates.find(({ kind }) => kind === 'lhist')!
  for (const range of ranges) {
    input(`lhist ${range.join(' ')}`, resealed(BYTES, (packed) => { steps(packed).range = range }), drawn(2))
    const [low, high, step] = range
    if (step === undefined || range.some((each) => !/^-?\d{1,19}$/.test(each)) || BigInt(step) <= 0n) continue
    const width = Number((BigInt(high!) - BigInt(low!)) / BigInt(step)) + 2
    if (BigInt(high!) <= BigInt(low!) || width > 4096) continue
    // One that takes the slots that it needs.
    for (const [unit, signed] of [['ns', 1], ['ticks', 0], ['number', 1]] as const) {
      input(`lhist ${range.join(' ')} in ${unit}`, sampleWith([{ kind: 'lhist', unit, signed, width, range }]), drawn(3))
    }
  }
  for (const of of ['sum', 'avg', 'min', 'max', 'hist']) {
    for (const [unit, signed] of [['ns', 1], ['ns', 0], ['ticks', 1], ['number', 1]] as const) {
      const bytes = sampleWith([{ kind: of, unit, signed, width: of === 'sum' ? 1 : of === 'hist' ? 65 : 2 }])
      input(`${of} in ${unit}`, bytes, drawn(3))
      input(`${of} in ${unit}, full`, bytes, (bundle) => drawnDump(bundle, 3, random).fill(0xff, HEAP_AT + 4096))
    }
  }
  for (const missed of [0, 1, NONE, NONE - 1]) input(`missed ${missed}`, resealed(BYTES, (packed) => { packed.missed = missed }), drawn(2))
})

kind('bundles with random damage', (input) => {
  const names = Object.keys(COLUMNS)
  for (let n = 0; n < RANDOM_BUNDLES; n++) {
    const what: string[] = []
    const bytes = resealed(BYTES, (packed) => {
      for (let k = random(3); k >= 0; k--) {
        const name = names[random(names.length)]!
        const values = numbersIn(packed, name)
        if (values.length === 0) continue
        const [i, from] = [random(values.length), random(values.length)]
        // Values of the same table pass more checks than others.
        values[i] = random(3) === 0 ? BOUNDS[random(BOUNDS.length)]! : random(2) === 0 ? values[from]! : values[i]! + random(5) - 2
        setNumbers(packed, name, values)
        what.push(`${name}[${i}] = ${values[i]!}`)
      }
    }, {}, (manifest) => {
      if (random(6) > 0) return
      const at = random(manifest.length)
      what.push(`byte ${at}`)
      manifest[at]! ^= 1 << random(8)
    })
    input(what.join(', '), bytes, drawn(1 + random(3)))
  }
  for (let n = 0; n < 20; n++) {
    const bytes = Buffer.from(BYTES)
    bytes[random(bytes.length)]! ^= 1 << random(8)
    input('without a digest', random(2) === 0 ? bytes : bytes.subarray(0, random(bytes.length)), drawn(2))
  }
})

// ---- As much as the limits allow -------------------------------------------------------------------------------------

type Manifest = ReturnType<typeof sampleManifest>

function bundleOf(manifest: Manifest, slotCount = 4): Bundle {
  return readBundle(writeBundle({ manifest, target: sampleTarget(), tables: { ...sampleTables(), slotCount } }))
}

/** The sample with these aggregates; each begins a piece of the heap, or follows the one before where there is room. */
function sampleWith(aggregates: readonly { kind: string; name?: string; unit?: string; signed?: number; keyKind?: string; keys?: number; width: number; range?: string[] }[], manifest = sampleManifest()): Uint8Array {
  const base = manifest.slotSite.length
  let next = base + 1
  const all = aggregates.map(({ kind, name = 'a', unit = 'number', signed = 0, keyKind = 'none', keys = 1, width, range = [] }) => {
    const slots = keys * width
    if (Math.floor(next / 4096) !== Math.floor((next + slots - 1) / 4096)) next = Math.ceil(next / 4096) * 4096
    const first = next
    next += slots
    return { name, kind, signed, unit, keyKind, keys, width, first, range } as Manifest['aggregates'][number]
  })
  if (next > MOST_SLOTS) throw new Error(`${next} slots`)
  return writeBundle({ manifest: { ...manifest, aggregates: all, missed: base }, target: sampleTarget(), tables: { ...sampleTables(), slotCount: next } })
}

const blocks = (count: number, terms: number, manifest = sampleManifest()): Manifest => withDerived(manifest, Array.from({ length: count }, (_, i) => ({
  rva: VFS_READ + i, plus: Array.from({ length: terms }, (_, k) => [(i + k) % 4, VFS_READ + k] as [number, number]), minus: [[i % 4, VFS_READ] as [number, number]],
})))

const QUOTES = '"\x01'.repeat(2048)

kind('much of everything', (input) => {
  input('8192 CPUs', writeBundle({ manifest: sampleManifest(), target: sampleTarget(), tables: sampleTables() }), drawn(8192))
  input('500 CPUs, 1500 points', writeBundle({ manifest: blocks(1500, 1), target: sampleTarget(), tables: sampleTables() }), drawn(500))
  input('8192 CPUs that are keys', sampleWith(Array.from({ length: 20 }, () => ({ kind: 'avg', keyKind: 'cpu', width: 2 }))), drawn(8192))
  input('a million keys', sampleWith(Array.from({ length: 255 }, () => ({ kind: 'count', keyKind: 'index', keys: 4096, width: 1 }))), drawn(1))
  input('1300 histograms', sampleWith(Array.from({ length: 20 }, () => ({ kind: 'hist', keyKind: 'index', keys: 63, width: 65 }))), drawn(1))
  input('10 histograms of 4096 steps', sampleWith(Array.from({ length: 10 }, () => ({ kind: 'lhist', width: 4096, range: ['0', '4094', '1'] }))), drawn(1))
  input('1000 aggregates with long names', sampleWith(Array.from({ length: 1000 }, () => ({ kind: 'sum', name: QUOTES, width: 1 }))), drawn(1))
  const long = { ...blocks(500, 1), names: sampleManifest().names.map(() => QUOTES) }
  input('long names', writeBundle({ manifest: long, target: sampleTarget(), tables: sampleTables() }), drawn(2))
  const programs = Array.from({ length: 8 }, () => '\'\u{1b}'.repeat(2 ** 19))
  input('8 MB of programs', writeBundle({ manifest: { ...sampleManifest(), programs }, target: sampleTarget(), tables: sampleTables() }), drawn(1))
  const refusals = Array.from({ length: 255 }, (_, i) => ({ code: `${i}${QUOTES}`.slice(0, 4096), reason: QUOTES }))
  const sample = sampleManifest()
  const { points } = sample
  const refused = { ...sample, refusals, points: { ...points, refusal: points.refusal.map((each, p) => (each === 0 ? 0 : 254 - p)) } }
  input('255 reasons for refusals', writeBundle({ manifest: refused, target: sampleTarget(), tables: sampleTables() }), drawn(1))
  input('a point of 4000 counters, on 512 CPUs', writeBundle({ manifest: blocks(1, 4000), target: sampleTarget(), tables: sampleTables() }), drawn(512))
  input('a point of a million counters', resealed(writeBundle({ manifest: sample, target: sampleTarget(), tables: sampleTables() }), (packed) => {
    packed.counts.terms = 1_000_000
    setNumbers(packed, 'termCount', [999_998, 1, 1, 0, 0])
    setNumbers(packed, 'term', new Uint32Array(1_000_000))
    setNumbers(packed, 'termRva', new Uint32Array(1_000_000))
  }), drawn(64))
  const parts = { ...points, termStart: Uint32Array.of(0, 3000, 3001, 3002, 3002, 3002), term: new Uint32Array(3002), termRva: new Uint32Array(3002).fill(VFS_READ) }
  input('a point at 3000 places', writeBundle({ manifest: { ...sample, points: parts }, target: sampleTarget(), tables: sampleTables() }), drawn(2))
})
