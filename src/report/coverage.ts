// How often source lines ran. In: the numbers of a report, the kernel's graph, its line tables, where its functions are declared. Out:
// for each source file its lines and functions with counts.
//
// A counted instruction tells how often its block ran, and so each line that has an instruction in the block. A line of one
// function ran as often as the one of its blocks that ran most; a line that is in several functions, since it was inlined
// there, as often as in all of them together.
// Left out: lines of which no block is counted. They are not in the result: that is not the same as never.

import type { KernelGraph } from '../cfg/graph.js'
import type { Declarations } from '../image/declarations.js'
import { NONE, type Rva } from '../image/rva.js'
import { isLine, type Lines } from '../image/lines.js'
import type { ReportNumbers } from './numbers.js'
import { addTo, atLeast, blockRuns, entriesOf } from './runs.js'

export interface FunctionCoverage {
  readonly name: string
  readonly line: number
  readonly count: bigint
}

export interface FileCoverage {
  readonly path: string
  /** By line, ascending. */
  readonly lines: readonly (readonly [line: number, count: bigint])[]
  /** In the order of their lines. */
  readonly functions: readonly FunctionCoverage[]
}

/** Lines of a file are numbered together with it. */
const MAX_LINES = 2 ** 22

/** A line's number among those of all files, and back. */
const keyOf = (file: number, line: number): number => file * MAX_LINES + line
export const placeOf = (key: number): { file: number; line: number } => ({ file: Math.floor(key / MAX_LINES), line: key % MAX_LINES })

/** Lines with counts, by their keys; of a stretch of code that is one function's. */
export interface Stretch {
  readonly fn: number // or NONE
  readonly counts: Map<number, bigint>
}

/** The lines of all counted blocks, function by function. @param ran by blockRuns */
export function* linesByFunction(ran: ReadonlyMap<number, bigint>, graph: KernelGraph, lines: Lines): Generator<Stretch, void> {
  const { insns, blockFirst, image: { functions } } = graph
  const startOf = (block: number): Rva => insns.rva[blockFirst[block]!]!
  let own: Stretch = { fn: NONE, counts: new Map() }
  for (const block of [...ran.keys()].sort((a, b) => a - b)) {
    const start = startOf(block)
    const fn = functions.functionAt(start)
    if (fn !== own.fn) {
      yield own
      own = { fn, counts: new Map() }
    }
    const last = blockFirst[block + 1]! - 1
    const end = insns.rva[last]! + insns.length[last]!
    const first = lines.rowAt(start)
    if (first === NONE) continue
    for (let row = first; row < lines.rva.length && lines.rva[row]! < end; row++) {
      const line = lines.line[row]!
      if (isLine(lines, row) && line < MAX_LINES) atLeast(own.counts, keyOf(lines.file[row]!, line), ran.get(block)!)
    }
  }
  yield own
}

export const coverageOf = (numbers: ReportNumbers, graph: KernelGraph, lines: Lines, declarations: Declarations): FileCoverage[] => {
  const { functions } = graph.image
  const ran = blockRuns(numbers, graph)
  const whole = new Map<number, bigint>() // key of a line -> count
  for (const { counts } of linesByFunction(ran, graph, lines)) addTo(whole, counts)

  const files = new Map<number, { lines: [number, bigint][]; functions: FunctionCoverage[] }>()
  const fileOf = (file: number): { lines: [number, bigint][]; functions: FunctionCoverage[] } => {
    const known = files.get(file) ?? { lines: [], functions: [] }
    files.set(file, known)
    return known
  }
  for (const [key, count] of whole) {
    const { file, line } = placeOf(key)
    fileOf(file).lines.push([line, count])
  }
  for (let fn = 0; fn < functions.count; fn++) {
    const count = entriesOf(ran, graph, fn)
    const declared = count === undefined ? undefined : declarations.get(functions.start[fn]!)
    if (declared !== undefined) fileOf(declared.file).functions.push({ name: functions.nameOf(fn), line: declared.line, count: count! })
  }
  return [...files].map(([file, { lines: ofFile, functions: inFile }]) => ({
    path: lines.files[file]!,
    lines: ofFile.sort(([a], [b]) => a - b),
    functions: inFile.sort((a, b) => a.line - b.line),
  })).sort((a, b) => (a.path < b.path ? -1 : 1))
}
