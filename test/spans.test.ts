// Spans, executed for real: what is compiled for entries, ways out and switches between threads runs in a process
// (native/spans.c), on random sequences of calls that recurse, change threads, never return, or are of no interest, with
// tables so small that they fill up. A model of the language says what must be collected: counts and arguments exactly,
// times between the clock before and after. Then real threads do the same all at once on the same tables, and nothing may
// get lost. The verifier must accept every piece of code, and what is live must be what it was.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { FLAGS, REGISTER_NAMES, RSP, type RegisterSet } from '../src/code/registers.js'
import { SecondDecoder } from '../src/code/second.js'
import { KerninstError } from '../src/error.js'
import { isPointCount, type AggregateTable } from '../src/probe/aggregates.js'
import { parseProgram, type Aggregate } from '../src/probe/program.js'
import { readRequests, type PointProgram } from '../src/probe/requests.js'
import { CodeBuffer } from '../src/splice/code.js'
import { compilePrograms, type PlaceProgram } from '../src/splice/compile.js'
import { layOutFrames, type FrameLayout } from '../src/splice/frames.js'
import { Opinions } from '../src/splice/opinion.js'
import type { SpanPart } from '../src/splice/spans.js'
import { FIXUP_KIND, type PatchTables } from '../src/splice/tables.js'
import { verifyProgram, type SlotRange } from '../src/splice/verify.js'
import { ROOT } from './guest/artefacts.js'
import { interpret, type Slots } from './interpreter.js'
import { lottery, seed, seedNote, type Lottery } from './lottery.js'
import { randomProgram } from './randomprogram.js'
import { sampleTables } from './sample.js'

const EVENTS = 3000
const MAX_SLOTS = 8192 // of native/spans.c
const CALLS = 20_000
const PROGRAMS = Number(process.env['KERNINST_PROGRAMS'] ?? 400)

/** As native/spans.c has them. */
const TASK = { current: 8, cpu: 16, pid: 20, tgid: 24 }
const SLOTS_AT = 4096n
const STACKS = 0x1000_0000_0000n
const FRAMES_AT = 0x2000_0000_1000n
const TASKS_AT = 0x3000_0000_0000n
const TASK_BYTES = 0x2000n
const STATE_BYTES = 17 * 8
const BEGIN = 3

const wrap = (value: bigint): bigint => BigInt.asUintN(64, value)
const ARGUMENT_REGISTERS = ['rdi', 'rsi', 'rdx', 'rcx', 'r8', 'r9'] as const
/** Bytes from %rsp to the return address, where the pieces run. */
const DISTANCES = [0x20, 0x58]
const LOOKS = 8

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-spans-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const runner = join(scratch, 'spans')
execFileSync('gcc', ['-O1', '-mno-red-zone', '-Wall', '-Wextra', '-Werror', '-static', '-pthread', '-o', runner, join(ROOT, 'test/native/spans.c')])

const opinions = new Opinions(await SecondDecoder.load())

interface Built {
  readonly pieces: readonly Uint8Array[] // enter, leave, switch
  readonly live: readonly RegisterSet[]
  readonly frames: FrameLayout
  readonly slots: number
  readonly slotOf: ReadonlyMap<string, number> // name of an aggregate -> its first slot
  readonly tables: readonly AggregateTable[]
}

/** Compiles a span's program; slot 0 counts what is missed. */
const build = (text: string, bits: number, live: readonly RegisterSet[]): Built => {
  const { programs: [program], aggregates } = readRequests([{ text, source: 't' }])
  const frames = layOutFrames([program!], bits)
  let slots = 1
  const slotOf = new Map<string, number>()
  const ranges: SlotRange[] = [{ first: 0, count: 1 }]
  const place = (name: string, count: number): void => {
    slotOf.set(name, slots)
    ranges.push({ first: slots, count })
    slots += count
  }
  for (const { name, width, keys } of aggregates.tables) place(name, width * keys)
  for (const name of program!.counts) place(name, 1)
  const bind = (one: Aggregate): ReturnType<PlaceProgram['bind']> => {
    const table = isPointCount(one) ? undefined : aggregates.tables[aggregates.indexOf(one)]
    return { slot: slotOf.get(one.name)!, width: table?.width ?? 1, keyed: table?.keyKind === 'index' }
  }
  const terms = program!.span!
  const parts: SpanPart[] = [
    { role: 'enter', terms, frames: frames.tables[0]!, threads: frames.threads },
    { role: 'leave', terms, frames: frames.tables[0]!, threads: frames.threads },
    ...(frames.threads ? [{ role: 'switch', threads: frames.threads } as const] : []),
  ]
  const pieces = parts.map((span, i) => pieceOf(program!, span, live[i]!, bind, ranges, DISTANCES[i] ?? -1, frames.words))
  return { pieces, live, frames, slots, slotOf, tables: aggregates.tables }
}

