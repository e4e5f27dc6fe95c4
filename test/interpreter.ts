// The probe language, interpreted: what a program does, said once more and by other means than the compiler's. In: a program
// and the state of a thread. Out: changes of slots, as src/probe/aggregates.ts lays them out.
// Left out: all that makes it fast.

import { REGISTER_NAMES } from '../src/code/registers.js'
import type { Expression } from '../src/probe/expression.js'
import type { Aggregate, Probe, Statement } from '../src/probe/program.js'

export interface Thread {
  readonly register: (name: string) => bigint // as it is where the probe is
  readonly left?: Map<string, bigint> // what assembly has left in registers since
  readonly cpu: bigint
  readonly pid: bigint
  readonly tid: bigint
  readonly caller: bigint
  readonly ticks?: bigint
}

const ARGUMENTS = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9']
const WORD = 1n << 64n
const HALF = 1n << 63n

const wrap = (value: bigint): bigint => ((value % WORD) + WORD) % WORD
const withSign = (value: bigint): bigint => (value >= HALF ? value - WORD : value)

const varies = (one: Expression): boolean => {
  if (one.op === 'input' || one.op === 'register' || one.op === 'choice') return true
  return ('a' in one && varies(one.a)) || ('b' in one && varies(one.b))
}

/** Whether a pair of operands has signs: a constant goes with the other one. */
const pairHasSign = (a: Expression, b: Expression): boolean =>
  varies(a) === varies(b) ? a.signed && b.signed : varies(a) ? a.signed : b.signed

const divide = (a: bigint, b: bigint): bigint => (b === 0n ? 0n : a / b)
const remainder = (a: bigint, b: bigint): bigint => (b === 0n ? a : a % b)

/** What an expression is, as a number of 64 bits without a sign. */
export const evaluate = (one: Expression, thread: Thread): bigint => {
  const of = (part: Expression): bigint => evaluate(part, thread)
  switch (one.op) {
    case 'number': return one.value
    case 'register': {
      const name = REGISTER_NAMES[one.register]!
      return thread.left?.get(name) ?? thread.register(name)
    }
    case 'input': {
      if (one.input === 'retval') return thread.register('rax')
      const argument = /^arg(\d)$/.exec(one.input)
      if (argument !== null) return thread.register(ARGUMENTS[Number(argument[1])]!)
      return thread[one.input as 'cpu' | 'pid' | 'tid' | 'caller' | 'ticks']!
    }
    case 'unary': {
      const a = of(one.a)
      return one.operator === '!' ? BigInt(a === 0n) : one.operator === '-' ? wrap(-a) : WORD - 1n - a
    }
    case 'cast': {
      const size = 1n << BigInt(one.bits)
      const rest = of(one.a) % size
      return one.signed && rest >= size / 2n ? wrap(rest - size) : rest
    }
    case 'choice': return of(one.test) !== 0n ? of(one.a) : of(one.b)
    case 'binary': {
      const [x, y] = [of(one.a), of(one.b)]
      const hasSign = pairHasSign(one.a, one.b)
      const [a, b] = hasSign ? [withSign(x), withSign(y)] : [x, y]
      const by = 2n ** (y % 64n)
      switch (one.operator) {
        case '+': return wrap(x + y)
        case '-': return wrap(x - y)
        case '*': return wrap(x * y)
        case '/': return wrap(divide(a, b))
        case '%': return wrap(remainder(a, b))
        case '&': return x & y
        case '|': return x | y
        case '^': return x ^ y
        case '<<': return wrap(x * by)
        // Towards minus infinity, unlike a division.
        case '>>': return one.a.signed && x >= HALF ? wrap(-((WORD - x + by - 1n) / by)) : x / by
        case '==': return BigInt(x === y)
        case '!=': return BigInt(x !== y)
        case '<': return BigInt(a < b)
        case '<=': return BigInt(a <= b)
        case '>': return BigInt(a > b)
        case '>=': return BigInt(a >= b)
        case '&&': return BigInt(x !== 0n && y !== 0n)
        case '||': return BigInt(x !== 0n || y !== 0n)
      }
    }
  }
}

