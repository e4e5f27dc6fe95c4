// Memory images made for tests. In: pages by their frames. Out: an ELF core, a kdump-compressed file, a flattened file.
// Shares no code with what reads them. Nothing is checked: what is written may be as wrong as the test wants it.

import { execFileSync } from 'node:child_process'
import { constants, deflateSync } from 'node:zlib'

export const PAGE = 4096

/** pfn -> 4096 bytes. */
export type Memory = Map<number, Buffer>

const u32 = (...values: number[]): Buffer => Buffer.from(Uint32Array.from(values).buffer)
const u64 = (...values: (number | bigint)[]): Buffer => Buffer.from(BigUint64Array.from(values, BigInt).buffer)

// ---- ELF -----------------------------------------------------------------------------------------------------------

export interface Segment {
  readonly address: number | bigint
  readonly bytes: Buffer
  /** Of memory; as many as bytes where nothing is said. */
  readonly memory?: number
}

/** One segment a stretch of frames that follow each other. */
export const segmentsOf = (memory: Memory): Segment[] => {
  const segments: { address: number; pages: Buffer[] }[] = []
  for (const pfn of [...memory.keys()].sort((a, b) => a - b)) {
    const last = segments.at(-1)
    if (last !== undefined && last.address + last.pages.length * PAGE === pfn * PAGE) last.pages.push(memory.get(pfn)!)
    else segments.push({ address: pfn * PAGE, pages: [memory.get(pfn)!] })
  }
  return segments.map(({ address, pages }) => ({ address, bytes: Buffer.concat(pages) }))
}

export const note = (name: string, type: number, text: string): Buffer => {
  const padded = (bytes: Buffer): Buffer => Buffer.concat([bytes, Buffer.alloc(-bytes.length & 3)])
  return Buffer.concat([u32(name.length + 1, text.length, type), padded(Buffer.from(`${name}\0`)), padded(Buffer.from(text))])
}

/** @param extended write the number of segments as if there were too many for e_phnum */
export const elfCore = (segments: readonly Segment[], notes: Buffer = Buffer.alloc(0), extended = false): Buffer => {
  const count = segments.length + 1
  const sectionAt = 64
  const tableAt = sectionAt + (extended ? 64 : 0)
  let at = tableAt + count * 56
  const row = (type: number, address: number | bigint, bytes: number, memory: number): Buffer => {
    const made = Buffer.concat([u32(type, 0), u64(at, 0, address, bytes, memory, 0)])
    at += bytes
    return made
  }
  const rows = [row(4, 0, notes.length, notes.length),
    ...segments.map(({ address, bytes, memory = bytes.length }) => row(1, address, bytes.length, memory))]
  const ident = Buffer.from('7f454c46020101000000000000000000', 'hex')
  const halves = (...values: number[]): Buffer => Buffer.from(Uint16Array.from(values).buffer)
  const header = Buffer.concat([ident, halves(4, 62), u32(1), u64(0, tableAt, extended ? sectionAt : 0), u32(0),
    halves(64, 56, extended ? 0xffff : count, 64, extended ? 1 : 0, 0)])
  const section = extended ? Buffer.concat([u32(0, 0), u64(0, 0, 0, 0), u32(0, count), u64(0, 0)]) : Buffer.alloc(0)
  return Buffer.concat([header, section, ...rows, notes, ...segments.map(({ bytes }) => bytes)])
}

// ---- kdump-compressed ----------------------------------------------------------------------------------------------

export type Packing = 'none' | 'zlib' | 'zlib-fixed' | 'zlib-stored' | 'zstd' | 'lzo' | 'snappy'

const FLAGS: Readonly<Record<Packing, number>> =
  { none: 0, zlib: 1, 'zlib-fixed': 1, 'zlib-stored': 1, lzo: 2, snappy: 4, zstd: 0x20 }

const pack = (page: Buffer, packing: Packing): Buffer => {
  if (packing === 'zlib') return deflateSync(page)
  if (packing === 'zlib-fixed') return deflateSync(page, { strategy: constants.Z_FIXED })
  if (packing === 'zlib-stored') return deflateSync(page.subarray(0, PAGE), { level: 0 })
  return packing === 'zstd' ? execFileSync('zstd', ['-q', '-c'], { input: page }) : page
}