const pieceOf = (
  { predicate, body, assembled }: PointProgram, span: SpanPart, live: RegisterSet, bind: PlaceProgram['bind'], slots: readonly SlotRange[],
  returnAddress: number, frameWords: number,
): Uint8Array => {
  const code = new CodeBuffer()
  compilePrograms(code, live, [{ ...(predicate && { predicate }), body, assembled, bind, span }], { task: TASK, returnAddress, missed: 0 })
  const tables: PatchTables = { ...sampleTables(), ...code.fixupTables(), code: code.bytes(), slotCount: MAX_SLOTS, frameWords }
  verifyProgram(tables, opinions, 0, 0, code.length, { live, slots, frameWords, task: TASK, returnAddress })
  code.byte(0xc3)
  const bytes = code.bytes().slice()
  const view = new DataView(bytes.buffer)
  const { fixupCount, fixupOffset, fixupKind, fixupValue } = code.fixupTables()
  for (let f = 0; f < fixupCount; f++) {
    if (fixupKind[f] === FIXUP_KIND.slot64) view.setBigUint64(fixupOffset[f]!, SLOTS_AT + 8n * BigInt(fixupValue[f]!), true)
    if (fixupKind[f] === FIXUP_KIND.frame64) view.setBigUint64(fixupOffset[f]!, FRAMES_AT + 8n * BigInt(fixupValue[f]!), true)
  }
  return bytes
}

const headOf = ({ pieces, frames, slots }: Built, events: number, threads: number, calls: number, scale: bigint): Buffer => {
  const head = Buffer.alloc(48)
  const numbers = [...[0, 1, 2].map((i) => pieces[i]?.length ?? 0), frames.words, slots, events, threads, calls, ...DISTANCES]
  numbers.forEach((value, i) => head.writeUInt32LE(value, 4 * i))
  head.writeBigUInt64LE(scale, 40)
  return head
}

// ---- the model

interface Interval {
  readonly low: bigint
  readonly high: bigint
}
const minus = (a: Interval, b: Interval): Interval => ({ low: a.low - b.high, high: a.high - b.low })
const plus = (a: Interval, b: Interval): Interval => ({ low: a.low + b.low, high: a.high + b.high })
const NOTHING: Interval = { low: 0n, high: 0n }

/** A table that is searched as frames.ts says. */
class Table<T> {
  readonly #bits: bigint
  readonly #keys = new Map<number, bigint>()
  readonly values = new Map<number, T>()

  constructor(bits: number) {
    this.#bits = BigInt(bits)
  }

