// Jump tables, proven: an indirect jump is resolved only where straight-line code before it shows which register holds
// the index, how far the index goes, and where the table lies; and where every entry of the table is the start of an
// instruction of the same function. In: the image and its instructions. Out: the places that the jump goes to.
//
// The slice goes backward from the jump, over instructions that nothing jumps to, and knows these steps:
//   jmp *T(,%i,8)                              the table is at T
//   mov T(,%i,8),%r; jmp *%r or a thunk of %r  likewise (kernels with retpolines have nothing else)
//   movzb J,%i; movzw; and $n,%i; mov %j,%i    bound the index, or rename it, and clear its upper half
//   cmp $n,%i; ja away                         bounds it by n, where the jump does not go away
//   cmp $n,M; ja away; mov M,%i                likewise: the kernel itself relies on M not changing in between
// What the kernel builds with -fno-pic looks so (gcc 12; ___bpf_prog_run's table of labels too). Any other instruction
// that may change the register ends the slice; so does the start of a block.
// Left out: tables of 32-bit offsets, as position-independent code has them; bounds that were checked in another block.

import { Code, Decoder, DecoderOptions, Instruction, MemorySizeExt, Mnemonic, OpKind, Register } from '../code/iced.js'
import { lowNumber } from '../code/gpr.js'
import { effectWrites } from '../code/effects.js'
import type { Instructions } from '../code/instructions.js'
import { FLOW } from '../code/flow.js'
import { MAX_INSN_BYTES } from '../code/facts.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, toRva, type Rva } from '../image/rva.js'
import type { InsnIndex } from './sweep.js'

/** Entries of a table; more than any switch of a kernel has. */
const MAX_ENTRIES = 4096
const ENTRY_BYTES = 8
/** How far back the slice looks, in instructions. */
const MAX_STEPS = 24
const GPRS = 16

/** Bits of a general register that is not a high byte. */
const gprBits = (register: Register): number =>
  register >= Register.RAX ? 64 : register >= Register.EAX ? 32 : register >= Register.AX ? 16 : 8

/** What a 32-bit destination certainly gets whole, its upper half cleared. */
const WHOLE = new Set<Mnemonic>([
  Mnemonic.Mov, Mnemonic.Movsx, Mnemonic.Movsxd, Mnemonic.Add, Mnemonic.Sub, Mnemonic.Or, Mnemonic.Xor, Mnemonic.Not,
  Mnemonic.Neg, Mnemonic.Inc, Mnemonic.Dec, Mnemonic.Lea, Mnemonic.Imul,
])

/** One table: where it is, and how many entries control may take. */
export interface JumpTable {
  readonly at: Rva
  readonly count: number
}

/** Slices backward from one jump at a time. */
class Slicer {
  readonly image: Image
  readonly insns: Instructions
  readonly leads: (i: number) => boolean
  readonly altered: (i: number) => boolean
  readonly thunks: ReadonlyMap<Rva, number> // rva -> number of the register that it jumps to
  readonly #insn = new Instruction()

  /**
   * @param leads whether an insn may be reached in other ways than from the one before
   * @param altered whether the kernel may put others in its place
   */
  constructor(image: Image, insns: Instructions, leads: (i: number) => boolean, altered: (i: number) => boolean) {
    this.image = image
    this.insns = insns
    this.leads = leads
    this.altered = altered
    this.thunks = jumpThunks(image)
  }

  #decode(i: number): Instruction {
    const { rva, length } = this.insns
    const decoder = new Decoder(64, bytesAt(this.image, rva[i]!, Math.min(length[i]!, MAX_INSN_BYTES)), DecoderOptions.None)
    decoder.decodeOut(this.#insn)
    decoder.free()
    return this.#insn
  }

