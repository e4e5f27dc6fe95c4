// Where compiled code contradicts the rule that a call loses registers: behind which calls of traced functions a register
// is read that convention.ts says was lost. In: the graph. Out: for every block, which registers its call is to be taken
// to leave alone after all.
//
// The rule's evidence is that files with ftrace sites are compiled with -pg, which turns -fipa-ra off. A compiler that
// did otherwise could keep any caller-saved register over a call of a function of the same file; it would then read it
// behind the call without writing it first. So wherever an instruction may do so, the code is
// believed, and not the rule. In Debian's 6.1 and 6.12 these are 0.2 % of the calls, and those looked at were all paths
// that cannot be taken (a variable set under one condition and used under the same condition later).
//
// Lattice: register sets under union. Backward: in(b) = use(b) | (out(b) & ~write(b)), out(b) = union of in(s) over edges
// b -> s to no traced function's start; calls are passed over. Only what instructions themselves read counts: no rule, no summary;
// and whatever an instruction may write ends the search (setcc and movzx write and read a part, and mean the whole).

import type { KernelGraph } from '../cfg/graph.js'
import { CALL } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import { NONE } from '../image/rva.js'
import { LOST_OVER_CALL } from './convention.js'
import { Worklist } from './worklist.js'

/** block -> registers of LOST_OVER_CALL that are read behind its call; 0 where it calls no traced function. */
export const findKept = (graph: KernelGraph, traced: Uint8Array): Uint32Array => {
  const { insns, index, image, blockCount, blockFirst, succStart, succ, predStart, pred, call, callee } = graph
  const use = new Uint32Array(blockCount)
  const write = new Uint32Array(blockCount)
  const tracerSite = new Uint8Array(insns.count)
  for (const rva of image.tables.ftrace) {
    const i = index.at(rva)
    if (i !== NONE) tracerSite[i] = 1
  }
  for (let b = 0; b < blockCount; b++) {
    let read = 0
    let written = 0
    for (let i = blockFirst[b + 1]! - 1; i >= blockFirst[b]!; i--) {
      if (tracerSite[i]) continue
      // Who reads everything, or goes nobody knows where, tells nothing.
      const own = insns.flow[i]! >= FLOW.trap || insns.reads[i] === ALL ? 0 : insns.reads[i]!
      read = own | (read & ~insns.writes[i]!)
      written |= insns.writes[i]!
    }
    use[b] = read & LOST_OVER_CALL
    write[b] = written
  }
  const read = new Uint32Array(blockCount) // what may be read from the block's start on
  const behind = (b: number): RegisterSet => {
    let out = 0
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      const s = succ[e]!
      if (!traced[s]) out |= read[s]!
    }
    return out
  }
  const work = new Worklist(blockCount, true)
  while (!work.empty) {
    const b = work.pop()
    const set = use[b]! | (behind(b) & ~write[b]!)
    if (set === read[b]) continue
    read[b] = set
    for (let e = predStart[b]!; e < predStart[b + 1]!; e++) work.push(pred[e]!)
  }
  const kept = new Uint32Array(blockCount)
  for (let b = 0; b < blockCount; b++) {
    if (call[b] === CALL.direct && callee[b] !== NONE && traced[callee[b]!]) kept[b] = behind(b)
  }
  return kept
}
