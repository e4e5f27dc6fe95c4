// Bundles of windows, hops and springboards, made by hand over a real kernel. For tests alone: the planner has its own
// way to them, with a checker behind it.
//
// In: what is known of the image. Out: patch tables, and what each counter counts. Every bundle has, as far as there is
// room: windows of short instructions, some with springboards in their rest; hops of short instructions to those, and to
// springboards in the padding behind functions, some by way of another hop; and beside as many of them as possible a
// plain splice in the same block, which must count the same.
// Left out: anything that would need more than one relocated field, calls, and functions that are not wholly known.

import { CodeBuffer } from '../../src/splice/code.js'
import { emitCounters } from '../../src/splice/counter.js'
import { FLOW } from '../../src/code/instructions.js'
import { bytesAt, type Image } from '../../src/image/image.js'
import { NONE, type Rva } from '../../src/image/rva.js'
import { lowerBound } from '../../src/image/search.js'
import { wholeInsn, type Ground, type PlannedFunction } from '../../src/splice/ground.js'
import { appendMoved, movable, originalOf } from '../../src/splice/move.js'
import { reservedCode } from '../../src/splice/reserved.js'
import { EXPECTED_BYTES, RELOC_KIND, SITE_FLAG, SITE_KIND, type PatchTables } from '../../src/splice/tables.js'
import { usable } from './junk.js'

const MAX_WINDOW = 16
const MAX_SHORT = 4 //         bytes of an instruction that is too short for a splice of its own
const REACH = [-126, 129] as const // from a hop's first byte
const MAX_WINDOWS = 1 //       in one function
const MAX_HOPS = 3
const PLAIN_EVERY = 5 //       of so many blocks one has a plain splice

export type Way = 'plain' | 'window' | 'hop' | 'hosted' | 'chain'

/** What a counter counts; `same` counts the same block. */
export interface Counted {
  readonly way: Way
  readonly rva: Rva
  readonly same: number // slot of the plain splice in its block, or NONE
}

interface Row {
  rva: Rva
  length: number
  kind: number
  flags: number
  patch: number | Row
  tail: number
}

export interface Tactics {
  readonly tables: PatchTables
  readonly counted: readonly Counted[] // slot -> what
  readonly counts: Readonly<Record<string, number>> // what there is of each
}

interface Block {
  fn: PlannedFunction
  first: number
  last: number // insn after the last
}

/** Padding behind functions, where nobody runs: int3 and nops up to the next function or its prefix. */
const findGaps = (ground: Ground): { start: Rva; end: Rva }[] => {
  const { image } = ground
  const { functions, symbols } = image
  const starts: Rva[] = []
  for (let i = 0; i < symbols.count; i++) starts.push(symbols.rva[i]!)
  const sorted = Uint32Array.from(new Set(starts)).sort()
  const gaps: { start: Rva; end: Rva }[] = []
  for (let f = 0; f < functions.count; f++) {
    const start = functions.end[f]!
    if (start >= image.textEnd || functions.functionAt(start) !== NONE || functions.fullEnd(f) !== start) continue
    const end = Math.min(sorted[lowerBound(sorted, start)] ?? start, start + 64)
    if (end - start < 2 || end > image.textEnd || !isPadding(bytesAt(image, start, end - start))) continue
    if (reservedCode(image, ground.reserved, start, end) !== '' || ground.live.graph.targets.anyInside(start - 1, end)) continue
    gaps.push({ start, end })
  }
  // Functions may end where others do.
  gaps.sort((a, b) => a.start - b.start)
  return gaps.filter(({ start }, i) => i === 0 || gaps[i - 1]!.end <= start)
}

const isPadding = (bytes: Uint8Array): boolean => {
  const hex = Buffer.from(bytes).toString('hex')
  return /^(cc|90|(66)+90|(66)*(2e)?0f1f(00|4000|440000|8000000000|840000000000))*$/.test(hex)
}

class Builder {
  readonly #ground: Ground
  readonly #image: Image
  readonly #taken: Uint8Array // text byte -> 1 where a site lies
  readonly #gaps: { start: Rva; end: Rva }[]
  readonly #hosts: { start: Rva; end: Rva }[] = [] // what is left in windows, ascending within a function
  #blocks = 0
  readonly rows: Row[] = []
  readonly counted: Counted[] = []
  readonly code = new CodeBuffer()
  readonly counts: Record<string, number> = {}

  constructor(ground: Ground) {
    this.#ground = ground
    this.#image = ground.image
    this.#taken = new Uint8Array(ground.image.textEnd - ground.image.textStart)
    this.#gaps = findGaps(ground)
  }

  #free(start: Rva, end: Rva): boolean {
    for (let i = start; i < end; i++) if (this.#taken[i - this.#image.textStart] !== 0) return false
    return true
  }

