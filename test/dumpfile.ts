// Dumps that no kernel made: of any bundle, with counts drawn by lot. For what reports look like.

import type { Bundle } from '../src/bundle/bundle.js'
import { DUMP, DUMP_MAGIC, HEAP, HEAP_MAGIC, HEAP_STATE, SIZE, VERSION } from '../src/bundle/layout.js'
import type { Lottery } from './lottery.js'

const PAGE = 4096
const APPLIED_NS = 1_790_000_000_000_000_000n
const COUNTED_NS = 60_000_000_000n

/** A dump's bytes: about a third of all slots are zero, others up to a million, evenly by magnitude. */
export const drawnDump = ({ manifest, payloadSha256, decoded: { target, tables } }: Bundle, cpus: number, random: Lottery, host = 'host'): Buffer => {
  const stride = Math.ceil((tables.slotCount * 8) / PAGE) * PAGE
  const bytes = Buffer.alloc(SIZE.dump + PAGE + cpus * stride)
  bytes.write(DUMP_MAGIC, DUMP.magic, 'latin1')
  bytes.writeUInt32LE(VERSION, DUMP.version)
  bytes.writeUInt32LE(SIZE.dump, DUMP.headerBytes)
  bytes.writeBigUInt64LE(BigInt(bytes.length - SIZE.dump), DUMP.heapBytes)
  bytes.writeBigUInt64LE(APPLIED_NS + COUNTED_NS + 1_000_000n, DUMP.dumpedNs)
  bytes.write(host.slice(0, 64), DUMP.host, 'latin1')
  bytes.write(manifest.image.release, DUMP.release, 'latin1')
  const heap = bytes.subarray(SIZE.dump)
  heap.write(HEAP_MAGIC, HEAP.magic, 'latin1')
  heap.writeUInt32LE(VERSION, HEAP.version)
  heap.writeUInt32LE(PAGE, HEAP.headerBytes)
  heap.set(target.buildId, HEAP.buildId)
  heap.writeUInt32LE(HEAP_STATE.removed, HEAP.state)
  heap.set(payloadSha256, HEAP.payloadSha256)
  heap.writeUInt32LE(tables.slotCount, HEAP.slotCount)
  heap.writeUInt32LE(cpus, HEAP.cpuCount)
  heap.writeBigUInt64LE(BigInt(stride), HEAP.cpuStride)
  heap.writeBigUInt64LE(APPLIED_NS, HEAP.appliedNs)
  heap.writeBigUInt64LE(APPLIED_NS + COUNTED_NS, HEAP.removedNs)
  heap.writeBigUInt64LE(1_234_567n, HEAP.stopNs)
  heap.writeUInt32LE(tables.siteCount, HEAP.siteCount)
  heap.writeBigUInt64LE(BigInt(heap.length / PAGE), HEAP.pageCount)
  for (let cpu = 0; cpu < cpus; cpu++) {
    for (let slot = 0; slot < tables.slotCount; slot++) {
      if (random(3) > 0) heap.writeBigUInt64LE(BigInt(Math.floor(2 ** (random(2000) / 100))), PAGE + cpu * stride + 8 * slot)
    }
  }
  return bytes
}

/**
 * Dumps of one run, each of which holds what the one before did and what drawnDump drew since.
 * @param ends for how many seconds each of them counted
 */
export const drawnRun = (bundle: Bundle, cpus: number, random: Lottery, ends: readonly number[]): Buffer[] => {
  const sums = new Map<number, bigint>() // where in the heap -> what is there
  return ends.map((end) => {
    const bytes = drawnDump(bundle, cpus, random)
    const until = APPLIED_NS + BigInt(end) * 1_000_000_000n
    bytes.writeBigUInt64LE(until, DUMP.dumpedNs)
    const heap = bytes.subarray(SIZE.dump)
    heap.writeUInt32LE(HEAP_STATE.applied, HEAP.state)
    heap.writeBigUInt64LE(0n, HEAP.removedNs)
    heap.writeBigUInt64LE(until, HEAP.snapshotNs)
    for (let at = PAGE; at < heap.length; at += 8) {
      sums.set(at, (sums.get(at) ?? 0n) + heap.readBigUInt64LE(at))
      heap.writeBigUInt64LE(sums.get(at)!, at)
    }
    return bytes
  })
}
