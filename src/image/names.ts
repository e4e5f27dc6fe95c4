// In: an ELF file, and perhaps a kallsyms file. Out: the image's names in the form of .symtab, and where they are from:
// its symbol table, else the kernel's own kallsyms tables, else the file. What is there besides is compared with that.
// Invariant: every source that is named in the result agrees with the others on where each function is.
// Left out: names that only a second source has: they are counted by none, and used by none.

import { EXIT, KerninstError } from '../error.js'
import { readLimited } from '../file.js'
import { SHF, SHN, SHT, type Elf, type Section } from './elf.js'
import { Effort, findEmbedded } from './embedded.js'
import { MAX_KALLSYMS_BYTES, parseKallsyms, readKallsyms } from './kallsyms.js'
import { isTextLetter } from './letters.js'
import type { Memory } from './memory.js'
import { NONE, hex, toAddress, type Rva } from './rva.js'
import { SYM, readSymbolSections, type SymbolSections, type Symbols } from './symbols.js'

export type SymbolSource = 'symtab' | 'kallsyms' | 'kallsyms-file'

export interface Names {
  readonly sections: SymbolSections
  readonly source: SymbolSource
}

/** What may hold the kernel's own names: .rodata (scripts/kallsyms.c, 5.10 to 7.0). */
const mayHoldNames = ({ name, type, flags }: Section): boolean =>
  name === '.rodata' && type === SHT.progbits && (flags & SHF.alloc) !== 0 && (flags & SHF.compressed) === 0

/** Comparisons of names: less than one for each symbol on 6.1 and 6.12. */
const MAX_STEPS = 1 << 24

const readText = (path: string): string => readLimited(path, MAX_KALLSYMS_BYTES).toString('latin1')

/**
 * The best names that there are.
 * @param kallsyms a System.map or a copy of /proc/kallsyms, used where the image has no names
 * @throws KerninstError 65 where there are none, or they are malformed; 66 where the file cannot be read
 */
export const readNames = (elf: Elf, kallsyms: string | undefined): Names => {
  const symtab = readSymbolSections(elf)
  if (symtab !== undefined) return { sections: symtab, source: 'symtab' }
  const effort = new Effort()
  for (const section of elf.sections.filter(mayHoldNames)) {
    if (effort.steps <= 0) break
    const embedded = findEmbedded(elf.readSection(section), section.address, effort)
    if (embedded !== undefined) return { sections: embedded, source: 'kallsyms' }
  }
  // _text is where .text starts (arch/x86/kernel/vmlinux.lds.S, 5.10 to 6.12).
  const text = elf.section('.text')
  if (kallsyms !== undefined && text !== undefined) {
    return { sections: readKallsyms(readText(kallsyms), text.address, kallsyms), source: 'kallsyms-file' }
  }
  throw new KerninstError(EXIT.data, `${elf.path}: no symbol table and no kallsyms tables; ` +
    'use the vmlinux of the -dbg package, or give names with --kallsyms')
}

/** Every code symbol of kallsyms must be where the symbol table has it; both are in the order of addresses. */
const compare = (path: string, embedded: SymbolSections, base: bigint, symbols: Symbols): void => {
  const { entries, strings, count } = embedded
  const low = Number(base & 0xffffffffn)
  let steps = 0
  let first = 0 // of the symbols at or above the row's address
  for (let row = 0; row < count; row++) {
    const at = row * SYM.bytes
    const name = entries.getUint32(at + SYM.name, true)
    if (!isTextLetter(strings[name - 1]!) || entries.getUint16(at + SYM.shndx, true) === SHN.abs) continue
    const rva: Rva = entries.getUint32(at + SYM.value, true) - low
    while (first < symbols.count && symbols.rva[first]! < rva) first++
    const end = strings.indexOf(0, name)
    let found = false
    for (let i = first; !found && symbols.rva[i] === rva; i++) {
      found = symbols.nameIs(i, strings, name, end)
      if (++steps > MAX_STEPS) throw new KerninstError(EXIT.data, `${path}: too many symbols have one address`)
    }
    if (found) continue
    const text = Buffer.from(strings.buffer, strings.byteOffset + name, end - name).toString('latin1')
    const elsewhere = symbols.rvaOf(text)
    if (elsewhere === NONE) continue
    throw new KerninstError(EXIT.data, `${path}: the symbol table has ${text} at ${hex(toAddress(base, elsewhere))}, ` +
      `the kernel's own names at ${hex(base + BigInt(rva))}`)
  }
}

/**
 * Compares every other source with the names that were read.
 * @returns all sources, those that only confirmed included
 * @throws KerninstError 65 where the image contradicts itself; 66, 65 or 76 for the kallsyms file (parseKallsyms)
 */
export const checkNames = (
  path: string, names: Names, kallsyms: string | undefined, memory: Memory, base: bigint, symbols: Symbols,
): SymbolSource[] => {
  const sources = [names.source]
  if (names.source === 'symtab') {
    const effort = new Effort()
    for (const loaded of memory.sections.filter(({ section }) => mayHoldNames(section))) {
      const embedded = findEmbedded(memory.bytesOf(loaded), toAddress(base, loaded.start), effort)
      if (embedded === undefined) continue
      compare(path, embedded, base, symbols)
      sources.push('kallsyms')
    }
  }
  if (kallsyms !== undefined && names.source !== 'kallsyms-file') {
    parseKallsyms(readText(kallsyms), symbols, base, kallsyms)
    sources.push('kallsyms-file')
  }
  return sources
}
