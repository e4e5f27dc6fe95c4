// The counter heap in memory images: of every format, as written here (cores.ts) and as QEMU writes it, an outside judge;
// which heap is taken of several; what is damaged, left out, or hostile.

import { spawn, spawnSync, execFileSync } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { constants, deflateSync } from 'node:zlib'
import fc from 'fast-check'
import t from 'tap'
import type { Test } from 'tap'
import { readBundle, writeBundle } from '../src/bundle/bundle.js'
import { HEAP, SIZE } from '../src/bundle/layout.js'
import { readDump, type Dump } from '../src/dump/dump.js'
import { findHeap } from '../src/dump/find.js'
import { mayStartWith } from '../src/dump/firstbyte.js'
import { disjoint, runFrom } from '../src/dump/runs.js'
import { openSource } from '../src/dump/source.js'
import { openVmcore } from '../src/dump/vmcore.js'
import { EXIT, KerninstError } from '../src/error.js'
import { reportNumbers } from '../src/report/numbers.js'
import { reportJson } from '../src/report/json.js'
import { reportText } from '../src/report/text.js'
import {
  PAGE, elfCore, flatEnd, flatHeader, flatPiece, flattened, kdump, note, segmentsOf, type KdumpOptions, type Memory, type Packing,
} from './cores.js'
import { compileJudge, newScratch, run } from './judge.js'
import { sampleManifest, sampleTables, sampleTarget } from './sample.js'

const ROOT = fileURLToPath(new URL('../../', import.meta.url)) // compiled to build/test/
const seed = Number(process.env['KERNINST_SEED'] ?? Date.now() % 0x7fffffff) | 1
t.comment(`KERNINST_SEED=${seed}`)
const scratch = newScratch()
t.teardown(() => rmSync(scratch, { recursive: true }))
const judge = compileJudge(scratch)
const IMAGE = join(scratch, 'vmcore')

const bundleBytes = writeBundle({ manifest: sampleManifest(), target: sampleTarget(), tables: sampleTables() })
const bundle = readBundle(bundleBytes)
const wanted = { buildId: bundle.manifest.image.buildId, payloadSha256: bundle.payloadSha256 }

const APPLIED = 1
const REMOVED = 2

interface HeapOptions {
  readonly cpus?: number
  readonly slots?: number
  readonly state?: number
  readonly appliedNs?: bigint
  readonly sha256?: Uint8Array
}

/** A dump as the C side writes it, but of this bundle's heap. */
const dumpOf = ({ cpus = 2, slots = 4, state = APPLIED, appliedNs = 1700000000000000000n, sha256 = wanted.payloadSha256 }: HeapOptions): Buffer => {
  const bytes = run(judge, ['dump', `${cpus}`, `${slots}`])
  const header = bytes.subarray(SIZE.dump)
  header.set(sha256, HEAP.payloadSha256)
  header.set(bundle.decoded.target.buildId, HEAP.buildId)
  header.writeUInt32LE(state, HEAP.state)
  header.writeBigUInt64LE(appliedNs, HEAP.appliedNs)
  header.writeBigUInt64LE(state === REMOVED ? appliedNs + 2500000000n : 0n, HEAP.removedNs)
  header.writeBigUInt64LE(0n, HEAP.snapshotNs)
  return bytes
}

interface Placed {
  readonly header: number // page frames
  readonly pages: readonly number[]
  readonly directories: readonly number[]
}

/** Puts a heap into memory, with its directory. @param frame gives a free page frame each time */
const place = (memory: Memory, frame: () => number, options: HeapOptions = {}): Placed => {
  const mapping = Buffer.from(dumpOf(options).subarray(SIZE.dump))
  const pages = Array.from({ length: mapping.length / PAGE }, frame)
  const directories = Array.from({ length: Math.ceil(pages.length / 511) }, frame)
  mapping.writeBigUInt64LE(BigInt(directories[0]!), HEAP.directoryPfn)
  pages.forEach((pfn, i) => memory.set(pfn, mapping.subarray(i * PAGE, (i + 1) * PAGE)))
  directories.forEach((pfn, i) => {
    const list = Buffer.alloc(PAGE)
    list.writeBigUInt64LE(BigInt(directories[i + 1] ?? 0), 0)
    pages.slice(511 * i, 511 * (i + 1)).forEach((page, j) => list.writeBigUInt64LE(BigInt(page), 8 + 8 * j))
    memory.set(pfn, list)
  })
  return { header: pages[0]!, pages, directories }
}

/** Page frames in no order: a step that has no divisor in common with their number visits all. */
const scattered = (first = 0x1234): (() => number) => {
  let at = 0
  return () => 1 + (first + 1549 * at++) % 4099
}

/** Pages that are like those of a machine: zeros, texts, noise, and words of the heap's at the wrong place. */
const surroundings = (memory: Memory, count: number): void => {
  for (let i = 0, pfn = 0; i < count; pfn++) {
    if (memory.has(pfn)) continue
    const page = Buffer.alloc(PAGE)
    if (i % 4 === 1) page.fill('KINSTHEA')
    if (i % 4 === 2) page.fill(`page ${pfn} of a machine `)
    if (i % 4 === 3) for (let j = 0; j < PAGE; j++) page[j] = Math.imul(pfn * PAGE + j, 0x9e3779b1) >>> 24
    memory.set(pfn, page)
    i++
  }
}

