// A dump of the counter heap. In: a file that `kerninst-inject dump` wrote, or its bytes. Out: what its two headers
// say, and the counters, read in place. Invariant: after readDump() every count(cpu, slot) in range lies in the
// bytes, and host and release are complete texts (not safe for a terminal: report/printable.ts). Left out: the heap
// itself (heap.ts), and what the slots mean, which is the bundle's.

import { DUMP, DUMP_MAGIC, LENGTH, SIZE, VERSION } from '../bundle/layout.js'
import { readLimited } from '../file.js'
import { viewOf } from '../image/address.js'
import { readHeap, type Heap } from './heap.js'
import { PAGE } from './physical.js'
import { refuser } from './source.js'

export interface DumpLimits {
  /** Bytes of the whole file; one array buffer holds it. */
  readonly bytes: number
}

export const DUMP_LIMITS: DumpLimits = { bytes: 2 ** 32 - 2 ** 20 }

export interface Dump extends Heap {
  readonly host: string // '' where a memory image does not say
  readonly release: string // uname -r; likewise
  readonly dumpedNs: bigint // 0n: not known, since it comes from a memory image
}

/**
 * Reads a dump from a file, or from bytes, which it goes on using.
 * @throws KerninstError: 65 where it is no dump, cut off, or contradicts itself; 66 and 74 where it cannot be read
 */
export const readDump = (source: string | Uint8Array, limits: DumpLimits = DUMP_LIMITS): Dump => {
  const refuse = refuser(typeof source === 'string' ? source : 'dump')
  const bytes = typeof source === 'string' ? readLimited(source, limits.bytes) : source
  if (bytes.length > limits.bytes) refuse(`${bytes.length} bytes, more than the limit of ${limits.bytes}`)
  if (bytes.length < LENGTH.magic) refuse('no kerninst dump: too short')
  const view = viewOf(bytes)
  const u32 = (offset: number): number => view.getUint32(offset, true)
  const u64 = (offset: number): bigint => view.getBigUint64(offset, true)
  const text = (from: number, to: number): string => Buffer.from(bytes.subarray(from, to)).toString('utf8')
  const zero = (from: number, to: number, what: string): void => {
    if (bytes.subarray(from, to).some((b) => b !== 0)) refuse(`${what} is not zero`)
  }
  const uname = (offset: number, what: string): string => {
    const end = bytes.indexOf(0, offset)
    if (end < 0 || end >= offset + LENGTH.host) return refuse(`${what} does not end`)
    zero(end, offset + LENGTH.host, `the padding of ${what}`)
    return text(offset, end)
  }

  if (text(DUMP.magic, DUMP.magic + LENGTH.magic) !== DUMP_MAGIC) refuse('no kerninst dump (magic)')
  if (bytes.length < SIZE.dump + PAGE) refuse(`cut off after ${bytes.length} bytes, in the headers`)
  if (u32(DUMP.version) !== VERSION) refuse(`version ${u32(DUMP.version)}, this program reads ${VERSION}`)
  if (u32(DUMP.headerBytes) !== SIZE.dump) refuse(`header_bytes is ${u32(DUMP.headerBytes)}, not ${SIZE.dump}`)
  const heapBytes = u64(DUMP.heapBytes)
  const here = BigInt(bytes.length - SIZE.dump)
  if (here < heapBytes) refuse(`cut off: ${here} of the heap's ${heapBytes} bytes are there; dump again`)
  if (here > heapBytes) refuse(`${here - heapBytes} bytes after its end`)
  zero(DUMP.reserved, SIZE.dump, 'the reserved part of the header')
  const host = uname(DUMP.host, 'host')
  const release = uname(DUMP.release, 'release')
  const heap = readHeap(bytes.subarray(SIZE.dump), refuse)
  // A heap can be mapped only when it counts.
  if (heap.state === 'applying') refuse('the heap\'s state is 0')
  return { ...heap, host, release, dumpedNs: u64(DUMP.dumpedNs) }
}
