// Compiled probes against the interpreter (interpreter.ts), executed for real: random programs at places where random
// registers and flags are live, from random states. The verifier must accept each; the slots must be what the interpreter
// says, and what is live what it was. The outside judge is the processor (native/probes.c).

import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync, readFileSync, openSync, closeSync } from 'node:fs'
import { spawnSync } from 'node:child_process'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { SecondDecoder } from '../src/code/second.js'
import { CF, FLAGS, GPRS, OF, REGISTER_NAMES, RSP, type RegisterSet } from '../src/code/registers.js'
import { KerninstError } from '../src/error.js'
import { Aggregates, isPointCount } from '../src/probe/aggregates.js'
import { Assembler, type Assembled } from '../src/probe/assembly.js'
import { parseProgram, type Aggregate, type Probe, type Statement } from '../src/probe/program.js'
import { CodeBuffer } from '../src/splice/code.js'
import { valuesAllowed } from '../src/probe/requests.js'
import { eachExpression, eachStatement, registersNeeded, registersOf } from '../src/probe/trees.js'
import { compilePrograms, specialRegisters } from '../src/splice/compile.js'
import { Opinions } from '../src/splice/opinion.js'
import { FIXUP_KIND, type PatchTables } from '../src/splice/tables.js'
import { verifyProgram } from '../src/splice/verify.js'
import { ROOT } from './guest/artefacts.js'
import { interpret, type Slots, type Thread } from './interpreter.js'
import { lottery, seed, seedNote, type Lottery } from './lottery.js'
import { randomProgram } from './randomprogram.js'

const PROGRAMS = Number(process.env['KERNINST_PROGRAMS'] ?? 3000)
const ROUNDS = 16
const BATCH = 1000

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-compile-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const runner = join(scratch, 'probes')
execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-static', '-o', runner, join(ROOT, 'test/native/probes.c')])

const opinions = new Opinions(await SecondDecoder.load())
const NO_TABLES: PatchTables = {
  siteCount: 0, siteRva: new Uint32Array(0), sitePatch: new Uint32Array(0), siteLength: new Uint8Array(0), siteKind: new Uint8Array(0),
  siteFormClass: new Uint8Array(0), siteFlags: new Uint8Array(0), siteRelocKind: new Uint8Array(0), siteRelocOffset: new Uint8Array(0),
  siteTail: new Uint32Array(0), siteExpected: new Uint8Array(0), formCount: 0, formClass: new Uint8Array(0), formKind: new Uint8Array(0),
  formBytes: new Uint8Array(0), formTarget: new Uint32Array(0), fixupCount: 0, fixupOffset: new Uint32Array(0),
  fixupValue: new Uint32Array(0), fixupKind: new Uint8Array(0), fixupTrail: new Uint8Array(0), code: new Uint8Array(0), slotCount: 0, frameWords: 0,
}

/** As native/probes.c has them. */
const TASK = { current: 8, cpu: 16, pid: 20, tgid: 24 }
const SLOTS_AT = 4096
const MAX_SLOTS = 4096
const STATE_BYTES = 17 * 8
const FLAG_BITS = [0, 2, 4, 6, 7, 11] as const

interface Case {
  readonly text: string
  readonly probes: readonly Probe[]
  readonly live: RegisterSet
  readonly firstSlot: (one: Aggregate, key: bigint) => number
  readonly code: Uint8Array
  readonly states: readonly { readonly gpr: readonly bigint[]; readonly flags: bigint; readonly cpu: number; readonly pid: number; readonly tgid: number }[]
}

const assembler = await Assembler.load()

const assembleAll = ({ body }: Probe): Map<Statement, Assembled> => {
  const assembled = new Map<Statement, Assembled>()
  eachStatement(body, (one) => {
    if (one.op !== 'asm') return
    const result = assembler.assemble(one.text)
    if (typeof result === 'string') throw new Error(`${one.text}: ${result}`)
    assembled.set(one, result)
  })
  return assembled
}

const word64 = (random: Lottery): bigint => {
  const any = (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32))
  switch (random(8)) {
    case 0: return BigInt(random(10))
    case 1: return BigInt.asUintN(64, -BigInt(random(10)))
    case 2: return 1n << BigInt(random(64))
    case 3: return BigInt.asUintN(64, (1n << BigInt(random(64))) - 1n)
    case 4: return BigInt(random(100_000))
    case 5: return any >> BigInt(random(64))
    case 6: return (1n << 63n) - BigInt(random(2))
    default: return any
  }
}

