// code/: decoding. Judges: objdump (boundaries, kinds of flow and targets of all code of both kernels), Capstone (the
// same for every different instruction), and the processor itself (what an instruction reads, kills and writes).

import { execFileSync, spawn, spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, DecoderOptions, CpuidFeature, Instruction, InstructionInfoFactory, Mnemonic, OpKind, Register } from 'iced-x86'
import t from 'tap'
import { sweepImage } from '../src/cfg/sweep.js'
import { effectKills, effectReads, effectWrites } from '../src/code/effects.js'
import { FACT_WORDS, FLOW_MASK, FLOW_SHIFT, IcedFacts } from '../src/code/facts.js'
import { decodeRanges, FLOW } from '../src/code/instructions.js'
import { KeyReader } from '../src/code/key.js'
import { AF, ALL, CF, namesOf, OF, PF, SF, ZF } from '../src/code/registers.js'
import { agrees, SecondDecoder } from '../src/code/second.js'
import { DecodeTable } from '../src/code/table.js'
import { loadImage, type Image } from '../src/image/image.js'
import { NONE, type Rva } from '../src/image/rva.js'
import { ROOT, kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { setOf } from './registers.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']

t.comment(seedNote)
const random = lottery(seed)

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-decode-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

const images = new Map<string, Image>()
const imageOf = (name: string): Image => {
  let image = images.get(name)
  if (image === undefined) images.set(name, (image = loadImage(kernel(name).vmlinux)))
  return image
}

/** The bytes at an rva, at most `length` of them. */
const bytesAt = (image: Image, rva: Rva, length: number): Uint8Array => {
  const region = image.regions.find((r) => rva >= r.start && rva < r.end)!
  return region.bytes.subarray(rva - region.start, rva - region.start + length)
}

const hexOf = (bytes: Uint8Array): string => Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('hex')

// --- The table in front of iced ---

/** Walks bytes with the table and asks iced about each instruction too. */
const compareTable = (table: DecodeTable, bytes: Uint8Array): { compared: number; different: string[] } => {
  const iced = new IcedFacts()
  const facts = new Int32Array(FACT_WORDS)
  const different: string[] = []
  let compared = 0
  for (let at = 0; at < bytes.length; compared++) {
    const row = table.decode(bytes, at, bytes.length)
    const valid = iced.read(bytes, at, bytes.length, table.opcodeAt, facts, 0)
    const saidInvalid = ((table.facts[row + 2]! >>> FLOW_SHIFT) & FLOW_MASK) === FLOW.invalid
    const same = valid ? facts.every((word, i) => word === table.facts[row + i]) : saidInvalid
    if (!same) different.push(hexOf(bytes.subarray(at, at + 15)))
    at += table.length
  }
  return { compared, different }
}

t.test('the table says what iced says, of random bytes', (t) => {
  const table = new DecodeTable()
  for (let round = 0; round < 40; round++) {
    const bytes = Uint8Array.from({ length: 20_000 }, () => random(256))
    t.same(compareTable(table, bytes).different, [])
  }
  // Once wrong: shifts by nothing, of memory that is rip-relative or absolute.
  for (const hex of ['48c12dd3fa250020', 'c00200', '48c12c25d3fa250020', 'd12dd3fa2500', 'c1f840']) {
    t.same(compareTable(new DecodeTable(), Uint8Array.from(Buffer.from(hex, 'hex'))), { compared: 1, different: [] }, hex)
  }
  t.end()
})

