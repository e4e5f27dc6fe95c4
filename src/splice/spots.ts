// Where a program may run for a point: a *spot* is a place that control passes exactly when it passes the point, with all
// that the program reads as it is there. In: a function, a point, the registers that are read. Out: for every point that is
// meant, its spots (a function's ways out are several), each with the instructions that would do; or why there are none.
// Unlike a count, a program stands for nobody else: another block that runs as often, or a conclusion, will not do.
// Left out: which of the instructions can be spliced (draft.ts).

import { equivalentBlocks } from '../cfg/equivalent.js'
import type { FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import { effectWrites } from '../code/effects.js'
import { FLOW } from '../code/instructions.js'
import { RAX, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import type { Point } from '../probe/points.js'
import { callsOf, reachedBlocks, waysOut } from './exits.js'
import { changesGs, type Ground, type PlannedFunction } from './ground.js'
import { CODES, type RefusalCode } from './refusal.js'

/** Instructions before any of which the program may run, the nearest first; or one whose taken side it is. */
export interface Spot {
  readonly insns: readonly number[]
  readonly takes: 0 | 1
  readonly enters?: boolean // of a span: its entry
}

/** A point, and where its program runs. */
export interface SpotRow {
  readonly rva: Rva
  readonly to: Rva // of an edge, else NONE
  readonly spots: readonly Spot[]
  readonly refusal: RefusalCode | ''
}

/** What a program wants of a place. */
export interface Wants {
  readonly registers: RegisterSet
  readonly caller: boolean
  /** Of a span: what it reads at the entry. */
  readonly entryRegisters: RegisterSet
}

const refused = (refusal: RefusalCode, rva: Rva = NONE, to: Rva = NONE): SpotRow => ({ rva, to, spots: [], refusal })

/** The spots of a point; never none: a function without any is a row that is refused. */
export const spotsOf = (ground: Ground, fn: PlannedFunction, point: Point, wants: Wants): SpotRow[] => {
  const { graph } = fn
  if (changesGs(graph)) return [refused('gs-changes')]
  const finder = new SpotFinder(ground, graph, wants)
  switch (point.kind) {
    case 'entry': return [finder.before(indexOf(graph.insns.rva, graph.start))]
    case 'insn': {
      const insn = indexOf(graph.insns.rva, graph.start + point.offset)
      return [insn < 0 || graph.start + point.offset >= graph.end ? refused('no-instruction', graph.start + point.offset) : finder.before(insn)]
    }
    case 'call': return finder.calls()
    case 'return': return [finder.ways()]
    case 'block': return graph.incomplete !== '' ? [refused(graph.incomplete)] : finder.blocks()
    case 'edge': return graph.incomplete !== '' ? [refused(graph.incomplete)] : finder.edges()
    case 'span': return [finder.span()]
  }
}

class SpotFinder {
  readonly #image: Image
  readonly #ground: Ground
  readonly #graph: FunctionGraph
  readonly #wants: Wants

  constructor(ground: Ground, graph: FunctionGraph, wants: Wants) {
    this.#ground = ground
    this.#image = ground.image
    this.#graph = graph
    this.#wants = wants
  }

  /** Before an instruction. */
  before(insn: number): SpotRow {
    const rva = this.#graph.insns.rva[insn]!
    const spot = this.#around(insn)
    return typeof spot === 'string' ? refused(spot, rva) : { rva, to: NONE, spots: [spot], refusal: '' }
  }

  /** The instructions of a block before which all is as it is before one of them. */
  #around(insn: number): Spot | RefusalCode {
    const { insns, blockOfInsn, blockFirst, incomplete } = this.#graph
    const block = blockOfInsn[insn]!
    const first = blockFirst[block]!
    const code = CODES[this.#ground.reserved[insns.rva[insn]! - this.#image.textStart] ?? 0]!
    // Another variant of an alternative may have no such instruction, or another one there.
    const rewritten = code === 'alternative' || code === 'paravirt'
    if (rewritten && insn !== first) return code
    const found = [insn]
    // Where the graph is not complete, blocks may have entries that nobody knows of.
    if (incomplete === '' && !rewritten) {
      const together = equivalentBlocks(this.#graph, block)
      for (let i = insn; i > 0 && this.#goesOn(i - 1, together); i--) found.push(i - 1)
      for (let i = insn; i + 1 < insns.count && this.#goesOn(i, together); i++) found.push(i + 1)
      found.sort((a, b) => Math.abs(a - insn) - Math.abs(b - insn))
    }
    if (!this.#wants.caller) return { insns: found, takes: 0 }
    const known = found.filter((i) => this.#image.orc.returnAddressAt(insns.rva[i]!) >= 0)
    return known.length === 0 ? 'no-return-address' : { insns: known, takes: 0 }
  }

  /**
   * Whether control always goes on from an instruction to the one behind it, with what the program reads as it was. The
   * call at the start of a traced function does: a tracer gives all registers back, and whatever puts another function in
   * this one's place does not come back (kernel/trace/ftrace.c and arch/x86/kernel/ftrace_64.S, 6.1 and 6.12).
   */
  #goesOn(insn: number, together: readonly number[]): boolean {
    const { insns, blockOfInsn } = this.#graph
    const rva = insns.rva[insn]!
    if (rva + insns.length[insn]! !== insns.rva[insn + 1] || !together.includes(blockOfInsn[insn + 1]!) || !together.includes(blockOfInsn[insn]!)) return false
    if (indexOf(this.#image.tables.ftrace, rva) >= 0) return true
    return insns.flow[insn] === FLOW.next && (effectWrites[insns.effect[insn]!]! & this.#wants.registers) === 0
  }

  calls(): SpotRow[] {
    const rows = Array.from(callsOf(this.#image, this.#graph), (insn) => this.before(insn))
    return rows.length === 0 ? [refused('no-calls')] : rows
  }

  /** All ways out, which are one point. */
  ways(): SpotRow {
    const { insns, incomplete, alternativeLeaves } = this.#graph
    if (incomplete !== '' || alternativeLeaves) return refused(incomplete || 'unusual-exit')
    const spots: Spot[] = []
    let at = NONE
    for (const { insn, returns, takes, usual } of waysOut(this.#image, this.#graph)) {
      const rva = insns.rva[insn]!
      if (!usual) return refused('unusual-exit', rva)
      // What it returns is made by whoever is jumped to.
      if (!returns && this.#wants.registers & RAX) return refused('tail-call', rva)
      const spot = takes ? this.#taken(insn) : this.#around(insn)
      if (typeof spot === 'string') return refused(spot, rva)
      spots.push(spot)
      if (at === NONE) at = rva
    }
    return spots.length === 0 ? refused('never-returns') : { rva: at, to: NONE, spots, refusal: '' }
  }

  /** The entry, before all others, and all ways out. */
  span(): SpotRow {
    const { insns, start } = this.#graph
    const entry = new SpotFinder(this.#ground, this.#graph, { ...this.#wants, registers: this.#wants.entryRegisters })
      .before(indexOf(insns.rva, start))
    if (entry.refusal !== '') return entry
    const ways = this.ways()
    if (ways.refusal !== '') return ways
    return { ...entry, spots: [...entry.spots.map((spot) => ({ ...spot, enters: true })), ...ways.spots] }
  }

  #taken(insn: number): Spot | RefusalCode {
    const { insns } = this.#graph
    if (this.#wants.caller && this.#image.orc.returnAddressAt(insns.target[insn]!) < 0) return 'no-return-address'
    return { insns: [insn], takes: 1 }
  }

  blocks(): SpotRow[] {
    const { blockCount, blockFirst } = this.#graph
    const reached = reachedBlocks(this.#graph)
    const rows: SpotRow[] = []
    for (let b = 0; b < blockCount; b++) if (reached[b]) rows.push(this.before(blockFirst[b]!))
    return rows
  }

  edges(): SpotRow[] {
    const { blockCount, blockFirst, succStart, succ, entries, insns } = this.#graph
    const reached = reachedBlocks(this.#graph)
    const comes = new Uint32Array(blockCount) // block -> how many ways lead to it
    for (const b of entries) comes[b]!++
    for (const b of succ) comes[b]!++
    const rows: SpotRow[] = []
    for (let b = 0; b < blockCount; b++) {
      if (!reached[b]) continue
      const last = blockFirst[b + 1]! - 1
      for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
        const to = succ[e]!
        const [rva, target] = [insns.rva[blockFirst[b]!]!, insns.rva[blockFirst[to]!]!]
        const spot = this.#edge(b, last, to, comes[to]!, succStart[b + 1]! - succStart[b]!)
        rows.push(typeof spot === 'string' ? refused(spot, rva, target) : { rva, to: target, spots: [spot], refusal: '' })
      }
    }
    return rows.length === 0 ? [refused('no-edges')] : rows
  }

  #edge(block: number, last: number, to: number, comes: number, leaves: number): Spot | RefusalCode {
    const { insns, blockFirst, blockEnd } = this.#graph
    if (comes === 1) return this.#around(blockFirst[to]!)
    if (leaves === 1 && insns.flow[last] === FLOW.jump && !(blockEnd[block]! & END.leaks)) return this.#around(last)
    if (insns.flow[last] === FLOW.branch && insns.target[last] === insns.rva[blockFirst[to]!] && leaves === 2) return this.#taken(last)
    return 'no-place'
  }
}