const find = async (image: Buffer | string, progress?: (done: number) => void) => {
  if (typeof image !== 'string') writeFileSync(IMAGE, image)
  const memory = openVmcore(typeof image === 'string' ? image : IMAGE)
  try {
    return await findHeap(memory, wanted, progress)
  } finally {
    memory.close()
  }
}

const refuses = async (test: Test, exit: number, message: RegExp, image: Buffer | string, name: string): Promise<void> => {
  try {
    await find(image)
  } catch (error) {
    if (!(error instanceof KerninstError)) throw error
    test.equal(error.exit, exit, `${name}: exit code ${exit}`)
    test.match(error.message, message, name)
    test.notMatch(error.message, /\n/, `${name}: one line`)
    return
  }
  test.fail(`${name}: not refused`)
}

/** What a dump says, counters included. */
const contents = (dump: Dump, slots = dump.slotCount): object => {
  const { count, host, release, dumpedNs, ...fields } = dump
  const counters = Array.from({ length: dump.cpuCount }, (_, cpu) => Array.from({ length: slots }, (_, slot) => count(cpu, slot)))
  return { ...fields, counters }
}

const oneHeap = (options: HeapOptions = {}): { memory: Memory; placed: Placed } => {
  const memory: Memory = new Map()
  const placed = place(memory, scattered(), options)
  surroundings(memory, 40)
  return { memory, placed }
}

// ---- Parts ---------------------------------------------------------------------------------------------------------

t.test('runs of intervals, against painting place by place', async () => {
  fc.assert(fc.property(fc.array(fc.tuple(fc.nat(40), fc.nat(12)), { maxLength: 12 }), (intervals) => {
    const runs = disjoint(Float64Array.from(intervals, ([start]) => start), Float64Array.from(intervals, ([start, length]) => start + length))
    const painted = new Array<number>(60).fill(-1)
    intervals.forEach(([start, length], i) => painted.fill(i, start, start + length))
    for (let place = 0; place < painted.length; place++) {
      const run = runFrom(runs, place)
      const owner = run < runs.count && runs.start[run]! <= place ? runs.owner[run] : -1
      if (owner !== painted[place]) throw new Error(`place ${place}: ${owner}, not ${painted[place]}`)
    }
    for (let i = 1; i < runs.count; i++) if (runs.start[i]! < runs.end[i - 1]!) throw new Error('runs overlap')
  }), { seed, numRuns: 500 })
})

t.test('the first byte of a zlib stream', async (t) => {
  const letters = fc.constantFrom(...'KINSTHEA\0\x03\xff')
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 600 }), fc.array(letters, { maxLength: 600 }).map((text) => Buffer.from(text.join(''), 'latin1')),
    fc.tuple(fc.integer({ min: 0, max: 255 }), fc.nat(4096)).map(([byte, length]) => new Uint8Array(length).fill(byte)))
  const options = fc.record({
    level: fc.integer({ min: 0, max: 9 }), memLevel: fc.integer({ min: 1, max: 9 }),
    strategy: fc.constantFrom(constants.Z_DEFAULT_STRATEGY, constants.Z_FIXED, constants.Z_HUFFMAN_ONLY, constants.Z_RLE, constants.Z_FILTERED),
  })
  let others = 0
  let doubtful = 0
  fc.assert(fc.property(bytes, options, fc.constantFrom(0x4b, 0, 3, 255), fc.nat(5), (plain, how, byte, before) => {
    const packed = deflateSync(plain, how)
    const among = Buffer.concat([Buffer.alloc(before, 0xa5), packed, Buffer.alloc(3, 0x5a)])
    const may = mayStartWith(among, before, before + packed.length, byte)
    if (plain[0] === byte && !may) throw new Error(`misses ${Buffer.from(packed).toString('hex')}`)
    if (plain.length === 0 || plain[0] === byte) return
    others++
    if (may) doubtful++
  }), { seed, numRuns: 4000 })
  t.ok(doubtful < others / 4, `of ${others} streams that start otherwise, ${doubtful} are left in doubt`)
  fc.assert(fc.property(fc.uint8Array({ maxLength: 80 }), (noise) => typeof mayStartWith(noise, 0, noise.length, 0x4b) === 'boolean'),
    { seed, numRuns: 4000 })
})

// ---- Formats -------------------------------------------------------------------------------------------------------

const VMCOREINFO = 'OSRELEASE=6.1.0-test-amd64\nBUILD-ID=00\nPAGESIZE=4096\n'
const NOTES = Buffer.concat([note('CORE', 1, 'registers'), note('VMCOREINFO', 0, VMCOREINFO)])

