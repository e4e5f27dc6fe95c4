// A function's control flow as a picture: blocks that are the darker the more often they ran, edges that are the thicker. In: a
// view. Out: SVG; every block is a link to its instructions. @dagrejs/dagre says where things go.

import dagre from '@dagrejs/dagre'
import type { FunctionView } from './views.js'
import { el, type Markup } from './html.js'
import { grouped } from './printable.js'

/** More blocks than these make no picture that anybody reads. */
export const MOST_DRAWN = 200

const CHAR = 7.3 // pixels
const PAD = 10
const HEIGHT = 38
const MOST_OPACITY = 0.45
const MOST_STROKE = 4

/** 0 to 1, evenly by magnitude: what ran once is to be seen beside what ran a million times. */
const warmth = (count: bigint | undefined, most: bigint): number =>
  count === undefined || count <= 0n || most <= 0n ? 0 : (1 + Math.log2(Number(count))) / (1 + Math.log2(Number(most)))

const countText = (count: bigint | undefined): string => (count === undefined ? '?' : grouped(count))

const round = (value: number): string => value.toFixed(1)

/** @param id begins the ids of its blocks' instructions */
export const flowchart = ({ name, graph, blocks, heat }: FunctionView, id: string): Markup => {
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
  const most = heat.blocks.reduce<bigint>((best, count) => (count !== undefined && count > best ? count : best), 0n)
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
    return el('a', { href: `#${id}-${b}` },
      el('rect', {
        class: 'block', x: round(x - wide / 2), y: round(y - HEIGHT / 2), width: round(wide), height: HEIGHT,
        'fill-opacity': (MOST_OPACITY * warmth(count, most)).toFixed(2),
      }),
      el('text', { x: round(x), y: round(y - 4), 'text-anchor': 'middle' }, block.name),
      el('text', { x: round(x), y: round(y + 12), 'text-anchor': 'middle', class: 'count' }, countText(count)))
  })
  return el('svg', {
    class: 'flow', width: Math.ceil(width), height: Math.ceil(height), viewBox: `0 0 ${Math.ceil(width)} ${Math.ceil(height)}`, role: 'group',
    'aria-label': `control flow of ${name}`,
  }, edges, nodes)
}
