// A kdump-compressed image, as makedumpfile and QEMU's dump-guest-memory write it. In: the bytes of the file. Out: its
// physical memory. Invariant: both bitmaps and the descriptors of all pages lie inside the file; a page's bytes are looked
// at when it is read.
// Left out: LZO and Snappy, which are refused; parts of a split dump; all of the headers that crash tools want.
//
// In blocks of 4096 bytes: a header; a sub-header; two bitmaps, each a bit for every page frame, of which the first says
// where there is memory and the second which pages are in the file; for each of those, in order, a descriptor; the pages'
// bytes, packed one by one. A page of zeros has a descriptor too: all of them name the bytes of one such page.
// (makedumpfile's IMPLEMENTATION and diskdump_mod.h 1.7; QEMU's dump.h 10.0, which packs its structs and fills in.)

import { inflateSync } from 'node:zlib'
import { viewOf } from '../image/address.js'
import { hex } from '../image/rva.js'
import { zstdUnpacker } from '../image/zstd.js'
import { mayStartWith } from './firstbyte.js'
import { MAX_PFNS, PAGE, fieldText, releaseIn, type PhysicalMemory } from './physical.js'
import { refuser, type Source } from './source.js'

export const KDUMP_SIGNATURE = 'KDUMP   '

/** struct disk_dump_header: field -> byte offset. */
const HEADER = {
  version: 8, nodename: 12 + 65, release: 12 + 130, status: 424, blockSize: 428, subHeaderBlocks: 432, bitmapBlocks: 436,
  maxPfn: 440,
} as const
const UNAME_BYTES = 65
/** struct kdump_sub_header. */
const SUB = { split: 12, vmcoreinfo: 32, vmcoreinfoBytes: 40, maxPfn: 96 } as const
const SUB_BYTES = 104
/** Versions of the header from which on the sub-header has them. */
const SINCE = { split: 2, vmcoreinfo: 3, maxPfn: 6 } as const
const MAX_VMCOREINFO_BYTES = 2 ** 20 // the kernel writes a page
/** Of each bitmap; 8 TiB of physical memory. */
const MAX_BITMAP_BYTES = 2 ** 28

/** struct page_desc: where the page's bytes are, how many, how they are packed. */
const DESCRIPTOR = { offset: 0, size: 8, flags: 12 } as const
const DESCRIPTOR_BYTES = 24
/** Flags of a descriptor; those of the status say what some page may have. */
const FLAG = { zlib: 1, lzo: 2, snappy: 4, zstd: 0x20 } as const
const PACKED = FLAG.zlib | FLAG.lzo | FLAG.snappy | FLAG.zstd
/** A flag of the status: the disk was full. What was not written has a descriptor of zeros. */
const INCOMPLETE = 8

const DESCRIPTORS = 4096 //        read at a time
const WINDOW_BYTES = 2 ** 22 //    likewise, of the pages' bytes
const PAGES_BETWEEN_YIELDS = 512
/** Bits of the second bitmap for which there is one sum. */
const RANK_BITS = 1024

const onesIn = (word: number): number => {
  let bits = word - ((word >>> 1) & 0x55555555)
  bits = (bits & 0x33333333) + ((bits >>> 2) & 0x33333333)
  return Math.imul((bits + (bits >>> 4)) & 0x0f0f0f0f, 0x01010101) >>> 24
}

