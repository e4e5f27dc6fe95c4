// Assembly that users write: the text of asm("...") in, bytes and what they read and write out, or why they are refused.
// Intel syntax; instructions with ';' between; numbers are decimal or 0x hexadecimal.
//
//   statement = mnemonic [ operand { "," operand } ]
//   operand   = register | [ "-" ] number | [ size "ptr" ] "[" [ "-" ] term { ( "+" | "-" ) term } "]"
//   term      = register [ "*" number ] | number "*" register | number     registers of 64 bits
//
// Invariant: what is taken goes from its first byte to behind its last, cannot fault, and changes nothing but general
// registers other than rsp and the six flags of registers.ts; on any x86-64 processor.
// Keystone assembles, and is not trusted: it cuts constants off, and has wrong opcodes (nop with an operand). Every
// instruction is decoded again, must be one that both decoders read alike, is judged by what iced knows of it, and then by
// name; and it must be what was written, mnemonic and operands. Left out: labels, names, directives, macros.

import {
  CpuidFeature, Decoder, DecoderOptions, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
} from '../code/iced.js'
import { FACT_WORDS, flowOf, IcedFacts, MAX_INSN_BYTES } from '../code/facts.js'
import { FLOW } from '../code/instructions.js'
import { ALL, RSP, type RegisterSet } from '../code/registers.js'
import { agrees, SecondDecoder } from '../code/second.js'
import { NONE } from '../image/rva.js'

const MAX_STATEMENTS = 64
const MAX_BYTES = 512
const MAX_CHARACTERS = 128 // of a statement; Keystone overruns its stack at some ten thousand

export interface Assembled {
  readonly bytes: Uint8Array
  /** What matters of what was there before, flags included. */
  readonly reads: RegisterSet
  /** What may be changed. */
  readonly writes: RegisterSet
}

/** Why a statement is refused. */
class Refusal extends Error {}

// --- what was written ---

interface Memory {
  readonly factors: ReadonlyMap<string, bigint> // register -> what it is multiplied by
  readonly displacement: bigint
}
type Operand = string | bigint | Memory // a register's name, a constant, an address

interface Written {
  readonly text: string
  readonly mnemonic: string
  readonly operands: readonly Operand[]
}

const WORDS = ['', 'ax', 'cx', 'dx', 'bx', 'sp', 'bp', 'si', 'di'] as const
const NUMBERED = [8, 9, 10, 11, 12, 13, 14, 15]
/** Names of iced's registers 1 to 68, in its order. */
const REGISTERS: readonly string[] = [
  'al', 'cl', 'dl', 'bl', 'ah', 'ch', 'dh', 'bh', 'spl', 'bpl', 'sil', 'dil', ...NUMBERED.map((n) => `r${n}b`),
  ...WORDS.slice(1), ...NUMBERED.map((n) => `r${n}w`),
  ...WORDS.slice(1).map((name) => `e${name}`), ...NUMBERED.map((n) => `r${n}d`),
  ...WORDS.slice(1).map((name) => `r${name}`), ...NUMBERED.map((n) => `r${n}`),
]
const STACK_POINTERS: ReadonlySet<string> = new Set(['rsp', 'esp', 'sp', 'spl'])
const nameOf = (register: Register): string | undefined => REGISTERS[register - 1]

