// The instructions that a probe program may have: code bytes in, what is to be done out, or a Mistake. An instruction
// is on the list by iced's code for its exact form; both decoders see it alike; it has no prefix but REX, and GS where
// it has a memory operand, or LOCK where it is a cmpxchg; and no operand is %rsp, but as the base of a load from the stack.
// The answer for the same bytes is the same anywhere, so each is asked for once.
// Left out: what registers hold, and so whether an address is one that may be used. verify.ts asks that.

import { Code, ConditionCode, Decoder, DecoderOptions, OpKind, Register, type Instruction } from '../code/iced.js'
import { lowNumber } from '../code/gpr.js'
import { LARGEST, type Bits } from './interval.js'
import type { Opinions } from './opinion.js'
import { Mistake } from './mistake.js'

export type Deed =
  | 'mov' | 'lea' | 'movzx' | 'movsx' | 'cmov' | 'set' // flags stay
  | 'add' | 'sub' | 'and' | 'or' | 'xor' | 'imul' | 'neg' | 'not' | 'inc' | 'dec' | 'shl' | 'shr' | 'sar'
  | 'cmp' | 'test' | 'bsr' | 'div' | 'mul' | 'shrd' | 'cmpxchg'
  | 'push' | 'pop' | 'lahf' | 'sahf' | 'restoreOF' | 'rdtsc' | 'jmp' | 'jcc'

export interface Memory {
  readonly is: 'memory'
  readonly gs: boolean
  readonly base: number // register, or -1
  readonly index: number // register, or -1
  readonly scale: number
  readonly displacement: bigint // signed
}

export type Operand =
  | { readonly is: 'register'; readonly register: number }
  | { readonly is: 'immediate'; readonly value: bigint } // unsigned, of as many bits as the operation has
  | Memory

const NOTHING: Operand = { is: 'immediate', value: 0n }

export interface Step {
  readonly length: number
  readonly deed: Deed
  readonly lock: boolean //            prefix
  readonly bits: Bits
  readonly from: number //             of movzx and movsx: bits of the source; else 0
  readonly condition: ConditionCode
  readonly to: Operand //              what is changed, or compared first
  readonly source: Operand
  readonly factor: Operand | undefined // of imul with three operands: the last one
  readonly jump: number //             of jmp and jcc: from the instruction's start to the target
  readonly immediateAt: number //      offset of the immediate in the instruction, which a fixup may complete
  readonly immediateSize: number //    its bytes, 0: none
}

interface Row {
  readonly deed: Deed
  readonly bits: Bits
  readonly from: number
}

/** Code -> what it does. */
const ALLOWED = new Map<Code, Row>()

const CONDITIONS = ['o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g'] as const

