// What is kept of an instruction, as FACT_WORDS integers, and how iced-x86 is asked for it. iced is trusted except where
// it is known to say too much (`mayKeepFlags`, `spreadsCarry`) or too little (`OPAQUE`).
// Lengths and places count from the opcode on, without the prefixes, which no other fact here depends on once the key
// (key.ts) is equal. Left out: operands, and whatever no later stage asks for.
//
// A flag that an instruction leaves undefined (SDM volume 1, appendix A) counts as overwritten, though a processor may
// leave it as it was: division does on some. What such a flag was before matters only to code that reads it afterwards,
// and that code would do one thing on one processor and another on the next, which no kernel that runs on both can mean.
// (To count them as kept instead costs 1.35 of 86.2 points of the instructions before which flags are free; 6.1.)

import {
  Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
} from './iced.js'
import { FLOW } from './flow.js'
import { AF, ALL, CF, OF, PF, SF, ZF, type RegisterSet } from './registers.js'

/** The longest instruction, in bytes. */
export const MAX_INSN_BYTES = 15

// An instruction's facts:
//   word 0  reads: register set, bits 0-21
//   word 1  kills: register set, bits 0-21
//   word 2  bits 0-21 writes: register set; bits 22-25 FLOW; bit 26 may change the GS base
//   word 3  bits 0-3 length; bits 4-6 bytes of a direct transfer's displacement (0: none), which ends the instruction;
//           bits 8-11 place of a rip-relative displacement (0: none). 0 as a whole: no facts.
export const FACT_WORDS = 4
export const FLOW_SHIFT = 22
export const FLOW_MASK = 15
export const GS_SHIFT = 26
export const LENGTH_MASK = 15
export const REL_SHIFT = 4
export const REL_MASK = 7
export const RIP_SHIFT = 8
export const RIP_MASK = 15

// Instructions that hand registers to someone whom iced does not know: a hypervisor, an enclave, firmware. The first
// ones come back to the next instruction.
const RESUMING = [
  Mnemonic.Vmcall, Mnemonic.Vmmcall, Mnemonic.Tdcall, Mnemonic.Seamcall, Mnemonic.Vmgexit, Mnemonic.Encls,
  Mnemonic.Enclv, Mnemonic.Vmfunc,
] as const
const RESUMES = new Set<Mnemonic>(RESUMING)
const OPAQUE = new Set<Mnemonic>([
  ...RESUMING, Mnemonic.Seamops, Mnemonic.Seamret, Mnemonic.Enclu, Mnemonic.Vmlaunch, Mnemonic.Vmresume, Mnemonic.Vmrun,
  Mnemonic.Getsec,
])

/** FLOW of what iced decoded. */
export const flowOf = (insn: Instruction): number => {
  if (insn.isInvalid) return FLOW.invalid
  if (RESUMES.has(insn.mnemonic)) return FLOW.next
  switch (insn.flowControl) {
    case FlowControl.Next: return FLOW.next
    case FlowControl.UnconditionalBranch: return insn.isJmpShortOrNear ? FLOW.jump : FLOW.system
    case FlowControl.ConditionalBranch: return FLOW.branch
    case FlowControl.Call: return insn.isCallNear ? FLOW.call : FLOW.system
    case FlowControl.IndirectBranch: return insn.isJmpNearIndirect ? FLOW.indirectJump : FLOW.system
    case FlowControl.IndirectCall: return insn.isCallNearIndirect ? FLOW.indirectCall : FLOW.system
    case FlowControl.Return:
      return insn.mnemonic === Mnemonic.Ret ? FLOW.return : FLOW.system
    case FlowControl.Exception: return FLOW.trap
    case FlowControl.Interrupt: return insn.code === Code.Int3 ? FLOW.trap : FLOW.system
    default: return FLOW.system
  }
}

// iced's RflagsBits: OF 1, SF 2, ZF 4, AF 8, CF 16, PF 32; the others are not tracked.
const flagSet = (bits: number): RegisterSet =>
  (bits & 1 ? OF : 0) | (bits & 2 ? SF : 0) | (bits & 4 ? ZF : 0) |
  (bits & 8 ? AF : 0) | (bits & 16 ? CF : 0) | (bits & 32 ? PF : 0)

// iced's Register numbers: AL..BH 1..8 (AH..BH are 5..8), SPL..R15L 9..20, 16-bit 21..36, 32-bit 37..52, 64-bit 53..68.
const gprBit = (register: number): RegisterSet => {
  if (register < 1 || register > 68) return 0
  if (register <= 4) return 1 << (register - 1)
  if (register <= 8) return 1 << (register - 5)
  if (register <= 20) return 1 << (register - 5)
  return 1 << ((register - 21) & 15)
}
const isWide = (register: number): boolean => register >= 37 && register <= 68

