// Intervals of unsigned numbers of 64 or 32 bits, and what instructions make of them: each function takes intervals
// that hold its operands and returns one that holds every result. What may overflow comes to all numbers.
// Left out: strides, known bits and signs. What is to be proven is that an index is small.

import { ConditionCode } from '../code/iced.js'

export type Bits = 32 | 64

/** The numbers from low to high, both of them too. */
export interface Interval {
  readonly low: bigint
  readonly high: bigint
}

/** What `bits` bits can hold. */
export const LARGEST: Readonly<Record<number, bigint>> =
  { 8: 0xffn, 16: 0xffffn, 32: 0xffff_ffffn, 64: 0xffff_ffff_ffff_ffffn }

export const only = (value: bigint): Interval => ({ low: value, high: value })
export const upTo = (high: bigint): Interval => ({ low: 0n, high })

const ALL: Readonly<Record<Bits, Interval>> = { 32: upTo(LARGEST[32]!), 64: upTo(LARGEST[64]!) }

const larger = (a: bigint, b: bigint): bigint => (a > b ? a : b)
const smaller = (a: bigint, b: bigint): bigint => (a < b ? a : b)
const isOne = ({ low, high }: Interval): boolean => low === high

/** How many bits a number takes, 0 for 0. */
export const bitLength = (value: bigint): number => {
  const upper = Number(value >> 32n)
  return upper > 0 ? 64 - Math.clz32(upper) : 32 - Math.clz32(Number(value))
}

/** An exact result from low to high, taken modulo 2^bits: an interval still where all of it wraps equally often. */
const wrapped = (low: bigint, high: bigint, bits: number): Interval => {
  const width = BigInt(bits)
  if (low >> width !== high >> width) return upTo(LARGEST[bits]!)
  return { low: BigInt.asUintN(bits, low), high: BigInt.asUintN(bits, high) }
}

/** The low bits. */
export const truncated = (a: Interval, bits: 8 | 16 | Bits): Interval =>
  a.high <= LARGEST[bits]! ? a : wrapped(a.low, a.high, bits)

export const hull = (a: Interval, b: Interval): Interval =>
  ({ low: smaller(a.low, b.low), high: larger(a.high, b.high) })

export const sum = (a: Interval, b: Interval, bits: Bits): Interval => wrapped(a.low + b.low, a.high + b.high, bits)
export const difference = (a: Interval, b: Interval, bits: Bits): Interval =>
  wrapped(a.low - b.high, a.high - b.low, bits)
/** Its low bits are the same, signed or not. */
export const product = (a: Interval, b: Interval, bits: Bits): Interval => wrapped(a.low * b.low, a.high * b.high, bits)
export const negated = (a: Interval, bits: Bits): Interval => wrapped(-a.high, -a.low, bits)
export const inverted = (a: Interval, bits: Bits): Interval =>
  ({ low: LARGEST[bits]! - a.high, high: LARGEST[bits]! - a.low })

export const conjunction = (a: Interval, b: Interval): Interval =>
  isOne(a) && isOne(b) ? only(a.low & b.low) : upTo(smaller(a.high, b.high))

/** No bit is set above the highest of both. */
const filled = (a: Interval, b: Interval): bigint => (1n << BigInt(bitLength(larger(a.high, b.high)))) - 1n

export const disjunction = (a: Interval, b: Interval): Interval =>
  isOne(a) && isOne(b) ? only(a.low | b.low) : { low: larger(a.low, b.low), high: filled(a, b) }

export const exclusion = (a: Interval, b: Interval): Interval =>
  isOne(a) && isOne(b) ? only(a.low ^ b.low) : upTo(filled(a, b))

/** base + index * scale + displacement, as lea has it. */
export const address = (base: Interval, index: Interval, scale: number, displacement: bigint): Interval => {
  const factor = BigInt(scale)
  return wrapped(base.low + index.low * factor + displacement, base.high + index.high * factor + displacement, 64)
}

/** A shift's distance, from what its operand holds: the processor takes five or six bits of it. */
export const distance = (count: Interval, bits: Bits): Interval => {
  const most = BigInt(bits - 1)
  if (isOne(count)) return only(count.low & most)
  return count.high <= most ? count : upTo(most)
}