  /** The index of the memory operand T(,%i,8), and where T is; undefined for any other operand. */
  #operand(insn: Instruction): { register: number; at: Rva } | undefined {
    if (insn.memoryBase !== Register.None || insn.memoryIndexScale !== ENTRY_BYTES || insn.memorySegment !== Register.DS) return undefined
    if (insn.memoryIndex < Register.RAX || insn.memoryIndex > Register.R15) return undefined
    const at = toRva(this.image.base, BigInt.asUintN(64, insn.memoryDisplacement))
    return at === NONE ? undefined : { register: lowNumber(insn.memoryIndex), at }
  }

  /** The table that an indirect jump goes through, or undefined. */
  find(jump: number): JumpTable | undefined {
    const { insns } = this
    let i = jump
    let operand: { register: number; at: Rva } | undefined
    let through = -1
    if (insns.flow[jump] === FLOW.jump) through = this.thunks.get(insns.target[jump]!) ?? -1
    else {
      const insn = this.#decode(jump)
      if (insn.op0Kind === OpKind.Register) through = lowNumber(insn.op0Register)
      else operand = this.#operand(insn)
    }
    for (let step = 0; operand === undefined; step++) {
      if (through < 0 || step === MAX_STEPS || this.leads(i)) return undefined
      i--
      if (insns.flow[i] !== FLOW.next || this.altered(i)) return undefined
      if (!(effectWrites[insns.effect[i]!]! & (1 << through))) continue
      const insn = this.#decode(i)
      if (insn.code !== Code.Mov_r64_rm64 || insn.op1Kind !== OpKind.Memory || lowNumber(insn.op0Register) !== through) return undefined
      operand = this.#operand(insn)
      if (operand === undefined) return undefined
    }
    const count = this.#bound(i, operand.register)
    return count === 0 ? undefined : { at: operand.at, count }
  }

  /** How many values a 64-bit register may have before an instruction, from 0 on; 0 when that is not known. */
  #bound(before: number, register: number): number {
    const { insns } = this
    let bits = 64 //         the index is this many low bits of the register, at the place that the slice has reached
    let max = Infinity //    its greatest value
    let max32 = Infinity //  the same if the register's upper half is 0 there
    let from = '' //         what memory the index was loaded from, once it was
    let addressSet = 0 //    and the registers that its address is made of
    const known = (): number => (max < MAX_ENTRIES ? max + 1 : 0)
    let i = before
    for (let step = 0; step < MAX_STEPS && !this.leads(i); step++) {
      i--
      const flow = insns.flow[i]!
      if (this.altered(i)) break
      if (flow === FLOW.branch) {
        if (this.#decode(i).mnemonic !== Mnemonic.Ja || this.leads(i)) break
        const insn = this.#decode(--i)
        const limit = immediate(insn)
        if (insn.mnemonic !== Mnemonic.Cmp || limit === undefined || this.altered(i)) break
        if (from !== '') {
          if (memoryOf(insn) === from) max = Math.min(max, limit)
          break
        }
        if (insn.op0Kind !== OpKind.Register || lowNumber(insn.op0Register) !== register) break
        const width = gprBits(insn.op0Register)
        if (bits <= width) max = Math.min(max, limit)
        else if (width === 32) max32 = Math.min(max32, limit)
        continue
      }
      if (flow !== FLOW.next) break
      const insn = this.#decode(i)
      const simple = insn.op0Kind === OpKind.Register && (WHOLE.has(insn.mnemonic) || insn.mnemonic === Mnemonic.And)
      if (from !== '') {
        // Nothing that writes memory, or what the address is made of.
        if (!simple || effectWrites[insns.effect[i]!]! & addressSet) break
        continue
      }
      if (!(effectWrites[insns.effect[i]!]! & (1 << register))) continue
      if (insn.op0Kind !== OpKind.Register || lowNumber(insn.op0Register) !== register) break
      const width = gprBits(insn.op0Register)
      const size = ZERO_EXTENDS.get(insn.code)
      if (simple && width === 32) {
        bits = Math.min(bits, 32)
        max = Math.min(max, max32)
      }
      if (size !== undefined) {
        bits = Math.min(bits, size)
        max = Math.min(max, max32, 2 ** size - 1)
      } else if (insn.mnemonic === Mnemonic.And && width >= 32) {
        max = Math.min(max, immediate(insn) ?? Infinity)
        break
      } else if (insn.mnemonic !== Mnemonic.Mov || width < 32) break
      if (insn.op1Kind === OpKind.Register) {
        register = lowNumber(insn.op1Register)
        if (register < 0) break
      } else if (insn.op1Kind === OpKind.Memory) {
        from = memoryOf(insn)
        addressSet = gprSet(insn.memoryBase) | gprSet(insn.memoryIndex)
      } else break
    }
    return known()
  }
}

