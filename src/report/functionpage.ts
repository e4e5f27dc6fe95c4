// Functions in full, in a page. In: views. Out: markup: for each its picture, its loops in words, and its instructions block by block.

import { bar } from './chart.js'
import { flowchart, MOST_DRAWN } from './flowchart.js'
import { mostOf } from './heat.js'
import { el, type Content, type Markup } from './html.js'
import { INSIDE_BYTES, some } from './pageframe.js'
import { grouped } from './printable.js'
import type { FunctionView, Inside } from './views.js'

/** Loops in words: the one that went round most for each time that it was entered first. */
const loopsText = ({ blocks, heat }: FunctionView): Content => {
  const known = heat.loops.filter(({ trips }) => trips !== undefined).sort((a, b) => b.trips! - a.trips!)
  if (known.length === 0) return ''
  return el('p', { class: 'note' }, `Loops: ${known.map(({ head, trips, entered }) =>
    `at ${blocks[head]!.name} ${trips!.toFixed(1)} rounds each of ${grouped(entered!)} times`).join('; ')}.`)
}

/** A function in full: its picture, and its instructions block by block. */
const functionDetails = (view: FunctionView, number: number): Markup => {
  const { name, total, blocks, heat } = view
  const id = `f${number}`
  const most = mostOf(heat)
  const ran = heat.blocks.filter((count) => count !== undefined && count > 0n).length
  const hasLines = blocks.some(({ insns }) => insns.some(({ line }) => line !== ''))
  const titles = ['Address', 'Instruction', 'Live before', 'Splice', ...(hasLines ? ['Source'] : [])]
  return el('details', { id },
    el('summary', {}, el('code', {}, name), ` ${grouped(total)}, ${ran} of ${blocks.length} blocks ran`),
    loopsText(view),
    blocks.length <= MOST_DRAWN ? el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Picture of ${name}` }, flowchart(view, id))
      : el('p', { class: 'note' }, `${blocks.length} blocks are more than a picture can show.`),
    el('div', { class: 'scroll', tabindex: 0, role: 'region', 'aria-label': `Instructions of ${name}` }, el('table', { class: 'code' },
      el('caption', {}, `Instructions of ${name}, with how often each block ran`),
      el('thead', {}, el('tr', {}, titles.map((title) => el('th', { scope: 'col' }, title)))),
      blocks.map((block, b) => el('tbody', {},
        el('tr', { id: `${id}-${b}`, class: 'block' }, el('th', { scope: 'rowgroup', colspan: titles.length },
          el('code', {}, block.name), heat.blocks[b] === undefined ? ' not counted ' : [' ran ', grouped(heat.blocks[b]), ' times ', bar(heat.blocks[b], most)],
          block.leaves === '' ? '' : el('span', { class: 'note' }, block.leaves))),
        block.insns.map(({ address, text, live, tactic, line }) => el('tr', {},
          [address, text, live, tactic, ...(hasLines ? [line] : [])].map((cell) => el('td', { class: 'name' }, cell)))))))))
}

export const insideFunctions = ({ views, ran }: Inside): Content => [
  el('p', {}, 'The functions that ran most: how control went through them, and each instruction with the registers that are live before it.'),
  some(INSIDE_BYTES, views, functionDetails),
  ran > views.length ? el('p', { class: 'note' }, `${grouped(BigInt(ran - views.length))} more functions ran: kerninst report --format svg --function NAME draws any of them.`) : '',
]