t.test('what is read is what was counted, whatever the format', async (t) => {
  const options = { cpus: 3, slots: 600, state: REMOVED }
  const expected = contents(readDump(dumpOf(options)))
  const { memory, placed } = oneHeap(options)
  const segments = segmentsOf(memory)
  const mixed: readonly Packing[] = ['none', 'zlib', 'zlib-fixed', 'zlib-stored', 'zstd']
  const text = { address: segments[0]!.address, bytes: segments[0]!.bytes } // as kexec-tools names the kernel's text twice
  const backwards = (pieces: number): number[] => Array.from({ length: pieces }, (_, i) => pieces - 1 - i)
  const inOrder = (pieces: number): number[] => Array.from({ length: pieces }, (_, i) => i)
  const packed = (options: KdumpOptions): Buffer => kdump(memory, options)
  t.ok(segments.length > 5, `${segments.length} segments`)
  const formats: readonly [string, Buffer, string, string][] = [
    ['ELF', elfCore(segments, NOTES), '', '6.1.0-test-amd64'],
    ['ELF, a segment a page', elfCore([...memory].map(([pfn, bytes]) => ({ address: pfn * PAGE, bytes }))), '', ''],
    ['ELF, as if of many segments', elfCore(segments, NOTES, true), '', '6.1.0-test-amd64'],
    ['ELF, overlapping segments', elfCore([text, ...segments, text]), '', ''],
    ['ELF, segments that start and end inside pages', elfCore([{ address: 100, bytes: segments[0]!.bytes.subarray(100) },
      ...segments.slice(1).map(({ address, bytes }) => ({ address: Number(address) - 7, bytes: Buffer.concat([Buffer.alloc(7, 1), bytes, Buffer.alloc(9, 1)]) }))]), '', ''],
    ['kdump, zlib', packed({ vmcoreinfo: VMCOREINFO }), '', '6.1.0-test-amd64'],
    ['kdump, named by its header', packed({ nodename: 'target-7', release: '6.1.0-test' }), 'target-7', '6.1.0-test'],
    ['kdump, version 1, not packed', packed({ version: 1, packing: () => 'none', status: 0, vmcoreinfo: VMCOREINFO }), '', ''],
    ['kdump, version 3, sub-header of 2 blocks', packed({ version: 3, subBlocks: 2, vmcoreinfo: VMCOREINFO }), '', '6.1.0-test-amd64'],
    ['kdump, zstd', packed({ packing: () => 'zstd', status: 0x20 }), '', ''],
    ['kdump, mixed', packed({ packing: (pfn) => mixed[(pfn + 5) % 5]! }), '', ''],
    ['kdump, flattened', flattened(packed({}), 16384, inOrder), '', ''],
    ['kdump, flattened backwards, in small pieces', flattened(packed({}), 333, backwards), '', ''],
    ['ELF, flattened', flattened(elfCore(segments), 70000, backwards), '', ''],
  ]
  for (const [name, image, host, release] of formats) {
    const seen: number[] = []
    const { dump, others } = await find(image, (done) => seen.push(done))
    t.same(contents(dump), expected, name)
    t.same([dump.host, dump.release, dump.dumpedNs, others], [host, release, 0n, 0], `${name}: the rest`)
    t.ok(seen.at(-1) === 1 && seen.every((done, i) => done >= (seen[i - 1] ?? 0)), `${name}: progress`)
  }
  const memoryOfAll = openVmcore(IMAGE)
  const page = new Uint8Array(PAGE)
  t.notOk(memoryOfAll.readPage(2 ** 39, page) || memoryOfAll.readPage(4097, page), 'frames that are not there')
  memoryOfAll.close()
  t.ok(memory.has(placed.header))
})

t.test('counters of zero that an ELF core leaves out', async (t) => {
  const memory: Memory = new Map()
  let next = 16
  const placed = place(memory, () => next++, { cpus: 2, slots: 511 })
  memory.set(placed.pages.at(-1)!, Buffer.alloc(PAGE))
  const from = (pfns: readonly number[]): Buffer => Buffer.concat(pfns.map((pfn) => memory.get(pfn)!))
  const { dump } = await find(elfCore([
    { address: placed.header * PAGE, bytes: from(placed.pages.slice(0, -1)), memory: placed.pages.length * PAGE },
    { address: placed.directories[0]! * PAGE, bytes: from(placed.directories) },
  ]))
  t.same([dump.count(0, 5), dump.count(1, 5)], [5n, 0n])
})

t.test('a heap of many pages', async (t) => {
  const memory: Memory = new Map()
  place(memory, scattered(), { cpus: 4, slots: 512 * 300 })
  const expected = readDump(dumpOf({ cpus: 4, slots: 512 * 300 }))
  for (const image of [elfCore(segmentsOf(memory)), kdump(memory)]) {
    const { dump } = await find(image)
    for (let slot = 0; slot < dump.slotCount; slot += 97) {
      for (let cpu = 0; cpu < 4; cpu++) if (dump.count(cpu, slot) !== expected.count(cpu, slot)) t.fail(`slot ${slot} of CPU ${cpu}`)
    }
    t.equal(dump.slotCount, 512 * 300)
  }
})

