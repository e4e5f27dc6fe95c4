// In: the path of a vmlinux, with symbols or stripped, or of a vmlinuz, and perhaps of a kallsyms file. Out: Image, all
// that later stages know of the kernel: its identity, code bytes, symbols, functions, special tables, and what KASLR
// changes. The file is closed.
// Invariant: every rva of code in it is below imageBytes.
// Left out: where names come from (names.ts), how a vmlinuz is unpacked (vmlinuz.ts).

import { createHash } from 'node:crypto'
import { EXIT, KerninstError, assert } from '../error.js'
import { readLimited } from '../file.js'
import { addressReader, viewOf } from './address.js'
import { SHF, SHT, elfOf, openElf, readHead, type Elf } from './elf.js'
import { Functions } from './functions.js'
import { Memory, isCode } from './memory.js'
import { checkNames, readNames, type SymbolSource } from './names.js'
import { findBuildId } from './notes.js'
import { Orc } from './orc.js'
import { findCodePointers } from './pointers.js'
import { readRelocTail, readRelocs, type Relocs } from './relocs.js'
import { NONE, hex, toRva, type Rva } from './rva.js'
import { Symbols, findRawSymbol } from './symbols.js'
import { readTables, type KernelTables } from './tables.js'
import { MAX_VMLINUZ_BYTES, VMLINUZ_HEAD_BYTES, isVmlinuz, unpackVmlinuz } from './vmlinuz.js'

const PAGE_BYTES = 4096
const ADDRESS_BYTES = 8
const BUILD_ID_BYTES = 20
/** __START_KERNEL_map, the top 2 GiB (arch/x86/include/asm/page_64_types.h, 6.1 and 6.12). */
const LOWEST_BASE = 0xffff_ffff_8000_0000n
const BASE_ALIGNMENT = 0x20_0000n
/** KERNEL_IMAGE_SIZE with KASLR, in the same header. */
const MAX_IMAGE_BYTES = 0x4000_0000
/** uname's fields have 64 characters (include/uapi/linux/utsname.h). */
const BANNER = /^Linux version ([!-~]{1,64}) /
const BANNER_BYTES = 128

/** A section of code. */
export interface Region {
  readonly name: string
  readonly start: Rva
  readonly end: Rva
  readonly bytes: Uint8Array // index = rva - start
}

export type ImageKind = 'vmlinux' | 'vmlinuz'

export interface Image {
  readonly path: string
  readonly kind: ImageKind
  /** What uname -r says. */
  readonly release: string
  readonly buildId: Uint8Array // 20 bytes
  /** Where the running kernel holds them. */
  readonly buildIdRva: Rva
  /** Link-time address of rva 0, that is of _text. */
  readonly base: bigint
  /** rva of _end, rounded up to a page. */
  readonly imageBytes: number
  /** Every executable section, ascending. */
  readonly regions: readonly Region[]
  readonly textStart: Rva // of section .text
  readonly textEnd: Rva
  readonly text: Uint8Array // index = rva - textStart
  readonly symbols: Symbols
  readonly functions: Functions
  readonly tables: KernelTables
  readonly relocs: Relocs
  readonly orc: Orc
  /**
   * The addresses that lie at `at`, as rvas, NONE for what is none; undefined where they do not all lie in data that the
   * running kernel cannot write.
   */
  readonly readOnlyPointers: (at: Rva, count: number) => Uint32Array | undefined
  /** Code that data points to; sorted, unique. */
  readonly codePointers: Uint32Array
  /** Where names came from, first, and what confirmed them. */
  readonly symbolSources: readonly SymbolSource[]
  /** Hex, over the bytes of all regions in order. */
  readonly textSha256: string
}

export interface ImageOptions {
  /** A System.map or a copy of /proc/kallsyms to check names against, or to take them from where there are none. */
  readonly kallsyms?: string
}

const checkBase = (path: string, base: bigint | undefined): bigint => {
  if (base === undefined) throw new KerninstError(EXIT.data, `${path}: has no symbol _text: not a kernel`)
  if (base < LOWEST_BASE || base % BASE_ALIGNMENT !== 0n) {
    throw new KerninstError(EXIT.data, `${path}: _text is at ${hex(base)}, where no x86-64 kernel is linked`)
  }
  return base
}

const readRelease = (path: string, memory: Memory, symbols: Symbols): string => {
  const start = symbols.rvaOf('linux_banner')
  const loaded = start === NONE ? undefined : memory.find(start, start + 1)
  const bytes = loaded && memory.bytes(start, Math.min(start + BANNER_BYTES, loaded.end))
  const match = BANNER.exec(Buffer.from(bytes ?? []).toString('latin1'))
  if (match === null) throw new KerninstError(EXIT.data, `${path}: linux_banner does not tell the kernel's version`)
  return match[1]!
}

const readBuildId = (path: string, memory: Memory): { id: Uint8Array; rva: Rva } => {
  const notes = memory.sections.find(({ section }) => section.name === '.notes')
  const note = notes && findBuildId(memory.bytesOf(notes))
  if (notes === undefined || note === undefined) {
    throw new KerninstError(EXIT.data, `${path}: has no GNU build id, by which the target is recognised`)
  }
  if (note.id.length !== BUILD_ID_BYTES) {
    throw new KerninstError(EXIT.data, `${path}: a build id of ${note.id.length} bytes; ${BUILD_ID_BYTES} are wanted`)
  }
  return { id: note.id, rva: notes.start + note.offset }
}

