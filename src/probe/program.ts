// The probe language: text in, probes out, in bpftrace's habits. The parts of a probe are read by one class, whether they
// stand in one text or in several, as they do in a YAML file (yaml.ts).
//
//   program    = { probe }
//   probe      = point { "," point } [ "/" expression "/" ] block
//   point      = kind ":" function [ "+" offset ]
//   kind       = "entry" | "return" | "insn" | "call" | "block" | "edge" | "span"
//   function   = a symbol's name; "*" and "?" are wildcards; or name "@" address, where several functions have that name
//   block      = "{" { statement [ ";" ] } "}"
//   statement  = aggregate | "if" "(" expression ")" block [ "else" ( block | "if" ... ) ] | "asm" "(" '"' text '"' ")"
//   aggregate  = "@" [ name ] [ "[" expression "]" ] "=" function
//   function   = "count" "(" ")" | ( "sum" | "min" | "max" | "avg" | "hist" ) "(" expression ")"
//              | "lhist" "(" expression "," number "," number "," number ")"
//
// Comments run from "//" or "#" to the end of the line. An offset is decimal or 0x hexadecimal; insn needs one, the
// others take none. Expressions: expression.ts. A predicate ends at a "/" before a "{".

import { EXIT, KerninstError } from '../error.js'
import { ExpressionReader, INPUTS, type Expression, type Input } from './expression.js'
import { Scanner } from './scanner.js'

export type PointKind = 'entry' | 'return' | 'insn' | 'call' | 'block' | 'edge' | 'span'

export interface PointText {
  readonly kind: PointKind
  readonly pattern: string //   function name, with wildcards
  readonly offset: number //    bytes from the function's start; 0 but for insn
  readonly line: number //      1-based, of the point
  readonly column: number
}

export const AGGREGATES = ['count', 'sum', 'min', 'max', 'avg', 'hist', 'lhist'] as const
export type AggregateKind = (typeof AGGREGATES)[number]

export interface Aggregate {
  readonly op: 'aggregate'
  readonly name: string // '' for @
  readonly key?: Expression
  readonly kind: AggregateKind
  readonly value?: Expression // but for count
  /** Of lhist: the first bucket's start, the last one's end, and how wide each is. */
  readonly range?: { readonly low: bigint; readonly high: bigint; readonly step: bigint }
  readonly at: number
}

export type Statement =
  | Aggregate
  | { readonly op: 'if'; readonly test: Expression; readonly then: readonly Statement[]; readonly otherwise: readonly Statement[] }
  | { readonly op: 'asm'; readonly text: string; readonly at: number }

export interface Probe {
  readonly points: readonly PointText[]
  readonly predicate?: Expression
  readonly body: readonly Statement[]
}

export const KINDS: readonly PointKind[] = ['entry', 'return', 'insn', 'call', 'block', 'edge', 'span']
/** Characters of a program, and points of one. */
export const MAX_PROGRAM = 1 << 20
export const MAX_PROBES = 100_000
const MAX_STATEMENTS = 256 // of one probe, those in its ifs included
const MAX_NESTED = 32 //      ifs in ifs
const MAX_BUCKETS = 1000 //   of an lhist, as bpftrace has it
const MAX_ASM = 4096 //       characters

/** What can be told of a call, and nowhere else. */
const INPUTS_OF: ReadonlyMap<Input, readonly PointKind[]> = new Map<Input, readonly PointKind[]>([
  ['retval', ['return', 'span']],
  ['elapsed', ['span']],
  ['oncpu', ['span']],
  ...(['arg0', 'arg1', 'arg2', 'arg3', 'arg4', 'arg5'] as const).map((arg): [Input, PointKind[]] => [arg, ['entry', 'call', 'span']]),
])

/**
 * Parses one program.
 * @param source where it is from, for messages: a file's name, or "-e"
 * @throws KerninstError (65) with line and column
 */
export const parseProgram = (text: string, source: string): Probe[] => {
  if (text.length > MAX_PROGRAM) throw new KerninstError(EXIT.data, `${source}: longer than ${MAX_PROGRAM} characters`)
  const scanner = new Scanner(text, source)
  const probes: Probe[] = []
  let points = 0
  while (!scanner.space().atEnd) {
    const probe = readProbe(scanner)
    probes.push(probe)
    points += probe.points.length
    if (points > MAX_PROBES) throw new KerninstError(EXIT.data, `${source}: more than ${MAX_PROBES} probes`)
  }
  if (probes.length === 0) scanner.fail('no probe here; one looks like entry:vfs_read { @ = count() }')
  return probes
}