/** @param by from distance() */
export const shiftedLeft = (a: Interval, by: Interval, bits: Bits): Interval => {
  if (isOne(by)) return wrapped(a.low << by.low, a.high << by.low, bits)
  const high = a.high << by.high
  return high <= LARGEST[bits]! ? { low: a.low << by.low, high } : ALL[bits]
}

/** @param by from distance() */
export const shiftedRight = (a: Interval, by: Interval): Interval => ({ low: a.low >> by.high, high: a.high >> by.low })

/** With the sign. @param by from distance() */
export const shiftedArithmetically = (a: Interval, by: Interval, bits: Bits): Interval => {
  const half = 1n << BigInt(bits - 1)
  if (a.high < half) return shiftedRight(a, by)
  if (a.low < half || !isOne(by)) return ALL[bits]
  const signed = (value: bigint): bigint => BigInt.asUintN(bits, BigInt.asIntN(bits, value) >> by.low)
  return { low: signed(a.low), high: signed(a.high) }
}

/** The low `from` bits as a signed number, in `bits` bits. */
export const signExtended = (a: Interval, from: number, bits: Bits): Interval => {
  const { low, high } = truncated(a, from as 8 | 16 | 32)
  const half = 1n << BigInt(from - 1)
  if (high < half) return { low, high }
  if (low < half) return ALL[bits]
  const extended = (value: bigint): bigint => BigInt.asUintN(bits, BigInt.asIntN(from, value))
  return { low: extended(low), high: extended(high) }
}

/** @param b without 0 */
export const quotient = (a: Interval, b: Interval): Interval => ({ low: a.low / b.high, high: a.high / b.low })
/** @param b without 0 */
export const remainder = (a: Interval, b: Interval): Interval => upTo(smaller(a.high, b.high - 1n))

/** The number of the highest bit that is set. @param a without 0 */
export const highestBit = (a: Interval): Interval =>
  ({ low: BigInt(bitLength(a.low) - 1), high: BigInt(bitLength(a.high) - 1) })

const isNothing = ({ low, high }: Interval): boolean => low > high

const without = (a: Interval, b: Interval): Interval => {
  if (!isOne(b)) return a
  return { low: a.low === b.low ? a.low + 1n : a.low, high: a.high === b.low ? a.high - 1n : a.high }
}

/** What a and b are where a < b, and with `gap` 0 where a <= b. */
const ordered = (a: Interval, b: Interval, gap: bigint): [Interval, Interval] => [
  { low: a.low, high: smaller(a.high, b.high - gap) },
  { low: larger(b.low, a.low + gap), high: b.high },
]

const swapped = ([b, a]: [Interval, Interval]): [Interval, Interval] => [a, b]

const { l, ge, le, g } = ConditionCode
const SIGNED: ReadonlySet<ConditionCode> = new Set([l, ge, le, g])

const related = (a: Interval, b: Interval, condition: ConditionCode): [Interval, Interval] => {
  switch (condition) {
    case ConditionCode.b: case ConditionCode.l: return ordered(a, b, 1n)
    case ConditionCode.be: case ConditionCode.le: return ordered(a, b, 0n)
    case ConditionCode.a: case ConditionCode.g: return swapped(ordered(b, a, 1n))
    case ConditionCode.ae: case ConditionCode.ge: return swapped(ordered(b, a, 0n))
    case ConditionCode.e: {
      const both = { low: larger(a.low, b.low), high: smaller(a.high, b.high) }
      return [both, both]
    }
    case ConditionCode.ne: return [without(a, b), without(b, a)]
    default: return [a, b]
  }
}

/** What a and b are where a comparison of both, of so many bits, came to this; undefined where it cannot. */
export const compared = (a: Interval, b: Interval, condition: ConditionCode, bits: Bits): [Interval, Interval] | undefined => {
  const most = SIGNED.has(condition) ? LARGEST[bits]! >> 1n : LARGEST[bits]!
  if (a.high > most || b.high > most) return [a, b]
  const result = related(a, b, condition)
  return result.some(isNothing) ? undefined : result
}
