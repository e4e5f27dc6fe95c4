// A program's text as it is read: where we are, what comes next, and how a mistake is told: source:line:column, with what
// was probably meant.

import { EXIT, KerninstError } from '../error.js'

/** Space and comments. Each part can be matched in one way alone: where something must follow, nothing is tried again and again. */
export const SPACE = /(?:\s|(?:\/\/|#)[^\n]*(?:\n|$))*/y

export class Scanner {
  readonly text: string
  readonly source: string
  at = 0

  /** @param source where the text is from, for messages: a file's name, or "-e" */
  constructor(text: string, source: string) {
    this.text = text
    this.source = source
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
  place(at: number): { line: number; column: number } {
    const before = this.text.slice(0, at)
    return { line: before.split('\n').length, column: at - before.lastIndexOf('\n') }
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
