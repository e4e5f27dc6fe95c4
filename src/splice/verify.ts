// The verifier of probe programs: the finished bytes of one in, nothing out, or a Mistake. It is for machine code what
// the kernel's own verifier is for BPF, and shares no code with who compiles: it proves, from the bytes alone, that
//
//   control leaves at the end and nowhere else, and soon: all jumps lead forward, to the start of an instruction
//   what is live at the end is what it was at the start, and the stack is where it was
//   no memory is changed but whole slots that the program may change, each with one instruction, and whole frame words
//   no memory is read but those, pushed words, the return address, and the fields of `task`
//   nothing traps: no address but those, no division but of 64 bits by what is not zero
//
// Since no jump leads back, one pass in the order of addresses is a complete abstract interpretation: whatever leads to
// an instruction lies before it, and the states that come together there are merged (abstract.ts has the lattice).
// Left out: whether a program computes what its text says.

import { ConditionCode } from '../code/iced.js'
import { AF, CF, FLAGS, OF, PF, SF, ZF, namesOf, type RegisterSet } from '../code/registers.js'
import type { TaskLayout } from '../probe/task.js'
import {
  BIT, UNKNOWN, UNKNOWN_WITH_BIT, State, TASK, foundBy, hasBit, intervalOf, lowHalf, mergeValues, numberIn, wordOf,
  isPointer, type Value, type WordPointer,
} from './abstract.js'
import { Allowed, type Memory, type Operand, type Step } from './allowed.js'
import { Foreign } from './foreign.js'
import * as interval from './interval.js'
import type { Interval } from './interval.js'
import { Mistake } from './mistake.js'
import type { Opinions } from './opinion.js'
import { FIXUP_KIND, fixupBytes, FRAME, type PatchTables } from './tables.js'

/** Heap slots (u64 each) that the code may change: an array of slots that lie in one piece of the heap. */
export interface SlotRange {
  readonly first: number
  readonly count: number
}

export interface ProgramTerms {
  readonly live: RegisterSet //            registers and flags that must be, at the end, what they were at the start
  readonly slots: readonly SlotRange[]
  readonly frameWords: number //           how many there are
  readonly task: TaskLayout | undefined // undefined: neither may be read
  readonly returnAddress: number //        bytes from %rsp at the start to the function's; -1: it may not be read
  /** Assembly that users wrote, where more is allowed (foreign.ts): offsets in the code, start, end, start, end ... */
  readonly asm?: Uint32Array
}

/** What is known of a program where it ends. */
export interface Interpreted {
  readonly last: State
  readonly fixup: number //        the first one that is not in it
  readonly instructions: number
}

const MAX_BYTES = 1 << 16
const MAX_INSTRUCTIONS = 1 << 14
const MAX_PUSHED = 32

const WORD = 8
const RSP = 4
const RAX = 0
const RDX = 2

const AH_FLAGS: RegisterSet = CF | PF | AF | ZF | SF

/** The kernel's NR_CPUS is at most this (arch/x86/Kconfig, up to 6.14). */
const MAX_CPUS = 8192n

const CPU = numberIn(interval.upTo(MAX_CPUS - 1n))
const HALF = numberIn(interval.upTo(interval.LARGEST[32]!))
/** A slide keeps the kernel's image within the upper 2 GiB of addresses. */
const SLIDE = numberIn(interval.upTo(0x7fff_ffffn))
const ZERO = interval.only(0n)

/** ConditionCode -> the one that holds where it does not. They are from 1 on, in pairs. */
const opposite = (condition: ConditionCode): ConditionCode => ((condition - 1) ^ 1) + 1

class Interpreting {
  readonly #tables: PatchTables
  readonly #allowed: Allowed
  readonly #terms: ProgramTerms
  readonly #end: number
  readonly #waiting = new Map<number, State>() // offset of a jump's target -> what is known there
  readonly #led = new Set<number>() //             jumps' targets that lie ahead
  #runsOn = true //                               whether the instruction before lets control on to this one
  #state: State | undefined = State.start() //    undefined: control does not come here from before
  readonly #foreign: Foreign
  #asm = 0 // index in terms.asm
  #fixup: number
  #at: number

  constructor(tables: PatchTables, allowed: Allowed, foreign: Foreign, fixup: number, start: number, end: number, terms: ProgramTerms) {
    this.#tables = tables
    this.#allowed = allowed
    this.#foreign = foreign
    this.#terms = terms
    this.#fixup = fixup
    this.#at = start
    this.#end = end
  }

