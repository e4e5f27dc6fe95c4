// Where functions are declared: of the debug information of a vmlinux (.debug_info, versions 2 to 5; DWARF 5, chapter 7.5), what is
// known of functions alone. In: the file, where the kernel is linked, its line tables. Out: by address, the names that functions have
// in the sources, and where these names are there: those of a clone (.isra.0, .part.0) and of a part (.cold) are its function's.
// Left out: everything else, inlined calls among it; and functions whose name is in another unit (LTO), in a supplementary file
// or in a unit of types. Compressed sections are refused by elf.ts.

import { EXIT, KerninstError } from '../error.js'
import { Cursor, textAt } from './cursor.js'
import { openElf, optionalSection, type Elf } from './elf.js'
import type { Lines } from './lines.js'
import { NONE, type Rva } from './rva.js'

export interface Declaration {
  readonly name: string
  readonly file: number // index in the files of the line tables
  readonly line: number
  /** Where the function, or this clone of it, is entered. */
  readonly entry: Rva
}

/** By the address at which each stretch of a function starts. */
export type Declarations = ReadonlyMap<Rva, Declaration>

/** Entries and attributes that matter (7.5.3 and 7.5.4). */
const SUBPROGRAM = 0x2e
const ATTRIBUTE = {
  sibling: 0x01, name: 0x03, statements: 0x10, lowPc: 0x11, abstractOrigin: 0x31, file: 0x3a, line: 0x3b, specification: 0x47, ranges: 0x55,
  stringBase: 0x72, addressBase: 0x73, rangeBase: 0x74,
} as const
const READ: ReadonlySet<number> = new Set(Object.values(ATTRIBUTE))

/** Forms (7.5.6), and those of dwz. */
const FORM = {
  addr: 0x01, block2: 0x03, block4: 0x04, data2: 0x05, data4: 0x06, data8: 0x07, string: 0x08, block: 0x09, block1: 0x0a, data1: 0x0b,
  flag: 0x0c, sdata: 0x0d, strp: 0x0e, udata: 0x0f, refAddr: 0x10, ref1: 0x11, ref2: 0x12, ref4: 0x13, ref8: 0x14, refUdata: 0x15,
  secOffset: 0x17, exprloc: 0x18, flagPresent: 0x19, strx: 0x1a, addrx: 0x1b, refSup4: 0x1c, strpSup: 0x1d, data16: 0x1e, lineStrp: 0x1f,
  refSig8: 0x20, implicitConst: 0x21, loclistx: 0x22, rnglistx: 0x23, refSup8: 0x24, strx1: 0x25, strx2: 0x26, strx3: 0x27, strx4: 0x28,
  addrx1: 0x29, addrx2: 0x2a, addrx3: 0x2b, addrx4: 0x2c, gnuRefAlt: 0x1f20, gnuStrpAlt: 0x1f21,
} as const

/** Form -> bytes, of those that have always as many. */
const WIDTH: ReadonlyMap<number, number> = new Map([
  [FORM.addr, 8], [FORM.data1, 1], [FORM.data2, 2], [FORM.data4, 4], [FORM.data8, 8], [FORM.data16, 16], [FORM.flag, 1], [FORM.flagPresent, 0],
  [FORM.implicitConst, 0], [FORM.ref1, 1], [FORM.ref2, 2], [FORM.ref4, 4], [FORM.ref8, 8], [FORM.refSup4, 4], [FORM.refSup8, 8],
  [FORM.refSig8, 8], [FORM.strx1, 1], [FORM.strx2, 2], [FORM.strx3, 3], [FORM.strx4, 4], [FORM.addrx1, 1], [FORM.addrx2, 2],
  [FORM.addrx3, 3], [FORM.addrx4, 4],
])
const OFFSETS: ReadonlySet<number> = new Set([FORM.strp, FORM.secOffset, FORM.strpSup, FORM.lineStrp, FORM.gnuRefAlt, FORM.gnuStrpAlt])
const LEB: ReadonlySet<number> = new Set([FORM.udata, FORM.sdata, FORM.refUdata, FORM.strx, FORM.addrx, FORM.loclistx, FORM.rnglistx])
const INDEXED_TEXTS: ReadonlySet<number> = new Set([FORM.strx, FORM.strx1, FORM.strx2, FORM.strx3, FORM.strx4])
const INDEXED_ADDRESSES: ReadonlySet<number> = new Set([FORM.addrx, FORM.addrx1, FORM.addrx2, FORM.addrx3, FORM.addrx4])
const REFERENCES: ReadonlySet<number> = new Set([FORM.ref1, FORM.ref2, FORM.ref4, FORM.ref8, FORM.refUdata])

