// In: symbols, and the executable sections. Out: the table of functions. Index space: func.
// Invariant: start ascends strictly; start < end; both lie in one executable section. Functions may overlap: assembly
// has labels inside others, which count as functions of their own (isFunc says which have a FUNC symbol).
// Left out: code that no symbol covers, such as the bodies of weak functions that lost; __pfx_* (the padding before a
// function, objtool since 6.2) and __cfi_* (kCFI type hashes).

import { STB, STT } from './elf.js'
import { NONE, type Rva } from './rva.js'
import { indexOf } from './search.js'
import type { Symbols } from './symbols.js'

/** An executable section. */
export interface Span {
  readonly start: Rva
  readonly end: Rva
}

/** How well a symbol names the function that starts at it; less is better. */
const nameRank = (symbols: Symbols, symbol: number): number => {
  const bind = symbols.bind[symbol]
  const byBind = bind === STB.global ? 0 : bind === STB.weak ? 1 : 2
  return byBind + (symbols.type[symbol] === STT.func ? 0 : 3)
}

export class Functions {
  readonly count: number
  readonly start: Uint32Array //  func -> rva
  readonly end: Uint32Array //    func -> rva after its last byte
  readonly symbol: Uint32Array // func -> symbol with the preferred name
  readonly isFunc: Uint8Array //  func -> 1 when a symbol at its start has type FUNC
  readonly #symbols: Symbols
  readonly #highest: Uint32Array // func -> greatest end of this and all functions before

  /** `regions`: the executable sections, ascending. */
  constructor(symbols: Symbols, regions: readonly Span[]) {
    const start = new Uint32Array(symbols.count)
    const end = new Uint32Array(symbols.count)
    const best = new Uint32Array(symbols.count)
    const isFunc = new Uint8Array(symbols.count)
    const highest = new Uint32Array(symbols.count)
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
      } else sizedEnd = to
      start[count] = rva
      end[count] = Math.min(to, regions[region]!.end)
      best[count] = name
      isFunc[count] = symbols.type[name] === STT.func ? 1 : 0
      highest[count] = Math.max(count > 0 ? highest[count - 1]! : 0, end[count]!)
      count++
    }
    this.#symbols = symbols
    this.count = count
    this.start = start.slice(0, count)
    this.end = end.slice(0, count)
    this.symbol = best.slice(0, count)
    this.isFunc = isFunc.slice(0, count)
    this.#highest = highest.slice(0, count)
  }

  nameOf(func: number): string {
    return this.#symbols.nameOf(this.symbol[func]!)
  }

  /** The innermost function that contains an rva, that is the one that starts last; or NONE. */
  functionAt(rva: Rva): number {
    let low = 0
    let high = this.count
    while (low < high) {
      const middle = (low + high) >>> 1
      if (this.start[middle]! <= rva) low = middle + 1
      else high = middle
    }
    for (let func = low - 1; func >= 0 && this.#highest[func]! > rva; func--) {
      if (this.end[func]! > rva) return func
    }
    return NONE
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