  #take(start: Rva, end: Rva): void {
    this.#taken.fill(1, start - this.#image.textStart, end - this.#image.textStart)
  }

  #note(what: string): void {
    this.counts[what] = (this.counts[what] ?? 0) + 1
  }

  #counter(way: Way, rva: Rva, same: number): number {
    this.#note(way)
    return this.counted.push({ way, rva, same }) - 1
  }

  /** Whether an instruction can be run elsewhere, and can be described as part of a site. */
  movable(fn: PlannedFunction, i: number): boolean {
    const { rva, length, flow, target } = fn.graph.insns
    const at = rva[i]!
    if (flow[i] !== FLOW.next || reservedCode(this.#image, this.#ground.reserved, at, at + length[i]!) !== '') return false
    if (this.#ground.live.graph.targets.anyInside(at, at + length[i]!) || !this.#free(at, at + length[i]!)) return false
    const original = originalOf(this.#image, at, length[i]!)
    return typeof original !== 'string' && original.relocKind === RELOC_KIND.none &&
      movable(this.#image, at, length[i]!, flow[i]!, target[i]!) === '' &&
      this.#ground.confirms(wholeInsn(this.#ground, fn, i))
  }

  /** Code that counts in `slot`, or not, and runs [first, last). Returns its offset. */
  #patch(fn: PlannedFunction, first: number, last: number, slot: number): number {
    const { rva, length, flow, target } = fn.graph.insns
    this.code.align(16)
    const offset = this.code.length
    if (slot !== NONE) emitCounters(this.code, fn.liveness.liveIn[first]!, [slot])
    for (let i = first; i < last; i++) {
      appendMoved(this.code, this.#image, rva[i]!, length[i]!, flow[i]!, target[i]!)
    }
    this.code.jumpTo(rva[last - 1]! + length[last - 1]!)
    return offset
  }

  #row(row: Row): Row {
    this.rows.push(row)
    return row
  }

  /** A plain splice in the block, for comparison. Returns its slot, or NONE. */
  #plain({ fn, first, last }: Block): number {
    const { rva, length } = fn.graph.insns
    for (let i = first; i < last; i++) {
      if (length[i]! < 5 || !this.movable(fn, i)) continue
      const slot = this.#counter('plain', rva[i]!, NONE)
      this.#row({ rva: rva[i]!, length: length[i]!, kind: SITE_KIND.jmp, flags: 0, patch: this.#patch(fn, i, i + 1, slot), tail: NONE })
      this.#take(rva[i]!, rva[i]! + length[i]!)
      return slot
    }
    return NONE
  }

  /** The first window of a block: whole instructions, the first shorter than a splice. */
  #window(block: Block, same: number): boolean {
    const { fn, first, last } = block
    const { rva, length } = fn.graph.insns
    for (let from = first; from < last; from++) {
      if (length[from]! >= 5) continue
      let to = from
      let bytes = 0
      while (to < last && bytes + length[to]! <= MAX_WINDOW && this.movable(fn, to)) bytes += length[to++]!
      if (to - from < 2 || bytes < 5) continue
      const at = rva[from]!
      if (this.#ground.live.graph.targets.anyInside(at, at + bytes)) continue
      const slot = this.#counter('window', at, same)
      this.#row({
        rva: at, length: bytes, kind: SITE_KIND.jmp, flags: SITE_FLAG.window,
        patch: this.#patch(fn, from, to, slot), tail: this.#patch(fn, from, to, NONE),
      })
      this.#take(at, at + bytes)
      if ((at & 7) > 3) this.#note('window over two words')
      if ((at & 4095) > 4096 - bytes) this.#note('window over two pages')
      this.#hosts.push({ start: at + 5, end: at + bytes })
      return true
    }
    return false
  }

  /** Takes `bytes` of a place that a jump at `from` reaches; NONE where there is none. */
  #room(places: { start: Rva; end: Rva }[], from: Rva, bytes: number): Rva {
    // Gaps ascend, and there are many; hosts are few at any time.
    let low = 0
    for (let high = places.length; low < high;) {
      const middle = (low + high) >>> 1
      if (places[middle]!.end < from + REACH[0]) low = middle + 1
      else high = middle
    }
    for (let p = low; p < places.length && places[p]!.start <= from + REACH[1]; p++) {
      const place = places[p]!
      if (place.end - place.start < bytes || place.start < from + REACH[0] || place.start > from + REACH[1]) continue
      const { start } = place
      place.start += bytes
      return start
    }
    return NONE
  }

  #board(rva: Rva, kind: number, patch: number | Row): Row {
    const length = kind === SITE_KIND.hop ? 2 : 5
    this.#note(kind === SITE_KIND.hop ? 'link' : 'springboard')
    return this.#row({ rva, length, kind, flags: SITE_FLAG.springboard, patch, tail: NONE })
  }

  /** A hop at a short instruction of a block. */
  #hop({ fn, first, last }: Block, same: number, chain: boolean): boolean {
    const { rva, length } = fn.graph.insns
    for (let i = first; i < last; i++) {
      if (length[i]! < 2 || length[i]! > MAX_SHORT || !this.movable(fn, i)) continue
      const at = rva[i]!
      let way: Way = 'hosted'
      let target: Row
      const make = (where: Rva): Row => {
        const slot = this.#counter(way, at, same)
        return this.#board(where, SITE_KIND.jmp, this.#patch(fn, i, i + 1, slot))
      }
      if (chain) {
        const link = this.#room(this.#hosts, at, 2)
        const near = link === NONE ? this.#room(this.#gaps, at, 2) : link
        if (near === NONE) continue
        const far = this.#room(this.#gaps, near, 5)
        if (far === NONE) continue // two bytes of room are lost
        way = 'chain'
        target = this.#board(near, SITE_KIND.hop, make(far))
      } else {
        let where = this.#room(this.#hosts, at, 5)
        if (where === NONE) {
          way = 'hop'
          where = this.#room(this.#gaps, at, 5)
        }
        if (where === NONE) continue
        target = make(where)
      }
      this.#row({ rva: at, length: length[i]!, kind: SITE_KIND.hop, flags: 0, patch: target, tail: NONE })
      this.#take(at, at + length[i]!)
      if ((at & 7) === 7) this.#note('hop over two words')
      if ((at & 4095) === 4095) this.#note('hop over two pages')
      return true
    }
    return false
  }

  function(fn: PlannedFunction, turn: number): void {
    const { blockCount, blockFirst } = fn.graph
    this.#hosts.length = 0
    const blocks = Array.from({ length: blockCount }, (_, b): Block => ({ fn, first: blockFirst[b]!, last: blockFirst[b + 1]! }))
    // A window where there are several, the plain splice after it: windows need the room more.
    const open: { block: Block; same: number }[] = []
    let windows = 0
    for (const block of blocks) {
      const same = ++this.#blocks % PLAIN_EVERY === 0 ? this.#plain(block) : NONE
      if (windows < MAX_WINDOWS && this.#window(block, same)) windows++
      open.push({ block, same })
    }
    // Parts of a function (.cold) lie elsewhere: hosts ascend only where blocks do.
    this.#hosts.sort((a, b) => a.start - b.start)
    let hops = 0
    open.forEach(({ block, same }, i) => {
      if (hops === MAX_HOPS) return
      if (this.#hop(block, same, (i + turn) % 3 === 0) || this.#hop(block, same, false)) hops++
    })
  }

  tables(): PatchTables {
    const rows = this.rows.sort((a, b) => a.rva - b.rva)
    const index = new Map(rows.map((row, i) => [row, i]))
    const siteExpected = new Uint8Array(rows.length * EXPECTED_BYTES)
    rows.forEach((row, i) => siteExpected.set(bytesAt(this.#image, row.rva, row.length), i * EXPECTED_BYTES))
    return {
      siteCount: rows.length,
      siteRva: Uint32Array.from(rows, (row) => row.rva),
      sitePatch: Uint32Array.from(rows, (row) => (typeof row.patch === 'number' ? row.patch : index.get(row.patch)!)),
      siteLength: Uint8Array.from(rows, (row) => row.length),
      siteKind: Uint8Array.from(rows, (row) => row.kind),
      siteFormClass: new Uint8Array(rows.length),
      siteFlags: Uint8Array.from(rows, (row) => row.flags),
      siteRelocKind: new Uint8Array(rows.length),
      siteRelocOffset: new Uint8Array(rows.length),
      siteTail: Uint32Array.from(rows, (row) => row.tail),
      siteExpected,
      formCount: 0, formClass: new Uint8Array(0), formKind: new Uint8Array(0), formBytes: new Uint8Array(0),
      formTarget: new Uint32Array(0),
      ...this.code.fixupTables(),
      code: this.code.bytes(),
      slotCount: this.counted.length,
      frameWords: 0,
    }
  }
}

/** Puts every tactic into these functions (indices into image.functions). */
export const buildTactics = (ground: Ground, functions: Iterable<number>): Tactics => {
  const builder = new Builder(ground)
  let turn = 0
  for (const index of functions) {
    const fn = usable(ground, index)
    if (fn !== undefined) builder.function(fn, turn++)
  }
  const tables = builder.tables()
  return { tables, counted: builder.counted, counts: builder.counts }
}