t.test('images of more than is read at a time', async (t) => {
  const memory: Memory = new Map()
  surroundings(memory, 6000) // a quarter noise, 6 MB
  for (const pfn of memory.keys()) if (pfn % 4 === 2) memory.set(pfn, memory.get(pfn + 1)!)
  let next = 0
  place(memory, () => 5990 + 3 * next++)
  for (const [name, image] of [
    ['ELF', elfCore(segmentsOf(memory))],
    ['kdump', kdump(memory, { packing: (pfn) => (pfn % 2 ? 'none' : 'zlib') })],
    ['kdump, its pages backwards', kdump(memory, { backwards: true })],
    ['kdump, flattened', flattened(kdump(memory), 65536, (pieces) => Array.from({ length: pieces }, (_, i) => i))],
  ] as const) {
    t.ok(image.length > 2 ** 22, `${name}: ${image.length} bytes`)
    const { dump } = await find(image)
    t.same(contents(dump), contents(readDump(dumpOf({}))), name)
  }
})

// ---- Which heap ----------------------------------------------------------------------------------------------------

t.test('which heap is taken', async (t) => {
  const both = (memory: Memory): Buffer[] => [elfCore(segmentsOf(memory)), kdump(memory)]
  const otherSha256 = new Uint8Array(32).fill(0x77)

  const several: Memory = new Map()
  const frame = scattered()
  place(several, frame, { cpus: 1, appliedNs: 1600000000000000000n })
  place(several, frame, { cpus: 3, appliedNs: 1700000000000000000n })
  place(several, frame, { cpus: 2, appliedNs: 1650000000000000000n, state: REMOVED })
  place(several, frame, { cpus: 4, appliedNs: 1800000000000000000n, sha256: otherSha256 })
  for (const image of both(several)) {
    const { dump, others } = await find(image)
    t.same([dump.cpuCount, others], [3, 2], 'the one of this bundle that was applied last')
  }

  const stale = oneHeap()
  const copy = Buffer.from(stale.memory.get(stale.placed.header)!)
  stale.memory.set(5000, copy) // the same bytes at another frame: its directory names another page first
  const snapshot = Buffer.from(copy)
  snapshot.writeBigUInt64LE(0n, HEAP.directoryPfn)
  snapshot.writeBigUInt64LE(1900000000000000000n, HEAP.snapshotNs)
  stale.memory.set(5001, snapshot)
  const old = Buffer.from(copy)
  old.writeUInt32LE(2, HEAP.version)
  stale.memory.set(5002, old)
  const nowhere = Buffer.from(copy)
  nowhere.writeBigUInt64LE(2n ** 64n - 1n, HEAP.directoryPfn)
  stale.memory.set(5003, nowhere)
  for (const image of both(stale.memory)) {
    const { dump, others } = await find(image)
    t.same([dump.cpuCount, others], [2, 0], 'copies, snapshots and other versions are none')
  }
  stale.memory.delete(stale.placed.header)
  for (const image of both(stale.memory)) await refuses(t, EXIT.data, /no counter heap in it/, image, 'nothing but copies')

  const foreign: Memory = new Map()
  place(foreign, frame, { sha256: otherSha256 })
  place(foreign, frame, { sha256: otherSha256 })
  place(foreign, frame, { sha256: new Uint8Array(32), state: 0, appliedNs: 0n })
  const sha256 = Buffer.from(wanted.payloadSha256).toString('hex')
  for (const image of both(foreign)) {
    await refuses(t, EXIT.mismatch, new RegExp(`sha256 ${sha256}.*but (?=.*sha256 ${'77'.repeat(32)} of the kernel with build id ${wanted.buildId})(?=.*being applied, before)`),
      image, 'of other bundles')
  }
  for (let i = 0; i < 6; i++) place(foreign, frame, { sha256: new Uint8Array(32).fill(i + 1) })
  await refuses(t, EXIT.mismatch, /; and 4 more$/, elfCore(segmentsOf(foreign)), 'many others')

  const broken: Memory = new Map()
  const newest = place(broken, frame, { cpus: 4, appliedNs: 1800000000000000000n })
  place(broken, frame, { cpus: 1 })
  broken.delete(newest.pages.at(-1)!)
  t.equal((await find(elfCore(segmentsOf(broken)))).dump.cpuCount, 1, 'one that is whole rather than a later one that is not')
})

t.test('states', async (t) => {
  const text = async (options: HeapOptions): Promise<string> => {
    const { dump } = await find(elfCore(segmentsOf(oneHeap(options).memory)))
    const numbers = reportNumbers(bundle, dump)
    t.equal((JSON.parse([...reportJson(numbers)].join('')) as { dumpedNs: string }).dumpedNs, '0')
    return [...reportText(numbers, { width: 100, color: false })].join('')
  }
  const applied = await text({ state: APPLIED })
  t.match(applied, /^host     unknown\nkernel   6\.1\.0-test-amd64\n/) // the release of the bundle, whose build id is the image's
  t.match(applied, /still applied\nzeroed   2023.*\ndumped   in a memory image, at an unknown time\ncounted  until the machine died, 4 sites, 2 CPUs\nstopped/)
  const removed = await text({ state: REMOVED })
  t.match(removed, /removed 2023.*\nzeroed   2023.*\ndumped   in a memory image, .*\ncounted  1\.5 s, 4 sites/)
  const applying = await text({ state: 0, appliedNs: 0n })
  t.match(applying, /\napplied  not wholly: the machine died meanwhile\nzeroed .*\ndumped .*\ncounted  until the machine died, 4 sites, 2 CPUs\n\n/)
})

