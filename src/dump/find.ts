// The counter heap in a memory image. In: the memory, and which bundle's heap is wanted. Out: the heap as if it had been
// dumped. The dead kernel has no part in it: no symbols, no page tables, no direct map.
// A page that starts with the heap's magic and version is the heap's first if the page directory that it names starts
// with that page's own frame: neither a snapshot (which names none) nor a copy of the bytes in a file's page cache or in
// a program's memory does. Invariant: every page of the heap is another one, is in the image, and was in the directory
// where the heap's own page_count says.
// It is a heuristic where memory outlives a reboot: a heap of an earlier life may still be whole. Of several heaps of one
// bundle the one that was applied last is taken, and how many there are is said.

import { setImmediate as turn } from 'node:timers/promises'
import { DIRECTORY, HEAP, HEAP_MAGIC, LENGTH, SIZE, VERSION } from '../bundle/layout.js'
import { EXIT, KerninstError } from '../error.js'
import { viewOf } from '../image/address.js'
import { hex } from '../image/rva.js'
import { DUMP_LIMITS, type Dump } from './dump.js'
import { readHeap } from './heap.js'
import { MAX_PFNS, PAGE, type PhysicalMemory } from './physical.js'
import { refuser, type Refuse } from './source.js'

export interface Wanted {
  readonly buildId: string // hex
  readonly payloadSha256: Uint8Array
}

export interface Found {
  readonly dump: Dump
  /** Other heaps of the same bundle, that were not taken. */
  readonly others: number
}

/** As of a dump file: one array buffer holds it. */
const MAX_HEAP_BYTES = DUMP_LIMITS.bytes
/** Real ones are one, or two while somebody holds the one before; more are forged. So many are looked at. */
const MAX_CANDIDATES = 64
/** Of other bundles, so many are named. */
const MAX_NAMED = 4

interface Candidate {
  readonly pfn: number
  readonly header: Buffer
}

const HEAD = Buffer.alloc(LENGTH.magic + 4)
HEAD.write(HEAP_MAGIC, 'latin1')
HEAD.writeUInt32LE(VERSION, LENGTH.magic)

const sha256Of = ({ header }: Candidate): string =>
  header.subarray(HEAP.payloadSha256, HEAP.payloadSha256 + LENGTH.sha256).toString('hex')
const buildIdOf = ({ header }: Candidate): string =>
  header.subarray(HEAP.buildId, HEAP.buildId + LENGTH.buildId).toString('hex')
const appliedNsOf = ({ header }: Candidate): bigint => header.readBigUInt64LE(HEAP.appliedNs)

/** Reads a page whose frame comes from the image. */
const pageReader = (memory: PhysicalMemory) => (pfn: bigint, into: Uint8Array): boolean =>
  pfn < MAX_PFNS && memory.readPage(Number(pfn), into)

/** The heap's mapping, put together from the pages that the directory names. */
const assemble = (memory: PhysicalMemory, { header }: Candidate, refuse: Refuse): Uint8Array => {
  const read = pageReader(memory)
  const pageCount = header.readBigUInt64LE(HEAP.pageCount)
  const declared = BigInt(PAGE) + BigInt(header.readUInt32LE(HEAP.cpuCount)) * header.readBigUInt64LE(HEAP.cpuStride)
  if (pageCount * BigInt(PAGE) > MAX_HEAP_BYTES) refuse(`a counter heap of ${pageCount} pages, more than the limit of ${MAX_HEAP_BYTES} bytes`)
  if (declared > pageCount * BigInt(PAGE)) refuse(`a counter heap of ${pageCount} pages, but its header needs ${declared} bytes`)
  const pages = new Float64Array(Number(pageCount)) // page of the mapping -> page frame
  const directory = new Uint8Array(SIZE.directory)
  const view = viewOf(directory)
  const excluded = (what: string, pfn: bigint): never =>
    refuse(`${what} (page frame ${hex(pfn)}) is not in the image: was it excluded, or cut off, when the image was written?`)
  let next = header.readBigUInt64LE(HEAP.directoryPfn)
  // No loop goes on: each round takes 511 pages off, and no frame may come twice.
  for (let done = 0; done < pages.length;) {
    if (next === 0n) refuse(`the heap's page directory ends after ${done} of ${pageCount} pages`)
    if (!read(next, directory)) excluded('the heap\'s page directory', next)
    for (let i = 0; i < LENGTH.directoryPfns && done < pages.length; i++) {
      const pfn = view.getBigUint64(DIRECTORY.pfn + 8 * i, true)
      if (pfn === 0n) refuse(`the heap's page directory names ${done} of ${pageCount} pages`)
      if (pfn >= MAX_PFNS) excluded(`page ${done} of the heap`, pfn)
      pages[done++] = Number(pfn)
    }
    next = view.getBigUint64(DIRECTORY.nextPfn, true)
  }
  const sorted = pages.slice().sort()
  for (let i = 1; i < sorted.length; i++) {
    if (sorted[i] === sorted[i - 1]) refuse(`the heap's page directory names page frame ${hex(sorted[i]!)} twice`)
  }
  if (next !== 0n) refuse(`the heap's page directory goes on behind its ${pageCount} pages`)
  const bytes = new Uint8Array(pages.length * PAGE)
  pages.forEach((pfn, i) => {
    if (!memory.readPage(pfn, bytes.subarray(i * PAGE, (i + 1) * PAGE))) excluded(`page ${i} of the heap`, BigInt(pfn))
  })
  return bytes
}

