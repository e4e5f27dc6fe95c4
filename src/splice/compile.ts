// Compiled probes: what the programs at one place ask for, as straight machine code with forward jumps alone. In: programs
// whose aggregates have slots, and what is live. Out: code that calls nothing, faults nowhere, ends, and leaves every live
// register and flag as it was.
//
// Values are in registers that are dead at the place; where these do not suffice, live ones are pushed first and popped at
// the end: the stack is the thread's own, so an interrupt may run the same probe in the middle of this one. Every change of a
// slot is one instruction on the current CPU's own copy, so neither interrupt nor migration can split it.
// Left out: which registers the programs read must be live here (draft.ts sees to it). The code is not to be trusted before
// verify.ts has accepted it.

import { FLAGS, GPRS, RAX, RCX, RDX, RSP, type RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { constantOf, SIGN, signed, truthOf } from '../probe/constant.js'
import { isConstant, type Expression } from '../probe/expression.js'
import type { Assembled } from '../probe/assembly.js'
import type { Aggregate, Statement } from '../probe/program.js'
import { rangeOf } from '../probe/range.js'
import { ARGUMENTS, eachExpression, eachPart, eachStatement, registersOf, same } from '../probe/trees.js'
import type { CodeBuffer } from './code.js'
import { SpanWriter, type SpanPart } from './spans.js'
import { isEasyDivisor, log2, NoRegister, ORDER, Values, type Needs, type Surroundings, type Value } from './values.js'
import { ALU, CONDITION, REG, SHIFT, type Register } from './writer.js'

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
  readonly assembled: ReadonlyMap<Statement, Assembled>
  readonly bind: (one: Aggregate) => Bound
  /** Where it is of a span. At the entry, predicate and body are for the ways out. */
  readonly span?: SpanPart
}

const ARGUMENT_SET: RegisterSet = ARGUMENTS.reduce<RegisterSet>((set, r) => set | (1 << r), 0)

/** How often an extremum is tried anew where an interrupt has changed it meanwhile. */
const TRIES = 3

/** What of a program runs at the place. */
const hereOf = ({ predicate, body, span }: Pick<PlaceProgram, 'predicate' | 'body' | 'span'>): Pick<PlaceProgram, 'predicate' | 'body'> => {
  if (span === undefined || span.role === 'leave') return { ...(predicate && { predicate }), body }
  return { ...(span.role === 'enter' && span.terms.entry && { predicate: span.terms.entry }), body: [] }
}

/** Registers that it reads there. */
const readsOf = (program: PlaceProgram): RegisterSet => {
  let reads = 0
  const { span } = program
  eachExpression(hereOf(program), (one) => { reads |= registersOf(one) })
  if (span === undefined) return reads
  // Arguments are read at the entry, what is returned at the ways out.
  if (span.role === 'leave') return reads & ~ARGUMENT_SET
  const arguments_ = span.role === 'switch' ? [0, 1] : span.terms.remembers
  return arguments_.reduce((set, n) => set | (1 << ARGUMENTS[n]!), reads)
}

const needsOf = (programs: readonly Pick<PlaceProgram, 'predicate' | 'body' | 'span'>[]): Pick<Needs, 'special' | 'ticks'> => {
  const needs = { special: 0, ticks: false }
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
  for (const program of programs) {
    if (program.span !== undefined) {
      needs.ticks = true
      needs.special |= RAX | RDX
    }
    const here = hereOf(program)
    eachExpression(here, (one) => eachPart(one, part))
    eachStatement(here.body, (one) => {
      if (one.op !== 'aggregate') return
      if (one.kind === 'min' || one.kind === 'max') needs.special |= RAX
      if (one.kind === 'lhist' && log2(one.range!.step) < 0) needs.special |= RAX | RDX
    })
  }
  return needs
}

/** Registers that the code of a program wants for instructions of its own: its assembly must leave them alone. */
export const specialRegisters = (program: Pick<PlaceProgram, 'predicate' | 'body'>): RegisterSet => needsOf([program]).special

/** Offsets of assembly that users wrote: where it starts, and where it ends. */
export type Stretch = readonly [start: number, end: number]

/**
 * Appends the code of all programs of a place. Those with assembly stand alone: it may change what others read.
 * @param live what must be kept: with the registers that the programs read
 * @returns the stretches of assembly, ascending
 */
