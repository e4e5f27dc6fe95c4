// Functions as a report shows them. In: the numbers, what is known of the image, the sites of the bundle. Out: of the functions
// that ran most their blocks, edges and loops with counts, and their instructions with what is live, how they are spliced, and
// where they are in the sources.

import { cutFunction, type FunctionGraph } from '../cfg/function.js'
import type { KernelGraph } from '../cfg/graph.js'
import { END } from '../cfg/kinds.js'
import type { Image } from '../image/image.js'
import { isLine, type Lines } from '../image/lines.js'
import { hex, NONE, toAddress, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { livenessOf, type KernelLiveness } from '../liveness/live.js'
import { uniqueName } from '../probe/points.js'
import { Lister } from '../splice/describe.js'
import { countsAlways, kindOf } from '../splice/manifest.js'
import type { PatchTables } from '../splice/tables.js'
import type { CallGraph } from './callgraph.js'
import { liveNames } from './function.js'
import { heatOf, type Heat } from './heat.js'
import type { ReportNumbers } from './numbers.js'
import { byCount } from './order.js'

export interface InsnView {
  readonly address: string
  readonly text: string
  readonly live: string
  readonly tactic: string // '' where it is not spliced
  readonly line: string //   'fs/read_write.c:468', or ''
}

export interface BlockView {
  readonly name: string // '+0x1c'
  readonly insns: readonly InsnView[]
  readonly leaves: string // 'return, tail call'
}

/** A function's control flow with counts. */
export interface CountedFunction {
  readonly fn: number // index of the function
  readonly name: string
  readonly graph: FunctionGraph
  readonly blocks: readonly Pick<BlockView, 'name'>[]
  readonly heat: Heat
}

export interface FunctionView extends CountedFunction {
  readonly total: bigint // of all counts of its blocks and edges
  readonly blocks: readonly BlockView[]
}

/** What the image tells of the functions that ran. */
export interface Inside {
  readonly views: readonly FunctionView[]
  /** How many functions ran, of which the views are some. */
  readonly ran: number
  readonly calls: CallGraph
  readonly nameOf: (fn: number) => string
}

/** So many functions are shown in full, and so many instructions of one. */
const MOST_FUNCTIONS = 20
const MOST_INSNS = 3000

const leavesText = (end: number): string => [
  ...(end & END.return ? ['returns'] : []), ...(end & END.tail ? ['jumps away'] : []), ...(end & END.unknown ? ['not known'] : []),
  ...(end & END.leaks ? ['may not go on'] : []),
].join(', ')

/** The counts of blocks by where they start, and of edges by the starts of their blocks; of those that always count. */
const countsInside = ({ manifest, served, counts }: ReportNumbers): { blockAt: (start: Rva) => bigint | undefined; edgeAt: (from: Rva, to: Rva) => bigint | undefined } => {
  const { points } = manifest
  const blockCount = new Map<Rva, bigint>()
  const edgeCount = new Map<string, bigint>()
  served.forEach((p, row) => {
    const [kind, rva, count] = [kindOf(manifest, p), points.rva[p]!, counts[row]!]
    if (rva === NONE || !countsAlways(manifest, p)) return
    if (kind === 'edge') edgeCount.set(`${rva} ${points.to[p]!}`, count)
    else if (kind === 'block') blockCount.set(rva, count)
  })
  return { blockAt: (start) => blockCount.get(start), edgeAt: (from, to) => edgeCount.get(`${from} ${to}`) }
}

const blockName = ({ base }: Image, { insns, blockFirst, start, end }: FunctionGraph, b: number): string => {
  const rva = insns.rva[blockFirst[b]!]!
  return rva >= start && rva < end ? `+${hex(rva - start)}` : hex(toAddress(base, rva))
}

/** These functions, those left out of which nothing is counted. */
export const countedFunctions = (numbers: ReportNumbers, whole: KernelGraph, fns: readonly number[]): CountedFunction[] => {
  const { blockAt, edgeAt } = countsInside(numbers)
  return fns.map((fn): CountedFunction => {
    const graph = cutFunction(whole, fn)
    const blocks = Array.from({ length: graph.blockCount }, (_, b) => ({ name: blockName(whole.image, graph, b) }))
    return { fn, name: uniqueName(whole.image, fn), graph, blocks, heat: heatOf(graph, blockAt, edgeAt) }
  }).filter(({ heat: { blocks, edges } }) => [...blocks, ...edges].some((count) => count !== undefined))
}

export const functionViews = (numbers: ReportNumbers, live: KernelLiveness, tables: PatchTables, lines: Lines | undefined): Pick<Inside, 'views' | 'ran'> => {
  const { manifest, served, counts } = numbers
  const { graph: { image } } = live
  const { functions } = image
  const { points } = manifest
  const { blockAt, edgeAt } = countsInside(numbers)
  const total: bigint[] = Array.from({ length: functions.count }, () => 0n)
  served.forEach((p, row) => {
    const [kind, count] = [kindOf(manifest, p), counts[row]!]
    if (!countsAlways(manifest, p) || (kind !== 'block' && kind !== 'edge')) return
    // The function that was asked for: its parts that lie elsewhere are its own.
    const start = manifest.asked.start[points.of[p]!]!
    const fn = start === NONE ? NONE : functions.functionAt(start)
    if (fn !== NONE && count > 0n) total[fn]! += count
  })
  const lister = new Lister()
  try {
    const ran = byCount(total).filter((fn) => total[fn]! > 0n)
    const views = ran.slice(0, MOST_FUNCTIONS).map((fn): FunctionView => {
      const graph = cutFunction(live.graph, fn)
      const { liveIn } = livenessOf(live, graph)
      const heat = heatOf(graph, blockAt, edgeAt)
      return { fn, name: functions.nameOf(fn), total: total[fn]!, graph, heat, blocks: blocksOf(image, graph, liveIn, numbers, tables, lines, lister) }
    }).filter(({ graph }) => graph.insns.count <= MOST_INSNS)
    return { views, ran: ran.length }
  } finally {
    lister.free()
  }
}

const blocksOf = (
  image: Image, graph: FunctionGraph, liveIn: Uint32Array, { manifest }: ReportNumbers, { siteRva }: PatchTables, lines: Lines | undefined,
  lister: Lister,
): BlockView[] => {
  const { insns, blockFirst, blockEnd } = graph
  const lineAt = (rva: Rva): string => {
    if (lines === undefined) return ''
    const row = lines.rowAt(rva)
    return isLine(lines, row) ? `${lines.files[lines.file[row]!]!}:${lines.line[row]!}` : ''
  }
  return Array.from({ length: graph.blockCount }, (_, b): BlockView => {
    const first = blockFirst[b]!
    return {
      name: blockName(image, graph, b),
      leaves: leavesText(blockEnd[b]!),
      insns: Array.from({ length: blockFirst[b + 1]! - first }, (_, k): InsnView => {
        const i = first + k
        const at = insns.rva[i]!
        const site = indexOf(siteRva, at)
        return {
          address: hex(toAddress(image.base, at)), text: lister.instruction(image, at, insns.length[i]!), live: liveNames(liveIn[i]!).join(' '),
          tactic: site < 0 ? '' : manifest.tactics[manifest.siteTactic[site]!] ?? '', line: lineAt(at),
        }
      }),
    }
  })
}
