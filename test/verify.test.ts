// splice/verify.ts. Judges: cases by hand (test/cases/verify.txt: a name, terms, assembly, and behind ==> ok or a part
// of the refusal); arithmetic, for intervals; and the processor, which runs what is accepted of random programs and of
// what chance makes of them, and is held against all that the verifier claims to know of it at the end.
// KERNINST_MUTANTS says how many of those, where there is more time.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { ConditionCode } from 'iced-x86'
import t from 'tap'
import { ALL, FLAGS, FLAG_NAMES, RAX, RCX, RDX, REGISTER_NAMES, RSI, type RegisterSet } from '../src/code/registers.js'
import { SecondDecoder } from '../src/code/second.js'
import { Opinions } from '../src/splice/opinion.js'
import * as interval from '../src/splice/interval.js'
import type { Bits, Interval } from '../src/splice/interval.js'
import { Mistake } from '../src/splice/mistake.js'
import { FIXUP_KIND } from '../src/splice/tables.js'
import { interpretProgram, verifyProgram, type ProgramTerms } from '../src/splice/verify.js'
import { ROOT } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import {
  claimsOf, complete, FRAME_WORDS, LAYOUT, mutated, randomProgram, RANGES, tablesOf, type Fixup, type Program,
} from './programcode.js'

t.comment(seedNote)
const random = lottery(seed)
const second = await SecondDecoder.load()
const opinions = new Opinions(second)

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-verify-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const NOTHING: Interval = { low: 1n, high: 0n }

