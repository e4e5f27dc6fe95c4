// A dump of the counter heap. In: a file that `kerninst-inject dump` wrote, or its bytes. Out: what its two headers
// say, and the counters, read in place. Invariant: after readDump() every count(cpu, slot) in range lies in the
// bytes, and host and release are complete texts (not safe for a terminal: report/printable.ts). Left out: what the
// slots mean, which is the bundle's.

import { DUMP, DUMP_MAGIC, HEAP, HEAP_MAGIC, HEAP_STATE } from '../bundle/layout.js'
import { LENGTH, MAX, SIZE, VERSION, alignUp } from '../bundle/layout.js'
import { EXIT, KerninstError, assert } from '../error.js'
import { readLimited } from '../file.js'

const PAGE = 4096
/** The most CPUs that an x86-64 kernel can be built for (NR_CPUS in arch/x86/Kconfig; Debian's 6.1 and 6.12 are). */
const MAX_CPUS = 8192
/** KASLR moves the kernel by multiples of this: CONFIG_PHYSICAL_ALIGN on x86-64, 6.1 and 6.12. */
const SLIDE_ALIGN = 2n ** 21n

export interface DumpLimits {
  /** Bytes of the whole file; one array buffer holds it. */
  readonly bytes: number
}

export const DUMP_LIMITS: DumpLimits = { bytes: 2 ** 32 - 2 ** 20 }

export interface Dump {
  readonly host: string
  readonly release: string // uname -r
  readonly dumpedNs: bigint // CLOCK_REALTIME, as all times here
  readonly buildId: string // hex
  readonly payloadSha256: Uint8Array
  readonly state: 'applied' | 'removed'
  readonly slide: bigint // bytes that the kernel lay above its link-time address
  readonly appliedNs: bigint // when the last site was written
  readonly removedNs: bigint // 0n while applied
  readonly stopNs: bigint // how long the machine stood still for apply, at most at a time
  readonly resets: number // how often the counters were zeroed since
  readonly resetNs: bigint // the last time; 0n: never
  readonly snapshotNs: bigint // when all counters were copied, at one moment; 0n: they were read while they counted
  readonly cpuCount: number
  readonly slotCount: number
  readonly siteCount: number
  /** The counter of one slot on one CPU. */
  readonly count: (cpu: number, slot: number) => bigint
}

/**
 * Reads a dump from a file, or from bytes, which it goes on using.
 * @throws KerninstError: 65 where it is no dump, cut off, or contradicts itself; 66 and 74 where it cannot be read
 */
