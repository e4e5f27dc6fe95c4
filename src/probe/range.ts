// What an expression can be, whatever its inputs are: keys must be known to be small, and division of what has no sign is
// simpler. In: a tree. Out: the least and the greatest value, as unsigned numbers. What may wrap comes to all numbers.

import { operandsSigned, type Expression } from './expression.js'

/** CPUs of a kernel are numbered below this (CONFIG_NR_CPUS_RANGE_END; arch/x86/Kconfig, 6.1 and 6.12). */
export const MAX_CPUS = 8192

export interface Range {
  readonly low: bigint
  readonly high: bigint
}

const TOP = (1n << 64n) - 1n
const ANY: Range = { low: 0n, high: TOP }
const BIT: Range = { low: 0n, high: 1n }

/** All ones up to the highest bit of a number. */
const filled = (value: bigint): bigint => (1n << BigInt(value.toString(2).length)) - 1n

/** What an expression can be, as an unsigned number. */
export const rangeOf = (one: Expression): Range => {
  switch (one.op) {
    case 'number': return { low: one.value, high: one.value }
    case 'register': return ANY
    case 'input': return one.input === 'cpu' ? { low: 0n, high: BigInt(MAX_CPUS - 1) }
      : one.input === 'pid' || one.input === 'tid' ? { low: 0n, high: (1n << 32n) - 1n } : ANY
    case 'unary': return one.operator === '!' ? BIT : ANY
    case 'choice': {
      const [a, b] = [rangeOf(one.a), rangeOf(one.b)]
      return { low: a.low < b.low ? a.low : b.low, high: a.high > b.high ? a.high : b.high }
    }
    case 'cast': {
      const a = rangeOf(one.a)
      const most = (1n << BigInt(one.bits)) - 1n
      if (a.high <= (one.signed ? most >> 1n : most)) return a
      return one.signed ? ANY : { low: 0n, high: most }
    }
    case 'binary': return ofBinary(one)
  }
}

const ofBinary = (one: Extract<Expression, { op: 'binary' }>): Range => {
  const [a, b] = [rangeOf(one.a), rangeOf(one.b)]
  const fits = (low: bigint, high: bigint): Range => (high <= TOP ? { low, high } : ANY)
  const fixed = b.low === b.high
  switch (one.operator) {
    case '&': return { low: 0n, high: a.high < b.high ? a.high : b.high }
    case '|': return { low: a.low > b.low ? a.low : b.low, high: filled(a.high | b.high) }
    case '^': return { low: 0n, high: filled(a.high | b.high) }
    case '+': return fits(a.low + b.low, a.high + b.high)
    case '*': return fits(a.low * b.low, a.high * b.high)
    case '<<': return fixed ? fits(a.low << (b.low & 63n), a.high << (b.low & 63n)) : ANY
    case '>>': return fixed && (!one.a.signed || a.high <= TOP >> 1n) ? { low: a.low >> (b.low & 63n), high: a.high >> (b.low & 63n) } : ANY
    case '/': case '%': {
      if (!fixed || b.low === 0n || (operandsSigned(one.a, one.b) && (a.high > TOP >> 1n || b.low > TOP >> 1n))) return ANY
      if (one.operator === '/') return { low: a.low / b.low, high: a.high / b.low }
      return { low: 0n, high: b.low - 1n }
    }
    case '-': return a.low >= b.high ? { low: a.low - b.high, high: a.high - b.low } : ANY
    default: return BIT // comparisons and logic
  }
}
