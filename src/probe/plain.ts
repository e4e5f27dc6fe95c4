// What of the language is served so far: plain counts. In: a program. Out: one row for each point and aggregate.
// Everything else is refused here, by name, until it is compiled.

import { EXIT, KerninstError } from '../error.js'
import { parseProgram, type PointKind, type Statement } from './program.js'
import { Scanner } from './scanner.js'

/** A point that is counted. */
export interface PlainProbe {
  readonly kind: PointKind
  readonly pattern: string
  readonly offset: number
  readonly aggregate: string // '' for @
  readonly line: number
  readonly column: number
}

/**
 * The counts that a program asks for.
 * @param source where it is from, for messages: a file's name, or "-e"
 * @throws KerninstError (65) where it is none, or asks for more
 */
export const plainProbes = (text: string, source: string): PlainProbe[] => {
  const scanner = new Scanner(text, source)
  const nameOf = (statement: Statement): string => {
    if (statement.op === 'if') return scanner.fail('if is not served yet', statement.test.at)
    if (statement.op === 'asm') return scanner.fail('asm is not served yet', statement.at)
    if (statement.kind !== 'count') return scanner.fail(`${statement.kind}() is not served yet; count() is`, statement.at)
    if (statement.key !== undefined) return scanner.fail('keys are not served yet', statement.key.at)
    return statement.name
  }
  return parseProgram(text, source).flatMap(({ points, predicate, body }) => {
    if (predicate !== undefined) scanner.fail('predicates are not served yet', predicate.at)
    const names = body.map(nameOf)
    const again = body.find((_, i) => names.indexOf(names[i]!) !== i)
    if (again !== undefined && again.op === 'aggregate') scanner.fail('an aggregate is given twice in one probe', again.at)
    return points.flatMap(({ kind, pattern, offset, line, column }) => {
      if (kind === 'span') throw new KerninstError(EXIT.data, `${source}:${line}:${column}: span: points are not served yet`)
      return names.map((aggregate) => ({ kind, pattern, offset, aggregate, line, column }))
    })
  })
}