  run(): Interpreted {
    const { code } = this.#tables
    let instructions = 0
    while (this.#at < this.#end) {
      const state = this.#arrive()
      if (++instructions > MAX_INSTRUCTIONS) throw new Mistake('too many instructions')
      if (this.#at === this.#asmStart) {
        this.#passAsm(state)
        continue
      }
      const step = this.#allowed.at(code, this.#at, Math.min(this.#end, this.#asmStart))
      const next = this.#at + step.length
      for (let inside = this.#at + 1; this.#led.size > 0 && inside < next; inside++) {
        if (this.#led.has(inside)) throw new Mistake('a jump leads into an instruction')
      }
      const value = this.#takeFixup(step, next)
      this.#leads(step)
      this.#state = state
      if (state === undefined) this.#pass(step)
      else this.#do(state, step, value)
      this.#at = next
    }
    const last = this.#arrive()
    if (last === undefined) throw new Mistake('control never comes to the end')
    return { last, fixup: this.#fixup, instructions }
  }

  /** Where the next stretch of assembly starts. */
  get #asmStart(): number {
    return this.#terms.asm?.[this.#asm] ?? Infinity
  }

  /** A whole stretch: nothing leads into it, and it leads nowhere but to its end. */
  #passAsm(state: State | undefined): void {
    const end = this.#terms.asm![this.#asm + 1]!
    if (end <= this.#at || end > this.#end) throw new Mistake('a stretch of assembly is not in the program')
    const { fixupCount, fixupOffset } = this.#tables
    if (this.#fixup < fixupCount && fixupOffset[this.#fixup]! < end) throw new Mistake('a fixup in assembly')
    for (const target of this.#led) if (target > this.#at && target < end) throw new Mistake('a jump leads into assembly')
    while (this.#at < end) {
      const { length, writes } = this.#foreign.at(this.#tables.code, this.#at, end)
      if (state !== undefined) {
        for (let r = 0; r < 16; r++) if (writes & (1 << r)) state.set(r, UNKNOWN)
        state.changeFlags(writes & FLAGS)
      }
      this.#at += length
    }
    this.#runsOn = true
    this.#state = state
    this.#asm += 2
  }

  /** Where control may lead from an instruction, whatever the values are. */
  #leads({ deed, jump }: Step): void {
    this.#runsOn = deed !== 'jmp'
    if (deed !== 'jmp' && deed !== 'jcc') return
    if (this.#at + jump > this.#end) throw new Mistake('a jump leads out of the program')
    this.#led.add(this.#at + jump)
  }

  get at(): number {
    return this.#at
  }

  /** What is known here, from whatever leads here; undefined where values keep control from coming here. */
  #arrive(): State | undefined {
    if (!this.#led.delete(this.#at) && !this.#runsOn) throw new Mistake('no control comes here')
    const jumped = this.#waiting.get(this.#at)
    this.#waiting.delete(this.#at)
    const before = this.#state
    if (before === undefined || jumped === undefined) return before ?? jumped
    const state = before.merge(jumped)
    if (state === undefined) throw new Mistake('not as much is pushed on all ways')
    return state
  }

  #jumpTo(target: number, state: State): void {
    const waiting = this.#waiting.get(target)
    const merged = waiting === undefined ? state : waiting.merge(state)
    if (merged === undefined) throw new Mistake('not as much is pushed on all ways')
    this.#waiting.set(target, merged)
  }

  /** Takes the fixup of an instruction, if it has one: what its immediate is on the target. */
  #takeFixup({ deed, bits, length, to, source, immediateAt, immediateSize }: Step, next: number): Value | undefined {
    const { code, fixupCount, fixupOffset, fixupKind, fixupTrail, fixupValue } = this.#tables
    const f = this.#fixup
    if (f >= fixupCount || fixupOffset[f]! >= next) return undefined
    const field = this.#at + immediateAt
    const isConstant = deed === 'mov' && to.is === 'register' && source.is === 'immediate'
    if (!isConstant) throw new Mistake('a fixup of what is no constant')
    const isThere = fixupOffset[f] === field && fixupTrail[f] === 0 && immediateAt + immediateSize === length
    if (!isThere) throw new Mistake('a fixup in a wrong place')
    for (let i = field; i < next; i++) if (code[i] !== 0) throw new Mistake('a field with a fixup is not zero')
    this.#fixup = f + 1
    if (f + 1 < fixupCount && fixupOffset[f + 1]! < next) throw new Mistake('two fixups in one instruction')
    if (fixupKind[f] === FIXUP_KIND.slot64 && bits === 64 && immediateSize === 8) return this.#pointerTo(fixupValue[f]!)
    if (fixupKind[f] === FIXUP_KIND.frame64 && bits === 64 && immediateSize === 8) {
      if (fixupValue[f]! >= this.#terms.frameWords) throw new Mistake(`frame word ${fixupValue[f]} is not there`)
      return { is: 'frame', slot: fixupValue[f]!, first: 0, end: this.#terms.frameWords }
    }
    if (fixupKind[f] === FIXUP_KIND.abs32 && immediateSize === 4 && fixupValue[f] === 0) return SLIDE
    throw new Mistake('a fixup of a wrong kind')
  }

  #pointerTo(slot: number): WordPointer {
    for (const { first, count } of this.#terms.slots) {
      if (slot >= first && slot < first + count) return { is: 'slot', slot, first, end: first + count }
    }
    throw new Mistake(`slot ${slot} is not the program's`)
  }

  #do(state: State, step: Step, fixed: Value | undefined): void {
    const { deed, bits, to, source } = step
    switch (deed) {
      case 'mov':
        if (to.is === 'memory') this.#mustBeFrame(state, to)
        else if (fixed !== undefined) this.#write(state, to, bits, fixed)
        else if (source.is === 'memory') this.#write(state, to, bits, this.#load(state, source, bits))
        else this.#write(state, to, bits, this.#value(state, source))
        return
      case 'lea':
        this.#write(state, to, bits, this.#address(state, source))
        return
      case 'movzx':
        this.#write(state, to, bits, numberIn(this.#zeroExtended(this.#value(state, source), step.from)))
        return
      case 'movsx': {
        const from = intervalOf(this.#value(state, source))
        this.#write(state, to, bits, numberIn(interval.signExtended(from, step.from, bits)))
        return
      }
      case 'cmov': {
        const [target, other] = [this.#register(to), this.#register(source)]
        const moved = state.getIf(other, step.condition)
        const left = state.getIf(target, opposite(step.condition))
        // Of 32 bits, it clears the upper half also where it moves nothing.
        const half = bits === 32 ? lowHalf : (value: Value): Value => value
        this.#write(state, to, bits, mergeValues(half(moved), half(left)))
        return
      }
      case 'set':
        this.#setByte(state, this.#register(to), step.condition)
        return
      case 'cmp': case 'test':
        this.#compare(state, step)
        return
      case 'bsr':
        this.#findBit(state, step)
        return
      case 'cmpxchg':
        if (step.lock) this.#mustBeFrame(state, to)
        else {
          this.#mustBeSlot(state, to)
          this.#mustBeNumber(this.#value(state, source))
        }
        state.changeFlags(FLAGS)
        state.set(RAX, UNKNOWN)
        return
      case 'div':
        this.#divide(state, intervalOf(this.#value(state, to)))
        return
      case 'mul':
        this.#value(state, to)
        state.changeFlags(FLAGS)
        state.set(RAX, UNKNOWN)
        state.set(RDX, UNKNOWN)
        return
      case 'shrd':
        state.changeFlags(FLAGS)
        state.set(this.#register(to), UNKNOWN)
        return
      case 'push':
        if (state.words.length === MAX_PUSHED) throw new Mistake('too much is pushed')
        state.words.push(this.#value(state, to))
        return
      case 'pop': {
        const word = state.words.pop()
        if (word === undefined) throw new Mistake('a pop of what was not pushed')
        state.set(this.#register(to), word)
        return
      }
      case 'lahf':
        state.set(RAX, wordOf(state.flags & AH_FLAGS))
        return
      case 'sahf': {
        const word = state.get(RAX)
        if (word.is !== 'word') throw new Mistake('sahf without what lahf made')
        state.changeFlags(AH_FLAGS)
        state.flags |= word.kept & AH_FLAGS
        return
      }
      case 'restoreOF': {
        const word = state.get(RAX)
        if (word.is !== 'word' || (word.kept & OF) === 0) throw new Mistake('OF is restored without what seto made')
        state.changeFlags(FLAGS)
        state.flags |= OF // 1 + 0x7f overflows, 0 + 0x7f does not
        state.set(RAX, wordOf(word.kept & ~OF))
        return
      }
      case 'rdtsc':
        state.set(RAX, HALF)
        state.set(RDX, HALF)
        return
      case 'jmp': case 'jcc':
        this.#jump(state, step)
        return
      default:
        this.#calculate(state, step)
    }
  }

  #jump(state: State, { deed, condition, length, jump }: Step): void {
    if (jump < length) throw new Mistake('a jump does not lead forward')
    if (deed === 'jmp') {
      this.#state = undefined
      this.#jumpTo(this.#at + jump, state)
      return
    }
    if (state.mayBe(condition)) {
      const taken = state.copy()
      taken.assume(condition)
      this.#jumpTo(this.#at + jump, taken)
    }
    if (state.mayBe(opposite(condition))) state.assume(opposite(condition))
    else this.#state = undefined
  }

  /** An instruction that control never comes to, since values are not so: its form must be right, it does nothing. */
  #pass({ deed, length, jump }: Step): void {
    if ((deed === 'jmp' || deed === 'jcc') && jump < length) throw new Mistake('a jump does not lead forward')
  }

  #register(operand: Operand): number {
    if (operand.is !== 'register') throw new Mistake('an operand that is no register')
    return operand.register
  }

  /** What a register or constant holds, all 64 bits of a register. */
  #value(state: State, operand: Operand): Value {
    if (operand.is === 'memory') throw new Mistake('an operand in memory')
    return operand.is === 'register' ? state.get(operand.register) : numberIn(interval.only(operand.value))
  }

  #write(state: State, to: Operand, bits: interval.Bits, value: Value): void {
    state.set(this.#register(to), bits === 32 ? lowHalf(value) : value)
  }

  #mustBeNumber(value: Value): void {
    if (value.is !== 'number') throw new Mistake('a pointer is stored')
  }

  // --- Memory ---

  /** Whether an operand is a slot of the program's or a frame word, whole; its address may depend on an index. */
  #isWord(state: State, memory: Memory, is: WordPointer['is'], first = 0): boolean {
    const { gs, base, index, scale, displacement } = memory
    if (gs !== (is === 'slot') || base < 0 || base === RSP) return false
    const pointer = state.get(base)
    if (!isPointer(pointer) || pointer.is !== is) return false
    if (displacement % 8n !== 0n) return false
    let [low, high] = [0n, 0n]
    if (index >= 0) {
      const number = state.get(index)
      if (scale !== WORD || index === RSP || number.is !== 'number') return false
      ;({ low, high } = number)
    }
    const slot = BigInt(pointer.slot) + displacement / 8n
    return slot + low >= BigInt(Math.max(first, pointer.first)) && slot + high < BigInt(pointer.end)
  }

