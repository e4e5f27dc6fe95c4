// Small programs drawn by lot, and what is live in them, found by brute force. In: a number source. Out: code bytes
// with the tables of a kernel around them, and a list of steps that says by itself, without a decoder, what each
// instruction reads and overwrites and where it goes on.
//
// Brute force walks from every place, step by step, with a stack of calls, until each register was read or overwritten.
// No summaries, no blocks, no equations. Who called the first function of a walk is not known; so a return from it goes
// on behind every call of whatever function the place can have been reached from (`callersAt`, found by walking too).
// The rules for traced functions and pointers are those of src/liveness/convention.ts and kept.ts, written down once more.

import type { Image } from '../src/image/image.js'
import { hex } from '../src/image/rva.js'

const NONE = 0xffff_ffff
const ALL = 0x3f_ffff
const STATUS = 0x3f_0000
const CF = 1 << 16
const ZF = 1 << 19
const OF = 1 << 21
const set = (...numbers: number[]): number => numbers.reduce((bits, number) => bits | (1 << number), 0)
const RSP = set(4)
const SAVED = set(3, 4, 5, 12, 13, 14, 15)
const ARGUMENTS = set(0, 1, 2, 4, 6, 7, 8, 9)
const SCRATCH = set(1, 6, 7, 8, 9, 10, 11) | STATUS
const RESULTS = SAVED | set(0, 2)

const BASE = 0xffff_ffff_8100_0000n
const TEXT = 0x1000
const VARIANTS = 0x8000

type Lottery = (bound: number) => number

/** One instruction: what it does, in words of its own. */
export interface Step {
  bytes: number[]
  reads: number
  kills: number
  /** What it may write beside what it kills, where that matters. */
  writes?: number
  /** The step that its bytes refer to, by a displacement at `fieldAt`. */
  to?: number
  fieldAt?: number
  flow: 'next' | 'jump' | 'branch' | 'call' | 'pointerCall' | 'pointerJump' | 'return' | 'stop'
  /** Steps where it may go on beside: a fixup, a static key. */
  also?: number
  table?: 'fixup' | 'key' | 'warn' | 'ftrace'
  /** What the kernel may write over it. */
  variant?: number[]
  /** A call that may be written over: nothing is known of what is called. */
  replaced?: boolean
  /** A return with the return address not on top of the stack. */
  askew?: boolean
}

export interface Program {
  readonly steps: readonly Step[]
  readonly rva: readonly number[]
  readonly functions: readonly { readonly first: number; readonly end: number; readonly traced: boolean }[]
  /** Steps whose address stands in data. */
  readonly pointed: readonly number[]
}

const rex = (wide: number, reg: number, rm: number): number => 0x40 | (wide << 3) | ((reg >> 3) << 2) | (rm >> 3)
const two = (opcode: number, reg: number, rm: number): number[] => [rex(1, reg, rm), opcode, 0xc0 | ((reg & 7) << 3) | (rm & 7)]