// ---- What is wrong -------------------------------------------------------------------------------------------------

t.test('a heap that is not whole', async (t) => {
  const options = { cpus: 4, slots: 512 * 300 } // 1201 pages, 3 pages of directory
  const memory: Memory = new Map()
  const placed = place(memory, scattered(), options)
  const changed = async (name: string, message: RegExp, change: (memory: Memory) => void): Promise<void> => {
    const other: Memory = new Map([...memory].map(([pfn, page]) => [pfn, Buffer.from(page)]))
    change(other)
    await refuses(t, EXIT.data, message, elfCore(segmentsOf(other)), name)
  }
  const header = (at: Memory): Buffer => at.get(placed.header)!
  const directory = (at: Memory, i: number): Buffer => at.get(placed.directories[i]!)!
  await changed('a page left out', /page 700 of the heap \(page frame 0x[0-9a-f]+\) is not in the image/, (at) => at.delete(placed.pages[700]!))
  await changed('a directory page left out', /page directory \(page frame .*\) is not in the image/, (at) => at.delete(placed.directories[1]!))
  await changed('a loop', /twice/, (at) => directory(at, 1).writeBigUInt64LE(BigInt(placed.directories[0]!), 0))
  await changed('a loop behind the end', /goes on/, (at) => directory(at, 2).writeBigUInt64LE(BigInt(placed.directories[1]!), 0))
  await changed('a loop of one', /twice/, (at) => directory(at, 0).writeBigUInt64LE(BigInt(placed.directories[0]!), 0))
  await changed('an early end', /ends after 511 of 1201/, (at) => directory(at, 0).writeBigUInt64LE(0n, 0))
  await changed('a hole', /names 10 of 1201 pages/, (at) => directory(at, 0).writeBigUInt64LE(0n, 8 + 80))
  await changed('too long', /goes on/, (at) => directory(at, 2).writeBigUInt64LE(7n, 0))
  await changed('a frame past memory', /page 10 of the heap.*not in the image/, (at) => directory(at, 0).writeBigUInt64LE(2n ** 63n, 8 + 80))
  await changed('a directory past memory', /0xffffffffffffffff.*not in the image/, (at) => directory(at, 0).writeBigUInt64LE(2n ** 64n - 1n, 0))
  await changed('the header twice', /twice/, (at) => directory(at, 1).writeBigUInt64LE(BigInt(placed.header), 8))
  await changed('many pages', /more than the limit/, (at) => header(at).writeBigUInt64LE(2n ** 63n, HEAP.pageCount))
  await changed('one page fewer', /its header needs/, (at) => header(at).writeBigUInt64LE(1200n, HEAP.pageCount))
  await changed('no pages', /its header needs/, (at) => header(at).writeBigUInt64LE(0n, HEAP.pageCount))
  await changed('a page more', /names 1201 of 1202/, (at) => header(at).writeBigUInt64LE(1202n, HEAP.pageCount))
  await changed('a stride past all', /its header needs/, (at) => header(at).writeBigUInt64LE(2n ** 64n - 8n, HEAP.cpuStride))
  await changed('a state', /state is 3/, (at) => header(at).writeUInt32LE(3, HEAP.state))
  await changed('slots', /slots, more/, (at) => header(at).writeUInt32LE(2 ** 20 + 1, HEAP.slotCount))
  await refuses(t, EXIT.data, /page 3 of the heap.*not in the image/, kdump(memory, { status: 9, lost: [placed.pages[3]!] }), 'a full disk')
})