  #mustBeSlot(state: State, operand: Operand): void {
    if (operand.is === 'memory' && this.#isWord(state, operand, 'slot')) return
    throw new Mistake('memory that is not certainly a slot of the program')
  }

  /** A frame word that the module has not filled itself. */
  #mustBeFrame(state: State, operand: Operand): void {
    if (operand.is === 'memory' && this.#isWord(state, operand, 'frame', FRAME.head)) return
    throw new Mistake('memory that is not certainly a frame word of the program')
  }

  /** What is changed or read where the whole instruction is about one word. */
  #mustBeSlotOrFrame(state: State, operand: Memory): void {
    if (operand.gs) this.#mustBeSlot(state, operand)
    else this.#mustBeFrame(state, operand)
  }

  #load(state: State, memory: Memory, bits: interval.Bits): Value {
    const { gs, base, index, displacement } = memory
    const { task, returnAddress } = this.#terms
    if (bits === 64 && (this.#isWord(state, memory, 'slot') || this.#isWord(state, memory, 'frame'))) return UNKNOWN
    if (index < 0 && gs && base < 0 && task !== undefined) {
      if (bits === 64 && displacement === BigInt(task.current)) return TASK
      if (bits === 32 && displacement === BigInt(task.cpu)) return CPU
    }
    if (index < 0 && !gs && base === RSP && bits === 64) {
      const { words } = state
      const number = Number(displacement) / WORD
      const word = words[words.length - 1 - number]
      if (number >= 0 && word !== undefined) return word
      if (returnAddress >= 0 && displacement === BigInt(returnAddress + WORD * words.length)) return UNKNOWN
    }
    const isTask = index < 0 && !gs && base >= 0 && base !== RSP && state.get(base).is === 'task'
    if (isTask && bits === 32 && task !== undefined) {
      if (displacement === BigInt(task.pid) || displacement === BigInt(task.tgid)) return HALF
    }
    throw new Mistake('a load from where nothing may be read')
  }

  #address(state: State, operand: Operand): Value {
    if (operand.is !== 'memory') throw new Mistake('lea of a register')
    const { base, index, scale, displacement } = operand
    // Where something is on the stack, as a number: nothing can be reached by it.
    if (base === RSP && index < 0) return UNKNOWN
    if (base === RSP || index === RSP) throw new Mistake('%rsp is an operand')
    const start = base < 0 ? undefined : state.get(base)
    if (start !== undefined && isPointer(start) && index < 0) return this.#moved(start, displacement)
    const first = start === undefined ? ZERO : intervalOf(start)
    return numberIn(interval.address(first, index < 0 ? ZERO : intervalOf(state.get(index)), scale, displacement))
  }

  /** A pointer so many bytes further. */
  #moved(pointer: WordPointer, bytes: bigint): Value {
    const slot = BigInt(pointer.slot) + bytes / 8n
    if (bytes % 8n !== 0n || slot < BigInt(pointer.first) || slot >= BigInt(pointer.end)) return UNKNOWN
    return { ...pointer, slot: Number(slot) }
  }

  // --- Arithmetic ---

  #zeroExtended(value: Value, from: number): Interval {
    const a = intervalOf(value)
    const low = interval.truncated(a, from as 8 | 16)
    return from === 8 && hasBit(value) && low.high > 1n ? BIT : low
  }

  #setByte(state: State, register: number, condition: ConditionCode): void {
    const before = state.get(register)
    if (before.is === 'word') {
      const isOF = condition === ConditionCode.o && (state.flags & OF) !== 0
      const kept = isOF ? before.kept | OF : before.kept & ~OF
      state.set(register, kept === 0 ? UNKNOWN_WITH_BIT : wordOf(kept))
      return
    }
    state.set(register, before.is === 'number' && before.high <= 0xffn ? BIT : UNKNOWN_WITH_BIT)
  }

  #compare(state: State, { deed, bits, to, source }: Step): void {
    if (to.is === 'memory' || source.is === 'memory') {
      const word = to.is === 'memory' ? to : (source as Memory)
      if (!this.#isWord(state, word, word.gs ? 'slot' : 'frame')) throw new Mistake('memory that is not certainly a word of the program')
      state.changeFlags(FLAGS)
      return
    }
    state.changeFlags(FLAGS)
    const a = this.#register(to)
    if (deed === 'cmp') {
      const [b, other] = source.is === 'register' ? [source.register, ZERO] : [-1, interval.only(source.value)]
      state.relation = { of: 'cmp', bits, a, b, other }
    } else if (source.is === 'register' && source.register === a) {
      state.relation = { of: 'test', bits, a, b: -1, other: ZERO }
    }
  }

  #findBit(state: State, { bits, to, source }: Step): void {
    const a = this.#register(to)
    const from = intervalOf(this.#value(state, source))
    const other = foundBy(from, bits)
    const looked = interval.truncated(from, bits)
    state.changeFlags(FLAGS)
    // Of zero, it leaves the register alone on the processors that there are, and the manuals do not say so much.
    state.set(a, looked.low > 0n ? numberIn(other) : UNKNOWN)
    state.relation = { of: 'bsr', bits, a, b: -1, other, source: looked }
  }

  #divide(state: State, divisor: Interval): void {
    const [rax, rdx] = [intervalOf(state.get(RAX)), intervalOf(state.get(RDX))]
    if (rdx.high !== 0n) throw new Mistake('a division that may overflow')
    if (divisor.low === 0n) throw new Mistake('a division by what may be zero')
    state.changeFlags(FLAGS)
    state.set(RAX, numberIn(interval.quotient(rax, divisor)))
    state.set(RDX, numberIn(interval.remainder(rax, divisor)))
  }

  #calculate(state: State, { deed, bits, to, source, factor }: Step): void {
    const changed = deed === 'not' ? 0 : deed === 'inc' || deed === 'dec' ? FLAGS & ~CF : FLAGS
    if (to.is === 'memory') {
      this.#mustBeSlotOrFrame(state, to)
      if (deed !== 'inc' && to.gs) this.#mustBeNumber(this.#value(state, source))
      state.changeFlags(changed)
      return
    }
    const target = this.#register(to)
    const before = state.get(target)
    let result: Value
    if (isPointer(before) && bits === 64 && source.is === 'immediate' && (deed === 'add' || deed === 'sub')) {
      const bytes = BigInt.asIntN(64, source.value)
      result = this.#moved(before, deed === 'add' ? bytes : -bytes)
    } else {
      const other = factor ?? to
      const a = interval.truncated(intervalOf(this.#value(state, other)), bits)
      const b = interval.truncated(intervalOf(this.#value(state, source)), bits)
      const isSame = source.is === 'register' && source.register === target
      result = numberIn(this.#result(deed, bits, a, b, isSame))
    }
    if (changed !== 0) state.changeFlags(changed)
    state.set(target, result)
  }

  #result(deed: Step['deed'], bits: interval.Bits, a: Interval, b: Interval, isSame: boolean): Interval {
    switch (deed) {
      case 'add': return interval.sum(a, b, bits)
      case 'sub': return isSame ? ZERO : interval.difference(a, b, bits)
      case 'and': return interval.conjunction(a, b)
      case 'or': return interval.disjunction(a, b)
      case 'xor': return isSame ? ZERO : interval.exclusion(a, b)
      case 'imul': return interval.product(a, b, bits)
      case 'neg': return interval.negated(a, bits)
      case 'not': return interval.inverted(a, bits)
      case 'inc': return interval.sum(a, interval.only(1n), bits)
      case 'dec': return interval.difference(a, interval.only(1n), bits)
      case 'shl': return interval.shiftedLeft(a, interval.distance(b, bits), bits)
      case 'shr': return interval.shiftedRight(a, interval.distance(b, bits))
      case 'sar': return interval.shiftedArithmetically(a, interval.distance(b, bits), bits)
      default: throw new Mistake(`${deed} is not on the list`)
    }
  }
}

/** Opinions -> what was asked of them. */
const vocabularies = new WeakMap<Opinions, { readonly allowed: Allowed; readonly foreign: Foreign }>()

/**
 * What is known of code[start, end) at its end, if it does no harm on the way there.
 * @throws Mistake
 */
export const interpretProgram = (
  tables: PatchTables, opinions: Opinions, fixup: number, start: number, end: number, terms: ProgramTerms,
): Interpreted => {
  const { code, fixupCount, fixupOffset, fixupKind } = tables
  if (!(start >= 0 && start <= end && end <= code.length)) throw new Mistake('a program outside the code')
  if (end - start > MAX_BYTES) throw new Mistake('a program that is too long')
  const fieldEnd = (f: number): number => fixupOffset[f]! + fixupBytes(fixupKind[f]!)
  if (fixup > 0 && fieldEnd(fixup - 1) > start) throw new Mistake('a fixup reaches into the program')
  if (fixup < fixupCount && fixupOffset[fixup]! < start) throw new Mistake('a fixup before the program is left over')
  let vocabulary = vocabularies.get(opinions)
  if (vocabulary === undefined) {
    vocabulary = { allowed: new Allowed(opinions), foreign: new Foreign(opinions) }
    vocabularies.set(opinions, vocabulary)
  }
  const interpreting = new Interpreting(tables, vocabulary.allowed, vocabulary.foreign, fixup, start, end, terms)
  try {
    return interpreting.run()
  } catch (error) {
    if (!(error instanceof Mistake)) throw error
    throw new Mistake(`the program at code+${start}: ${error.message}, at code+${interpreting.at}`)
  }
}

/**
 * Verifies code[start, end).
 * @param fixup index of the first fixup at or behind start
 * @returns the index of the first fixup that is not in it, and how many instructions there are
 * @throws Mistake
 */
export const verifyProgram = (
  tables: PatchTables, opinions: Opinions, fixup: number, start: number, end: number, terms: ProgramTerms,
): { fixup: number; instructions: number } => {
  const { last, fixup: next, instructions } = interpretProgram(tables, opinions, fixup, start, end, terms)
  if (last.words.length > 0) throw new Mistake(`the program at code+${start} leaves words on the stack`)
  const harmed = terms.live & ~last.unharmed()
  if (harmed !== 0) throw new Mistake(`the program at code+${start} changes what is live: ${namesOf(harmed).join(' ')}`)
  return { fixup: next, instructions }
}
