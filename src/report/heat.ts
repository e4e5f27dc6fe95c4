// How often each block and edge of a function ran, as far as that is known. In: the function's graph, what was counted. Out: counts
// of blocks; counts of edges that were counted or follow; loops and how often they went round.
//
// An edge follows where it is the only one that is not known at a block whose count is, and a block where all edges on one side are:
// what comes into a block leaves it, but where control may come or go unseen (entries, calls that may not return, faults).

import type { FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import type { Rva } from '../image/rva.js'
import { greatest } from './order.js'
import { grouped } from './printable.js'

export interface Heat {
  readonly blocks: readonly (bigint | undefined)[]
  /** Parallel to the graph's succ. */
  readonly edges: readonly (bigint | undefined)[]
  readonly loops: readonly Loop[]
}

export interface Loop {
  readonly head: number // block
  readonly back: readonly number[] // edges that lead to it from inside
  /** How often it was entered, and how often it went round for each of that; undefined: not known. */
  readonly entered: bigint | undefined
  readonly trips: number | undefined
}

/** A count for people: where it is not known, they are told so. */
export const countText = (count: bigint | undefined): string => (count === undefined ? '?' : grouped(count))

/** What ran most of all blocks. */
export const mostOf = ({ blocks }: Heat): bigint => greatest(blocks)

/** 0 to 1, evenly by magnitude: what ran once is to be seen beside what ran a million times. */
export const warmth = (count: bigint | undefined, most: bigint): number =>
  count === undefined || count <= 0n || most <= 0n ? 0 : Math.min(1, (1 + Math.log2(Number(count))) / (1 + Math.log2(Number(most))))

/** Where nothing leaves unseen. */
const isClosed = (end: number): boolean => (end & ~END.tailIndirect) === 0

/** Edges that lead back to a block on the way to their own: of each loop one at least. */
const backEdges = ({ blockCount, succStart, succ, entries }: FunctionGraph): Uint8Array => {
  const back = new Uint8Array(succ.length)
  const state = new Uint8Array(blockCount) // 0 not seen, 1 on the way, 2 done
  const path: number[] = []
  const next = Uint32Array.from(succStart)
  for (const entry of [...entries, ...Array.from({ length: blockCount }, (_, b) => b)]) {
    if (state[entry] !== 0) continue
    path.push(entry)
    state[entry] = 1
    while (path.length > 0) {
      const b = path.at(-1)!
      if (next[b]! === succStart[b + 1]!) {
        state[b] = 2
        path.pop()
        continue
      }
      const e = next[b]!++
      const to = succ[e]!
      if (state[to] === 1) back[e] = 1
      else if (state[to] === 0) {
        state[to] = 1
        path.push(to)
      }
    }
  }
  return back
}

/**
 * @param blockAt what was counted of the block that starts there
 * @param edgeAt what was counted of an edge, by the starts of its blocks
 */
export const heatOf = (
  graph: FunctionGraph, blockAt: (start: Rva) => bigint | undefined, edgeAt: (from: Rva, to: Rva) => bigint | undefined,
): Heat => {
  const { insns, blockCount, blockFirst, blockEnd, succStart, succ, entries } = graph
  const start = (block: number): Rva => insns.rva[blockFirst[block]!]!
  const blocks = Array.from({ length: blockCount }, (_, b) => blockAt(start(b)))
  const from = new Uint32Array(succ.length)
  const into: number[][] = Array.from({ length: blockCount }, () => [])
  for (let b = 0; b < blockCount; b++) {
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
      from[e] = b
      into[succ[e]!]!.push(e)
    }
  }
  const edges = Array.from(succ, (to, e) => edgeAt(start(from[e]!), start(to)))
  const isEntry = new Set(entries)
  const out = (b: number): number[] => Array.from({ length: succStart[b + 1]! - succStart[b]! }, (_, i) => succStart[b]! + i)
  // Each round settles one edge or block at least.
  for (let changed = true; changed;) {
    changed = false
    for (let b = 0; b < blockCount; b++) {
      // All that leaves it, and all that comes to it.
      for (const side of [isClosed(blockEnd[b]!) ? out(b) : [], isEntry.has(b) ? [] : into[b]!]) {
        const open = side.filter((e) => edges[e] === undefined)
        const sum = side.reduce((all, e) => all + (edges[e] ?? 0n), 0n)
        const count = blocks[b]
        if (open.length === 0 && side.length > 0 && count === undefined) blocks[b] = sum
        else if (open.length === 1 && count !== undefined) edges[open[0]!] = count - sum
        else continue
        changed = true
      }
    }
  }
  const back = backEdges(graph)
  const loops = new Map<number, number[]>()
  for (let e = 0; e < succ.length; e++) if (back[e]) loops.set(succ[e]!, [...loops.get(succ[e]!) ?? [], e])
  return {
    blocks, edges,
    loops: [...loops].map(([head, edgesBack]): Loop => {
      const rounds = edgesBack.reduce<bigint | undefined>((sum, e) => (sum === undefined || edges[e] === undefined ? undefined : sum + edges[e]), 0n)
      const entered = rounds === undefined || blocks[head] === undefined ? undefined : blocks[head] - rounds
      return { head, back: edgesBack, entered, trips: entered === undefined || entered <= 0n ? undefined : Number(blocks[head]!) / Number(entered) }
    }),
  }
}