/** Kinds of units that hold code (7.5.1). */
const COMPILE = 1
const PARTIAL = 3
/** Entries of a list of ranges (7.25). */
const RANGE = { end: 0, baseAddressx: 1, startxEndx: 2, startxLength: 3, offsetPair: 4, baseAddress: 5, startEnd: 6, startLength: 7 } as const

const MAX_ATTRIBUTES = 256 // of an entry; compilers give some twenty
const MAX_ORIGINS = 8 //      a definition's declaration's and so on
const MAX_RANGES = 1 << 16
const ADDRESS_BYTES = 8

/** What an entry looks like. */
interface Shape {
  readonly tag: number
  readonly hasChildren: boolean
  readonly attribute: readonly number[]
  readonly form: readonly number[] //  parallel to attribute
  readonly value: readonly number[] // the same; of FORM.implicitConst
}

/** What was read of an entry; a number, or -1. */
interface Entry {
  shape: Shape
  sibling: number //   in the section, as all offsets
  name: number //      offset of the text, or -1
  nameForm: number
  file: number //      its number in the unit
  line: number
  low: Rva //          or NONE
  ranges: number
  rangesForm: number
  origin: number
  statements: number // of a unit: where its line table is
  stringBase: number
  addressBase: number
  rangeBase: number
}

interface Unit {
  readonly start: number
  readonly version: number
  readonly wide: boolean
  readonly shapes: readonly (Shape | undefined)[] // by code
  stringBase: number
  addressBase: number
  rangeBase: number
  low: Rva
  files: readonly number[]
}

class DeclarationReader {
  readonly found = new Map<Rva, Declaration>()
  readonly #info: Cursor
  readonly #abbreviations: Uint8Array
  readonly #strings: Uint8Array //       .debug_str
  readonly #lineStrings: Uint8Array //   .debug_line_str
  readonly #stringOffsets: Uint8Array // .debug_str_offsets
  readonly #addresses: Uint8Array //     .debug_addr
  readonly #rangeLists: Uint8Array //    .debug_rnglists
  readonly #oldRanges: Uint8Array //     .debug_ranges
  readonly #shapes = new Map<number, (Shape | undefined)[]>() // by offset
  readonly #base: bigint
  readonly #files: Lines['units']

  constructor(elf: Elf, base: bigint, files: Lines['units']) {
    this.#info = new Cursor(elf.readSection('.debug_info'))
    this.#abbreviations = elf.readSection('.debug_abbrev')
    this.#strings = optionalSection(elf, '.debug_str')
    this.#lineStrings = optionalSection(elf, '.debug_line_str')
    this.#stringOffsets = optionalSection(elf, '.debug_str_offsets')
    this.#addresses = optionalSection(elf, '.debug_addr')
    this.#rangeLists = optionalSection(elf, '.debug_rnglists')
    this.#oldRanges = optionalSection(elf, '.debug_ranges')
    this.#base = base
    this.#files = files
  }

