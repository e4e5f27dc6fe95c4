// Live registers and flags of the whole image. In: the graph. Out: what is live at the start of every block, and, for a
// function that is cut out, before every instruction.
//
// Lattice: sets of registers (code/registers.ts) under inclusion. The solution is the least that satisfies, for block b,
//   in(b)  = use(b) | ((callReads(b) | (out(b) & ~callDefines(b))) & ~def(b))
//   out(b) = away(b) | (exits(b) ? exit(b) : 0) | union over edges b -> s of
//              in(s), or, where a function starts at s: R(s) | (exit(b) & ~M(s))         (a tail call)
// and, forward, for what the callers of the running function expect of registers when it returns,
//   exit(s) = union over edges b -> s of exit(b), and of start(s)
//   start(s) = LIVE_AT_RETURN where a traced function starts, and kept(b) of each block b that calls it (kept.ts); then
//              nothing else is added
//            = everything where callers are not all known: where data, an export or an instruction has the address of s,
//              where a function starts that nothing jumps to or calls, and where nothing at all leads to, or only what
//              nothing leads to
//            = LIVE_AT_RETURN and out(b) of each block b that calls s, where s is called
// with R and M of summary.ts, or of convention.ts for traced functions, and the rest of effects.ts.
//
// Assumptions, beside those of convention.ts and the graph's: a call returns behind itself or not at all, and a return
// goes to who called (objtool checks both, and where its unwind tables do not say so, everything is live at a return);
// who takes the address of code does so in data, in an export or in an instruction that carries the address whole.
// Where a function's graph is incomplete, everything is live in it.

import type { FunctionGraph } from '../cfg/function.js'
import type { KernelGraph } from '../cfg/graph.js'
import { END, ENTRY } from '../cfg/kinds.js'
import { effectKills, effectReads } from '../code/effects.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import { NONE } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import type { Claims } from './claims.js'
import { LIVE_AT_RETURN, LOST_OVER_CALL, READ_AT_ENTRY } from './convention.js'
import { findEffects, type Effects } from './effects.js'
import { summarize, type Summaries } from './summary.js'
import { Worklist } from './worklist.js'

export interface KernelLiveness {
  readonly graph: KernelGraph
  readonly effects: Effects
  readonly summaries: Summaries
  /** block -> what the callers of the running function may read after it returns. */
  readonly exit: Uint32Array
  readonly liveIn: Uint32Array // block -> register set live at its start
}

/** What is live along an edge. */
const alongEdge = (live: Omit<KernelLiveness, 'liveIn'> & { liveIn: Uint32Array }, from: number, to: number): RegisterSet => {
  const { graph, effects, summaries, exit, liveIn } = live
  if (effects.traced[to]) return READ_AT_ENTRY | (graph.returning[to] ? exit[from]! & ~LOST_OVER_CALL : 0)
  if (graph.entry[to]! & ENTRY.function) return summaries.reads[to]! | (exit[from]! & ~summaries.defines[to]!)
  return liveIn[to]!
}

/** What is live behind the last instruction of a block, call included: where it goes on, or leaves. */
const liveBehind = (live: KernelLiveness, b: number): RegisterSet => {
  const { graph: { succStart, succ }, effects } = live
  let out: RegisterSet = effects.away[b]! | (effects.exits[b] ? live.exit[b]! : 0)
  for (let e = succStart[b]!; e < succStart[b + 1]!; e++) out |= alongEdge(live, b, succ[e]!)
  return out
}

/** What is live before the control transfer at the end of a block takes effect: behind its last instruction's own reads. */
const liveAtTransfer = (live: KernelLiveness, b: number): RegisterSet => {
  const { effects, summaries } = live
  let out = liveBehind(live, b)
  const to = effects.callee[b]!
  if (to !== NONE) out = summaries.reads[to]! | (out & ~summaries.defines[to]!)
  return effects.callUse[b]! | (out & ~effects.callDef[b]!)
}

const startOf = (graph: KernelGraph, effects: Effects, b: number, scope: Scope): RegisterSet => {
  if (effects.traced[b]) return LIVE_AT_RETURN
  if (scope === 'function' && graph.entry[b]! & (ENTRY.function | ENTRY.called)) return ALL
  const bits = graph.entry[b]!
  if (bits & ENTRY.pointed) return ALL
  if (bits & ENTRY.called) return LIVE_AT_RETURN
  const first = graph.predStart[b]!
  const end = graph.predStart[b + 1]!
  if (first === end) return ALL
  // What runs into a function from above is often padding.
  return bits & ENTRY.function && end - first === 1 && graph.pred[first] === b - 1 ? ALL : 0
}

/** Whether functions know of each other, or only the rules of convention.ts; the latter for comparison. */
export type Scope = 'kernel' | 'function'

