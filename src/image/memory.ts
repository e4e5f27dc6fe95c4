// In: an ELF file. Out: the image as it is laid out in memory, by rva: which sections lie where, and their bytes, read
// at most once. Sections outside [base, base + 4 GiB), which is the per-CPU one, are not in it.
// Invariant: sections ascend and do not overlap.
// Left out: NOBITS sections: there is nothing to read.

import { EXIT, KerninstError } from '../error.js'
import { SHF, SHT, type Elf, type Section } from './elf.js'
import { NONE, toRva, type Rva } from './rva.js'
import { lowerBound } from './search.js'

/** All loaded sections together; real kernels have 40 MiB. */
const MAX_IMAGE_BYTES = 512 * 1024 * 1024

export interface Loaded {
  readonly section: Section
  readonly start: Rva
  readonly end: Rva
}

export class Memory {
  readonly sections: readonly Loaded[]
  readonly #elf: Elf
  readonly #starts: Uint32Array // index as in `sections`
  readonly #bytes = new Map<Section, Uint8Array>()

  /** @throws KerninstError 65 when sections overlap, or are more than a kernel has */
  constructor(elf: Elf, base: bigint) {
    const sections: Loaded[] = []
    let total = 0
    for (const section of elf.sections) {
      if ((section.flags & SHF.alloc) === 0 || section.type === SHT.nobits || section.size === 0) continue
      const start = toRva(base, section.address)
      if (start === NONE || start + section.size >= NONE) continue
      sections.push({ section, start, end: start + section.size })
      total += section.size
    }
    sections.sort((a, b) => a.start - b.start)
    sections.forEach(({ section, start }, i) => {
      const before = sections[i - 1]
      if (before !== undefined && before.end > start) {
        throw new KerninstError(EXIT.data, `${elf.path}: sections ${before.section.name} and ${section.name} overlap`)
      }
    })
    if (total > MAX_IMAGE_BYTES) throw new KerninstError(EXIT.data, `${elf.path}: loads ${total} bytes, no kernel does`)
    this.sections = sections
    this.#starts = Uint32Array.from(sections, ({ start }) => start)
    this.#elf = elf
  }

  bytesOf({ section }: Loaded): Uint8Array {
    let bytes = this.#bytes.get(section)
    if (bytes === undefined) {
      bytes = this.#elf.readSection(section)
      this.#bytes.set(section, bytes)
    }
    return bytes
  }

  /** The section whose bytes hold all of [start, end), if any. */
  find(start: Rva, end: Rva): Loaded | undefined {
    const loaded = this.sections[lowerBound(this.#starts, start + 1) - 1]
    return loaded !== undefined && end <= loaded.end ? loaded : undefined
  }

  /** Whether [start, end) lies in one executable section. */
  isCode(start: Rva, end: Rva): boolean {
    const loaded = this.find(start, end)
    return loaded !== undefined && isCode(loaded)
  }

  /** A view of the bytes [start, end), or undefined where no section has them all. */
  bytes(start: Rva, end: Rva): Uint8Array | undefined {
    const loaded = this.find(start, end)
    return loaded && this.bytesOf(loaded).subarray(start - loaded.start, end - loaded.start)
  }
}

export const isCode = ({ section }: Loaded): boolean => (section.flags & SHF.execinstr) !== 0