const readRegions = (path: string, elf: Elf, memory: Memory, base: bigint, imageBytes: number): Region[] => {
  for (const { name, flags, address } of elf.sections) {
    if ((flags & SHF.alloc) !== 0 && (flags & SHF.execinstr) !== 0 && toRva(base, address) === NONE) {
      throw new KerninstError(EXIT.data, `${path}: code section ${name} is at ${hex(address)}, outside the kernel`)
    }
  }
  return memory.sections.filter(isCode).map((loaded) => {
    const { section: { name }, start, end } = loaded
    if (end > imageBytes) throw new KerninstError(EXIT.data, `${path}: code section ${name} reaches past _end`)
    return { name, start, end, bytes: memory.bytesOf(loaded) }
  })
}

/** Where the ELF file ends: what follows in a payload are the relocations (arch/x86/boot/compressed/Makefile, 6.12). */
const endOf = (elf: Elf): number => {
  let end = elf.headersEnd
  for (const { type, offset, size } of elf.sections) if (type !== SHT.nobits) end = Math.max(end, offset + size)
  return end
}

const READ_ONLY = /^\.rodata/

// mark_rodata_ro (arch/x86/mm/init_64.c, 6.1 and 6.12) protects from __start_rodata on. What is there may be written while the
// kernel starts, which the section's name leaves out: constants are in .rodata, as gcc puts them.
const readOnlyPointers = (memory: Memory, base: bigint): Image['readOnlyPointers'] => {
  const toRva = addressReader(base)
  return (at, count) => {
    const loaded = memory.find(at, at + count * ADDRESS_BYTES)
    if (loaded === undefined || !READ_ONLY.test(loaded.section.name)) return undefined
    const view = viewOf(memory.bytesOf(loaded))
    return Uint32Array.from({ length: count }, (_, i) => toRva(view, at - loaded.start + i * ADDRESS_BYTES))
  }
}

const compose = (elf: Elf, kind: ImageKind, { kallsyms }: ImageOptions): Image => {
  const { path } = elf
  const names = readNames(elf, kallsyms)
  const base = checkBase(path, findRawSymbol(names.sections, '_text'))
  const memory = new Memory(elf, base)
  const symbols = new Symbols(names.sections, base)
  const symbolSources = checkNames(path, names, kallsyms, memory, base, symbols)
  const end = symbols.rvaOf('_end')
  if (end === NONE || end === 0 || end > MAX_IMAGE_BYTES) {
    throw new KerninstError(EXIT.data, `${path}: symbol _end is missing, or not within 1 GiB of _text`)
  }
  const imageBytes = Math.ceil(end / PAGE_BYTES) * PAGE_BYTES
  const release = readRelease(path, memory, symbols)
  const buildId = readBuildId(path, memory)
  const regions = readRegions(path, elf, memory, base, imageBytes)
  const text = regions.find(({ name }) => name === '.text')
  if (text === undefined) throw new KerninstError(EXIT.data, `${path}: has no executable section .text`)
  const functions = new Functions(symbols, regions)
  const tables = readTables(path, memory, base, symbols, functions)
  const relocs = kind === 'vmlinux'
    ? readRelocs(elf, memory, base)
    : readRelocTail(path, elf.read(endOf(elf), elf.fileBytes - endOf(elf)), memory, base)
  const codePointers = findCodePointers(elf, memory, base, tables.places)
  const digest = createHash('sha256')
  for (const { bytes } of regions) digest.update(bytes)
  return {
    path, kind, release, buildId: buildId.id, buildIdRva: buildId.rva, base, imageBytes, regions,
    textStart: text.start, textEnd: text.end, text: text.bytes, symbols, functions, tables, relocs,
    orc: new Orc(memory), readOnlyPointers: readOnlyPointers(memory, base), codePointers,
    symbolSources, textSha256: digest.digest('hex'),
  }
}

/**
 * Reads a kernel: a vmlinux, with symbols or stripped, or a vmlinuz.
 * @throws KerninstError 66 when a file cannot be read; 65 when it is no x86-64 kernel, has no names, or is damaged;
 *   76 when the kallsyms file belongs to another kernel
 */
export const loadImage = (path: string, options: ImageOptions = {}): Image => {
  const packed = isVmlinuz(readHead(path, VMLINUZ_HEAD_BYTES))
  const elf = packed ? elfOf(path, unpackVmlinuz(path, readLimited(path, MAX_VMLINUZ_BYTES))) : openElf(path)
  try {
    return compose(elf, packed ? 'vmlinuz' : 'vmlinux', options)
  } finally {
    elf.close()
  }
}

/** A view of the code bytes [rva, rva + length), which must lie in one region. */
export const bytesAt = (image: Image, rva: Rva, length: number): Uint8Array => {
  for (const { start, end, bytes } of image.regions) {
    if (rva >= start && rva + length <= end) return bytes.subarray(rva - start, rva - start + length)
  }
  // The text is made only here: a plan asks a million times.
  assert(false, `no code at rva ${hex(rva)}, length ${length}`)
}
