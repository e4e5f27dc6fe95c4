// In: .symtab and its string table, or rows of that form made from kallsyms. Out: Symbols, sorted by address, with names
// decoded only when asked for.
// Invariant: rva ascends; at one rva, FUNC symbols come first, then names ascend. Index space: symbol.
// Left out: FILE, SECTION and undefined symbols. Those whose value is no address of the image (per-CPU, absolute) have
// no index; `absolute` holds their values.

import { EXIT, KerninstError } from '../error.js'
import { addressReader, viewOf } from './address.js'
import { SHN, SHT, STT, type Elf } from './elf.js'
import { NONE, type Rva } from './rva.js'

/** Elf64_Sym (gABI, "Symbol Table"). */
export const SYM = { bytes: 24, name: 0, info: 4, shndx: 6, value: 8, size: 16 } as const

/** Enough for an allyesconfig kernel; also what the sort key below has bits for. */
export const MAX_SYMBOLS = 1 << 20
/** The kernel's own limit is KSYM_NAME_LEN, 512 (include/linux/kallsyms.h, 6.1 and 6.12). */
const MAX_NAME_BYTES = 1024
/** All names together, each as often as a symbol has it: 6.12 has 6 MB. Sorting and hashing take time by this. */
const MAX_NAMES_BYTES = 64 * 1024 * 1024
/** Buckets that a name is away from its own, on average: below 1 where names were not chosen to collide. */
const MAX_PROBES = 16

/** The raw tables of the file. */
export interface SymbolSections {
  readonly entries: DataView // rows of SYM.bytes
  readonly count: number
  readonly strings: Uint8Array // every name in it is NUL-terminated
}

/**
 * Reads .symtab and its string table, checked: every name lies in bounds.
 * @returns undefined when there is none (a stripped image)
 * @throws KerninstError 65 when it is malformed
 */
export const readSymbolSections = (elf: Elf): SymbolSections | undefined => {
  const bad = (what: string): KerninstError => new KerninstError(EXIT.data, `${elf.path}: ${what}`)
  const symtab = elf.sections.find((section) => section.type === SHT.symtab)
  if (symtab === undefined) return undefined
  const count = symtab.size / SYM.bytes
  if (symtab.entrySize !== SYM.bytes || !Number.isInteger(count)) throw bad('.symtab does not hold rows of 24 bytes')
  if (count > MAX_SYMBOLS) throw bad(`${count} symbols; at most ${MAX_SYMBOLS} are read`)
  const strtab = elf.sections[symtab.link]
  if (strtab?.type !== SHT.strtab) throw bad('.symtab names no string table')
  const strings = elf.readSection(strtab)
  if (strings.length === 0 || strings[strings.length - 1] !== 0) throw bad('the string table does not end with a NUL')
  const entries = viewOf(elf.readSection(symtab))
  for (let i = 0; i < count; i++) {
    if (entries.getUint32(i * SYM.bytes + SYM.name, true) >= strings.length) {
      throw bad(`the name of symbol ${i} is out of bounds`)
    }
  }
  return { entries, count, strings }
}

const bytesEqual = (strings: Uint8Array, offset: number, name: Uint8Array): boolean => {
  for (let i = 0; i < name.length; i++) if (strings[offset + i] !== name[i]) return false
  return strings[offset + name.length] === 0
}

/** The value of a symbol of the raw table, or undefined: for what must be known before the image's base is. */
export const findRawSymbol = (sections: SymbolSections, name: string): bigint | undefined => {
  const wanted = Buffer.from(name, 'latin1')
  for (let i = 0; i < sections.count; i++) {
    const at = i * SYM.bytes
    if (!bytesEqual(sections.strings, sections.entries.getUint32(at + SYM.name, true), wanted)) continue
    if (sections.entries.getUint16(at + SYM.shndx, true) !== SHN.undef) {
      return sections.entries.getBigUint64(at + SYM.value, true)
    }
  }
  return undefined
}