/** slot -> value; what is not there is zero. */
export type Slots = Map<number, bigint>

const add = (slots: Slots, slot: number, value: bigint): void => {
  slots.set(slot, wrap((slots.get(slot) ?? 0n) + value))
}

/** The bucket of a logarithmic histogram: zero; [1, 2); [2, 4); ... */
const bucketOf = (value: bigint): number => {
  for (let bucket = 0; ; bucket++) if (value < 1n << BigInt(bucket)) return bucket
}

const collect = (one: Aggregate, first: number, thread: Thread, slots: Slots): void => {
  const value = one.value === undefined ? 0n : evaluate(one.value, thread)
  const hasSign = one.value?.signed ?? false
  switch (one.kind) {
    case 'count': return add(slots, first, 1n)
    case 'sum': return add(slots, first, value)
    case 'avg':
      add(slots, first, value)
      return add(slots, first + 1, 1n)
    case 'min': case 'max': {
      const up = hasSign ? wrap(value + HALF) : value
      const turned = one.kind === 'max' ? up : WORD - 1n - up
      if (turned > (slots.get(first) ?? 0n)) slots.set(first, turned)
      return add(slots, first + 1, 1n)
    }
    case 'hist': return add(slots, first + bucketOf(value), 1n)
    case 'lhist': {
      const { low, high, step } = one.range!
      const number = hasSign ? withSign(value) : value
      const last = Number((high - low) / step) + 1
      return add(slots, first + (number < low ? 0 : number >= high ? last : 1 + Number((number - low) / step)), 1n)
    }
  }
}

type Registers = (name: string) => bigint

/** Assembly, and what it leaves in which registers. */
export const ASSEMBLY: Readonly<Record<string, (register: Registers) => Readonly<Record<string, bigint>>>> = {
  'mov r10, rdi; add r10, 5': (r) => ({ r10: wrap(r('rdi') + 5n) }),
  'xchg rbx, rsi': (r) => ({ rbx: r('rsi'), rsi: r('rbx') }),
  'bswap r11': (r) => ({ r11: BigInt(`0x${r('r11').toString(16).padStart(16, '0').match(/../g)!.reverse().join('')}`) }),
  'rol r9, 7': (r) => ({ r9: wrap(r('r9') * 128n) + r('r9') / 2n ** 57n }),
  'imul r8, r9, -3': (r) => ({ r8: wrap(r('r9') * -3n) }),
  'xor eax, eax': () => ({ rax: 0n }),
  'lea r12, [r13+r14*2+9]': (r) => ({ r12: wrap(r('r13') + r('r14') * 2n + 9n) }),
  'cmp rdi, rsi; cmovb rdi, rsi': (r) => ({ rdi: r('rdi') < r('rsi') ? r('rsi') : r('rdi') }),
  'neg rcx; sbb rdx, rdx': (r) => ({ rcx: wrap(-r('rcx')), rdx: r('rcx') === 0n ? 0n : WORD - 1n }),
  'mov ah, 3': (r) => ({ rax: r('rax') - (r('rax') / 256n % 256n) * 256n + 768n }),
  'movzx r15d, cl; nop': (r) => ({ r15: r('rcx') % 256n }),
}

/** Runs a program. `firstSlot` is where an aggregate's slots for a key are. */
export const interpret = (
  probe: Pick<Probe, 'predicate' | 'body'>, at: Thread, slots: Slots, firstSlot: (one: Aggregate, key: bigint) => number,
): void => {
  const left = new Map<string, bigint>()
  const thread: Thread = { ...at, left }
  const run = (body: readonly Statement[]): void => {
    for (const one of body) {
      if (one.op === 'if') run(evaluate(one.test, thread) !== 0n ? one.then : one.otherwise)
      else if (one.op === 'asm') {
        const changed = ASSEMBLY[one.text]!((name) => left.get(name) ?? at.register(name))
        for (const [name, value] of Object.entries(changed)) left.set(name, value)
      } else collect(one, firstSlot(one, one.key === undefined ? 0n : evaluate(one.key, thread)), thread, slots)
    }
  }
  if (probe.predicate === undefined || evaluate(probe.predicate, thread) !== 0n) run(probe.body)
}
