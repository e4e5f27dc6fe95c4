// One function cut out of the image's graph: its parts (the body, .cold parts, pieces of .altinstr_aux), their blocks,
// edges and ways out, numbered from 0. What cannot be resolved makes the function incomplete, with a reason; then
// nothing is concluded from the shape of its graph.

import { FLOW, joinInstructions, sliceInstructions, type Instructions } from '../code/instructions.js'
import { NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import type { KernelGraph } from './graph.js'
import { EDGE, END, ENTRY, PROBLEM } from './kinds.js'
import { Row } from './row.js'

/** Why a function is incomplete. */
export type Incomplete = '' | 'undecodable' | 'jump-table' | 'falls-through' | 'jumps-inside'

/** PROBLEM -> why. */
const REASONS: readonly Incomplete[] = ['', 'undecodable', 'jump-table', 'falls-through', 'jumps-inside']

export interface FunctionGraph {
  readonly name: string
  readonly start: Rva
  readonly end: Rva
  readonly insns: Instructions // sorted by rva
  readonly blockCount: number
  readonly block: Uint32Array //      block -> block of the whole graph
  readonly blockFirst: Uint32Array //  block -> first insn; blockFirst[blockCount] = insns.count
  readonly blockEnd: Uint8Array //     block -> END bits
  readonly blockOfInsn: Uint32Array // insn -> block
  readonly succStart: Uint32Array //   block -> first index into succ; succStart[blockCount] = succ.length
  readonly succ: Uint32Array //        edge -> block
  /** Blocks that control may enter from outside: the start, and whatever other code or data points to. */
  readonly entries: Uint32Array
  readonly incomplete: Incomplete
  /** Variants that the kernel may put over an alternative contain a way out or a jump that no edge stands for. */
  readonly alternativeLeaves: boolean
}

/** insn -> index of the instruction that starts at an rva, or NONE. */
export const insnAt = (insns: Instructions, rva: Rva): number => {
  const i = lowerBound(insns.rva, rva)
  return i < insns.count && insns.rva[i] === rva ? i : NONE
}

/** Blocks of the whole graph: a run of them. */
interface Part {
  readonly first: number
  readonly end: number
  readonly local: number // number of its first block in the function
}

/** Parts that are being put together: which block of the whole graph is which of the function. */
class Parts {
  list: Part[] = []

  holds(block: number): boolean {
    for (const part of this.list) if (block >= part.first && block < part.end) return true
    return false
  }

  add(first: number, end: number): void {
    if (end > first) this.list.push({ first, end, local: 0 })
  }

  /** Ascending, numbered. */
  settle(): void {
    this.list.sort((a, b) => a.first - b.first)
    let local = 0
    this.list = this.list.map(({ first, end }) => {
      const part = { first, end, local }
      local += end - first
      return part
    })
  }

  /** The function's block of one of the graph's, or NONE. */
  localOf(block: number): number {
    for (const { first, end, local } of this.list) if (block >= first && block < end) return local + block - first
    return NONE
  }
}

/** The blocks of [start, end). */
const blocksOf = (graph: KernelGraph, start: Rva, end: Rva): [first: number, end: number] => {
  const from = graph.index.from(start)
  const to = graph.index.from(end)
  if (from >= to) return [0, 0]
  return [graph.blockOf[from]!, graph.blockOf[to - 1]! + 1]
}

// The body, and what edges from it reach in .cold parts (gcc's .text.unlikely, "F.cold") and in .altinstr_aux (the slow
// side of _static_cpu_has), where a piece runs from its label to its unconditional jump.
const findParts = (graph: KernelGraph, index: number): Parts => {
  const { image: { functions, regions }, succStart, succ, succKind, insns, blockFirst } = graph
  const aux = regions.find(({ name }) => name === '.altinstr_aux')
  const parts = new Parts()
  parts.add(...blocksOf(graph, functions.start[index]!, functions.end[index]!))
  const reach = (to: number): void => {
    if (parts.holds(to)) return
    const rva = insns.rva[blockFirst[to]!]!
    if (aux !== undefined && rva >= aux.start && rva < aux.end) {
      let end = to + 1
      while (end < graph.blockCount && fallsTo(graph, end - 1, end) && !parts.holds(end)) end++
      parts.add(to, end)
      return
    }
    const other = functions.functionAt(rva)
    if (other !== NONE && functions.isCold[other]) parts.add(...blocksOf(graph, functions.start[other]!, functions.end[other]!))
  }
  for (let p = 0; p < parts.list.length; p++) {
    const { first, end } = parts.list[p]!
    for (let e = succStart[first]!; e < succStart[end]!; e++) {
      const to = succ[e]!
      if ((to < first || to >= end) && succKind[e] !== EDGE.next) reach(to)
    }
  }
  parts.settle()
  return parts
}

const fallsTo = ({ succStart, succ, succKind }: KernelGraph, from: number, to: number): boolean => {
  for (let e = succStart[from]!; e < succStart[from + 1]!; e++) if (succ[e] === to && succKind[e] === EDGE.next) return true
  return false
}

/** END bits of a block whose last instruction, of some flow, an edge leads away from to outside the function. */
const bitsOfLeaving = ({ succ, succKind, entry }: KernelGraph, flow: number, edge: number): number => {
  switch (succKind[edge]) {
    case EDGE.next:
      // A call at the very end does not return, and a trap there is a BUG.
      if (flow === FLOW.call || flow === FLOW.indirectCall || flow === FLOW.trap) return 0
      // Assembly runs from one label into the next.
      return flow === FLOW.next && entry[succ[edge]!]! & ENTRY.function ? END.tail : END.unknown | END.leaks
    case EDGE.jump:
      return END.tail | (flow === FLOW.branch ? END.tailTaken : 0)
    case EDGE.fixup:
      return END.faultLeaves
    default:
      return END.tail | END.tailTaken
  }
}

const succRow = new Row()
const entryRow = new Row()
const stackRow = new Row()

/** Cuts one function (an index into image.functions) out. */
export const cutFunction = (graph: KernelGraph, index: number): FunctionGraph => {
  const { image: { functions }, succStart: allStart, succ: all, succKind, predStart, pred } = graph
  const start = functions.start[index]!
  const parts = findParts(graph, index)
  let blockCount = 0
  let edges = 0 // at most
  for (const part of parts.list) {
    blockCount += part.end - part.first
    edges += allStart[part.end]! - allStart[part.first]!
  }
  const pieces = parts.list.map(({ first, end }) =>
    sliceInstructions(graph.insns, graph.blockFirst[first]!, graph.blockFirst[end]!))
  const insns = pieces.length === 1 ? pieces[0]! : joinInstructions(pieces)
  const block = new Uint32Array(blockCount)
  const blockFirst = new Uint32Array(blockCount + 1)
  const blockEnd = new Uint8Array(blockCount)
  const blockOfInsn = new Uint32Array(insns.count)
  const succStart = new Uint32Array(blockCount + 1)
  const succ = succRow.room(edges)
  let succCount = 0
  const entries = entryRow.room(blockCount)
  let entryCount = 0
  let alternativeLeaves = false
  let b = 0
  let insn = 0
  for (const { first, end } of parts.list) {
    for (let g = first; g < end; g++, b++) {
      block[b] = g
      blockFirst[b] = insn
      insn += graph.blockFirst[g + 1]! - graph.blockFirst[g]!
      for (let i = blockFirst[b]!; i < insn; i++) blockOfInsn[i] = b
      let bits = graph.end[g]!
      succStart[b] = succCount
      for (let e = allStart[g]!; e < allStart[g + 1]!; e++) {
        const to = all[e]! >= first && all[e]! < end ? b + all[e]! - g : parts.localOf(all[e]!)
        if (to !== NONE) {
          succ[succCount++] = to
          continue
        }
        if (succKind[e] === EDGE.variant) alternativeLeaves = true
        bits |= bitsOfLeaving(graph, insns.flow[insn - 1]!, e)
      }
      if (bits & END.variantLeaves) alternativeLeaves = true
      blockEnd[b] = bits
      const known = graph.entry[g]!
      let enters = (known & (ENTRY.called | ENTRY.pointed)) !== 0 || (known & ENTRY.function && g !== first) ||
        insns.rva[blockFirst[b]!] === start
      for (let p = predStart[g]!; p < predStart[g + 1]! && !enters; p++) {
        enters = (pred[p]! < first || pred[p]! >= end) && !parts.holds(pred[p]!)
      }
      if (enters) entries[entryCount++] = b
    }
  }
  blockFirst[blockCount] = insns.count
  succStart[blockCount] = succCount
  const shape = {
    name: functions.nameOf(index), start, end: functions.end[index]!, insns, blockCount, block, blockFirst, blockEnd, blockOfInsn,
    succStart, succ: succ.slice(0, succCount), entries: entries.slice(0, entryCount), alternativeLeaves,
  }
  return { ...shape, incomplete: blockCount === 0 ? 'undecodable' : whyIncomplete(graph, shape) }
}

// Only what the entries reach counts: padding and dead bytes make nothing incomplete.
const whyIncomplete = (graph: KernelGraph, fn: Omit<FunctionGraph, 'incomplete'>): Incomplete => {
  let why: Incomplete = ''
  let any = false
  for (let b = 0; b < fn.blockCount && !any; b++) {
    any = graph.problem[fn.block[b]!] !== PROBLEM.none || (fn.blockEnd[b]! & END.unknown) !== 0
  }
  if (!any) return ''
  const live = reachable(fn, fn.entries)
  for (let b = 0; b < fn.blockCount && why === ''; b++) {
    if (!live[b]) continue
    why = REASONS[graph.problem[fn.block[b]!]!]!
    const flow = fn.insns.flow[fn.blockFirst[b + 1]! - 1]
    if (why === '' && fn.blockEnd[b]! & END.unknown && flow !== FLOW.system && flow !== FLOW.trap) why = 'falls-through'
  }
  return why
}

/** Why a function is incomplete, or '': without cutting it out, where nothing in it gives cause. */
export const completenessOf = (graph: KernelGraph, index: number): Incomplete => {
  const { list } = findParts(graph, index)
  let cause = list.length === 0
  for (const { first, end } of list) {
    for (let g = first; g < end && !cause; g++) cause = graph.problem[g] !== PROBLEM.none || (graph.end[g]! & END.unknown) !== 0
    if (fallsTo(graph, end - 1, end)) cause = true
  }
  return cause ? cutFunction(graph, index).incomplete : ''
}

/** The block that starts at or holds an rva of the function; NONE where no instruction starts there. */
export const blockOf = (graph: FunctionGraph, rva: Rva): number => {
  const i = insnAt(graph.insns, rva)
  return i === NONE ? NONE : graph.blockOfInsn[i]!
}

/** block -> 1 when reachable from `from` (inclusive) without passing through a block of `without`. */
export const reachable = (
  { blockCount, succStart, succ }: Pick<FunctionGraph, 'blockCount' | 'succStart' | 'succ'>, from: ArrayLike<number>,
  without: readonly number[] = [],
): Uint8Array => {
  const seen = new Uint8Array(blockCount)
  const stack = stackRow.room(blockCount)
  let top = 0
  for (const b of without) if (b !== NONE) seen[b] = 1
  for (let i = 0; i < from.length; i++) {
    const b = from[i]!
    if (b === NONE || seen[b]) continue
    seen[b] = 1
    stack[top++] = b
  }
  while (top > 0) {
    const b = stack[--top]!
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      const to = succ[e]!
      if (to === NONE || seen[to]) continue
      seen[to] = 1
      stack[top++] = to
    }
  }
  for (const b of without) if (b !== NONE) seen[b] = 0
  return seen
}
