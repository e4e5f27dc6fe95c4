// What is known of a whole image, in figures. In: an image and a way to analyze one function. Out: counts, and shares of
// instructions before which flags or registers are free. Functions are counted with their .cold parts, not beside them,
// and only what their entries reach: padding is no code. Labels in assembly and marks of sections are no functions.

import { END, reachable } from '../cfg/function.js'
import { FLOW } from '../code/instructions.js'
import { FLAGS, GPRS, RSP } from '../code/registers.js'
import type { Image } from '../image/image.js'
import type { PlannedFunction } from '../splice/site.js'

export interface Analysis {
  functions: number
  complete: number
  incomplete: Record<string, number> // reason -> functions
  blocks: number
  edges: number
  instructions: number
  indirect: Record<string, number> // kind -> instructions
  free: { flags: number; gpr1: number; gpr2: number; gpr3: number; flagsAndGpr1: number } // instructions
}

const bitCount = (set: number): number => {
  let count = 0
  for (let rest = set; rest !== 0; rest &= rest - 1) count++
  return count
}

const isColdPart = (name: string): boolean => /\.cold(\.\d+)?$/.test(name)

const countFree = (free: Analysis['free'], liveIn: Uint32Array, first: number, last: number): void => {
  for (let i = first; i <= last; i++) {
    const gprs = bitCount(~liveIn[i]! & GPRS & ~RSP)
    const flags = (liveIn[i]! & FLAGS) === 0
    if (flags) free.flags++
    if (gprs >= 1) free.gpr1++
    if (gprs >= 2) free.gpr2++
    if (gprs >= 3) free.gpr3++
    if (flags && gprs >= 1) free.flagsAndGpr1++
  }
}

/**
 * Analyzes every function of an image.
 * @param progress called now and then with the number of functions done, of all
 */
export const analyzeAll = (
  image: Image, analyze: (index: number) => PlannedFunction, progress: (done: number, all: number) => void,
): Analysis => {
  const { functions } = image
  const result: Analysis = {
    functions: 0, complete: 0, incomplete: {}, blocks: 0, edges: 0, instructions: 0,
    indirect: { call: 0, 'tail call': 0, unresolved: 0 },
    free: { flags: 0, gpr1: 0, gpr2: 0, gpr3: 0, flagsAndGpr1: 0 },
  }
  for (let f = 0; f < functions.count; f++) {
    if (f % 1000 === 0) progress(f, functions.count)
    if (!functions.isFunc[f] || isColdPart(functions.nameOf(f))) continue
    const { graph, liveness } = analyze(f)
    result.functions++
    if (graph.incomplete === '') result.complete++
    else result.incomplete[graph.incomplete] = (result.incomplete[graph.incomplete] ?? 0) + 1
    const reached = reachable(graph, [...graph.entries])
    for (let b = 0; b < graph.blockCount; b++) {
      if (!reached[b]) continue
      const first = graph.blockFirst[b]!
      const last = graph.blockFirst[b + 1]! - 1
      result.blocks++
      result.edges += graph.succStart[b + 1]! - graph.succStart[b]!
      result.instructions += last + 1 - first
      countFree(result.free, liveness.liveIn, first, last)
      if (graph.insns.flow[last] === FLOW.indirectCall) result.indirect['call']!++
      if (graph.blockEnd[b]! & END.tailIndirect) {
        result.indirect[graph.incomplete === 'jump-table' ? 'unresolved' : 'tail call']!++
      }
    }
  }
  return result
}

/** The figures with what they are of: kerninst.analyze/1, `free` as shares of all instructions. */
export const analysisJson = (image: Image, analysis: Analysis, seconds: Record<string, number>, peakRssMb: number): string => {
  const share = (count: number): number => Number((count / Math.max(1, analysis.instructions)).toFixed(4))
  const { free, ...counts } = analysis
  return JSON.stringify({
    schema: 'kerninst.analyze/1',
    image: {
      kind: image.kind, release: image.release, buildId: Buffer.from(image.buildId).toString('hex'), symbols: image.symbolSources,
    },
    ...counts,
    free: Object.fromEntries(Object.entries(free).map(([name, count]) => [name, share(count)])),
    seconds,
    peakRssMb,
  })
}

/** The same for people. */
export const analysisText = (image: Image, analysis: Analysis, seconds: Record<string, number>, peakRssMb: number): string => {
  const percent = (count: number, of: number): string => `${((100 * count) / Math.max(1, of)).toFixed(2)} %`
  const grouped = (count: number): string => count.toString().replace(/\B(?=(\d{3})+$)/g, ',')
  const list = (counts: Record<string, number>): string =>
    Object.entries(counts).map(([name, count]) => `${name} ${grouped(count)}`).join(', ') || 'none'
  const { free, instructions } = analysis
  return [
    `kernel        ${image.release} (${image.kind}; names from ${image.symbolSources.join(', ')})`,
    `functions     ${grouped(analysis.functions)}, ${percent(analysis.complete, analysis.functions)} complete; incomplete: ${list(analysis.incomplete)}`,
    `blocks        ${grouped(analysis.blocks)}, ${grouped(analysis.edges)} edges`,
    `instructions  ${grouped(instructions)}`,
    `indirect      ${list(analysis.indirect)}`,
    `free          flags ${percent(free.flags, instructions)}, one register ${percent(free.gpr1, instructions)}, ` +
      `two ${percent(free.gpr2, instructions)}, three ${percent(free.gpr3, instructions)}, flags and one ${percent(free.flagsAndGpr1, instructions)}`,
    `cost          ${Object.entries(seconds).map(([stage, s]) => `${stage} ${s.toFixed(2)} s`).join(', ')}; peak ${peakRssMb} MB`,
  ].join('\n') + '\n'
}
