// Values of expressions in registers. In: an expression, what is live, which registers were pushed. Out: instructions that
// compute it, in registers that are free, and jumps that depend on it.
//
// What the program reads of a register is read from there, or from its pushed copy. Some instructions want fixed registers
// (division, the time-stamp counter, shifts by a variable distance): those are kept out of all other use.
// Left out: what is done with values (compile.ts).

import { FLAGS, OF, RAX, type RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { constantOf, SIGN, signed, truthOf, unsigned } from '../probe/constant.js'
import { operandsSigned, type BinaryOperator, type Expression, type Input } from '../probe/expression.js'
import { rangeOf } from '../probe/range.js'
import type { TaskLayout } from '../probe/task.js'
import { ARGUMENTS, registersNeeded } from '../probe/trees.js'
import { ALU, CONDITION, fitsImmediate, InstructionWriter, REG, SHIFT, type Condition, type Label, type Register } from './writer.js'

/** What is to be had at a place beside registers. */
export interface Surroundings {
  readonly task: TaskLayout | undefined
  readonly returnAddress: number // bytes from %rsp to the function's return address, or -1
  readonly missed: number //        slot that counts what could not be recorded
}

/** What of fixed registers and of the surroundings some programs need. */
export interface Needs {
  readonly special: RegisterSet // that instructions want, and nothing else may lie in
  readonly ticks: boolean
  readonly read: RegisterSet //    by assembly: it finds them as they are at the place
  readonly written: RegisterSet // by assembly: what it leaves there is what reg() reads afterwards
}

/** In this order registers are taken: the first ones have the shortest instructions. */
export const ORDER: readonly Register[] = [1, 2, 6, 7, 0, 8, 9, 10, 11, 3, 5, 12, 13, 14, 15]

/** Of a power of two; -1 of any other number. */
export const log2 = (value: bigint): number => ((value & (value - 1n)) === 0n && value > 0n ? value.toString(2).length - 1 : -1)

const COMPARISON: Readonly<Partial<Record<BinaryOperator, readonly [Condition, Condition]>>> = { // unsigned, signed
  '==': [CONDITION.e, CONDITION.e], '!=': [CONDITION.ne, CONDITION.ne],
  '<': [CONDITION.b, CONDITION.l], '<=': [CONDITION.be, CONDITION.le],
  '>': [CONDITION.a, CONDITION.g], '>=': [CONDITION.ae, CONDITION.ge],
}
/** The same with the operands exchanged. */
const EXCHANGED: Readonly<Partial<Record<BinaryOperator, BinaryOperator>>> = { '==': '==', '!=': '!=', '<': '>', '<=': '>=', '>': '<', '>=': '<=' }


/** Division that needs none: by zero, or unsigned by a power of two. */
export const isEasyDivisor = (one: Extract<Expression, { op: 'binary' }>, b: bigint): boolean =>
  b === 0n || (log2(b) >= 0 && !dividesSigned(one))

/** Whether signs matter to a division. */
const dividesSigned = ({ a, b }: Extract<Expression, { op: 'binary' }>): boolean =>
  operandsSigned(a, b) && (rangeOf(a).high >= SIGN || rangeOf(b).high >= SIGN)

/** All registers are taken: one more has to be pushed. */
export class NoRegister extends Error {}

export type Value = { readonly constant: bigint } | { readonly register: Register; readonly owned: boolean }

/** Inputs that are not what they are elsewhere. */
export type Told = Readonly<Partial<Record<Input, () => Value>>>

export class Values {
  readonly writer = new InstructionWriter()
  readonly #live: RegisterSet
  readonly #pushed: readonly Register[]
  readonly #needs: Needs
  readonly #around: Surroundings
  readonly #flags: 'dead' | 'register' | 'stack'
  readonly #free: Register[] // general ones, the next one last
  #depth = 0 // words on the stack
  #ticks: Register = -1
  #told: Told = {}

  /** @param pushed registers that are live and pushed, so that they can be used */
  constructor(live: RegisterSet, pushed: RegisterSet, needs: Needs, around: Surroundings) {
    this.#live = live
    this.#needs = needs
    this.#around = around
    this.#pushed = ORDER.filter((r) => (pushed & (1 << r)) !== 0)
    const others = needs.special | needs.read | needs.written
    this.#flags = (live & FLAGS) === 0 ? 'dead' : others & RAX ? 'stack' : 'register'
    const taken = others | (this.#flags === 'register' ? RAX : 0)
    this.#free = ORDER.filter((r) => ((pushed | ~live) & ~taken & (1 << r)) !== 0).reverse()
  }

  /** Saves what has to be saved, and reads the time if anybody asks for it: once, so that it is one time for all. */
  enter(): void {
    const { writer } = this
    for (const r of this.#pushed) writer.push(r)
    this.#depth = this.#pushed.length
    if (this.#flags !== 'dead') writer.saveFlags((this.#live & OF) !== 0)
    if (this.#flags === 'stack') {
      writer.push(REG.rax)
      this.#depth++
      // Assembly finds it as it was.
      const rax = this.#pushed.indexOf(REG.rax)
      if ((this.#needs.read | this.#needs.written) & RAX && rax >= 0) writer.loadStack(REG.rax, 8 * (this.#depth - 1 - rax))
    }
    if (!this.#needs.ticks) return
    this.#ticks = this.take()
    this.loadTicks(this.#ticks)
  }

  /** The time as it is now. rax and rdx are nobody's. */
  loadTicks(to: Register): void {
    const { writer } = this
    writer.timestamp()
    writer.shiftImmediate(SHIFT.shl, REG.rdx, 32)
    writer.alu(ALU.or, REG.rax, REG.rdx)
    writer.move(to, REG.rax)
  }

  /** The register with the time, where anybody has asked for it. */
  get ticks(): Register {
    return this.#ticks
  }

  /** From now on, some inputs are these. */
  tell(told: Told): void {
    this.#told = told
  }

  leave(): void {
    const { writer } = this
    if (this.#flags === 'stack') writer.pop(REG.rax)
    if (this.#flags !== 'dead') writer.restoreFlags((this.#live & OF) !== 0)
    for (const r of this.#pushed.toReversed()) writer.pop(r)
  }

  // ---- registers

  take(): Register {
    const r = this.#free.pop()
    if (r === undefined) throw new NoRegister()
    return r
  }

  release(...values: (Value | undefined)[]): void {
    for (const value of values) if (value !== undefined && 'register' in value && value.owned) this.#free.push(value.register)
  }

  free(...registers: Register[]): void {
    this.#free.push(...registers)
  }

  /** A register that holds a value and may be changed. */
  own(value: Value): Register {
    if ('register' in value && value.owned) return value.register
    const r = this.take()
    if ('constant' in value) this.writer.load(r, value.constant)
    else this.writer.move(r, value.register)
    return r
  }

  /** A register that holds a value. */
  hold(value: Value): { readonly register: Register; readonly owned: boolean } {
    return 'register' in value ? value : { register: this.own(value), owned: true }
  }

  // ---- values

  value(one: Expression): Value {
    const { writer } = this
    const constant = constantOf(one)
    if (constant !== undefined) return { constant }
    switch (one.op) {
      case 'register':
        if (this.#needs.written & (1 << one.register)) return { register: one.register, owned: false }
        return this.original(one.register)
      case 'input': return this.#input(one.input)
      case 'unary': {
        if (one.operator === '!') return this.#bit(one)
        const r = this.own(this.value(one.a))
        if (one.operator === '-') writer.negate(r)
        else writer.complement(r)
        return { register: r, owned: true }
      }
      case 'cast': {
        const a = this.value(one.a)
        if (one.bits === 64) return a
        const from = this.hold(a)
        const to = from.owned ? from.register : this.take()
        writer.extend(to, from.register, one.bits, one.signed)
        return { register: to, owned: true }
      }
      case 'choice': {
        const known = truthOf(one.test)
        if (known !== undefined) return this.value(known ? one.a : one.b)
        const [otherwise, end] = [writer.label(), writer.label()]
        const r = this.take()
        this.unless(one.test, otherwise)
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
    const value = this.value(one)
    if ('constant' in value) this.writer.load(r, value.constant)
    else this.writer.move(r, value.register)
    this.release(value)
  }

  /** What a register holds where the probe is. */
  original(register: Register): Value {
    const { writer } = this
    const place = this.#pushed.indexOf(register)
    if (register !== REG.rsp && place < 0) return { register, owned: false }
    const r = this.take()
    if (register === REG.rsp) writer.address(r, REG.rsp, 8 * this.#depth)
    else writer.loadStack(r, 8 * (this.#depth - 1 - place))
    return { register: r, owned: true }
  }

  #input(input: Input): Value {
    const { writer } = this
    const { task, returnAddress } = this.#around
    const told = this.#told[input]
    if (told !== undefined) return told()
    if (input === 'retval') return this.original(REG.rax)
    if (input.startsWith('arg')) return this.original(ARGUMENTS[Number(input.slice(3))]!)
    if (input === 'ticks') return { register: this.#ticks, owned: false }
    const r = this.take()
    if (input === 'caller') {
      assert(returnAddress >= 0, 'the return address is known')
      const slide = this.take()
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

  /** Where the function's return address is. */
  loadReturnAddressAt(to: Register): void {
    const { returnAddress } = this.#around
    assert(returnAddress >= 0, 'the return address is known')
    this.writer.address(to, REG.rsp, returnAddress + 8 * this.#depth)
  }

  /** The address of the current task. */
  loadCurrent(to: Register): void {
    const { task } = this.#around
    assert(task !== undefined, 'the current task is known')
    this.writer.loadPerCpu(to, task.current, true)
  }

  /** Both operands, the one that needs more registers first. */
  #both(a: Expression, b: Expression): [Value, Value] {
    if (registersNeeded(b) <= registersNeeded(a)) {
      const first = this.value(a)
      return [first, this.value(b)]
    }
    const first = this.value(b)
    return [this.value(a), first]
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
    const r = this.own(x)
    const operation = operator === '+' ? ALU.add : operator === '&' ? ALU.and : operator === '|' ? ALU.or : ALU.xor
    if ('constant' in y && operator === '*') {
      const power = log2(y.constant)
      if (power >= 0) writer.shiftImmediate(SHIFT.shl, r, power)
      else if (fitsImmediate(y.constant)) writer.multiplyImmediate(r, r, Number(signed(y.constant)))
      else {
        const by = this.hold(y)
        writer.multiply(r, by.register)
        this.release(by)
      }
    } else if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(operation, r, Number(signed(y.constant)))
    else {
      const other = this.hold(y)
      if (operator === '*') writer.multiply(r, other.register)
      else writer.alu(operation, r, other.register)
      this.release(other)
    }
    return { register: r, owned: true }
  }

  #difference({ a, b }: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const [x, y] = this.#both(a, b)
    const r = this.own(x)
    if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(ALU.sub, r, Number(signed(y.constant)))
    else {
      const other = this.hold(y)
      writer.alu(ALU.sub, r, other.register)
      this.release(other)
    }
    return { register: r, owned: true }
  }

  #shift({ operator, a, b }: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const operation = operator === '<<' ? SHIFT.shl : a.signed ? SHIFT.sar : SHIFT.shr
    const [x, y] = this.#both(a, b)
    const r = this.own(x)
    if ('constant' in y) writer.shiftImmediate(operation, r, Number(y.constant & 63n))
    else {
      writer.move(REG.rcx, y.register)
      writer.shiftByCl(operation, r)
      this.release(y)
    }
    return { register: r, owned: true }
  }

  /** Division and remainder; of zero, as BPF has them. */
  #quotient(one: Extract<Expression, { op: 'binary' }>): Value {
    const { writer } = this
    const divisor = constantOf(one.b)
    const quotient = one.operator === '/'
    if (divisor === 0n) {
      if (!quotient) return this.value(one.a)
      return { constant: 0n }
    }
    if (divisor !== undefined && isEasyDivisor(one, divisor)) {
      const power = log2(divisor)
      const r = this.own(this.value(one.a))
      if (quotient) writer.shiftImmediate(SHIFT.shr, r, power)
      else this.#mask(r, divisor - 1n)
      return { register: r, owned: true }
    }
    const [x, y] = this.#both(one.a, one.b)
    if (!dividesSigned(one)) {
      const by = this.hold(y)
      const r = this.own(x)
      this.divide(r, by.register, quotient, divisor === undefined)
      this.release(by)
      return { register: r, owned: true }
    }
    // Of the absolute values; then the sign: so nothing overflows.
    const a = this.own(x)
    const signOfA = this.#absolute(a)
    const b = this.own(y)
    const signOfB = this.#absolute(b)
    this.divide(a, b, quotient, divisor === undefined)
    if (quotient) writer.alu(ALU.xor, signOfA, signOfB)
    writer.alu(ALU.xor, a, signOfA)
    writer.alu(ALU.sub, a, signOfA)
    this.#free.push(signOfB, b, signOfA)
    return { register: a, owned: true }
  }

  /** a = a / b, or the remainder; of zero: 0, or a. */
  divide(a: Register, b: Register, quotient: boolean, mayBeZero: boolean): void {
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
    const sign = this.take()
    writer.move(sign, r)
    writer.shiftImmediate(SHIFT.sar, sign, 63)
    writer.alu(ALU.xor, r, sign)
    writer.alu(ALU.sub, r, sign)
    return sign
  }

  #mask(r: Register, mask: bigint): void {
    const { writer } = this
    if (fitsImmediate(mask)) return writer.aluImmediate(ALU.and, r, Number(signed(mask)))
    const other = this.take()
    writer.load(other, mask)
    writer.alu(ALU.and, r, other)
    this.#free.push(other)
  }

  // ---- conditions

  /** Logic and comparisons as numbers: 0 or 1. */
  #bit(one: Expression): Value {
    const { writer } = this
    const known = truthOf(one)
    if (known !== undefined) return { constant: known ? 1n : 0n }
    const condition = one.op === 'binary' && COMPARISON[one.operator] !== undefined ? this.#compare(one)
      : one.op === 'unary' && one.operator === '!' && !isLogic(one.a) ? this.#isZero(one.a) : undefined
    const r = this.take()
    if (condition !== undefined) {
      writer.setCondition(r, condition)
      return { register: r, owned: true }
    }
    const [no, end] = [writer.label(), writer.label()]
    this.unless(one, no)
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
    const left = this.hold(x)
    if ('constant' in y && y.constant === 0n && (what === '==' || what === '!=')) writer.test(left.register, left.register)
    else if ('constant' in y && fitsImmediate(y.constant)) writer.aluImmediate(ALU.cmp, left.register, Number(signed(y.constant)))
    else {
      const right = this.hold(y)
      writer.alu(ALU.cmp, left.register, right.register)
      this.release(right)
    }
    this.release(left)
    return COMPARISON[what]![isSigned ? 1 : 0]
  }

  #isZero(one: Expression): Condition {
    const { writer } = this
    if (one.op === 'binary' && one.operator === '&') {
      const mask = constantOf(one.b)
      if (mask !== undefined && fitsImmediate(mask)) {
        const value = this.hold(this.value(one.a))
        writer.testImmediate(value.register, Number(signed(mask)))
        this.release(value)
        return CONDITION.e
      }
    }
    const value = this.hold(this.value(one))
    writer.test(value.register, value.register)
    this.release(value)
    return CONDITION.e
  }

  /** Jumps where a condition does not hold. */
  unless(one: Expression, label: Label): void {
    this.#branch(one, label, false)
  }

  /** Jumps where a condition is what is wanted. */
  #branch(one: Expression, label: Label, wanted: boolean): void {
    const { writer } = this
    const known = truthOf(one)
    if (known !== undefined) {
      if (known === wanted) writer.jump(label)
      return
    }
    if (one.op === 'unary' && one.operator === '!') return this.#branch(one.a, label, !wanted)
    if (one.op === 'binary' && (one.operator === '&&' || one.operator === '||')) {
      if (truthOf(one.a) !== undefined) return this.#branch(one.b, label, wanted)
      if (truthOf(one.b) !== undefined) return this.#branch(one.a, label, wanted)
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

  aluConstant(operation: number, r: Register, value: bigint): void {
    const { writer } = this
    if (fitsImmediate(unsigned(value))) return writer.aluImmediate(operation, r, Number(value))
    const other = this.take()
    writer.load(other, value)
    writer.alu(operation, r, other)
    this.#free.push(other)
  }
}

const isLogic = (one: Expression): boolean =>
  (one.op === 'unary' && one.operator === '!') || (one.op === 'binary' && (one.operator === '&&' || one.operator === '||' || COMPARISON[one.operator] !== undefined))
