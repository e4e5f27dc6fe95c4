// In: symbols, and the executable sections. Out: the table of functions. Index space: func.
// Invariant: start ascends strictly; start < end; both lie in one executable section. Functions may overlap: assembly
// has labels inside others, which count as functions of their own (isFunc says which have a FUNC symbol). Where no
// symbol tells a size (assembly, and all names that come from kallsyms), a function ends at the next symbol, less the
// padding before that.
// Left out: code that no symbol covers, such as the bodies of weak functions that lost; __pfx_* (the padding before a
// function, objtool since 6.2) and __cfi_* (kCFI type hashes).

import { STB, STT } from './elf.js'
import { NONE, type Rva } from './rva.js'
import { indexOf, lowerBound } from './search.js'
import type { Symbols } from './symbols.js'

/** A stretch of the image. */
export interface Span {
  readonly start: Rva
  readonly end: Rva
}

/** An executable section. */
export interface Code extends Span {
  readonly bytes: Uint8Array // index = rva - start
}

/**
 * What assemblers and linkers pad code with on x86-64: int3 (0xcc), and the nops of gas (i386_align_code's table,
 * binutils 2.40) by their last bytes, longest first, so that a long one is not taken for a short one after other bytes.
 * More 0x66 or 0x2e in front only lengthen a nop.
 */
const NOPS = [
  [0x0f, 0x1f, 0x84, 0, 0, 0, 0, 0], [0x0f, 0x1f, 0x80, 0, 0, 0, 0], [0x0f, 0x1f, 0x44, 0, 0], [0x0f, 0x1f, 0x40, 0],
  [0x0f, 0x1f, 0],
] as const
const NOP = 0x90
const INT3 = 0xcc
const MAX_PREFIXES = 8
/** jmp rel8, whose displacement may look like padding. */
const SHORT_JUMP = 0xeb

/** Length of the nop of NOPS that ends at `at` and starts behind `start`; 0: none. */
const nopBefore = (code: Uint8Array, start: number, at: number): number => {
  if (code[at - 1] !== 0) return 0 // as all of them end
  for (const nop of NOPS) {
    const { length } = nop
    if (at - length <= start) continue
    let i = 0
    while (i < length && code[at - length + i] === nop[i]) i++
    if (i === length) return length
  }
  return 0
}

/**
 * Where the padding at the end of code[start, end) begins. A heuristic, since it reads backwards: an instruction whose
 * last byte is 0x90 or 0xcc loses that byte, unless it is a short jump; compilers end functions with nothing else of
 * the kind.
 */
const trimPadding = (code: Uint8Array, start: number, end: number): number => {
  let at = end
  while (at - 1 > start) {
    const last = code[at - 1]
    let from = at - 1
    if (last === NOP || last === INT3) {
      if (code[from - 1] === SHORT_JUMP) return at
    } else {
      const length = nopBefore(code, start, at)
      if (length === 0) return at
      from = at - length
    }
    if (last !== INT3) {
      for (let n = 0; n < MAX_PREFIXES && from - 1 > start && (code[from - 1] === 0x66 || code[from - 1] === 0x2e); n++) from--
    }
    at = from
  }
  return at
}

/** How well a symbol names the function that starts at it; less is better. */
const nameRank = (symbols: Symbols, symbol: number): number => {
  const bind = symbols.bind[symbol]
  const byBind = bind === STB.global ? 0 : bind === STB.weak ? 1 : 2
  return byBind + (symbols.type[symbol] === STT.func ? 0 : 3)
}

// Both of the following take time by the number of functions, however these overlap.

/** func -> where the last function ends that follows it, or follows one that does, without a gap. */
const findFullEnds = (start: Uint32Array, end: Uint32Array): Uint32Array => {
  const { length } = start
  const full = new Uint32Array(length)
  const behind = new Uint32Array(length) // func -> the first function that starts after full[func]
  for (let func = length - 1; func >= 0; func--) {
    let to = end[func]!
    let next = func + 1
    for (; next < length && start[next]! <= to; next = behind[next]!) to = Math.max(to, full[next]!)
    full[func] = to
    behind[func] = next
  }
  return full
}

const findInnermost = (start: Uint32Array, end: Uint32Array): { border: Uint32Array; inner: Uint32Array } => {
  const border = new Uint32Array(start.length * 2)
  const inner = new Uint32Array(start.length * 2)
  let count = 0
  const from = (at: Rva, func: number): void => {
    if (count === 0 || border[count - 1] !== at) border[count++] = at
    inner[count - 1] = func
  }
  // The functions around the current place that are still of use: each starts after the one below it, and ends before.
  const around = new Uint32Array(start.length)
  let depth = 0
  const leaveUntil = (place: number): void => {
    while (depth > 0 && end[around[depth - 1]!]! <= place) {
      const at = end[around[--depth]!]!
      from(at, depth > 0 ? around[depth - 1]! : NONE)
    }
  }
  for (let func = 0; func < start.length; func++) {
    leaveUntil(start[func]!)
    while (depth > 0 && end[around[depth - 1]!]! <= end[func]!) depth--
    around[depth++] = func
    from(start[func]!, func)
  }
  leaveUntil(Infinity)
  return { border: border.slice(0, count), inner: inner.slice(0, count) }
}