t.test('images that are none, or damaged', async (t) => {
  const { memory } = oneHeap()
  const core = elfCore(segmentsOf(memory), NOTES)
  const packed = kdump(memory, { vmcoreinfo: VMCOREINFO })
  const patched = (of: Buffer, at: number, ...bytes: number[]): Buffer => {
    const copy = Buffer.from(of)
    copy.set(bytes, at)
    return copy
  }
  const FF = new Array<number>(8).fill(0xff)
  for (const [name, image, message] of [
    ['nothing', Buffer.alloc(0), /no memory image/],
    ['a text', Buffer.from('not a core'.repeat(1000)), /no memory image that kerninst reads/],
    ['ELF, its magic alone', core.subarray(0, 8), /cut off/],
    ['ELF, 32 bits', patched(core, 4, 1), /64-bit/],
    ['ELF, big-endian', patched(core, 5, 2), /little-endian/],
    ['ELF, a vmlinux', patched(core, 16, 2), /not a core/],
    ['ELF, another machine', patched(core, 18, 183), /e_machine 183/],
    ['ELF, table past the end', patched(core, 32, 0, 0, 0, 1), /cut off/],
    ['ELF, table past numbers', patched(core, 32, ...FF), /e_phoff/],
    ['ELF, rows of another size', patched(core, 54, 32), /e_phentsize/],
    ['ELF, cut off', core.subarray(0, core.length - 1), /cut off/],
    ['ELF, a segment past numbers', patched(core, 64 + 56 + 8, ...FF), /p_offset of program header 1/],
    ['ELF, memory past 52 bits', patched(core, 64 + 56 + 24 + 6, 0x10), /past 52 bits/],
    ['ELF, less memory than bytes', patched(core, 64 + 56 + 40, 1, 0, 0, 0), /more than p_memsz/],
    ['ELF, no memory', elfCore([], NOTES), /no memory in it/],
    ['ELF, many segments', patched(elfCore(segmentsOf(memory), NOTES, true), 64 + 44, 0xff, 0xff, 0xff, 0xff), /more than 1048576/],
    ['kdump, header alone', packed.subarray(0, 100), /cut off/],
    ['kdump, blocks', patched(packed, 428, 0, 0, 1), /blocks of 65536/],
    ['kdump, no sub-header', patched(packed, 432, 0), /no sub-header/],
    ['kdump, sub-header of any size', patched(packed, 432, 0xff, 0xff, 0xff, 0xff), /cut off/],
    ['kdump, few bitmaps', patched(packed, 436, 0), /too few/],
    ['kdump, many bitmaps', patched(packed, 436, 0xff, 0xff, 0xff, 0xff), /cut off/],
    ['kdump, frames', patched(packed, PAGE + 96, ...FF), /page frames/],
    ['kdump, no frames', patched(packed, PAGE + 96, 0, 0), /0 page frames/],
    ['kdump, VMCOREINFO past the end', patched(packed, PAGE + 32, ...FF), /cut off.*VMCOREINFO/],
    ['kdump, VMCOREINFO of any length', patched(packed, PAGE + 40, ...FF), /bytes of VMCOREINFO/],
    ['kdump, no pages', patched(packed, 3 * PAGE, ...new Array<number>(PAGE).fill(0)), /no pages/],
    ['kdump, cut off in descriptors', packed.subarray(0, 4 * PAGE + 24), /cut off.*descriptors/],
    ['kdump, a page of no bytes', patched(packed, 4 * PAGE + 8, 0, 0, 0, 0), /page frame 0x0: 0 bytes/],
    ['kdump, a page past the end', patched(packed, 4 * PAGE, ...FF), /cut off.*page frame 0x0/],
    ['kdump, cut off in pages', packed.subarray(0, packed.length - 1), /cut off/],
    ['kdump, a part', kdump(memory, { split: 1 }), /makedumpfile --reassemble/],
    ['kdump, LZO by its header', kdump(memory, { status: 2 }), /LZO.*makedumpfile -c/],
    ['kdump, LZO by a page', kdump(memory, { packing: () => 'lzo' }), /4096 bytes|LZO/],
    ['kdump, LZO by a descriptor', patched(packed, 4 * PAGE + 12, 2), /LZO.*makedumpfile -c/],
    ['kdump, Snappy', kdump(memory, { status: 4 }), /Snappy.*makedumpfile -c/],
    ['flattened, another type', Buffer.concat([flatHeader(2), flatEnd()]), /type 2/],
    ['flattened, another version', Buffer.concat([flatHeader(1, 9), flatEnd()]), /version 9/],
    ['flattened, nothing', Buffer.concat([flatHeader(), flatEnd()]), /no memory image/],
    ['flattened, no end', Buffer.concat([flatHeader(), flatPiece(0, core)]), /cut off/],
    ['flattened, cut off', Buffer.concat([flatHeader(), flatPiece(0, core)]).subarray(0, 5000), /cut off in a piece/],
    ['flattened, a place below zero', Buffer.concat([flatHeader(), flatPiece(-2, core), flatEnd()]), /place -2/],
    ['flattened, an empty piece', Buffer.concat([flatHeader(), flatPiece(0, Buffer.alloc(0)), flatEnd()]), /piece of 0 bytes/],
    ['flattened, its inside cut off', Buffer.concat([flatHeader(), flatPiece(0, core.subarray(0, -1)), flatEnd()]), /cut off/],
  ] as const) await refuses(t, EXIT.data, message, image, name)

  const shared = elfCore(segmentsOf(memory))
  for (let row = 2; row < shared.readUInt16LE(56); row++) {
    shared.copy(shared, 64 + row * 56 + 8, 64 + 56 + 8, 64 + 56 + 16) // all where the first is
    shared.copy(shared, 64 + row * 56 + 32, 64 + 56 + 32, 64 + 56 + 48)
  }
  for (let row = 1; row < shared.readUInt16LE(56); row++) shared.writeBigUInt64LE(BigInt(row * 2 ** 20), 64 + row * 56 + 24)
  await refuses(t, EXIT.data, /share bytes/, shared, 'ELF, segments that share bytes')
  await refuses(t, EXIT.noInput, /ENOENT/, join(scratch, 'none'), 'no file')
  await refuses(t, EXIT.noInput, /not a file/, scratch, 'a folder')
})

