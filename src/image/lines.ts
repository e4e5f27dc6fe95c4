// Source lines: the DWARF line tables of a vmlinux with debug information (.debug_line, versions 2 to 5; DWARF 5, chapter 6.2).
// In: the file, and where the kernel is linked. Out: one table for all code, sorted by address.
// Invariant: rows ascend by rva and are distinct; the last row is of no line. Sequences that lie outside the image, do not
// ascend or overlap an earlier one are left out: the linker leaves such of what it discards.
// Left out: columns, statements, inlined calls (of an address, the line of the innermost one is told), and all other
// debug information. A compressed .debug_line is refused by elf.ts.

import { EXIT, KerninstError } from '../error.js'
import { Cursor, textAt } from './cursor.js'
import { openElf, optionalSection, readHead, SHF, type Elf } from './elf.js'
import { NONE, type Rva } from './rva.js'
import { lowerBound } from './search.js'
import { isVmlinuz, VMLINUZ_HEAD_BYTES } from './vmlinuz.js'

export interface Lines {
  readonly files: readonly string[] // relative to the kernel's sources, where that can be told
  readonly rva: Uint32Array //         row -> its first address
  readonly file: Uint32Array //        row -> index in files; NONE: no line up to the next row
  readonly line: Uint32Array //        row -> from 1 on; 0: the compiler made it up
  /** Where a unit's table is in .debug_line -> what its numbers of files are, as indices in files; NONE for none. */
  readonly units: ReadonlyMap<number, readonly number[]>
  /** The row that an address is in, or NONE. */
  rowAt(rva: Rva): number
}

/** Whether a row, which may be NONE, is of a line. */
export const isLine = ({ file, line }: Lines, row: number): boolean => row !== NONE && file[row] !== NONE && line[row]! > 0

/** What the header of a unit is made of (DWARF 5, 7.22 and 7.5.6). */
const PATH = 1
const DIRECTORY = 2
const FORM = {
  data2: 5, data4: 6, data8: 7, string: 8, block: 9, data1: 0xb, strp: 0xe, udata: 0xf, data16: 0x1e, lineStrp: 0x1f,
} as const
const WIDTH: Readonly<Record<number, number>> = { [FORM.data1]: 1, [FORM.data2]: 2, [FORM.data4]: 4, [FORM.data8]: 8, [FORM.data16]: 16 }

const STANDARD = {
  copy: 1, advancePc: 2, advanceLine: 3, setFile: 4, setColumn: 5, negateStatement: 6, basicBlock: 7, constAddPc: 8, fixedAdvancePc: 9,
} as const
const EXTENDED = { endSequence: 1, setAddress: 2 } as const

const MAX_FILES = 1 << 20
const MAX_FORMATS = 16

/** Paths of all units; the same one has one number. */
class Files {
  readonly names: string[] = []
  readonly #of = new Map<string, number>()

  number(path: string): number {
    const known = this.#of.get(path)
    if (known !== undefined) return known
    if (this.names.length === MAX_FILES) throw new RangeError('too many files')
    this.#of.set(path, this.names.length)
    this.names.push(path)
    return this.names.length - 1
  }
}

/** Without '.', '..' and empty parts. */
const normal = (path: string): string => {
  const parts: string[] = []
  for (const part of path.split('/')) {
    if (part === '' || part === '.') continue
    if (part === '..' && parts.length > 0 && parts.at(-1) !== '..') parts.pop()
    else parts.push(part)
  }
  return (path.startsWith('/') ? '/' : '') + parts.join('/')
}

const join = (folder: string, name: string): string => normal(name.startsWith('/') || folder === '' ? name : `${folder}/${name}`)

/** Numbers that are appended, four million and more. */
class Growing {
  #numbers = new Uint32Array(1 << 16)
  length = 0

  push(value: number): void {
    if (this.length === this.#numbers.length) {
      const larger = new Uint32Array(2 * this.length)
      larger.set(this.#numbers)
      this.#numbers = larger
    }
    this.#numbers[this.length++] = value
  }

  get values(): Uint32Array {
    return this.#numbers
  }
}

interface Sequence {
  readonly first: number // row
  readonly end: number //   row behind its last one, which is of no line
}

class LineReader {
  readonly files = new Files()
  readonly rva = new Growing()
  readonly file = new Growing()
  readonly line = new Growing()
  readonly sequences: Sequence[] = []
  readonly units = new Map<number, number[]>()
  readonly #lines: Cursor
  readonly #texts: Uint8Array // .debug_line_str
  readonly #strings: Uint8Array // .debug_str
  readonly #baseLow: number
  readonly #baseHigh: number

  constructor(elf: Elf, base: bigint) {
    this.#lines = new Cursor(elf.readSection('.debug_line'))
    this.#texts = optionalSection(elf, '.debug_line_str')
    this.#strings = optionalSection(elf, '.debug_str')
    this.#baseLow = Number(base & 0xffff_ffffn)
    this.#baseHigh = Number(base >> 32n)
  }