const readProbe = (scanner: Scanner): Probe => {
  const parts = new PartReader(scanner, new ProbeSoFar())
  const points = parts.points()
  let predicate: Expression | undefined
  if (scanner.space().take('/')) {
    predicate = parts.expression(true)
    if (!scanner.space().take('/')) scanner.fail('\'/\' is missing behind the predicate')
  }
  const { at } = scanner.space()
  const body = parts.block(0)
  if (body.length === 0) scanner.fail('there is no action between { and }', at)
  return predicate === undefined ? { points, body } : { points, predicate, body }
}

/** What is known of a probe while it is read, be it from one text or from several. */
export class ProbeSoFar {
  readonly kinds = new Set<PointKind>() // of its points
  #statements = 0

  /** One more statement. */
  count(scanner: Scanner, at = scanner.at): void {
    if (++this.#statements > MAX_STATEMENTS) scanner.fail(`more than ${MAX_STATEMENTS} statements in one probe`, at)
  }

  /** An if, inside of `depth` others. */
  nest(depth: number, scanner: Scanner, at = scanner.at): void {
    if (depth >= MAX_NESTED) scanner.fail(`ifs are nested more than ${MAX_NESTED} deep`, at)
  }
}

/** Reads the parts of one probe. */
export class PartReader {
  readonly #scanner: Scanner
  readonly #expressions: ExpressionReader
  readonly #probe: ProbeSoFar

  constructor(scanner: Scanner, probe: ProbeSoFar) {
    this.#scanner = scanner
    this.#expressions = new ExpressionReader(scanner)
    this.#probe = probe
  }

  /** Points with commas between. */
  points(): PointText[] {
    const scanner: Scanner = this.#scanner
    const points: PointText[] = []
    do {
      scanner.space()
      const point = this.#point()
      points.push(point)
      this.#probe.kinds.add(point.kind)
    } while (scanner.space().take(','))
    return points
  }

  #point(): PointText {
    const scanner: Scanner = this.#scanner
    const start = scanner.at
    const kind = scanner.word(/[a-z]+/y)
    const known = KINDS.find((k) => k === kind)
    if (known === undefined) {
      scanner.fail(`${kind === '' ? 'a point' : `'${kind}'`} is not one of ${KINDS.join(', ')}${scanner.hint(kind, KINDS)}`, start)
    }
    if (!scanner.take(':')) scanner.fail(`':' and a function's name are missing after ${known}`)
    let pattern = scanner.word(/[A-Za-z0-9_.$*?]+/y)
    if (pattern === '') scanner.fail('a function\'s name is missing')
    if (scanner.take('@')) {
      const address = scanner.word(/0x[0-9a-fA-F]{1,16}/y)
      if (address === '') scanner.fail(`an address is missing after ${pattern}@`)
      if (/[*?]/.test(pattern)) scanner.fail('a name with wildcards takes no address')
      pattern += `@${address}`
    }
    let offset = 0
    const offsetAt = scanner.at
    if (scanner.take('+')) {
      const digits = scanner.word(/0x[0-9a-fA-F]{1,8}|[0-9]{1,9}/y)
      if (digits === '') scanner.fail('an offset is missing after +')
      if (known !== 'insn') scanner.fail(`${known}: takes no offset; insn:${pattern}+${digits} is a single instruction`, offsetAt)
      offset = Number(digits)
    } else if (known === 'insn') {
      scanner.fail('insn: needs an offset, as in insn:vfs_read+0x1c')
    }
    return { kind: known, pattern, offset, ...scanner.place(start) }
  }

  /** An expression, whose inputs are to be had at all of the probe's points: these are read before. */
  expression(inPredicate = false): Expression {
    const read = this.#expressions.read(inPredicate)
    this.#mustBeHad(read)
    return read
  }

  #mustBeHad(one: Expression): void {
    if (one.op === 'input') {
      const where = INPUTS_OF.get(one.input)
      const missing = where && [...this.#probe.kinds].find((kind) => !where.includes(kind))
      if (missing !== undefined) {
        this.#scanner.fail(`${one.input} is not known at ${missing}: points, only at ${where!.join(':, ')}:`, one.at)
      }
    }
    if ('a' in one) this.#mustBeHad(one.a)
    if ('b' in one) this.#mustBeHad(one.b)
    if ('test' in one) this.#mustBeHad(one.test)
  }

  /** @param depth how many ifs it is inside of */
  block(depth: number): Statement[] {
    const scanner: Scanner = this.#scanner
    if (!scanner.space().take('{')) scanner.fail('\'{\' is missing before the actions')
    const statements = this.statements(depth)
    if (!scanner.take('}')) scanner.fail('\'}\' is missing')
    return statements
  }

