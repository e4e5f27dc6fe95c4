// What constant expressions come to, before anything is compiled. In: a tree. Out: a number of 64 bits.

import { isConstant, operandsSigned, type BinaryOperator, type Expression } from './expression.js'

/** The highest bit: a number's sign. */
export const SIGN = 1n << 63n

export const unsigned = (value: bigint): bigint => BigInt.asUintN(64, value)
export const signed = (value: bigint): bigint => BigInt.asIntN(64, value)

/** A constant's value; undefined where it is none. */
export const constantOf = (one: Expression): bigint | undefined => (isConstant(one) ? fold(one) : undefined)

const fold = (one: Expression): bigint => {
  switch (one.op) {
    case 'number': return one.value
    case 'unary': {
      const a = fold(one.a)
      return one.operator === '!' ? (a === 0n ? 1n : 0n) : unsigned(one.operator === '-' ? -a : ~a)
    }
    case 'cast': {
      const a = fold(one.a)
      return unsigned(one.signed ? BigInt.asIntN(one.bits, a) : BigInt.asUintN(one.bits, a))
    }
    case 'binary': return foldBinary(one.operator, fold(one.a), fold(one.b), one)
    default: throw new Error('not a constant')
  }
}

const foldBinary = (operator: BinaryOperator, a: bigint, b: bigint, one: Extract<Expression, { op: 'binary' }>): bigint => {
  const isSigned = operandsSigned(one.a, one.b)
  const [x, y] = isSigned ? [signed(a), signed(b)] : [a, b]
  const bit = (value: boolean): bigint => (value ? 1n : 0n)
  switch (operator) {
    case '||': return bit(a !== 0n || b !== 0n)
    case '&&': return bit(a !== 0n && b !== 0n)
    case '|': return a | b
    case '^': return a ^ b
    case '&': return a & b
    case '==': return bit(a === b)
    case '!=': return bit(a !== b)
    case '<': return bit(x < y)
    case '<=': return bit(x <= y)
    case '>': return bit(x > y)
    case '>=': return bit(x >= y)
    case '<<': return unsigned(a << (b & 63n))
    case '>>': return unsigned((one.a.signed ? signed(a) : a) >> (b & 63n))
    case '+': return unsigned(a + b)
    case '-': return unsigned(a - b)
    case '*': return unsigned(a * b)
    case '/': return b === 0n ? 0n : unsigned(x / y)
    case '%': return b === 0n ? a : unsigned(x % y)
  }
}

/** Whether a condition holds, where that is known whatever the inputs are. */
export const truthOf = (one: Expression): boolean | undefined => {
  const constant = constantOf(one)
  if (constant !== undefined) return constant !== 0n
  if (one.op === 'unary' && one.operator === '!') {
    const a = truthOf(one.a)
    return a === undefined ? undefined : !a
  }
  if (one.op !== 'binary' || (one.operator !== '&&' && one.operator !== '||')) return undefined
  const decides = one.operator === '||'
  const [a, b] = [truthOf(one.a), truthOf(one.b)]
  if (a === decides || b === decides) return decides
  return a === undefined || b === undefined ? undefined : !decides
}