export const readDump = (source: string | Uint8Array, limits: DumpLimits = DUMP_LIMITS): Dump => {
  const where = typeof source === 'string' ? source : 'dump'
  const refuse = (what: string): never => {
    throw new KerninstError(EXIT.data, `${where}: ${what}`)
  }
  const bytes = typeof source === 'string' ? readLimited(source, limits.bytes) : source
  if (bytes.length > limits.bytes) refuse(`${bytes.length} bytes, more than the limit of ${limits.bytes}`)
  if (bytes.length < LENGTH.magic) refuse('no kerninst dump: too short')
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
  const u32 = (offset: number): number => view.getUint32(offset, true)
  const u64 = (offset: number): bigint => view.getBigUint64(offset, true)
  const part = (offset: number, length: number): Buffer => Buffer.from(bytes.subarray(offset, offset + length))
  const magic = (offset: number): string => part(offset, LENGTH.magic).toString('latin1')
  const versionAt = (offset: number): void => {
    if (u32(offset) !== VERSION) refuse(`version ${u32(offset)}, this program reads ${VERSION}`)
  }
  const zero = (from: number, to: number, what: string): void => {
    if (bytes.subarray(from, to).some((b) => b !== 0)) refuse(`${what} is not zero`)
  }
  const uname = (offset: number, what: string): string => {
    const end = bytes.indexOf(0, offset)
    if (end < 0 || end >= offset + LENGTH.host) return refuse(`${what} does not end`)
    zero(end, offset + LENGTH.host, `the padding of ${what}`)
    return part(offset, end - offset).toString('utf8')
  }

  if (magic(DUMP.magic) !== DUMP_MAGIC) refuse('no kerninst dump (magic)')
  if (bytes.length < SIZE.dump + PAGE) refuse(`cut off after ${bytes.length} bytes, in the headers`)
  versionAt(DUMP.version)
  if (u32(DUMP.headerBytes) !== SIZE.dump) refuse(`header_bytes is ${u32(DUMP.headerBytes)}, not ${SIZE.dump}`)
  const heapBytes = u64(DUMP.heapBytes)
  const here = BigInt(bytes.length - SIZE.dump)
  if (here < heapBytes) refuse(`cut off: ${here} of the heap's ${heapBytes} bytes are there; dump again`)
  if (here > heapBytes) refuse(`${here - heapBytes} bytes after its end`)
  zero(DUMP.reserved, SIZE.dump, 'the reserved part of the header')

  const heap = SIZE.dump
  if (magic(heap + HEAP.magic) !== HEAP_MAGIC) refuse('no counter heap in it (magic)')
  versionAt(heap + HEAP.version)
  if (u32(heap + HEAP.headerBytes) !== PAGE) refuse(`the heap's header_bytes is not ${PAGE}`)
  const state = u32(heap + HEAP.state)
  if (state !== HEAP_STATE.applied && state !== HEAP_STATE.removed) refuse(`the heap's state is ${state}`)
  const slotCount = u32(heap + HEAP.slotCount)
  const cpuCount = u32(heap + HEAP.cpuCount)
  const cpuStride = u64(heap + HEAP.cpuStride)
  const siteCount = u32(heap + HEAP.siteCount)
  if (slotCount > MAX.slots) refuse(`${slotCount} slots, more than ${MAX.slots}`)
  if (siteCount > MAX.sites) refuse(`${siteCount} sites, more than ${MAX.sites}`)
  if (cpuCount === 0 || cpuCount > MAX_CPUS) refuse(`${cpuCount} CPUs`)
  if (cpuStride % 8n !== 0n || cpuStride < BigInt(8 * slotCount)) refuse(`a cpu_stride of ${cpuStride} bytes`)
  // The mapping is whole pages; what is behind the last CPU's area belongs to none.
  const areasEnd = BigInt(PAGE) + BigInt(cpuCount) * cpuStride
  if (areasEnd > heapBytes || BigInt(alignUp(Number(areasEnd), PAGE)) < heapBytes) {
    refuse(`${cpuCount} areas of ${cpuStride} bytes do not make a heap of ${heapBytes}`)
  }
  const slide = u64(heap + HEAP.slide)
  if (slide % SLIDE_ALIGN !== 0n || slide >= 2n ** 31n) refuse(`a slide of ${slide} bytes`)
  zero(heap + HEAP.reserved, heap + SIZE.heap, 'the reserved part of the heap header')
  if (u64(heap + HEAP.pageCount) !== heapBytes / BigInt(PAGE)) refuse('the heap\'s page_count is not that of its bytes')
  const appliedNs = u64(heap + HEAP.appliedNs)
  const removedNs = u64(heap + HEAP.removedNs)
  // The module sets removed_ns first, and a dump may be taken in between.
  if (state === HEAP_STATE.removed && removedNs === 0n) refuse('it is removed, but removed_ns is zero')

  const stride = Number(cpuStride)
  return {
    host: uname(DUMP.host, 'host'),
    release: uname(DUMP.release, 'release'),
    dumpedNs: u64(DUMP.dumpedNs),
    buildId: part(heap + HEAP.buildId, LENGTH.buildId).toString('hex'),
    payloadSha256: new Uint8Array(part(heap + HEAP.payloadSha256, LENGTH.sha256)),
    state: state === HEAP_STATE.applied ? 'applied' : 'removed',
    slide,
    appliedNs,
    removedNs,
    stopNs: u64(heap + HEAP.stopNs),
    resets: u32(heap + HEAP.resets),
    resetNs: u64(heap + HEAP.resetNs),
    snapshotNs: u64(heap + HEAP.snapshotNs),
    cpuCount,
    slotCount,
    siteCount,
    count: (cpu, slot) => {
      assert(cpu >= 0 && cpu < cpuCount && slot >= 0 && slot < slotCount, `dump: no slot ${slot} of CPU ${cpu}`)
      return u64(heap + PAGE + cpu * stride + 8 * slot)
    },
  }
}
