// What is known of a whole image, in figures. In: its liveness, and with that its graph. Out: counts, and shares of
// instructions before which flags or registers are free. Functions are counted with their .cold parts, not beside them,
// and only what is entered counts: padding is no code. Labels in assembly and marks of sections are no functions.

import { completenessOf } from '../cfg/function.js'
import type { KernelGraph } from '../cfg/graph.js'
import { CALL, END, ENTRY, PROBLEM } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import { FLAGS, GPRS, RSP, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE, hex } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import type { Finding, Verdict } from '../liveness/claims.js'
import { liveInBlock, type KernelLiveness } from '../liveness/live.js'

/** At how many of some places something is dead. */
export interface Free {
  readonly places: number
  readonly flags: number
  readonly gpr1: number
  readonly gpr2: number
  readonly gpr3: number
  readonly flagsAndGpr1: number
}

export interface Analysis {
  functions: number
  complete: number
  incomplete: Record<string, number> // reason -> functions
  neverReturn: number // functions
  blocks: number
  edges: number
  instructions: number
  indirect: Record<string, number> // kind -> instructions
  free: Free // before every instruction
  freeAt: { blockStarts: Free; entries: Free; returns: Free }
}

/** How many places have a number of dead registers (0, 1, 2, more) and no live flag (+ 4); hot loops count into it. */
type Histogram = Uint32Array

const newHistogram = (): Histogram => new Uint32Array(8)

/** A set of general registers -> how many there are beside rsp, at most 3. */
const UP_TO_3 = Uint8Array.from({ length: GPRS + 1 }, (_, set) => {
  let rest = set & ~RSP
  let count = 0
  for (; rest !== 0 && count < 3; count++) rest &= rest - 1
  return count
})

const countFree = (histogram: Histogram, live: RegisterSet): void => {
  histogram[UP_TO_3[~live & GPRS]! + (live & FLAGS ? 0 : 4)]!++
}

const freeOf = (histogram: Histogram): Free => {
  const sum = (...slots: number[]): number => slots.reduce((total, slot) => total + histogram[slot]!, 0)
  return {
    places: sum(0, 1, 2, 3, 4, 5, 6, 7), flags: sum(4, 5, 6, 7),
    gpr1: sum(1, 2, 3, 5, 6, 7), gpr2: sum(2, 3, 6, 7), gpr3: sum(3, 7), flagsAndGpr1: sum(5, 6, 7),
  }
}

/** block -> 1 when an entry leads to it. */
const findEntered = ({ blockCount, entry, succStart, succ }: KernelGraph): Uint8Array => {
  const entered = new Uint8Array(blockCount)
  const stack = new Uint32Array(blockCount)
  let top = 0
  const push = (b: number): void => {
    if (entered[b]) return
    entered[b] = 1
    stack[top++] = b
  }
  for (let b = 0; b < blockCount; b++) if (entry[b]! & (ENTRY.function | ENTRY.called | ENTRY.pointed)) push(b)
  while (top > 0) {
    const b = stack[--top]!
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) push(succ[e]!)
  }
  return entered
}

/** Counts. */
export const analyze = (live: KernelLiveness): Analysis => {
  const { graph } = live
  const { image, insns, blockFirst, end, call, problem, succStart } = graph
  const { functions, tables } = image
  const result: Omit<Analysis, 'free' | 'freeAt'> = {
    functions: 0, complete: 0, incomplete: {}, neverReturn: 0, blocks: 0, edges: 0, instructions: 0,
    indirect: { call: 0, 'static call': 0, 'tail call': 0, unresolved: 0 },
  }
  const free = newHistogram()
  const blockStarts = newHistogram()
  const entries = newHistogram()
  const returns = newHistogram()
  for (let f = 0; f < functions.count; f++) {
    if (!functions.isFunc[f] || functions.isCold[f]) continue
    result.functions++
    const why = completenessOf(graph, f)
    if (why === '') result.complete++
    else result.incomplete[why] = (result.incomplete[why] ?? 0) + 1
    const at = graph.index.at(functions.start[f]!)
    if (at >= insns.count) continue
    if (!graph.returning[graph.blockOf[at]!]) result.neverReturn++
    countFree(entries, live.liveIn[graph.blockOf[at]!]!)
  }
  const entered = findEntered(graph)
  let longest = 0
  for (let b = 0; b < graph.blockCount; b++) longest = Math.max(longest, blockFirst[b + 1]! - blockFirst[b]!)
  const sets = new Uint32Array(longest) // scratch: instruction of the block -> live
  for (let b = 0; b < graph.blockCount; b++) {
    if (!entered[b]) continue
    const first = blockFirst[b]!
    const last = blockFirst[b + 1]! - 1
    const count = last + 1 - first
    liveInBlock(live, b, sets, 0)
    result.blocks++
    result.edges += succStart[b + 1]! - succStart[b]!
    result.instructions += count
    countFree(blockStarts, sets[0]!)
    for (let i = 0; i < count; i++) countFree(free, sets[i]!)
    if (end[b]! & END.return) countFree(returns, sets[count - 1]!)
    if (call[b] === CALL.anything) {
      result.indirect[insns.flow[last] === FLOW.call && indexOf(tables.staticCalls, insns.rva[last]!) >= 0 ? 'static call' : 'call']!++
    }
    if (end[b]! & END.tailIndirect) result.indirect[problem[b] === PROBLEM.jumpTable ? 'unresolved' : 'tail call']!++
  }
  return {
    ...result,
    free: freeOf(free),
    freeAt: { blockStarts: freeOf(blockStarts), entries: freeOf(entries), returns: freeOf(returns) },
  }
}