/** Instructions that just go on. */
const plain = (random: Lottery): Step => {
  const flow = 'next'
  const a = random(16)
  const b = random(16)
  const noRsp = (r: number): number => (r === 4 ? 0 : r)
  const to = noRsp(a)
  switch (random(16)) {
    case 0: return { bytes: two(0x89, b, to), reads: set(b), kills: b === to ? 0 : set(to), flow } //        mov
    case 1: return { bytes: two(0x31, to, to), reads: 0, kills: set(to) | STATUS, flow } //          xor same
    case 2: return { bytes: two(0x01, b, to), reads: set(b, to), kills: STATUS, flow } //                    add
    case 3: return { bytes: two(0x39, b, a), reads: set(a, b), kills: STATUS, flow } //                      cmp
    case 4: return { bytes: two(0x11, b, to), reads: set(b, to) | CF, kills: STATUS & ~CF, flow } //         adc
    case 5: return { bytes: [rex(1, 0, to), 0xff, 0xc0 | (to & 7)], reads: set(to), kills: STATUS & ~CF, flow } // inc
    case 6: return { bytes: [0x40 | (to >> 3), 0x0f, 0x94, 0xc0 | (to & 7)], reads: ZF, kills: 0, writes: set(to), flow } //  sete
    case 7: { //                                                                                             cmovb
      return { bytes: [rex(1, to, b), 0x0f, 0x42, 0xc0 | ((to & 7) << 3) | (b & 7)], reads: set(b) | CF, kills: 0, writes: set(to), flow }
    }
    case 8: return { bytes: a > 7 ? [0x41, 0x50 | (a & 7)] : [0x50 | a], reads: set(a) | RSP, kills: 0, flow } // push
    case 9: return { bytes: to > 7 ? [0x41, 0x58 | (to & 7)] : [0x58 | to], reads: RSP, kills: set(to), flow } // pop
    case 10: return { bytes: [0x9d], reads: RSP, kills: STATUS, flow } //                                    popf
    case 11: return { bytes: [0x9e], reads: set(0), kills: STATUS & ~OF, flow } //                           sahf
    case 12: return { bytes: [0x9f], reads: STATUS & ~OF, kills: 0, flow } //                                lahf
    case 13: return { bytes: [0x48, 0xd3, 0xe0], reads: set(0, 1), kills: 0, flow } //                       shl %cl,%rax
    case 14: return { bytes: [0x48, 0x09, 0xc8], reads: set(0, 1), kills: STATUS, flow } //                  or %rcx,%rax
    default: return { bytes: [0x40 | (to >> 3), 0xb8 | (to & 7), 0x78, 0x56, 0x34, 0x12], reads: 0, kills: set(to), flow }
  }
}

const branch = (random: Lottery, to: number): Step => {
  const [code, reads] = ([[0x84, ZF], [0x82, CF], [0x80, OF], [0x87, CF | ZF]] as const)[random(4)]!
  return { bytes: [0x0f, code, 0, 0, 0, 0], fieldAt: 2, to, reads, kills: 0, flow: 'branch' }
}
const jump = (to: number): Step => ({ bytes: [0xe9, 0, 0, 0, 0], fieldAt: 1, to, reads: 0, kills: 0, flow: 'jump' })
const call = (to: number): Step => ({ bytes: [0xe8, 0, 0, 0, 0], fieldAt: 1, to, reads: RSP, kills: 0, flow: 'call' })
const ret = (random: Lottery): Step => ({ bytes: [0xc3], reads: RSP, kills: 0, flow: 'return', askew: random(12) === 0 })
const ud2 = (): Step => ({ bytes: [0x0f, 0x0b], reads: ALL, kills: 0, flow: 'stop' })

const MAX_CALLS = 5
const MAX_FUNCTIONS = 3

