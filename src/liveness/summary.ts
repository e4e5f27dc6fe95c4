// Summaries: what a call of the code at a block does before it returns. In: the graph and its effects. Out: for every
// block, what may be read from there on before it is overwritten, and what is certainly overwritten.
//
// Lattices: register sets; `reads` is the least solution under union, `defines` the greatest under intersection, of
//   reads(b)   = use(b) | ((callReads(b) | (U & ~callDefines(b))) & ~def(b))
//                U = away(b) | union over successors s of R(s);  at a return nothing is read
//   defines(b) = def(b) | callDefines(b) | D
//                D = intersection over successors s of M(s), and of the empty set where control leaves
// where a call reads and defines what convention.ts says, or what the summary of its callee says, and R and M of a
// successor that is a traced function (a tail call) are what convention.ts says of calling it. Where nothing leaves,
// defines is everything: no caller ever sees a return. Both run over the call graph at once; recursion needs no special
// case, since every run that returns is finite.
//
// Saving a register is reading it. So a function that saves and restores rbx "reads" it, and that it also "defines" it,
// by the pop, does no harm: the register is live before the call. No assumption on stacks is needed.
//
// What a callee may define is not used: over a call only what it certainly defines is lost. The kernel is compiled with
// -fipa-ra in part, so a caller may keep a value in any register that the callee leaves alone on its way.

import type { KernelGraph } from '../cfg/graph.js'
import { END } from '../cfg/kinds.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import { NONE } from '../image/rva.js'
import { LOST_OVER_CALL, READ_AT_ENTRY } from './convention.js'
import type { Effects } from './effects.js'
import type { Worklist } from './worklist.js'

export interface Summaries {
  readonly reads: Uint32Array //   block -> register set
  readonly defines: Uint32Array // block -> register set
}

const RETURNS = END.return | END.tailIndirect | END.unknown | END.variantLeaves

/** Solves both, over the whole graph. @param work an empty list of the graph's size */
export const summarize = (graph: KernelGraph, effects: Effects, work: Worklist): Summaries => {
  const defines = solveDefines(graph, effects, work.fill())
  return { defines, reads: solveReads(graph, effects, defines, work.fill()) }
}

/** Everyone whose value depends on a block's: predecessors, and those who call it. */
const pushDependents = (graph: KernelGraph, work: Worklist, b: number): void => {
  for (let e = graph.predStart[b]!; e < graph.predStart[b + 1]!; e++) work.push(graph.pred[e]!)
  for (let c = graph.callerStart[b]!; c < graph.callerStart[b + 1]!; c++) work.push(graph.caller[c]!)
}

const solveDefines = (graph: KernelGraph, effects: Effects, work: Worklist): Uint32Array => {
  const { blockCount, succStart, succ, end } = graph
  const { def, callDef, callee, traced } = effects
  const defines = new Uint32Array(blockCount).fill(ALL)
  while (!work.empty) {
    const b = work.pop()
    let set: RegisterSet = end[b]! & RETURNS ? 0 : ALL
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      const s = succ[e]!
      set &= traced[s] && graph.returning[s] ? LOST_OVER_CALL : defines[s]!
    }
    set |= def[b]! | callDef[b]!
    if (callee[b] !== NONE) set |= defines[callee[b]!]!
    if (set === defines[b]) continue
    defines[b] = set
    pushDependents(graph, work, b)
  }
  return defines
}

const solveReads = (graph: KernelGraph, effects: Effects, defines: Uint32Array, work: Worklist): Uint32Array => {
  const { blockCount, succStart, succ } = graph
  const { use, def, callUse, callDef, callee, away, traced } = effects
  const reads = new Uint32Array(blockCount)
  while (!work.empty) {
    const b = work.pop()
    let set: RegisterSet = away[b]!
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      const s = succ[e]!
      set |= traced[s] ? READ_AT_ENTRY : reads[s]!
    }
    const to = callee[b]!
    if (to !== NONE) set = reads[to]! | (set & ~defines[to]!)
    set = callUse[b]! | (set & ~callDef[b]!)
    set = use[b]! | (set & ~def[b]!)
    if (set === reads[b]) continue
    reads[b] = set
    pushDependents(graph, work, b)
  }
  return reads
}
