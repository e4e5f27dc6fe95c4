// In: a file, or the bytes of one. Out: its section table, and the bytes of single sections, read on demand.
// Invariant: once openElf has returned, every section that has bytes lies inside the file, so reading one cannot run
// past the end. Only ELF64 little-endian x86-64 executables (ET_EXEC: a vmlinux) are accepted.
// Left out: program headers, compressed sections, more than 4,096 sections, and what the sections mean.

import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs'
import { EXIT, KerninstError } from '../error.js'
import { viewOf } from './address.js'
import { hex } from './rva.js'

/** Section types and flags (gABI, System V ABI edition 4.1, "Sections"). */
export const SHT = { progbits: 1, symtab: 2, strtab: 3, rela: 4, note: 7, nobits: 8 } as const
export const SHF = { write: 1, alloc: 2, execinstr: 4, compressed: 0x800 } as const
/** Special section indices. */
export const SHN = { undef: 0, abs: 0xfff1 } as const
/** Symbol types. */
export const STT = { notype: 0, object: 1, func: 2, section: 3, file: 4 } as const
/** Symbol bindings. */
export const STB = { local: 0, global: 1, weak: 2 } as const

const HEADER_BYTES = 64
const SECTION_HEADER_BYTES = 64
/** Kernels have some 60; later stages look through all of them, some for each of them. */
const MAX_SECTIONS = 4096
const MAX_NAME_BYTES = 1024
/** No section that is read is larger; the debug sections, which may be, never are. */
const MAX_READ_BYTES = 512 * 1024 * 1024

/** One row of the section table; `index` is its place there. */
export interface Section {
  readonly index: number
  readonly name: string
  readonly type: number //    SHT_*
  readonly flags: number //   SHF_*, low 32 bits
  readonly address: bigint // link-time virtual address, 0 when not loaded
  readonly offset: number //  in the file
  readonly size: number //    in bytes; of NOBITS sections, in memory only
  readonly link: number
  readonly info: number
  readonly entrySize: number
}

export interface Elf {
  readonly path: string
  readonly fileBytes: number
  /** Where the section table ends in the file. */
  readonly headersEnd: number
  readonly sections: readonly Section[]
  /** The first section of that name, if any. */
  section(name: string): Section | undefined
  /**
   * The bytes of a section, by name or by row; not to be written to, as they may be a view of the whole.
   * @throws KerninstError 65 when there is none of that name, or it has no bytes in the file
   */
  readSection(section: string | Section): Uint8Array
  /** Bytes of the file. @throws KerninstError 65 past its end, 74 when reading fails */
  read(offset: number, length: number): Uint8Array
  close(): void
}

/** The bytes of a section that a file need not have: none where it is not there. */
export const optionalSection = (elf: Elf, name: string): Uint8Array => (elf.section(name) === undefined ? new Uint8Array(0) : elf.readSection(name))

const MACHINES: Readonly<Record<number, string>> = {
  3: 'i386', 8: 'MIPS', 20: 'PowerPC', 21: '64-bit PowerPC', 22: 's390', 40: 'ARM', 183: 'AArch64', 243: 'RISC-V',
  258: 'LoongArch',
}

const TYPES: Readonly<Record<number, string>> = {
  1: 'a relocatable object (ET_REL: an object file or a module)',
  3: 'a shared object or position-independent executable (ET_DYN)',
  4: 'a core dump (ET_CORE)',
}

const WANTED = 'wanted: the vmlinux or vmlinuz of an x86-64 kernel'

const errno = (error: unknown): string =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : String(error)

const openFile = (path: string): number => {
  try {
    // Without O_NONBLOCK, opening a FIFO would wait for a writer.
    return openSync(path, constants.O_RDONLY | constants.O_NONBLOCK)
  } catch (error) {
    throw new KerninstError(EXIT.noInput, `${path}: cannot be opened (${errno(error)})`)
  }
}

/** What holds the bytes of an ELF file. */
interface Source {
  readonly bytes: number
  /** The bytes [offset, offset + length), which lie inside. */
  read(offset: number, length: number): Uint8Array
  close(): void
}