// One instruction a line: hex bytes, then what is read, killed and only perhaps written.
t.test('effects of instructions', (t) => {
  const lines = `
    89c8            reads rcx           kills rax
    88c8            reads rcx           writes rax
    4801d8          reads rax rbx       kills cf pf af zf sf of   writes rax
    31c0            reads               kills rax cf pf af zf sf of
    d3e0            reads rax rcx       writes cf pf af zf sf of  rax
    c1e005          reads rax           kills cf pf af zf sf of
    c1e020          reads rax           writes cf pf af zf sf of  rax
    0f44c1          reads rax rcx zf    writes rax
    ffc0            reads rax           kills pf af zf sf of
    9c              reads rsp cf pf af zf sf of
    9f              reads cf pf af zf sf writes rax
    50              reads rax rsp
    f348ab          reads rax rcx rdi
    f3a6            reads rcx rsi rdi   writes cf pf af zf sf of
    0f01c1          reads all
    0f0f            reads all
    0fc7f0          kills rax  cf pf af zf sf of
    e9fbffffff      reads
    0fbcc1          reads rcx           writes rax
    0fa2            reads rax rcx       kills rbx rdx
    0f30            reads rax rcx rdx
    0f32            reads rcx           kills rax rdx`
  const everything = namesOf(ALL)
  for (const line of lines.trim().split('\n')) {
    const [hex, ...words] = line.trim().split(/\s+/)
    const want: Record<string, Set<string>> = { reads: new Set(), kills: new Set(), writes: new Set() }
    let list = ''
    for (const word of words) {
      if (word in want) list = word
      else for (const name of word === 'all' ? everything : [word]) want[list]!.add(name)
    }
    const insns = decodeRanges([{ start: 0x1000, bytes: Uint8Array.from(Buffer.from(hex!, 'hex')) }])
    const reads = namesOf(effectReads[insns.effect[0]!]!)
    const kills = namesOf(effectKills[insns.effect[0]!]!)
    t.ok([...want['reads']!].every((r) => reads.includes(r)), `${hex} reads ${reads.join(' ')}`)
    t.ok([...want['kills']!].every((r) => kills.includes(r)), `${hex} kills ${kills.join(' ')}`)
    for (const name of want['writes']!) t.notOk(kills.includes(name), `${hex} does not certainly overwrite ${name}`)
    if (want['reads']!.size === 0) t.same(reads.filter((r) => r !== 'rsp'), [], `${hex} reads nothing`)
  }
  t.end()
})

// --- objdump ---

// Where objdump (2.40) and the sweep differ, by objdump's text, and why iced is right or it does not matter. All of them
// together are some dozen instructions of 14 million.
const REASONS: readonly [RegExp, string][] = [
  [/^finit$/, 'two instructions, wait and fninit: 9b does not belong to the second'],
  [/^repnz \(bad\)$/, 'lkgs: newer than this objdump'],
  [/^rex\.W$/, 'the start of a mov that is laid over what follows (srso_untrain_ret); objdump prints the prefix alone'],
]

/** objdump's prefixes, before a mnemonic. */
const PREFIXES = /^(?:(?:bnd|notrack|lock|rep|repz|repnz|data16|addr32|[c-gs]s|rex(?:\.[WRXB]+)?) +)+/

const SYSTEM = /^(int|int1|into|syscall|sysret[lq]?|sysenter|sysexit[lq]?|iret[lqw]?|lret[lqw]?|ljmp[lqw]?|lcall[lqw]?|xbegin|xabort|vmlaunch|vmresume|vmrun|rsm)$/

/** FLOW, as objdump's text has it. */
const flowOfText = (text: string): number => {
  const [name, operand = ''] = text.replace(PREFIXES, '').split(/\s+/, 2) as [string, string?]
  const indirect = operand.startsWith('*')
  if (name === '(bad)' || name === '.byte') return FLOW.invalid
  if (/^jmp/.test(name)) return indirect ? FLOW.indirectJump : FLOW.jump
  if (/^(j[a-z]+|loop[a-z]*)/.test(name)) return FLOW.branch
  if (/^call/.test(name)) return indirect ? FLOW.indirectCall : FLOW.call
  if (/^ret/.test(name)) return FLOW.return
  if (/^(ud[012][a-z]*|int3)$/.test(name)) return FLOW.trap
  return SYSTEM.test(name) ? FLOW.system : FLOW.next
}

/** A stretch that objdump decodes from its first byte on: from one label to the next. */
interface Stretch {
  readonly rva: Rva[]
  readonly text: string[]
}