  #places(key: bigint): number[] {
    // The fraction of key / golden ratio, so many bits of it.
    const first = Number((wrap(key * 11_400_714_819_323_198_485n)) >> (64n - this.#bits))
    return Array.from({ length: LOOKS }, (_, i) => first + i)
  }

  /** Where a key is; -1: nowhere. */
  find(key: bigint): number {
    return this.#places(key).find((i) => this.#keys.get(i) === key) ?? -1
  }

  /** Where it is from now on; -1: there is no room. */
  claim(key: bigint): number {
    const found = this.#places(key).find((i) => !this.#keys.has(i) || this.#keys.get(i) === key) ?? -1
    if (found >= 0) this.#keys.set(found, key)
    return found
  }

  forget(at: number): void {
    this.#keys.delete(at)
  }
}

interface Frame {
  readonly start: Interval | undefined // undefined: of no interest
  readonly virtual: Interval
  readonly args: readonly bigint[]
}

type Event = { readonly what: number; readonly frame: number; readonly task: number; readonly gpr: readonly bigint[]; readonly flags: bigint }

/** What is collected of a call. */
interface Call {
  readonly args: readonly bigint[]
  readonly retval: bigint
  readonly elapsed: Interval
  readonly oncpu: Interval
}

interface Sort {
  readonly text: string
  readonly entry: (args: readonly bigint[]) => boolean
  readonly leave: (call: Call) => boolean
  /** Aggregate and place in it -> what is added to the slot. */
  readonly adds: (call: Call) => readonly (readonly [name: string, slot: number, by: Interval])[]
}

const one: Interval = { low: 1n, high: 1n }
const exactly = (value: bigint): Interval => ({ low: value, high: value })

const SORTS: readonly Sort[] = [
  {
    text: 'span:f { @n = count(); @t = sum(elapsed) }',
    entry: () => true, leave: () => true, adds: ({ elapsed }) => [['n', 0, one], ['t', 0, elapsed]],
  },
  {
    text: 'span:f /arg2 > 4096 && retval > 0/ { @o = avg(oncpu); @t = sum(elapsed); @n[arg0 & 3] = count() }',
    entry: (args) => args[2]! > 4096n, leave: ({ retval }) => BigInt.asIntN(64, retval) > 0n,
    adds: ({ oncpu, elapsed, args }) => [['o', 0, oncpu], ['o', 1, one], ['t', 0, elapsed], ['n', Number(args[0]! & 3n), one]],
  },
  {
    text: 'span:f /arg1 & 1/ { @o = sum(oncpu) @s[(arg4 ^ arg5) % 10] = sum(arg3 + retval) }',
    entry: (args) => (args[1]! & 1n) === 1n, leave: () => true,
    adds: ({ oncpu, args, retval }) =>
      [['o', 0, oncpu], ['s', Number((args[4]! ^ args[5]!) % 10n), exactly(wrap(args[3]! + retval))]],
  },
  {
    text: 'span:f /oncpu <= elapsed && elapsed < 1 << 62/ { @n = count(); if (arg0 > arg1) { @big = count() } else { @d = sum(arg1 - arg0) } @w = sum(elapsed - oncpu) }',
    entry: () => true, leave: () => true,
    adds: ({ args: [a, b], elapsed, oncpu }) => [
      ['n', 0, one], a! > b! ? ['big', 0, one] : ['d', 0, exactly(b! - a!)],
      ['w', 0, minus(elapsed, oncpu).low < 0n ? { low: 0n, high: minus(elapsed, oncpu).high } : minus(elapsed, oncpu)],
    ],
  },
]

const drawEvents = (random: Lottery, built: Built, length = EVENTS): Event[] => {
  const switches = built.pieces.length > 2
  const running: { frame: number; task: number }[] = []
  const word = (): bigint => (random(3) === 0 ? BigInt(random(8192)) : random(4) === 0 ? BigInt(random(8)) : (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32)))
  const state = (): Pick<Event, 'gpr' | 'flags'> => ({
    gpr: Array.from({ length: 16 }, word), flags: [0, 2, 4, 6, 7, 11].reduce((set, bit) => set | (BigInt(random(2)) << BigInt(bit)), 2n),
  })
  const away = new Set<number>()
  const events: Event[] = []
  while (events.length < length) {
    const task = random(40)
    const kind = random(200)
    if (kind === 0) {
      events.push({ what: BEGIN, frame: 0, task, ...state() })
      continue
    }
    if (kind < 40 && switches) {
      // A thread goes, and one that was away comes, or one that nobody has heard of.
      const came = away.size > 0 && random(8) > 0 ? [...away][random(away.size)]! : 40 + random(60)
      if (away.has(task)) continue
      away.add(task)
      away.delete(came)
      const { gpr, flags } = state()
      const both = [...gpr]
      both[7] = TASKS_AT + BigInt(task) * TASK_BYTES
      both[6] = TASKS_AT + BigInt(came) * TASK_BYTES
      events.push({ what: 2, frame: 1, task, gpr: both, flags })
      continue
    }
    if (kind < 130 || running.length === 0) {
      if (away.has(task)) continue
      // Some calls never return, and others come to the same place of the stack.
      const frame = 8 * (1 + random(60))
      const other = running.findIndex((call) => call.frame === frame)
      if (other >= 0 && random(12) > 0) continue
      if (other >= 0) running.splice(other, 1)
      running.push({ frame, task })
      events.push({ what: 0, frame, task, ...state() })
      continue
    }
    const at = random(running.length)
    const call = running[at]!
    if (away.has(call.task)) continue
    running.splice(at, 1)
    events.push({ what: 1, frame: call.frame, task: call.task, ...state() })
    // A way out of a call that began before all others.
    if (random(30) === 0) events.push({ what: 1, frame: 1000 + random(10), task: call.task, ...state() })
  }
  return events
}

