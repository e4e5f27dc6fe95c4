// How deep in loops each block of a function lies. In: a function's graph. Out: block -> depth, 0 outside all loops
// and where no entry reaches. A heuristic, for weights alone: it stands for how often a block may run compared to
// others, and fails where loops seldom go round, or error paths lie in them. Nothing else may be concluded from it.
//
// The loops are those of one depth-first search: an edge back to a block on the path makes that one a head, and every
// block knows the innermost head around it (T. Wei, J. Mao, W. Zou, Y. Chen: A New Algorithm for Identifying Loops in
// Decompilation, 2007). In reducible graphs these are the natural loops; a loop that is entered in several places
// counts as one with the head that the search met first. No recursion; time is the number of edges times the depth of
// nesting.

import { NONE } from '../image/rva.js'
import type { Shape } from './flows.js'
import { Row } from './row.js'

const rows = {
  head: new Row(), isHead: new Row(), onPath: new Row(), seen: new Row(), path: new Row(), edge: new Row(), order: new Row(),
  depths: new Row(),
}

/** block -> how many loops it lies in. */
export const loopDepth = (shape: Shape): Uint32Array => findDepths(shape).slice(0, shape.blockCount)

/** The same, as a row that is good until the next call. */
const findDepths = ({ blockCount, succStart, succ, entries }: Shape): Uint32Array => {
  const head = rows.head.of(blockCount, NONE) // block -> innermost head around it, itself apart
  const isHead = rows.isHead.of(blockCount)
  const onPath = rows.onPath.of(blockCount) //   block -> its place on the path, from 1; 0: not on it
  const seen = rows.seen.of(blockCount)
  const path = rows.path.room(blockCount)
  const edge = rows.edge.room(blockCount) //     block -> its next edge to follow
  const order = rows.order.room(blockCount) //   as they were met
  let count = 0
  for (let b = 0; b < blockCount; b++) edge[b] = succStart[b]!

  // Puts `to` among the heads around `b`, which stay sorted by their place on the path.
  const putHead = (b: number, to: number): void => {
    if (b === to || to === NONE) return
    let inner = b
    let outer = to
    for (let h = head[inner]!; h !== NONE; h = head[inner]!) {
      if (h === outer) return
      if (onPath[h]! < onPath[outer]!) {
        head[inner] = outer
        inner = outer
        outer = h
      } else {
        inner = h
      }
    }
    head[inner] = outer
  }

  // Follows an edge to a block that was met before.
  const meet = (b: number, to: number): void => {
    if (onPath[to]! > 0) {
      isHead[to] = 1
      putHead(b, to)
      return
    }
    // Into a loop from the side, or to what comes behind it: the nearest head around `to` that is still on the path.
    let h = head[to]!
    while (h !== NONE && onPath[h] === 0) h = head[h]!
    putHead(b, h)
  }

  for (const entry of entries) {
    if (seen[entry]) continue
    let depth = 0
    const enter = (b: number): void => {
      seen[b] = 1
      order[count++] = b
      path[depth++] = b
      onPath[b] = depth
    }
    enter(entry)
    while (depth > 0) {
      const b = path[depth - 1]!
      if (edge[b]! < succStart[b + 1]!) {
        const to = succ[edge[b]!++]!
        if (seen[to]) meet(b, to)
        else enter(to)
        continue
      }
      onPath[b] = 0
      if (--depth > 0) putHead(path[depth - 1]!, head[b]!)
    }
  }
  // A head is met before the blocks that it is the head of.
  const depths = rows.depths.of(blockCount)
  for (let k = 0; k < count; k++) {
    const b = order[k]!
    depths[b] = isHead[b]! + (head[b] === NONE ? 0 : depths[head[b]!]!)
  }
  return depths
}

/** A loop is taken to go round so often each time that it is entered, and no deeper nesting is told apart. */
const ROUNDS = 8
const DEEPEST = 6

/** block -> how often it is taken to run for each run of the function: a heuristic. */
export const guessRuns = (shape: Shape): Float64Array => {
  const depths = findDepths(shape)
  const runs = new Float64Array(shape.blockCount)
  for (let b = 0; b < runs.length; b++) runs[b] = ROUNDS ** Math.min(depths[b]!, DEEPEST)
  return runs
}
