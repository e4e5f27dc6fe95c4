// What the programs of a plan ask for, point by point. In: program texts. Out: one row for each point and count; the programs
// that are more than plain counts; and the aggregates of all of them.
//
// A count() without a key stands for each point by itself. Where nothing decides whether it counts, it is a plain count,
// which the planner may take anywhere that runs as often, or conclude from other counts. All else of a probe is a program,
// which runs exactly where the point is. The program of a span runs at the ways out of a function, and remembers at the entry
// when that was, and what of the call is asked for afterwards.

import { FLAGS, GPRS } from '../code/registers.js'
import { Aggregates, isPointCount } from './aggregates.js'
import type { Assembled } from './assembly.js'
import type { Expression } from './expression.js'
import { parseProgram, type Aggregate, type PointKind, type Probe, type Statement } from './program.js'
import { Scanner } from './scanner.js'
import { conditions, eachExpression, eachPart, eachStatement, registersNeeded } from './trees.js'

/** A point, and what is counted there. */
export interface Request {
  readonly kind: PointKind
  readonly pattern: string
  readonly offset: number
  /** The aggregate that a row of the report is for: '' for @. */
  readonly aggregate: string
  /** Index of the program that runs there; -1: a plain count. */
  readonly program: number
  /** Whether the row has a count of its own. */
  readonly counted: boolean
  readonly source: string
  readonly line: number
  readonly column: number
}

/** What the program of a span needs beside what runs at the ways out. */
export interface SpanTerms {
  /** Asked at the entry: the part of the predicate that needs nothing of the return. */
  readonly entry?: Expression
  readonly elapsed: boolean
  readonly oncpu: boolean
  /** Numbers of the arguments that are remembered until the return, ascending. */
  readonly remembers: readonly number[]
}

/** What runs at the points of one probe, beside plain counts. */
export interface PointProgram {
  /** Of a span: the part that is asked at the ways out. */
  readonly predicate?: Expression
  readonly body: readonly Statement[]
  /** The counts that each of its points has for itself. */
  readonly counts: readonly string[]
  /** Its assembly, statement by statement. */
  readonly assembled: ReadonlyMap<Statement, Assembled>
  readonly span?: SpanTerms
}

export interface Requests {
  readonly rows: readonly Request[]
  readonly programs: readonly PointProgram[]
  readonly aggregates: Aggregates
}

/** A program's text, and where it is from: a file's name, or "-e". */
export interface ProgramText {
  readonly text: string
  readonly source: string
  /** Where it is not in the language itself. */
  readonly format?: 'yaml'
}

/** As many registers as can be had at any place. */
const MAX_VALUES = 8
/** And in a span, which keeps some for itself. */
const MAX_SPAN_VALUES = 4

/** So many values an expression may need at the same time, beside what the assembly of its program uses. */
export const valuesAllowed = (assembled: Iterable<Assembled>): number => {
  let used = 0
  for (const { reads, writes } of assembled) used |= (reads | writes) & GPRS
  let allowed = MAX_VALUES
  for (; used !== 0; used &= used - 1) allowed--
  return Math.max(1, allowed)
}

/** The counts without a key in some statements, each name once; and the name of any other aggregate. */
const namesIn = (body: readonly Statement[]): { counts: string[]; other: string | undefined } => {
  const counts = new Set<string>()
  let other: string | undefined
  eachStatement(body, (one) => {
    if (one.op !== 'aggregate') return
    if (isPointCount(one)) counts.add(one.name)
    else other ??= one.name
  })
  return { counts: [...counts], other }
}

/** Assembles the asm statements of a probe. */
const assembleAll = (scanner: Scanner, probe: Probe, assemble: Assemble): Map<Statement, Assembled> => {
  const assembled = new Map<Statement, Assembled>()
  eachStatement(probe.body, (one) => {
    if (one.op !== 'asm') return
    const result = assemble(one.text)
    if (typeof result === 'string') return scanner.fail(`asm: ${result}`, one.at)
    // Whatever ran before in the same probe has changed them.
    if (result.reads & FLAGS) scanner.fail('asm: it reads flags that it has not set', one.at)
    assembled.set(one, result)
  })
  return assembled
}

/** What no code can be made of. */
const mustBeServed = (scanner: Scanner, probe: Probe, allowed: number): void => {
  eachExpression(probe, (one) => {
    if (registersNeeded(one) > allowed) scanner.fail(`more than ${allowed} values are needed at once: simplify the expression`, one.at)
    eachPart(one, (part) => {
      if (part.op === 'register' && part.register === 4) scanner.fail('reg("rsp") is not to be had', part.at)
    })
  })
}

/** What can be told of a call when it returns, and not before. */
const OF_RETURN: ReadonlySet<string> = new Set(['retval', 'elapsed', 'oncpu'])

