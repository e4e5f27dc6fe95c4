// Blocks that run exactly as often as a given one: an instruction there can be counted in its place.
//
// `before` and `after` run equally often when every run of `before` goes on to `after` with nothing in between that
// could keep it (no way out, no call, no access that may fault, no cycle), and `after` is reached in no other way.
// Only complete functions are asked; every edge that the graph has too many only makes the answer "no" more often.

import { NONE } from '../image/rva.js'
import { reachable, type FunctionGraph } from './function.js'
import { END } from './kinds.js'

const LEAVES = END.leaks | END.return | END.tail | END.unknown | END.faultLeaves

/** How many blocks around the given one are tried. */
const NEIGHBOURS = 48

const successors = (graph: FunctionGraph, block: number): Uint32Array =>
  graph.succ.subarray(graph.succStart[block]!, graph.succStart[block + 1]!)

/** Whether every run of `before` is followed by exactly one run of `after`, and each run of `after` follows one. */
export const runsWith = (graph: FunctionGraph, before: number, after: number): boolean => {
  if (before === after) return true
  if (graph.incomplete !== '' || graph.blockEnd[before]! & LEAVES) return false
  const between = reachable(graph, [...successors(graph, before)], [after])
  if (between[before]) return false
  for (let b = 0; b < graph.blockCount; b++) {
    if (!between[b]) continue
    if (graph.blockEnd[b]! & LEAVES || graph.succStart[b] === graph.succStart[b + 1]) return false
    if (reachable(graph, [...successors(graph, b)], [after])[b]) return false
  }
  const otherWays = reachable(graph, [...graph.entries, ...successors(graph, after)], [before])
  return otherWays[after] === 0
}

/** Blocks that run exactly as often as `block`, itself first, then those near it in either direction. */
export const equivalentBlocks = (graph: FunctionGraph, block: number): number[] => {
  const result = [block]
  if (block === NONE || graph.incomplete !== '') return result
  const near: number[] = [block]
  const seen = new Set(near)
  const predecessors = predecessorLists(graph)
  for (let i = 0; i < near.length && near.length < NEIGHBOURS; i++) {
    for (const next of [...successors(graph, near[i]!), ...predecessors[near[i]!]!]) {
      if (seen.has(next)) continue
      seen.add(next)
      near.push(next)
    }
  }
  for (const other of near.slice(1)) {
    if (runsWith(graph, block, other) || runsWith(graph, other, block)) result.push(other)
  }
  return result
}

const predecessorLists = (graph: FunctionGraph): number[][] => {
  const lists: number[][] = Array.from({ length: graph.blockCount }, () => [])
  for (let b = 0; b < graph.blockCount; b++) for (const s of successors(graph, b)) lists[s]!.push(b)
  return lists
}
