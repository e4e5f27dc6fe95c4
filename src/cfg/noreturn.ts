// Which blocks may lead to a return, and so which functions never return: inferred from the graph alone.
//
// The least solution of: a block returns when it ends in a return, an indirect tail call or a way that is not known; when
// an edge that is not behind a call leads to one that returns; or when the edge behind its call does and the callee
// returns, or is not known. So recursion without a way out does not return, and neither does what only calls it. Where
// the graph lacks an edge, a function would wrongly count as one that never returns; hence all that is not known returns.

import { assert } from '../error.js'
import { NONE } from '../image/rva.js'
import type { KernelGraph } from './graph.js'
import { CALL, EDGE, END } from './kinds.js'

type Part = Pick<KernelGraph, 'blockCount' | 'end' | 'succStart' | 'succ' | 'succKind' | 'predStart' | 'pred' | 'call' | 'callee' |
  'callerStart' | 'caller' | 'variantCaller'>

const MAY_RETURN = END.return | END.tailIndirect | END.unknown | END.variantLeaves

/** block -> 1 when control that enters it may leave by a return, or by a way that is not known. */
export const findReturning = (graph: Part): Uint8Array => {
  const { blockCount, end, succStart, succ, succKind, predStart, pred, call, callee, callerStart, caller } = graph
  const returning = new Uint8Array(blockCount)
  const stack = new Uint32Array(blockCount)
  let top = 0
  const mark = (b: number): void => {
    if (returning[b]) return
    returning[b] = 1
    stack[top++] = b
  }
  const hasVariantCall = new Uint8Array(blockCount)
  for (const b of graph.variantCaller) hasVariantCall[b] = 1
  const goesOn = (b: number): boolean =>
    call[b] !== CALL.direct || callee[b] === NONE || returning[callee[b]!] === 1 || hasVariantCall[b] === 1
  for (let b = 0; b < blockCount; b++) if (end[b]! & MAY_RETURN) mark(b)
  while (top > 0) {
    const b = stack[--top]!
    for (let e = predStart[b]!; e < predStart[b + 1]!; e++) {
      const from = pred[e]!
      if (returning[from]) continue
      if (goesOn(from) || isJump(graph, from, b)) mark(from)
    }
    for (let c = callerStart[b]!; c < callerStart[b + 1]!; c++) {
      const from = caller[c]!
      for (let e = succStart[from]!; e < succStart[from + 1]!; e++) {
        if (succKind[e] === EDGE.next && returning[succ[e]!]) mark(from)
      }
    }
  }
  return returning
}

/** Whether an edge other than the one to the next instruction leads from one block to another. */
const isJump = ({ succStart, succ, succKind }: Part, from: number, to: number): boolean => {
  for (let e = succStart[from]!; e < succStart[from + 1]!; e++) {
    if (succ[e] === to && succKind[e] !== EDGE.next) return true
  }
  return false
}

/**
 * Takes the edges behind calls to what never returns out of a graph that is being built, in both directions. Its arrays
 * are reused: in place.
 */
export const dropEdgesBehind = (
  graph: Pick<KernelGraph, 'blockCount' | 'succStart' | 'succ' | 'succKind' | 'predStart' | 'pred' | 'call' | 'callee' |
    'variantCaller'>,
  returning: Uint8Array,
): Pick<KernelGraph, 'succ' | 'succKind' | 'pred'> => {
  const { blockCount, call, callee, succStart, succ, succKind, predStart, pred } = graph
  const stays = new Uint8Array(blockCount) // block -> 1 when control does not go on to the next one
  for (let b = 0; b < blockCount; b++) {
    stays[b] = call[b] === CALL.direct && callee[b] !== NONE && !returning[callee[b]!] ? 1 : 0
  }
  for (const b of graph.variantCaller) stays[b] = 0
  const dropped = new Uint8Array(blockCount) // block -> 1 when the edge to the next one is gone
  let edges = 0
  for (let b = 0, e = 0; b < blockCount; b++) {
    const end = succStart[b + 1]!
    succStart[b] = edges
    for (; e < end; e++) {
      if (stays[b] && succKind[e] === EDGE.next) {
        dropped[b] = 1
        continue
      }
      succ[edges] = succ[e]!
      succKind[edges++] = succKind[e]!
    }
  }
  succStart[blockCount] = edges
  let back = 0
  for (let b = 0, e = 0; b < blockCount; b++) {
    const end = predStart[b + 1]!
    predStart[b] = back
    // No two edges of a block go to the same one, so this is the one that was dropped.
    for (; e < end; e++) if (pred[e]! + 1 !== b || !dropped[b - 1]) pred[back++] = pred[e]!
  }
  predStart[blockCount] = back
  assert(back === edges, 'an edge is known from one end only')
  return { succ: succ.subarray(0, edges), succKind: succKind.subarray(0, edges), pred: pred.subarray(0, back) }
}
