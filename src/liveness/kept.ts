// Where compiled code contradicts the rule that a call loses registers: behind which calls of traced functions a register
// is read that convention.ts says was lost. In: the graph. Out: these calls, and which registers each is to be taken to
// leave alone after all.
//
// The rule's evidence is that files with ftrace sites are compiled with -pg, which turns -fipa-ra off. A compiler that
// did otherwise could keep any caller-saved register over a call of a function of the same file; it would then read it
// behind the call without writing it first. So wherever an instruction may do so, the code is
// believed, and not the rule. In Debian's 6.1 and 6.12 these are 0.3 and 0.2 % of the calls, and those looked at were all
// paths that cannot be taken (a variable set under one condition and used under the same condition later).
// Left out: the flags, which no compiler keeps over a call, and which every tracer loses at the callee's entry.
//
// Lattice: register sets under union. Backward: in(b) = use(b) | (out(b) & ~write(b)), out(b) = union of in(s) over edges
// b -> s to no traced function's start; calls are passed over. Only what instructions themselves read counts: no rule, no summary;
// and whatever an instruction may write ends the search (setcc and movzx write and read a part, and mean the whole).

import type { KernelGraph } from '../cfg/graph.js'
import { CALL } from '../cfg/kinds.js'
import { effectReads, effectWrites } from '../code/effects.js'
import { FLOW } from '../code/instructions.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import { NONE } from '../image/rva.js'
import type { Worklist } from './worklist.js'

// The registers that convention.ts gives up over a call, in one byte, since fresh memory is dear: bit 0 rcx, 1 rsi, 2 rdi,
// 3..6 r8..r11.
const pack = (set: RegisterSet): number => ((set >>> 1) & 1) | ((set >>> 5) & 0x7e)
const unpack = (packed: number): RegisterSet => ((packed & 1) << 1) | ((packed & 0x7e) << 5)

/** Calls and what they leave alone, by calling block, ascending. */
export interface Kept {
  readonly block: Uint32Array
  readonly set: Uint32Array // parallel: of the registers in LOST_OVER_CALL
  /** Of any block: which of these registers instructions may read from its start on, before one writes them. */
  readonly readFrom: (block: number) => RegisterSet
}

/**
 * The calls of traced functions behind which registers of LOST_OVER_CALL are read.
 * @param work an empty list of the graph's size
 */
export const findKept = (graph: KernelGraph, traced: Uint8Array, work: Worklist): Kept => {
  const { insns, blockCount, blockFirst, succStart, succ, predStart, pred, call, callee } = graph
  const use = new Uint8Array(blockCount)
  const stays = new Uint8Array(blockCount) // block -> what it does not write
  for (let b = 0; b < blockCount; b++) {
    let read = 0
    let written = 0
    let last = blockFirst[b + 1]! - 1
    if (insns.flow[last] === FLOW.call && call[b] === CALL.none) last-- // an ftrace site
    for (let i = last; i >= blockFirst[b]!; i--) {
      const effect = insns.effect[i]!
      // Who reads everything, or goes nobody knows where, tells nothing; what does not decode may be anything.
      const tells = (insns.flow[i]! < FLOW.trap && effectReads[effect] !== ALL) || insns.flow[i] === FLOW.invalid
      const own = tells ? effectReads[effect]! : 0
      read = own | (read & ~effectWrites[effect]!)
      written |= effectWrites[effect]!
    }
    use[b] = pack(read)
    stays[b] = pack(~written)
  }
  const read = new Uint8Array(blockCount) // what may be read from the block's start on
  const behind = (b: number): number => {
    let out = 0
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      const s = succ[e]!
      if (!traced[s]) out |= read[s]!
    }
    return out
  }
  work.fill()
  while (!work.empty) {
    const b = work.pop()
    const set = use[b]! | (behind(b) & stays[b]!)
    if (set === read[b]) continue
    read[b] = set
    for (let e = predStart[b]!; e < predStart[b + 1]!; e++) work.push(pred[e]!)
  }
  const found: number[] = []
  for (let b = 0; b < blockCount; b++) {
    if (call[b] === CALL.direct && callee[b] !== NONE && traced[callee[b]!] && behind(b) !== 0) found.push(b)
  }
  return {
    block: Uint32Array.from(found), set: Uint32Array.from(found, (b) => unpack(behind(b))), readFrom: (b) => unpack(read[b]!),
  }
}
