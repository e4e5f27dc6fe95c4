// Calls as the files that profilers' viewers read. In: who called whom. Out: folded stacks, a line each (flamegraph.pl, inferno,
// speedscope); or speedscope's own format. There is no stack of more than two functions in it: more is not known.

import type { Functions } from '../image/functions.js'
import type { CallGraph } from './callgraph.js'
import { jsonText, printable } from './printable.js'

/** The caller of what was called from nobody knows where. */
export const UNKNOWN = '[unknown]'

interface Stack {
  readonly names: readonly string[] // the outermost first
  readonly count: bigint
}

function* stacksOf({ calls, entered }: CallGraph, functions: Functions): Generator<Stack, void> {
  for (const { caller, callee, count } of calls) yield { names: [functions.nameOf(caller), functions.nameOf(callee)], count }
  for (const [fn, count] of entered) yield { names: [UNKNOWN, functions.nameOf(fn)], count }
}

/** A name ends where a semicolon, a space or a line does. */
const folded = (name: string): string => printable(name).replace(/[; ]/g, '_')

export function* reportFolded(graph: CallGraph, functions: Functions): Generator<string, void> {
  for (const { names, count } of stacksOf(graph, functions)) yield `${names.map(folded).join(';')} ${count}\n`
}

/** @param name of the profile */
export function* reportSpeedscope(graph: CallGraph, functions: Functions, name: string): Generator<string, void> {
  const frames = new Map<string, number>()
  const frameOf = (frame: string): number => {
    const known = frames.get(frame) ?? frames.size
    frames.set(frame, known)
    return known
  }
  const samples: number[][] = []
  const weights: number[] = []
  for (const { names, count } of stacksOf(graph, functions)) {
    samples.push(names.map((each) => frameOf(printable(each))))
    weights.push(Number(count))
  }
  yield `${jsonText({
    $schema: 'https://www.speedscope.app/file-format-schema.json',
    exporter: 'kerninst',
    name,
    activeProfileIndex: 0,
    shared: { frames: [...frames.keys()].map((frame) => ({ name: frame })) },
    profiles: [{ type: 'sampled', name: 'calls', unit: 'none', startValue: 0, endValue: weights.reduce((sum, weight) => sum + weight, 0), samples, weights }],
  })}\n`
}