/** A program with slots, compiled for some place; undefined where the lottery drew one that is refused. */
const draw = (random: Lottery): Case | undefined => {
  const text = randomProgram(random)
  const aggregates = new Aggregates()
  let probes: Probe[]
  try {
    probes = parseProgram(text, '-e')
    aggregates.learn(probes, text, '-e')
  } catch (error) {
    if (!(error instanceof KerninstError)) throw error
    return undefined
  }
  let reads = 0
  const assembled = probes.map(assembleAll)
  if (probes.some((probe, i) => [...assembled[i]!.values()].some(({ reads, writes }) => (reads | writes) & specialRegisters(probe)))) return undefined
  for (const all of assembled) for (const one of all.values()) reads |= one.reads & GPRS
  let tooMuch = false
  probes.forEach((probe, i) => {
    const allowed = valuesAllowed(assembled[i]!.values())
    eachExpression(probe, (one) => {
      tooMuch ||= registersNeeded(one) > allowed
      reads |= registersOf(one)
    })
  })
  if (tooMuch) return undefined
  let slots = 1 // the first one counts what is missed
  const starts = aggregates.tables.map(({ width, keys }) => {
    const first = slots
    slots += width * keys
    return first
  })
  const counts = new Map<string, number>()
  const bind = (one: Aggregate): { slot: number; width: number; keyed: boolean } => {
    if (isPointCount(one)) {
      if (!counts.has(one.name)) counts.set(one.name, slots++)
      return { slot: counts.get(one.name)!, width: 1, keyed: false }
    }
    const index = aggregates.indexOf(one)
    return { slot: starts[index]!, width: aggregates.tables[index]!.width, keyed: aggregates.tables[index]!.keyKind === 'index' }
  }
  const density = random(4)
  let live = reads | RSP
  for (let bit = 0; bit < 22; bit++) if (random(3) < density) live |= 1 << bit
  if (random(3) === 0) live &= ~FLAGS
  if (random(6) === 0) live = (live & ~FLAGS) | CF
  if (random(6) === 0) live = (live & ~FLAGS) | OF
  const code = new CodeBuffer()
  const asm = compilePrograms(code, live, probes.map(({ predicate, body }, i) => ({ ...(predicate && { predicate }), body, bind, assembled: assembled[i]! })),
    { task: TASK, returnAddress: 0, missed: 0 })
  if (slots > MAX_SLOTS) return undefined
  const ranges = [{ first: 0, count: 1 }, ...aggregates.tables.map(({ width, keys }, a) => ({ first: starts[a]!, count: width * keys })),
    ...[...counts.values()].map((slot) => ({ first: slot, count: 1 }))]
  const tables = { ...NO_TABLES, ...code.fixupTables(), code: code.bytes(), slotCount: slots }
  try {
    verifyProgram(tables, opinions, 0, 0, code.length, { live, slots: ranges, frameWords: 0, task: TASK, returnAddress: 0, asm: Uint32Array.from(asm.flat()) })
  } catch (error) {
    throw new Error(`${String(error)}: ${text}\nlive ${live.toString(16)}\n${Buffer.from(code.bytes()).toString('hex')}`)
  }
  code.byte(0xc3)
  const bytes = code.bytes().slice()
  const { fixupCount, fixupOffset, fixupKind, fixupValue } = code.fixupTables()
  const view = new DataView(bytes.buffer)
  for (let f = 0; f < fixupCount; f++) {
    if (fixupKind[f] === FIXUP_KIND.slot64) view.setBigUint64(fixupOffset[f]!, BigInt(SLOTS_AT + 8 * fixupValue[f]!), true)
  }
  return {
    text, probes, live, code: bytes,
    firstSlot: (one, key) => {
      const { slot, width, keyed } = bind(one)
      return slot + (keyed ? Number(key) * width : 0)
    },
    states: Array.from({ length: ROUNDS }, () => ({
      gpr: Array.from({ length: 16 }, () => word64(random)),
      flags: FLAG_BITS.reduce((set, bit) => set | (BigInt(random(2)) << BigInt(bit)), 2n),
      cpu: random(4) === 0 ? random(8192) : random(8), pid: random(2 ** 31), tgid: random(1000),
    })),
  }
}

