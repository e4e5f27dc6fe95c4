// In: the relocations that --emit-relocs left beside the code, or the list that follows the kernel in a bzImage. Out:
// which fields of the code KASLR changes, and how.
// Invariant: each table ascends strictly, and every field lies in an executable section.
// Left out: relocations of data, and images that keep none (`known` is false: nothing may then be concluded from an
// instruction that is not listed).
// The rules are those of arch/x86/tools/relocs.c, do_reloc64 (6.1): absolute fields grow by the slide, unless against
// per-CPU or absolute symbols; PC-relative ones against per-CPU symbols, which do not move with the code, shrink by it.
// The list in a bzImage is what that program wrote (emit_relocs).

import { EXIT, KerninstError } from '../error.js'
import { addressReader, viewOf } from './address.js'
import { SHN, SHT, type Elf } from './elf.js'
import { isCode, type Memory } from './memory.js'
import { NONE } from './rva.js'
import { RvaList } from './rvalist.js'
import { SYM } from './symbols.js'

/** x86-64 psABI 1.0, table "Relocation Types". */
const R = { r64: 1, pc32: 2, plt32: 4, r32: 10, r32s: 11 } as const
const RELA_BYTES = 24
/** Of all sections together: 6.12 has some 800,000 of code. */
const MAX_RELOCATIONS = 1 << 24

export interface Relocs {
  readonly relocAbs32: Uint32Array //  rva of a 32-bit field that grows by the slide
  readonly relocAbs64: Uint32Array //  the same, 64 bits
  readonly relocPcpu32: Uint32Array // rva of a 32-bit field that shrinks by the slide
  /** Whether the image keeps .rela.text, or its bzImage the list. */
  readonly known: boolean
}

/** @throws KerninstError 65 for tables that are malformed or name places outside their section */
export const readRelocs = (elf: Elf, memory: Memory, base: bigint): Relocs => {
  const abs32 = new RvaList()
  const abs64 = new RvaList()
  const pcpu32 = new RvaList()
  let known = false
  let total = 0
  const toRva = addressReader(base)
  const symtab = elf.sections.find((section) => section.type === SHT.symtab)
  const symbols = symtab && viewOf(elf.readSection(symtab))
  const perCpu = elf.sections.find((section) => section.name === '.data..percpu')?.index ?? -1
  for (const { section, start, end } of memory.sections.filter(isCode)) {
    const rela = elf.sections.find((s) => s.type === SHT.rela && s.info === section.index)
    if (rela === undefined || symbols === undefined) continue
    const bad = (what: string): KerninstError => new KerninstError(EXIT.data, `${elf.path}: ${rela.name}: ${what}`)
    const count = rela.size / RELA_BYTES
    if (!Number.isInteger(count)) throw bad('does not hold rows of 24 bytes')
    total += count
    if (total > MAX_RELOCATIONS) throw bad(`brings the relocations to ${total}; at most ${MAX_RELOCATIONS} are read`)
    if (rela.link !== symtab?.index) throw bad('does not refer to the symbol table')
    if (section.name === '.text') known = true
    const rows = viewOf(elf.readSection(rela))
    const symbolCount = Math.floor(symbols.byteLength / SYM.bytes)
    for (let at = 0; at < rows.byteLength; at += RELA_BYTES) {
      const type = rows.getUint32(at + 8, true)
      const pcRelative = type === R.pc32 || type === R.plt32
      if (!pcRelative && type !== R.r64 && type !== R.r32 && type !== R.r32s) continue
      const symbol = rows.getUint32(at + 12, true)
      if (symbol >= symbolCount) throw bad(`symbol ${symbol}, of ${symbolCount}`)
      const row = symbol * SYM.bytes
      const shndx = symbols.getUint16(row + SYM.shndx, true)
      if (shndx === SHN.undef) continue
      // Symbols of the linker script may carry either section and still be addresses of the image, such as
      // __per_cpu_load and init_per_cpu__*: what decides is where their value lies.
      const outside = toRva(symbols, row + SYM.value) === NONE
      if (pcRelative ? !(outside && shndx === perCpu) : outside && (shndx === perCpu || shndx === SHN.abs)) continue
      const rva = toRva(rows, at)
      if (rva < start || rva + (type === R.r64 ? 8 : 4) > end) throw bad('a relocation outside its section')
      if (pcRelative) pcpu32.push(rva)
      else if (type === R.r64) abs64.push(rva)
      else abs32.push(rva)
    }
  }
  return { relocAbs32: abs32.sorted(), relocAbs64: abs64.sorted(), relocPcpu32: pcpu32.sorted(), known }
}

/** The lists hold the low halves of addresses, whose high half is all ones. */
const TOP = 0xffff_ffff_0000_0000n

/**
 * Reads vmlinux.relocs: lists of u32, each with a zero before it, walked from the end as the boot code does: fields of
 * 32 bits that grow, those that shrink (per-CPU; dropped in 6.15), fields of 64 bits (handle_relocations in
 * arch/x86/boot/compressed/misc.c, 6.1 and 6.12).
 * @param tail what follows the ELF file in the payload; empty where the kernel cannot be moved
 * @throws KerninstError 65 when it is not such lists
 */
export const readRelocTail = (path: string, tail: Uint8Array, memory: Memory, base: bigint): Relocs => {
  const bad = (what: string): KerninstError => new KerninstError(EXIT.data, `${path}: the list of relocations ${what}`)
  const words = tail.length / 4
  const none = new Uint32Array(0)
  if (words === 0) return { relocAbs32: none, relocAbs64: none, relocPcpu32: none, known: false }
  if (!Number.isInteger(words)) throw bad(`has ${tail.length} bytes, no multiple of 4`)
  if (words > MAX_RELOCATIONS) throw bad(`has ${words} entries; at most ${MAX_RELOCATIONS} are read`)
  const view = viewOf(tail)
  if (view.getUint32(0, true) !== 0) throw bad('does not start with a zero')
  const lists: RvaList[] = []
  for (let word = words - 1; word >= 0; word--) {
    const list = new RvaList()
    for (; ; word--) {
      const low = view.getUint32(word * 4, true)
      if (low === 0) break
      const rva = Number(TOP - base) + low
      if (memory.isCode(rva, rva + 1)) list.push(rva)
    }
    lists.push(list)
  }
  if (lists.length !== 2 && lists.length !== 3) throw bad(`consists of ${lists.length} lists; 2 or 3 are known`)
  const fields = (list: RvaList, bytes: number): Uint32Array => {
    const rvas = list.sorted()
    for (const rva of rvas) {
      if (memory.find(rva, rva + bytes) === undefined) throw bad('names a field that reaches past its section')
    }
    return rvas
  }
  const abs64 = lists[lists.length - 1]!
  const pcpu32 = lists.length === 3 ? fields(lists[1]!, 4) : none
  return { relocAbs32: fields(lists[0]!, 4), relocAbs64: fields(abs64, 8), relocPcpu32: pcpu32, known: true }
}