t.test('any damage ends in one line, soon', async (t) => {
  const { memory } = oneHeap()
  const images = [
    elfCore(segmentsOf(memory), NOTES), kdump(memory, { vmcoreinfo: VMCOREINFO }),
    kdump(memory, { packing: (pfn) => (['none', 'zlib', 'zstd'] as const)[(pfn + 3) % 3]! }),
    flattened(kdump(memory), 1000, (pieces) => Array.from({ length: pieces }, (_, i) => i)),
  ]
  const whole = contents((await find(images[0]!)).dump)
  const places = fc.oneof({ weight: 3, arbitrary: fc.nat(600) }, { weight: 3, arbitrary: fc.integer({ min: PAGE, max: 5 * PAGE }) }, { weight: 2, arbitrary: fc.nat(2 ** 20) })
  const values = fc.oneof(fc.constantFrom(0n, 1n, 0xffn, 0xffffffffn, 2n ** 63n, 2n ** 64n - 1n, 4096n), fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }))
  const edits = fc.array(fc.tuple(places, values, fc.constantFrom(1, 2, 4, 8)), { minLength: 1, maxLength: 4 })
  const outcomes = { refused: 0, taken: 0 }
  let slowest = 0
  await fc.assert(fc.asyncProperty(fc.nat(images.length - 1), edits, fc.option(fc.double({ min: 0, max: 1, noNaN: true }), { freq: 6 }), async (which, edits, cut) => {
    const image = Buffer.from(images[which]!)
    for (const [at, value, width] of edits) {
      const bytes = Buffer.alloc(8)
      bytes.writeBigUInt64LE(value)
      image.set(bytes.subarray(0, Math.min(width, image.length - at % image.length)), at % image.length)
    }
    const start = Date.now()
    try {
      await find(cut === null ? image : image.subarray(0, Math.floor(image.length * cut)))
      outcomes.taken++
    } catch (error) {
      if (!(error instanceof KerninstError) || ![EXIT.data, EXIT.mismatch].includes(error.exit as 65)) throw error
      if (/[\x00-\x1f]/.test(error.message)) throw new Error('control characters')
      outcomes.refused++
    }
    slowest = Math.max(slowest, Date.now() - start)
  }), { seed, numRuns: 1500, interruptAfterTimeLimit: 40_000 })
  t.ok(outcomes.refused > 100 && outcomes.taken > 100, `${outcomes.refused} refused, ${outcomes.taken} taken`)
  t.ok(slowest < 5000, `at most ${slowest} ms`)
  t.same(contents((await find(images[1]!)).dump), whole, 'and all is as before')
})

// ---- The command, and QEMU ------------------------------------------------------------------------------------------

const bundlePath = join(scratch, 'bundle')
writeFileSync(bundlePath, bundleBytes)
const kerninst = (...args: string[]) => spawnSync(process.execPath, [join(ROOT, 'dist/cli.js'), ...args], { encoding: 'utf8' })

