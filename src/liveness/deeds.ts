// What single instructions do, for the checker of liveness: iced is asked of the whole decoded instruction, operand by
// operand, and not through the decoding table that everything else relies on (code/table.ts).
// In: an instruction of iced's. Out: what kind of transfer it is, which registers and flags it reads, and which it
// certainly overwrites. Left out: what the kernel's tables say of it (check.ts).

import {
  Code, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
} from '../code/iced.js'
import { fullNumber } from '../code/gpr.js'

/** Every general register (bits 0-15, by number) and CF PF AF ZF SF OF (bits 16-21). */
export const EVERYTHING = 0x3f_ffff
export const STATUS = 0x3f_0000

/** How control goes on behind an instruction by itself. */
export const KIND = {
  next: 0, jump: 1, branch: 2, call: 3, pointerJump: 4, pointerCall: 5, return: 6, trap: 7, unknown: 8,
} as const

/** They give registers to a hypervisor, an enclave or firmware, and go on behind. */
const HANDS_OVER = new Set<Mnemonic>([
  Mnemonic.Vmcall, Mnemonic.Vmmcall, Mnemonic.Tdcall, Mnemonic.Seamcall, Mnemonic.Vmgexit, Mnemonic.Encls, Mnemonic.Enclv,
  Mnemonic.Vmfunc,
])
/** The same, but they may go on elsewhere. */
const GOES_AWAY = new Set<Mnemonic>([
  Mnemonic.Seamops, Mnemonic.Seamret, Mnemonic.Enclu, Mnemonic.Vmlaunch, Mnemonic.Vmresume, Mnemonic.Vmrun, Mnemonic.Getsec,
])
const COUNTED = new Set<Mnemonic>([
  Mnemonic.Rol, Mnemonic.Ror, Mnemonic.Rcl, Mnemonic.Rcr, Mnemonic.Shl, Mnemonic.Sal, Mnemonic.Shr, Mnemonic.Sar, Mnemonic.Shld,
  Mnemonic.Shrd,
])
const FLAG_MAKERS = new Set<Mnemonic>([
  Mnemonic.Popf, Mnemonic.Popfd, Mnemonic.Popfq, Mnemonic.Sahf, Mnemonic.Cmc, Mnemonic.Clc, Mnemonic.Stc,
])

/** iced's flags OF 1, SF 2, ZF 4, AF 8, CF 16, PF 32 -> ours. */
const FLAG_BITS = [21, 20, 19, 18, 16, 17]
const statusSet = (bits: number): number => FLAG_BITS.reduce((set, bit, i) => (bits & (1 << i) ? set | (1 << bit) : set), 0)

/** What one instruction does, by itself. */
export interface Deed {
  readonly kind: number // KIND
  readonly reads: number
  readonly kills: number
  /** What it may write, wholly or in part, always or not. */
  readonly writes: number
  /** It sets flags for someone who comes later, not by calculating. */
  readonly makesFlags: boolean
}

const kindOf = (insn: Instruction): number => {
  if (insn.isInvalid) return KIND.unknown
  if (HANDS_OVER.has(insn.mnemonic)) return KIND.next
  switch (insn.flowControl) {
    case FlowControl.Next: return KIND.next
    case FlowControl.UnconditionalBranch: return insn.isJmpShortOrNear ? KIND.jump : KIND.unknown
    case FlowControl.ConditionalBranch: return KIND.branch
    case FlowControl.Call: return insn.isCallNear ? KIND.call : KIND.unknown
    case FlowControl.IndirectBranch: return insn.isJmpNearIndirect ? KIND.pointerJump : KIND.unknown
    case FlowControl.IndirectCall: return insn.isCallNearIndirect ? KIND.pointerCall : KIND.unknown
    case FlowControl.Return: return insn.mnemonic === Mnemonic.Ret ? KIND.return : KIND.unknown
    case FlowControl.Exception: return KIND.trap
    case FlowControl.Interrupt: return insn.code === Code.Int3 ? KIND.trap : KIND.unknown
    default: return KIND.unknown
  }
}

/** iced's answers, kept by all that they depend on. */
export class Deeds {
  readonly #factory = new InstructionInfoFactory()
  readonly #known = new Map<number, Deed>()

  of(insn: Instruction): Deed {
    const count = insn.opCount
    if (count > 2 && insn.op2Kind === OpKind.Register) return this.#ask(insn)
    let key: number = insn.code
    key = key * 256 + (count > 0 && insn.op0Kind === OpKind.Register ? insn.op0Register : 0)
    key = key * 256 + (count > 1 && insn.op1Kind === OpKind.Register ? insn.op1Register : 0)
    key = key * 256 + insn.memoryBase
    key = key * 256 + insn.memoryIndex
    key = key * 256 + 2 * constantOf(insn, count) + (insn.hasRepPrefix || insn.hasRepnePrefix ? 1 : 0)
    let deed = this.#known.get(key)
    if (deed === undefined) this.#known.set(key, (deed = this.#ask(insn)))
    return deed
  }

  #ask(insn: Instruction): Deed {
    const kind = kindOf(insn)
    const makesFlags = FLAG_MAKERS.has(insn.mnemonic)
    if (kind === KIND.unknown || HANDS_OVER.has(insn.mnemonic) || GOES_AWAY.has(insn.mnemonic)) {
      return { kind, reads: EVERYTHING, kills: 0, writes: EVERYTHING, makesFlags }
    }
    const info = this.#factory.info(insn)
    let reads = statusSet(insn.rflagsRead)
    // A repetition of no rounds and a shift by no places leave the flags alone.
    const last = insn.opCount - 1
    const idle = insn.hasRepPrefix || insn.hasRepnePrefix ||
      (COUNTED.has(insn.mnemonic) && (insn.opKind(last) !== OpKind.Immediate8 || (insn.immediate8 & 31) === 0))
    let writes = statusSet(insn.rflagsModified)
    let kills = idle ? 0 : writes
    for (const used of info.usedRegisters()) {
      const number = fullNumber(used.register)
      if (number >= 0) {
        // A read of unknown kind is a read; only whole registers, written always, are overwritten.
        if (used.access === OpAccess.Write) kills |= used.register >= Register.EAX ? 1 << number : 0
        else if (used.access !== OpAccess.CondWrite) reads |= 1 << number
        if (used.access !== OpAccess.Read && used.access !== OpAccess.CondRead) writes |= 1 << number
      }
      used.free()
    }
    info.free()
    // x - x - carry: the same whatever x is.
    if (insn.mnemonic === Mnemonic.Sbb && insn.op0Kind === OpKind.Register && insn.op0Register === insn.op1Register) {
      const whole = insn.op0Register >= Register.EAX ? 1 << fullNumber(insn.op0Register) : 0
      return { kind, reads: 1 << 16, kills: (kills | whole) & ~(1 << 16), writes, makesFlags }
    }
    return { kind, reads, kills: kills & ~reads, writes, makesFlags }
  }
}

/** Constants matter where iced sees through them: how far a shift goes, and whether `and` clears or `or` fills all. */
const constantOf = (insn: Instruction, count: number): number => {
  const last = count - 1
  if (last <= 0) return 0
  const kind = insn.opKind(last)
  if (kind < OpKind.Immediate8 || kind > OpKind.Immediate32to64) return 0
  const value = Number(BigInt.asIntN(32, insn.immediate(last)))
  if (COUNTED.has(insn.mnemonic)) return 3 + (value & 63)
  return value === 0 ? 1 : value === -1 || value === 0xff || value === 0xffff ? 2 : 0
}
