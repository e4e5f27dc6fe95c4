// HTML as text. In: names, attributes, contents. Out: markup in which nothing that comes from a file is anything but text.
// Invariant: contents are strings, which are escaped, or Markup, which only this file makes.

import { printable } from './printable.js'

/** Markup that is ready. */
export class Markup {
  readonly #text: string

  constructor(text: string) {
    this.#text = text
  }

  toString(): string {
    return this.#text
  }
}

export type Content = string | Markup | readonly Content[]

type Attributes = Readonly<Record<string, string | number | boolean | undefined>>

const ESCAPES: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', '\'': '&#39;' }

/** A text as it may stand in an element or an attribute. */
const escaped = (text: string): string => printable(text).replace(/[&<>"']/g, (char) => ESCAPES[char]!)

export const markup = (content: Content): string =>
  content instanceof Markup ? content.toString() : typeof content === 'string' ? escaped(content) : content.map(markup).join('')

/** Elements without an end tag. */
const EMPTY = new Set(['meta', 'input', 'rect', 'path'])

/** @param attributes true is an attribute without a value, false and undefined are none */
export const el = (name: string, attributes: Attributes = {}, ...contents: readonly Content[]): Markup => {
  const written = Object.entries(attributes).map(([key, value]) =>
    value === undefined || value === false ? '' : value === true ? ` ${key}` : ` ${key}="${escaped(String(value))}"`).join('')
  const isEmpty = EMPTY.has(name)
  return new Markup(isEmpty ? `<${name}${written}/>` : `<${name}${written}>${markup(contents)}</${name}>`)
}

/** Text that we wrote ourselves and that is none of HTML's: styles and scripts. */
export const verbatim = (text: string): Markup => new Markup(text)

/**
 * As many of the items, from the first on, as make no more bytes of markup than these; and how many are left.
 * @param make called for the items that are shown, and one more
 */
export const fitting = <T>(most: number, items: readonly T[], make: (item: T, index: number) => Content): { shown: Markup[]; left: number } => {
  const shown: Markup[] = []
  let bytes = 0
  for (const [i, item] of items.entries()) {
    const made = markup(make(item, i))
    bytes += Buffer.byteLength(made)
    if (bytes > most) break
    shown.push(new Markup(made))
  }
  return { shown, left: items.length - shown.length }
}