/** FNV-1a over bytes [start, end). */
const hash = (bytes: Uint8Array, start: number, end: number): number => {
  let h = 0x811c9dc5
  for (let i = start; i < end; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  return (h ^ (h >>> 15)) >>> 0
}

const COLD = '.cold'

export class Symbols {
  readonly count: number
  readonly rva: Uint32Array //  symbol -> address; ascending
  readonly size: Uint32Array // symbol -> bytes, 0 where the file does not say
  readonly type: Uint8Array //  symbol -> STT_*
  readonly bind: Uint8Array //  symbol -> STB_*
  /** name -> value, of symbols whose value is no address of the image: per-CPU offsets, absolute ones. */
  readonly absolute: ReadonlyMap<string, bigint>
  readonly #name: Uint32Array //     symbol -> offset in #strings
  readonly #nameEnd: Uint32Array //  symbol -> offset of the NUL
  readonly #strings: Uint8Array
  readonly #bucket: Uint32Array //   hash of a name -> its first symbol, or NONE; open addressing, one entry a name
  readonly #next: Uint32Array //     symbol -> the next one of the same name, or NONE

  /** @throws KerninstError 65 for names and sizes that no kernel's symbols have */
  constructor({ entries, count: rows, strings }: SymbolSections, base: bigint) {
    const toRva = addressReader(base)
    const absolute = new Map<string, bigint>()
    const rowRva = new Uint32Array(rows) // raw row -> rva
    // One number sorts: rva, then FUNC first, then the raw row: 32 + 1 + 20 bits.
    const keys = new Float64Array(rows)
    const ends = new Uint32Array(rows) //    raw row -> where its name ends
    let count = 0
    let nameBytes = 0
    for (let row = 0; row < rows; row++) {
      const at = row * SYM.bytes
      const type = entries.getUint8(at + SYM.info) & 15
      if (type === STT.section || type === STT.file) continue
      if (entries.getUint16(at + SYM.shndx, true) === SHN.undef) continue
      const name = entries.getUint32(at + SYM.name, true)
      const end = nameEnd(strings, name)
      ends[row] = end
      nameBytes += end - name
      if (nameBytes > MAX_NAMES_BYTES) {
        throw new KerninstError(EXIT.data, `the symbols' names have more than ${MAX_NAMES_BYTES} bytes; no kernel's do`)
      }
      const rva = toRva(entries, at + SYM.value)
      if (rva === NONE) {
        absolute.set(decode(strings, name, end), entries.getBigUint64(at + SYM.value, true))
        continue
      }
      rowRva[row] = rva
      keys[count++] = (rva * 2 + (type === STT.func ? 0 : 1)) * MAX_SYMBOLS + row
    }
    const sorted = keys.subarray(0, count).sort()
    this.count = count
    this.absolute = absolute
    this.rva = new Uint32Array(count)
    this.size = new Uint32Array(count)
    this.type = new Uint8Array(count)
    this.bind = new Uint8Array(count)
    this.#strings = strings
    this.#name = new Uint32Array(count)
    this.#nameEnd = new Uint32Array(count)
    const order = new Uint32Array(count) // symbol -> raw row
    for (let i = 0; i < count; i++) order[i] = sorted[i]! % MAX_SYMBOLS
    for (let i = 0; i < count; ) i = sortNames(order, sorted, i, entries, strings)
    for (let i = 0; i < count; i++) {
      const row = order[i]!
      const at = row * SYM.bytes
      const info = entries.getUint8(at + SYM.info)
      this.rva[i] = rowRva[row]!
      this.size[i] = entries.getUint32(at + SYM.size, true)
      this.type[i] = info & 15
      this.bind[i] = info >>> 4
      this.#name[i] = entries.getUint32(at + SYM.name, true)
      this.#nameEnd[i] = ends[row]!
      if (entries.getUint32(at + SYM.size + 4, true) !== 0) {
        throw new KerninstError(EXIT.data, `symbol ${this.nameOf(i)}: its size is 4 GiB or more`)
      }
    }
    this.#bucket = new Uint32Array(1 << (33 - Math.clz32(count))).fill(NONE)
    this.#next = new Uint32Array(count).fill(NONE)
    const mask = this.#bucket.length - 1
    let probes = 0
    // Backwards, so that each chain ascends.
    for (let i = count - 1; i >= 0; i--) {
      const bucket = this.#find(strings, this.#name[i]!, this.#nameEnd[i]!)
      probes += (bucket - hash(strings, this.#name[i]!, this.#nameEnd[i]!)) & mask
      if (probes > MAX_PROBES * rows) throw new KerninstError(EXIT.data, 'the names of symbols were made to collide')
      this.#next[i] = this.#bucket[bucket]!
      this.#bucket[bucket] = i
    }
  }

  /** The name of a symbol (bytes as latin1, so that any byte survives). */
  nameOf(symbol: number): string {
    return decode(this.#strings, this.#name[symbol]!, this.#nameEnd[symbol]!)
  }

  /** Whether a symbol's name starts with an ASCII prefix, without decoding it. */
  nameStartsWith(symbol: number, prefix: string): boolean {
    const offset = this.#name[symbol]!
    for (let i = 0; i < prefix.length; i++) if (this.#strings[offset + i] !== prefix.charCodeAt(i)) return false
    return true
  }

  /** Whether a symbol's name is that of a part that gcc moved out of a function: "F.cold", or "F.cold.N". */
  namesColdPart(symbol: number): boolean {
    const start = this.#name[symbol]!
    let end = this.#nameEnd[symbol]!
    const digits = end
    while (end > start && this.#strings[end - 1]! >= 0x30 && this.#strings[end - 1]! <= 0x39) end--
    if (end < digits) end--
    for (let i = 1; i <= COLD.length; i++) if (this.#strings[end - i] !== COLD.charCodeAt(COLD.length - i)) return false
    return end - start > COLD.length
  }

  /** Whether a symbol's name is bytes[start, end). */
  nameIs(symbol: number, bytes: Uint8Array, start: number, end: number): boolean {
    const offset = this.#name[symbol]!
    if (this.#nameEnd[symbol]! - offset !== end - start) return false
    for (let i = start; i < end; i++) if (this.#strings[offset + i - start] !== bytes[i]) return false
    return true
  }

  /** All symbols of exactly this name, ascending; empty when there is none. */
  find(name: string): number[] {
    const bytes = Buffer.from(name, 'latin1')
    const found: number[] = []
    let symbol = this.#bucket[this.#find(bytes, 0, bytes.length)]!
    for (; symbol !== NONE; symbol = this.#next[symbol]!) found.push(symbol)
    return found
  }

  /** The rva of the first symbol of this name, or NONE. */
  rvaOf(name: string): Rva {
    const symbol = this.#bucket[this.#find(Buffer.from(name, 'latin1'), 0, name.length)]!
    return symbol === NONE ? NONE : this.rva[symbol]!
  }

  /** The last symbol at or below an rva, or NONE. */
  at(rva: Rva): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.rva[middle]! <= rva) low = middle + 1
      else high = middle
    }
    return low === 0 ? NONE : low - 1
  }

  /** The bucket of the name in bytes [start, end): the one that holds it, or the empty one where it belongs. */
  #find(bytes: Uint8Array, start: number, end: number): number {
    const mask = this.#bucket.length - 1
    for (let i = hash(bytes, start, end) & mask; ; i = (i + 1) & mask) {
      const symbol = this.#bucket[i]!
      if (symbol === NONE) return i
      if (this.nameIs(symbol, bytes, start, end)) return i
    }
  }
}

const nameEnd = (strings: Uint8Array, start: number): number => {
  for (let end = start; end <= start + MAX_NAME_BYTES; end++) if (strings[end] === 0) return end
  throw new KerninstError(EXIT.data, `a symbol name is longer than ${MAX_NAME_BYTES} bytes; a kernel's are below 512`)
}

const decode = (strings: Uint8Array, start: number, end: number): string =>
  Buffer.from(strings.buffer, strings.byteOffset + start, end - start).toString('latin1')

/** Sorts the run of equal (rva, FUNC first) from `first` on by name; returns the index after it. */
const sortNames = (
  order: Uint32Array, keys: Float64Array, first: number, entries: DataView, strings: Uint8Array,
): number => {
  const group = Math.floor(keys[first]! / MAX_SYMBOLS)
  let end = first + 1
  while (end < keys.length && Math.floor(keys[end]! / MAX_SYMBOLS) === group) end++
  if (end === first + 1) return end
  const compare = (a: number, b: number): number => {
    let x = entries.getUint32(a * SYM.bytes + SYM.name, true)
    let y = entries.getUint32(b * SYM.bytes + SYM.name, true)
    while (strings[x] === strings[y] && strings[x] !== 0) {
      x++
      y++
    }
    return strings[x]! - strings[y]! || a - b
  }
  order.subarray(first, end).sort(compare)
  return end
}
