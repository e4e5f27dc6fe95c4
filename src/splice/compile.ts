// Compiled probes: what the programs at one place ask for, as straight machine code with forward jumps alone. In: programs
// whose aggregates have slots, and what is live. Out: code that calls nothing, faults nowhere, ends, and leaves every live
// register and flag as it was.
//
// Values are in registers that are dead at the place; where these do not suffice, live ones are pushed first and popped at
// the end: the stack is the thread's own, so an interrupt may run the same probe in the middle of this one. What the program
// reads of a register is read from there, or from its pushed copy. Every change of a slot is one instruction on the current
// CPU's own copy, so neither interrupt nor migration can split it.
// Left out: which registers the programs read must be live here (draft.ts sees to it). The code is not to be trusted before
// verify.ts has accepted it.

import { FLAGS, OF, RAX, RCX, RDX, RSP, type RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { isConstant, operandsSigned, type BinaryOperator, type Expression, type Input } from '../probe/expression.js'
import type { Aggregate, Statement } from '../probe/program.js'
import type { TaskLayout } from '../probe/task.js'
import type { CodeBuffer } from './code.js'
import { ALU, CONDITION, fitsImmediate, InstructionWriter, REG, SHIFT, type Condition, type Label, type Register } from './writer.js'

/** Where an aggregate's slots are. */
export interface Bound {
  readonly slot: number //  the first one
  readonly width: number // slots of one key
  readonly keyed: boolean // the key is an index; false also where it is the CPU
}

/** A program at a place. */
export interface PlaceProgram {
  readonly predicate?: Expression
  readonly body: readonly Statement[]
  readonly bind: (one: Aggregate) => Bound
}

/** What is to be had at a place beside registers. */
export interface Surroundings {
  readonly task: TaskLayout | undefined
  readonly returnAddress: number // bytes from %rsp to the function's return address, or -1
  readonly missed: number //        slot that counts what could not be recorded
}

/** How often an extremum is tried anew where an interrupt has changed it meanwhile. */
const TRIES = 3

// In this order registers are taken: the first ones have the shortest instructions.
const ORDER: readonly Register[] = [1, 2, 6, 7, 0, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15]

const ARGUMENTS: readonly Register[] = [7, 6, 2, 1, 8, 9]

const SIGN = 1n << 63n
const unsigned = (value: bigint): bigint => BigInt.asUintN(64, value)
const signed = (value: bigint): bigint => BigInt.asIntN(64, value)

const log2 = (value: bigint): number => ((value & (value - 1n)) === 0n && value > 0n ? value.toString(2).length - 1 : -1)

const COMPARISON: Readonly<Partial<Record<BinaryOperator, readonly [Condition, Condition]>>> = { // unsigned, signed
  '==': [CONDITION.e, CONDITION.e], '!=': [CONDITION.ne, CONDITION.ne],
  '<': [CONDITION.b, CONDITION.l], '<=': [CONDITION.be, CONDITION.le],
  '>': [CONDITION.a, CONDITION.g], '>=': [CONDITION.ae, CONDITION.ge],
}
/** The same with the operands exchanged. */
const EXCHANGED: Readonly<Partial<Record<BinaryOperator, BinaryOperator>>> = { '==': '==', '!=': '!=', '<': '>', '<=': '>=', '>': '<', '>=': '<=' }

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

/** Calls back with every expression of a program. */
export const eachExpression = ({ predicate, body }: Pick<PlaceProgram, 'predicate' | 'body'>, see: (one: Expression) => void): void => {
  if (predicate !== undefined) see(predicate)
  const each = (statements: readonly Statement[]): void => {
    for (const one of statements) {
      if (one.op === 'aggregate') {
        if (one.key !== undefined) see(one.key)
        if (one.value !== undefined) see(one.value)
      } else if (one.op === 'if') {
        see(one.test)
        each(one.then)
        each(one.otherwise)
      }
    }
  }
  each(body)
}

/** Every part of an expression, itself included. */
export const eachPart = (one: Expression, see: (part: Expression) => void): void => {
  see(one)
  if ('test' in one) eachPart(one.test, see)
  if ('a' in one) eachPart(one.a, see)
  if ('b' in one) eachPart(one.b, see)
}

/** What of fixed registers and of the surroundings some programs need. */
interface Needs {
  special: RegisterSet // that instructions want, and nothing else may lie in
  ticks: boolean
}

const needsOf = (programs: readonly PlaceProgram[]): Needs => {
  const needs: Needs = { special: 0, ticks: false }
  const part = (one: Expression): void => {
    if (one.op === 'input' && one.input === 'ticks') {
      needs.ticks = true
      needs.special |= RAX | RDX
    }
    if (one.op !== 'binary' || isConstant(one)) return
    const b = constantOf(one.b)
    if ((one.operator === '<<' || one.operator === '>>') && b === undefined) needs.special |= RCX
    if ((one.operator === '/' || one.operator === '%') && !(b !== undefined && isEasyDivisor(one, b))) needs.special |= RAX | RDX
  }
  const statements = (body: readonly Statement[]): void => {
    for (const one of body) {
      if (one.op === 'if') {
        statements(one.then)
        statements(one.otherwise)
      } else if (one.op === 'aggregate') {
        if (one.kind === 'min' || one.kind === 'max') needs.special |= RAX
        if (one.kind === 'lhist' && log2(one.range!.step) < 0) needs.special |= RAX | RDX
      }
    }
  }
  for (const program of programs) {
    eachExpression(program, (one) => eachPart(one, part))
    statements(program.body)
  }
  return needs
}

/** Division that needs none: by zero, or unsigned by a power of two. */
const isEasyDivisor = (one: Extract<Expression, { op: 'binary' }>, b: bigint): boolean =>
  b === 0n || (log2(b) >= 0 && !operandsSigned(one.a, one.b))

/** All registers are taken: one more has to be pushed. */
class NoRegister extends Error {}

/**
 * Appends the code of all programs of a place.
 * @param live what must be kept: with the registers that the programs read
 */
export const compilePrograms = (code: CodeBuffer, live: RegisterSet, programs: readonly PlaceProgram[], around: Surroundings): void => {
  const needs = needsOf(programs)
  let reads = 0
  for (const program of programs) eachExpression(program, (one) => { reads |= registersOf(one) })
  assert((reads & ~live & ~RSP) === 0, 'what programs read is live')
  let pushed = needs.special & live
  if (live & FLAGS) pushed |= RAX & live
  for (;;) {
    try {
      const attempt = new Compiler(live, pushed, needs, around)
      attempt.run(programs)
      attempt.writer.flush(code)
      return
    } catch (error) {
      if (!(error instanceof NoRegister)) throw error
      const candidates = ORDER.filter((r) => (live & ~pushed & (1 << r)) !== 0)
      const next = candidates.find((r) => (reads & (1 << r)) === 0) ?? candidates[0]
      assert(next !== undefined, 'an expression needs more values at once than there are registers')
      pushed |= 1 << next
    }
  }
}

type Value = { readonly constant: bigint } | { readonly register: Register; readonly owned: boolean }

class Compiler {
  readonly writer = new InstructionWriter()
  readonly #live: RegisterSet
  readonly #pushed: readonly Register[]
  readonly #needs: Needs
  readonly #around: Surroundings
  readonly #flags: 'dead' | 'register' | 'stack'
  readonly #free: Register[] // general ones, the next one last
  #depth = 0 // words on the stack
  #ticks: Register = -1

  constructor(live: RegisterSet, pushed: RegisterSet, needs: Needs, around: Surroundings) {
    this.#live = live
    this.#needs = needs
    this.#around = around
    this.#pushed = ORDER.filter((r) => (pushed & (1 << r)) !== 0)
    this.#flags = (live & FLAGS) === 0 ? 'dead' : needs.special & RAX ? 'stack' : 'register'
    const taken = needs.special | (this.#flags === 'register' ? RAX : 0)
    this.#free = ORDER.filter((r) => ((pushed | ~live) & ~taken & (1 << r)) !== 0).reverse()
  }

  run(programs: readonly PlaceProgram[]): void {
    const { writer } = this
    const overflow = (this.#live & OF) !== 0
    for (const r of this.#pushed) writer.push(r)
    this.#depth = this.#pushed.length
    if (this.#flags !== 'dead') writer.saveFlags(overflow)
    if (this.#flags === 'stack') {
      writer.push(REG.rax)
      this.#depth++
    }
    if (this.#needs.ticks) {
      // Once, so that it is one time in all of them.
      this.#ticks = this.#take()
      writer.timestamp()
      writer.shiftImmediate(SHIFT.shl, REG.rdx, 32)
      writer.alu(ALU.or, REG.rax, REG.rdx)
      writer.move(this.#ticks, REG.rax)
    }
    for (let p = 0; p < programs.length;) {
      const { predicate } = programs[p]!
      const end = writer.label()
      if (predicate !== undefined) this.#unless(predicate, end)
      // Programs with one predicate ask once.
      do this.#statements(programs[p]!, programs[p]!.body)
      while (++p < programs.length && predicate !== undefined && programs[p]!.predicate !== undefined && same(predicate, programs[p]!.predicate!))
      writer.place(end)
    }
    if (this.#flags === 'stack') writer.pop(REG.rax)
    if (this.#flags !== 'dead') writer.restoreFlags(overflow)
    for (const r of this.#pushed.toReversed()) writer.pop(r)
  }

  // ---- registers

  #take(): Register {
    const r = this.#free.pop()
    if (r === undefined) throw new NoRegister()
    return r
  }

  #release(...values: (Value | undefined)[]): void {
    for (const value of values) if (value !== undefined && 'register' in value && value.owned) this.#free.push(value.register)
  }

  /** A register that holds a value and may be changed. */
  #own(value: Value): Register {
    if ('register' in value && value.owned) return value.register
    const r = this.#take()
    if ('constant' in value) this.writer.load(r, value.constant)
    else this.writer.move(r, value.register)
    return r
  }

  /** A register that holds a value. */
  #hold(value: Value): { readonly register: Register; readonly owned: boolean } {
    return 'register' in value ? value : { register: this.#own(value), owned: true }
  }

  // ---- values

  #value(one: Expression): Value {
    const { writer } = this
    const constant = constantOf(one)
    if (constant !== undefined) return { constant }
    switch (one.op) {
      case 'register': return this.#original(one.register)
      case 'input': return this.#input(one.input)
      case 'unary': {
        if (one.operator === '!') return this.#bit(one)
        const r = this.#own(this.#value(one.a))
        if (one.operator === '-') writer.negate(r)
        else writer.complement(r)
        return { register: r, owned: true }
      }
      case 'cast': {
        const a = this.#value(one.a)
        if (one.bits === 64) return a
        const from = this.#hold(a)
        const to = from.owned ? from.register : this.#take()
        writer.extend(to, from.register, one.bits, one.signed)
        return { register: to, owned: true }
      }
      case 'choice': {
        const [otherwise, end] = [writer.label(), writer.label()]
        const r = this.#take()
        this.#unless(one.test, otherwise)
        this.#into(r, one.a)
        writer.jump(end)
        writer.place(otherwise)
        this.#into(r, one.b)
        writer.place(end)
        return { register: r, owned: true }
      }
      case 'binary': return this.#binary(one)
      case 'number': return { constant: one.value }
    }
  }

  #into(r: Register, one: Expression): void {
    const value = this.#value(one)
    if ('constant' in value) this.writer.load(r, value.constant)
    else this.writer.move(r, value.register)
    this.#release(value)
  }

  /** What a register holds where the probe is. */
  #original(register: Register): Value {
    const { writer } = this
    const place = this.#pushed.indexOf(register)
    if (register !== REG.rsp && place < 0) return { register, owned: false }
    const r = this.#take()
    if (register === REG.rsp) writer.address(r, REG.rsp, 8 * this.#depth)
    else writer.loadStack(r, 8 * (this.#depth - 1 - place))
    return { register: r, owned: true }
  }

  #input(input: Input): Value {
    const { writer } = this
    const { task, returnAddress } = this.#around
    if (input === 'retval') return this.#original(REG.rax)
    if (input.startsWith('arg')) return this.#original(ARGUMENTS[Number(input.slice(3))]!)
    if (input === 'ticks') return { register: this.#ticks, owned: false }
    const r = this.#take()
    if (input === 'caller') {
      assert(returnAddress >= 0, 'the return address is known')
      const slide = this.#take()
      writer.loadStack(r, returnAddress + 8 * this.#depth)
      writer.loadSlide(slide)
      writer.alu(ALU.sub, r, slide)
      this.#free.push(slide)
    } else {
      assert(task !== undefined && (input === 'cpu' || input === 'pid' || input === 'tid'), `${input} is known`)
      if (input === 'cpu') writer.loadPerCpu(r, task.cpu, false)
      else {
        writer.loadPerCpu(r, task.current, true)
        writer.loadField(r, r, input === 'pid' ? task.tgid : task.pid)
      }
    }
    return { register: r, owned: true }
  }

  /** Both operands, the one that needs more registers first. */
  #both(a: Expression, b: Expression): [Value, Value] {
    if (registersNeeded(b) <= registersNeeded(a)) {
      const first = this.#value(a)
      return [first, this.#value(b)]
    }
    const first = this.#value(b)
    return [this.#value(a), first]
  }

  #binary(one: Extract<Expression, { op: 'binary' }>): Value {
    switch (one.operator) {
      case '+': case '*': case '&': case '|': case '^': return this.#commutative(one)
      case '-': return this.#difference(one)
      case '<<': case '>>': return this.#shift(one)
      case '/': case '%': return this.#quotient(one)
      default: return this.#bit(one)
    }
  }

  #commutative({ operator, a, b }: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    let [x, y] = this.#both(a, b)
    // What may be changed comes first, a constant last.
    if ('constant' in x || ('register' in y && y.owned && !x.owned)) [x, y] = [y, x]
    const r = this.#own(x)
    const operation = operator === '+' ? ALU.add : operator === '&' ? ALU.and : operator === '|' ? ALU.or : ALU.xor
    if ('constant' in y && operator === '*') {
      const power = log2(y.constant)
      if (power >= 0) writer.shiftImmediate(SHIFT.shl, r, power)
      else if (fitsImmediate(y.constant)) writer.multiplyImmediate(r, r, Number(signed(y.constant)))
      else {
        const by = this.#hold(y)
        writer.multiply(r, by.register)
        this.#release(by)
      }
    } else if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(operation, r, Number(signed(y.constant)))
    else {
      const other = this.#hold(y)
      if (operator === '*') writer.multiply(r, other.register)
      else writer.alu(operation, r, other.register)
      this.#release(other)
    }
    return { register: r, owned: true }
  }

  #difference({ a, b }: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const [x, y] = this.#both(a, b)
    const r = this.#own(x)
    if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(ALU.sub, r, Number(signed(y.constant)))
    else {
      const other = this.#hold(y)
      writer.alu(ALU.sub, r, other.register)
      this.#release(other)
    }
    return { register: r, owned: true }
  }

  #shift({ operator, a, b }: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const operation = operator === '<<' ? SHIFT.shl : a.signed ? SHIFT.sar : SHIFT.shr
    const [x, y] = this.#both(a, b)
    const r = this.#own(x)
    if ('constant' in y) writer.shiftImmediate(operation, r, Number(y.constant & 63n))
    else {
      writer.move(REG.rcx, y.register)
      writer.shiftByCl(operation, r)
      this.#release(y)
    }
    return { register: r, owned: true }
  }

  /** Division and remainder; of zero, as BPF has them. */
  #quotient(one: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const isSigned = operandsSigned(one.a, one.b)
    const divisor = constantOf(one.b)
    const quotient = one.operator === '/'
    if (divisor === 0n) {
      if (!quotient) return this.#value(one.a)
      return { constant: 0n }
    }
    if (divisor !== undefined && isEasyDivisor(one, divisor)) {
      const power = log2(divisor)
      const r = this.#own(this.#value(one.a))
      if (quotient) writer.shiftImmediate(SHIFT.shr, r, power)
      else this.#mask(r, divisor - 1n)
      return { register: r, owned: true }
    }
    const [x, y] = this.#both(one.a, one.b)
    if (!isSigned) {
      const by = this.#hold(y)
      const r = this.#own(x)
      this.#divide(r, by.register, quotient, divisor === undefined)
      this.#release(by)
      return { register: r, owned: true }
    }
    // Of the absolute values; then the sign: so nothing overflows.
    const a = this.#own(x)
    const signOfA = this.#absolute(a)
    const b = this.#own(y)
    const signOfB = this.#absolute(b)
    this.#divide(a, b, quotient, divisor === undefined)
    if (quotient) writer.alu(ALU.xor, signOfA, signOfB)
    writer.alu(ALU.xor, a, signOfA)
    writer.alu(ALU.sub, a, signOfA)
    this.#free.push(signOfB, b, signOfA)
    return { register: a, owned: true }
  }

  /** a = a / b, or the remainder; of zero: 0, or a. */
  #divide(a: Register, b: Register, quotient: boolean, mayBeZero: boolean): void {
    const { writer } = this
    const end = writer.label()
    writer.move(REG.rax, a)
    if (mayBeZero) {
      if (quotient) writer.load(a, 0n)
      writer.test(b, b)
      writer.jumpIf(CONDITION.e, end)
    }
    writer.alu(ALU.xor, REG.rdx, REG.rdx)
    writer.divide(b)
    writer.move(a, quotient ? REG.rax : REG.rdx)
    writer.place(end)
  }

  /** Makes a signed value its absolute one; returns a register with its sign in all bits. */
  #absolute(r: Register): Register {
    const { writer } = this
    const sign = this.#take()
    writer.move(sign, r)
    writer.shiftImmediate(SHIFT.sar, sign, 63)
    writer.alu(ALU.xor, r, sign)
    writer.alu(ALU.sub, r, sign)
    return sign
  }

  #mask(r: Register, mask: bigint): void {
    const { writer } = this
    if (fitsImmediate(mask)) return writer.aluImmediate(ALU.and, r, Number(signed(mask)))
    const other = this.#take()
    writer.load(other, mask)
    writer.alu(ALU.and, r, other)
    this.#free.push(other)
  }

  // ---- conditions

  /** Logic and comparisons as numbers: 0 or 1. */
  #bit(one: Expression): Value {
    const { writer } = this
    const condition = one.op === 'binary' && COMPARISON[one.operator] !== undefined ? this.#compare(one)
      : one.op === 'unary' && one.operator === '!' && !isLogic(one.a) ? this.#isZero(one.a) : undefined
    const r = this.#take()
    if (condition !== undefined) {
      writer.setCondition(r, condition)
      return { register: r, owned: true }
    }
    const [no, end] = [writer.label(), writer.label()]
    this.#unless(one, no)
    writer.load(r, 1n)
    writer.jump(end)
    writer.place(no)
    writer.load(r, 0n)
    writer.place(end)
    return { register: r, owned: true }
  }

  /** Compares; returns the condition under which it holds. */
  #compare({ operator, a, b }: Extract<Expression, { op: 'binary' }>): Condition {
    const { writer } = this
    const isSigned = operandsSigned(a, b)
    let [x, y] = this.#both(a, b)
    let what = operator
    if ('constant' in x) {
      ;[x, y] = [y, x]
      what = EXCHANGED[operator]!
    }
    const left = this.#hold(x)
    if ('constant' in y && y.constant === 0n && (what === '==' || what === '!=')) writer.test(left.register, left.register)
    else if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(ALU.cmp, left.register, Number(signed(y.constant)))
    else {
      const right = this.#hold(y)
      writer.alu(ALU.cmp, left.register, right.register)
      this.#release(right)
    }
    this.#release(left)
    return COMPARISON[what]![isSigned ? 1 : 0]
  }

  #isZero(one: Expression): Condition {
    const { writer } = this
    if (one.op === 'binary' && one.operator === '&') {
      const mask = constantOf(one.b)
      if (mask !== undefined && fitsImmediate(mask)) {
        const value = this.#hold(this.#value(one.a))
        writer.testImmediate(value.register, Number(signed(mask)))
        this.#release(value)
        return CONDITION.e
      }
    }
    const value = this.#hold(this.#value(one))
    writer.test(value.register, value.register)
    this.#release(value)
    return CONDITION.e
  }

  /** Jumps where a condition does not hold. */
  #unless(one: Expression, label: Label): void {
    this.#branch(one, label, false)
  }

  /** Jumps where a condition is what is wanted. */
  #branch(one: Expression, label: Label, wanted: boolean): void {
    const { writer } = this
    const constant = constantOf(one)
    if (constant !== undefined) {
      if ((constant !== 0n) === wanted) writer.jump(label)
      return
    }
    if (one.op === 'unary' && one.operator === '!') return this.#branch(one.a, label, !wanted)
    if (one.op === 'binary' && (one.operator === '&&' || one.operator === '||')) {
      // Either both have to hold, or one suffices, for the jump.
      if ((one.operator === '||') === wanted) {
        this.#branch(one.a, label, wanted)
        return this.#branch(one.b, label, wanted)
      }
      const end = writer.label()
      this.#branch(one.a, end, !wanted)
      this.#branch(one.b, label, wanted)
      return writer.place(end)
    }
    const condition = one.op === 'binary' && COMPARISON[one.operator] !== undefined ? this.#compare(one) : this.#isZero(one) ^ 1
    writer.jumpIf(wanted ? condition : condition ^ 1, label)
  }

  // ---- statements

  #statements(program: PlaceProgram, body: readonly Statement[]): void {
    const { writer } = this
    for (const one of body) {
      if (one.op === 'aggregate') this.#aggregate(one, program.bind(one))
      else if (one.op === 'if') {
        const [otherwise, end] = [writer.label(), writer.label()]
        this.#unless(one.test, otherwise)
        this.#statements(program, one.then)
        if (one.otherwise.length > 0) writer.jump(end)
        writer.place(otherwise)
        this.#statements(program, one.otherwise)
        writer.place(end)
      } else assert(false, 'assembly is compiled elsewhere')
    }
  }

  #aggregate(one: Aggregate, bound: Bound): void {
    const { writer } = this
    let slot = bound.slot
    let key: Value | undefined = one.key === undefined || !bound.keyed ? undefined : this.#value(one.key)
    if (key !== undefined && 'constant' in key) {
      slot += Number(key.constant) * bound.width
      key = undefined
    }
    // The first slot of the key, counted in slots.
    let index: Register | undefined
    if (key !== undefined) {
      if (bound.width === 1) index = (key as { register: Register }).register
      else {
        index = this.#own(key)
        key = { register: index, owned: true }
        const power = log2(BigInt(bound.width))
        if (power >= 0) writer.shiftImmediate(SHIFT.shl, index, power)
        else writer.multiplyImmediate(index, index, bound.width)
      }
    }
    switch (one.kind) {
      case 'count': this.#count(slot, index); break
      case 'sum': this.#sum(one.value!, slot, index, false); break
      case 'avg': this.#sum(one.value!, slot, index, true); break
      case 'min': case 'max': this.#extremum(one, slot, index); break
      case 'hist': this.#hist(one.value!, slot, index); break
      case 'lhist': this.#lhist(one, slot, index); break
    }
    this.#release(key)
  }

  #pointer(slot: number): Register {
    const r = this.#take()
    this.writer.loadSlot(r, slot)
    return r
  }

  #count(slot: number, index: Register | undefined): void {
    const pointer = this.#pointer(slot)
    this.writer.countSlot(pointer, 0, index)
    this.#free.push(pointer)
  }

  #sum(value: Expression, slot: number, index: Register | undefined, average: boolean): void {
    const { writer } = this
    const added = this.#hold(this.#value(value))
    const pointer = this.#pointer(slot)
    writer.addSlot(pointer, 0, index, added.register)
    if (average) writer.countSlot(pointer, 8, index)
    this.#free.push(pointer)
    this.#release(added)
  }

  #extremum({ kind, value }: Aggregate, slot: number, index: Register | undefined): void {
    const { writer } = this
    const r = this.#own(this.#value(value!))
    if (value!.signed) {
      const sign = this.#take()
      writer.load(sign, SIGN)
      writer.alu(ALU.xor, r, sign)
      this.#free.push(sign)
    }
    if (kind === 'min') writer.complement(r)
    const pointer = this.#pointer(slot)
    const done = writer.label()
    writer.loadFromSlot(REG.rax, pointer, index)
    for (let i = 0; i < TRIES; i++) {
      writer.alu(ALU.cmp, REG.rax, r)
      writer.jumpIf(CONDITION.ae, done)
      writer.exchangeSlot(pointer, index, r)
      writer.jumpIf(CONDITION.e, done)
    }
    const missed = this.#pointer(this.#around.missed)
    writer.countSlot(missed, 0)
    this.#free.push(missed)
    writer.place(done)
    writer.countSlot(pointer, 8, index)
    this.#free.push(pointer, r)
  }

  #hist(value: Expression, slot: number, index: Register | undefined): void {
    const { writer } = this
    const from = this.#hold(this.#value(value))
    const bucket = from.owned ? from.register : this.#take()
    const end = writer.label()
    writer.bitScan(bucket, from.register)
    writer.address(bucket, bucket, 1)
    writer.jumpIf(CONDITION.ne, end)
    writer.load(bucket, 0n)
    writer.place(end)
    this.#countBucket(bucket, slot, index)
    this.#free.push(bucket)
  }

  #countBucket(bucket: Register, slot: number, index: Register | undefined): void {
    const { writer } = this
    if (index !== undefined) writer.alu(ALU.add, bucket, index)
    const pointer = this.#pointer(slot)
    writer.countSlot(pointer, 0, bucket)
    this.#free.push(pointer)
  }

  #lhist({ value, range }: Aggregate, slot: number, index: Register | undefined): void {
    const { writer } = this
    const { low, high, step } = range!
    const [outside, end, below] = [writer.label(), writer.label(), writer.label()]
    const r = this.#own(this.#value(value!))
    this.#aluConstant(ALU.sub, r, low)
    this.#aluConstant(ALU.cmp, r, high - low)
    writer.jumpIf(CONDITION.ae, outside)
    const power = log2(step)
    if (power >= 0) writer.shiftImmediate(SHIFT.shr, r, power)
    else {
      const by = this.#take()
      writer.load(by, step)
      this.#divide(r, by, true, false)
      this.#free.push(by)
    }
    writer.address(r, r, 1)
    writer.jump(end)
    writer.place(outside)
    this.#aluConstant(ALU.add, r, low)
    this.#aluConstant(ALU.cmp, r, low)
    writer.load(r, 0n)
    writer.jumpIf(value!.signed ? CONDITION.l : CONDITION.b, below)
    writer.load(r, (high - low) / step + 1n)
    writer.place(below)
    writer.place(end)
    this.#countBucket(r, slot, index)
    this.#free.push(r)
  }

  #aluConstant(operation: number, r: Register, value: bigint): void {
    const { writer } = this
    if (fitsImmediate(unsigned(value))) return writer.aluImmediate(operation, r, Number(value))
    const other = this.#take()
    writer.load(other, value)
    writer.alu(operation, r, other)
    this.#free.push(other)
  }
}

const isLogic = (one: Expression): boolean =>
  (one.op === 'unary' && one.operator === '!') || (one.op === 'binary' && (one.operator === '&&' || one.operator === '||' || COMPARISON[one.operator] !== undefined))

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
const same = (a: Expression, b: Expression): boolean => {
  if (a.op !== b.op || a.signed !== b.signed) return false
  if (a.op === 'number' && b.op === 'number') return a.value === b.value
  if (a.op === 'input' && b.op === 'input') return a.input === b.input
  if (a.op === 'register' && b.op === 'register') return a.register === b.register
  if (a.op === 'unary' && b.op === 'unary') return a.operator === b.operator && same(a.a, b.a)
  if (a.op === 'cast' && b.op === 'cast') return a.bits === b.bits && same(a.a, b.a)
  if (a.op === 'choice' && b.op === 'choice') return same(a.test, b.test) && same(a.a, b.a) && same(a.b, b.b)
  return a.op === 'binary' && b.op === 'binary' && a.operator === b.operator && same(a.a, b.a) && same(a.b, b.b)
}
