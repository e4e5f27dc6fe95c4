// Counts of all blocks or all edges of a function. In: the function, and the draft of the plan. Out: where each block or
// edge is counted, or from which counts it follows. Where the flow network is not known, each block has to be counted by
// itself.
//
// What can be counted: a block, at any instruction of it; the taken side of a conditional jump. Each has a cost, of one
// hit times how often the block is guessed to run; cfg/conserve.ts chooses a cheapest set from which the rest follows.
// The draft then may find no room for one of them: that one is left out, and the choice made anew.

import { HOW, chooseFlows } from '../cfg/conserve.js'
import { guessRuns } from '../cfg/depth.js'
import { FLOWS, flowsOf, takenFlow, type FlowNetwork } from '../cfg/flows.js'
import { reachable } from '../cfg/function.js'
import { Row } from '../cfg/row.js'
import { FLOW } from '../code/instructions.js'
import { NONE } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { LEVEL, LEVELS, type Draft } from './draft.js'
import { changesGs, type PlannedFunction } from './ground.js'
import { codeNumber, type RefusalCode } from './refusal.js'

/** Counts of a function's blocks or edges, as tables over them: item is a block, or an index into the graph's succ. */
export interface Counts {
  readonly asked: Uint8Array //   item -> 1 where an entry of the function reaches it
  readonly refusal: Uint8Array // item -> number of the refusal code, 0 where its count is had
  readonly derived: Uint8Array // item -> 1 where it follows from counts taken elsewhere
  readonly start: Uint32Array //  item -> first index into term
  readonly term: Uint32Array //   slot * 2, + 1 where it is subtracted
}

export type CountKind = 'block' | 'edge'

/** Why a function's blocks cannot be counted at all, or ''. */
export const whyNoFlows = ({ graph }: PlannedFunction): RefusalCode | '' =>
  graph.incomplete !== '' ? graph.incomplete : changesGs(graph) ? 'gs-changes' : ''

/**
 * LEVEL -> what a splice costs beside its hits, in instructions: a window makes applying slower, and springboards are
 * few.
 */
const EXTRA = [0, 2, 3] as const

/** LEVEL -> no splice of its own adds fewer instructions: a pointer, an increment, jumps. */
const LEAST_COST = [3, 4, 5] as const

/** Counts all blocks, or all edges, of a function that its entries reach. `staying` is cfg/flows.ts, findStaying. */
export const countFlows = (draft: Draft, fn: PlannedFunction, staying: Uint8Array, kind: CountKind): Counts => {
  const net = flowsOf(draft.ground.graph, fn.graph, staying)
  return net === undefined ? countEach(draft, fn, kind) : new FlowCounter(draft, fn, net).count(kind)
}

/** The cheapest instruction of a block to count it at. */
const cheapest = (draft: Draft, fn: PlannedFunction, block: number): { insn: number; cost: number; level: number } => {
  const first = fn.graph.blockFirst[block]!
  const last = fn.graph.blockFirst[block + 1]! - 1
  for (const level of LEVELS) {
    // The last one first: transfers are cheapest.
    let insn = last
    let cost = draft.costBefore(fn, last, level)
    for (let i = first; i < last && cost > LEAST_COST[level]; i++) {
      const own = draft.costBefore(fn, i, level)
      if (own >= cost) continue
      insn = i
      cost = own
    }
    if (cost !== Infinity) return { insn, cost: cost + EXTRA[level], level }
  }
  return { insn: first, cost: Infinity, level: LEVEL.shortJump }
}

/**
 * Counts one block, by conclusion from others: for where nothing in it can be overwritten.
 * @returns slot * 2, + 1 where it is subtracted; undefined where it does not follow
 */
export const deriveBlock = (draft: Draft, fn: PlannedFunction, staying: Uint8Array, block: number): Uint32Array | undefined => {
  const net = whyNoFlows(fn) === '' ? flowsOf(draft.ground.graph, fn.graph, staying) : undefined
  if (net === undefined || net.blockFlow[block] === NONE) return undefined
  const { refusal, term, start } = new FlowCounter(draft, fn, net).count('block', block)
  return refusal[block] === 0 ? term.subarray(start[block], start[block + 1]) : undefined
}

const insnRow = new Row()
const levelRow = new Row()
const takenRow = new Row()
const slotRow = new Row() // flow -> slot, where it is measured

/** Of one function after the other. */
class FlowCounter {
  readonly #draft: Draft
  readonly #fn: PlannedFunction
  readonly #net: FlowNetwork
  readonly #cost: Float64Array //  flow -> of measuring it
  readonly #insn: Uint32Array //   flow -> where that is done
  readonly #level: Uint32Array //  flow -> LEVEL
  readonly #taken: Uint32Array //  flow -> 1 where the taken side is counted there

