// Binary search in ascending typed arrays.

/** The first index whose value is >= `value`; the length when there is none. */
export const lowerBound = (sorted: Uint32Array, value: number): number => {
  let low = 0
  let high = sorted.length
  while (low < high) {
    const middle = (low + high) >>> 1
    if (sorted[middle]! < value) low = middle + 1
    else high = middle
  }
  return low
}

/** The index of a value, or -1. With several, the first. */
export const indexOf = (sorted: Uint32Array, value: number): number => {
  const i = lowerBound(sorted, value)
  return i < sorted.length && sorted[i] === value ? i : -1
}
