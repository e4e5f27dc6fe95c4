// In what order patches lie in the patch area. In: the sites, and how often code ran, where an earlier dump says so.
// Out: the sites in the order of their patches. Those of one function are together; with a profile, the patches that ran
// come first, those of the busiest function before all, so that what runs takes few cache lines and pages, and what never
// ran takes none of them. Left out: what a patch is (encode.ts).

import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'

/** How often code ran, as far as an earlier dump says (report/profile.ts). */
export interface Profile {
  readonly buildId: string //      of the kernel that it was taken of, hex
  readonly rva: Uint32Array //     ascending
  readonly runs: Float64Array //   parallel to rva
}

/** Sites in the order of their patches. */
export interface Layout {
  readonly order: Uint32Array //   position -> site
  readonly hot: number //          so many of them ran, and come first
}

/**
 * How often an rva ran: as often as the last place at or before it that the profile knows, else the first one behind it,
 * of the same function; else, as far as is known, never.
 */
const runsAt = ({ rva, runs }: Profile, image: Image, at: Rva, fn: number): number => {
  const { functions } = image
  const next = lowerBound(rva, at + 1)
  for (const i of [next - 1, next]) {
    if (i >= 0 && i < rva.length && fn !== NONE && functions.functionAt(rva[i]!) === fn) return runs[i]!
  }
  return 0
}

/** Lays patches out. @param siteRva ascending */
export const layOut = (image: Image, siteRva: Uint32Array, profile?: Profile): Layout => {
  const order = Uint32Array.from(siteRva, (_, site) => site)
  if (profile === undefined) return { order, hot: 0 }
  const { functions } = image
  const fnOf = siteRva.map((rva) => functions.functionAt(rva))
  const runs = Float64Array.from(siteRva, (rva, site) => runsAt(profile, image, rva, fnOf[site]!))
  const runsOf = new Float64Array(functions.count)
  runs.forEach((count, site) => {
    if (count > 0) runsOf[fnOf[site]!]! += count
  })
  // Functions that ran equally often stay apart: by their place. What never ran stays as it was.
  order.sort((a, b) => {
    const [hotA, hotB] = [runs[a]! > 0, runs[b]! > 0]
    if (hotA !== hotB) return hotA ? -1 : 1
    if (!hotA || fnOf[a] === fnOf[b]) return a - b
    return runsOf[fnOf[b]!]! - runsOf[fnOf[a]!]! || fnOf[a]! - fnOf[b]!
  })
  return { order, hot: runs.reduce((sum, count) => (count > 0 ? sum + 1 : sum), 0) }
}
