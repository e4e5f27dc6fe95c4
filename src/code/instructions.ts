// Instructions of some ranges of code, as a table: what the control flow and the liveness stages need to know of each.
// The decoder is iced-x86; what it says is taken over except where it is known to say too much (see `effects`).
// Left out: operands. Who moves an instruction decodes it again (splice/relocate.ts).

import {
  Code, Decoder, DecoderOptions, FlowControl, Instruction, InstructionInfoFactory, Mnemonic, OpAccess, OpKind, Register,
} from 'iced-x86'
import { NONE, type Rva } from '../image/rva.js'
import { AF, ALL, CF, OF, PF, SF, ZF, type RegisterSet } from './registers.js'

/** How an instruction hands on control. */
export const FLOW = {
  next: 0,
  jump: 1, //         direct, unconditional
  branch: 2, //       direct, conditional: jcc, loop, jrcxz
  call: 3, //         direct
  indirectJump: 4,
  indirectCall: 5,
  return: 6, //       ret (near); iret and sysret are `system`
  trap: 7, //         ud0, ud1, ud2, int3
  system: 8, //       syscall, iret, int n, xbegin, far transfers: nothing is known
  invalid: 9, //      does not decode
} as const

export interface Instructions {
  readonly count: number
  readonly rva: Uint32Array //    insn -> rva, ascending within a range
  readonly length: Uint8Array //  insn -> bytes
  readonly flow: Uint8Array //    insn -> FLOW
  readonly target: Uint32Array // insn -> rva that a direct transfer goes to, or NONE
  readonly reads: Uint32Array //  insn -> register set that it may read
  readonly kills: Uint32Array //  insn -> register set that it certainly overwrites, whole and always
  readonly writes: Uint32Array // insn -> register set that it may change
  readonly changesGs: Uint8Array // insn -> 1 when it may change the GS base, through which counters are reached
}

/** A range of code: bytes[0] lies at `start`. */
export interface CodeRange {
  readonly start: Rva
  readonly bytes: Uint8Array
}

// iced's IP is 64 bits. Rvas are decoded at this base, so that a target below rva 0 (a per-CPU address, say) or above
// 4 GiB is seen to lie outside and becomes NONE.
const IP_BASE = 0x4000_0000_0000n

const targetOf = (insn: Instruction): Rva => {
  const offset = insn.nearBranchTarget - IP_BASE
  return offset >= 0n && offset < 0xffffffffn ? Number(offset) : NONE
}

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

const flowOf = (insn: Instruction): number => {
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

const GS_CHANGERS = new Set<Mnemonic>([Mnemonic.Swapgs, Mnemonic.Wrgsbase, Mnemonic.Lgs, Mnemonic.Lkgs])

/** Fills reads, kills, writes and changesGs of one instruction into `ret`. */
const effects = (factory: InstructionInfoFactory, insn: Instruction, flow: number, ret: Uint32Array): void => {
  if (flow === FLOW.system || flow === FLOW.invalid || OPAQUE.has(insn.mnemonic)) {
    ret[0] = ALL
    ret[1] = 0
    ret[2] = ALL
    ret[3] = 0
    return
  }
  const info = factory.info(insn)
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
  ret[0] = reads
  ret[1] = kills & ~reads
  ret[2] = writes
  ret[3] = changesGs
}

/**
 * Decodes the ranges from first to last byte. Bytes that do not decode become one-byte instructions of flow `invalid`,
 * which read everything.
 */
export const decodeRanges = (ranges: readonly CodeRange[]): Instructions => {
  let bound = 0
  for (const range of ranges) bound += range.bytes.length
  const rva = new Uint32Array(bound)
  const length = new Uint8Array(bound)
  const flow = new Uint8Array(bound)
  const target = new Uint32Array(bound)
  const reads = new Uint32Array(bound)
  const kills = new Uint32Array(bound)
  const writes = new Uint32Array(bound)
  const changesGs = new Uint8Array(bound)
  const effect = new Uint32Array(4)
  const factory = new InstructionInfoFactory()
  const insn = new Instruction()
  let count = 0
  for (const range of ranges) {
    const decoder = new Decoder(64, range.bytes, DecoderOptions.None)
    let offset = 0
    while (offset < range.bytes.length) {
      decoder.position = offset
      decoder.ip = IP_BASE + BigInt(range.start + offset)
      decoder.decodeOut(insn)
      const valid = !insn.isInvalid
      const kind = valid ? flowOf(insn) : FLOW.invalid
      effects(factory, insn, kind, effect)
      rva[count] = range.start + offset
      length[count] = valid ? insn.length : 1
      flow[count] = kind
      target[count] = kind === FLOW.jump || kind === FLOW.branch || kind === FLOW.call ? targetOf(insn) : NONE
      reads[count] = effect[0]!
      kills[count] = effect[1]!
      writes[count] = effect[2]!
      changesGs[count] = effect[3]!
      offset += length[count]!
      count++
    }
    decoder.free()
  }
  insn.free()
  factory.free()
  return {
    count,
    rva: rva.slice(0, count),
    length: length.slice(0, count),
    flow: flow.slice(0, count),
    target: target.slice(0, count),
    reads: reads.slice(0, count),
    kills: kills.slice(0, count),
    writes: writes.slice(0, count),
    changesGs: changesGs.slice(0, count),
  }
}

/** Calls `visit(from, to)` for every direct jump, branch and call of a range: a decode without effects, for sweeps. */
export const visitTransfers = (range: CodeRange, visit: (from: Rva, to: Rva) => void): void => {
  const decoder = new Decoder(64, range.bytes, DecoderOptions.None)
  decoder.ip = IP_BASE + BigInt(range.start)
  const insn = new Instruction()
  while (decoder.canDecode) {
    const at = decoder.position
    decoder.decodeOut(insn)
    if (insn.isInvalid) {
      decoder.position = at + 1
      decoder.ip = IP_BASE + BigInt(range.start + at + 1)
      continue
    }
    switch (insn.flowControl) {
      case FlowControl.UnconditionalBranch:
      case FlowControl.ConditionalBranch:
      case FlowControl.Call:
      case FlowControl.XbeginXabortXend: {
        const to = targetOf(insn)
        if (to !== NONE) visit(range.start + at, to)
      }
    }
  }
  insn.free()
  decoder.free()
}