const fileSource = (path: string): Source => {
  const fd = openFile(path)
  const stat = fstatSync(fd)
  if (!stat.isFile()) {
    closeSync(fd)
    throw new KerninstError(EXIT.data, `${path}: not a regular file; ${WANTED}`)
  }
  const read = (offset: number, length: number): Uint8Array => {
    const bytes = new Uint8Array(length)
    for (let done = 0; done < length; ) {
      let got = 0
      try {
        got = readSync(fd, bytes, done, length - done, offset + done)
      } catch (error) {
        throw new KerninstError(EXIT.io, `${path}: reading at ${hex(offset + done)} failed (${errno(error)})`)
      }
      if (got === 0) throw new KerninstError(EXIT.data, `${path}: became shorter while it was read`)
      done += got
    }
    return bytes
  }
  return { bytes: stat.size, read, close: () => closeSync(fd) }
}

const memorySource = (bytes: Uint8Array): Source => ({
  bytes: bytes.length,
  read: (offset, length) => bytes.subarray(offset, offset + length),
  close: () => {},
})

class ElfReader implements Elf {
  readonly path: string
  readonly fileBytes: number
  headersEnd = 0
  sections: readonly Section[] = []
  readonly #source: Source

  constructor(path: string, source: Source) {
    this.path = path
    this.#source = source
    this.fileBytes = source.bytes
  }

  section(name: string): Section | undefined {
    return this.sections.find((section) => section.name === name)
  }

  readSection(which: string | Section): Uint8Array {
    const section = typeof which === 'string' ? this.section(which) : which
    if (section === undefined) throw this.error(`has no section ${String(which)}`)
    if (section.type === SHT.nobits) throw this.error(`section ${section.name} has no bytes in the file`)
    if ((section.flags & SHF.compressed) !== 0) {
      throw this.error(`section ${section.name} is compressed; decompress it with objcopy --decompress-debug-sections`)
    }
    return this.read(section.offset, section.size)
  }

  read(offset: number, length: number): Uint8Array {
    if (offset + length > this.fileBytes) throw this.error(`truncated: nothing at ${hex(offset)}`)
    if (length > MAX_READ_BYTES) throw this.error(`${length} bytes at ${hex(offset)} are more than a kernel has`)
    return this.#source.read(offset, length)
  }

  close(): void {
    this.#source.close()
  }

  error(what: string): KerninstError {
    return new KerninstError(EXIT.data, `${this.path}: ${what}`)
  }
}

/** Throws for anything but an x86-64 ELF executable, saying what it is. */
const checkHeader = (elf: ElfReader, header: DataView): void => {
  if (header.byteLength < 4 || header.getUint32(0) !== 0x7f454c46) {
    throw elf.error(`not an ELF file; ${WANTED}`)
  }
  if (header.byteLength < HEADER_BYTES) throw elf.error('truncated: the ELF header is incomplete')
  const bits = header.getUint8(4)
  if (bits !== 2) throw elf.error(`${bits === 1 ? 'a 32-bit ELF' : `an ELF of unknown class ${bits}`}; ${WANTED}`)
  if (header.getUint8(5) !== 1) throw elf.error(`not a little-endian ELF; ${WANTED}`)
  if (header.getUint8(6) !== 1 || header.getUint32(20, true) !== 1) throw elf.error('ELF version is not 1')
  const machine = header.getUint16(18, true)
  if (machine !== 62) throw elf.error(`an ELF for ${MACHINES[machine] ?? `machine ${machine}`}; ${WANTED}`)
  const type = header.getUint16(16, true)
  if (type !== 2) throw elf.error(`${TYPES[type] ?? `an ELF of unknown type ${type}`}; ${WANTED}`)
}

const readName = (elf: ElfReader, names: Uint8Array, offset: number, index: number): string => {
  const end = offset < names.length ? names.indexOf(0, offset) : -1
  if (end < 0 || end - offset > MAX_NAME_BYTES) throw elf.error(`the name of section ${index} is out of bounds`)
  return Buffer.from(names.buffer, names.byteOffset + offset, end - offset).toString('latin1')
}