/** movzx to 32 and 64 bits -> how many bits it takes. */
const ZERO_EXTENDS = new Map<Code, number>([
  [Code.Movzx_r32_rm8, 8], [Code.Movzx_r64_rm8, 8], [Code.Movzx_r32_rm16, 16], [Code.Movzx_r64_rm16, 16],
])

const gprSet = (register: Register): number => {
  const number = lowNumber(register)
  return number < 0 ? 0 : 1 << number
}

/** A memory operand with its size, to compare; '' where there is none, or where its address is not only of registers. */
const memoryOf = (insn: Instruction): string => {
  if (insn.op0Kind !== OpKind.Memory && (insn.opCount < 2 || insn.op1Kind !== OpKind.Memory)) return ''
  return [insn.memorySegment, insn.memoryBase, insn.memoryIndex, insn.memoryIndexScale, insn.memoryDisplacement,
    MemorySizeExt.size(insn.memorySize)].join(' ')
}

/** The second operand where it is a constant that is not negative as a number of the first one's width. */
const immediate = (insn: Instruction): number | undefined => {
  switch (insn.op1Kind) {
    case OpKind.Immediate8:
    case OpKind.Immediate16:
    case OpKind.Immediate32:
    case OpKind.Immediate8to16:
    case OpKind.Immediate8to32:
    case OpKind.Immediate8to64:
    case OpKind.Immediate32to64: {
      const value = BigInt.asIntN(64, insn.immediate(1))
      return value >= 0n && value < BigInt(MAX_ENTRIES) ? Number(value) : undefined
    }
    default: return undefined
  }
}

/** __x86_indirect_thunk_R, by place -> number of R. */
const jumpThunks = (image: Image): Map<Rva, number> => {
  const names = ['rax', 'rcx', 'rdx', 'rbx', 'rsp', 'rbp', 'rsi', 'rdi', 'r8', 'r9', 'r10', 'r11', 'r12', 'r13', 'r14', 'r15']
  const thunks = new Map<Rva, number>()
  for (let r = 0; r < GPRS; r++) {
    for (const kind of ['__x86_indirect_thunk_', '__x86_indirect_jump_thunk_']) {
      const at = image.symbols.rvaOf(kind + names[r]!)
      if (at !== NONE) thunks.set(at, r)
    }
  }
  return thunks
}

/**
 * Where each of some indirect jumps goes, if that is proven: rvas, unique, in the order of the table.
 * @param jumps insns
 * @param leads whether an insn may be reached in other ways than from the one before
 * @param altered whether the kernel may put others in its place
 */
export const readJumpTables = (
  image: Image, insns: Instructions, index: InsnIndex, jumps: readonly number[], leads: (i: number) => boolean,
  altered: (i: number) => boolean,
): Map<number, readonly Rva[]> => {
  const found = new Map<number, readonly Rva[]>()
  const slicer = new Slicer(image, insns, leads, altered)
  const { functions } = image
  for (const jump of jumps) {
    const table = slicer.find(jump)
    if (table === undefined) continue
    const entries = image.readOnlyPointers(table.at, table.count)
    const f = functions.functionAt(insns.rva[jump]!)
    if (entries === undefined || f === NONE) continue
    const within = (rva: Rva): boolean => {
      const g = functions.functionAt(rva)
      return index.at(rva) !== NONE && (g === f || (g !== NONE && functions.isCold[g] === 1))
    }
    if (entries.every(within)) found.set(jump, [...new Set(entries)])
  }
  return found
}