export const compilePrograms = (
  code: CodeBuffer, live: RegisterSet, programs: readonly PlaceProgram[], around: Surroundings,
): Stretch[] => {
  const stretches: Stretch[] = []
  for (let p = 0; p < programs.length;) {
    const first = p++
    while (p < programs.length && programs[first]!.assembled.size === 0 && programs[p]!.assembled.size === 0) p++
    stretches.push(...compileTogether(code, live, programs.slice(first, p), around))
  }
  return stretches
}

const compileTogether = (
  code: CodeBuffer, live: RegisterSet, programs: readonly PlaceProgram[], around: Surroundings,
): Stretch[] => {
  const needs = needsOf(programs)
  let reads = 0
  let [read, written] = [0, 0] // by assembly
  for (const program of programs) {
    reads |= readsOf(program)
    for (const one of program.assembled.values()) {
      read |= one.reads & GPRS
      written |= one.writes & GPRS
    }
  }
  reads |= read
  assert((reads & ~live & ~RSP) === 0, 'what programs read is live')
  assert(((read | written) & needs.special) === 0, 'assembly leaves alone what the code needs')
  let pushed = (needs.special | written) & live
  if (live & FLAGS) pushed |= RAX & live
  for (;;) {
    try {
      const attempt = new Compiler(new Values(live, pushed, { ...needs, read, written }, around), around.missed)
      attempt.run(programs)
      return attempt.flush(code)
    } catch (error) {
      if (!(error instanceof NoRegister)) throw error
      const candidates = ORDER.filter((r) => (live & ~pushed & ~read & ~written & (1 << r)) !== 0)
      const next = candidates.find((r) => (reads & (1 << r)) === 0) ?? candidates[0]
      assert(next !== undefined, 'an expression needs more values at once than there are registers')
      pushed |= 1 << next
    }
  }
}

class Compiler {
  readonly values: Values
  readonly #missed: number

  constructor(values: Values, missed: number) {
    this.values = values
    this.#missed = missed
  }

  flush(code: CodeBuffer): Stretch[] {
    return this.values.writer.flush(code)
  }

  run(programs: readonly PlaceProgram[]): void {
    const { values, values: { writer } } = this
    values.enter()
    for (let p = 0; p < programs.length;) {
      const { predicate, span } = programs[p]!
      if (span !== undefined) {
        this.#span(programs[p++]!, span)
        continue
      }
      if (predicate !== undefined && truthOf(predicate) === false) {
        p++
        continue
      }
      const end = writer.label()
      if (predicate !== undefined) values.unless(predicate, end)
      // Programs with one predicate ask once.
      do this.#statements(programs[p]!, programs[p]!.body)
      while (++p < programs.length && predicate !== undefined && programs[p]!.span === undefined && programs[p]!.predicate !== undefined && same(predicate, programs[p]!.predicate!))
      writer.place(end)
    }
    values.leave()
  }

  #span(program: PlaceProgram, span: SpanPart): void {
    const writer = new SpanWriter(this.values, this.#missed)
    if (span.role === 'switch') return writer.switch(span.threads)
    const { terms, frames, threads } = span
    const isNever = (one: Expression | undefined): boolean => one !== undefined && truthOf(one) === false
    if (isNever(terms.entry) || isNever(program.predicate)) return
    if (span.role === 'enter') return writer.enter(terms, frames, threads)
    writer.leave(terms, frames, threads, program.predicate, () => this.#statements(program, program.body))
  }

  #statements(program: PlaceProgram, body: readonly Statement[]): void {
    const { values, values: { writer } } = this
    for (const one of body) {
      if (one.op === 'aggregate') this.#aggregate(one, program.bind(one))
      else if (one.op === 'if') {
        const known = truthOf(one.test)
        if (known !== undefined) {
          this.#statements(program, known ? one.then : one.otherwise)
          continue
        }
        const [otherwise, end] = [writer.label(), writer.label()]
        values.unless(one.test, otherwise)
        this.#statements(program, one.then)
        if (one.otherwise.length > 0) writer.jump(end)
        writer.place(otherwise)
        this.#statements(program, one.otherwise)
        writer.place(end)
      } else writer.raw(program.assembled.get(one)!.bytes)
    }
  }

