// Hosts that stand out from the others. In: the numbers of several hosts. Out: points at which one host's count a second is
// far from the median of all.
// Far is four times as much or as little, and by more than chance makes of so few events: ten times the square root.

import type { ReportNumbers } from './numbers.js'
import { countedNs } from './order.js'

export interface Outlier {
  readonly row: number //  of the numbers
  readonly host: number // index of the host
  readonly rate: number // a second
  readonly median: number
}

const LEAST_HOSTS = 3
const FACTOR = 4
const DEVIATIONS = 10

const medianOf = (values: readonly number[]): number => {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2
}

/** The farthest first. */
export const outliers = (numbers: ReportNumbers): Outlier[] => {
  const { hosts, by, counts } = numbers
  if (by !== 'host' || hosts.length < LEAST_HOSTS) return []
  const seconds = hosts.map((host) => Number(countedNs(host)) / 1e9)
  if (seconds.some((one) => !(one > 0))) return []
  const found: Outlier[] = []
  for (let row = 0; row < counts.length; row++) {
    if (counts[row] === 0n) continue
    const perHost = numbers.perColumn(row).map(Number)
    const rates = perHost.map((count, host) => count / seconds[host]!)
    const median = medianOf(rates)
    rates.forEach((rate, host) => {
      const expected = median * seconds[host]!
      const isFar = rate >= FACTOR * median || rate * FACTOR <= median
      if (isFar && Math.abs(perHost[host]! - expected) > DEVIATIONS * Math.sqrt(Math.max(expected, perHost[host]!, 1))) {
        found.push({ row, host, rate, median })
      }
    })
  }
  const distance = ({ rate, median }: Outlier): number => Math.abs(rate - median)
  return found.sort((a, b) => distance(b) - distance(a))
}