const inputOf = (cases: readonly Case[]): Buffer => {
  const parts: Buffer[] = []
  for (const { code, states } of cases) {
    const head = Buffer.alloc(12)
    head.writeUInt32LE(code.length, 0)
    head.writeUInt32LE(MAX_SLOTS, 4)
    head.writeUInt32LE(states.length, 8)
    const rounds = Buffer.alloc(states.length * (STATE_BYTES + 16))
    states.forEach(({ gpr, flags, cpu, pid, tgid }, i) => {
      const at = i * (STATE_BYTES + 16)
      gpr.forEach((value, r) => rounds.writeBigUInt64LE(value, at + 8 * r))
      rounds.writeBigUInt64LE(flags, at + 128)
      rounds.writeUInt32LE(cpu, at + 136)
      rounds.writeUInt32LE(pid, at + 140)
      rounds.writeUInt32LE(tgid, at + 144)
    })
    parts.push(head, Buffer.from(code), rounds)
  }
  return Buffer.concat(parts)
}

/** What is wrong with the first case that is not as the interpreter says, or ''. */
const compare = (cases: readonly Case[], output: Buffer): string => {
  const caller = output.readBigUInt64LE(0)
  let at = 8
  for (const { text, probes, live, code, states, firstSlot } of cases) {
    const slots: Slots = new Map()
    const about = (): string => `${text}\nlive ${live.toString(16)}\n${Buffer.from(code).toString('hex')}`
    for (const state of states) {
      const thread: Thread = {
        register: (name) => state.gpr[REGISTER_NAMES.findIndex((one) => one === name)]!,
        cpu: BigInt(state.cpu), pid: BigInt(state.tgid), tid: BigInt(state.pid), caller,
      }
      for (const probe of probes) interpret(probe, thread, slots, firstSlot)
      for (let r = 0; r < 16; r++) {
        if (r !== 4 && live & (1 << r) && output.readBigUInt64LE(at + 8 * r) !== state.gpr[r]) return `${REGISTER_NAMES[r]!} is lost: ${about()}`
      }
      const flags = output.readBigUInt64LE(at + 128)
      for (const [i, bit] of FLAG_BITS.entries()) {
        if (live & (1 << (16 + i)) && ((flags ^ state.flags) >> BigInt(bit)) & 1n) return `a flag is lost: ${about()}`
      }
      at += STATE_BYTES
    }
    const count = output.readUInt32LE(at)
    at += 4
    const got = new Map<number, bigint>()
    for (let i = 0; i < count; i++, at += 16) got.set(Number(output.readBigUInt64LE(at)), output.readBigUInt64LE(at + 8))
    for (const slot of new Set([...slots.keys(), ...got.keys()])) {
      const [expected, is] = [slots.get(slot) ?? 0n, got.get(slot) ?? 0n]
      if (expected !== is) return `slot ${slot} is ${is}, not ${expected}: ${about()}`
    }
  }
  return at === output.length ? '' : 'output is left over'
}

t.test('random programs do what the interpreter says', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  let drawn = 0
  let bytes = 0
  let noPush = 0
  for (let done = 0; done < PROGRAMS;) {
    const cases: Case[] = []
    while (cases.length < Math.min(BATCH, PROGRAMS - done)) {
      drawn++
      const one = draw(random)
      if (one !== undefined) cases.push(one)
    }
    done += cases.length
    for (const { code } of cases) {
      bytes += code.length
      if ((code[0]! & 0xf8) !== 0x50 && code[0] !== 0x41) noPush++
    }
    const [input, output] = [join(scratch, 'input'), join(scratch, 'output')]
    writeFileSync(input, inputOf(cases))
    const [from, to] = [openSync(input, 'r'), openSync(output, 'w')]
    const { status, signal, stderr } = spawnSync(runner, { stdio: [from, to, 'pipe'] })
    closeSync(from)
    closeSync(to)
    if (status !== 0) {
      t.fail(`the runner ended with ${status ?? signal}: ${stderr}`)
      break
    }
    const wrong = compare(cases, readFileSync(output))
    if (wrong !== '') {
      t.fail(wrong)
      break
    }
  }
  t.comment(`${PROGRAMS} programs of ${drawn}, ${ROUNDS} states each; ${Math.round(bytes / PROGRAMS)} bytes on average, ${noPush} push nothing first`)
  t.ok(drawn < PROGRAMS * 4, 'most programs are served')
  t.end()
})