/** Lists a section with objdump. */
const listSection = async (image: Image, section: string, onStretch: (stretch: Stretch) => void): Promise<void> => {
  const child = spawn('objdump', ['-d', '-w', '-z', '--no-show-raw-insn', '-j', section, image.path], { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve))
  const base = Number(image.base & 0xffff_ffffn) // all of a kernel lies in the top 4 GiB
  let stretch: Stretch = { rva: [], text: [] }
  let rest = ''
  child.stdout.setEncoding('latin1')
  for await (const chunk of child.stdout) {
    const lines = (rest + String(chunk)).split('\n')
    rest = lines.pop()!
    for (const line of lines) {
      if (line.indexOf('\t') === 17) {
        stretch.rva.push(parseInt(line.slice(8, 16), 16) - base)
        stretch.text.push(line.slice(18))
      } else if (/^[0-9a-f]{16} </.test(line)) {
        if (stretch.rva.length > 0) onStretch(stretch)
        stretch = { rva: [], text: [] }
      }
    }
  }
  if (stretch.rva.length > 0) onStretch(stretch)
  const status = await ended
  if (status !== 0) throw new Error(`objdump: status ${status}`)
}

for (const name of KERNELS) {
  t.test(`${name}: the table says what iced says, of all code`, (t) => {
    const table = new DecodeTable()
    let compared = 0
    for (const region of imageOf(name).regions) {
      const result = compareTable(table, region.bytes)
      compared += result.compared
      t.same(result.different.slice(0, 5), [], region.name)
    }
    t.ok(compared > 2_500_000, `${compared} instructions`)
    t.end()
  })

  t.test(`${name}: all code is what objdump says`, { timeout: 0 }, async (t) => {
    const image = imageOf(name)
    const starts = new Set<Rva>() // of objdump's instructions, and of ours where the two have parted
    const unexplained: string[] = []
    const explained = new Map<string, number>()
    let compared = 0
    const differ = (what: string, text: string): void => {
      const reason = REASONS.find(([pattern]) => pattern.test(text))?.[1]
      if (reason === undefined) unexplained.push(`${what}: ${text}`)
      else explained.set(reason, (explained.get(reason) ?? 0) + 1)
    }
    for (const region of image.regions) {
      let covered = region.start
      const onStretch = (end: Rva, { rva, text }: Stretch): void => {
        if (rva[0] !== covered) unexplained.push(`a gap before ${rva[0]!.toString(16)}`)
        covered = end
        const insns = decodeRanges([{ start: rva[0]!, bytes: region.bytes.subarray(rva[0]! - region.start, end - region.start) }])
        let i = 0
        let k = 0
        while (i < insns.count && k < rva.length) {
          const at = rva[k]!
          if (insns.rva[i]! !== at) {
            // Why the two part is to be seen at the instruction before; they go on where they meet.
            if (insns.rva[i - 1] === rva[k - 1]) differ(`not the same start at ${at.toString(16)}`, text[k - 1]!)
            if (insns.rva[i]! < at) starts.add(insns.rva[i++]!)
            else k++
            continue
          }
          starts.add(at)
          const line = text[k]!
          const flow = flowOfText(line)
          if (insns.flow[i] !== flow) differ(`flow ${insns.flow[i]}, not ${flow}`, line)
          else if (flow === FLOW.jump || flow === FLOW.branch || flow === FLOW.call) {
            const target = Number(BigInt('0x' + /\b[0-9a-f]{16}\b/.exec(line)![0]) - image.base)
            if (insns.target[i] !== (target >= 0 && target < NONE ? target : NONE)) differ(`target ${insns.target[i]!.toString(16)}`, line)
          }
          compared++
          i++
          k++
        }
      }
      let held: Stretch | undefined
      await listSection(image, region.name, (stretch) => {
        if (held !== undefined) onStretch(stretch.rva[0]!, held)
        held = stretch
      })
      onStretch(region.end, held!)
    }
    t.same(unexplained.slice(0, 20), [])
    t.comment([...explained].map(([reason, count]) => `${count}: ${reason}`).join('; '))
    const { insns } = sweepImage(image)
    const astray = [...insns.rva].filter((rva) => !starts.has(rva))
    t.same(astray, [], 'the sweep of the whole image starts nowhere else')
    t.ok(compared > 6_500_000 && insns.count > 2_600_000, `${compared} instructions compared, ${insns.count} of them swept`)
    t.end()
  })
}