export class Functions {
  readonly count: number
  readonly start: Uint32Array //  func -> rva
  readonly end: Uint32Array //    func -> rva after its last byte
  readonly symbol: Uint32Array // func -> symbol with the preferred name
  readonly isFunc: Uint8Array //  func -> 1 when a symbol at its start has type FUNC
  readonly isCold: Uint8Array //  func -> 1 when it is a part that gcc moved out of another function
  readonly #symbols: Symbols
  readonly #fullEnd: Uint32Array // func -> end of all that follows it without a gap
  readonly #border: Uint32Array //  places, ascending, where the innermost function changes
  readonly #inner: Uint32Array //   border -> the innermost function from there on, or NONE

  /** `regions`: the executable sections, ascending. */
  constructor(symbols: Symbols, regions: readonly Code[]) {
    const start = new Uint32Array(symbols.count)
    const end = new Uint32Array(symbols.count)
    const best = new Uint32Array(symbols.count)
    const isFunc = new Uint8Array(symbols.count)
    let count = 0
    let region = 0
    let sizedEnd = 0 // end of the last function before whose size is known
    for (let first = 0, next = 0; first < symbols.count; first = next) {
      const rva = symbols.rva[first]!
      while (next < symbols.count && symbols.rva[next] === rva) next++
      while (region < regions.length && regions[region]!.end <= rva) region++
      if (region === regions.length) break
      if (rva < regions[region]!.start) continue
      let name = NONE
      let size = 0
      for (let i = first; i < next; i++) {
        const type = symbols.type[i]
        if (type !== STT.func && type !== STT.notype) continue
        if (symbols.nameStartsWith(i, '__pfx_') || symbols.nameStartsWith(i, '__cfi_')) continue
        size = Math.max(size, symbols.size[i]!)
        if (name === NONE || nameRank(symbols, i) < nameRank(symbols, name)) name = i
      }
      if (name === NONE) continue
      let to = rva + size
      if (size === 0) {
        to = next < symbols.count ? symbols.rva[next]! : NONE
        if (rva < sizedEnd) to = Math.min(to, sizedEnd)
        else {
          const { start: from, end: last, bytes } = regions[region]!
          to = from + trimPadding(bytes, rva - from, Math.min(to, last) - from)
        }
      } else sizedEnd = to
      start[count] = rva
      end[count] = Math.min(to, regions[region]!.end)
      best[count] = name
      isFunc[count] = symbols.type[name] === STT.func ? 1 : 0
      count++
    }
    this.#symbols = symbols
    this.count = count
    this.start = start.slice(0, count)
    this.end = end.slice(0, count)
    this.symbol = best.slice(0, count)
    this.isFunc = isFunc.slice(0, count)
    this.isCold = Uint8Array.from(this.symbol, (name) => (symbols.namesColdPart(name) ? 1 : 0))
    this.#fullEnd = findFullEnds(this.start, this.end)
    const { border, inner } = findInnermost(this.start, this.end)
    this.#border = border
    this.#inner = inner
  }

  nameOf(func: number): string {
    return this.#symbols.nameOf(this.symbol[func]!)
  }

  /**
   * Where the code that starts at a function certainly ends. Of a function without a size, a label may have cut off the
   * rest; no padding lies before such a label, so what follows at once is taken in too. Rather too much than too little:
   * for what must not be touched.
   */
  fullEnd(func: number): Rva {
    return this.#symbols.size[this.symbol[func]!] === 0 ? this.#fullEnd[func]! : this.end[func]!
  }

  /** The innermost function that contains an rva, that is the one that starts last; or NONE. */
  functionAt(rva: Rva): number {
    return this.functionOf(this.stretchAt(rva))
  }

  /** How many stretches of one innermost function each, or of none, the addresses are cut into; the first is before all functions. */
  get stretches(): number {
    return this.#border.length + 1
  }

  stretchAt(rva: Rva): number {
    return lowerBound(this.#border, rva + 1)
  }

  isIn(stretch: number, rva: Rva): boolean {
    return (stretch === 0 || rva >= this.#border[stretch - 1]!) && (stretch > this.#border.length - 1 || rva < this.#border[stretch]!)
  }

  /** The innermost function of a stretch, or NONE. */
  functionOf(stretch: number): number {
    return stretch === 0 ? NONE : this.#inner[stretch - 1]!
  }

  /** All functions that have this name, as preferred one or as alias; ascending. */
  functionsNamed(name: string): number[] {
    const found: number[] = []
    for (const symbol of this.#symbols.find(name)) {
      const type = this.#symbols.type[symbol]
      if (type !== STT.func && type !== STT.notype) continue
      if (/^__(pfx|cfi)_/.test(name)) continue
      const func = indexOf(this.start, this.#symbols.rva[symbol]!)
      if (func >= 0 && found.at(-1) !== func) found.push(func)
    }
    return found
  }
}