const addressOf = (frame: number): bigint => STACKS + 0x8000n + BigInt(frame)

const inputOf = (built: Built, events: readonly Event[], scale: bigint): Buffer => {
  const size = 8 + STATE_BYTES
  const body = Buffer.alloc(events.length * size)
  events.forEach(({ what, frame, task, gpr, flags }, i) => {
    const at = i * size
    body.writeUInt32LE(what, at)
    body.writeUInt32LE(task, at + 4)
    gpr.forEach((value, r) => body.writeBigUInt64LE(value, at + 8 + 8 * r))
    // The call that leads to the code pushes a word.
    body.writeBigUInt64LE(addressOf(frame) - BigInt(DISTANCES[what] ?? 0) + 8n, at + 8 + 8 * 4)
    body.writeBigUInt64LE(flags, at + 8 + 128)
  })
  return Buffer.concat([headOf(built, events.length, 0, 0, scale), ...built.pieces.map((piece) => Buffer.from(piece)), body])
}

/** What is wrong, or ''; and figures. */
const judge = (sort: Sort, built: Built, bits: number, events: readonly Event[], scale: bigint, output: Buffer): { wrong: string; missed: number; calls: number } => {
  const frames = new Table<Frame>(bits)
  const threads = new Table<Interval>(bits)
  const oncpuWanted = built.pieces.length > 2
  let since: Interval = NOTHING
  let slots: Interval[] = Array.from({ length: built.slots }, () => NOTHING)
  let [missed, calls, at] = [0, 0, 0]
  const inNs = ({ low, high }: Interval): Interval => ({ low: low * scale >> 32n, high: high * scale >> 32n })
  const result = (wrong: string): { wrong: string; missed: number; calls: number } => ({ wrong, missed, calls })
  for (const [number, { what, frame, task, gpr, flags }] of events.entries()) {
    const clock: Interval = { low: output.readBigUInt64LE(at), high: output.readBigUInt64LE(at + 8) }
    at += 16
    if (what !== BEGIN) {
      const live = built.live[what]!
      for (let r = 0; r < 16; r++) {
        if (r !== 4 && live & (1 << r) && output.readBigUInt64LE(at + 8 * r) !== gpr[r]) return result(`event ${number}: ${REGISTER_NAMES[r]!} is lost`)
      }
      const lost = output.readBigUInt64LE(at + 128) ^ flags
      for (const [i, bit] of [0, 2, 4, 6, 7, 11].entries()) {
        if (live & (1 << (16 + i)) && (lost >> BigInt(bit)) & 1n) return result(`event ${number}: a flag is lost`)
      }
    }
    at += STATE_BYTES
    const key = addressOf(frame)
    const current = TASKS_AT + BigInt(task) * TASK_BYTES
    const add = (slot: number, by: Interval): void => { slots[slot] = plus(slots[slot]!, by) }
    const miss = (): void => {
      missed++
      add(0, one)
    }
    if (what === BEGIN) {
      since = clock
      slots = slots.map(() => NOTHING)
    } else if (what === 0) {
      const args = ARGUMENT_REGISTERS.map((name) => gpr[REGISTER_NAMES.indexOf(name)]!)
      let start: Interval | undefined = sort.entry(args) ? clock : undefined
      let virtual = NOTHING
      if (start !== undefined && oncpuWanted) {
        const thread = threads.claim(current)
        if (thread < 0) {
          miss()
          start = undefined
        } else virtual = minus(clock, threads.values.get(thread) ?? NOTHING)
      }
      const place = frames.claim(key)
      if (place >= 0) frames.values.set(place, { start, virtual, args })
      else if (start !== undefined) miss()
    } else if (what === 1) {
      const place = frames.find(key)
      if (place >= 0) {
        const { start, virtual, args } = frames.values.get(place)!
        frames.forget(place)
        if (start !== undefined && start.low >= since.high) {
          const elapsed = minus(clock, start)
          const thread = threads.find(current)
          const oncpu = oncpuWanted ? minus(minus(clock, threads.values.get(thread) ?? NOTHING), virtual) : NOTHING
          const call: Call = { args, retval: gpr[0]!, elapsed: inNs(elapsed), oncpu: inNs(oncpu) }
          calls++
          if (sort.leave(call)) for (const [name, slot, by] of sort.adds(call)) add(built.slotOf.get(name)! + slot, by)
        }
      }
    } else {
      for (const [r, sign] of [[7, -1n], [6, 1n]] as const) {
        const thread = threads.find(gpr[r]!)
        if (thread < 0) continue
        const was = threads.values.get(thread) ?? NOTHING
        threads.values.set(thread, sign > 0n ? plus(was, clock) : minus(was, clock))
      }
    }
    for (let slot = 0; slot < built.slots; slot++, at += 8) {
      const is = output.readBigUInt64LE(at)
      const { low, high } = slots[slot]!
      if (wrap(is - low) > high - low) return result(`event ${number}: slot ${slot} is ${is}, not from ${wrap(low)} to ${wrap(high)}`)
    }
  }
  return result(at === output.length ? '' : 'output is left over')
}