const readSections = (elf: ElfReader, header: DataView): Section[] => {
  const tableOffset = Number(header.getBigUint64(40, true))
  const rowBytes = header.getUint16(58, true)
  const count = header.getUint16(60, true)
  const namesIndex = header.getUint16(62, true)
  if (tableOffset === 0) throw elf.error('has no section headers; use the vmlinux of the -dbg package')
  if (rowBytes !== SECTION_HEADER_BYTES) throw elf.error(`section headers of ${rowBytes} bytes, not 64`)
  if (count === 0 || count > MAX_SECTIONS) throw elf.error(`${count} section headers; 1 to ${MAX_SECTIONS} are read`)
  if (namesIndex >= count) throw elf.error(`section names are in section ${namesIndex}, of ${count}`)
  const tableEnd = tableOffset + count * SECTION_HEADER_BYTES
  if (tableEnd > elf.fileBytes) {
    throw elf.error(`truncated: the section headers end at ${tableEnd}, the file has ${elf.fileBytes} bytes`)
  }
  elf.headersEnd = tableEnd
  const bytes = elf.read(tableOffset, count * SECTION_HEADER_BYTES)
  const table = viewOf(bytes)
  const range = (index: number): { offset: number; size: number; type: number } => ({
    offset: Number(table.getBigUint64(index * SECTION_HEADER_BYTES + 24, true)),
    size: Number(table.getBigUint64(index * SECTION_HEADER_BYTES + 32, true)),
    type: table.getUint32(index * SECTION_HEADER_BYTES + 4, true),
  })
  const namesRange = range(namesIndex)
  if (namesRange.type !== SHT.strtab) throw elf.error(`section ${namesIndex} does not hold section names`)
  if (namesRange.offset + namesRange.size > elf.fileBytes) throw elf.error('truncated: the section names are missing')
  const names = elf.read(namesRange.offset, namesRange.size)
  const sections: Section[] = []
  for (let index = 0; index < count; index++) {
    const at = index * SECTION_HEADER_BYTES
    const { offset, size, type } = range(index)
    const name = readName(elf, names, table.getUint32(at, true), index)
    if (type !== SHT.nobits && offset + size > elf.fileBytes) {
      throw elf.error(`truncated: section ${name} ends at ${offset + size}, the file has ${elf.fileBytes} bytes`)
    }
    const address = table.getBigUint64(at + 16, true)
    if (address + BigInt(size) > 1n << 64n) throw elf.error(`section ${name} reaches past the end of memory`)
    sections.push({
      index, name, type, address, offset, size,
      flags: table.getUint32(at + 8, true),
      link: table.getUint32(at + 40, true),
      info: table.getUint32(at + 44, true),
      entrySize: Number(table.getBigUint64(at + 56, true)),
    })
  }
  return sections
}

const open = (path: string, source: Source): Elf => {
  const elf = new ElfReader(path, source)
  try {
    const header = viewOf(elf.read(0, Math.min(HEADER_BYTES, elf.fileBytes)))
    checkHeader(elf, header)
    elf.sections = readSections(elf, header)
    return elf
  } catch (error) {
    elf.close()
    throw error
  }
}

/**
 * The first bytes of a file, for telling what it is.
 * @param length at most so many; fewer where the file is shorter
 * @throws KerninstError 66 when the file cannot be opened; 65 when it is no regular file
 */
export const readHead = (path: string, length: number): Uint8Array => {
  const source = fileSource(path)
  try {
    return source.read(0, Math.min(length, source.bytes))
  } finally {
    source.close()
  }
}

/**
 * Opens an ELF file and reads its section table; close() it.
 * @throws KerninstError 66 when the file cannot be opened; 65 when it is not an x86-64 ELF executable, or truncated
 */
export const openElf = (path: string): Elf => open(path, fileSource(path))

/**
 * The same of bytes in memory, at no cost; something may follow the ELF file in them.
 * @param path for messages
 */
export const elfOf = (path: string, bytes: Uint8Array): Elf => open(path, memorySource(bytes))