  #aggregate(one: Aggregate, bound: Bound): void {
    const { values, values: { writer } } = this
    let slot = bound.slot
    let key: Value | undefined = one.key === undefined || !bound.keyed ? undefined : values.value(one.key)
    if (key !== undefined && 'constant' in key) {
      slot += Number(key.constant) * bound.width
      key = undefined
    }
    // The first slot of the key, counted in slots.
    let index: Register | undefined
    if (key !== undefined) {
      if (bound.width === 1) index = (key as { register: Register }).register
      else {
        index = values.own(key)
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
    values.release(key)
  }

  #pointer(slot: number): Register {
    const r = this.values.take()
    this.values.writer.loadSlot(r, slot)
    return r
  }

  #count(slot: number, index: Register | undefined): void {
    const pointer = this.#pointer(slot)
    this.values.writer.countSlot(pointer, 0, index)
    this.values.free(pointer)
  }

  #sum(value: Expression, slot: number, index: Register | undefined, average: boolean): void {
    const { values, values: { writer } } = this
    const added = values.hold(values.value(value))
    const pointer = this.#pointer(slot)
    writer.addSlot(pointer, 0, index, added.register)
    if (average) writer.countSlot(pointer, 8, index)
    values.free(pointer)
    values.release(added)
  }

  #extremum({ kind, value }: Aggregate, slot: number, index: Register | undefined): void {
    const { values, values: { writer } } = this
    const r = values.own(values.value(value!))
    if (value!.signed) {
      const sign = values.take()
      writer.load(sign, SIGN)
      writer.alu(ALU.xor, r, sign)
      values.free(sign)
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
    const missed = this.#pointer(this.#missed)
    writer.countSlot(missed, 0)
    values.free(missed)
    writer.place(done)
    writer.countSlot(pointer, 8, index)
    values.free(pointer, r)
  }

  #hist(value: Expression, slot: number, index: Register | undefined): void {
    const { values, values: { writer } } = this
    const from = values.hold(values.value(value))
    const bucket = from.owned ? from.register : values.take()
    const pointer = this.#pointer(slot)
    const [zero, end] = [writer.label(), writer.label()]
    writer.bitScan(bucket, from.register)
    writer.jumpIf(CONDITION.e, zero)
    if (index !== undefined) writer.alu(ALU.add, bucket, index)
    writer.countSlot(pointer, 8, bucket)
    writer.jump(end)
    writer.place(zero)
    writer.countSlot(pointer, 0, index)
    writer.place(end)
    values.free(pointer, bucket)
  }

  #countBucket(bucket: Register, slot: number, index: Register | undefined): void {
    const { values, values: { writer } } = this
    if (index !== undefined) writer.alu(ALU.add, bucket, index)
    const pointer = this.#pointer(slot)
    writer.countSlot(pointer, 0, bucket)
    values.free(pointer)
  }

  #lhist({ value, range }: Aggregate, slot: number, index: Register | undefined): void {
    const { values, values: { writer } } = this
    const { low, high, step } = range!
    const { low: least, high: most } = rangeOf(value!)
    // Where it is known what it can be, only that is looked at: it may even be a constant.
    const constant = constantOf(value!)
    const [first, last] = constant !== undefined && value!.signed ? [signed(constant), signed(constant)] : [least, most]
    if ((!value!.signed || most < SIGN || constant !== undefined) && (last < low || first >= high || first === last)) {
      const bucket = last < low ? 0n : first >= high ? (high - low) / step + 1n : (first - low) / step + 1n
      return this.#count(slot + Number(bucket), index)
    }
    const [outside, end, below] = [writer.label(), writer.label(), writer.label()]
    const r = values.own(values.value(value!))
    values.aluConstant(ALU.sub, r, low)
    values.aluConstant(ALU.cmp, r, high - low)
    writer.jumpIf(CONDITION.ae, outside)
    const power = log2(step)
    if (power >= 0) writer.shiftImmediate(SHIFT.shr, r, power)
    else {
      const by = values.take()
      writer.load(by, step)
      values.divide(r, by, true, false)
      values.free(by)
    }
    writer.address(r, r, 1)
    writer.jump(end)
    writer.place(outside)
    values.aluConstant(ALU.add, r, low)
    values.aluConstant(ALU.cmp, r, low)
    writer.load(r, 0n)
    writer.jumpIf(value!.signed ? CONDITION.l : CONDITION.b, below)
    writer.load(r, (high - low) / step + 1n)
    writer.place(below)
    writer.place(end)
    this.#countBucket(r, slot, index)
    values.free(r)
  }
}
