// What a compiler can learn from counts: LLVM's sample profile, as text (Clang's manual, "Sample Profile Text Format"), which clang
// -fprofile-sample-use, llvm-profdata and AutoFDO's tools read. In: the numbers of a report, the kernel's graph, its line tables,
// where its functions are declared. Out: for each function of the sources, by lines from its name on, how often they ran, and whom
// they called; and how often it was entered.
//
// A line ran as often as the one of its blocks that ran most. Clones of a function (.isra.0, .part.0) and parts of it (.cold) are
// one function in the sources, and added up; an entry into a part, by its symbol's name, is none into the function.
// A function has the lines of its own file from its name's up to the next function's. That is a heuristic: code of a function that
// is inlined everywhere, and stands below the one that it is inlined into, is taken for a part of that one.
// LLVM knows functions by name alone, so names that several functions of the sources bear (statics) are left out altogether: whose
// counts they are, nobody who reads them could tell. Lines that are counted and never ran are in it, with 0: LLVM takes them for
// cold, and what is not in it for unknown. Total samples are the sum of the lines'. Counts are uint64; larger ones become the largest.
// Left out: what is inlined from elsewhere, which takes the trees of inlined calls in .debug_info to attribute; discriminators; and
// calls through pointers, whose targets are not known.

import type { KernelGraph } from '../cfg/graph.js'
import type { Declarations } from '../image/declarations.js'
import { isLine, type Lines } from '../image/lines.js'
import { NONE } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import { callGraphOf } from './callgraph.js'
import { linesByFunction, placeOf } from './coverage.js'
import type { ReportNumbers } from './numbers.js'
import { printable } from './printable.js'
import { addTo, blockRuns, entriesOf } from './runs.js'

/** One function of the sources. */
export interface Sampled {
  readonly name: string
  entries: bigint
  /** Lines from its name's on -> how often they ran. */
  readonly lines: Map<number, bigint>
  /** The same -> callee -> how often it was called there. */
  readonly calls: Map<number, Map<string, bigint>>
}

export interface Samples {
  readonly functions: readonly Sampled[]
  /** Names left out, since several functions of the sources bear them. */
  readonly ambiguous: number
}

/** LLVM keeps 16 bits of a line's offset. */
const MAX_OFFSET = 0xffff
const MAX_COUNT = 2n ** 64n - 1n

/** gcc's names of parts that are called where the rest of their function is inlined (ipa-split.cc). */
const PART = /\.part\.\d+/

/** Where a function is in the sources. */
interface Source {
  readonly name: string
  readonly file: number
  readonly line: number
  /** The first line behind it that is another function's, or Infinity. */
  end: number
}

/** Function -> where it is in the sources, undefined where that is not known; and names of several such places. */
const sourcesOf = ({ functions }: KernelGraph['image'], declarations: Declarations): { sources: (Source | undefined)[]; shared: Set<string> } => {
  const known = new Map<string, Source>()
  const starts = new Map<number, Set<number>>() // file -> lines of names
  const places = new Map<string, Source>() //      name -> the first place
  const shared = new Set<string>()
  const sources = Array.from(functions.start, (start): Source | undefined => {
    const declaration = declarations.get(start)
    if (declaration === undefined) return undefined
    const { name, file, line } = declaration
    const key = `${file} ${line} ${name}`
    const source = known.get(key) ?? { name, file, line, end: Infinity }
    known.set(key, source)
    starts.set(file, (starts.get(file) ?? new Set()).add(line))
    const first = places.get(name) ?? source
    places.set(name, first)
    if (first !== source) shared.add(name)
    return source
  })
  const sorted = new Map([...starts].map(([file, all]) => [file, Uint32Array.from(all).sort()] as const))
  for (const source of known.values()) {
    const ofFile = sorted.get(source.file)!
    source.end = ofFile[lowerBound(ofFile, source.line + 1)] ?? Infinity
  }
  return { sources, shared }
}

/** A line's offset in a function, or -1 where it is not the function's. */
const offsetIn = ({ file, line, end }: Source, at: { file: number; line: number }): number =>
  (at.file === file && at.line >= line && at.line < end && at.line - line <= MAX_OFFSET ? at.line - line : -1)

export const samplesOf = (numbers: ReportNumbers, graph: KernelGraph, lines: Lines, declarations: Declarations): Samples => {
  const { image } = graph
  const { functions } = image
  const ran = blockRuns(numbers, graph)
  const { sources, shared } = sourcesOf(image, declarations)
  const sampled = new Map<Source, Sampled>()
  const left = new Set<string>()
  const sampledOf = (fn: number): [Source, Sampled] | undefined => {
    const source = fn === NONE ? undefined : sources[fn]
    if (source === undefined) return undefined
    if (shared.has(source.name)) {
      left.add(source.name)
      return undefined
    }
    const own = sampled.get(source) ?? { name: source.name, entries: 0n, lines: new Map(), calls: new Map() }
    sampled.set(source, own)
    return [source, own]
  }
  for (const { fn, counts } of linesByFunction(ran, graph, lines)) {
    const found = sampledOf(fn)
    if (found === undefined) continue
    const [source, own] = found
    addTo(own.lines, [...counts].map(([key, count]) => [offsetIn(source, placeOf(key)), count] as const).filter(([offset]) => offset >= 0))
  }
  for (const { at, caller, callee, count } of callGraphOf(ran, graph).sites) {
    const found = sampledOf(caller)
    const row = lines.rowAt(at)
    if (found === undefined || !isLine(lines, row)) continue
    const [source, own] = found
    const offset = offsetIn(source, { file: lines.file[row]!, line: lines.line[row]! })
    if (offset < 0) continue
    const targets = own.calls.get(offset) ?? new Map<string, bigint>()
    own.calls.set(offset, targets)
    addTo(targets, [[sources[callee]?.name ?? functions.nameOf(callee), count]])
  }
  for (let fn = 0; fn < functions.count; fn++) {
    const start = functions.start[fn]!
    const count = entriesOf(ran, graph, fn)
    if (count === undefined || declarations.get(start)?.entry !== start || PART.test(functions.nameOf(fn))) continue
    const found = sampledOf(fn)
    if (found !== undefined) found[1].entries += count
  }
  return { functions: [...sampled.values()], ambiguous: left.size }
}

/** A name ends where a space or a colon does. */
const word = (name: string): string => printable(name).replace(/[\s:[\]#]/g, '_')

const uint64 = (count: bigint): bigint => (count < MAX_COUNT ? count : MAX_COUNT)

/** The busiest functions first. */
export function* reportSampleProfile({ functions }: Samples): Generator<string, void> {
  const totals = new Map(functions.map((one) => [one, [...one.lines.values()].reduce((sum, count) => sum + count, 0n)]))
  const before = (a: Sampled, b: Sampled): boolean => totals.get(a)! > totals.get(b)! || (totals.get(a) === totals.get(b) && a.name < b.name)
  for (const one of [...functions].sort((a, b) => (before(a, b) ? -1 : 1))) {
    yield `${word(one.name)}:${uint64(totals.get(one)!)}:${uint64(one.entries)}\n`
    for (const [offset, count] of [...one.lines].sort(([a], [b]) => a - b)) {
      const targets = [...one.calls.get(offset) ?? []].map(([callee, calls]) => ` ${word(callee)}:${uint64(calls)}`).join('')
      yield ` ${offset}: ${uint64(count)}${targets}\n`
    }
  }
}