/** What would mean one thing at the entry of a span and another at the return. */
const mustSuitSpan = (scanner: Scanner, probe: Probe): void => {
  eachExpression(probe, (one) => eachPart(one, (part) => {
    if (part.op === 'register') scanner.fail('reg() in a span: of its entry, or of its return? Take entry: or return:', part.at)
  }))
  eachStatement(probe.body, (one) => {
    if (one.op === 'asm') scanner.fail('asm in a span: at its entry, or at its return? Take entry: or return:', one.at)
  })
}

/** Takes the probe of a span apart: what is asked where. */
const spanOf = (probe: Probe): { predicate?: Expression; span: SpanTerms } => {
  const inputs = new Set<string>()
  const isOfReturn = (one: Expression): boolean => {
    let found = false
    eachPart(one, (part) => { found ||= part.op === 'input' && OF_RETURN.has(part.input) })
    return found
  }
  const all = probe.predicate === undefined ? [] : conditions(probe.predicate)
  const join = (list: readonly Expression[]): Expression | undefined =>
    list.reduce<Expression | undefined>((a, b) => (a === undefined ? b : { op: 'binary', operator: '&&', a, b, signed: true, at: b.at }), undefined)
  const entry = join(all.filter((one) => !isOfReturn(one)))
  const predicate = join(all.filter(isOfReturn))
  eachExpression({ body: probe.body, ...(predicate && { predicate }) }, (one) => eachPart(one, (part) => {
    if (part.op === 'input') inputs.add(part.input)
  }))
  return {
    ...(predicate && { predicate }),
    span: {
      ...(entry && { entry }), elapsed: inputs.has('elapsed'), oncpu: inputs.has('oncpu'),
      remembers: [0, 1, 2, 3, 4, 5].filter((n) => inputs.has(`arg${n}`)),
    },
  }
}

/** A span and another point have nothing in common but their text. */
const byKind = (probe: Probe): Probe[] =>
  [probe.points.filter(({ kind }) => kind !== 'span'), probe.points.filter(({ kind }) => kind === 'span')]
    .filter((points) => points.length > 0).map((points) => ({ ...probe, points }))

/** What assembles a text (assembly.ts), or says why not. */
export type Assemble = (text: string) => Assembled | string

/** Programs in YAML, and assembly, are read by packages that most plans have no use for. */
export interface Readers {
  readonly parseYaml?: typeof parseProgram
  readonly assemble?: Assemble
}

/**
 * Reads all programs.
 * @throws KerninstError (65) with source, line and column
 */
export const readRequests = (
  texts: readonly ProgramText[], { parseYaml = parseProgram, assemble = () => 'there is no assembler' }: Readers = {},
): Requests => {
  const rows: Request[] = []
  const programs: PointProgram[] = []
  const aggregates = new Aggregates()
  for (const { text, source, format } of texts) {
    const scanner = new Scanner(text, source)
    const probes = (format === 'yaml' ? parseYaml : parseProgram)(text, source)
    aggregates.learn(probes, text, source)
    for (const probe of probes.flatMap(byKind)) {
      const isSpan = probe.points[0]!.kind === 'span'
      if (isSpan) mustSuitSpan(scanner, probe)
      const assembled = assembleAll(scanner, probe, assemble)
      mustBeServed(scanner, probe, isSpan ? MAX_SPAN_VALUES : valuesAllowed(assembled.values()))
      const isPlain = (one: Statement): one is Aggregate =>
        !isSpan && probe.predicate === undefined && one.op === 'aggregate' && isPointCount(one)
      const plain = probe.body.filter(isPlain)
      const names = plain.map(({ name }) => name)
      const again = plain.find(({ name }, i) => names.indexOf(name) < i)
      if (again !== undefined) scanner.fail('an aggregate is given twice in one probe', again.at)
      const body = probe.body.filter((one) => !isPlain(one))
      const { counts, other } = namesIn(body)
      const row = (aggregate: string, program: number, counted = true): void => {
        for (const { kind, pattern, offset, line, column } of probe.points) {
          rows.push({ kind, pattern, offset, aggregate, program, counted, source, line, column })
        }
      }
      for (const name of names) row(name, -1)
      if (body.length === 0) continue
      // Two statements that count under one name, one plain and one not, would be told apart by nobody.
      for (const name of counts) if (names.includes(name)) scanner.fail(`@${name} counts twice in one probe: take another name`, bodyAt(body))
      for (const name of counts) row(name, programs.length)
      if (counts.length === 0) row(other ?? '', programs.length, false)
      const where = isSpan ? spanOf(probe) : probe.predicate && { predicate: probe.predicate }
      programs.push({ ...where, body, counts, assembled })
    }
  }
  return { rows, programs, aggregates }
}

const bodyAt = (body: readonly Statement[]): number => {
  const [first] = body
  return first === undefined ? 0 : first.op === 'if' ? first.test.at : first.at
}