// --- Capstone ---

// Where Capstone (5.0) and iced differ, by iced's mnemonic, and why. All of these are refused where a plan would touch
// them (splice/site.ts), since the two opinions differ.
const OTHERWISE: Readonly<Record<string, string>> = {
  Hlt: 'Capstone ranks it among the interrupts; it goes on to the next instruction',
  INVALID: 'both say that it does not decode; Capstone gives it no length',
  Vmgexit: 'knows only vmmcall, whose opcode it shares, as a system instruction; goes on to the next',
  Vmmcall: 'a system instruction for Capstone; goes on to the next',
  Vmcall: 'a system instruction for Capstone; goes on to the next',
  Jmp: 'a far jump through memory (data in text), which Capstone prints as a near one',
  Ud1: 'without its ModRM byte in Capstone; SDM volume 2 has one (UD1 r32, r/m32)',
  Serialize: 'newer than Capstone',
  Pvalidate: 'newer than Capstone',
  Rmpadjust: 'newer than Capstone',
  Tilerelease: 'newer than Capstone',
  Lkgs: 'newer than Capstone',
  Tdcall: 'newer than Capstone',
}

t.test('Capstone says the same of every different instruction', { timeout: 0 }, async (t) => {
  const second = await SecondDecoder.load()
  const seen = new Set<string>()
  const different = new Map<string, string>()
  const insn = new Instruction()
  for (const name of KERNELS) {
    const image = imageOf(name)
    const { insns } = sweepImage(image)
    for (let i = 0; i < insns.count; i++) {
      const bytes = bytesAt(image, insns.rva[i]!, insns.length[i]!)
      const key = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('latin1')
      if (seen.has(key)) continue
      seen.add(key)
      if (agrees(second.decode(insns.rva[i]!, bytes), bytes.length, insns.flow[i]!, insns.target[i]!)) continue
      const decoder = new Decoder(64, bytes, DecoderOptions.None)
      decoder.decodeOut(insn)
      decoder.free()
      different.set(Mnemonic[insn.mnemonic], hexOf(bytes))
    }
  }
  t.same([...different].filter(([mnemonic]) => !(mnemonic in OTHERWISE)), [])
  t.same(Object.keys(OTHERWISE).filter((mnemonic) => !different.has(mnemonic)), [], 'no reason is given that is not needed')
  t.ok(seen.size > 1_000_000, `${seen.size} different instructions`)
  t.end()
})

// --- The processor ---

// What cannot be tried in a process. By mnemonic: what moves the ground under the judge's own feet.
const NOT_TRIED = new Set<Mnemonic>([
  Mnemonic.Wrfsbase, Mnemonic.Wrgsbase, Mnemonic.Lfs, Mnemonic.Lgs, Mnemonic.Lss, Mnemonic.Wrpkru, // segments, keys
  Mnemonic.Popf, Mnemonic.Popfq, //                                              traps, alignment checks
  Mnemonic.Ldmxcsr, //                                                           random bytes are no such state
  Mnemonic.Xsave64, //                                                           vector registers: the judge's own
  Mnemonic.Str, Mnemonic.Sldt, Mnemonic.Smsw, Mnemonic.Sgdt, Mnemonic.Sidt, //   umip.c plays them for a process
  Mnemonic.Vmcall, Mnemonic.Vmmcall, Mnemonic.Vmgexit, Mnemonic.Tdcall, //       hypervisors
  Mnemonic.Encls, Mnemonic.Enclu, //                                             enclaves
])
/** What these leave behind is chance: from run to run it may be the same many times, and then another. */
const CHANCE = new Set<Mnemonic>([Mnemonic.Rdrand, Mnemonic.Rdseed, Mnemonic.Rdtsc, Mnemonic.Rdtscp, Mnemonic.Rdpmc])
/** Features that every 64-bit processor has: their instructions must run. */
const COMMON = new Set<CpuidFeature>([
  CpuidFeature.INTEL8086, CpuidFeature.INTEL186, CpuidFeature.INTEL286, CpuidFeature.INTEL386, CpuidFeature.INTEL486,
  CpuidFeature.X64, CpuidFeature.CMOV, CpuidFeature.CX8, CpuidFeature.FPU, CpuidFeature.SSE, CpuidFeature.SSE2,
  CpuidFeature.MULTIBYTENOP, CpuidFeature.PAUSE,
])

