// The counter heap. In: the bytes of its mapping, from a dump file or put together from a memory image. Out: what its
// header says, and the counters, read in place. Invariant: after readHeap() every count(cpu, slot) in range lies in the
// bytes. Left out: where the bytes come from, and what the slots mean, which is the bundle's.

import { HEAP, HEAP_MAGIC, HEAP_STATE, LENGTH, MAX, SIZE, VERSION, alignUp } from '../bundle/layout.js'
import { assert } from '../error.js'
import { viewOf } from '../image/address.js'
import { PAGE } from './physical.js'
import type { Refuse } from './source.js'

/** The most CPUs that an x86-64 kernel can be built for (NR_CPUS in arch/x86/Kconfig; Debian's 6.1 and 6.12 are). */
const MAX_CPUS = 8192
/** KASLR moves the kernel by multiples of this: CONFIG_PHYSICAL_ALIGN on x86-64, 6.1 and 6.12. */
const SLIDE_ALIGN = 2n ** 21n

export interface Heap {
  readonly buildId: string // hex
  readonly payloadSha256: Uint8Array
  /** 'applying': the machine died while sites were written; only in a memory image. */
  readonly state: 'applying' | 'applied' | 'removed'
  readonly slide: bigint // bytes that the kernel lay above its link-time address
  readonly appliedNs: bigint // CLOCK_REALTIME, as all times here, when the last site was written; 0n while applying
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

/** @param bytes of the whole mapping, a page or more; goes on using them */
export const readHeap = (bytes: Uint8Array, refuse: Refuse): Heap => {
  const view = viewOf(bytes)
  const u32 = (offset: number): number => view.getUint32(offset, true)
  const u64 = (offset: number): bigint => view.getBigUint64(offset, true)
  const part = (offset: number, length: number): Buffer => Buffer.from(bytes.subarray(offset, offset + length))

  if (part(HEAP.magic, LENGTH.magic).toString('latin1') !== HEAP_MAGIC) refuse('no counter heap in it (magic)')
  if (u32(HEAP.version) !== VERSION) refuse(`a heap of version ${u32(HEAP.version)}, this program reads ${VERSION}`)
  if (u32(HEAP.headerBytes) !== PAGE) refuse(`the heap's header_bytes is not ${PAGE}`)
  const state = u32(HEAP.state)
  if (state > HEAP_STATE.removed) refuse(`the heap's state is ${state}`)
  const slotCount = u32(HEAP.slotCount)
  const cpuCount = u32(HEAP.cpuCount)
  const cpuStride = u64(HEAP.cpuStride)
  const siteCount = u32(HEAP.siteCount)
  if (slotCount > MAX.slots) refuse(`${slotCount} slots, more than ${MAX.slots}`)
  if (siteCount > MAX.sites) refuse(`${siteCount} sites, more than ${MAX.sites}`)
  if (cpuCount === 0 || cpuCount > MAX_CPUS) refuse(`${cpuCount} CPUs`)
  if (cpuStride % 8n !== 0n || cpuStride < BigInt(8 * slotCount)) refuse(`a cpu_stride of ${cpuStride} bytes`)
  // The mapping is whole pages; what is behind the last CPU's area belongs to none.
  const areasEnd = BigInt(PAGE) + BigInt(cpuCount) * cpuStride
  if (areasEnd > bytes.length || alignUp(Number(areasEnd), PAGE) < bytes.length) {
    refuse(`${cpuCount} areas of ${cpuStride} bytes do not make a heap of ${bytes.length}`)
  }
  const slide = u64(HEAP.slide)
  if (slide % SLIDE_ALIGN !== 0n || slide >= 2n ** 31n) refuse(`a slide of ${slide} bytes`)
  if (bytes.subarray(HEAP.reserved, SIZE.heap).some((b) => b !== 0)) refuse('the reserved part of the heap header is not zero')
  if (u64(HEAP.pageCount) !== BigInt(bytes.length) / BigInt(PAGE)) refuse('the heap\'s page_count is not that of its bytes')
  const removedNs = u64(HEAP.removedNs)
  // The module sets removed_ns first, and a dump may be taken in between.
  if (state === HEAP_STATE.removed && removedNs === 0n) refuse('it is removed, but removed_ns is zero')

  const stride = Number(cpuStride)
  return {
    buildId: part(HEAP.buildId, LENGTH.buildId).toString('hex'),
    payloadSha256: new Uint8Array(part(HEAP.payloadSha256, LENGTH.sha256)),
    state: state === HEAP_STATE.applied ? 'applied' : state === HEAP_STATE.removed ? 'removed' : 'applying',
    slide,
    appliedNs: u64(HEAP.appliedNs),
    removedNs,
    stopNs: u64(HEAP.stopNs),
    resets: u32(HEAP.resets),
    resetNs: u64(HEAP.resetNs),
    snapshotNs: u64(HEAP.snapshotNs),
    cpuCount,
    slotCount,
    siteCount,
    count: (cpu, slot) => {
      assert(cpu >= 0 && cpu < cpuCount && slot >= 0 && slot < slotCount, `dump: no slot ${slot} of CPU ${cpu}`)
      return u64(PAGE + cpu * stride + 8 * slot)
    },
  }
}
