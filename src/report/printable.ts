// Text for people. In: names from files, which may hold anything; numbers; times. Out: text that moves no cursor,
// changes no colour and reads in one direction. Invariant: no character of Unicode's category "other" (controls,
// formats, surrogates, unassigned, private use) and no line separator gets through; each becomes an escape.

import { UNSAFE } from '../error.js'

/** The text with everything that is not a plain visible character, or a space, as \u{...}. */
export const printable = (text: string): string =>
  text.replace(UNSAFE, (char) => `\\u{${char.codePointAt(0)!.toString(16)}}`)

/** What a row is called: a point, and the name that it counts under. */
export const rowName = (point: string, aggregate: string): string => printable(point) + (aggregate === '' ? '' : ` @${printable(aggregate)}`)

/** JSON of the value; its texts may be hostile and yet be shown on a terminal. */
export const jsonText = (value: object): string => {
  const escaped = (unit: string): string => `\\u${unit.charCodeAt(0).toString(16).padStart(4, '0')}`
  return JSON.stringify(value).replace(UNSAFE, (char) => char.split('').map(escaped).join(''))
}

/** The same on one line, a newline after it. */
export const jsonLine = (value: object): string => jsonText(value) + '\n'

/** JSON of a list, in pieces. */
export function* jsonList(values: Iterable<object>): Generator<string, void> {
  yield '['
  let first = true
  for (const value of values) {
    yield first ? jsonText(value) : `,${jsonText(value)}`
    first = false
  }
  yield ']'
}

const PIECE = 1 << 16 // characters

/** The same text in fewer pieces; bytes between texts stay as they are. */
export function* gathered(pieces: Iterable<string | Uint8Array>): Generator<string | Uint8Array, void> {
  let text = ''
  for (const piece of pieces) {
    if (typeof piece !== 'string') {
      if (text !== '') yield text
      text = ''
      yield piece
      continue
    }
    text += piece
    if (text.length < PIECE) continue
    yield text
    text = ''
  }
  if (text !== '') yield text
}

/** Decimal digits in groups of three: 1234567 -> 1,234,567. */
export const grouped = (value: bigint): string => value.toString().replace(/\B(?=(\d{3})+$)/g, ',')

/** A wall-clock time in nanoseconds since 1970 as UTC, to the second; times past the calendar stay numbers. */
export const wallTime = (ns: bigint): string => {
  const ms = Number(ns / 1_000_000n)
  if (ms > 253_402_300_799_999) return `${ns} ns` // 9999-12-31
  return new Date(ms).toISOString().replace('T', ' ').replace(/\.\d+Z$/, ' UTC')
}

/** A span of time in the largest unit that keeps three digits before the point or fewer, where there is one. */
export const duration = (ns: bigint): string => {
  const value = Number(ns)
  if (ns < 1000n) return `${ns} ns`
  if (ns < 1_000_000n) return `${(value / 1e3).toFixed(1)} µs`
  if (ns < 1_000_000_000n) return `${(value / 1e6).toFixed(1)} ms`
  const seconds = ns / 1_000_000_000n
  if (seconds < 120n) return `${(value / 1e9).toFixed(1)} s`
  const parts = [seconds / 86_400n, (seconds / 3600n) % 24n, (seconds / 60n) % 60n, seconds % 60n]
  const units = ['d', 'h', 'min', 's']
  const first = parts.findIndex((part) => part > 0n)
  return parts.map((part, i) => `${part} ${units[i]}`).slice(first, first + 2).join(' ')
}

/** A rate with three digits that matter. */
export const rateText = (rate: number): string =>
  rate < 0 ? `-${rateText(-rate)}` : rate >= 1e6 ? `${(rate / 1e6).toPrecision(3)}M` : rate >= 1000 ? `${(rate / 1000).toPrecision(3)}k` : rate === 0 ? '0' : rate.toPrecision(3)

const SPARKS = [...'▁▂▃▄▅▆▇█']

/** A character for each value, the higher the greater; nothing is a space, and whatever is not is to be seen. */
export const spark = (values: readonly number[]): string => {
  const most = Math.max(...values)
  return values.map((value) => (value > 0 && most > 0 ? SPARKS[Math.ceil((value / most) * SPARKS.length) - 1]! : ' ')).join('')
}

/** Cuts to `width` characters, the last of which is then an ellipsis. */
export const cut = (text: string, width: number): string => {
  const chars = [...text]
  return chars.length <= width ? text : chars.slice(0, Math.max(0, width - 1)).join('') + '…'
}

export const widthOf = (text: string): number => [...text].length

/** The words of a text in lines of at most `width` characters; longer words are cut in pieces. */
export const wrapped = (text: string, width: number): string[] => {
  const lines: string[] = []
  let line = ''
  for (const word of text.split(' ')) {
    let rest = [...word]
    if (line !== '' && widthOf(line) + 1 + rest.length <= width) {
      line += ` ${word}`
      continue
    }
    if (line !== '') lines.push(line)
    for (; rest.length > width; rest = rest.slice(width)) lines.push(rest.slice(0, width).join(''))
    line = rest.join('')
  }
  return line === '' ? lines : [...lines, line]
}
