// A function's control flow as a picture. In: a function with counts. Out: SVG, as a part of the page, where every block is a link to
// its instructions, or as a file of its own, with its own style and nothing to lead to.

import { EXIT, KerninstError } from '../error.js'
import { drawn, type Drawing } from './drawing.js'
import { el, markup, verbatim, type Markup } from './html.js'
import type { CountedFunction } from './views.js'

/** More blocks than these make no picture that anybody reads. */
export const MOST_DRAWN = 200

/** Of a picture that is a file; in the page, the page's is for it. */
const STYLE = `
svg { font: 12px ui-monospace, "DejaVu Sans Mono", monospace }
.paper { fill: #fdfdfb }
text { fill: #1c1d21 }
.edge text { font-size: 10px; stroke: #fdfdfb; stroke-width: 3px; paint-order: stroke }
.block { fill: #2f6db5; stroke: #595c66 }
.way { fill: none; stroke: #595c66 }
.head { fill: #595c66 }
.cold .way { stroke-dasharray: 3 3 }
`

const drawingOf = ({ graph, blocks, heat }: CountedFunction): Drawing => drawn(
  blocks.map(({ name }, b) => ({ name, count: heat.blocks[b] })),
  blocks.flatMap((_, from) => {
    const ways = graph.succ.subarray(graph.succStart[from], graph.succStart[from + 1])
    return Array.from(ways, (to, i) => ({ from, to, count: heat.edges[graph.succStart[from]! + i], labelled: ways.length > 1 }))
  }),
)

/** @param id begins the ids of its blocks' instructions */
export const flowchart = (fn: CountedFunction, id: string): Markup => {
  const { width, height, edges, nodes } = drawingOf(fn)
  return el('svg', {
    class: 'flow', width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `control flow of ${fn.name}`,
  }, edges, nodes.map((node, b) => el('a', { href: `#${id}-${b}` }, node)))
}

/**
 * The picture as a file.
 * @throws KerninstError (65) where it would show too much to be drawn
 */
export const flowSvg = (fn: CountedFunction): string => {
  if (fn.graph.blockCount > MOST_DRAWN) {
    throw new KerninstError(EXIT.data, `${fn.name} has ${fn.graph.blockCount} blocks, more than the ${MOST_DRAWN} that a picture can show: --format dot has them all`)
  }
  const { width, height, edges, nodes } = drawingOf(fn)
  return `${markup(el('svg', { xmlns: 'http://www.w3.org/2000/svg', width, height, viewBox: `0 0 ${width} ${height}`, role: 'img' },
    el('title', {}, `control flow of ${fn.name}`), el('style', {}, verbatim(STYLE)), el('rect', { class: 'paper', width, height }),
    edges, nodes.map((node) => el('g', {}, node))))}\n`
}
