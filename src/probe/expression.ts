// Expressions: text in, trees out. Every value has 64 bits; whether it is signed is known here, and decides what division,
// remainder, shifts to the right and comparisons mean.
//
//   expression = or [ "?" expression ":" expression ]
//   or         = and { "||" and }                        then, each binding more tightly: && | ^ & (== !=)
//                                                         (< <= > >=) (<< >>) (+ -) (* / %), all from the left
//   unary      = ( "-" | "!" | "~" | "(" type ")" ) unary | primary
//   primary    = number | input | "reg" "(" '"' name '"' ")" | "(" expression ")"
//   type       = ( "int" | "uint" ) ( "8" | "16" | "32" | "64" )
//   input      = "arg0" ... "arg5" | "retval" | "cpu" | "pid" | "tid" | "ticks" | "caller" | "elapsed" | "oncpu"
//
// Signed are retval, what a cast makes so, comparisons and logic, which are 0 or 1, and operations on signed values alone.
// A constant is what its neighbour is. Division by zero is zero and leaves its remainder, as BPF has it; a shift takes its
// distance modulo 64.

import { REGISTER_NAMES } from '../code/registers.js'
import { SPACE, type Scanner } from './scanner.js'

export const INPUTS = [
  'arg0', 'arg1', 'arg2', 'arg3', 'arg4', 'arg5', 'retval', 'cpu', 'pid', 'tid', 'ticks', 'caller', 'elapsed', 'oncpu',
] as const
export type Input = (typeof INPUTS)[number]

export type UnaryOperator = '-' | '!' | '~'
export type BinaryOperator =
  '||' | '&&' | '|' | '^' | '&' | '==' | '!=' | '<' | '<=' | '>' | '>=' | '<<' | '>>' | '+' | '-' | '*' | '/' | '%'

interface Typed {
  readonly signed: boolean
  readonly at: number // in the text
}

/** @property value as an unsigned number of 64 bits */
export type Expression = Typed & (
  | { readonly op: 'number'; readonly value: bigint }
  | { readonly op: 'input'; readonly input: Input }
  | { readonly op: 'register'; readonly register: number }
  | { readonly op: 'unary'; readonly operator: UnaryOperator; readonly a: Expression }
  | { readonly op: 'binary'; readonly operator: BinaryOperator; readonly a: Expression; readonly b: Expression }
  | { readonly op: 'choice'; readonly test: Expression; readonly a: Expression; readonly b: Expression }
  | { readonly op: 'cast'; readonly bits: 8 | 16 | 32 | 64; readonly a: Expression }
)

/** From what binds least to what binds most. */
const LEVELS: readonly (readonly BinaryOperator[])[] = [
  ['||'], ['&&'], ['|'], ['^'], ['&'], ['==', '!='], ['<=', '>=', '<', '>'], ['<<', '>>'], ['+', '-'], ['*', '/', '%'],
]
const COMPARISONS: ReadonlySet<BinaryOperator> = new Set(['==', '!=', '<', '<=', '>', '>=', '&&', '||'])
/** Where it matters whether the operands are signed. */
const ORDERED: ReadonlySet<BinaryOperator> = new Set(['<', '<=', '>', '>=', '/', '%'])

/** How deep expressions may be nested. */
export const MAX_DEPTH = 64

/** What ends a predicate. */
const PREDICATE_END = new RegExp(`/${SPACE.source}\\{`, 'y')
const NAME = /[A-Za-z_][A-Za-z0-9_]*/y
const CAST = /\(\s*(u?)int(8|16|32|64)\s*\)/y
const NUMBER = /0x[0-9a-fA-F_]+|[0-9][0-9_]*/y

/** Reads one expression of a program. */
export class ExpressionReader {
  readonly #scanner: Scanner
  #inPredicate = false
  #depth = 0

  constructor(scanner: Scanner) {
    this.#scanner = scanner
  }

  /** @param inPredicate a "/" before a "{" ends it */
  read(inPredicate = false): Expression {
    this.#inPredicate = inPredicate
    this.#depth = 0
    return this.#expression()
  }

  #expression(): Expression {
    const scanner: Scanner = this.#scanner
    if (++this.#depth > MAX_DEPTH) scanner.fail(`expressions are nested more than ${MAX_DEPTH} deep`)
    const test = this.#binary(0)
    const at = scanner.space().at
    let result = test
    if (scanner.take('?')) {
      const a = this.#expression()
      if (!scanner.space().take(':')) scanner.fail('\':\' is missing: condition ? one : other')
      const b = this.#expression()
      result = { op: 'choice', test, a, b, signed: operandsSigned(a, b), at }
    }
    this.#depth--
    return result
  }

  #operator(level: number): BinaryOperator | undefined {
    const scanner: Scanner = this.#scanner
    const { text, at } = scanner
    const found = LEVELS[level]!.find((operator) => text.startsWith(operator, at))
    if (found === undefined) return undefined
    const next = text[at + found.length]
    // Half of a longer one.
    if ((found === '|' || found === '&') && next === found) return undefined
    if ((found === '<' || found === '>') && next === found) return undefined
    if (found === '/') {
      if (next === '/') return undefined
      if (this.#inPredicate && scanner.peek(PREDICATE_END) !== '') return undefined
    }
    return found
  }