  /** @throws RangeError where a unit says more than is there */
  read(): void {
    this.#lines.eachUnit((start, wide) => this.#unit(start, wide))
  }

  /** A table of folders or files of version 5: path and folder of each. */
  #entries(wide: boolean): { path: string; folder: number }[] {
    const lines: Cursor = this.#lines
    const formats = Array.from({ length: Math.min(lines.u8(), MAX_FORMATS) }, () => [lines.unsigned(), lines.unsigned()] as const)
    const count = lines.unsigned()
    if (count > MAX_FILES || (formats.length === 0 && count > 0)) throw new RangeError('too many files')
    return Array.from({ length: count }, () => {
      let [path, folder] = ['', 0]
      for (const [content, form] of formats) {
        let text = ''
        let number = 0
        if (form === FORM.string) text = lines.text()
        else if (form === FORM.lineStrp || form === FORM.strp) {
          text = textAt(form === FORM.strp ? this.#strings : this.#texts, wide ? lines.u64() : lines.u32())
        } else if (form === FORM.udata) number = lines.unsigned()
        else if (form === FORM.data1) number = lines.u8()
        else if (form === FORM.data2) number = lines.u16()
        else if (form === FORM.block) lines.skip(lines.unsigned())
        else if (WIDTH[form] !== undefined) lines.skip(WIDTH[form])
        else throw new RangeError(`form ${form}`)
        if (content === PATH) path = text
        if (content === DIRECTORY) folder = number
      }
      return { path, folder }
    })
  }

  /** Files of the unit by their number there, from 1 on up to version 4, from 0 on since. */
  #fileTable(version: number, wide: boolean): number[] {
    const lines: Cursor = this.#lines
    if (version >= 5) {
      const folders = this.#entries(wide).map(({ path }) => path)
      const whole = folders.map((path) => join(folders[0] ?? '', path))
      return this.#entries(wide).map(({ path, folder }) => this.files.number(join(whole[folder] ?? '', path)))
    }
    const folders = ['']
    for (let path = lines.text(); path !== ''; path = lines.text()) folders.push(path)
    const numbers = [NONE]
    for (let path = lines.text(); path !== ''; path = lines.text()) {
      numbers.push(this.files.number(join(folders[lines.unsigned()] ?? '', path)))
      lines.unsigned()
      lines.unsigned()
      if (numbers.length > MAX_FILES) throw new RangeError('too many files')
    }
    return numbers
  }

  #unit(start: number, wide: boolean): void {
    const lines: Cursor = this.#lines
    const version = lines.u16()
    if (version < 2 || version > 5) return
    if (version === 5) lines.skip(2) // sizes of an address and of a segment
    const headerLength = wide ? lines.u64() : lines.u32()
    const program = lines.at + headerLength
    const least = lines.u8()
    if (version >= 4) lines.skip(1) // operations of an instruction: 1, but for VLIW machines
    lines.skip(1)
    const lineBase = lines.s8()
    const lineRange = lines.u8()
    const opcodeBase = lines.u8()
    const operands = Array.from({ length: Math.max(0, opcodeBase - 1) }, () => lines.u8())
    const files = this.#fileTable(version, wide)
    this.units.set(start, files)
    if (lineRange === 0 || program > lines.end) throw new RangeError('a header that does not fit')
    lines.at = program
    this.#run(files, least, lineBase, lineRange, opcodeBase, operands)
  }

  #run(files: readonly number[], least: number, lineBase: number, lineRange: number, opcodeBase: number, operands: readonly number[]): void {
    const lines: Cursor = this.#lines
    const { rva: rvas, file: fileColumn, line: lineColumn } = this
    let [address, file, line] = [NONE, 1, 1] // NONE: outside the image
    let first = rvas.length
    let last = 0 //       the row before
    let good = true
    const row = (known: boolean): void => {
      if (address === NONE || (rvas.length > first && address < last)) good = false
      last = address
      // Of several rows at one address, the last one is true.
      if (rvas.length > first && rvas.values[rvas.length - 1] === address) {
        rvas.length--
        fileColumn.length--
        lineColumn.length--
      }
      rvas.push(address)
      fileColumn.push(known ? files[file] ?? NONE : NONE)
      lineColumn.push(known ? line : 0)
    }
    const advance = (by: number): void => {
      if (address === NONE) return
      address += by
      if (address >= NONE) address = NONE
    }
    while (lines.at < lines.end) {
      const opcode = lines.u8()
      if (opcode >= opcodeBase) {
        const adjusted = opcode - opcodeBase
        advance(Math.floor(adjusted / lineRange) * least)
        line += lineBase + (adjusted % lineRange)
        row(true)
        continue
      }
      switch (opcode) {
        case 0: {
          const length = lines.unsigned()
          const next = lines.at + length
          if (length === 0) break
          const what = lines.u8()
          if (what === EXTENDED.setAddress && length === 9) {
            const [low, high] = [lines.u32(), lines.u32()]
            address = high === this.#baseHigh && low >= this.#baseLow ? low - this.#baseLow : NONE
          } else if (what === EXTENDED.endSequence) {
            row(false)
            if (good && rvas.length - first > 1) this.sequences.push({ first, end: rvas.length })
            else rvas.length = fileColumn.length = lineColumn.length = first
            first = rvas.length
            ;[address, file, line, good] = [NONE, 1, 1, true]
          }
          if (next > lines.end) throw new RangeError('cut off')
          lines.at = next
          break
        }
        case STANDARD.copy: row(true); break
        case STANDARD.advancePc: advance(lines.unsigned() * least); break
        case STANDARD.advanceLine: line += lines.signed(); break
        case STANDARD.setFile: file = lines.unsigned(); break
        case STANDARD.setColumn: lines.unsigned(); break
        case STANDARD.constAddPc: advance(Math.floor((255 - opcodeBase) / lineRange) * least); break
        case STANDARD.fixedAdvancePc: advance(lines.u16()); break
        case STANDARD.negateStatement: case STANDARD.basicBlock: break
        default: for (let i = operands[opcode - 1] ?? 0; i > 0; i--) lines.unsigned()
      }
    }
    // A sequence without an end is none.
    rvas.length = fileColumn.length = lineColumn.length = first
  }
}

