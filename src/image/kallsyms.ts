// In: the text of a System.map, or of a copy of /proc/kallsyms from the target; the image's symbols. Out: how many of
// its code symbols the image has at the same place, and the slide that the file's addresses carry.
// Invariant: when it returns, no name in the file contradicts the image. An image without names takes the file's.
// Left out: module and BPF symbols ("[name]" lines), and in comparing data symbols, which per-CPU and absolute ones hide
// among.

import { EXIT, KerninstError } from '../error.js'
import { SHN } from './elf.js'
import { infoOf } from './letters.js'
import { hex, NONE, toAddress, toRva, type Rva } from './rva.js'
import { MAX_SYMBOLS, SYM, type SymbolSections, type Symbols } from './symbols.js'

/** /proc/kallsyms of a large kernel with modules has some 15 MB. */
export const MAX_KALLSYMS_BYTES = 128 * 1024 * 1024
const MAX_LINE = 1024
/** Symbols of the names in the file: of a name that occurs n times, n times n. On 6.12, 107,242. */
const MAX_STEPS = 1 << 22
/** The kernel moves its image by multiples of CONFIG_PHYSICAL_ALIGN, 2 MiB (arch/x86/Kconfig, 6.1 and 6.12). */
const SLIDE_ALIGNMENT = 0x20_0000n
/** KERNEL_IMAGE_SIZE with KASLR (arch/x86/include/asm/page_64_types.h, 6.1 and 6.12). */
const MAX_SLIDE = 0x4000_0000n

export interface Kallsyms {
  /** Code symbols that the image has at the same place. */
  readonly matched: number
  /** Code symbols whose names the image does not have. */
  readonly missing: number
  /** What must be taken from the file's addresses to get link-time ones; in bytes. */
  readonly slide: number
}

/** "ADDRESS TYPE NAME", and for modules "<tab>[MODULE]" (kernel/kallsyms.c, s_show, 6.1 and 6.12). */
const LINE = /^([0-9a-f]{1,16}) ([A-Za-z?]) ([^\s]+)(?:[\t ]+\[([^\]]*)\])?$/

const TEXT = /[tTwW]/

interface Lines {
  readonly names: string[]
  readonly letters: string[]
  readonly addresses: bigint[]
  /** What must be taken from the addresses to get link-time ones. */
  readonly slide: bigint
}

/** Reads the kernel's own lines, not those of modules; `base`: the link-time address of _text. */
const readLines = (text: string, base: bigint, file: string): Lines => {
  if (text.length > MAX_KALLSYMS_BYTES) {
    throw new KerninstError(EXIT.data, `${file}: larger than ${MAX_KALLSYMS_BYTES} bytes`)
  }
  const names: string[] = []
  const letters: string[] = []
  const addresses: bigint[] = []
  let anchor: bigint | undefined
  let zeros = 0
  let textZeros = true
  let line = 0
  for (let start = 0; start < text.length; ) {
    let end = text.indexOf('\n', start)
    if (end < 0) end = text.length
    line++
    if (end - start > MAX_LINE) {
      throw new KerninstError(EXIT.data, `${file}:${line}: longer than ${MAX_LINE} characters`)
    }
    const match = LINE.exec(text.slice(start, end))
    if (match === null) throw new KerninstError(EXIT.data, `${file}:${line}: not "ADDRESS TYPE NAME"`)
    start = end + 1
    const [, digits, letter, name, module] = match
    if (module !== undefined) continue
    const address = BigInt('0x' + digits!)
    if (address === 0n) zeros++
    else if (name === '_text') anchor = address
    if (address !== 0n && TEXT.test(letter!)) textZeros = false
    if (names.length === MAX_SYMBOLS) {
      throw new KerninstError(EXIT.data, `${file}: more than ${MAX_SYMBOLS} symbols of the kernel itself`)
    }
    names.push(name!)
    letters.push(letter!)
    addresses.push(address)
  }
  if (anchor === undefined) {
    if (zeros > 0 && textZeros) {
      throw new KerninstError(
        EXIT.data, `${file}: all addresses are zero: read it as root with kernel.kptr_restrict=0`)
    }
    throw new KerninstError(EXIT.data, `${file}: holds no symbol _text: not a kernel's`)
  }
  const slide = anchor - base
  if (slide < 0n || slide >= MAX_SLIDE || slide % SLIDE_ALIGNMENT !== 0n) {
    throw new KerninstError(
      EXIT.mismatch, `${file}: belongs to another kernel: _text is at ${hex(anchor)}, linked at ${hex(base)}`)
  }
  return { names, letters, addresses, slide }
}

/**
 * Names for an image that has none, with the slide taken off, as .symtab has them.
 * @param base link-time address of _text
 * @param file what to call it in messages
 * @throws KerninstError 65 for text that is no kallsyms, is too long, or has had its addresses hidden
 */
export const readKallsyms = (text: string, base: bigint, file = 'kallsyms'): SymbolSections => {
  const { names, letters, addresses, slide } = readLines(text, base, file)
  const strings = Buffer.from(`${names.join('\0')}\0`, 'latin1')
  const entries = new DataView(new ArrayBuffer(names.length * SYM.bytes))
  let start = 0
  names.forEach((name, i) => {
    const row = i * SYM.bytes
    const address = addresses[i]!
    // Up to 6.14, per-CPU symbols are offsets, which do not move.
    const moves = address >= base
    entries.setUint32(row + SYM.name, start, true)
    entries.setUint8(row + SYM.info, infoOf(letters[i]!.charCodeAt(0), strings, start, start + name.length))
    entries.setUint16(row + SYM.shndx, moves ? 1 : SHN.abs, true)
    entries.setBigUint64(row + SYM.value, moves ? address - slide : address, true)
    start += name.length + 1
  })
  return { entries, count: names.length, strings }
}

/**
 * Checks a kallsyms file against the image's own symbols.
 * @param file what to call it in messages
 * @throws KerninstError 65 for text that is no kallsyms or has had its addresses hidden, 76 for another kernel's
 */
export const parseKallsyms = (text: string, symbols: Symbols, base: bigint, file = 'kallsyms'): Kallsyms => {
  const { names, letters, addresses, slide } = readLines(text, base, file)
  let matched = 0
  let missing = 0
  let steps = 0
  const from = base + slide
  for (let i = 0; i < names.length; i++) {
    if (!TEXT.test(letters[i]!)) continue
    const name = names[i]!
    const here = symbols.find(name)
    if (here.length === 0) {
      missing++
      continue
    }
    steps += here.length
    if (steps > MAX_STEPS) throw new KerninstError(EXIT.data, `${file}: names ${name} too often`)
    const rva: Rva = toRva(from, addresses[i]!)
    if (!here.some((symbol) => symbols.rva[symbol] === rva)) {
      const there = rva === NONE ? hex(addresses[i]!) : hex(toAddress(base, rva))
      const expected = hex(toAddress(base, symbols.rva[here[0]!]!))
      throw new KerninstError(
        EXIT.mismatch, `${file}: belongs to another kernel: ${name} is at ${there}, in the image at ${expected}`)
    }
    matched++
  }
  if (matched === 0) throw new KerninstError(EXIT.mismatch, `${file}: belongs to another kernel: no name is the same`)
  return { matched, missing, slide: Number(slide) }
}