  #binary(level: number): Expression {
    if (level === LEVELS.length) return this.#unary()
    const scanner: Scanner = this.#scanner
    let a = this.#binary(level + 1)
    for (let count = 0; ; count++) {
      const { at } = scanner.space()
      const operator = this.#operator(level)
      if (operator === undefined) return a
      // A long chain is a deep tree, and whoever walks it recurses.
      if (count >= MAX_DEPTH) scanner.fail(`more than ${MAX_DEPTH} operations in a row: put parts of them in parentheses`)
      scanner.at += operator.length
      const b = this.#binary(level + 1)
      if (ORDERED.has(operator)) this.#mustAgree(operator, a, b, at)
      const signed = COMPARISONS.has(operator) || (operator === '<<' || operator === '>>' ? a.signed : operandsSigned(a, b))
      a = { op: 'binary', operator, a, b, signed, at }
    }
  }

  /** A negative constant beside an unsigned value would be a huge one. */
  #mustAgree(operator: string, a: Expression, b: Expression, at: number): void {
    const negative = (one: Expression): boolean => isConstant(one) && one.op === 'unary' && one.operator === '-'
    if ((negative(a) && !isConstant(b) && !b.signed) || (negative(b) && !isConstant(a) && !a.signed)) {
      this.#scanner.fail(`'${operator}' with a negative constant, and a value that has no sign: write (int64) before that`, at)
    }
  }

  #unary(): Expression {
    const scanner: Scanner = this.#scanner
    const { at } = scanner.space()
    const operator = (['-', '!', '~'] as const).find((mark) => scanner.take(mark))
    const cast = operator === undefined ? scanner.word(CAST) : ''
    if (operator === undefined && cast === '') return this.#primary(at)
    if (++this.#depth > MAX_DEPTH) scanner.fail(`expressions are nested more than ${MAX_DEPTH} deep`)
    const a = this.#unary()
    this.#depth--
    if (operator !== undefined) {
      return { op: 'unary', operator, a, signed: operator === '!' || a.signed || (operator === '-' && isConstant(a)), at }
    }
    return { op: 'cast', bits: Number(/\d+/.exec(cast)![0]) as 8 | 16 | 32 | 64, a, signed: !cast.includes('uint'), at }
  }

  #primary(at: number): Expression {
    const scanner: Scanner = this.#scanner
    if (scanner.take('(')) {
      const inPredicate = this.#inPredicate
      this.#inPredicate = false
      const inner = this.#expression()
      this.#inPredicate = inPredicate
      if (!scanner.space().take(')')) scanner.fail('\')\' is missing')
      return inner
    }
    const digits = scanner.word(NUMBER)
    if (digits !== '') return this.#number(digits, at)
    const name = scanner.word(NAME)
    const input = INPUTS.find((one) => one === name)
    if (input !== undefined) return { op: 'input', input, signed: input === 'retval', at }
    if (name === 'reg') return this.#register(at)
    if (name === '') scanner.fail(scanner.atEnd ? 'an expression is missing' : `a value is missing before '${scanner.text[scanner.at]}'`)
    if (/^(?:args|curtask|comm|nsecs|kstack|ustack|str|func)$/.test(name)) {
      scanner.fail(`${name} is bpftrace's, and not to be had here; there are ${INPUTS.join(', ')}`, at)
    }
    scanner.fail(`'${name}' is not one of ${INPUTS.join(', ')}, reg("rbx")${scanner.hint(name, INPUTS)}`, at)
  }

  #number(digits: string, at: number): Expression {
    const scanner: Scanner = this.#scanner
    if (/[A-Za-z0-9_]/.test(scanner.text[scanner.at] ?? '') || /_$|__|x_/.test(digits)) scanner.fail(`'${digits}' is not a number`, at)
    const plain = digits.replaceAll('_', '')
    // Longer ones need not be read to be refused.
    const value = plain.length > 24 ? 1n << 64n : BigInt(plain)
    if (value >= 1n << 64n) scanner.fail(`${digits.slice(0, 24)} does not fit in 64 bits`, at)
    return { op: 'number', value, signed: value < 1n << 63n, at }
  }

  #register(at: number): Expression {
    const scanner: Scanner = this.#scanner
    const open = scanner.space().take('(') && scanner.space().take('"')
    const name = open ? scanner.word(NAME) : ''
    if (!open || !scanner.take('"') || !scanner.space().take(')')) scanner.fail('a register is written reg("rbx")', at)
    const register = REGISTER_NAMES.findIndex((one) => one === name)
    if (register < 0) scanner.fail(`'${name}' is not one of ${REGISTER_NAMES.join(', ')}${scanner.hint(name, REGISTER_NAMES)}`, at)
    return { op: 'register', register, signed: false, at }
  }
}

/** Whether two operands are compared, or divided, as signed numbers. */
export const operandsSigned = (a: Expression, b: Expression): boolean => {
  const [one, other] = [isConstant(a), isConstant(b)]
  return one && !other ? b.signed : other && !one ? a.signed : a.signed && b.signed
}

/** Whether the value is the same always. */
export const isConstant = (one: Expression): boolean => {
  switch (one.op) {
    case 'number': return true
    case 'unary': case 'cast': return isConstant(one.a)
    case 'binary': return isConstant(one.a) && isConstant(one.b)
    default: return false
  }
}
