// A function's control flow as a picture: blocks that are the darker the more often they ran, edges that are the thicker. In: a
// function with counts. Out: SVG, as a part of the page, where every block is a link to its instructions, or as a file of its own,
// with its own style and nothing to lead to. @dagrejs/dagre says where things go.

import dagre from '@dagrejs/dagre'
import { EXIT, KerninstError } from '../error.js'
import { countText, mostOf, warmth } from './heat.js'
import { el, markup, verbatim, type Content, type Markup } from './html.js'
import type { CountedFunction } from './views.js'

/** More blocks than these make no picture that anybody reads. */
export const MOST_DRAWN = 200

const CHAR = 7.3 // pixels
const PAD = 10
const HEIGHT = 38
const MOST_OPACITY = 0.45
const MOST_STROKE = 4

/** Of a picture that is a file; in the page, the page's is for it. */
const STYLE = `
svg { font: 12px ui-monospace, "DejaVu Sans Mono", monospace }
.paper { fill: #fdfdfb }
text { fill: #1c1d21 }
.block { fill: #2f6db5; stroke: #595c66 }
.way { fill: none; stroke: #595c66 }
.head { fill: #595c66 }
.cold .way { stroke-dasharray: 3 3 }
`

const round = (value: number): string => value.toFixed(1)

interface Drawing {
  readonly width: number
  readonly height: number
  readonly edges: Content
  readonly nodes: readonly Content[] // block -> what is drawn of it
}

const drawingOf = ({ graph, blocks, heat }: CountedFunction): Drawing => {
  const layout = new dagre.graphlib.Graph({ multigraph: true })
  layout.setGraph({ rankdir: 'TB', nodesep: 18, ranksep: 34, marginx: 8, marginy: 8 })
  layout.setDefaultEdgeLabel(() => ({}))
  blocks.forEach((block, b) => {
    const chars = Math.max(block.name.length, countText(heat.blocks[b]).length)
    layout.setNode(`${b}`, { width: chars * CHAR + 2 * PAD, height: HEIGHT })
  })
  for (let b = 0; b < graph.blockCount; b++) {
    for (let e = graph.succStart[b]!; e < graph.succStart[b + 1]!; e++) layout.setEdge(`${b}`, `${graph.succ[e]!}`, {}, `${e}`)
  }
  dagre.layout(layout)
  const most = mostOf(heat)
  const { width = 0, height = 0 } = layout.graph() as { width?: number; height?: number }
  const edges = layout.edges().map((key: { readonly v: string; readonly w: string; readonly name?: string }) => {
    const e = Number(key.name)
    const { points } = layout.edge(key) as { points: readonly { x: number; y: number }[] }
    const count = heat.edges[e]
    const [end, before] = [points.at(-1)!, points.at(-2)!]
    const angle = Math.atan2(end.y - before.y, end.x - before.x)
    const corner = (turn: number): string => `${round(end.x - 7 * Math.cos(angle + turn))} ${round(end.y - 7 * Math.sin(angle + turn))}`
    return el('g', { class: count === 0n ? 'edge cold' : 'edge' },
      el('title', {}, `${blocks[Number(key.v)]!.name} to ${blocks[Number(key.w)]!.name}: ${countText(count)}`),
      el('path', {
        class: 'way', d: `M${points.map(({ x, y }) => `${round(x)} ${round(y)}`).join('L')}`,
        'stroke-width': round(1 + (MOST_STROKE - 1) * warmth(count, most)),
      }),
      el('path', { class: 'head', d: `M${round(end.x)} ${round(end.y)}L${corner(0.4)}L${corner(-0.4)}Z` }))
  })
  const nodes = blocks.map((block, b) => {
    const { x, y, width: wide } = layout.node(`${b}`) as { x: number; y: number; width: number }
    const count = heat.blocks[b]
    return [
      el('rect', {
        class: 'block', x: round(x - wide / 2), y: round(y - HEIGHT / 2), width: round(wide), height: HEIGHT,
        'fill-opacity': (MOST_OPACITY * warmth(count, most)).toFixed(2),
      }),
      el('text', { x: round(x), y: round(y - 4), 'text-anchor': 'middle' }, block.name),
      el('text', { x: round(x), y: round(y + 12), 'text-anchor': 'middle', class: 'count' }, countText(count)),
    ]
  })
  return { width: Math.ceil(width), height: Math.ceil(height), edges, nodes }
}

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
