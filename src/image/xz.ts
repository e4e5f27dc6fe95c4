// In: one XZ stream, as kernels are packed: LZMA2, perhaps behind the x86 branch filter. Out: the bytes that were
// packed.
// Invariant: exactly `size` bytes come out, and every CRC and check of the stream was right, or it throws.
// Left out: other filters, several streams, and what the index says beyond its checksum and number of blocks.
// Source: The .xz File Format, version 1.0.4.

import { createHash } from 'node:crypto'
import { crc32 } from 'node:zlib'
import { EXIT, KerninstError } from '../error.js'
import { viewOf } from './address.js'
import { decodeBranches } from './bcj.js'
import { crc64 } from './crc64.js'
import { unpackLzma2 } from './lzma.js'

export const XZ_MAGIC = Uint8Array.of(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0)
const HEADER_BYTES = 12
const FOOTER_BYTES = 12
const FILTER = { x86: 4, lzma2: 0x21 } as const
const MAX_FILTERS = 4
/** Kinds of check, by the stream's flags; of kind 0 there is none. */
const CHECK = { none: 0, crc32: 1, crc64: 4, sha256: 10 } as const
/** kind of check -> its bytes */
const CHECK_BYTES = [0, 4, 4, 4, 8, 8, 8, 16, 16, 16, 32, 32, 32, 64, 64, 64] as const

const corrupt = (at: number, what: string): KerninstError =>
  new KerninstError(EXIT.data, `XZ data are corrupt at byte ${at}: ${what}`)

const padded = (length: number): number => Math.ceil(length / 4) * 4

class Reader {
  at: number
  readonly end: number
  readonly #bytes: Uint8Array

  constructor(bytes: Uint8Array, at: number, end: number) {
    this.#bytes = bytes
    this.at = at
    this.end = end
  }

  byte(): number {
    if (this.at >= this.end) throw corrupt(this.at, 'cut off')
    return this.#bytes[this.at++]!
  }

  /** A number in groups of 7 bits, least significant first; no size here needs more than 53 of the 63. */
  number(): number {
    let value = 0
    for (let shift = 0; shift < 49; shift += 7) {
      const byte = this.byte()
      value += (byte & 0x7f) * 2 ** shift
      if (byte < 0x80) return value
    }
    throw corrupt(this.at, 'a number is too large')
  }

  skip(length: number): void {
    if (length > this.end - this.at) throw corrupt(this.at, 'cut off')
    this.at += length
  }
}

interface BlockHeader {
  readonly packed: number | undefined // bytes, where it says
  readonly unpacked: number | undefined
  readonly x86Start: number | undefined // where the x86 filter counts from; undefined: no filter
  readonly end: number
}

const readBlockHeader = (bytes: Uint8Array, start: number): BlockHeader => {
  const end = start + (bytes[start]! + 1) * 4
  if (end > bytes.length) throw corrupt(start, 'cut off')
  const view = viewOf(bytes)
  if (crc32(bytes.subarray(start, end - 4)) !== view.getUint32(end - 4, true)) {
    throw corrupt(start, "a block header's checksum is wrong")
  }
  const reader = new Reader(bytes, start + 1, end - 4)
  const flags = reader.byte()
  if ((flags & 0x3c) !== 0) throw corrupt(start, 'a block header of an unknown kind')
  const packed = (flags & 0x40) !== 0 ? reader.number() : undefined
  const unpacked = (flags & 0x80) !== 0 ? reader.number() : undefined
  const count = (flags & 3) + 1
  let x86Start: number | undefined
  for (let i = 0; i < count && i < MAX_FILTERS; i++) {
    const id = reader.number()
    const length = reader.number()
    const at = reader.at
    reader.skip(length)
    if (i === count - 1 && id === FILTER.lzma2) continue
    if (i < count - 1 && id === FILTER.x86 && x86Start === undefined && (length === 0 || length === 4)) {
      x86Start = length === 0 ? 0 : view.getUint32(at, true)
      continue
    }
    throw new KerninstError(EXIT.data, `XZ filter 0x${id.toString(16)} is not one that kernels are packed with`)
  }
  return { packed, unpacked, x86Start, end }
}