  /** @throws RangeError where a unit says more than is there */
  read(): void {
    this.#info.eachUnit((start, wide) => {
      const unit = this.#unit(start, wide)
      if (unit !== undefined) this.#entries(unit)
    })
  }

  #unit(start: number, wide: boolean): Unit | undefined {
    const info: Cursor = this.#info
    const version = info.u16()
    if (version < 2 || version > 5) return undefined
    if (version === 5) {
      const kind = info.u8()
      if (kind !== COMPILE && kind !== PARTIAL) return undefined
      info.skip(1)
    }
    const offset = wide ? info.u64() : info.u32()
    if (version < 5) info.skip(1)
    const shapes = this.#shapes.get(offset) ?? this.#shapesAt(offset)
    this.#shapes.set(offset, shapes)
    return { start, version, wide, shapes, stringBase: 0, addressBase: 0, rangeBase: 0, low: NONE, files: [] }
  }

  #shapesAt(offset: number): (Shape | undefined)[] {
    const from = new Cursor(this.#abbreviations)
    from.skip(offset)
    const shapes: (Shape | undefined)[] = []
    for (let code = from.unsigned(); code !== 0; code = from.unsigned()) {
      if (code > from.end) throw new RangeError('a number without a shape')
      const shape = { tag: from.unsigned(), hasChildren: from.u8() !== 0, attribute: [] as number[], form: [] as number[], value: [] as number[] }
      for (;;) {
        const [attribute, form] = [from.unsigned(), from.unsigned()]
        let value = 0
        if (form === FORM.implicitConst && READ.has(attribute)) value = from.signed()
        else if (form === FORM.implicitConst) from.leb()
        if (attribute === 0 && form === 0) break
        if (shape.form.length === MAX_ATTRIBUTES) throw new RangeError('too many attributes')
        shape.attribute.push(attribute)
        shape.form.push(form)
        shape.value.push(value)
      }
      shapes[code] = shape
    }
    return shapes
  }

  #entries(unit: Unit): void {
    const info: Cursor = this.#info
    const { end } = info
    let depth = 0
    let first = true
    while (info.at < end) {
      const entry = this.#entry(unit)
      if (entry === undefined) {
        if (--depth <= 0) return
        continue
      }
      if (first) {
        [unit.stringBase, unit.addressBase, unit.rangeBase, unit.low] = [entry.stringBase, entry.addressBase, entry.rangeBase, entry.low]
        unit.files = this.#files.get(entry.statements) ?? []
      }
      if (entry.shape.tag === SUBPROGRAM && (entry.low !== NONE || entry.ranges >= 0)) this.#function(unit, entry)
      if (entry.shape.hasChildren) {
        if (!first && entry.sibling >= 0) {
          if (entry.sibling < info.at || entry.sibling > end) throw new RangeError('a sibling before its brother')
          info.at = entry.sibling
        } else depth++
      } else if (first) return
      first = false
    }
  }

  /** A number of a unit's or a section's, as wide as offsets are. */
  #offset(unit: Unit): number {
    return unit.wide ? this.#info.u64() : this.#info.u32()
  }

  /** The entry at the cursor, which moves behind it; undefined where siblings end. */
  #entry(unit: Unit): Entry | undefined {
    const info: Cursor = this.#info
    const code = info.unsigned()
    if (code === 0) return undefined
    const shape = unit.shapes[code]
    if (shape === undefined) throw new RangeError('a number without a shape')
    const entry: Entry = {
      shape, sibling: -1, name: -1, nameForm: 0, file: -1, line: -1, low: NONE, ranges: -1, rangesForm: 0, origin: -1,
      statements: -1, stringBase: 0, addressBase: 0, rangeBase: 0,
    }
    const { attribute, form, value } = shape
    for (let i = 0; i < form.length; i++) {
      if (READ.has(attribute[i]!)) this.#attribute(unit, entry, attribute[i]!, form[i]!, value[i]!)
      else this.#skip(unit, form[i]!)
    }
    return entry
  }

  #attribute(unit: Unit, entry: Entry, attribute: number, form: number, constant: number): void {
    const info: Cursor = this.#info
    const at = info.at
    switch (attribute) {
      case ATTRIBUTE.name:
        entry.nameForm = form
        if (form !== FORM.string) entry.name = this.#number(unit, form, constant)
        else {
          entry.name = at
          this.#skip(unit, form)
        }
        return
      case ATTRIBUTE.lowPc:
        if (form === FORM.addr) entry.low = this.#address(info)
        else if (INDEXED_ADDRESSES.has(form)) entry.low = this.#addressNumber(unit, this.#number(unit, form, constant))
        else this.#skip(unit, form)
        return
      case ATTRIBUTE.sibling:
      case ATTRIBUTE.abstractOrigin:
      case ATTRIBUTE.specification: {
        if (!REFERENCES.has(form)) return this.#skip(unit, form)
        const to = unit.start + this.#number(unit, form, constant)
        if (attribute === ATTRIBUTE.sibling) entry.sibling = to
        else entry.origin = to
        return
      }
      case ATTRIBUTE.ranges: entry.rangesForm = form
    }
    const number = this.#number(unit, form, constant)
    if (attribute === ATTRIBUTE.line) entry.line = number
    else if (attribute === ATTRIBUTE.file) entry.file = number
    else if (attribute === ATTRIBUTE.statements) entry.statements = number
    else if (attribute === ATTRIBUTE.ranges) entry.ranges = number
    else if (attribute === ATTRIBUTE.stringBase) entry.stringBase = number
    else if (attribute === ATTRIBUTE.addressBase) entry.addressBase = number
    else if (attribute === ATTRIBUTE.rangeBase) entry.rangeBase = number
  }

  /** A form's value; -1 where it is no number, or none that matters. */
  #number(unit: Unit, form: number, constant: number): number {
    const info: Cursor = this.#info
    if (form === FORM.implicitConst) return constant
    if (OFFSETS.has(form)) return this.#offset(unit)
    if (form === FORM.sdata) return info.signed()
    if (LEB.has(form)) return info.unsigned()
    switch (WIDTH.get(form)) {
      case 1: return info.u8()
      case 2: return info.u16()
      case 3: return info.u16() + info.u8() * 0x1_0000
      case 4: return info.u32()
      case 8: return info.u64()
      default: this.#skip(unit, form)
    }
    return -1
  }

  #skip(unit: Unit, form: number): void {
    const info: Cursor = this.#info
    const width = WIDTH.get(form)
    if (width !== undefined) return info.skip(width)
    if (OFFSETS.has(form)) return info.skip(unit.wide ? 8 : 4)
    if (LEB.has(form)) return info.leb()
    switch (form) {
      case FORM.string: return info.skipText()
      case FORM.exprloc: case FORM.block: return info.skip(info.unsigned())
      case FORM.block1: return info.skip(info.u8())
      case FORM.block2: return info.skip(info.u16())
      case FORM.block4: return info.skip(info.u32())
      case FORM.refAddr: return info.skip(unit.version === 2 ? ADDRESS_BYTES : unit.wide ? 8 : 4)
    }
    throw new RangeError(`form ${form}`)
  }

  /** An address; NONE outside the image. */
  #address(from: Cursor): Rva {
    const low = BigInt(from.u32())
    const offset = (BigInt(from.u32()) << 32n) + low - this.#base
    return offset >= 0n && offset < BigInt(NONE) ? Number(offset) : NONE
  }

  #addressNumber(unit: Unit, index: number): Rva {
    const from = new Cursor(this.#addresses)
    from.skip(unit.addressBase + index * ADDRESS_BYTES)
    return this.#address(from)
  }

  #text(unit: Unit, { name, nameForm }: Entry): string | undefined {
    if (name < 0) return undefined
    if (nameForm === FORM.string) return textAt(this.#info.bytes, name)
    if (nameForm === FORM.strp) return textAt(this.#strings, name)
    if (nameForm === FORM.lineStrp) return textAt(this.#lineStrings, name)
    if (!INDEXED_TEXTS.has(nameForm)) return undefined
    const from = new Cursor(this.#stringOffsets)
    from.skip(unit.stringBase + name * (unit.wide ? 8 : 4))
    return textAt(this.#strings, unit.wide ? from.u64() : from.u32())
  }

  /** Notes a function that has code, under the name and line that it or what it is made from has. */
  #function(unit: Unit, entry: Entry): void {
    const info: Cursor = this.#info
    const behind = info.at
    let name: string | undefined
    let [file, line] = [-1, -1]
    let from: Entry | undefined = entry
    for (let i = 0; from !== undefined && i < MAX_ORIGINS; i++) {
      name ??= this.#text(unit, from)
      if (file < 0) file = from.file
      if (line < 0) line = from.line
      if (from.origin < 0) break
      info.at = from.origin
      from = this.#entry(unit)
    }
    info.at = behind
    const known = unit.files[file] ?? NONE
    if (name === undefined || name === '' || known === NONE || line <= 0) return
    const starts = entry.ranges >= 0 ? this.#starts(unit, entry) : [entry.low]
    const declaration = { name, file: known, line, entry: starts[0]! }
    for (const start of starts) if (start !== NONE && !this.found.has(start)) this.found.set(start, declaration)
  }

  /** Where the ranges of a function start, the first one with its entry. */
  #starts(unit: Unit, { ranges, rangesForm }: Entry): Rva[] {
    const starts: Rva[] = []
    const add = (rva: Rva): void => {
      if (starts.length === MAX_RANGES) throw new RangeError('too many ranges')
      starts.push(rva)
    }
    if (unit.version < 5) {
      const from = new Cursor(this.#oldRanges)
      from.skip(ranges)
      this.#oldStarts(from, unit, add)
      return starts
    }
    const from = new Cursor(this.#rangeLists)
    let offset = ranges
    if (rangesForm === FORM.rnglistx) {
      from.skip(unit.rangeBase + ranges * (unit.wide ? 8 : 4))
      offset = unit.rangeBase + (unit.wide ? from.u64() : from.u32())
      from.at = 0
    }
    from.skip(offset)
    let base = unit.low
    for (;;) {
      switch (from.u8()) {
        case RANGE.end: return starts
        case RANGE.baseAddressx: base = this.#addressNumber(unit, from.unsigned()); break
        case RANGE.baseAddress: base = this.#address(from); break
        case RANGE.startxEndx: case RANGE.startxLength:
          add(this.#addressNumber(unit, from.unsigned()))
          from.leb()
          break
        case RANGE.offsetPair: {
          const by = from.unsigned()
          add(base === NONE ? NONE : base + by)
          from.leb()
          break
        }
        case RANGE.startEnd:
          add(this.#address(from))
          from.skip(ADDRESS_BYTES)
          break
        case RANGE.startLength:
          add(this.#address(from))
          from.leb()
          break
        default: throw new RangeError('a range of unknown kind')
      }
    }
  }

  /** The same of versions before 5 (DWARF 4, 2.17.3): pairs, relative to the unit or to a base given. */
  #oldStarts(from: Cursor, unit: Unit, add: (rva: Rva) => void): void {
    const absolute = (): bigint => BigInt(from.u32()) + (BigInt(from.u32()) << 32n)
    let base = unit.low === NONE ? 0n : this.#base + BigInt(unit.low)
    for (;;) {
      const [low, high] = [absolute(), absolute()]
      if (low === 0n && high === 0n) return
      if (low === 0xffff_ffff_ffff_ffffn) {
        base = high
        continue
      }
      const offset = BigInt.asUintN(64, low + base) - this.#base
      add(offset >= 0n && offset < BigInt(NONE) ? Number(offset) : NONE)
    }
  }
}

/**
 * Reads where the functions of a vmlinux are declared.
 * @param base link-time address of rva 0
 * @throws KerninstError (65) where that is not in it, or damaged
 */
export const readDeclarations = (path: string, base: bigint, { units }: Pick<Lines, 'units'>): Declarations => {
  const elf = openElf(path)
  try {
    if (elf.section('.debug_info') === undefined || elf.section('.debug_abbrev') === undefined) {
      throw new KerninstError(EXIT.data, `${path}: does not say where functions are declared (.debug_info): take the vmlinux of the kernel's debug package`)
    }
    const reader = new DeclarationReader(elf, base, units)
    try {
      reader.read()
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      throw new KerninstError(EXIT.data, `${path}: the debug information (.debug_info) is damaged: ${error.message}`)
    }
    return reader.found
  } finally {
    elf.close()
  }
}
