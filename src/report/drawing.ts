// A graph with counts as a picture: nodes that are the darker the higher their counts, edges that are the thicker. In: nodes and edges.
// Out: SVG's elements. @dagrejs/dagre says where things go.

import dagre from '@dagrejs/dagre'
import { countText, warmth } from './heat.js'
import { el, type Content } from './html.js'
import { greatest } from './order.js'

const CHAR = 7.3 // pixels
const PAD = 10
const HEIGHT = 38
const LABEL_CHAR = 6.1
const LABEL_HEIGHT = 12
const MOST_OPACITY = 0.45
const MOST_STROKE = 4

export interface DrawnNode {
  readonly name: string
  readonly count: bigint | undefined
}

export interface DrawnEdge {
  readonly from: number // node
  readonly to: number
  readonly count: bigint | undefined
  /** Whether its count is written beside it; it is in its title anyway. */
  readonly labelled: boolean
}

export interface Drawing {
  readonly width: number
  readonly height: number
  readonly edges: Content
  readonly nodes: readonly Content[] // node -> what is drawn of it
}

const round = (value: number): string => value.toFixed(1)

/** @param direction from the top to the bottom, or from left to right */
export const drawn = (nodes: readonly DrawnNode[], edges: readonly DrawnEdge[], direction: 'TB' | 'LR' = 'TB'): Drawing => {
  const layout = new dagre.graphlib.Graph({ multigraph: true })
  layout.setGraph({ rankdir: direction, nodesep: 18, ranksep: 34, marginx: 8, marginy: 8 })
  layout.setDefaultEdgeLabel(() => ({}))
  nodes.forEach(({ name, count }, n) => {
    const chars = Math.max(name.length, countText(count).length)
    layout.setNode(`${n}`, { width: chars * CHAR + 2 * PAD, height: HEIGHT })
  })
  edges.forEach(({ from, to, count, labelled }, e) => {
    const label = labelled ? { width: countText(count).length * LABEL_CHAR, height: LABEL_HEIGHT, labelpos: 'c' } : {}
    layout.setEdge(`${from}`, `${to}`, label, `${e}`)
  })
  dagre.layout(layout)
  const most = greatest(nodes.map(({ count }) => count))
  const { width = 0, height = 0 } = layout.graph() as { width?: number; height?: number }
  const lines = layout.edges().map((key: { readonly v: string; readonly w: string; readonly name?: string }) => {
    const { from, to, count, labelled } = edges[Number(key.name)]!
    const { points, x = 0, y = 0 } = layout.edge(key) as { points: readonly { x: number; y: number }[]; x?: number; y?: number }
    const [end, before] = [points.at(-1)!, points.at(-2)!]
    const angle = Math.atan2(end.y - before.y, end.x - before.x)
    const corner = (turn: number): string => `${round(end.x - 7 * Math.cos(angle + turn))} ${round(end.y - 7 * Math.sin(angle + turn))}`
    return el('g', { class: count === 0n ? 'edge cold' : 'edge' },
      el('title', {}, `${nodes[from]!.name} to ${nodes[to]!.name}: ${countText(count)}`),
      el('path', {
        class: 'way', d: `M${points.map(({ x, y }) => `${round(x)} ${round(y)}`).join('L')}`,
        'stroke-width': round(1 + (MOST_STROKE - 1) * warmth(count, most)),
      }),
      el('path', { class: 'head', d: `M${round(end.x)} ${round(end.y)}L${corner(0.4)}L${corner(-0.4)}Z` }),
      labelled ? el('text', { class: 'count', x: round(x), y: round(y + 3), 'text-anchor': 'middle' }, countText(count)) : '')
  })
  const boxes = nodes.map(({ name, count }, n) => {
    const { x, y, width: wide } = layout.node(`${n}`) as { x: number; y: number; width: number }
    return [
      el('rect', {
        class: 'block', x: round(x - wide / 2), y: round(y - HEIGHT / 2), width: round(wide), height: HEIGHT,
        'fill-opacity': (MOST_OPACITY * warmth(count, most)).toFixed(2),
      }),
      el('text', { x: round(x), y: round(y - 4), 'text-anchor': 'middle' }, name),
      el('text', { x: round(x), y: round(y + 12), 'text-anchor': 'middle', class: 'count' }, countText(count)),
    ]
  })
  return { width: Math.ceil(width), height: Math.ceil(height), edges: lines, nodes: boxes }
}
