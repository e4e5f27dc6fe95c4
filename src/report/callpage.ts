// Who called whom, in a page. In: calls between functions. Out: markup: pictures of the most frequent ones, in which functions that are
// shown in full are links, and a table.

import type { Calls } from './callgraph.js'
import { bar } from './chart.js'
import { drawn } from './drawing.js'
import { el, type Content } from './html.js'
import { falling } from './order.js'
import { countCell, MOST_ROWS, table, type Cell } from './pageframe.js'
import { addTo } from './runs.js'
import type { Inside } from './views.js'

/** So many calls are drawn; more make no picture that anybody reads. */
const MOST_CALLS = 40

/** Calls that hang together, by functions, in the order of the first of each. */
const connected = (calls: readonly Calls[]): Calls[][] => {
  const groups = new Map<number, Calls[]>() // function -> calls of its group
  for (const call of calls) {
    const [one, other] = [groups.get(call.caller) ?? [], groups.get(call.callee) ?? []]
    const group = one === other ? one : [...one, ...other]
    group.push(call)
    for (const { caller, callee } of group) for (const fn of [caller, callee]) groups.set(fn, group)
  }
  return [...new Set(calls.map(({ caller }) => groups.get(caller)!))]
}

const picture = ({ views, calls: { calls, entered }, nameOf }: Inside): Content => {
  const times = new Map(entered) // function -> how often it was entered, as far as is known
  addTo(times, calls.map(({ callee, count }) => [callee, count]))
  const shown = calls.slice(0, MOST_CALLS)
  const pictures = connected(shown).map((group) => {
    const nodes = [...new Set(group.flatMap(({ caller, callee }) => [caller, callee]))]
    const { width, height, edges, nodes: boxes } = drawn(nodes.map((fn) => ({ name: nameOf(fn), count: times.get(fn) })),
      group.map(({ caller, callee, count }) => ({ from: nodes.indexOf(caller), to: nodes.indexOf(callee), count, labelled: true })), 'LR')
    const linked = nodes.map((fn, node) => {
      const view = views.findIndex((one) => one.fn === fn)
      return view < 0 ? el('g', {}, boxes[node]!) : el('a', { href: `#f${view}` }, boxes[node]!)
    })
    return el('svg', {
      class: 'flow', width, height, viewBox: `0 0 ${width} ${height}`, role: 'group', 'aria-label': `calls of ${nameOf(group[0]!.caller)}`,
    }, edges, linked)
  })
  return [
    el('div', { class: 'scroll pictures', tabindex: 0, role: 'region', 'aria-label': 'Pictures of calls' }, pictures),
    shown.length < calls.length ? el('p', { class: 'note' }, `The pictures have the ${shown.length} most frequent of ${calls.length} pairs of caller and callee.`) : '',
  ]
}

export const callRows = (inside: Inside): Content => {
  const { calls: { calls, entered }, nameOf } = inside
  const all = [
    ...calls.map(({ caller, callee, count }) => ({ from: nameOf(caller), to: nameOf(callee), count })),
    ...[...entered].map(([fn, count]) => ({ from: 'not known', to: nameOf(fn), count })),
  ].sort((a, b) => falling(a.count, b.count))
  const shown = all.slice(0, MOST_ROWS)
  const most = shown[0]!.count
  return [
    el('p', {}, 'Calls in blocks that were counted. Where a function was entered more often than these explain, the rest came from callers that are not known: through pointers, or from code that was not counted.'),
    picture(inside),
    table('calls-table', 'Who called whom, the most frequent calls first', [
      { title: 'Calls', number: true, sorted: true }, { title: 'Share', picture: true }, { title: 'Caller' }, { title: 'Callee' },
    ], shown.map(({ from, to, count }): Cell[] => [
      countCell(count), { content: bar(count, most) }, { content: from, name: true }, { content: to, name: true },
    ]), all.length - shown.length),
  ]
}