/** Draws a program; some of its jumps go into other functions. */
export const drawProgram = (random: Lottery): Program => {
  const count = 1 + random(MAX_FUNCTIONS)
  const sizes = Array.from({ length: count }, () => 3 + random(9))
  const firsts: number[] = []
  let total = 0
  for (const size of sizes) {
    firsts.push(total)
    total += size
  }
  const functions = sizes.map((size, f) => ({ first: firsts[f]!, end: firsts[f]! + size, traced: random(4) === 0 }))
  const steps: Step[] = []
  let calls = 0
  functions.forEach(({ first, end, traced }, f) => {
    const inside = (): number => random(10) === 0 ? firsts[random(count)]! : random(30) === 0 ? random(total) : first + random(end - first)
    for (let i = first; i < end; i++) {
      if (i === first && traced) {
        steps.push({ bytes: [0x0f, 0x1f, 0x44, 0, 0], reads: SAVED | ARGUMENTS, kills: set(10, 11) | STATUS, flow: 'next', table: 'ftrace' })
      } else if (i === end - 1 && (f === count - 1 || random(8) !== 0)) {
        steps.push([() => ret(random), () => ret(random), () => jump(inside()), ud2, () => pointer(random, 'pointerJump')][random(5)]!())
      } else {
        const kind = random(20)
        if (kind < 3) steps.push(branch(random, inside()))
        else if (kind < 6 && calls < MAX_CALLS) {
          calls++
          steps.push({ ...call(firsts[random(count)]!), replaced: random(8) === 0 })
        } else if (kind === 6) steps.push(random(3) === 0 ? ret(random) : jump(inside()))
        else if (kind === 7) steps.push(random(3) === 0 ? ud2() : { ...ud2(), reads: 0, flow: 'next', table: 'warn' })
        else if (kind === 8) steps.push({ bytes: [0x48, 0x8b, 0x1e], reads: set(6), kills: 0, flow: 'next', table: 'fixup', also: inside() })
        else if (kind === 9) steps.push({ bytes: [0x0f, 0x1f, 0x44, 0, 0], reads: 0, kills: 0, flow: 'next', table: 'key', also: inside() })
        else if (kind === 10) steps.push(pointer(random, 'pointerCall'))
        else if (kind === 11) {
          // mov $imm,%eax, or instead mov %rsi,%rcx and a nop
          steps.push({ bytes: [0xb8, 0, 0, 0, 0], variant: [0x48, 0x89, 0xf1, 0x66, 0x90], reads: set(6), kills: 0, flow: 'next' })
        } else steps.push(plain(random))
      }
    }
  })
  const rva: number[] = []
  let at = TEXT
  for (const step of steps) {
    rva.push(at)
    at += step.bytes.length
  }
  steps.forEach((step, i) => {
    if (step.to === undefined || step.fieldAt === undefined) return
    const field = rva[step.to]! - (rva[i]! + step.bytes.length)
    for (let n = 0; n < 4; n++) step.bytes[step.fieldAt + n] = (field >> (8 * n)) & 0xff
  })
  const pointed = functions.filter(() => random(5) === 0).map(({ first }) => first)
  return { steps, rva, functions, pointed }
}

/** call *%rbx or call *%r11; jmp likewise. */
const pointer = (random: Lottery, flow: 'pointerCall' | 'pointerJump'): Step => {
  const stack = flow === 'pointerCall' ? RSP : 0
  const code = flow === 'pointerCall' ? 0xd0 : 0xe0
  return random(2) === 0
    ? { bytes: [0xff, code | 3], reads: set(3) | stack, kills: 0, flow }
    : { bytes: [0x41, 0xff, code | 3], reads: set(11) | stack, kills: 0, flow }
}

/** The program as the image of a kernel, as far as control flow and liveness ask. */
export const imageOf = ({ steps, rva, functions, pointed }: Program): Image => {
  const bytes = Uint8Array.from(steps.flatMap((step) => step.bytes))
  const textEnd = TEXT + bytes.length
  const variants = steps.flatMap((step, i) => step.variant ? [{ at: rva[i]!, bytes: step.variant }]
    : step.replaced ? [{ at: rva[i]!, bytes: [0xf3, 0x48, 0x0f, 0xb8, 0xc7] }] : []) // popcnt %rdi,%rax
  const replacements = Uint8Array.from(variants.flatMap((variant) => variant.bytes))
  const none = new Uint32Array(0)
  const withTable = (table: Step['table']): number[] => steps.flatMap((step, i) => (step.table === table ? [i] : []))
  const places = (list: readonly number[]): Uint32Array => Uint32Array.from(list, (i) => rva[i]!)
  const also = (list: readonly number[]): Uint32Array => Uint32Array.from(list, (i) => rva[steps[i]!.also!]!)
  const starts = Uint32Array.from(functions, (f) => rva[f.first]!)
  const ends = Uint32Array.from(functions, (f) => rva[f.end] ?? textEnd)
  const tables = {
    ftrace: places(withTable('ftrace')), paravirt: { rva: none, len: none },
    alternatives: {
      rva: Uint32Array.from(variants, (v) => v.at), len: Uint32Array.from(variants, () => 5),
      replRva: Uint32Array.from(variants, (_, n) => VARIANTS + 5 * n), replLen: Uint32Array.from(variants, () => 5),
    },
    retpolineSites: Uint32Array.of(VARIANTS), // as where indirect jumps are tail calls
    returnSites: none, callSites: none, endbrSeals: none, cfiSites: none,
    staticKeys: { rva: places(withTable('key')), target: also(withTable('key')) },
    staticCalls: none, staticCallTrampolines: { start: none, end: none }, smpLocks: none, runtimeConst: { rva: none, len: none },
    exTable: { insn: places(withTable('fixup')), fixup: also(withTable('fixup')), data: new Uint32Array(withTable('fixup').length) },
    bugs: none, warns: places(withTable('warn')), exports: none, kprobeBlacklist: { start: none, end: none },
    ranges: [], found: [], places: [],
  }
  const askew = new Set(steps.flatMap((step, i) => (step.askew ? [rva[i]!] : [])))
  const image = {
    base: BASE, imageBytes: 0x10000,
    regions: [
      { name: '.text', start: TEXT, end: textEnd, bytes },
      { name: '.altinstr_replacement', start: VARIANTS, end: VARIANTS + replacements.length, bytes: replacements },
    ],
    textStart: TEXT, textEnd, text: bytes, tables,
    symbols: { rvaOf: () => NONE, nameStartsWith: () => false },
    functions: {
      count: functions.length, start: starts, end: ends, symbol: starts,
      isFunc: new Uint8Array(functions.length).fill(1), isCold: new Uint8Array(functions.length),
      nameOf: (f: number) => `f${f}`,
      functionAt: (at: number) => {
        for (let f = 0; f < starts.length; f++) if (at >= starts[f]! && at < ends[f]!) return f
        return NONE
      },
    },
    orc: { returnsThere: (at: number) => !askew.has(at), returnAddressAt: () => -1 },
    readOnlyPointers: () => undefined,
    codePointers: Uint32Array.from(pointed, (i) => rva[i]!).sort(),
  }
  return image as unknown as Image
}