const flagsOf = (bits: number): number =>
  (bits & 1 ? OF : 0) | (bits & 2 ? SF : 0) | (bits & 4 ? ZF : 0) |
  (bits & 8 ? AF : 0) | (bits & 16 ? CF : 0) | (bits & 32 ? PF : 0)

interface Claim {
  readonly mnemonic: Mnemonic
  readonly bytes: Uint8Array
  /** Whether it has to run: not privileged, and every processor has it. */
  readonly common: boolean
  /** reads, kills, writes, unsteady, base, index, as effects.c has them. */
  readonly sets: readonly number[]
}

/**
 * The instruction as it can be run in a process: displacements become such that its memory operands lie in the buffer.
 * undefined for what does not go on to the next instruction or is not tried.
 */
const claimOf = (original: Uint8Array, buffer: bigint, code: bigint): Claim | undefined => {
  const bytes = original.slice()
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  const insn = decoder.decode()
  const constants = decoder.getConstantOffsets(insn)
  const factory = new InstructionInfoFactory()
  const info = factory.info(insn)
  try {
    const { mnemonic } = insn
    if (NOT_TRIED.has(mnemonic)) return undefined
    for (let i = 0; i < insn.opCount; i++) {
      const register = insn.opKind(i) === OpKind.Register ? insn.opRegister(i) : Register.None
      if (i === 0 && register >= Register.ES && register <= Register.GS) return undefined
    }
    let base = 0
    let index = 0
    for (const memory of info.usedMemory()) {
      const own = setOf(memory.base)
      if (own & base & index) return undefined
      base |= own
      index |= setOf(memory.index)
      memory.free()
    }
    if (base & index) return undefined // base plus itself
    if (constants.hasDisplacement && insn.mnemonic !== Mnemonic.Lea) {
      const view = new DataView(bytes.buffer)
      const at = constants.displacementOffset
      const place = insn.isIpRelMemoryOperand ? buffer - code - BigInt(bytes.length)
        : insn.memoryBase === Register.None ? buffer : 0n
      if (constants.displacementSize === 8) view.setBigInt64(at, place, true)
      else if (constants.displacementSize === 4) view.setInt32(at, Number(place), true)
      else bytes[at] = 0
    }
    if (/^Bt[scr]?$/.test(Mnemonic[mnemonic]) && insn.op1Kind === OpKind.Register) index |= setOf(insn.op1Register) & ~base
    if (insn.hasRepPrefix || insn.hasRepnePrefix) index |= 1 << (Register.RCX - Register.RAX)
    const insns = decodeRanges([{ start: 0x1000, bytes }])
    if (insns.count !== 1 || insns.flow[0] !== FLOW.next) return undefined
    const common = !insn.isPrivileged && insn.cpuidFeatures().every((feature) => COMMON.has(feature))
    const effect = insns.effect[0]!
    const unsteady = flagsOf(insn.rflagsUndefined) | (CHANCE.has(mnemonic) ? effectWrites[effect]! : 0)
    return { mnemonic, bytes, common, sets: [effectReads[effect]!, effectKills[effect]!, effectWrites[effect]!, unsteady, base, index] }
  } finally {
    info.free()
    factory.free()
    constants.free()
    insn.free()
    decoder.free()
  }
}