t.test('kerninst report --vmcore', async (t) => {
  writeFileSync(IMAGE, kdump(oneHeap().memory, { nodename: 'evil\x1b[2J', release: '6.1.0-test' }))
  const dump = join(scratch, 'dump')
  writeFileSync(dump, dumpOf({}))
  for (const format of ['csv', 'json']) {
    const [image, file] = [['--vmcore', IMAGE], [dump]].map((from) => kerninst('report', ...from, '--bundle', bundlePath, '--format', format))
    t.same([image!.status, image!.stderr, file!.status], [0, '', 0], format)
    if (format === 'csv') t.equal(image!.stdout, file!.stdout, 'the same rows as from a dump')
    else t.same(JSON.parse(image!.stdout), { ...JSON.parse(file!.stdout) as object, host: 'evil\x1b[2J', release: '6.1.0-test', dumpedNs: '0' })
  }
  t.match(kerninst('report', '--vmcore', IMAGE, '--bundle', bundlePath).stdout, /^host     evil\\u\{1b\}\[2J\nkernel   6\.1\.0-test\n/)
  for (const args of [[], [dump, '--vmcore', IMAGE]]) {
    const { status, stderr } = kerninst('report', ...args, '--bundle', bundlePath)
    t.same([status, stderr], [EXIT.usage, 'kerninst: give a dump or --vmcore with a memory image, one of them\n'])
  }
  const two: Memory = new Map()
  const frame = scattered()
  place(two, frame)
  place(two, frame, { appliedNs: 1n })
  writeFileSync(IMAGE, elfCore(segmentsOf(two)))
  t.match(kerninst('report', '--vmcore', IMAGE, '--bundle', bundlePath).stderr, /: 2 heaps of this bundle are in it; this is the one that was applied last\n$/)
  truncateSync(IMAGE, 30_000)
  t.match(kerninst('report', '--vmcore', IMAGE, '--bundle', bundlePath), { status: EXIT.data, stderr: /^kerninst: .*: cut off: [^\n]*\n$/ })
})

/** A BIOS that goes to long mode and halts there: of a machine that is not in long mode, QEMU writes a 32-bit core. */
const longModeBios = (): Buffer => {
  const BASE = 0xffff0000
  const rom = Buffer.alloc(0x10000, 0xf4)
  rom.writeBigUInt64LE(BigInt(BASE + 0x2000 + 0x63), 0x1000) //       page tables, accessed and dirty already
  rom.writeBigUInt64LE(BigInt(BASE + 0x3000 + 0x63), 0x2000 + 8 * 3)
  rom.writeBigUInt64LE(0xffe000e3n, 0x3000 + 8 * 511)
  rom.set(Buffer.from('0f20e0 6683c820 0f22e0'.replaceAll(' ', ''), 'hex'), 0xf000) //        cr4 |= PAE
  rom.set(Buffer.from('66b80010ffff 0f22d8'.replaceAll(' ', ''), 'hex'), 0xf00a) //           cr3 = 0xffff1000
  rom.set(Buffer.from('66b9800000c0 0f32 660d00010000 0f30'.replaceAll(' ', ''), 'hex'), 0xf013) // efer |= LME
  rom.set(Buffer.from('66b801000080 0f22c0 fa f4 ebfd'.replaceAll(' ', ''), 'hex'), 0xf023) // cr0 = PG | PE; cli; hlt
  rom.set(Buffer.from('e90df0', 'hex'), 0xfff0) //                                            jmp 0xf000
  return rom
}

t.test('what QEMU writes', async (t) => {
  const options = { cpus: 2, slots: 600, state: REMOVED }
  const memory: Memory = new Map()
  let next = 0x400
  const placed = place(memory, () => (next += 3), options) // from 4 MiB on, apart
  const bios = join(scratch, 'bios')
  writeFileSync(bios, longModeBios())
  const loaders = [...memory].flatMap(([pfn, page]) => {
    const path = join(scratch, `page-${pfn}`)
    writeFileSync(path, page)
    return ['-device', `loader,file=${path},addr=${pfn * PAGE},force-raw=on`]
  })
  const qemu = spawn('qemu-system-x86_64', ['-accel', 'tcg', '-cpu', 'max', '-m', '32', '-nodefaults', '-display', 'none',
    '-bios', bios, '-qmp', 'stdio', ...loaders], { stdio: ['pipe', 'pipe', 'inherit'] })
  const exited = once(qemu, 'exit')
  const lines = createInterface({ input: qemu.stdout })[Symbol.asyncIterator]()
  const command = async (execute: string, args: object = {}): Promise<unknown> => {
    qemu.stdin.write(JSON.stringify({ execute, arguments: args }) + '\n')
    for (;;) {
      const { value, done } = await lines.next()
      if (done) throw new Error(`qemu ended in ${execute}`)
      const message = JSON.parse(value) as { return?: unknown; error?: unknown }
      if (message.error !== undefined) throw new Error(JSON.stringify(message.error))
      if (message.return !== undefined) return message.return
    }
  }
  try {
    await command('qmp_capabilities')
    const deadline = Date.now() + 60_000
    while (!/EFER=0000000000000500/.test(String(await command('human-monitor-command', { 'command-line': 'info registers' })))) {
      if (Date.now() > deadline) throw new Error('the machine did not come to long mode')
    }
    const expected = contents(readDump(dumpOf(options)))
    for (const format of ['elf', 'kdump-zlib', 'kdump-raw-zlib']) {
      const path = join(scratch, format)
      await command('dump-guest-memory', { paging: false, protocol: `file:${path}`, format })
      const { dump, others } = await find(path)
      t.same(contents(dump), expected, format)
      t.same([dump.host, dump.release, others], ['', '', 0])
    }
    const flat = readFileSync(join(scratch, 'kdump-zlib'))
    t.equal(flat.subarray(0, 12).toString(), 'makedumpfile', 'QEMU flattens')
    const source = openSource(join(scratch, 'kdump-zlib'))
    const plain = Buffer.alloc(source.bytes)
    source.read(0, plain)
    source.close()
    const raw = readFileSync(join(scratch, 'kdump-raw-zlib'))
    t.ok(plain.length <= raw.length && plain.equals(raw.subarray(0, plain.length)) && raw.subarray(plain.length).every((b) => b === 0),
      'and unflattened it is what QEMU writes where it can go back')

    const core = join(scratch, 'elf')
    const image = openVmcore(core)
    const page = Buffer.alloc(PAGE)
    let looked = 0
    const file = readFileSync(core)
    const rows = execFileSync('readelf', ['-lW', core], { encoding: 'utf8' })
    for (const [, offset, address, bytes] of rows.matchAll(/LOAD +(0x\w+) 0x\w+ (0x\w+) (0x\w+)/g)) {
      for (let at = 0; at < Number(bytes); at += PAGE, looked++) {
        if (!image.readPage((Number(address) + at) / PAGE, page) || !page.equals(file.subarray(Number(offset) + at, Number(offset) + at + PAGE))) {
          t.fail(`page at ${address} + ${at} is not where readelf has it`)
        }
      }
    }
    t.ok(looked >= 32 * 256 - 64, `${looked} pages are where readelf has them`)
    t.notOk(image.readPage(2 ** 25 / PAGE, page), 'past its 32 MiB there is nothing')
    image.close()
    t.ok(placed.pages.length > 4)
    qemu.stdin.write('{"execute":"quit"}\n')
    await exited
  } finally {
    qemu.kill()
  }
})
