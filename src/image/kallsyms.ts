// In: the text of a System.map, or of a copy of /proc/kallsyms from the target; the image's symbols. Out: how many of
// its code symbols the image has at the same place, and the slide that the file's addresses carry.
// Invariant: when it returns, no name in the file contradicts the image.
// Left out: module and BPF symbols ("[name]" lines), and data symbols, which per-CPU and absolute ones hide among.

import { EXIT, KerninstError } from '../error.js'
import { hex, NONE, toAddress, toRva, type Rva } from './rva.js'
import type { Symbols } from './symbols.js'

/** /proc/kallsyms of a large kernel with modules has some 15 MB. */
export const MAX_KALLSYMS_BYTES = 128 * 1024 * 1024
const MAX_LINE = 1024
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

/**
 * Checks a kallsyms file against the image's own symbols.
 * @param file what to call it in messages
 * @throws KerninstError 65 for text that is no kallsyms or has had its addresses hidden, 76 for another kernel's
 */
export const parseKallsyms = (text: string, symbols: Symbols, base: bigint, file = 'kallsyms'): Kallsyms => {
  if (text.length > MAX_KALLSYMS_BYTES) {
    throw new KerninstError(EXIT.data, `${file}: larger than ${MAX_KALLSYMS_BYTES} bytes`)
  }
  const names: string[] = []
  const addresses: bigint[] = []
  let anchor: bigint | undefined
  let zeros = 0
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
    const [, digits, type, name, module] = match
    if (module !== undefined) continue
    const address = BigInt('0x' + digits!)
    if (address === 0n) zeros++
    else if (name === '_text') anchor = address
    if (!/[tTwW]/.test(type!)) continue
    names.push(name!)
    addresses.push(address)
  }
  if (anchor === undefined) {
    if (zeros > 0 && addresses.every((address) => address === 0n)) {
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
  let matched = 0
  let missing = 0
  const from = base + slide
  for (let i = 0; i < names.length; i++) {
    const name = names[i]!
    const here = symbols.find(name)
    if (here.length === 0) {
      missing++
      continue
    }
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