const TERMS: ProgramTerms = {
  live: ALL & ~(FLAGS | RAX | RCX | RDX | RSI),
  slots: RANGES,
  frameWords: FRAME_WORDS,
  task: LAYOUT,
  returnAddress: 8,
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')

// --- By hand ---

interface Case extends Program {
  readonly name: string
  readonly terms: ProgramTerms
  readonly expected: string
}

const SLOT_MARK = 0x5107_0000_0000_0000n
const FRAME_MARK = 0xf4a3_0000_0000_0000n
const SLIDE_MARK = 0x51de_51de

/** Fields of code that a constant marks: they become zero, and a fixup says what they are. */
const takeMarks = (code: Uint8Array): Fixup[] => {
  const view = new DataView(code.buffer, code.byteOffset, code.length)
  const fixups: Fixup[] = []
  for (let at = 0; at + 4 <= code.length; at++) {
    if (view.getUint32(at, true) === SLIDE_MARK) {
      fixups.push({ offset: at, kind: FIXUP_KIND.abs32, value: 0, trail: 0 })
      view.setUint32(at, 0)
    }
    const mark = at + 8 > code.length ? 0n : view.getBigUint64(at, true) >> 32n
    if (mark !== SLOT_MARK >> 32n && mark !== FRAME_MARK >> 32n) continue
    const kind = mark === SLOT_MARK >> 32n ? FIXUP_KIND.slot64 : FIXUP_KIND.frame64
    fixups.push({ offset: at, kind, value: view.getUint32(at, true), trail: 0 })
    view.setBigUint64(at, 0n)
  }
  return fixups
}

const setOfNames = (names: readonly string[]): RegisterSet => names.reduce<RegisterSet>((set, name) => {
  if (name === 'all') return ALL
  if (name === 'flags') return set | FLAGS
  const flag = FLAG_NAMES.findIndex((one) => one === name)
  const register = REGISTER_NAMES.findIndex((one) => one === name)
  if (flag < 0 && register < 0) throw new Error(`${name} is neither a register nor a flag`)
  return set | (flag >= 0 ? 1 << (16 + flag) : 1 << register)
}, 0)

const assembleCases = (): Case[] => {
  const texts = readFileSync(join(ROOT, 'test/cases/verify.txt'), 'utf8').split(/\n\n(?=# )/)
  const source = [
    `.set CURRENT,${LAYOUT.current}`, `.set CPU,${LAYOUT.cpu}`, `.set PID,${LAYOUT.pid}`, `.set TGID,${LAYOUT.tgid}`,
    ...texts.flatMap((text, i) => [
      `start_${i}:`,
      ...text.split('\n').filter((line) => !/^(#|!|==>)/.test(line)).map((line) => line
        .replace(/\bend\b/g, `end_${i}`)
        .replace(/\$SLOT(\d+)/, (_, slot: string) => `$${SLOT_MARK + BigInt(slot)}`)
        .replace(/\$FRAME(\d+)/, (_, word: string) => `$${FRAME_MARK + BigInt(word)}`)
        .replace(/\$SLIDE/, `$${SLIDE_MARK}`)),
      `end_${i}:`,
    ]),
  ]
  const asm = join(scratch, 'cases.s')
  const object = join(scratch, 'cases.o')
  const binary = join(scratch, 'cases.bin')
  writeFileSync(asm, source.join('\n') + '\n')
  execFileSync('as', ['--64', '-o', object, asm])
  execFileSync('objcopy', ['-O', 'binary', '-j', '.text', object, binary])
  const code = readFileSync(binary)
  const labels = new Map(execFileSync('nm', [object], { encoding: 'utf8' }).split('\n').map((line) => line.split(' '))
    .map(([value, , name]) => [name, parseInt(value!, 16)]))
  return texts.map((text, i) => {
    const lines = text.trimEnd().split('\n')
    const expected = lines.filter((line) => line.startsWith('==>')).map((line) => line.slice(4))
    if (expected.length !== 1) throw new Error(`${lines[0]}: one thing is expected`)
    const bytes = Uint8Array.from(code.subarray(labels.get(`start_${i}`), labels.get(`end_${i}`)))
    const fixups = takeMarks(bytes)
    let terms = TERMS
    for (const line of lines.filter((one) => one.startsWith('! '))) {
      const [what, ...rest] = line.slice(2).split(' ')
      if (what === 'live') terms = { ...terms, live: terms.live | setOfNames(rest) }
      else if (line === '! no task') terms = { ...terms, task: undefined }
      else if (line === '! no return') terms = { ...terms, returnAddress: -1 }
      else if (what === 'fixup') {
        const [offset, value, trail] = [rest[0], rest[2], rest[3] ?? '0'].map(Number) as [number, number, number]
        fixups.push({ offset, kind: FIXUP_KIND[rest[1] as keyof typeof FIXUP_KIND], value, trail })
      } else throw new Error(line)
    }
    return { name: lines[0]!.slice(2), code: bytes, fixups, terms, expected: expected[0]! }
  })
}

const cases = assembleCases()
const accepted = cases.filter(({ expected }) => expected === 'ok')

t.test('cases', (t) => {
  t.ok(accepted.length >= 30, `${accepted.length} that are accepted`)
  t.ok(cases.length - accepted.length >= 80, `${cases.length - accepted.length} that are refused`)
  t.equal(new Set(cases.map(({ name }) => name)).size, cases.length, 'each has a name of its own')
  for (const { name, code, fixups, terms, expected } of cases) {
    // Between others' code, with others' fixups before and behind.
    const before = 16
    const around = new Uint8Array(before + code.length + 16).fill(0xcc)
    around.set(code, before)
    const far = { kind: FIXUP_KIND.rel32, value: 0, trail: 0 }
    const own = fixups.map((one) => ({ ...one, offset: one.offset + before }))
    const all = [{ ...far, offset: 4 }, ...own, { ...far, offset: before + code.length + 1 }]
    const tables = tablesOf({ code: around, fixups: all })
    let got: string
    try {
      const result = verifyProgram(tables, opinions, 1, before, before + code.length, terms)
      got = result.fixup === fixups.length + 1 ? 'ok' : `the next fixup is ${result.fixup}`
    } catch (error) {
      if (!(error instanceof Mistake)) throw error
      got = error.message
    }
    const isRight = expected === 'ok' ? got === 'ok' : got.includes(expected)
    t.ok(isRight, `${name}: ${expected}`, { got, code: hexOf(code) })
  }
  t.end()
})

t.test('limits', (t) => {
  const verify = (code: Uint8Array, from = 0, to = code.length, fixups: Fixup[] = [], fixup = 0): unknown =>
    verifyProgram(tablesOf({ code, fixups }), opinions, fixup, from, to, TERMS)
  const many = (count: number, ...bytes: number[]): Uint8Array =>
    Uint8Array.from({ length: count * bytes.length }, (_, i) => bytes[i % bytes.length]!)
  t.same(verify(many(16384, 0xff, 0xc0)), { fixup: 0, instructions: 16384 })
  t.throws(() => verify(many(16385, 0xff, 0xc0)), /too many instructions/)
  t.throws(() => verify(many(16385, 0x83, 0xc0, 0x01, 0x90)), /too long/)
  const one = many(4, 0xff, 0xc0)
  t.throws(() => verify(one, 0, 9), /outside the code/)
  t.throws(() => verify(one, 4, 2), /outside the code/)
  t.throws(() => verify(one, -1, 2), /outside the code/)
  t.throws(() => verify(one, NaN, 2), /outside the code/)
  const early = [{ offset: 1, kind: FIXUP_KIND.abs32, value: 0, trail: 0 }]
  t.throws(() => verify(one, 4, 8, early, 1), /reaches into the program/)
  t.throws(() => verify(one, 4, 8, early, 0), /left over/)
  t.end()
})

t.test('many jumps to one place, and 50,000 programs', (t) => {
  // cmp $i,%rdi; je end: as many as there may be; each state merges with those before.
  const ways = 5000
  const code = new Uint8Array(ways * 13)
  const view = new DataView(code.buffer)
  for (let i = 0; i < ways; i++) {
    code.set([0x48, 0x81, 0xff], 13 * i)
    view.setUint32(13 * i + 3, i, true)
    code.set([0x0f, 0x84], 13 * i + 7)
    view.setUint32(13 * i + 9, code.length - 13 * (i + 1), true)
  }
  let start = performance.now()
  t.equal(verifyProgram(tablesOf({ code, fixups: [] }), opinions, 0, 0, code.length, TERMS).instructions, 2 * ways)
  t.comment(`${Math.round(performance.now() - start)} ms for ${2 * ways} instructions`)
  const predicate = cases.find(({ name }) => name === 'a predicate')!
  start = performance.now()
  const tables = tablesOf(predicate)
  for (let i = 0; i < 50_000; i++) verifyProgram(tables, opinions, 0, 0, predicate.code.length, predicate.terms)
  t.comment(`${Math.round(performance.now() - start)} ms for 50,000 programs`)
  t.end()
})

// --- By arithmetic ---

const bigRandom = (bits: number): bigint => {
  const any = (BigInt(random(2 ** 31)) << 33n) ^ (BigInt(random(2 ** 31)) << 16n) ^ BigInt(random(2 ** 31))
  const around = 1n << BigInt(random(bits))
  switch (random(4)) {
    case 0: return BigInt.asUintN(bits, any)
    case 1: return BigInt.asUintN(bits, any) >> BigInt(random(bits))
    case 2: return BigInt.asUintN(bits, around + BigInt(random(5)) - 2n)
    default: return BigInt.asUintN(bits, BigInt(random(80)) - 16n)
  }
}

/** An interval, and a number in it. */
const member = (bits: number): [Interval, bigint] => {
  const [a, b] = [bigRandom(bits), random(3) ? bigRandom(bits) : undefined]
  const [low, high] = b === undefined ? [a, a] : a < b ? [a, b] : [b, a]
  const within = low + bigRandom(bits) % (high - low + 1n)
  return [{ low, high }, random(4) ? within : random(2) ? low : high]
}

t.test('an interval holds what comes of the numbers in others', (t) => {
  const outside: string[] = []
  const { sum, difference, product, negated, inverted, conjunction, disjunction, exclusion } = interval
  for (let round = 0; round < 60_000; round++) {
    const bits: Bits = random(2) ? 64 : 32
    const [[a, x], [b, y]] = [member(bits), member(bits)]
    const holds = (name: string, { low, high }: Interval, value: bigint, width = bits as number): void => {
      const result = BigInt.asUintN(width, value)
      if (result >= low && result <= high) return
      outside.push(`${name} of ${bits} bits, ${x} ${y}: ${result} is outside ${low}...${high}`)
    }
    holds('sum', sum(a, b, bits), x + y)
    holds('difference', difference(a, b, bits), x - y)
    holds('product', product(a, b, bits), x * y)
    holds('neg', negated(a, bits), -x)
    holds('not', inverted(a, bits), ~x)
    holds('and', conjunction(a, b), x & y)
    holds('or', disjunction(a, b), x | y)
    holds('xor', exclusion(a, b), x ^ y)
    holds('hull', interval.hull(a, b), x)
    holds('hull', interval.hull(a, b), y)
    const count = y & BigInt(bits - 1)
    const by = interval.distance(b, bits)
    holds('shl', interval.shiftedLeft(a, by, bits), x << count)
    holds('shr', interval.shiftedRight(a, by), x >> count)
    holds('sar', interval.shiftedArithmetically(a, by, bits), BigInt.asIntN(bits, x) >> count)
    for (const from of [8, 16, 32] as const) {
      holds(`low ${from}`, interval.truncated(a, from), BigInt.asUintN(from, x))
      if (from < bits) holds(`signed ${from}`, interval.signExtended(a, from, bits), BigInt.asIntN(from, x))
    }
    const displacement = BigInt.asIntN(32, bigRandom(32))
    const scale = 1 << random(4)
    holds('lea', interval.address(a, b, scale, displacement), x + y * BigInt(scale) + displacement, 64)
    if (b.low > 0n) {
      holds('div', interval.quotient(a, b), x / y)
      holds('mod', interval.remainder(a, b), x % y)
      holds('bsr', interval.highestBit(b), BigInt(y.toString(2).length - 1))
    }
    const [i, j] = [BigInt.asIntN(bits, x), BigInt.asIntN(bits, y)]
    const met: [ConditionCode, boolean][] = [
      [ConditionCode.b, x < y], [ConditionCode.ae, x >= y], [ConditionCode.be, x <= y], [ConditionCode.a, x > y],
      [ConditionCode.e, x === y], [ConditionCode.ne, x !== y],
      [ConditionCode.l, i < j], [ConditionCode.ge, i >= j], [ConditionCode.le, i <= j], [ConditionCode.g, i > j],
    ]
    for (const [condition, isMet] of met) {
      if (!isMet) continue
      const [one, other] = interval.compared(a, b, condition, bits) ?? [NOTHING, NOTHING]
      holds(`first, ${ConditionCode[condition]}`, one, x)
      holds(`second, ${ConditionCode[condition]}`, other, y)
    }
  }
  t.same(outside.slice(0, 10), [], seedNote)
  t.end()
})

// --- Assembly that users wrote (splice/foreign.ts) ---

t.test('assembly that users wrote', (t) => {
  const lines = readFileSync(join(ROOT, 'test/cases/foreign.txt'), 'utf8').trimEnd().split('\n').map((line) => line.split(' ==> '))
  const [asm, object, binary] = ['foreign.s', 'foreign.o', 'foreign.bin'].map((name) => join(scratch, name)) as [string, string, string]
  writeFileSync(asm, lines.map(([text], i) => `start_${i}: ${text}\n`).join('') + `start_${lines.length}:\n`)
  execFileSync('as', ['--64', '-o', object, asm])
  execFileSync('objcopy', ['-O', 'binary', '-j', '.text', object, binary])
  const all = readFileSync(binary)
  const labels = new Map(execFileSync('nm', [object], { encoding: 'utf8' }).trim().split('\n').map((line) => line.split(' '))
    .map(([value, , name]) => [name, parseInt(value!, 16)]))
  const verdict = (code: Uint8Array, asm: number[], fixups: readonly Fixup[] = []): string => {
    try {
      verifyProgram(tablesOf({ code, fixups }), opinions, 0, 0, code.length, { ...TERMS, asm: Uint32Array.from(asm) })
      return 'ok'
    } catch (error) {
      if (!(error instanceof Mistake)) throw error
      return error.message
    }
  }
  lines.forEach(([text, expected], i) => {
    const code = Uint8Array.from(all.subarray(labels.get(`start_${i}`), labels.get(`start_${i + 1}`)))
    const got = verdict(code, [0, code.length])
    t.ok(expected === 'ok' ? got === 'ok' : got.includes(expected!), `${text}: ${expected}`, { got })
  })
  const bswap = Uint8Array.of(0x48, 0x0f, 0xce)
  t.match(verdict(bswap, []), /not on the list/, 'only where users wrote')
  t.match(verdict(Uint8Array.of(...bswap, ...bswap), [0, 3]), /not on the list/, 'and not behind it')
  t.match(verdict(Uint8Array.of(...bswap, ...bswap), [3, 6]), /not on the list/, 'nor before it')
  t.match(verdict(bswap, [0, 2]), /not both decoders see/, 'half an instruction')
  t.match(verdict(bswap, [0, 4]), /not in the program/, 'longer than the program')
  t.match(verdict(Uint8Array.of(0x74, 1, 0x90, 0x90), [2, 4]), /leads into assembly/, 'a jump into it')
  t.equal(verdict(Uint8Array.of(0x74, 2, 0x90, 0x90), [2, 4]), 'ok', 'a jump over it')
  t.match(verdict(Uint8Array.of(0xb8, 0, 0, 0, 0), [0, 5], [{ offset: 1, kind: FIXUP_KIND.abs32, value: 0, trail: 0 }]), /a fixup in assembly/)
  t.end()
})

// --- By the processor ---

/** Programs that ran, all as claimed, or what went wrong. */
const run = (binary: string, programs: readonly Buffer[]): string => {
  const head = Buffer.alloc(4 + 8 * RANGES.length)
  head.writeUInt32LE(RANGES.length)
  RANGES.forEach(({ first, count }, i) => {
    head.writeUInt32LE(first, 4 + 8 * i)
    head.writeUInt32LE(count, 8 + 8 * i)
  })
  const input = Buffer.concat([head, ...programs])
  const result = spawnSync(binary, [String(random(2 ** 31)), '8'], { input, encoding: 'utf8' })
  return result.stdout + result.stderr + (result.status === 0 ? '' : `status ${result.status}`)
}

t.test('what is accepted does, when it runs, what was claimed', async (t) => {
  const binary = join(scratch, 'verify')
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', binary, join(ROOT, 'test/native/verify.c')])

  const wanted = Number(process.env['KERNINST_MUTANTS'] ?? 6000)
  const BATCH = 2000
  let asked = 0
  let ran = 0
  let batch: Program[] = []
  let buffers: Buffer[] = []
  let fresh = new Opinions(second)
  const terms = { ...TERMS, live: 0 }
  const bad: string[] = []

  /** Whether it is accepted; then it is put in the batch. */
  const offer = (program: Program): boolean => {
    asked++
    let last
    try {
      const interpreted = interpretProgram(tablesOf(program), fresh, 0, 0, program.code.length, terms)
      if (interpreted.fixup !== program.fixups.length) return false
      last = interpreted.last
    } catch (error) {
      if (error instanceof Mistake) return false
      throw new Error(`${seedNote}: ${hexOf(program.code)} ${JSON.stringify(program.fixups)}`, { cause: error })
    }
    if (last.words.length > 0) return false
    const slide = random(1023) * 0x20_0000
    const code = complete(program, slide)
    batch.push(program)
    buffers.push(Buffer.concat([claimsOf(last, code.length), code]))
    return true
  }
  const flush = (): void => {
    const said = run(binary, buffers)
    if (!said.startsWith(`${buffers.length} programs, 0 failures`)) {
      bad.push(said.slice(0, 2000))
      for (const [, index] of said.matchAll(/program (\d+)/g)) {
        const program = batch[Number(index)]
        if (program !== undefined) bad.push(`${hexOf(program.code)} ${JSON.stringify(program.fixups)}`)
      }
    }
    ran += buffers.length
    batch = []
    buffers = []
    fresh = new Opinions(second) // what it has been asked is kept, and mutants differ
  }

  for (const one of accepted) t.ok(offer(one), `${one.name} is accepted again`)
  const pool: Program[] = [...accepted]
  let generated = 0
  let taken = 0
  while (ran + batch.length < wanted && bad.length === 0) {
    const isNew = random(8) === 0
    const [one, other] = [pool[random(pool.length)]!, pool[random(pool.length)]!]
    const program = isNew ? randomProgram(random) : mutated(one, other, random)
    const ok = offer(program)
    if (isNew) {
      generated++
      if (ok) taken++
    }
    if (ok && program.code.length < 600) {
      if (pool.length < 2000) pool.push(program)
      else pool[random(pool.length)] = program
    }
    if (batch.length >= BATCH) {
      flush()
      if (process.env['KERNINST_MUTANTS'] !== undefined) t.comment(`${ran} ran of ${asked}`)
      await new Promise((resolve) => setImmediate(resolve)) // so that this is seen
    }
  }
  flush()
  t.same(bad, [], seedNote)
  t.comment(`${asked} programs were asked about, ${ran} accepted and run; of ${generated} random ones ${taken}`)
  t.ok(taken > generated / 20, 'random programs are accepted often enough to mean something')
})