  constructor(draft: Draft, fn: PlannedFunction, net: FlowNetwork) {
    this.#draft = draft
    this.#fn = fn
    this.#net = net
    this.#cost = new Float64Array(net.flowCount).fill(Infinity)
    this.#insn = insnRow.of(net.flowCount, NONE)
    this.#level = levelRow.of(net.flowCount)
    this.#taken = takenRow.of(net.flowCount)
    const { graph } = fn
    const runs = guessRuns(graph)
    for (let b = 0; b < graph.blockCount; b++) {
      const flow = net.blockFlow[b]!
      if (flow === NONE) continue
      const { insn, cost, level } = cheapest(draft, fn, b)
      this.#offer(flow, insn, cost * runs[b]!, level, 0)
      const last = graph.blockFirst[b + 1]! - 1
      if (graph.insns.flow[last] !== FLOW.branch) continue
      const side = takenFlow(net, graph, b)
      if (side === NONE) continue
      for (const level of LEVELS) {
        const taken = draft.costTaken(fn, last, level)
        if (taken === Infinity) continue
        this.#offer(side, last, (taken + EXTRA[level]) * runs[b]!, level, 1)
        break
      }
    }
  }

  #offer(flow: number, insn: number, cost: number, level: number, taken: number): void {
    this.#cost[flow] = cost
    this.#insn[flow] = insn
    this.#level[flow] = level
    this.#taken[flow] = taken
  }

  /** Puts the counter of a flow there. */
  #measure(flow: number): number | RefusalCode {
    const insn = this.#insn[flow]!
    const level = this.#level[flow]!
    return this.#taken[flow] ? this.#draft.taken(this.#fn, insn, level) : this.#draft.before(this.#fn, insn, level)
  }

  /** @param only the one item that is asked for, where it is not all */
  count(kind: CountKind, only = NONE): Counts {
    const net = this.#net
    const flows = kind === 'block' ? net.blockFlow : net.edgeFlow
    const wantedKind = kind === 'block' ? FLOWS.block : FLOWS.edge
    const wanted = new Uint8Array(net.flowCount)
    for (let f = 0; f < wanted.length; f++) if (net.kind[f] === wantedKind && (only === NONE || flows[only] === f)) wanted[f] = 1
    const slot = slotRow.room(net.flowCount)
    for (;;) {
      const choice = chooseFlows(net, this.#cost, wanted)
      let failed = false
      for (let k = 0; k < choice.measured.length; k++) {
        const flow = choice.measured[k]!
        const got = this.#measure(flow)
        if (typeof got === 'number') slot[flow] = got
        else {
          this.#cost[flow] = Infinity
          failed = true
        }
      }
      if (failed) continue
      const { how, derived, start, term, sign } = choice
      const items = flows.length
      const asked = new Uint8Array(items)
      const refusal = new Uint8Array(items)
      const isDerived = new Uint8Array(items)
      const starts = new Uint32Array(items + 1)
      const terms: number[] = []
      for (let i = 0; i < items; i++) {
        starts[i] = terms.length
        const flow = flows[i]!
        if (flow === NONE || (only !== NONE && i !== only)) continue
        asked[i] = 1
        if (how[flow] === HOW.measured) terms.push(2 * slot[flow]!)
        else if (how[flow] === HOW.derived) {
          isDerived[i] = 1
          const k = indexOf(derived, flow)
          for (let t = start[k]!; t < start[k + 1]!; t++) terms.push(2 * slot[term[t]!]! + (sign[t]! > 0 ? 0 : 1))
        } else {
          const why = kind === 'block' ? this.#draft.before(this.#fn, this.#fn.graph.blockFirst[i]!, LEVEL.shortJump) : 'no-count'
          if (typeof why === 'number') terms.push(2 * why)
          else refusal[i] = codeNumber(why)
        }
      }
      starts[items] = terms.length
      return { asked, refusal, derived: isDerived, start: starts, term: Uint32Array.from(terms) }
    }
  }
}

/** Counts all blocks, each by itself: without conclusions from one to the other. Edges then are not counted at all. */
export const countEach = (draft: Draft, fn: PlannedFunction, kind: CountKind): Counts => {
  const { graph } = fn
  if (kind === 'edge') {
    const items = graph.succ.length
    return {
      asked: new Uint8Array(items).fill(1), refusal: new Uint8Array(items).fill(codeNumber('unusual-exit')),
      derived: new Uint8Array(items), start: new Uint32Array(items + 1), term: new Uint32Array(0),
    }
  }
  const asked = reachable(graph, graph.entries)
  const refusal = new Uint8Array(graph.blockCount)
  const start = new Uint32Array(graph.blockCount + 1)
  const terms: number[] = []
  for (let b = 0; b < graph.blockCount; b++) {
    start[b] = terms.length
    if (!asked[b]) continue
    const { insn, level } = cheapest(draft, fn, b)
    const got = draft.before(fn, insn, level)
    if (typeof got === 'number') terms.push(2 * got)
    else refusal[b] = codeNumber(got)
  }
  start[graph.blockCount] = terms.length
  return { asked, refusal, derived: new Uint8Array(graph.blockCount), start, term: Uint32Array.from(terms) }
}
