// Assembly that users wrote, as the verifier sees it: an instruction in, what it changes out, or a Mistake where it must not
// be there. Allowed is what touches registers and status flags alone, on any x86-64 processor, and cannot trap; it is judged
// by properties, since users may write what no compiler of ours would. It shares no code with who assembles it.

import {
  CpuidFeature, Decoder, DecoderOptions, FlowControl, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, type Instruction,
} from '../code/iced.js'
import { fullNumber } from '../code/gpr.js'
import { AF, CF, OF, PF, SF, ZF, type RegisterSet } from '../code/registers.js'
import { Mistake } from './mistake.js'
import type { Opinions } from './opinion.js'

export interface ForeignInstruction {
  readonly length: number
  readonly writes: RegisterSet // registers and flags that may change
}

/** Processors of the first generation have these. */
const FEATURES: ReadonlySet<number> = new Set([
  CpuidFeature.INTEL8086, CpuidFeature.INTEL186, CpuidFeature.INTEL386, CpuidFeature.INTEL486, CpuidFeature.X64, CpuidFeature.CMOV,
  CpuidFeature.TSC, CpuidFeature.MULTIBYTENOP, CpuidFeature.PAUSE, CpuidFeature.CX8,
])

/** They divide, end, leave, wait, or touch what is neither a general register nor a status flag. */
const NEVER: ReadonlySet<Mnemonic> = new Set([
  Mnemonic.Div, Mnemonic.Idiv, Mnemonic.Cpuid, Mnemonic.Xlatb, Mnemonic.In, Mnemonic.Out, Mnemonic.Wait, Mnemonic.Salc,
  Mnemonic.Cld, Mnemonic.Std, Mnemonic.Cli, Mnemonic.Sti, Mnemonic.Hlt, Mnemonic.Ud0, Mnemonic.Ud1, Mnemonic.Ud2,
  Mnemonic.Push, Mnemonic.Pop, Mnemonic.Enter, Mnemonic.Leave, Mnemonic.Lsl, Mnemonic.Lar, Mnemonic.Str, Mnemonic.Sldt,
  Mnemonic.Smsw, Mnemonic.Verr, Mnemonic.Verw,
])

/** Bits of iced's RFlags that are status flags. */
const STATUS: readonly (readonly [bit: number, flag: RegisterSet])[] = [[1, OF], [2, SF], [4, ZF], [8, AF], [16, CF], [32, PF]]
const STATUS_BITS = STATUS.reduce((set, [bit]) => set | bit, 0)

const RSP_NUMBER = 4

export class Foreign {
  readonly #opinions: Opinions
  readonly #factory = new InstructionInfoFactory()

  constructor(opinions: Opinions) {
    this.#opinions = opinions
  }

  /**
   * The instruction at bytes[at...], which ends before `end`.
   * @throws Mistake where users may not write it
   */
  at(bytes: Uint8Array, at: number, end: number): ForeignInstruction {
    const length = this.#opinions.lengthAt(bytes, at)
    if (length === 0 || at + length > end || this.#opinions.of(bytes, at, length) === undefined) throw new Mistake('assembly that not both decoders see')
    const decoder = new Decoder(64, bytes.slice(at, at + length), DecoderOptions.None)
    const insn = decoder.decode()
    const info = this.#factory.info(insn)
    const registers = info.usedRegisters()
    try {
      const why = whyNot(insn)
      if (why !== '') throw new Mistake(`assembly with ${why}`)
      if (info.usedMemory().length > 0) throw new Mistake('assembly with an access to memory')
      let writes: RegisterSet = 0
      for (const [bit, flag] of STATUS) if (insn.rflagsModified & bit) writes |= flag
      for (const used of registers) {
        const number = fullNumber(used.register)
        if (number < 0) throw new Mistake('assembly with a register that is no general one')
        if (number === RSP_NUMBER) throw new Mistake('assembly with the stack pointer')
        if (used.access !== OpAccess.Read && used.access !== OpAccess.CondRead && used.access !== OpAccess.None) writes |= 1 << number
      }
      return { length, writes }
    } finally {
      for (const used of registers) used.free()
      info.free()
      insn.free()
      decoder.free()
    }
  }
}

/** What an instruction is that users may not write, or ''. */
const whyNot = (insn: Instruction): string => {
  if (insn.flowControl !== FlowControl.Next) return 'a jump, call or trap'
  if (NEVER.has(insn.mnemonic) || insn.isPrivileged || insn.isStackInstruction || insn.isSaveRestoreInstruction) return 'what users may not do'
  if (insn.hasLockPrefix || insn.hasRepnePrefix || (insn.hasRepPrefix && insn.mnemonic !== Mnemonic.Pause)) return 'a prefix'
  if (Array.from(insn.cpuidFeatures()).some((feature) => !FEATURES.has(feature))) return 'what not every processor has'
  if (insn.rflagsModified & ~STATUS_BITS) return 'flags that are no status flags'
  for (let i = 0; i < insn.opCount; i++) {
    if (insn.opKind(i) !== OpKind.Memory) continue
    if (insn.mnemonic !== Mnemonic.Lea || insn.isIpRelMemoryOperand) return 'an operand in memory'
  }
  return ''
}
