// A program's text as it is read: where we are, what comes next, and how a mistake is told: source:line:column, with what
// was probably meant.

import { EXIT, KerninstError } from '../error.js'

/** Space and comments. Each part can be matched in one way alone: where something must follow, nothing is tried again and again. */
export const SPACE = /(?:\s|(?:\/\/|#)[^\n]*(?:\n|$))*/y

/** Line and column, from 1. */
export interface Place {
  readonly line: number
  readonly column: number
}

export class Scanner {
  readonly text: string
  readonly source: string
  at = 0
  readonly #placeOf: (at: number) => Place

  /**
   * @param source where the text is from, for messages: a file's name, or "-e"
   * @param placeOf what place a position is, if the text itself does not tell
   */
  constructor(text: string, source: string, placeOf: (at: number) => Place = placesIn(text)) {
    this.text = text
    this.source = source
    this.#placeOf = placeOf
  }

  /** Reads a part of this text alone; positions and places stay what they are. */
  part(start: number, end: number): Scanner {
    const part = new Scanner(this.text.slice(0, end), this.source, this.#placeOf)
    part.at = start
    return part
  }

  /** Reads a text that is written in another way at a position of this one: all of it is there, for messages. */
  written(text: string, at: number): Scanner {
    return new Scanner(text, this.source, () => this.#placeOf(at))
  }

  /** Passes over space and comments: from "//" or "#" to the end of the line. */
  space(): this {
    SPACE.lastIndex = this.at
    this.at += SPACE.exec(this.text)?.[0].length ?? 0
    return this
  }

  get atEnd(): boolean {
    return this.at >= this.text.length
  }

  /** What a sticky pattern finds here, which is passed over; '' if nothing. */
  word(pattern: RegExp): string {
    pattern.lastIndex = this.at
    const word = pattern.exec(this.text)?.[0] ?? ''
    this.at += word.length
    return word
  }

  /** What a sticky pattern would find here. */
  peek(pattern: RegExp): string {
    pattern.lastIndex = this.at
    return pattern.exec(this.text)?.[0] ?? ''
  }

  /** Passes over a mark, if it is here. */
  take(mark: string): boolean {
    if (!this.text.startsWith(mark, this.at)) return false
    this.at += mark.length
    return true
  }

  /** Line and column of a position, from 1. */
  place(at: number): Place {
    return this.#placeOf(at)
  }

  /** "; did you mean ...?", or ''. */
  hint(word: string, words: Iterable<string>): string {
    if (word === '') return ''
    for (const near of words) if (distance(near, word) <= (word.length < 4 ? 1 : 2)) return `; did you mean ${near}?`
    return ''
  }

  /** @throws KerninstError (65) */
  fail(message: string, at = this.at): never {
    const { line, column } = this.place(at)
    this.failAt(line, column, message)
  }

  /** @throws KerninstError (65) */
  failAt(line: number, column: number, message: string): never {
    throw new KerninstError(EXIT.data, `${this.source}:${line}:${column}: ${message}`)
  }
}

// A program may have as many points as lines, and each asks for its place.
const placesIn = (text: string): ((at: number) => Place) => {
  let starts: number[] | undefined // line - 1 -> where it starts
  return (at) => {
    if (starts === undefined) {
      starts = [0]
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n', end + 1)) starts.push(end + 1)
    }
    let low = 0
    let high = starts.length
    while (high - low > 1) {
      const middle = (low + high) >>> 1
      if (starts[middle]! <= at) low = middle
      else high = middle
    }
    return { line: low + 1, column: at - starts[low]! + 1 }
  }
}

/** Levenshtein distance, for suggestions. */
export const distance = (a: string, b: string): number => {
  let row = Array.from({ length: b.length + 1 }, (_, i) => i)
  for (let i = 1; i <= a.length; i++) {
    const next = [i]
    for (let j = 1; j <= b.length; j++) {
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1))
    }
    row = next
  }
  return row[b.length]!
}