const fillAllowed = (): void => {
  const allow = (deed: Deed, bits: Bits, names: string, from = 0): void => {
    for (const name of names.split(' ')) {
      const code = Code[name as keyof typeof Code]
      if (code === undefined) throw new Error(`iced has no code ${name}`)
      ALLOWED.set(code, { deed, bits, from })
    }
  }
  for (const bits of [32, 64] as const) {
    const r = `r${bits}`
    const rm = `rm${bits}`
    const a = bits === 32 ? 'EAX' : 'RAX'
    allow('mov', bits, `Mov_${rm}_${r} Mov_${r}_${rm} Mov_${rm}_imm32 Mov_${r}_imm${bits}`)
    for (const deed of ['add', 'sub', 'and', 'or', 'xor', 'cmp'] as const) {
      const name = deed[0]!.toUpperCase() + deed.slice(1)
      allow(deed, bits, `${name}_${rm}_${r} ${name}_${r}_${rm}`)
      allow(deed, bits, `${name}_${rm}_imm8 ${name}_${rm}_imm32 ${name}_${a}_imm32`)
    }
    allow('test', bits, `Test_${rm}_${r} Test_${rm}_imm32 Test_${a}_imm32`)
    allow('inc', bits, `Inc_${rm}`)
    allow('dec', bits, `Dec_${rm}`)
    allow('neg', bits, `Neg_${rm}`)
    allow('not', bits, `Not_${rm}`)
    allow('imul', bits, `Imul_${r}_${rm} Imul_${r}_${rm}_imm8 Imul_${r}_${rm}_imm32`)
    allow('shl', bits, `Shl_${rm}_imm8 Shl_${rm}_1 Shl_${rm}_CL`)
    allow('shr', bits, `Shr_${rm}_imm8 Shr_${rm}_1 Shr_${rm}_CL`)
    allow('sar', bits, `Sar_${rm}_imm8 Sar_${rm}_1 Sar_${rm}_CL`)
    allow('lea', bits, `Lea_${r}_m`)
    for (const from of [8, 16]) {
      allow('movzx', bits, `Movzx_${r}_rm${from}`, from)
      allow('movsx', bits, `Movsx_${r}_rm${from}`, from)
    }
    allow('bsr', bits, `Bsr_${r}_${rm}`)
    for (const condition of CONDITIONS) allow('cmov', bits, `Cmov${condition}_${r}_${rm}`)
  }
  allow('movsx', 64, 'Movsxd_r64_rm32', 32)
  allow('div', 64, 'Div_rm64')
  allow('mul', 64, 'Mul_rm64')
  allow('shrd', 64, 'Shrd_rm64_r64_imm8')
  allow('cmpxchg', 64, 'Cmpxchg_rm64_r64')
  allow('push', 64, 'Push_r64')
  allow('pop', 64, 'Pop_r64')
  allow('lahf', 64, 'Lahf')
  allow('sahf', 64, 'Sahf')
  allow('restoreOF', 64, 'Add_AL_imm8 Add_rm8_imm8')
  allow('rdtsc', 64, 'Rdtsc')
  allow('jmp', 64, 'Jmp_rel8_64 Jmp_rel32_64')
  for (const condition of CONDITIONS) {
    allow('set', 64, `Set${condition}_rm8`)
    allow('jcc', 64, `J${condition}_rel8_64 J${condition}_rel32_64`)
  }
}
fillAllowed()

const RSP = 4
const GS_PREFIX = 0x65
const LOCK_PREFIX = 0xf0
const isRex = (byte: number): boolean => (byte & 0xf0) === 0x40
/** Every legacy prefix: lock, repne, repe, segments, operand and address size. */
const PREFIXES: ReadonlySet<number> = new Set([0xf0, 0xf2, 0xf3, 0x2e, 0x36, 0x3e, 0x26, 0x64, 0x65, 0x66, 0x67])

const readRegister = (register: Register): Operand => {
  const number = lowNumber(register)
  if (number < 0) throw new Mistake('an operand that is no low general register')
  if (number === RSP) throw new Mistake('%rsp is an operand')
  return { is: 'register', register: number }
}

const readMemory = (insn: Instruction, gs: boolean): Operand => {
  const { memoryBase, memoryIndex } = insn
  const whole = (register: Register): number => {
    if (register === Register.None) return -1
    if (register >= Register.RAX && register <= Register.R15) return register - Register.RAX
    throw new Mistake('an address that is not of 64-bit registers')
  }
  return {
    is: 'memory', gs, base: whole(memoryBase), index: whole(memoryIndex), scale: insn.memoryIndexScale,
    displacement: BigInt.asIntN(64, insn.memoryDisplacement),
  }
}

const readOperand = (insn: Instruction, number: number, bits: Bits, gs: boolean): Operand => {
  switch (insn.opKind(number)) {
    case OpKind.Register: return readRegister(insn.opRegister(number))
    case OpKind.Memory: return readMemory(insn, gs)
    case OpKind.Immediate8: case OpKind.Immediate32: case OpKind.Immediate64:
    case OpKind.Immediate8to32: case OpKind.Immediate8to64: case OpKind.Immediate32to64:
      return { is: 'immediate', value: insn.immediate(number) & LARGEST[bits]! }
    case OpKind.NearBranch64: return NOTHING
    default: throw new Mistake('an operand of another kind')
  }
}