/** Solves the whole graph. */
export const solveLiveness = (graph: KernelGraph, scope: Scope = 'kernel'): KernelLiveness => {
  const { blockCount, succStart, succ, predStart, pred } = graph
  const backward = new Worklist(blockCount)
  const effects = findEffects(graph, backward)
  const summaries = scope === 'kernel' ? summarize(graph, effects, backward)
    : { reads: new Uint32Array(blockCount).fill(ALL), defines: new Uint32Array(blockCount) }
  const { use, def, callee, traced, exits } = effects
  const exit = new Uint32Array(blockCount)
  const liveIn = new Uint32Array(blockCount)
  const live: KernelLiveness = { graph, effects, summaries, exit, liveIn }
  const forward = new Worklist(blockCount)
  backward.fill()
  for (let b = 0; b < blockCount; b++) {
    exit[b] = startOf(graph, effects, b, scope)
    if (exit[b] !== 0) forward.push(b)
  }
  effects.kept.block.forEach((b, k) => {
    exit[graph.callee[b]!]! |= effects.kept.set[k]!
  })
  for (const b of graph.variantCallee) {
    if (b === NONE || traced[b]) continue
    exit[b] = ALL
    forward.push(b)
  }
  const expect = (b: number, set: RegisterSet): void => {
    if (traced[b] || (exit[b]! | set) === exit[b]) return
    exit[b]! |= set
    forward.push(b)
    backward.push(b)
  }
  const goForward = (): void => {
    while (!forward.empty) {
      const b = forward.pop()
      for (let e = succStart[b]!; e < succStart[b + 1]!; e++) expect(succ[e]!, exit[b]!)
      if (exits[b]) backward.push(b)
    }
  }
  goForward()
  // What is left is a loop that nothing enters: whoever does is not known.
  for (let b = 0; b < blockCount; b++) if (exit[b] === 0) expect(b, ALL)
  for (;;) {
    goForward()
    if (backward.empty) break
    while (!backward.empty) {
      const b = backward.pop()
      if (callee[b] !== NONE) expect(callee[b]!, liveBehind(live, b))
      const set = use[b]! | (liveAtTransfer(live, b) & ~def[b]!)
      if (set === liveIn[b]) continue
      liveIn[b] = set
      for (let e = predStart[b]!; e < predStart[b + 1]!; e++) backward.push(pred[e]!)
    }
  }
  return live
}

/** Writes what is live before every instruction of a block to ret[at...]. */
export const liveInBlock = (live: KernelLiveness, b: number, ret: Uint32Array, at: number): void => {
  const { graph: { blockFirst }, effects: { effect } } = live
  const first = blockFirst[b]!
  let set = liveAtTransfer(live, b)
  for (let i = blockFirst[b + 1]! - 1; i >= first; i--) {
    set = effectReads[effect[i]!]! | (set & ~effectKills[effect[i]!]!)
    ret[at + i - first] = set
  }
}

/** The solution as claims that can be checked by themselves. */
export const claimsOf = (live: KernelLiveness): Claims => {
  const { graph, effects, summaries, exit } = live
  const all = new Uint32Array(graph.insns.count)
  for (let b = 0; b < graph.blockCount; b++) liveInBlock(live, b, all, graph.blockFirst[b]!)
  return {
    rva: graph.insns.rva, live: all, blockFirst: graph.blockFirst, reads: summaries.reads, defines: summaries.defines, exit,
    returning: graph.returning, own: Uint32Array.from({ length: graph.blockCount }, (_, b) => effects.kept.readFrom(b)),
  }
}

/** The liveness of one function that was cut out. */
export interface Liveness {
  readonly liveIn: Uint32Array // insn -> register set live before it
  /** insn -> register set live where control leaves the function by it (0 where it does not). */
  readonly liveAway: Uint32Array
}

/** Liveness before every instruction of a function. */
export const livenessOf = (live: KernelLiveness, fn: FunctionGraph): Liveness => {
  const { graph, effects } = live
  const { insns, blockCount, blockFirst } = fn
  const liveIn = new Uint32Array(insns.count).fill(fn.incomplete === '' ? 0 : ALL)
  const liveAway = new Uint32Array(insns.count)
  for (let b = 0; b < blockCount; b++) {
    const whole = fn.block[b]!
    const first = blockFirst[b]!
    const last = blockFirst[b + 1]! - 1
    if (fn.blockEnd[b]! & (END.return | END.tail | END.unknown | END.faultLeaves | END.variantLeaves)) {
      let away: RegisterSet = effects.away[whole]! | (effects.exits[whole] ? live.exit[whole]! : 0)
      for (let e = graph.succStart[whole]!; e < graph.succStart[whole + 1]!; e++) {
        if (indexOf(fn.block, graph.succ[e]!) < 0) away |= alongEdge(live, whole, graph.succ[e]!)
      }
      liveAway[last] = away
    }
    if (fn.incomplete === '') liveInBlock(live, whole, liveIn, first)
  }
  return { liveIn, liveAway }
}