  /** Statements up to a "}", or the end of the text. */
  statements(depth: number): Statement[] {
    const scanner: Scanner = this.#scanner
    const statements: Statement[] = []
    while (!scanner.space().atEnd && scanner.text[scanner.at] !== '}') {
      statements.push(this.#statement(depth))
      scanner.space().take(';')
    }
    return statements
  }

  #statement(depth: number): Statement {
    const scanner: Scanner = this.#scanner
    const { at } = scanner
    this.#probe.count(scanner)
    if (scanner.take('@')) return this.#aggregate(at)
    const word = scanner.word(/[a-z]+/y)
    if (word === 'if') return this.#if(depth)
    if (word === 'asm') return this.#asm(at)
    scanner.fail(`an action starts with @, as in @ = count(); or it is if (...) { ... }, or asm("...")${scanner.hint(word, ['if', 'asm'])}`, at)
  }

  #if(depth: number): Statement {
    const scanner: Scanner = this.#scanner
    this.#probe.nest(depth, scanner)
    if (!scanner.space().take('(')) scanner.fail('\'(\' is missing: if (condition) { ... }')
    const test = this.expression()
    if (!scanner.space().take(')')) scanner.fail('\')\' is missing behind the condition')
    const then = this.block(depth + 1)
    let otherwise: readonly Statement[] = []
    scanner.space()
    if (scanner.peek(/else\b/y) !== '') {
      scanner.at += 4
      scanner.space()
      otherwise = scanner.peek(/if\b/y) === '' ? this.block(depth + 1) : [this.#statement(depth + 1)]
    }
    return { op: 'if', test, then, otherwise }
  }

  #asm(at: number): Statement {
    const scanner: Scanner = this.#scanner
    if (!scanner.space().take('(') || !scanner.space().take('"')) scanner.fail('assembly is written asm("...")')
    const text = scanner.word(/[^"\n\\]*/y)
    if (!scanner.take('"') || !scanner.space().take(')')) scanner.fail('assembly is written asm("..."), on one line')
    return asmStatement(text, scanner, at)
  }

  #aggregate(at: number): Aggregate {
    const scanner: Scanner = this.#scanner
    const name = scanner.word(/[A-Za-z_][A-Za-z0-9_]{0,63}/y)
    let key: Expression | undefined
    if (scanner.space().take('[')) {
      key = this.expression()
      if (!scanner.space().take(']')) scanner.fail('\']\' is missing behind the key')
    }
    if (!scanner.space().take('=')) scanner.fail('\'=\' is missing')
    const start = scanner.space().at
    const word = scanner.word(/[a-z_]+/y)
    const kind = AGGREGATES.find((one) => one === word)
    if (kind === undefined) {
      scanner.fail(`${word === '' ? 'an aggregate' : `'${word}'`} is not one of ${AGGREGATES.map((one) => `${one}()`).join(', ')}${scanner.hint(word, AGGREGATES)}`, start)
    }
    if (!scanner.space().take('(')) scanner.fail(`'(' is missing: ${kind}(${kind === 'count' ? '' : '...'})`)
    let value: Expression | undefined
    let range: Aggregate['range']
    if (kind !== 'count') {
      if (scanner.space().peek(/\)/y) !== '') scanner.fail(`${kind}() of what? as in ${kind}(${INPUTS[2]}${kind === 'lhist' ? ', 0, 4096, 512' : ''})`)
      value = this.expression()
      if (kind === 'lhist') range = this.#range()
    }
    if (!scanner.space().take(')')) scanner.fail(`')' is missing: ${kind}(${kind === 'count' ? '' : '...'})`)
    return { op: 'aggregate', name, ...(key && { key }), kind, ...(value && { value }), ...(range && { range }), at }
  }

  #range(): NonNullable<Aggregate['range']> {
    const scanner: Scanner = this.#scanner
    const start = scanner.at
    const [low, high, step] = ['low', 'high', 'step'].map((what) => {
      if (!scanner.space().take(',')) scanner.fail(`lhist(value, low, high, step): ${what} is missing`)
      scanner.space()
      const digits = scanner.word(/-?(?:0x[0-9a-fA-F]{1,15}|[0-9]{1,18})\b/y)
      if (digits === '') scanner.fail(`lhist's ${what} is a constant`)
      return digits.startsWith('-') ? -BigInt(digits.slice(1)) : BigInt(digits)
    }) as [bigint, bigint, bigint]
    if (step <= 0n || high <= low || (high - low) % step !== 0n) {
      scanner.fail('lhist goes from low up to high in whole steps: lhist(arg2, 0, 4096, 512)', start)
    }
    if ((high - low) / step > MAX_BUCKETS) scanner.fail(`lhist has more than ${MAX_BUCKETS} steps`, start)
    return { low, high, step }
  }
}

/** @param text a single line, without '"' and '\\' */
export const asmStatement = (text: string, scanner: Scanner, at: number): Statement => {
  if (text.trim() === '' || text.length > MAX_ASM) scanner.fail(`assembly of 1 to ${MAX_ASM} characters`, at)
  return { op: 'asm', text, at }
}
