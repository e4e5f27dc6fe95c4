// In: the image's data. Out: the rvas of code that some aligned 64-bit word of it points to: functions whose address is
// taken, labels, jump tables. Evidence, not proof: a number that looks like an address counts too.
// Left out: the kernel's special tables, which list places in code that no one jumps to, unwind data, and type data.

import { EXIT, KerninstError } from '../error.js'
import { addressReader, viewOf } from './address.js'
import { SHF, SHT, type Elf } from './elf.js'
import type { Span } from './functions.js'
import { isCode, type Memory } from './memory.js'
import { NONE } from './rva.js'
import { RvaList } from './rvalist.js'

/** On 6.12, 0.2 MB. */
const MAX_PERCPU_BYTES = 64 * 1024 * 1024

const NOT_POINTERS = /^(\.orc.*|\.BTF.*|__ksymtab.*|__kcrctab.*|\.notes|\.init\.scratch)$/

/**
 * Sorted and unique.
 * @param tables ranges of data to leave out, in any order
 * @throws KerninstError 65 where per-CPU data are larger than a kernel's
 */
export const findCodePointers = (elf: Elf, memory: Memory, base: bigint, tables: readonly Span[]): Uint32Array => {
  const code = memory.sections.filter(isCode)
  const toRva = addressReader(base)
  const low = code.length > 0 ? code[0]!.start : 0
  const high = code.length > 0 ? code[code.length - 1]!.end : 0
  const found = new RvaList()
  const scan = (bytes: Uint8Array, from: number, to: number): void => {
    const view = viewOf(bytes)
    for (let at = from; at + 8 <= to; at += 8) {
      const rva = toRva(view, at)
      if (rva === NONE || rva < low || rva >= high) continue
      if (memory.isCode(rva, rva + 1)) found.push(rva)
    }
  }
  for (const loaded of memory.sections) {
    const { section, start, end } = loaded
    if (isCode(loaded) || section.type !== SHT.progbits || NOT_POINTERS.test(section.name)) continue
    const holes = tables.filter((t) => t.start < end && t.end > start).sort((a, b) => a.start - b.start)
    let from = start
    for (const hole of [...holes, { start: end, end }]) {
      if (hole.start > from) scan(memory.bytesOf(loaded), ((from + 7) & ~7) - start, hole.start - start)
      from = Math.max(from, hole.end)
    }
  }
  // The per-CPU section is linked at 0 up to 6.14, so it has no rva.
  let perCpu = 0
  for (const section of elf.sections) {
    if ((section.flags & SHF.alloc) === 0 || section.type !== SHT.progbits || section.address !== 0n) continue
    perCpu += section.size
    if (perCpu > MAX_PERCPU_BYTES) throw new KerninstError(EXIT.data, `${elf.path}: ${perCpu} bytes of per-CPU data`)
    scan(elf.readSection(section), 0, section.size)
  }
  return found.sorted()
}
