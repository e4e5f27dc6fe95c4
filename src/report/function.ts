// One function for people and scripts: its graph as text, JSON or DOT, and its disassembly with live registers and how
// each instruction could be spliced. In: graph, liveness, and for the disassembly what the planner knows. Out: text.

import type { FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import { FLAGS, namesOf, REGISTER_NAMES, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { hex, toAddress, type Rva } from '../image/rva.js'
import type { Liveness } from '../liveness/live.js'
import { Lister } from '../splice/describe.js'
import { placeOf } from '../splice/plan.js'
import { REFUSALS } from '../splice/refusal.js'
import { Draft, LEVEL } from '../splice/draft.js'
import type { Ground, PlannedFunction } from '../splice/ground.js'
import { TACTIC_NAMES } from '../splice/tactics.js'
import { quoted } from './dot.js'
import { printable } from './printable.js'

const successors = (graph: FunctionGraph, block: number): Uint32Array =>
  graph.succ.subarray(graph.succStart[block]!, graph.succStart[block + 1]!)

const blockStart = (graph: FunctionGraph, block: number): Rva => graph.insns.rva[graph.blockFirst[block]!]!

const blockEnd = (graph: FunctionGraph, block: number): Rva => {
  const last = graph.blockFirst[block + 1]! - 1
  return graph.insns.rva[last]! + graph.insns.length[last]!
}

/** Registers by name, and 'flags' where any flag is in the set. */
export const liveNames = (set: RegisterSet): string[] =>
  [...REGISTER_NAMES.filter((_, r) => set & (1 << r)), ...(set & FLAGS ? ['flags'] : [])]

const ways = (bits: number): string[] => [
  ...(bits & END.return ? ['return'] : []),
  ...(bits & END.tail ? [bits & END.tailIndirect ? 'indirect tail call' : 'tail call'] : []),
  ...(bits & END.unknown ? ['unknown'] : []),
  ...(bits & END.leaks ? ['may not go on'] : []),
]

/** One line of JSON: kerninst cfg --format json. Addresses are link-time addresses. */
export const graphJson = (image: Image, graph: FunctionGraph, liveness: Liveness): string => {
  const at = (rva: Rva): string => hex(toAddress(image.base, rva))
  return JSON.stringify({
    name: graph.name,
    start: at(graph.start),
    end: at(graph.end),
    ...(graph.incomplete === '' ? {} : { incomplete: graph.incomplete }),
    blocks: Array.from({ length: graph.blockCount }, (_, b) => ({
      start: at(blockStart(graph, b)),
      end: at(blockEnd(graph, b)),
      succ: Array.from(successors(graph, b), (s) => at(blockStart(graph, s))),
      liveIn: liveNames(liveness.liveIn[graph.blockFirst[b]!]!),
    })),
  })
}

/** The blocks, their successors and what is live at their starts, one a line. */
export const graphText = (image: Image, graph: FunctionGraph, liveness: Liveness): string => {
  const lines = [`${printable(graph.name)}  ${hex(toAddress(image.base, graph.start))}  ${graph.blockCount} blocks` +
    (graph.incomplete === '' ? '' : `  incomplete: ${REFUSALS[graph.incomplete]}`)]
  for (let b = 0; b < graph.blockCount; b++) {
    const to = [...Array.from(successors(graph, b), String), ...ways(graph.blockEnd[b]!)].join(', ')
    lines.push(`  ${String(b).padStart(4)}  ${printable(placeOf(image, blockStart(graph, b)))}  ${blockEnd(graph, b) - blockStart(graph, b)} bytes` +
      `  -> ${to || 'nowhere'}  live: ${liveNames(liveness.liveIn[graph.blockFirst[b]!]!).join(' ') || 'none'}`)
  }
  return lines.join('\n') + '\n'
}

/** A digraph for Graphviz. */
export const graphDot = (image: Image, graph: FunctionGraph): string => {
  const lines = [`digraph ${quoted(graph.name)} {`, '  node [shape=box, fontname="monospace"]']
  for (let b = 0; b < graph.blockCount; b++) {
    const label = [placeOf(image, blockStart(graph, b)), ...ways(graph.blockEnd[b]!)].join(', ')
    lines.push(`  b${b} [label=${quoted(label)}]`)
    for (const s of successors(graph, b)) lines.push(`  b${b} -> b${s}`)
  }
  return lines.join('\n') + '\n}\n'
}

/** The function, block by block, with live registers and the splice tactic or refusal of each instruction. */
export const disassembly = (ground: Ground, fn: PlannedFunction): string => {
  const { image } = ground
  const { graph, liveness } = fn
  const lister = new Lister()
  const draft = new Draft(ground) // where each instruction is planned by itself
  const lines: string[] = []
  for (let b = 0; b < graph.blockCount; b++) {
    const to = [...Array.from(successors(graph, b), (s) => placeOf(image, blockStart(graph, s))), ...ways(graph.blockEnd[b]!)]
    lines.push('', `${printable(placeOf(image, blockStart(graph, b)))}:  -> ${printable(to.join(', ')) || 'nowhere'}`)
    for (let i = graph.blockFirst[b]!; i < graph.blockFirst[b + 1]!; i++) {
      const rva = graph.insns.rva[i]!
      const length = graph.insns.length[i]!
      const cost = draft.costBefore(fn, i, LEVEL.shortJump)
      const way = draft.wayBefore(fn, i)
      const tactic = typeof way === 'string' ? `- ${way}` : `${TACTIC_NAMES[way]}, ${cost} added`
      lines.push(`  ${hex(toAddress(image.base, rva))}  ${lister.instruction(image, rva, length).padEnd(44)} ` +
        `${tactic.padEnd(24)} live: ${namesOf(liveness.liveIn[i]!).join(' ')}`)
    }
  }
  lister.free()
  return lines.slice(1).join('\n') + '\n'
}