const nameOf = (candidate: Candidate): string => {
  const sha256 = sha256Of(candidate)
  // The module writes the digest when all sites are written.
  return /^0*$/.test(sha256) ? 'one that was being applied, before it had a name' : `sha256 ${sha256} of the kernel with build id ${buildIdOf(candidate)}`
}

/**
 * Finds the heap of a bundle. Takes turns with whatever else the process has to do.
 * @param progress called now and then with how much of the image was looked at, 0..1
 * @throws KerninstError: 76 where there are heaps of other bundles only, 65 where there is none, or it is not whole, or
 *   the image is damaged; 74 where it cannot be read
 */
export const findHeap = async (memory: PhysicalMemory, wanted: Wanted, progress: (done: number) => void = () => {}): Promise<Found> => {
  const refuse = refuser(memory.path)
  const read = pageReader(memory)
  const page = new Uint8Array(PAGE)
  const sha256 = Buffer.from(wanted.payloadSha256).toString('hex')
  const isOurs = (each: Candidate): boolean => sha256Of(each) === sha256 && buildIdOf(each) === wanted.buildId
  const candidates = new Map<number, Candidate>()
  for (const done of memory.scan(HEAD, (pfn) => {
    if (candidates.has(pfn) || !memory.readPage(pfn, page)) return
    const header = Buffer.from(page.subarray(0, SIZE.heap))
    const directory = header.readBigUInt64LE(HEAP.directoryPfn)
    if (directory === 0n || !read(directory, page)) return
    if (viewOf(page).getBigUint64(DIRECTORY.pfn, true) !== BigInt(pfn)) return
    const candidate = { pfn, header }
    if (candidates.size < MAX_CANDIDATES || isOurs(candidate)) candidates.set(pfn, candidate)
  })) {
    progress(done)
    await turn()
  }

  const all = [...candidates.values()]
  if (all.length === 0) refuse('no counter heap in it: no bundle was applied, the module was gone, or its pages were left out')
  const ours = all.filter(isOurs).sort((a, b) => (appliedNsOf(a) < appliedNsOf(b) ? 1 : -1))
  if (ours.length === 0) {
    const names = [...new Set(all.map(nameOf))]
    throw new KerninstError(EXIT.mismatch, `${memory.path}: no counter heap of this bundle (sha256 ${sha256}, build id ` +
      `${wanted.buildId}) in it, but ${names.slice(0, MAX_NAMED).join('; ')}` +
      (names.length > MAX_NAMED ? `; and ${names.length - MAX_NAMED} more` : ''))
  }
  // One that is not whole is not preferred to one that is.
  let failure: unknown
  for (const candidate of ours.slice(0, MAX_CANDIDATES)) {
    try {
      const heap = readHeap(assemble(memory, candidate, refuse), refuse)
      return { dump: { ...heap, host: memory.host, release: memory.release, dumpedNs: 0n }, others: ours.length - 1 }
    } catch (error) {
      failure ??= error
    }
  }
  throw failure
}
