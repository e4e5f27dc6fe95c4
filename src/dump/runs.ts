// In: intervals, in any order, which may overlap. Out: runs that do not, ascending; each belongs to one interval.
// Invariant: a place is in a run if and only if it is in an interval, and where several intervals have it, it belongs to
// the last of them. Time and memory grow with the number of intervals, not with how they overlap.

import { NONE } from '../image/rva.js'

export interface Runs {
  readonly count: number
  readonly start: Float64Array // run -> its first place
  readonly end: Float64Array //   run -> behind its last
  readonly owner: Uint32Array //  run -> interval
}

/** The first index whose value is not below `value`. */
const lowerBound = (sorted: Float64Array, value: number): number => {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (sorted[middle]! < value) low = middle + 1
    else high = middle
  }
  return low
}

/** @param start, end interval -> its first place, and behind its last; whole numbers below 2^53, start <= end */
export const disjoint = (start: Float64Array, end: Float64Array): Runs => {
  // All bounds cut the line into cells. Intervals paint cells, the last interval first, and a painted cell stays as it is.
  const bounds = new Float64Array(2 * start.length)
  bounds.set(start)
  bounds.set(end, start.length)
  bounds.sort()
  let kept = 0
  for (let i = 0; i < bounds.length; i++) if (i === 0 || bounds[i] !== bounds[kept - 1]) bounds[kept++] = bounds[i]!
  const bound = bounds.subarray(0, kept)
  const owner = new Uint32Array(kept).fill(NONE) // cell -> interval; the last cell, behind all bounds, is nobody's
  const next = Uint32Array.from(owner.keys()) //    cell -> a later one, where it is painted; union-find
  const unpainted = (from: number): number => {
    let cell = from
    while (next[cell] !== cell) cell = next[cell] = next[next[cell]!]!
    return cell
  }
  for (let i = start.length - 1; i >= 0; i--) {
    for (let cell = unpainted(lowerBound(bound, start[i]!)); bound[cell]! < end[i]!; cell = unpainted(cell)) {
      owner[cell] = i
      next[cell] = cell + 1
    }
  }
  const runs = { start: new Float64Array(kept), end: new Float64Array(kept), owner: new Uint32Array(kept) }
  let count = 0
  for (let cell = 0; cell < kept; cell++) {
    if (owner[cell] === NONE) continue
    if (cell > 0 && owner[cell - 1] === owner[cell]) {
      runs.end[count - 1] = bound[cell + 1]!
      continue
    }
    runs.start[count] = bound[cell]!
    runs.end[count] = bound[cell + 1]!
    runs.owner[count++] = owner[cell]!
  }
  return {
    count, start: runs.start.subarray(0, count), end: runs.end.subarray(0, count), owner: runs.owner.subarray(0, count),
  }
}

/** The run that has the place, or the first behind it; `count` where there is none. */
export const runFrom = ({ end }: Runs, place: number): number => lowerBound(end, place + 1)