export const openKdump = (source: Source): PhysicalMemory => {
  const refuse = refuser(source.path)
  const header = Buffer.alloc(PAGE)
  source.read(0, header)
  const version = header.readUInt32LE(HEADER.version)
  const status = header.readUInt32LE(HEADER.status)
  const subHeaderBlocks = header.readUInt32LE(HEADER.subHeaderBlocks)
  const bitmapBlocks = header.readUInt32LE(HEADER.bitmapBlocks)
  if (header.readUInt32LE(HEADER.blockSize) !== PAGE) {
    refuse(`blocks of ${header.readUInt32LE(HEADER.blockSize)} bytes: no memory of an x86-64 kernel`)
  }
  const refusePacking = (flags: number): void => {
    const name = flags & FLAG.lzo ? 'LZO' : flags & FLAG.snappy ? 'Snappy' : ''
    if (name !== '') refuse(`pages packed with ${name}, which kerninst does not unpack; pack them with zlib: makedumpfile -c OLD NEW`)
  }
  refusePacking(status)
  if (subHeaderBlocks === 0) refuse('no sub-header')
  const sub = Buffer.alloc(SUB_BYTES)
  source.read(PAGE, sub)
  if (version >= SINCE.split && sub.readUInt32LE(SUB.split) !== 0) {
    refuse('a part of a split dump; put it together first: makedumpfile --reassemble PARTS... WHOLE')
  }
  const pfns = version >= SINCE.maxPfn ? sub.readBigUInt64LE(SUB.maxPfn) : BigInt(header.readUInt32LE(HEADER.maxPfn))
  if (pfns === 0n || pfns > MAX_PFNS) refuse(`${pfns} page frames`)
  const maxPfn = Number(pfns)
  const bitmapBytes = Math.ceil(maxPfn / 8)
  if (bitmapBytes > MAX_BITMAP_BYTES) refuse(`${maxPfn} page frames, more than ${MAX_BITMAP_BYTES * 8}`)
  if (2 * bitmapBytes > bitmapBlocks * PAGE) refuse(`${bitmapBlocks} blocks of bitmaps, too few for ${maxPfn} page frames`)
  const bitmapAt = (1 + subHeaderBlocks) * PAGE + (bitmapBlocks * PAGE) / 2
  const descriptorsAt = (1 + subHeaderBlocks + bitmapBlocks) * PAGE
  if (descriptorsAt > source.bytes) refuse(`cut off: ${source.bytes} bytes, and its bitmaps end at ${descriptorsAt}`)

  // The second bitmap, and how many pages are in the file before every RANK_BITS of it.
  const words = new Uint32Array(Math.ceil(maxPfn / RANK_BITS) * (RANK_BITS / 32))
  source.read(bitmapAt, new Uint8Array(words.buffer, 0, bitmapBytes))
  if (maxPfn % 8 !== 0) {
    const last = new Uint8Array(words.buffer, bitmapBytes - 1, 1)
    last[0]! &= (1 << maxPfn % 8) - 1
  }
  const rank = new Float64Array(words.length / (RANK_BITS / 32) + 1)
  for (let i = 0, total = 0; i < words.length; i++) {
    total += onesIn(words[i]!)
    if ((i + 1) % (RANK_BITS / 32) === 0) rank[(i + 1) / (RANK_BITS / 32)] = total
  }
  const pages = rank[rank.length - 1]!
  if (pages === 0) refuse('no pages in it')
  if (descriptorsAt + pages * DESCRIPTOR_BYTES > source.bytes) {
    refuse(`cut off: ${source.bytes} bytes, and the descriptors of its ${pages} pages end at ${descriptorsAt + pages * DESCRIPTOR_BYTES}`)
  }
  const isInFile = (pfn: number): boolean => pfn < maxPfn && ((words[Math.floor(pfn / 32)]! >>> (pfn % 32)) & 1) === 1
  const descriptorOf = (pfn: number): number => {
    let index = rank[Math.floor(pfn / RANK_BITS)]!
    const word = Math.floor(pfn / 32)
    for (let i = word - (word % (RANK_BITS / 32)); i < word; i++) index += onesIn(words[i]!)
    return index + onesIn(words[word]! & ((1 << pfn % 32) - 1))
  }

  // The descriptor that was read last; of a page that a full disk cost, size is 0.
  let offset = 0
  let size = 0
  let flags = 0
  const readDescriptor = (view: DataView, at: number, pfn: number): void => {
    offset = view.getUint32(at + DESCRIPTOR.offset, true) + view.getUint32(at + DESCRIPTOR.offset + 4, true) * 2 ** 32
    size = view.getUint32(at + DESCRIPTOR.size, true)
    flags = view.getUint32(at + DESCRIPTOR.flags, true) & PACKED
    if (offset === 0 && size === 0 && status & INCOMPLETE) return
    if (size === 0 || size > PAGE || (flags === 0 && size !== PAGE)) refuse(`page frame ${hex(pfn)}: ${size} bytes`)
    if (offset + size > source.bytes) refuse(`cut off: ${source.bytes} bytes, and page frame ${hex(pfn)} ends at ${offset + size}`)
    refusePacking(flags)
  }
  let unzstd: ReturnType<typeof zstdUnpacker> | undefined
  /** The page that these bytes unpack to; of packed pages only. May be overwritten by the next call. */
  const unpack = (packed: Uint8Array, pfn: number): Uint8Array => {
    let page: Uint8Array | undefined
    try {
      page = flags & FLAG.zlib ? inflateSync(packed, { maxOutputLength: PAGE }) : (unzstd ??= zstdUnpacker(PAGE, PAGE))(packed)
    } catch {
      // Both say no more than that it is damaged.
    }
    return page?.length === PAGE ? page : refuse(`page frame ${hex(pfn)} does not unpack to ${PAGE} bytes: damaged`)
  }

  const descriptor = Buffer.alloc(DESCRIPTOR_BYTES)
  const single = Buffer.alloc(PAGE)
  const release = fieldText(header.subarray(HEADER.release, HEADER.release + UNAME_BYTES))
  const vmcoreinfo = (): Uint8Array => {
    if (version < SINCE.vmcoreinfo) return new Uint8Array(0)
    const at = sub.readBigUInt64LE(SUB.vmcoreinfo)
    const bytes = sub.readBigUInt64LE(SUB.vmcoreinfoBytes)
    if (bytes > MAX_VMCOREINFO_BYTES) refuse(`${bytes} bytes of VMCOREINFO, more than ${MAX_VMCOREINFO_BYTES}`)
    if (bytes > 0n && at + bytes > source.bytes) refuse(`cut off: ${source.bytes} bytes, and its VMCOREINFO ends at ${at + bytes}`)
    const text = new Uint8Array(Number(bytes))
    if (bytes > 0n) source.read(Number(at), text)
    return text
  }
  return {
    path: source.path,
    host: fieldText(header.subarray(HEADER.nodename, HEADER.nodename + UNAME_BYTES)),
    release: release === '' ? releaseIn(vmcoreinfo()) : release,
    close: source.close,
    readPage: (pfn, into) => {
      if (!isInFile(pfn)) return false
      source.read(descriptorsAt + descriptorOf(pfn) * DESCRIPTOR_BYTES, descriptor)
      readDescriptor(viewOf(descriptor), 0, pfn)
      if (size === 0) return false
      const bytes = single.subarray(0, size)
      source.read(offset, bytes)
      into.set(flags === 0 ? bytes : unpack(bytes, pfn))
      return true
    },
    scan: function* (head, found) {
      const table = new Uint8Array(DESCRIPTORS * DESCRIPTOR_BYTES)
      const view = viewOf(table)
      const wanted = Buffer.from(head)
      const window = new Uint8Array(WINDOW_BYTES)
      let windowAt = 0
      let windowBytes = 0
      const alone = new Uint8Array(PAGE) // a page from before the window
      let seen = -1 //                      where the last such page was, if it is not what is looked for
      let done = 0
      for (let w = 0; w < words.length; w++) {
        for (let rest = words[w]!; rest !== 0; rest &= rest - 1) {
          const pfn = w * 32 + 31 - Math.clz32(rest & -rest)
          if (done % DESCRIPTORS === 0) {
            const count = Math.min(DESCRIPTORS, pages - done)
            source.read(descriptorsAt + done * DESCRIPTOR_BYTES, table.subarray(0, count * DESCRIPTOR_BYTES))
          }
          readDescriptor(view, (done % DESCRIPTORS) * DESCRIPTOR_BYTES, pfn)
          if (++done % PAGES_BETWEEN_YIELDS === 0) yield done / pages
          if (size === 0 || offset === seen) continue
          // Pages lie in the order of their descriptors, but for the one of zeros that many name. So the window only goes
          // forward, and all that is read is no more than the file, and a page for each descriptor.
          const isBefore = offset < windowAt
          if (isBefore) {
            source.read(offset, alone.subarray(0, size))
          } else if (offset + size > windowAt + windowBytes) {
            windowAt = offset
            windowBytes = Math.min(WINDOW_BYTES, source.bytes - offset)
            source.read(windowAt, window.subarray(0, windowBytes))
          }
          const bytes = isBefore ? alone : window
          const at = isBefore ? 0 : offset - windowAt
          if (flags === 0 ? bytes[at] !== head[0] : flags & FLAG.zlib && !mayStartWith(bytes, at, at + size, head[0]!)) {
            if (isBefore) seen = offset
            continue
          }
          const packed = bytes.subarray(at, at + size)
          const page = flags === 0 ? packed : unpack(packed, pfn)
          if (wanted.equals(page.subarray(0, head.length))) found(pfn)
          else if (isBefore) seen = offset
        }
      }
      yield 1
    },
  }
}