const checkOf = (kind: number, bytes: Uint8Array): Uint8Array => {
  if (kind === CHECK.sha256) return createHash('sha256').update(bytes).digest()
  if (kind === CHECK.crc64) return crc64(bytes)
  const sum = new Uint8Array(4)
  viewOf(sum).setUint32(0, crc32(bytes), true)
  return sum
}

/**
 * @param size what it must unpack to, in bytes
 * @throws KerninstError 65 for anything that is not one whole stream of `size` bytes
 */
export const unpackXz = (packed: Uint8Array, size: number): Uint8Array => {
  const view = viewOf(packed)
  if (packed.length < HEADER_BYTES || XZ_MAGIC.some((byte, i) => packed[i] !== byte)) throw corrupt(0, 'no XZ stream')
  const kind = packed[7]!
  if (crc32(packed.subarray(6, 8)) !== view.getUint32(8, true)) throw corrupt(6, "the header's checksum is wrong")
  if (packed[6] !== 0 || (kind !== CHECK.none && kind !== CHECK.crc32 && kind !== CHECK.crc64 &&
    kind !== CHECK.sha256)) {
    throw new KerninstError(EXIT.data, `XZ check of kind ${kind} is not known`)
  }
  const out = new Uint8Array(size)
  let to = 0
  let at = HEADER_BYTES
  let blocks = 0
  for (; ; blocks++) {
    if (at >= packed.length) throw corrupt(at, 'cut off')
    if (packed[at] === 0) break
    const header = readBlockHeader(packed, at)
    const data = unpackLzma2(packed, header.end, out, to)
    const block = out.subarray(to, data.to)
    if (header.packed !== undefined && header.packed !== data.at - header.end) throw corrupt(at, 'a block of wrong size')
    if (header.unpacked !== undefined && header.unpacked !== block.length) throw corrupt(at, 'a block of wrong size')
    if (header.x86Start !== undefined) decodeBranches(block, header.x86Start)
    const check = header.end + padded(data.at - header.end)
    const end = check + CHECK_BYTES[kind]!
    if (end > packed.length) throw corrupt(check, 'cut off')
    if (packed.subarray(data.at, check).some((byte) => byte !== 0)) throw corrupt(data.at, 'padding is not zero')
    if (kind !== CHECK.none && checkOf(kind, block).some((byte, i) => byte !== packed[check + i])) {
      throw corrupt(check, "a block's checksum is wrong")
    }
    at = end
    to = data.to
  }
  if (to !== size) throw corrupt(at, `it unpacks to ${to} bytes, not ${size}`)
  readEnd(packed, at, blocks)
  return out
}

/** Index and footer: nothing of them is needed but that they are whole. */
const readEnd = (packed: Uint8Array, start: number, blocks: number): void => {
  const view = viewOf(packed)
  const reader = new Reader(packed, start + 1, packed.length)
  if (reader.number() !== blocks) throw corrupt(start, 'the index names another number of blocks')
  for (let i = 0; i < blocks * 2; i++) reader.number()
  const sum = start + padded(reader.at - start)
  const footer = sum + 4
  if (footer + FOOTER_BYTES > packed.length) throw corrupt(sum, 'cut off')
  if (crc32(packed.subarray(start, sum)) !== view.getUint32(sum, true)) {
    throw corrupt(start, "the index's checksum is wrong")
  }
  const sumOfFooter = crc32(packed.subarray(footer + 4, footer + 10))
  const flags = packed[footer + 8] === packed[6] && packed[footer + 9] === packed[7]
  const magic = packed[footer + 10] === 0x59 && packed[footer + 11] === 0x5a
  if (sumOfFooter !== view.getUint32(footer, true) || !flags || !magic) throw corrupt(footer, 'the footer is wrong')
  if (footer + FOOTER_BYTES !== packed.length) throw corrupt(footer + FOOTER_BYTES, 'something follows the stream')
}
