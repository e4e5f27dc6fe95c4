// What pages have in common: their head, which allows their own style and script alone, by their digests; tables that can be sorted
// and filtered; sections. In: contents. Out: markup. Invariant: a page needs nothing else: no network, no font, no script to be read;
// and nothing from a file is markup (html.ts).

import { createHash } from 'node:crypto'
import { client } from './client.js'
import { el, fitting, markup, verbatim, type Content, type Markup } from './html.js'
import { STYLE } from './pagestyle.js'
import { grouped, rateText } from './printable.js'

/** So many rows of a table; a browser has them at once, and people have not read more. */
export const MOST_ROWS = 1000

/**
 * Bytes of markup of a table or list, so that a page stays below 25 MB however long names are. The points', whose rows have pictures, all
 * aggregates together, and all functions in full have more.
 */
export const LIST_BYTES = 1e6
export const POINT_BYTES = 6e6
export const AGGREGATE_BYTES = 3e6
export const INSIDE_BYTES = 5e6

const SCRIPT = `(${client.toString()})()\n`

const digest = (text: string): string => `'sha256-${createHash('sha256').update(text).digest('base64')}'`

const POLICY = `default-src 'none'; style-src ${digest(STYLE)}; script-src ${digest(SCRIPT)}; base-uri 'none'; form-action 'none'`

export interface Column {
  readonly title: string
  readonly number?: boolean
  /** Nothing to sort by. */
  readonly picture?: boolean
  readonly sorted?: boolean // as the rows come, falling
}

export interface Cell {
  readonly content: Content
  readonly value?: bigint // what a number is sorted by
  readonly name?: boolean
}

/** A rate as a number to sort and draw by: in thousandths. */
export const fixedRate = (rate: number): bigint => BigInt(Math.round(rate * 1000))

export const rateCell = (rate: number): Cell => ({ content: rateText(rate), value: fixedRate(rate) })

export const countCell = (count: bigint): Cell => ({ content: grouped(count), value: count })

/** A table that can be sorted and filtered where there are scripts. */
export const table = (id: string, caption: Content, columns: readonly Column[], rows: readonly (readonly Cell[])[], left = 0, most = LIST_BYTES): Content => {
  const heads = columns.map(({ title, number, picture, sorted }) => el('th', {
    scope: 'col', class: number ? 'number' : undefined, 'aria-sort': picture ? undefined : sorted ? 'descending' : 'none',
    'data-first': number ? 'descending' : undefined,
  }, picture ? title : el('button', { type: 'button' }, title)))
  const { shown, left: unfit } = fitting(most, rows, (cells) => el('tr', {}, cells.map(({ content, value, name }) =>
    el('td', { class: value !== undefined ? 'number' : name ? 'name' : undefined, 'data-v': value?.toString() }, content))))
  const filter = shown.length < 10 ? '' : el('p', { class: 'filter', 'data-for': id, hidden: true },
    el('label', {}, 'Filter ', el('input', { type: 'search', 'aria-controls': id })), ' ', el('output', {}))
  return [
    filter,
    el('div', { class: 'scroll' }, el('table', { id, class: 'sortable' },
      el('caption', {}, caption),
      el('thead', {}, el('tr', {}, heads)),
      el('tbody', {}, shown))),
    left + unfit > 0 ? el('p', { class: 'note' }, `${grouped(BigInt(left + unfit))} more with lower counts are left out here: --format json or csv has them all.`) : '',
  ]
}

export const section = (id: string, title: string, ...contents: readonly Content[]): Markup =>
  el('section', { 'aria-labelledby': id }, el('h2', { id }, title), ...contents)

export const moreNote = (left: number): Content => (left > 0 ? el('p', { class: 'note' }, `${grouped(BigInt(left))} more are left out here.`) : '')

/** As much of a list as there is room for, and how much more there is. */
export const listOf = <T>(items: readonly T[], make: (item: T) => Content, more = 0): Content => {
  const { shown, left } = fitting(LIST_BYTES, items, (item) => el('li', {}, make(item)))
  return [el('ul', {}, shown), moreNote(left + more)]
}

/** As much of some pieces as there is room for. */
export const some = <T>(most: number, items: readonly T[], make: (item: T, number: number) => Content): Content => {
  const { shown, left } = fitting(most, items, make)
  return [shown, moreNote(left)]
}

export const factList = (facts: readonly (readonly [term: string, text: string])[]): Content => {
  const { shown, left } = fitting(LIST_BYTES, facts, ([term, text]) => [el('dt', {}, term), el('dd', {}, text)])
  return [el('dl', { class: 'facts' }, shown), moreNote(left)]
}

export const headerOf = (title: string, lead: string, facts: readonly (readonly [string, string])[]): Markup => el('header', {},
  el('a', { class: 'skip', href: '#main' }, 'Skip to the counts'), el('h1', {}, title), el('p', { class: 'lead' }, lead), factList(facts))

export interface Part {
  readonly id: string
  readonly title: string
  /** Made when it is written. */
  readonly contents: () => Content
}

/**
 * A page, in pieces.
 * @param lead what stands before the parts; their titles lead to them
 */
export function* pageOf(title: string, header: Markup, lead: Content, parts: readonly Part[]): Generator<string, void> {
  yield '<!DOCTYPE html>\n<html lang="en">\n'
  yield markup(el('head', {},
    el('meta', { charset: 'utf-8' }),
    el('meta', { 'http-equiv': 'Content-Security-Policy', content: POLICY }),
    el('meta', { name: 'viewport', content: 'width=device-width, initial-scale=1' }),
    el('title', {}, title),
    el('style', {}, verbatim(STYLE))))
  yield '\n<body>\n'
  yield markup(header)
  yield '\n<main id="main">\n'
  const links = parts.map(({ id, title: text }) => el('li', {}, el('a', { href: `#${id}` }, text)))
  yield markup([el('nav', { 'aria-label': 'Sections' }, el('ul', {}, links)), lead])
  for (const { id, title: text, contents } of parts) yield markup(section(id, text, contents()))
  yield '\n</main>\n'
  yield markup(el('footer', {}, el('p', {}, 'Made by kerninst. Everything is in this file; it asks nothing of the network. Press / to filter.')))
  yield `\n<script>${SCRIPT}</script>\n</body>\n</html>\n`
}