/** In words, for when something is wrong. */
export const listing = ({ steps, rva, functions, pointed }: Program): string => steps.map((step, i) => {
  const f = functions.findIndex(({ first }) => first === i)
  const head = f < 0 ? '' : `f${f}${functions[f]!.traced ? ' traced' : ''}${pointed.includes(i) ? ' pointed' : ''}:\n`
  const bytes = step.bytes.map((byte) => byte.toString(16).padStart(2, '0')).join(' ')
  return `${head}  ${String(i).padStart(2)} ${hex(rva[i]!)} ${bytes} ${step.table ?? ''}${step.replaced ? 'replaced' : ''}${step.askew ? 'askew' : ''} ${step.to ?? step.also ?? ''}`
}).join('\n')

/** More steps than this are not walked; such a program is left out. */
const MAX_WALK = 300_000

export class TooLong extends Error {}

/** What is live before every step. */
export class BruteForce {
  readonly #program: Program
  readonly #depth: number
  readonly #returns: boolean[] // function -> whether a call of it ever returns
  readonly #callersAt: Set<number>[] // step -> functions that may be the one entered by the call at hand; -1: anyone
  readonly #compiled: boolean[]
  readonly #kept: number[] // step -> what its call of a traced function leaves alone after all
  readonly #wanted: number[] // function -> the same, of all that call it
  #walked = 0