// A leading zero would mean octal to some assemblers.
const NUMBER = /^(?:0x[0-9a-f]{1,16}|0|[1-9][0-9]{0,19})$/
const SIZE = /^(?:byte|word|dword|qword) ptr *(?=\[)/

const numberIn = (word: string): bigint | undefined => {
  if (!NUMBER.test(word)) return undefined
  const value = BigInt(word)
  return value < 1n << 64n ? value : undefined
}

const registerIn = (word: string): string => {
  if (STACK_POINTERS.has(word)) throw new Refusal(`${word} is not to be touched`)
  if (!REGISTERS.includes(word)) {
    throw new Refusal(/^[0-9]/.test(word) ? `'${word}' is not a number of 64 bits, decimal or 0x`
      : `'${word}' is not a general register`)
  }
  return word
}

const memoryIn = (inside: string): Memory => {
  const factors = new Map<string, bigint>()
  let displacement = 0n
  let rest = inside.startsWith('-') ? inside : `+${inside}`
  while (rest !== '') {
    const term = /^ *([+-]) *([0-9a-z]+)(?: *\* *([0-9a-z]+))? */.exec(rest)
    if (term === null) throw new Refusal(`'[${inside}]' is not an address such as [rax+rcx*4-8]`)
    rest = rest.slice(term[0].length)
    const [, sign, first = '', second] = term
    const words = second === undefined ? [first] : [first, second]
    const numbers = words.map(numberIn)
    const constant = numbers.find((n) => n !== undefined)
    if (numbers.every((n) => n !== undefined)) {
      if (second !== undefined) throw new Refusal('a product of two numbers')
      displacement += sign === '-' ? -constant! : constant!
      continue
    }
    const register = registerIn(words[numbers.findIndex((n) => n === undefined)]!)
    if (second !== undefined && constant === undefined) throw new Refusal('a product of two registers')
    if (!/^r(?:[a-z]+|[0-9]+)$/.test(register)) {
      throw new Refusal(`${register} in an address, where registers of 64 bits are`)
    }
    if (sign === '-') throw new Refusal(`-${register} in an address`)
    factors.set(register, (factors.get(register) ?? 0n) + (constant ?? 1n))
  }
  return { factors, displacement }
}

const operandIn = (text: string): Operand => {
  const sized = text.replace(SIZE, '')
  if (sized.startsWith('[') && sized.endsWith(']')) return memoryIn(sized.slice(1, -1).trim())
  if (text === '') throw new Refusal('an operand is missing')
  if (/[[\]*+]/.test(text)) throw new Refusal(`'${text}' is not an operand`)
  const number = numberIn(text.replace(/^- */, ''))
  if (number !== undefined) return text.startsWith('-') ? -number : number
  return registerIn(text)
}

const PREFIX_NAME = /^(?:lock|rep|repe|repz|repne|repnz|xacquire|xrelease|data16|addr32|rex64)$/

// These exist only in encodings without a REX prefix, which the others need. LLVM does not refuse that but exits.
const HIGH_BYTE = /^[abcd]h$/
const NEEDS_REX = /^(?:r.*|(?:si|di|bp)l)$/

const statementIn = (text: string): Written => {
  if (text.length > MAX_CHARACTERS) throw new Refusal(`an instruction of more than ${MAX_CHARACTERS} characters`)
  const odd = /[^0-9a-z ,[\]+*-]/.exec(text)
  if (odd !== null) {
    throw new Refusal(`'${odd[0]}' has no place here: there are registers, numbers and [addresses], and no names`)
  }
  const [, mnemonic, rest] = /^([a-z][0-9a-z]*)(?: +(.*))?$/.exec(text) ?? []
  if (mnemonic === undefined) throw new Refusal('an instruction starts with its name')
  if (PREFIX_NAME.test(mnemonic)) throw new Refusal('no prefixes here')
  const operands = rest === undefined ? [] : rest.split(',').map((operand) => operandIn(operand.trim()))
  const names = operands.filter((operand) => typeof operand === 'string')
  const high = names.find((name) => HIGH_BYTE.test(name))
  const other = names.find((name) => NEEDS_REX.test(name))
  if (high !== undefined && other !== undefined) throw new Refusal(`${high} and ${other} cannot be in one instruction`)
  return { text, mnemonic, operands }
}

// --- what it may be ---

const CONDITIONS = [
  'o', 'no', 'b', 'ae', 'e', 'ne', 'be', 'a', 's', 'ns', 'p', 'np', 'l', 'ge', 'le', 'g',
] as const
const OTHER_CONDITIONS: Readonly<Record<string, (typeof CONDITIONS)[number]>> = {
  c: 'b', nae: 'b', nc: 'ae', nb: 'ae', z: 'e', nz: 'ne', na: 'be', nbe: 'a', pe: 'p', po: 'np', nge: 'l', nl: 'ge', ng: 'le',
  nle: 'g',
}

/** Whatever else is true of it, an instruction is one of these, by iced's names. */
const ALLOWED: ReadonlySet<string> = new Set([
  'mov', 'movzx', 'movsx', 'movsxd', 'lea', 'xchg', 'xadd', 'cmpxchg', 'bswap', 'cbw', 'cwde', 'cdqe', 'cwd', 'cdq', 'cqo',
  'add', 'adc', 'sub', 'sbb', 'cmp', 'inc', 'dec', 'neg', 'mul', 'imul', 'and', 'or', 'xor', 'not', 'test',
  'shl', 'sal', 'shr', 'sar', 'rol', 'ror', 'rcl', 'rcr', 'shld', 'shrd', 'bt', 'btc', 'btr', 'bts', 'bsf', 'bsr',
  'clc', 'stc', 'cmc', 'lahf', 'sahf', 'nop', 'pause', 'rdtsc',
  ...CONDITIONS.flatMap((condition) => [`set${condition}`, `cmov${condition}`]),
])

/** What every x86-64 processor has, as iced has it. */
const BASELINE: ReadonlySet<number> = new Set([
  CpuidFeature.INTEL8086, CpuidFeature.INTEL186, CpuidFeature.INTEL286, CpuidFeature.INTEL386, CpuidFeature.INTEL486,
  CpuidFeature.X64, CpuidFeature.CMOV, CpuidFeature.MULTIBYTENOP, CpuidFeature.PAUSE, CpuidFeature.TSC,
])

const TRAPS: ReadonlySet<string> = new Set(['div', 'idiv', 'bound', 'into'])
const OF_THE_SYSTEM: ReadonlySet<string> = new Set([
  'cpuid', 'rdpmc', 'rdmsr', 'wrmsr', 'xgetbv', 'in', 'out', 'insb', 'insw', 'insd', 'outsb', 'outsw', 'outsd', 'cli', 'sti',
  'smsw', 'sldt', 'str', 'sidt', 'sgdt', 'lar', 'lsl', 'verr', 'verw', 'rdtscp',
])

const PREFIXES: Readonly<Record<number, string>> = {
  0xf0: 'lock', 0xf2: 'repne', 0xf3: 'rep', 0x64: 'fs', 0x65: 'gs', 0x2e: 'cs', 0x36: 'ss', 0x3e: 'ds', 0x26: 'es',
  0x67: 'address-size',
}
const OPERAND_SIZE = 0x66

/** iced's RflagsBits of the six flags of registers.ts. */
const SIX_FLAGS = 63

const mnemonicOf = (insn: Instruction): string => Mnemonic[insn.mnemonic]!.toLowerCase()

// --- whether it is what was written ---

const byIcedsName = (mnemonic: string): string => {
  const [, verb, condition] = /^(set|cmov)([a-z]+)$/.exec(mnemonic) ?? []
  const other = condition === undefined ? undefined : OTHER_CONDITIONS[condition]
  if (other !== undefined) return `${verb!}${other}`
  return mnemonic === 'movabs' ? 'mov' : mnemonic === 'sal' ? 'shl' : mnemonic
}

/** Bits of the constants that iced tells apart. */
const CONSTANT_BITS: ReadonlyMap<number, number> = new Map([
  [OpKind.Immediate8, 8], [OpKind.Immediate8to16, 16], [OpKind.Immediate16, 16], [OpKind.Immediate8to32, 32],
  [OpKind.Immediate32, 32], [OpKind.Immediate8to64, 64], [OpKind.Immediate32to64, 64], [OpKind.Immediate64, 64],
])

const isOperand = (insn: Instruction, i: number, operand: Operand): boolean => {
  const kind = insn.opKind(i)
  if (kind === OpKind.Register) return operand === nameOf(insn.opRegister(i))
  if (kind === OpKind.Memory) {
    if (typeof operand !== 'object') return false
    const factors = new Map<string, bigint>()
    for (const [register, factor] of [[insn.memoryBase, 1], [insn.memoryIndex, insn.memoryIndexScale]] as const) {
      if (register === Register.None) continue
      const name = nameOf(register) ?? ''
      factors.set(name, (factors.get(name) ?? 0n) + BigInt(factor))
    }
    return factors.size === operand.factors.size &&
      [...factors].every(([name, factor]) => operand.factors.get(name) === factor) &&
      BigInt.asUintN(64, operand.displacement) === BigInt.asUintN(64, insn.memoryDisplacement)
  }
  const bits = CONSTANT_BITS.get(kind)
  if (bits === undefined || typeof operand !== 'bigint') return false
  return operand >= -(1n << BigInt(bits - 1)) && operand < 1n << BigInt(bits) &&
    BigInt.asUintN(bits, operand) === BigInt.asUintN(bits, insn.immediate(i))
}

const isWhatWasWritten = (insn: Instruction, { mnemonic, operands }: Written): boolean => {
  const [asked, got] = [byIcedsName(mnemonic), byIcedsName(mnemonicOf(insn))]
  // movsx of 32 bits has a name of its own.
  if (asked !== got && !(asked === 'movsx' && got === 'movsxd')) return false
  let all = operands
  if (got === 'imul' && insn.opCount === 3 && operands.length === 2) all = [operands[0]!, ...operands]
  if (/^(?:sh[lr]|sar|ro[lr]|rc[lr])$/.test(got) && operands.length === 1) all = [...operands, 1n]
  if (all.length !== insn.opCount) return false
  const inOrder = (list: readonly Operand[]): boolean => list.every((operand, i) => isOperand(insn, i, operand))
  return inOrder(all) || ((got === 'xchg' || got === 'test') && inOrder(all.toReversed()))
}

// --- all of it ---

type Keystone = import('keystone-wasm').Keystone

// The package loads itself once in a process. If it fails in another way than by saying no, its memory is in disorder.
let isLost = false

export class Assembler {
  readonly #keystone: Keystone
  readonly #second: SecondDecoder
  readonly #factory = new InstructionInfoFactory()
  readonly #insn = new Instruction()
  readonly #iced = new IcedFacts()

  private constructor(keystone: Keystone, second: SecondDecoder) {
    this.#keystone = keystone
    this.#second = second
  }

  static async load(): Promise<Assembler> {
    const { Const, Keystone, loadKeystone } = await import('keystone-wasm')
    // LLVM prints and exits where it meets what it cannot encode; here that is an exception as any other.
    await loadKeystone({
      print: () => {},
      printErr: () => {},
      quit: (_status: number, toThrow: unknown) => {
        throw toThrow
      },
    })
    return new Assembler(new Keystone(Const.KS_ARCH_X86, Const.KS_MODE_64), await SecondDecoder.load())
  }

  /**
   * @param text in Intel syntax, as Keystone has it by default: `mov rax, rdi; shr rax, 12`
   * @returns the code, or why it is refused
   */
  assemble(text: string): Assembled | string {
    const statements = text.toLowerCase().split(';')
      .map((one) => one.replaceAll(/\s+/g, ' ').trim()).filter((one) => one !== '')
    if (statements.length === 0) return 'there is no instruction'
    if (statements.length > MAX_STATEMENTS) return `more than ${MAX_STATEMENTS} instructions`
    const code: number[] = []
    let [reads, writes, killed] = [0, 0, 0]
    for (const statement of statements) {
      try {
        const written = statementIn(statement)
        const bytes = this.#encode(written)
        this.#judge(bytes, written)
        code.push(...bytes)
        const facts = this.#facts(bytes)
        reads |= facts.reads & ~killed
        writes |= facts.writes
        killed |= facts.kills
      } catch (error) {
        if (!(error instanceof Refusal)) throw error
        return `'${statement.slice(0, 64)}': ${error.message}`
      }
    }
    if (code.length > MAX_BYTES) return `${code.length} bytes of code, more than ${MAX_BYTES}`
    return { bytes: Uint8Array.from(code), reads, writes }
  }

  #encode({ text }: Written): Uint8Array {
    if (isLost) throw new Refusal('the assembler has failed at an earlier text')
    let bytes: Uint8Array
    try {
      bytes = this.#keystone.asm(text)
    } catch (error) {
      // "Failed to assemble, error: Invalid operand (KS_ERR_ASM_INVALIDOPERAND)"
      const [, reason] = /^Error: Failed to assemble, error: (.*) \(KS_[A-Z_]+\)$/.exec(String(error)) ?? []
      if (reason === undefined) isLost = true
      throw new Refusal(reason === undefined ? 'the assembler fails at it' : `the assembler says: ${reason.toLowerCase()}`)
    }
    if (bytes.length === 0 || bytes.length > MAX_INSN_BYTES) throw new Refusal('that is not one instruction')
    return bytes
  }

  /** @throws Refusal unless it is one harmless instruction, the one that was written */
  #judge(bytes: Uint8Array, written: Written): void {
    const insn = this.#insn
    const decoder = new Decoder(64, bytes, DecoderOptions.None)
    decoder.decodeOut(insn)
    decoder.free()
    if (insn.isInvalid || insn.length !== bytes.length) throw new Refusal('that is not one instruction')
    if (flowOf(insn) !== FLOW.next) throw new Refusal('control may go elsewhere than to the next instruction')
    const name = mnemonicOf(insn)
    if (insn.isPrivileged || OF_THE_SYSTEM.has(name)) throw new Refusal('it is of the system, or tells of it')
    if (!agrees(this.#second.decode(0, bytes), bytes.length, FLOW.next, NONE)) {
      throw new Refusal('the two decoders do not agree on it')
    }
    if (TRAPS.has(name)) throw new Refusal('it traps for some operands')
    if (insn.isStackInstruction) throw new Refusal('it uses the stack')
    this.#mustKeepToRegisters(insn, name)
    if (!insn.cpuidFeatures().every((feature) => BASELINE.has(feature))) {
      throw new Refusal('not every x86-64 processor has it')
    }
    const prefix = bytes.find((byte) => byte !== OPERAND_SIZE)! // or the opcode, or REX: prefixes come first
    const refused = PREFIXES[prefix]
    if (refused !== undefined && name !== 'pause') throw new Refusal(`it needs the ${refused} prefix`)
    if ((insn.rflagsModified | insn.rflagsRead) & ~SIX_FLAGS) {
      throw new Refusal('it uses flags other than those of arithmetic')
    }
    if (!ALLOWED.has(name)) throw new Refusal(`'${name}' is not one of the instructions that are known to be harmless`)
    if (!isWhatWasWritten(insn, written)) throw new Refusal('the assembler makes something else of it')
  }

  #mustKeepToRegisters(insn: Instruction, name: string): void {
    const addresses = name === 'lea' || name === 'nop'
    for (let i = 0; i < insn.opCount; i++) {
      const kind = insn.opKind(i)
      if (kind === OpKind.Register || CONSTANT_BITS.has(kind)) continue
      if (kind !== OpKind.Memory || !addresses) throw new Refusal('it uses memory')
      if (insn.isIpRelMemoryOperand) throw new Refusal('its address depends on where it lies')
    }
    const info = this.#factory.info(insn)
    const memory = info.usedMemory()
    const registers = info.usedRegisters()
    const touches = memory.some(({ access }) => access !== OpAccess.NoMemAccess && access !== OpAccess.None)
    const strange = registers.some(({ register }) => nameOf(register) === undefined)
    const stack = registers.some(({ register }) => STACK_POINTERS.has(nameOf(register) ?? ''))
    for (const one of [...memory, ...registers, info]) one.free()
    if (touches) throw new Refusal('it uses memory')
    if (strange) throw new Refusal('it uses other than general registers')
    if (stack) throw new Refusal('it uses the stack')
  }

  /** What is written and not certainly overwritten as a whole keeps something of what was there, so that it is read. */
  #facts(bytes: Uint8Array): { reads: RegisterSet; writes: RegisterSet; kills: RegisterSet } {
    const facts = new Int32Array(FACT_WORDS)
    this.#iced.read(bytes, 0, bytes.length, 0, facts, 0)
    const kills = facts[1]!
    const writes = facts[2]! & ALL
    const reads = facts[0]! | (writes & ~kills)
    if ((reads | writes) & RSP) throw new Refusal('it uses the stack')
    return { reads, writes, kills }
  }
}
