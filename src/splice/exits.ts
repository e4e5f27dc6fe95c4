// Where a function calls, and where it is left: its calls and its ways out, as points have them. In: the function. Out:
// instructions, in the order of the function; what no entry reaches is left out.

import { reachable, type FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import type { Image } from '../image/image.js'
import { indexOf } from '../image/search.js'

export const reachedBlocks = (graph: FunctionGraph): Uint8Array => reachable(graph, graph.entries)

/** The calls that a function makes; what ftrace rewrites is none. */
export function* callsOf({ tables: { ftrace } }: Image, graph: FunctionGraph): Generator<number, void> {
  const { insns, blockOfInsn } = graph
  const reached = reachedBlocks(graph)
  for (let i = 0; i < insns.count; i++) {
    if (insns.flow[i] !== FLOW.call && insns.flow[i] !== FLOW.indirectCall) continue
    if (reached[blockOfInsn[i]!] && indexOf(ftrace, insns.rva[i]!) < 0) yield i
  }
}

/** A way out of a function: the last instruction of a block. */
export interface WayOut {
  readonly insn: number
  readonly returns: boolean // else it is a tail call
  readonly takes: boolean //   only the taken side of a branch leaves
  readonly usual: boolean //   a return, or a jump to the start of a function
}

export function* waysOut({ functions }: Image, graph: FunctionGraph): Generator<WayOut, void> {
  const { blockCount, blockEnd, blockFirst, insns } = graph
  const reached = reachedBlocks(graph)
  for (let b = 0; b < blockCount; b++) {
    const end = blockEnd[b]!
    if (!reached[b] || !(end & (END.return | END.tail | END.unknown | END.faultLeaves))) continue
    const insn = blockFirst[b + 1]! - 1
    const target = insns.target[insn]!
    const known = (end & (END.return | END.tailIndirect)) !== 0 || functions.start[functions.functionAt(target)] === target
    yield {
      insn, returns: (end & END.return) !== 0, takes: (end & END.tailTaken) !== 0,
      usual: known && (end & (END.unknown | END.faultLeaves)) === 0,
    }
  }
}
