// In: the bytes of a bzImage (a vmlinuz). Out: the payload unpacked: the kernel's ELF file, and after it the list of
// places that KASLR changes.
// Invariant: what comes out has the size that the payload states, at most 512 MiB.
// Left out: zImages and kernels before 2.6.26, LZO payloads, and what the ELF file means.
// Source: Documentation/arch/x86/boot.rst (6.12), "The Real-Mode Kernel Header"; scripts/Makefile.lib (5.10 to 6.12)
// for what is packed, and the size that follows it.

import { gunzipSync } from 'node:zlib'
import { EXIT, KerninstError } from '../error.js'
import { viewOf } from './address.js'
import { isBzip2, unpackBzip2 } from './bzip2.js'
import { LZ4_MAGIC, unpackLz4 } from './lz4.js'
import { looksLikeLzma, unpackLzma } from './lzma.js'
import { XZ_MAGIC, unpackXz } from './xz.js'
import { ZSTD_MAGIC, unpackZstd } from './zstd.js'

/** Places in the header. */
const SETUP_SECTORS = 0x1f1
const BOOT_FLAG = 0x1fe
const MAGIC = 0x202
const VERSION = 0x206
const PAYLOAD_OFFSET = 0x248
const PAYLOAD_LENGTH = 0x24c
const HEADER_BYTES = 0x250
/** The protocol that brought payload_offset and payload_length. */
const WANTED_VERSION = 0x208
const SECTOR_BYTES = 512
/** What a bzImage has at most: all of them are below 100 MB. */
export const MAX_VMLINUZ_BYTES = 256 * 1024 * 1024
/** What is read of any kernel. */
const MAX_UNPACKED = 512 * 1024 * 1024

/** Whether the first bytes of a file are those of a bzImage. */
export const isVmlinuz = (head: Uint8Array): boolean =>
  head.length >= MAGIC + 4 && viewOf(head).getUint16(BOOT_FLAG, true) === 0xaa55 &&
  Buffer.from(head.subarray(MAGIC, MAGIC + 4)).toString('latin1') === 'HdrS'

/** How many of the first bytes isVmlinuz() looks at. */
export const VMLINUZ_HEAD_BYTES = MAGIC + 4

/** How a payload is packed, by its first bytes. */
type Packer = 'gzip' | 'bzip2' | 'LZMA' | 'XZ' | 'LZO' | 'LZ4' | 'ZSTD' | 'nothing'

const detect = (payload: Uint8Array): Packer | undefined => {
  const view = viewOf(payload)
  if (payload.length < 8) return undefined
  if (view.getUint16(0) === 0x1f8b) return 'gzip'
  if (view.getUint32(0, true) === LZ4_MAGIC) return 'LZ4'
  if (view.getUint32(0, true) === ZSTD_MAGIC) return 'ZSTD'
  if (view.getUint32(0) === 0x7f454c46) return 'nothing'
  if (view.getUint32(0) === 0x894c5a4f) return 'LZO'
  if (isBzip2(payload)) return 'bzip2'
  if (XZ_MAGIC.every((byte, i) => payload[i] === byte)) return 'XZ'
  return looksLikeLzma(payload) ? 'LZMA' : undefined
}

const gunzip = (packed: Uint8Array, size: number): Uint8Array => {
  let out: Uint8Array
  try {
    out = gunzipSync(packed, { maxOutputLength: Math.max(size, 1) })
  } catch (error) {
    throw new KerninstError(EXIT.data, `gzip data are corrupt (${error instanceof Error ? error.message : 'unknown'})`)
  }
  if (out.length !== size) throw new KerninstError(EXIT.data, `gzip data unpack to ${out.length} bytes, not ${size}`)
  return out
}

/** Unpacks a payload, with the u32 of its size that ends it (gzip has that as its own). */
const unpack = (payload: Uint8Array): Uint8Array => {
  const packer = detect(payload)
  if (packer === undefined) throw new KerninstError(EXIT.data, 'the payload is packed in a way that is not known')
  if (packer === 'nothing') return payload
  const size = viewOf(payload).getUint32(payload.length - 4, true)
  if (size > MAX_UNPACKED) {
    throw new KerninstError(EXIT.data, `the payload unpacks to ${size} bytes; at most 512 MiB are read`)
  }
  const packed = payload.subarray(0, payload.length - 4)
  switch (packer) {
    case 'gzip': return gunzip(payload, size)
    case 'LZ4': return unpackLz4(packed, size)
    case 'ZSTD': return unpackZstd(packed, size)
    case 'XZ': return unpackXz(packed, size)
    case 'LZMA': return unpackLzma(packed, size)
    case 'bzip2': return unpackBzip2(packed, size)
    default:
      throw new KerninstError(
        EXIT.data, `the payload is packed with ${packer}, which is not read; unpack it with scripts/extract-vmlinux`)
  }
}

/**
 * Unpacks the kernel in a bzImage.
 * @param path for messages
 * @throws KerninstError 65 for what is no bzImage, or cut off, damaged, or packed in a way that is not read
 */
export const unpackVmlinuz = (path: string, bzImage: Uint8Array): Uint8Array => {
  const bad = (what: string): KerninstError => new KerninstError(EXIT.data, `${path}: ${what}`)
  if (!isVmlinuz(bzImage)) throw bad('not a bzImage')
  if (bzImage.length < HEADER_BYTES) throw bad('truncated: the header of the bzImage is incomplete')
  const view = viewOf(bzImage)
  const version = view.getUint16(VERSION, true)
  if (version < WANTED_VERSION) throw bad(`a bzImage of boot protocol ${version >>> 8}.${version & 0xff}; 2.8 is wanted`)
  const sectors = view.getUint8(SETUP_SECTORS) || 4
  const start = (sectors + 1) * SECTOR_BYTES + view.getUint32(PAYLOAD_OFFSET, true)
  const length = view.getUint32(PAYLOAD_LENGTH, true)
  if (start + length > bzImage.length) {
    throw bad(`truncated: the payload ends at ${start + length}, the file has ${bzImage.length} bytes`)
  }
  try {
    return unpack(bzImage.subarray(start, start + length))
  } catch (error) {
    if (error instanceof KerninstError) throw bad(error.message)
    throw error
  }
}