/** Which operands may lie in memory: a load, an address, a slot (GS) or a frame word. */
const mayBeMemory = (deed: Deed, bits: Bits, to: Operand, source: Operand): boolean => {
  switch (deed) {
    case 'mov': return to.is === 'register' ? source.is === 'memory' : bits === 64 && to.is === 'memory' && !to.gs
    case 'lea': return source.is === 'memory' && !source.gs
    case 'add': case 'sub': return bits === 64 && to.is === 'memory'
    case 'inc': return bits === 64 && to.is === 'memory'
    case 'cmp': return bits === 64 && (to.is !== 'memory' || source.is === 'register')
    case 'cmpxchg': return to.is === 'memory'
    default: return false
  }
}

const read = (bytes: Uint8Array): Step => {
  const gs = bytes[0] === GS_PREFIX
  const lock = bytes[0] === LOCK_PREFIX
  let opcodeAt = gs || lock ? 1 : 0
  if (isRex(bytes[opcodeAt]!)) opcodeAt++
  if (PREFIXES.has(bytes[opcodeAt]!) || isRex(bytes[opcodeAt]!)) throw new Mistake('a prefix')
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  const insn = decoder.decode()
  const offsets = decoder.getConstantOffsets(insn)
  try {
    const row = ALLOWED.get(insn.code)
    if (row === undefined) throw new Mistake('an instruction that is not on the list')
    const { deed, bits, from } = row
    const to = insn.opCount > 0 ? readOperand(insn, 0, bits, gs) : NOTHING
    const source = insn.opCount > 1 ? readOperand(insn, 1, bits, gs) : NOTHING
    const factor = insn.opCount > 2 ? readOperand(insn, 2, bits, gs) : undefined
    const inMemory = to.is === 'memory' || source.is === 'memory'
    if ((gs && !inMemory) || (lock && deed !== 'cmpxchg')) throw new Mistake('a prefix')
    if (inMemory && !mayBeMemory(deed, bits, to, source)) throw new Mistake('a memory operand that is not on the list')
    if (deed === 'cmpxchg' && !inMemory) throw new Mistake('a cmpxchg of registers')
    if (deed === 'restoreOF') {
      const isAl = to.is === 'register' && to.register === 0
      if (!isAl || source.is !== 'immediate' || source.value !== 0x7fn) throw new Mistake('an addition of bytes')
    }
    return {
      length: insn.length, deed, lock, bits, from, condition: insn.conditionCode, to, source, factor,
      jump: deed === 'jmp' || deed === 'jcc' ? Number(BigInt.asIntN(64, insn.nearBranchTarget)) : 0,
      immediateAt: offsets.immediateOffset, immediateSize: offsets.hasImmediate ? offsets.immediateSize : 0,
    }
  } finally {
    offsets.free()
    insn.free()
    decoder.free()
  }
}

/** Byte -> what follows, or the instruction that ends with it. No instruction's bytes are the start of another's. */
type Branches = Map<number, Branches | Step>

export class Allowed {
  readonly #opinions: Opinions
  readonly #known: Branches = new Map()

  constructor(opinions: Opinions) {
    this.#opinions = opinions
  }

  /**
   * The instruction at code[at...), which ends before `end` or there.
   * @throws Mistake
   */
  at(code: Uint8Array, at: number, end: number): Step {
    let known: Branches | Step | undefined = this.#known
    for (let i = at; i < end; i++) {
      known = known.get(code[i]!)
      if (known === undefined) break
      if (!(known instanceof Map)) return known
    }
    return this.#ask(code, at, end)
  }

  #ask(code: Uint8Array, at: number, end: number): Step {
    const length = this.#opinions.lengthAt(code, at)
    if (length === 0) throw new Mistake('no instruction')
    if (at + length > end) throw new Mistake('an instruction that goes beyond the program')
    const opinion = this.#opinions.of(code, at, length)
    if (opinion === undefined) throw new Mistake('an instruction that the two decoders see differently')
    const step = read(code.slice(at, at + length))
    let branches = this.#known
    for (let i = at; i < at + length - 1; i++) {
      let next = branches.get(code[i]!)
      if (!(next instanceof Map)) branches.set(code[i]!, (next = new Map()))
      branches = next
    }
    branches.set(code[at + length - 1]!, step)
    return step
  }
}