/** -> case -> what is wrong with it, and how many ran. */
const judge = (binary: string, claims: readonly Claim[]): { verdicts: Map<number, string>; ran: number; runs: number } => {
  const input = Buffer.concat(claims.flatMap(({ bytes, sets }) => [new Uint8Array(Uint32Array.of(...sets, bytes.length).buffer), bytes]))
  const { status, stdout, stderr, signal } = spawnSync(binary, [String(seed)], { input, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`effects: status ${status} ${signal} ${stderr}`)
  const lines = stdout.trim().split('\n')
  const [ran, runs] = lines.pop()!.match(/\d+/g)!.map(Number) as [number, number]
  return { verdicts: new Map(lines.map((line) => line.split(' ')).map(([number, word]) => [Number(number), word!])), ran, runs }
}

t.test('instructions read, kill and write what they are said to: the processor', { timeout: 0 }, (t) => {
  const binary = join(scratch, 'effects')
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', binary, join(ROOT, 'test/native/effects.c')])
  const [buffer, code] = execFileSync(binary, ['where'], { encoding: 'utf8' }).trim().split(' ').map(BigInt) as [bigint, bigint]
  const reader = new KeyReader()
  const keys = new Set<number | string>()
  const claims: Claim[] = []
  let others = 0
  for (const name of KERNELS) {
    const image = imageOf(name)
    const { insns } = sweepImage(image)
    for (let i = 0; i < insns.count; i++) {
      const bytes = bytesAt(image, insns.rva[i]!, insns.length[i]!)
      const key = reader.read(bytes, 0, bytes.length) < 0 ? hexOf(bytes) : reader.key
      if (keys.has(key)) continue
      keys.add(key)
      const claim = insns.flow[i] === FLOW.next ? claimOf(bytes, buffer, code) : undefined
      if (claim === undefined) others++
      else claims.push(claim)
    }
  }
  const { verdicts, ran, runs } = judge(binary, claims)
  const say = ([number, word]: [number, string]): string => {
    const { mnemonic, bytes, sets } = claims[number]!
    return `${Mnemonic[mnemonic]} ${hexOf(bytes)}: ${word}; reads ${namesOf(sets[0]!).join(' ')}; kills ${namesOf(sets[1]!).join(' ')}`
  }
  t.same([...verdicts].filter(([number, word]) => word !== 'faults' || claims[number]!.common).map(say).slice(0, 20), [])
  t.comment(`${keys.size} forms, ${others} not tried; ${ran} ran, ${runs} times`)
  const faults = new Set([...verdicts].filter(([, word]) => word === 'faults').map(([number]) => Mnemonic[claims[number]!.mnemonic]))
  t.comment(`did not run: ${[...faults].sort().join(' ')}`)
  t.ok(ran > 20_000, `${ran} forms ran`)

  // The judge sees false claims: one register less that is read, one more that is killed, one less that is written.
  const runnable = claims.filter((_, number) => !verdicts.has(number))
  const falsify = (which: number, pick: (sets: readonly number[]) => number, on: boolean): void => {
    const changed: Claim[] = []
    for (const claim of runnable) {
      const bits: number[] = []
      for (let i = 0; i < 22; i++) if (pick(claim.sets) >>> i & 1) bits.push(i)
      if (bits.length === 0) continue
      const bit = 1 << bits[random(bits.length)]!
      changed.push({ ...claim, sets: claim.sets.map((set, i) => i !== which ? set : on ? set | bit : set & ~bit) })
    }
    const noticed = judge(binary, changed).verdicts.size
    t.ok(noticed > changed.length * 0.9, `${noticed} of ${changed.length} false claims noticed`)
  }
  falsify(0, ([reads, , , , base, index]) => reads! & ~base! & ~index!, false)
  falsify(1, ([reads, kills]) => ALL & ~kills! & ~reads!, true)
  falsify(2, ([, , writes, unsteady]) => writes! & ~unsteady!, false)
  t.end()
})
