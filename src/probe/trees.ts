// Questions about expressions and whole programs, answered by walking their trees.

import { RAX, type RegisterSet } from '../code/registers.js'
import type { Expression } from './expression.js'
import type { Probe, Statement } from './program.js'

/** Numbers of the registers that arguments are in, the first one's first (System V ABI for x86-64). */
export const ARGUMENTS: readonly number[] = [7, 6, 2, 1, 8, 9]

/** Registers that an input is read from. */
export const registersOf = (one: Expression): RegisterSet => {
  switch (one.op) {
    case 'number': return 0
    case 'register': return 1 << one.register
    case 'input': return /^arg/.test(one.input) ? 1 << ARGUMENTS[Number(one.input.slice(3))]! : one.input === 'retval' ? RAX : 0
    case 'unary': case 'cast': return registersOf(one.a)
    case 'binary': return registersOf(one.a) | registersOf(one.b)
    case 'choice': return registersOf(one.test) | registersOf(one.a) | registersOf(one.b)
  }
}

/** Calls back with every statement, those in ifs included. */
export const eachStatement = (body: readonly Statement[], see: (one: Statement) => void): void => {
  for (const one of body) {
    see(one)
    if (one.op !== 'if') continue
    eachStatement(one.then, see)
    eachStatement(one.otherwise, see)
  }
}

/** Calls back with every expression of a program. */
export const eachExpression = ({ predicate, body }: Pick<Probe, 'predicate' | 'body'>, see: (one: Expression) => void): void => {
  if (predicate !== undefined) see(predicate)
  eachStatement(body, (one) => {
    if (one.op === 'if') see(one.test)
    if (one.op !== 'aggregate') return
    if (one.key !== undefined) see(one.key)
    if (one.value !== undefined) see(one.value)
  })
}

/** Every part of an expression, itself included. */
export const eachPart = (one: Expression, see: (part: Expression) => void): void => {
  see(one)
  if ('test' in one) eachPart(one.test, see)
  if ('a' in one) eachPart(one.a, see)
  if ('b' in one) eachPart(one.b, see)
}

/** What must all hold for an expression to hold, from the left. */
export const conditions = (one: Expression): Expression[] =>
  one.op === 'binary' && one.operator === '&&' ? [...conditions(one.a), ...conditions(one.b)] : [one]

/** How many registers an expression takes while it is computed: Sethi and Ullman's number, about. */
export const registersNeeded = (one: Expression): number => {
  switch (one.op) {
    case 'number': return 1
    case 'register': case 'input': return one.op === 'input' && one.input === 'caller' ? 2 : 1
    case 'unary': case 'cast': return registersNeeded(one.a)
    case 'choice': return Math.max(registersNeeded(one.test), 1 + Math.max(registersNeeded(one.a), registersNeeded(one.b)))
    case 'binary': {
      const [a, b] = [registersNeeded(one.a), registersNeeded(one.b)]
      const own = one.operator === '/' || one.operator === '%' ? 4 : 1
      return Math.max(own, a === b ? a + 1 : Math.max(a, b))
    }
  }
}

/** Whether two expressions are the same, wherever they stand. */
export const same = (a: Expression, b: Expression): boolean => {
  if (a.op !== b.op || a.signed !== b.signed) return false
  if (a.op === 'number' && b.op === 'number') return a.value === b.value
  if (a.op === 'input' && b.op === 'input') return a.input === b.input
  if (a.op === 'register' && b.op === 'register') return a.register === b.register
  if (a.op === 'unary' && b.op === 'unary') return a.operator === b.operator && same(a.a, b.a)
  if (a.op === 'cast' && b.op === 'cast') return a.bits === b.bits && same(a.a, b.a)
  if (a.op === 'choice' && b.op === 'choice') return same(a.test, b.test) && same(a.a, b.a) && same(a.b, b.b)
  return a.op === 'binary' && b.op === 'binary' && a.operator === b.operator && same(a.a, b.a) && same(a.b, b.b)
}