export interface KdumpOptions {
  readonly packing?: (pfn: number) => Packing
  readonly version?: number
  readonly status?: number
  readonly nodename?: string
  readonly release?: string
  readonly vmcoreinfo?: string
  readonly split?: number
  /** Frames that a full disk cost. */
  readonly lost?: readonly number[]
  readonly subBlocks?: number
  /** The pages' bytes in the reverse order of their descriptors. */
  readonly backwards?: boolean
}

const ZERO = Buffer.alloc(PAGE)

export const kdump = (memory: Memory, options: KdumpOptions = {}): Buffer => {
  const { version = 6, status = 1, nodename = '', release = '', vmcoreinfo = '', split = 0, lost = [], subBlocks = 1 } = options
  const pfns = [...memory.keys()].sort((a, b) => a - b)
  const maxPfn = pfns.at(-1)! + 1
  const bitmapBlocks = 2 * Math.ceil(maxPfn / 8 / PAGE)
  const bitmap = Buffer.alloc((bitmapBlocks / 2) * PAGE)
  for (const pfn of pfns) bitmap[pfn >> 3]! |= 1 << (pfn & 7)
  const memoryBitmap = Buffer.alloc(bitmap.length, 0xff)

  const header = Buffer.alloc(PAGE)
  header.write('KDUMP   ')
  header.writeUInt32LE(version, 8)
  header.write(nodename, 12 + 65)
  header.write(release, 12 + 2 * 65)
  header.set(u32(status, PAGE, subBlocks, bitmapBlocks, version >= 6 ? 0 : maxPfn), 424)
  const sub = Buffer.alloc(subBlocks * PAGE)
  const descriptorsAt = (1 + subBlocks + bitmapBlocks) * PAGE
  let at = descriptorsAt + pfns.length * 24
  sub.writeUInt32LE(split, 12)
  sub.set(u64(at, vmcoreinfo.length), 32)
  if (version >= 6) sub.set(u64(maxPfn), 96)
  at += vmcoreinfo.length

  const descriptors = new Map<number, Buffer>()
  const data: Buffer[] = [Buffer.from(vmcoreinfo)]
  const add = (bytes: Buffer, flags: number): Buffer => {
    const descriptor = Buffer.concat([u64(at), u32(bytes.length, flags), u64(0)])
    data.push(bytes)
    at += bytes.length
    return descriptor
  }
  const packing = options.packing ?? (() => 'zlib' as const)
  const zeros = add(pack(ZERO, packing(-1)), FLAGS[packing(-1)])
  for (const pfn of options.backwards ? pfns.toReversed() : pfns) {
    const page = memory.get(pfn)!
    if (lost.includes(pfn)) descriptors.set(pfn, Buffer.alloc(24))
    else if (page.equals(ZERO)) descriptors.set(pfn, zeros)
    else {
      const packed = pack(page, packing(pfn))
      descriptors.set(pfn, packed.length < PAGE ? add(packed, FLAGS[packing(pfn)]) : add(page, 0))
    }
  }
  return Buffer.concat([header, sub, memoryBitmap, bitmap, ...pfns.map((pfn) => descriptors.get(pfn)!), ...data])
}

// ---- Flattened -----------------------------------------------------------------------------------------------------

const i64be = (...values: number[]): Buffer => {
  const bytes = Buffer.alloc(8 * values.length)
  values.forEach((value, i) => bytes.writeBigInt64BE(BigInt(value), 8 * i))
  return bytes
}

export const flatHeader = (type = 1, version = 1): Buffer =>
  Buffer.concat([Buffer.from('makedumpfile\0\0\0\0'), i64be(type, version), Buffer.alloc(PAGE - 32)])

export const flatPiece = (place: number, bytes: Buffer): Buffer => Buffer.concat([i64be(place, bytes.length), bytes])

export const flatEnd = (): Buffer => i64be(-1, -1)

/** In pieces of `length`, in another order; and first a piece that a later one overwrites. */
export const flattened = (file: Buffer, length: number, order: (pieces: number) => number[]): Buffer => {
  const pieces = Array.from({ length: Math.ceil(file.length / length) }, (_, i) => file.subarray(i * length, (i + 1) * length))
  return Buffer.concat([flatHeader(), flatPiece(0, Buffer.alloc(Math.min(length * 2, file.length), 0xee)),
    ...order(pieces.length).map((i) => flatPiece(i * length, pieces[i]!)), flatEnd()])
}