/** The shares of all places, of what a set of counts says. */
const shares = ({ places, ...counts }: Free): Record<string, number> =>
  Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, Number((count / Math.max(1, places)).toFixed(4))]))

/** An analysis and what goes with it. */
export interface Analyzed {
  readonly image: Image
  readonly analysis: Analysis
  readonly verdict: Verdict | undefined // where it was checked
  readonly seconds: Record<string, number>
}

/** Where and what, of a claim that does not hold. */
export const describeFinding = ({ functions }: Image, { rva, what }: Finding): string => {
  const f = functions.functionAt(rva)
  return `${f === NONE ? hex(rva) : `${functions.nameOf(f)}+${hex(rva - functions.start[f]!)}`}: ${what}`
}

/** The figures with what they are of: kerninst.analyze/1, `free` as shares of all instructions. */
export const analysisJson = ({ image, analysis, verdict, seconds }: Analyzed, peakRssMb: number): string => {
  const { free, freeAt, ...counts } = analysis
  return JSON.stringify({
    schema: 'kerninst.analyze/1',
    image: {
      kind: image.kind, release: image.release, buildId: Buffer.from(image.buildId).toString('hex'), symbols: image.symbolSources,
    },
    ...counts,
    free: shares(free),
    freeAt: { blockStarts: shares(freeAt.blockStarts), entries: shares(freeAt.entries), returns: shares(freeAt.returns) },
    ...(verdict && { checked: { instructions: verdict.instructions, ways: verdict.ways, findings: verdict.findings.length } }),
    seconds,
    peakRssMb,
  })
}

/** The same for people. */
export const analysisText = ({ image, analysis, verdict, seconds }: Analyzed, peakRssMb: number): string => {
  const percent = (count: number, of: number): string => `${((100 * count) / Math.max(1, of)).toFixed(2)} %`
  const grouped = (count: number): string => count.toString().replace(/\B(?=(\d{3})+$)/g, ',')
  const list = (counts: Record<string, number>): string =>
    Object.entries(counts).map(([name, count]) => `${name} ${grouped(count)}`).join(', ') || 'none'
  const row = (name: string, free: Free): string =>
    '              ' + name.padEnd(14) + [free.flags, free.gpr1, free.gpr2, free.gpr3, free.flagsAndGpr1]
      .map((count) => percent(count, free.places).padStart(11)).join('')
  return [
    `kernel        ${image.release} (${image.kind}; names from ${image.symbolSources.join(', ')})`,
    `functions     ${grouped(analysis.functions)}, ${percent(analysis.complete, analysis.functions)} complete; incomplete: ${list(analysis.incomplete)}`,
    `              ${grouped(analysis.neverReturn)} never return`,
    `blocks        ${grouped(analysis.blocks)}, ${grouped(analysis.edges)} edges`,
    `instructions  ${grouped(analysis.instructions)}`,
    `indirect      ${list(analysis.indirect)}`,
    'free before'.padEnd(28) + ['flags', 'one reg', 'two', 'three', 'flags+one'].map((name) => name.padStart(11)).join(''),
    row('instructions', analysis.free),
    row('block starts', analysis.freeAt.blockStarts),
    row('entries', analysis.freeAt.entries),
    row('returns', analysis.freeAt.returns),
    ...(verdict === undefined ? [] : [`checked       ${grouped(verdict.instructions)} instructions, ${grouped(verdict.ways)} ways between them: ` +
      (verdict.findings.length === 0 ? 'live registers hold' : `${grouped(verdict.findings.length)} claims do not hold`)]),
    `cost          ${Object.entries(seconds).map(([stage, s]) => `${stage} ${s.toFixed(2)} s`).join(', ')}; peak ${peakRssMb} MB`,
  ].join('\n') + '\n'
}
