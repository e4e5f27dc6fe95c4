// Live registers and flags before every instruction of one function.
//
// Lattice: sets of registers (code/registers.ts) under inclusion; the solution is the least that satisfies, backward,
//   in(i)  = reads(i) | (out(i) & ~kills(i))
//   out(i) = union of in over the successors of i, and of what is live where control leaves by i
// `reads` over-estimates and `kills` under-estimates what the instruction does on the processor. Calls, returns and tail
// calls follow convention.ts. An alternative counts as one step that reads everything and overwrites nothing, since any
// variant may be there. Where the graph is incomplete, everything is live everywhere.

import { END, type FunctionGraph } from '../cfg/function.js'
import { FLOW } from '../code/instructions.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE } from '../image/rva.js'
import { indexOf, lowerBound } from '../image/search.js'
import { isTraced, liveAtReturn, liveAtTailCall, LOST_OVER_CALL, READ_AT_ENTRY } from './convention.js'

export interface Liveness {
  readonly liveIn: Uint32Array // insn -> register set live before it
  /** insn -> register set live where control leaves the function by it (0 where it does not). */
  readonly liveAway: Uint32Array
}

// insn -> 1 where the kernel may put another instruction, of any effect: alternatives, paravirtual sites.
const opaqueInsns = (image: Image, graph: FunctionGraph): Uint8Array => {
  const { insns } = graph
  const opaque = new Uint8Array(insns.count)
  for (const table of [image.tables.alternatives, image.tables.paravirt]) {
    for (let i = 0; i < insns.count; i++) {
      const at = insns.rva[i]!
      // Ranges are at most 255 bytes long, sorted by start, and may nest.
      for (let k = lowerBound(table.rva, Math.max(0, at - 255)); k < table.rva.length && table.rva[k]! < at + insns.length[i]!; k++) {
        if (table.rva[k]! + table.len[k]! > at) opaque[i] = 1
      }
    }
  }
  return opaque
}

/** Solves one function. */
export const solveLiveness = (image: Image, graph: FunctionGraph): Liveness => {
  const { insns, blockCount, blockFirst, succStart, succ } = graph
  const liveIn = new Uint32Array(insns.count).fill(graph.incomplete === '' ? 0 : ALL)
  const liveAway = new Uint32Array(insns.count)
  const opaque = opaqueInsns(image, graph)
  const reads = Uint32Array.from(insns.reads)
  const kills = Uint32Array.from(insns.kills)
  for (let b = 0; b < blockCount; b++) {
    const last = blockFirst[b + 1]! - 1
    const end = graph.blockEnd[b]!
    let away: RegisterSet = 0
    if (end & END.unknown) away = ALL
    if (end & END.return) away |= liveAtReturn(image, graph.start)
    if (end & END.tail) {
      const direct = insns.flow[last] === FLOW.jump || insns.flow[last] === FLOW.branch
      away |= liveAtTailCall(image, direct && !opaque[last] ? insns.target[last]! : NONE)
    }
    // A trap, or a call that does not come back: what an oops shows shall be what was there.
    if (succStart[b] === succStart[b + 1] && away === 0) away = ALL
    liveAway[last] = away
  }
  for (let i = 0; i < insns.count; i++) {
    if (opaque[i] || insns.flow[i] === FLOW.indirectCall) {
      reads[i] = ALL
      kills[i] = 0
    } else if (insns.flow[i] === FLOW.call) {
      const traced = insns.target[i] !== NONE && isTraced(image, insns.target[i]!)
      reads[i] = traced ? READ_AT_ENTRY : ALL
      kills[i] = traced ? LOST_OVER_CALL & ~READ_AT_ENTRY : 0
    } else if (indexOf(image.tables.exTable.insn, insns.rva[i]!) >= 0) {
      kills[i] = 0 // where it faults, the fixup finds the old values
    }
  }
  if (graph.incomplete !== '') return { liveIn, liveAway }
  const blockIn = new Uint32Array(blockCount)
  for (let changed = true; changed; ) {
    changed = false
    for (let b = blockCount - 1; b >= 0; b--) {
      const first = blockFirst[b]!
      const last = blockFirst[b + 1]! - 1
      let live = liveAway[last]!
      for (let e = succStart[b]!; e < succStart[b + 1]!; e++) live |= blockIn[succ[e]!]!
      for (let i = last; i >= first; i--) {
        live = reads[i]! | (live & ~kills[i]!)
        liveIn[i] = live
      }
      if (live !== blockIn[b]) {
        blockIn[b] = live
        changed = true
      }
    }
  }
  return { liveIn, liveAway }
}