const anyLive = (random: Lottery): RegisterSet => {
  const density = random(4)
  let live = RSP as number
  for (let bit = 0; bit < 22; bit++) if (random(3) < density) live |= 1 << bit
  return random(3) === 0 ? live & ~FLAGS : live
}

/** Registers that the code reads have to be live where it runs. */
const READ: readonly RegisterSet[] = [
  ARGUMENT_REGISTERS.reduce((set, name) => set | (1 << REGISTER_NAMES.indexOf(name)), 0), 1, (1 << 7) | (1 << 6),
]

t.test('random calls', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  for (const [i, sort] of SORTS.entries()) {
    for (let round = 0; round < 12; round++) {
      const bits = 4 + random(3)
      // Not a whole number of ns, a slow clock, and one that counts ns.
      const scale = [1_717_986_918n, 5n << 32n, 1n << 32n][round % 3]!
      const built = build(sort.text, bits, READ.map((reads) => anyLive(random) | reads))
      const events = drawEvents(random, built)
      const { status, signal, stdout, stderr } = spawnSync(runner, { input: inputOf(built, events, scale), maxBuffer: 1 << 28 })
      if (status !== 0) {
        t.fail(`the runner ended with ${status ?? signal}: ${stderr}`)
        continue
      }
      const { wrong, missed, calls } = judge(sort, built, bits, events, scale, stdout)
      if (wrong !== '') t.fail(`${wrong}: ${sort.text}, ${bits} bits`)
      else t.ok(calls > 40 && (bits > 4 || missed > 0), `program ${i}, ${bits} bits: ${calls} calls, ${missed} missed`)
    }
  }
  t.end()
})

