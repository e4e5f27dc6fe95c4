// The probe language: text in, points and aggregates out, in bpftrace's habits.
//
//   program    = { probe }
//   probe      = point { "," point } "{" { action [ ";" ] } "}"
//   point      = kind ":" function [ "+" offset ]
//   kind       = "entry" | "return" | "insn" | "call" | "block" | "edge"
//   function   = a symbol's name; "*" and "?" are wildcards; or name "@" address, where several functions have that name
//   action     = aggregate "=" "count" "(" ")"
//   aggregate  = "@" [ name ]
//
// Comments run from "//" or "#" to the end of the line. An offset is decimal or 0x hexadecimal; insn needs one, the
// others take none.

import { EXIT, KerninstError } from '../error.js'

export type PointKind = 'entry' | 'return' | 'insn' | 'call' | 'block' | 'edge'

export interface Probe {
  kind: PointKind
  pattern: string //   function name, with wildcards
  offset: number //    bytes from the function's start; 0 but for insn
  aggregate: string // '' for @
  line: number //      1-based, of the point
  column: number
}

const KINDS: readonly PointKind[] = ['entry', 'return', 'insn', 'call', 'block', 'edge']
const MAX_PROGRAM = 1 << 20
const MAX_PROBES = 100_000

/** Kinds that the language will have, so that the message can say so. */
const LATER = new Set(['span'])

/**
 * Parses one program.
 * @param source where it is from, for messages: a file's name, or "-e"
 * @throws KerninstError (65) with line and column
 */
export const parseProgram = (text: string, source: string): Probe[] => new Parser(text, source).program()

class Parser {
  readonly #text: string
  readonly #source: string
  #at = 0

  constructor(text: string, source: string) {
    this.#text = text
    this.#source = source
    if (text.length > MAX_PROGRAM) throw new KerninstError(EXIT.data, `${source}: longer than ${MAX_PROGRAM} characters`)
  }

  program(): Probe[] {
    const probes: Probe[] = []
    for (this.#space(); this.#at < this.#text.length; this.#space()) {
      const points = this.#points()
      const aggregates = this.#actions()
      for (const point of points) {
        for (const aggregate of aggregates) probes.push({ ...point, aggregate })
        if (probes.length > MAX_PROBES) throw new KerninstError(EXIT.data, `${this.#source}: more than ${MAX_PROBES} probes`)
      }
    }
    if (probes.length === 0) this.#fail('no probe here; one looks like entry:vfs_read { @ = count() }')
    return probes
  }

  #points(): Omit<Probe, 'aggregate'>[] {
    const points = [this.#point()]
    for (this.#space(); this.#take(','); this.#space()) {
      this.#space()
      points.push(this.#point())
    }
    return points
  }

  #point(): Omit<Probe, 'aggregate'> {
    const start = this.#at
    const kind = this.#word(/[a-z]+/y)
    const known = KINDS.find((k) => k === kind)
    if (known === undefined) {
      this.#at = start
      if (LATER.has(kind)) this.#fail(`${kind}: points are not served yet; there are ${KINDS.join(', ')}`)
      this.#fail(`${kind === '' ? 'a point' : `'${kind}'`} is not one of ${KINDS.join(', ')}${this.#hint(kind, KINDS)}`)
    }
    if (!this.#take(':')) this.#fail(`':' and a function's name are missing after ${known}`)
    let pattern = this.#word(/[A-Za-z0-9_.$*?]+/y)
    if (pattern === '') this.#fail('a function\'s name is missing')
    if (this.#take('@')) {
      const address = this.#word(/0x[0-9a-fA-F]{1,16}/y)
      if (address === '') this.#fail(`an address is missing after ${pattern}@`)
      if (/[*?]/.test(pattern)) this.#fail('a name with wildcards takes no address')
      pattern += `@${address}`
    }
    let offset = 0
    const offsetAt = this.#at
    if (this.#take('+')) {
      const digits = this.#word(/0x[0-9a-fA-F]{1,8}|[0-9]{1,9}/y)
      if (digits === '') this.#fail('an offset is missing after +')
      if (known !== 'insn') {
        this.#at = offsetAt
        this.#fail(`${known}: takes no offset; insn:${pattern}+${digits} is a single instruction`)
      }
      offset = Number(digits)
    } else if (known === 'insn') {
      this.#fail('insn: needs an offset, as in insn:vfs_read+0x1c')
    }
    return { kind: known, pattern, offset, ...this.#place(start) }
  }

  #actions(): string[] {
    this.#space()
    if (this.#text[this.#at] === '/') this.#fail('predicates are not served yet')
    if (!this.#take('{')) this.#fail('\'{\' is missing before the actions')
    const aggregates: string[] = []
    for (this.#space(); !this.#take('}'); this.#space()) {
      if (this.#at >= this.#text.length) this.#fail('\'}\' is missing')
      if (!this.#take('@')) this.#fail('an action starts with @, as in @ = count()')
      aggregates.push(this.#word(/[A-Za-z_][A-Za-z0-9_]{0,63}/y))
      this.#space()
      if (!this.#take('=')) this.#fail('\'=\' is missing')
      this.#space()
      const start = this.#at
      const name = this.#word(/[a-z]+/y)
      if (name !== 'count') {
        this.#at = start
        this.#fail(`${name === '' ? 'an aggregate' : `'${name}'`} is not served; there is count()`)
      }
      for (const mark of ['(', ')']) {
        this.#space()
        if (!this.#take(mark)) this.#fail(`'${mark}' is missing: count()`)
      }
      this.#space()
      this.#take(';')
    }
    if (aggregates.length === 0) this.#fail('there is no action between { and }')
    if (new Set(aggregates).size !== aggregates.length) this.#fail('an aggregate is given twice in one probe')
    return aggregates
  }

  #space(): void {
    const space = /(?:\s+|\/\/[^\n]*|#[^\n]*)*/y
    space.lastIndex = this.#at
    this.#at += space.exec(this.#text)?.[0].length ?? 0
  }

  #word(pattern: RegExp): string {
    pattern.lastIndex = this.#at
    const word = pattern.exec(this.#text)?.[0] ?? ''
    this.#at += word.length
    return word
  }

  #take(mark: string): boolean {
    if (this.#text[this.#at] !== mark) return false
    this.#at++
    return true
  }

  #place(at: number): { line: number; column: number } {
    const before = this.#text.slice(0, at)
    return { line: before.split('\n').length, column: at - before.lastIndexOf('\n') }
  }

  #hint(word: string, words: readonly string[]): string {
    const near = word === '' ? undefined : words.find((w) => distance(w, word) <= 2)
    return near === undefined ? '' : `; did you mean ${near}?`
  }

  #fail(message: string): never {
    const { line, column } = this.#place(this.#at)
    throw new KerninstError(EXIT.data, `${this.#source}:${line}:${column}: ${message}`)
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