const SHIFTS = new Set<Mnemonic>([
  Mnemonic.Rol, Mnemonic.Ror, Mnemonic.Rcl, Mnemonic.Rcr, Mnemonic.Shl, Mnemonic.Sal, Mnemonic.Shr, Mnemonic.Sar,
  Mnemonic.Shld, Mnemonic.Shrd,
])

// A shift by CL, or by an immediate of 0 after masking, may leave the flags alone.
const mayKeepFlags = (insn: Instruction): boolean => {
  if (insn.hasRepPrefix || insn.hasRepnePrefix) return true // a string instruction with a count of zero
  if (!SHIFTS.has(insn.mnemonic)) return false
  const last = insn.opCount - 1
  return insn.opKind(last) !== OpKind.Immediate8 || (insn.immediate8 & 0x1f) === 0
}

/** sbb of a register with itself: what the register held makes no difference, only the carry does. */
const spreadsCarry = (insn: Instruction): boolean =>
  insn.mnemonic === Mnemonic.Sbb && insn.op1Kind === OpKind.Register && insn.op0Kind === OpKind.Register &&
  insn.op0Register === insn.op1Register

const GS_CHANGERS = new Set<Mnemonic>([Mnemonic.Swapgs, Mnemonic.Wrgsbase, Mnemonic.Lgs, Mnemonic.Lkgs])

/** iced, asked for the facts of one instruction at a time. Lives as long as the process. */
export class IcedFacts {
  readonly #factory = new InstructionInfoFactory()
  readonly #insn = new Instruction()

  /**
   * Writes the facts of the instruction at `at` to ret[row...], its length counted from `opcodeAt` (at least `at`).
   * Bytes that do not decode before `end` become one byte of flow `invalid`, which reads and may write everything.
   * @returns whether it decodes
   */
  read(bytes: Uint8Array, at: number, end: number, opcodeAt: number, ret: Int32Array, row: number): boolean {
    const decoder = new Decoder(64, bytes.subarray(at, Math.min(at + MAX_INSN_BYTES, end)), DecoderOptions.None)
    const insn = this.#insn
    decoder.decodeOut(insn)
    const flow = flowOf(insn)
    const valid = flow !== FLOW.invalid
    let shape = 1
    if (valid) {
      const head = opcodeAt - at
      shape = insn.length - head
      const constants = decoder.getConstantOffsets(insn)
      if (flow === FLOW.jump || flow === FLOW.branch || flow === FLOW.call || insn.code === Code.Xbegin_rel16 ||
        insn.code === Code.Xbegin_rel32) shape |= constants.immediateSize << REL_SHIFT
      if (insn.isIpRelMemoryOperand) shape |= (constants.displacementOffset - head) << RIP_SHIFT
      constants.free()
    }
    this.#effects(flow, ret, row)
    ret[row + 3] = shape
    decoder.free()
    return valid
  }

  #effects(flow: number, ret: Int32Array, row: number): void {
    const insn = this.#insn
    if (flow === FLOW.system || flow === FLOW.invalid || OPAQUE.has(insn.mnemonic)) {
      ret[row] = ALL
      ret[row + 1] = 0
      ret[row + 2] = ALL | (flow << FLOW_SHIFT)
      return
    }
    const info = this.#factory.info(insn)
    let reads = flagSet(insn.rflagsRead)
    let writes = flagSet(insn.rflagsModified)
    let kills = mayKeepFlags(insn) ? 0 : writes
    let changesGs = GS_CHANGERS.has(insn.mnemonic) ? 1 : 0
    for (const used of info.usedRegisters()) {
      const bit = gprBit(used.register)
      switch (used.access) {
        case OpAccess.Write:
          if (used.register === Register.GS) changesGs = 1
          writes |= bit
          if (isWide(used.register)) kills |= bit
          break
        case OpAccess.CondWrite:
          writes |= bit
          break
        case OpAccess.ReadWrite:
        case OpAccess.ReadCondWrite:
          reads |= bit
          writes |= bit
          break
        default:
          reads |= bit
      }
      used.free()
    }
    info.free()
    if (spreadsCarry(insn)) {
      reads = CF
      if (isWide(insn.op0Register)) kills |= gprBit(insn.op0Register)
    }
    ret[row] = reads
    ret[row + 1] = kills & ~reads
    ret[row + 2] = writes | (flow << FLOW_SHIFT) | (changesGs << GS_SHIFT)
  }
}