t.test('random programs', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  const setting = { point: 'span:f', inputs: ['arg0', 'arg1', 'arg2', 'arg3', 'arg4', 'arg5', 'retval', 'cpu', 'pid', 'tid'], assembly: false, prefix: 'x' }
  let [drawn, served, calls] = [0, 0, 0]
  while (served < PROGRAMS) {
    drawn++
    const text = randomProgram(random, setting)
    let built: Built
    try {
      built = build(text, 12, READ.map((reads) => anyLive(random) | reads))
    } catch (error) {
      if (!(error instanceof KerninstError)) throw new Error(text, { cause: error })
      continue
    }
    if (built.slots > MAX_SLOTS) continue
    served++
    const events = drawEvents(random, built, 100).filter(({ what }) => what !== BEGIN)
    const { status, signal, stdout, stderr } = spawnSync(runner, { input: inputOf(built, events, 1n << 32n), maxBuffer: 1 << 28 })
    if (status !== 0) {
      t.fail(`the runner ended with ${status ?? signal}: ${stderr}: ${text}`)
      break
    }
    const [probe] = parseProgram(text, 't')
    const slots: Slots = new Map()
    const running = new Map<number, Event>()
    for (const event of events) {
      if (event.what === 0) running.set(event.frame, event)
      const began = running.get(event.frame)
      if (event.what !== 1 || began === undefined) continue
      running.delete(event.frame)
      calls++
      const register = (name: string): bigint => (name === 'rax' ? event : began).gpr[REGISTER_NAMES.findIndex((one) => one === name)]!
      interpret(probe!, { register, cpu: 0n, pid: 0n, tid: 0n, caller: 0n }, slots, (one, slotKey) => {
        const table = isPointCount(one) ? undefined : built.tables.find(({ name }) => name === one.name)
        return built.slotOf.get(one.name)! + (table?.keyKind === 'index' ? Number(slotKey) * table.width : 0)
      })
    }
    const last = stdout.subarray(stdout.length - 8 * built.slots)
    const wrong = Array.from({ length: built.slots }, (_, slot) => [slot, last.readBigUInt64LE(8 * slot), slots.get(slot) ?? 0n] as const)
      .filter(([, is, expected]) => is !== expected)
    if (wrong.length > 0) {
      t.fail(`slots ${wrong.map(([slot, is, expected]) => `${slot}: ${is}, not ${expected}`).join('; ')}: ${text}`)
      break
    }
  }
  t.ok(drawn < 4 * PROGRAMS, `${served} programs of ${drawn}, ${calls} calls`)
  t.end()
})

t.test('threads at once', (t) => {
  const text = 'span:f { @n = count(); @t = sum(elapsed); @o = sum(oncpu); @k[arg0 & 15] = count() }'
  const sizes = [[10, 8], [4, 8], [5, 8], [10, 2]] as const
  const all = new Map<number, bigint>() // threads -> calls
  for (const [bits, threads] of sizes) {
    const built = build(text, bits, READ.map((reads) => RSP | reads))
    const input = Buffer.concat([headOf(built, 0, threads, CALLS, 1n << 32n), ...built.pieces.map((piece) => Buffer.from(piece))])
    const { status, signal, stdout } = spawnSync(runner, { input, maxBuffer: 1 << 28 })
    t.equal(status, 0, `${signal}`)
    if (status !== 0) continue
    const slot = (name: string, n = 0): bigint => stdout.readBigUInt64LE(8 * (built.slotOf.get(name)! + n))
    const missed = stdout.readBigUInt64LE(0)
    // Threads draw their calls, and the same ones each time. Where the table is large enough, none is missed.
    if (!all.has(threads)) all.set(threads, slot('n'))
    t.equal(slot('n') + missed, all.get(threads), `${bits} bits, ${threads} threads: ${slot('n')} calls, ${missed} missed`)
    t.ok(slot('n') >= BigInt(threads * CALLS) / 2n)
    t.equal(Array.from({ length: 16 }, (_, n) => slot('k', n)).reduce((sum, n) => sum + n), slot('n'), 'each by its own thread')
    if (bits > 5) t.equal(missed, 0n)
    t.ok(slot('o') <= slot('t') && slot('o') > 0n, `on a CPU for ${slot('o') * 100n / slot('t')} % of the time`)
    const word = (n: number): bigint => stdout.readBigUInt64LE(8 * built.slots + 8 * n)
    const table = built.frames.tables[0]!
    const left = Array.from({ length: 2 ** bits + LOOKS - 1 }, (_, n) => word(table.keys + n)).filter((key) => key !== 0n)
    t.equal(left.length, 0, 'nothing is remembered of calls that have returned')
    const known = Array.from({ length: 2 ** bits + LOOKS - 1 }, (_, n) => word(built.frames.threads!.keys + n)).filter((key) => key !== 0n)
    t.equal(new Set(known).size, known.length, 'no thread is there twice')
    if (bits > 5) t.equal(known.length, threads)
  }
  t.end()
})
