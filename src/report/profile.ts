// How often code ran, for a plan that is made after a first look. In: the numbers of a report. Out: a profile, by which
// the planner lays patches out (splice/layout.ts). Left out: what is not a place, and imbalances: less than zero is never.

import type { Profile } from '../splice/layout.js'
import { NONE, type Rva } from '../image/rva.js'
import type { ReportNumbers } from './numbers.js'

/** What the points of a report say of the places that they name: of several at one place, the one that ran most. */
export const profileOf = ({ manifest, served, counts, buildId }: ReportNumbers): Profile => {
  const runs = new Map<Rva, number>()
  served.forEach((p, row) => {
    const rva = manifest.points.rva[p]!
    if (rva !== NONE) runs.set(rva, Math.max(runs.get(rva) ?? 0, Number(counts[row]!)))
  })
  const rva = Uint32Array.from(runs.keys()).sort()
  return { buildId, rva, runs: Float64Array.from(rva, (at) => runs.get(at)!) }
}
