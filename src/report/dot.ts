// A function's control flow for Graphviz, which draws functions of any size. In: a function with counts. Out: a digraph: blocks with
// name and count, the darker the more often they ran; edges with counts, the thicker. Invariant: names from files are quoted texts,
// in which nothing is an escape or an entity of Graphviz's.

import { countText, mostOf, warmth } from './heat.js'
import { printable } from './printable.js'
import type { CountedFunction } from './views.js'

const BLUE = '#2f6db5'
const MOST_OPACITY = 0.45
const MOST_PEN = 4

/** Graphviz reads \N and the like in labels, and &lt; in any text. */
const plain = (text: string): string => printable(text).replace(/[\\"]/g, '\\$&').replaceAll('&', '&amp;')

/** Lines of text as a quoted one. */
export const quoted = (...lines: readonly string[]): string => `"${lines.map(plain).join('\\n')}"`

/** The colour of a block. */
const fillOf = (warm: number): string => `${BLUE}${Math.round(255 * MOST_OPACITY * warm).toString(16).padStart(2, '0')}`

export const flowDot = ({ name, graph, blocks, heat }: CountedFunction): string => {
  const most = mostOf(heat)
  const lines = [
    `digraph ${quoted(name)} {`, `  graph [label=${quoted(name)}, labelloc=t, fontname="monospace"]`,
    '  node [shape=box, style=filled, fontname="monospace"]', '  edge [fontname="monospace"]',
  ]
  blocks.forEach((block, b) => {
    const count = heat.blocks[b]
    lines.push(`  b${b} [label=${quoted(block.name, countText(count))}, fillcolor="${fillOf(warmth(count, most))}"]`)
    for (let e = graph.succStart[b]!; e < graph.succStart[b + 1]!; e++) {
      const ran = heat.edges[e]
      const pen = (1 + (MOST_PEN - 1) * warmth(ran, most)).toFixed(1)
      lines.push(`  b${b} -> b${graph.succ[e]!} [label=${quoted(countText(ran))}, penwidth=${pen}${ran === 0n ? ', style=dashed' : ''}]`)
    }
  })
  return `${lines.join('\n')}\n}\n`
}
