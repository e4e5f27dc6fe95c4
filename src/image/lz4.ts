// In: LZ4 in the legacy frame, which is what kernels are packed in (`lz4 -l`). Out: the bytes that were packed.
// Invariant: exactly `size` bytes come out, or it throws; nothing is read or written out of bounds.
// Left out: the newer frame format, which no kernel uses; the legacy one has no checksum.
// Source: lz4_Frame_format.md ("Legacy frame") and lz4_Block_format.md of LZ4 1.9.

import { EXIT, KerninstError } from '../error.js'
import { viewOf } from './address.js'

export const LZ4_MAGIC = 0x184c2102
const MAX_BLOCK = 8 << 20
/** What the shortest match copies. */
const MIN_MATCH = 4
/** Below this, a loop is faster than a call. */
const SHORT = 16

const corrupt = (at: number, what: string): KerninstError =>
  new KerninstError(EXIT.data, `LZ4 data are corrupt at byte ${at}: ${what}`)

/**
 * Unpacks one block, src[from, end), to `out` from `start` on; blocks do not depend on each other.
 * @returns where it stopped in `out`
 */
const unpackBlock = (src: Uint8Array, from: number, end: number, out: Uint8Array, start: number): number => {
  const limit = Math.min(out.length, start + MAX_BLOCK)
  let at = from
  let to = start
  while (at < end) {
    const token = src[at++]!
    let literals = token >>> 4
    if (literals === 15) {
      let byte = 255
      while (byte === 255 && at < end) literals += byte = src[at++]!
    }
    if (literals > end - at) throw corrupt(at, 'literals reach past the block')
    if (literals > limit - to) throw corrupt(at, 'it unpacks to more than it should')
    if (literals < SHORT) for (let i = 0; i < literals; i++) out[to + i] = src[at + i]!
    else out.set(src.subarray(at, at + literals), to)
    at += literals
    to += literals
    if (at === end) return to
    if (end - at < 2) throw corrupt(at, 'a match is cut off')
    const distance = src[at]! | (src[at + 1]! << 8)
    at += 2
    let length = (token & 15) + MIN_MATCH
    if (length === 15 + MIN_MATCH) {
      let byte = 255
      while (byte === 255 && at < end) length += byte = src[at++]!
    }
    if (distance === 0 || distance > to - start) throw corrupt(at, 'a match begins before the block')
    if (length > limit - to) throw corrupt(at, 'it unpacks to more than it should')
    if (length > distance || length < SHORT) {
      for (let i = 0; i < length; i++) out[to + i] = out[to - distance + i]!
    } else out.copyWithin(to, to - distance, to - distance + length)
    to += length
  }
  throw corrupt(at, 'a block ends with a match')
}

/**
 * @param size what it must unpack to, in bytes
 * @throws KerninstError 65 for anything that is not a legacy frame of `size` bytes
 */
export const unpackLz4 = (packed: Uint8Array, size: number): Uint8Array => {
  const view = viewOf(packed)
  if (packed.length < 4 || view.getUint32(0, true) !== LZ4_MAGIC) throw corrupt(0, 'no legacy frame')
  const out = new Uint8Array(size)
  let to = 0
  for (let at = 4; at < packed.length; ) {
    if (packed.length - at < 4) throw corrupt(at, 'a block is cut off')
    const length = view.getUint32(at, true)
    at += 4
    if (length === LZ4_MAGIC) continue // frames may follow one another
    if (length === 0 || length > packed.length - at) throw corrupt(at, 'a block is cut off')
    to = unpackBlock(packed, at, at + length, out, to)
    at += length
  }
  if (to !== size) throw corrupt(packed.length, `it unpacks to ${to} bytes, not ${size}`)
  return out
}