  constructor(program: Program) {
    this.#program = program
    this.#depth = 2 * program.functions.length + 1
    this.#compiled = program.steps.map((_, i) => program.functions.some((f) => f.traced && i >= f.first && i < f.end))
    this.#returns = program.functions.map(({ first }) => this.#everReturns(first, 0))
    this.#callersAt = this.#findCallers()
    this.#kept = program.steps.map((step, i) =>
      step.flow === 'call' && program.functions[this.#functionAt(step.to!)]!.traced ? this.#keptBehind(i) : 0)
    this.#wanted = program.functions.map(({ first }) =>
      program.steps.reduce((all, step, i) => (step.to === first ? all | this.#kept[i]! : all), 0))
  }

  #functionAt(i: number): number {
    return this.#program.functions.findIndex(({ first }) => first === i)
  }

  /** Where control goes on in the running function, calls stepped over. */
  #around(i: number): number[] {
    const step = this.#program.steps[i]!
    const places = step.also === undefined ? [] : [step.also]
    const next = (): void => void places.push(i + 1)
    switch (step.flow) {
      case 'next':
      case 'pointerCall':
        next()
        break
      case 'jump':
        places.push(step.to!)
        break
      case 'branch':
        places.push(step.to!)
        next()
        break
      case 'call':
        if (step.replaced || this.#returns[this.#functionAt(step.to!)]) next()
        break
      default:
    }
    return places
  }

  /** What is read behind a call of a traced function though the rule says that it was lost: by instructions alone. */
  #keptBehind(call: number): number {
    const { steps, functions } = this.#program
    const seen = new Map<number, number>()
    let kept = 0
    const todo = this.#around(call).map((to) => [to, SCRATCH & ~STATUS] as [number, number])
    for (let next = todo.pop(); next !== undefined; next = todo.pop()) {
      const i = next[0]
      const mask = next[1] & ~(seen.get(i) ?? 0)
      const f = this.#functionAt(i)
      if (mask === 0 || i >= steps.length || (f >= 0 && functions[f]!.traced)) continue
      seen.set(i, (seen.get(i) ?? 0) | mask)
      const step = steps[i]!
      const own = step.flow === 'stop' || step.variant !== undefined ? 0 : step.reads
      kept |= mask & own
      const written = step.variant === undefined ? step.kills | (step.writes ?? 0) : set(0)
      for (const to of this.#around(i)) todo.push([to, mask & ~own & ~written])
    }
    return kept
  }

  /** Whether some run from a step comes to a return of the function that runs there; calls are walked into. */
  #everReturns(from: number, depth: number): boolean {
    if (depth > this.#depth) return false
    const done = new Set<number>()
    const walk = (i: number): boolean => {
      if (done.has(i)) return false
      done.add(i)
      const step = this.#program.steps[i]!
      if (step.flow === 'return' || step.flow === 'pointerJump') return true
      const places = step.also === undefined ? [] : [step.also]
      if (step.flow === 'jump' || step.flow === 'branch') places.push(step.to!)
      const stays = step.flow === 'call' && !step.replaced && !this.#everReturns(step.to!, depth + 1)
      if (step.flow !== 'jump' && step.flow !== 'stop' && !stays) places.push(i + 1)
      return places.some(walk)
    }
    return walk(from)
  }

  #findCallers(): Set<number>[] {
    const { steps, functions, pointed } = this.#program
    const at = steps.map(() => new Set<number>())
    const jumpedTo = steps.map(() => false)
    const fallenInto = steps.map(() => false)
    const called = steps.map(() => false)
    steps.forEach((step, i) => {
      for (const to of this.#around(i)) (to === i + 1 ? fallenInto : jumpedTo)[to] = true
      if (step.flow === 'call') called[step.to!] = true
    })
    const from = (root: number, start: number): void => {
      const stack = [start]
      while (stack.length > 0) {
        const i = stack.pop()!
        const f = this.#functionAt(i)
        // Whoever enters a traced function expects what the rule says, and nothing else.
        if (i !== start && f >= 0 && functions[f]!.traced) continue
        if (at[i]!.has(root)) continue
        at[i]!.add(root)
        stack.push(...this.#around(i))
      }
    }
    steps.forEach((step, i) => {
      const f = this.#functionAt(i)
      if (f >= 0 && functions[f]!.traced) return from(f, i)
      if (called[i]) from(f, i)
      const alone = !called[i] && !jumpedTo[i] && (!fallenInto[i] || f >= 0)
      if (pointed.includes(i) || alone) from(-1, i)
      if (step.flow === 'call' && step.replaced) {
        const to = this.#functionAt(step.to!)
        if (!functions[to]!.traced) from(-1, step.to!)
      }
    })
    const reached = at.map((roots) => roots.size > 0)
    reached.forEach((known, i) => {
      if (!known) from(-1, i)
    })
    return at
  }

  /** What is live before a step. */
  liveAt(start: number): number {
    const { steps, functions } = this.#program
    const seen = new Map<number, number>()
    let found = 0
    // A stack is a number: in base `size`, the top one lowest, 1 + the step to return to, or at the very bottom
    // `callers` + the step from where a function was jumped to, whose callers are those of that step.
    const callers = steps.length + 1
    const size = callers + steps.length
    /** The function that runs at a step returns. */
    const leave = (i: number, stack: number, depth: number, mask: number): void => {
      if (mask === 0) return
      const top = stack % size
      if (top !== 0 && top < callers) return enter(top - 2, top - 1, Math.floor(stack / size), depth - 1, mask)
      for (const root of this.#callersAt[top === 0 ? i : top - callers]!) {
        if (root < 0) found |= mask
        else {
          found |= mask & (RESULTS | this.#wanted[root]!)
          if (functions[root]!.traced) continue
          steps.forEach((other, c) => {
            if (other.flow === 'call' && !other.replaced && other.to === functions[root]!.first) enter(c, c + 1, 0, 0, mask & ~RESULTS)
          })
        }
      }
    }
    /** Control goes from one step to another and not by a call. */
    const enter = (from: number, to: number, stack: number, depth: number, mask: number): void => {
      const f = this.#functionAt(to)
      if (f >= 0 && functions[f]!.traced) {
        found |= mask & ARGUMENTS
        if (this.#returns[f]) leave(from, stack, depth, mask & ~ARGUMENTS & ~SCRATCH)
      } else visit(to, stack === 0 && f >= 0 ? callers + from : stack, depth, mask)
    }
    const todo: [step: number, stack: number, depth: number, mask: number][] = []
    const visit = (i: number, stack: number, depth: number, mask: number): void => {
      if (mask !== 0 && depth <= this.#depth) todo.push([i, stack, depth, mask])
    }
    const walk = (i: number, stack: number, depth: number, mask: number): void => {
      const key = stack * size + i
      mask &= ~(seen.get(key) ?? 0)
      if (mask === 0) return
      seen.set(key, (seen.get(key) ?? 0) | mask)
      if (++this.#walked > MAX_WALK) throw new TooLong()
      const step = steps[i]!
      found |= mask & step.reads
      mask &= ~step.reads & ~step.kills
      const everything = (): void => {
        found |= mask
        mask = 0
      }
      const go = (to: number): void => enter(i, to, stack, depth, mask)
      if (step.also !== undefined) go(step.also)
      switch (step.flow) {
        case 'next':
          go(i + 1)
          break
        case 'branch':
          go(step.to!)
          go(i + 1)
          break
        case 'jump':
          go(step.to!)
          break
        case 'call': {
          const f = this.#functionAt(step.to!)
          if (step.replaced) everything()
          else if (functions[f]!.traced) {
            found |= mask & ARGUMENTS
            mask &= ~ARGUMENTS & ~(SCRATCH & ~this.#kept[i]!)
            if (this.#returns[f]) go(i + 1)
          } else visit(step.to!, stack * size + i + 2, depth + 1, mask)
          break
        }
        case 'pointerCall':
        case 'pointerJump':
          if (!this.#compiled[i]) everything()
          found |= mask & ~(set(11) | STATUS)
          if (this.#setsFlagsBefore(i)) found |= mask & STATUS
          mask &= set(11) | STATUS
          if (step.flow === 'pointerCall') go(i + 1)
          else leave(i, stack, depth, mask)
          break
        case 'return':
          if (step.askew && !this.#compiled[i]) everything()
          leave(i, stack, depth, mask)
          break
        default:
      }
    }
    visit(start, 0, 0, ALL)
    while (todo.length > 0) walk(...todo.pop()!)
    return found
  }

  /** Whether popf or its like stands before, as far back as control comes from nowhere else and nothing traps. */
  #setsFlagsBefore(i: number): boolean {
    for (let at = i - 1; at >= 0 && this.#straight(at); at--) {
      if ([0x9d, 0x9e].includes(this.#program.steps[at]!.bytes[0]!)) return true
    }
    return false
  }

  #targets: Set<number> | undefined
  /** Whether control goes from a step to the next one and to no other, and comes to that from no other. */
  #straight(at: number): boolean {
    const { steps, functions, pointed } = this.#program
    this.#targets ??= new Set([
      ...steps.flatMap((step) => [step.to ?? -1, step.also ?? -1]), ...functions.map(({ first }) => first), ...pointed,
    ])
    const step = steps[at]!
    return step.flow === 'next' && step.also === undefined && step.table !== 'warn' && !this.#targets.has(at + 1)
  }
}