/** One in C and one in assembly: what comes before them are the folders that the kernel was built in. */
const KNOWN = ['init/main.c', 'arch/x86/kernel/head_64.S']

/** Paths as they are in the kernel's sources. */
const relative = (files: readonly string[]): string[] => {
  const roots = KNOWN.flatMap((known) => files.filter((path) => path.endsWith(`/${known}`)).map((path) => path.slice(0, -known.length)))
    .sort((a, b) => b.length - a.length)
  return files.map((path) => path.slice(roots.find((root) => path.startsWith(root))?.length ?? 0))
}

/** Whether a file is a vmlinux with line tables that can be read. */
export const hasLines = (path: string): boolean => {
  if (isVmlinuz(readHead(path, VMLINUZ_HEAD_BYTES))) return false
  const elf = openElf(path)
  const section = elf.section('.debug_line')
  elf.close()
  return section !== undefined && (section.flags & SHF.compressed) === 0
}

/**
 * Reads the line tables of a vmlinux.
 * @param base link-time address of rva 0
 * @param imageBytes every rva is below this
 * @throws KerninstError (65) where there are none, or they are damaged
 */
export const readLines = (path: string, base: bigint, imageBytes: number): Lines => {
  const elf = openElf(path)
  try {
    if (elf.section('.debug_line') === undefined) {
      throw new KerninstError(EXIT.data, `${path}: has no source lines (.debug_line): take the vmlinux of the kernel's debug package`)
    }
    const reader = new LineReader(elf, base)
    try {
      reader.read()
    } catch (error) {
      if (!(error instanceof RangeError)) throw error
      throw new KerninstError(EXIT.data, `${path}: the source lines (.debug_line) are damaged: ${error.message}`)
    }
    return sorted(reader, imageBytes)
  } finally {
    elf.close()
  }
}

const sorted = ({ files, rva, file, line, sequences, units }: LineReader, imageBytes: number): Lines => {
  const startOf = ({ first }: Sequence): number => rva.values[first]!
  sequences.sort((a, b) => startOf(a) - startOf(b))
  const total = sequences.reduce((sum, { first, end }) => sum + end - first, 1)
  const columns = { rva: new Uint32Array(total), file: new Uint32Array(total).fill(NONE), line: new Uint32Array(total) }
  let rows = 0
  for (const { first, end } of sequences) {
    const before = rows > 0 ? columns.rva[rows - 1]! : 0
    if (startOf({ first, end }) < before || rva.values[end - 1]! > imageBytes) continue
    // The end of the one before is where this one starts.
    if (rows > 0 && startOf({ first, end }) === before) rows--
    columns.rva.set(rva.values.subarray(first, end), rows)
    columns.file.set(file.values.subarray(first, end), rows)
    columns.line.set(line.values.subarray(first, end), rows)
    rows += end - first
  }
  const sortedRva = columns.rva.slice(0, rows)
  return {
    files: relative(files.names),
    units,
    rva: sortedRva, file: columns.file.slice(0, rows), line: columns.line.slice(0, rows),
    rowAt: (at) => {
      const row = lowerBound(sortedRva, at + 1) - 1
      return row < 0 ? NONE : row
    },
  }
}
