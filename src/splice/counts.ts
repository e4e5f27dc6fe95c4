// Counts of all blocks or all edges of a function. In: the function, its flow network. Out: where to count, and for each
// block or edge the counts that it follows from. Where the network is not known, each block has to be counted by itself.
//
// What can be counted: a block, at any instruction of it; the taken side of a conditional jump of six bytes. Each has a
// cost, of one hit times how often the block is guessed to run; cfg/conserve.ts chooses a cheapest set from which the
// rest follows.
// Left out: putting the chosen splices into a plan, which may refuse one that another point has taken meanwhile.

import { HOW, chooseFlows } from '../cfg/conserve.js'
import { guessRuns } from '../cfg/depth.js'
import { FLOWS, flowsOf, takenFlow } from '../cfg/flows.js'
import { reachable, type FunctionGraph } from '../cfg/function.js'
import { NONE } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import type { RefusalCode } from './refusal.js'
import { changesGs, spliceBefore, spliceTaken, type Ground, type PlannedFunction, type Splice } from './site.js'

/** What a flow follows from: the sum of the counts at `plus`, less that of those at `minus`. */
export interface Equation {
  readonly plus: readonly Splice[]
  readonly minus: readonly Splice[]
  readonly derived: boolean
}

export interface CountedBlock {
  readonly block: number
  readonly count: Equation | RefusalCode
}

export interface CountedEdge {
  readonly from: number // block
  readonly to: number //   block
  readonly count: Equation | RefusalCode
}

/** Refuses places that others use in another way. */
export type Accept = (splice: Splice) => boolean

/** The cheapest splice that counts a block, or why there is none: what its first instruction says, if nothing better. */
const spliceInBlock = (ground: Ground, fn: PlannedFunction, block: number, accept: Accept): Splice | RefusalCode => {
  const { blockFirst } = fn.graph
  let best: Splice | undefined
  let why: RefusalCode | undefined
  for (let i = blockFirst[block]!; i < blockFirst[block + 1]!; i++) {
    const splice = spliceBefore(ground, fn, i)
    if (typeof splice === 'string') why ??= splice
    else if (!accept(splice)) why ??= 'site-taken'
    else if (best === undefined || splice.cost < best.cost) best = splice
  }
  return best ?? why ?? 'too-short'
}

const alone = (splice: Splice): Equation => ({ plus: [splice], minus: [], derived: false })

/** Everything that can be counted of a function, and at what cost. */
class Candidates {
  readonly blocks: (Splice | RefusalCode)[] // block -> splice
  readonly taken: (Splice | RefusalCode | undefined)[] // block -> splice of the taken side of its last instruction

  constructor(ground: Ground, fn: PlannedFunction, accept: Accept) {
    const { graph } = fn
    const blocks = Array.from({ length: graph.blockCount }, (_, b) => b)
    this.blocks = blocks.map((b) => spliceInBlock(ground, fn, b, accept))
    this.taken = blocks.map((b) => {
      const last = graph.blockFirst[b + 1]! - 1
      const own = this.blocks[b]!
      // One instruction is spliced in one way.
      if (typeof own !== 'string' && own.insn === last) return 'site-taken'
      const splice = spliceTaken(ground, fn, last)
      return typeof splice === 'string' || accept(splice) ? splice : 'site-taken'
    })
  }
}

/** Why a function's blocks cannot be counted at all, or ''. */
export const whyNoFlows = ({ graph }: PlannedFunction): RefusalCode | '' =>
  graph.incomplete !== '' ? graph.incomplete : changesGs(graph) ? 'gs-changes' : ''

/** The equations of a function's blocks and edges; NONE where no entry reaches one. */
interface Solved {
  readonly blocks: readonly (Equation | RefusalCode | undefined)[] // block -> equation
  readonly edges: readonly (Equation | RefusalCode | undefined)[] //  edge -> equation
}

const solve = (
  ground: Ground, fn: PlannedFunction, staying: Uint8Array, wanted: 'block' | 'edge', accept: Accept,
): Solved => {
  const { graph } = fn
  const candidates = new Candidates(ground, fn, accept)
  const net = flowsOf(ground.live.graph, graph, staying)
  if (net === undefined) return solveEach(graph, candidates)
  const runs = guessRuns(graph)
  const cost = new Float64Array(net.flowCount).fill(Infinity)
  const splices: (Splice | undefined)[] = new Array(net.flowCount)
  const offer = (flow: number, splice: Splice | RefusalCode | undefined, often: number): void => {
    if (flow === NONE || splice === undefined || typeof splice === 'string') return
    splices[flow] = splice
    cost[flow] = splice.cost * often
  }
  for (let b = 0; b < graph.blockCount; b++) {
    offer(net.blockFlow[b]!, candidates.blocks[b], runs[b]!)
    // Half of the runs go either way, as far as anyone knows.
    offer(takenFlow(net, graph, b), candidates.taken[b], runs[b]! / 2)
  }
  const kind = wanted === 'block' ? FLOWS.block : FLOWS.edge
  const { how, derived, start, term, sign } = chooseFlows(net, cost, net.kind.map((k) => (k === kind ? 1 : 0)))
  const equation = (flow: number, why: RefusalCode): Equation | RefusalCode => {
    if (how[flow] === HOW.measured) return alone(splices[flow]!)
    if (how[flow] !== HOW.derived) return why
    const k = indexOf(derived, flow)
    const plus: Splice[] = []
    const minus: Splice[] = []
    for (let i = start[k]!; i < start[k + 1]!; i++) (sign[i]! > 0 ? plus : minus).push(splices[term[i]!]!)
    return { plus, minus, derived: true }
  }
  const flows = wanted === 'block' ? net.blockFlow : net.edgeFlow
  const solved = Array.from(flows, (flow, i) => {
    if (flow === NONE) return undefined
    const own = wanted === 'block' ? candidates.blocks[i]! : 'no-count'
    return equation(flow, typeof own === 'string' ? own : 'no-count')
  })
  return wanted === 'block' ? { blocks: solved, edges: [] } : { blocks: [], edges: solved }
}

/** Without conclusions from one to the other. */
const solveEach = (graph: FunctionGraph, candidates: Candidates): Solved => {
  const reached = reachable(graph, [...graph.entries])
  const of = (splice: Splice | RefusalCode): Equation | RefusalCode => (typeof splice === 'string' ? splice : alone(splice))
  return {
    blocks: candidates.blocks.map((splice, b) => (reached[b] ? of(splice) : undefined)),
    edges: Array.from(graph.succ, () => 'unusual-exit' as const),
  }
}

/**
 * Counts of all blocks of a function that its entries reach, in order.
 * @param staying cfg/flows.ts, findStaying
 */
export const countBlocks = (ground: Ground, fn: PlannedFunction, staying: Uint8Array, accept: Accept): CountedBlock[] =>
  solve(ground, fn, staying, 'block', accept).blocks.flatMap((count, block) => (count === undefined ? [] : [{ block, count }]))

/** Counts of all edges between blocks of a function, likewise. */
export const countEdges = (ground: Ground, fn: PlannedFunction, staying: Uint8Array, accept: Accept): CountedEdge[] => {
  const { graph } = fn
  const { edges } = solve(ground, fn, staying, 'edge', accept)
  const found: CountedEdge[] = []
  for (let from = 0; from < graph.blockCount; from++) {
    for (let e = graph.succStart[from]!; e < graph.succStart[from + 1]!; e++) {
      const count = edges[e]
      if (count !== undefined) found.push({ from, to: graph.succ[e]!, count })
    }
  }
  return found
}
