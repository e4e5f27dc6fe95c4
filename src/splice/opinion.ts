// What the plan checker has to know of an instruction, from its bytes alone and as both decoders see it. The answer for
// the same bytes is the same anywhere, so each is asked for once.
// Left out: all that the planner knows of instructions. The two share no code.

import { Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register } from '../code/iced.js'
import { FLOW } from '../code/instructions.js'
import { InstructionSet, MAX_LENGTH } from '../code/instructionset.js'
import type { SecondDecoder } from '../code/second.js'

export interface Opinion {
  readonly length: number
  readonly mnemonic: Mnemonic
  readonly flow: number //      FLOW, as far as it matters where an instruction is moved
  readonly register: number //  the 64-bit register of its first operand, by encoding number, or -1
  readonly ripAt: number //     offset of the displacement of a rip-relative operand, or -1
  readonly isGs: boolean //     whether that operand is in the GS segment
  readonly jumpAt: number //    offset of the displacement of a direct transfer, or -1
  readonly jumpSize: number //  its bytes
}

const FLOW_OF: Readonly<Record<number, number>> = {
  [FlowControl.Next]: FLOW.next,
  [FlowControl.UnconditionalBranch]: FLOW.jump,
  [FlowControl.IndirectBranch]: FLOW.indirectJump,
  [FlowControl.ConditionalBranch]: FLOW.branch,
  [FlowControl.Return]: FLOW.return,
  [FlowControl.Call]: FLOW.call,
  [FlowControl.IndirectCall]: FLOW.indirectCall,
}

// Any place will do, since only distances are of interest; this one is far from both ends of the addresses.
const PLACE = 0x4000_0000

export class Opinions {
  readonly #second: SecondDecoder
  readonly #asked = new InstructionSet()
  readonly #known: (Opinion | undefined)[] = [] // number in #asked -> what of() says

  constructor(second: SecondDecoder) {
    this.#second = second
  }

  /** The instruction that fills bytes[at..at + length), or undefined where the two decoders do not both see one. */
  of(bytes: Uint8Array, at: number, length: number): Opinion | undefined {
    if (length > MAX_LENGTH) return undefined
    const number = this.#asked.numberOf(bytes, at, length)
    if (number === this.#known.length) this.#known.push(this.#ask(bytes.slice(at, at + length)))
    return this.#known[number]
  }

  /** The length of the instruction at bytes[at...], as the first decoder sees it; 0 where it sees none. */
  lengthAt(bytes: Uint8Array, at: number): number {
    const decoder = new Decoder(64, bytes.slice(at, at + 15), DecoderOptions.None)
    const insn = decoder.decode()
    const length = insn.isInvalid ? 0 : insn.length
    insn.free()
    decoder.free()
    return length
  }

  #ask(bytes: Uint8Array): Opinion | undefined {
    const decoder = new Decoder(64, bytes, DecoderOptions.None)
    decoder.ip = BigInt(PLACE)
    const insn = decoder.decode()
    const offsets = decoder.getConstantOffsets(insn)
    try {
      const second = this.#second.decode(PLACE, bytes)
      if (insn.isInvalid || insn.length !== bytes.length || second.length !== bytes.length) return undefined
      const flow = FLOW_OF[insn.flowControl] ?? FLOW.system
      // What both call a transfer, to the same place, and what both do not.
      const direct = flow === FLOW.jump || flow === FLOW.branch || flow === FLOW.call
      if (second.flow !== flow && (flow !== FLOW.system || second.flow === FLOW.next)) return undefined
      if (direct && Number(insn.nearBranchTarget) !== second.target) return undefined
      const first = insn.opCount > 0 && insn.op0Kind === OpKind.Register ? insn.op0Register : Register.None
      return {
        length: insn.length,
        mnemonic: insn.mnemonic,
        flow,
        register: first >= Register.RAX && first <= Register.R15 ? first - Register.RAX : -1,
        ripAt: insn.isIpRelMemoryOperand ? offsets.displacementOffset : -1,
        isGs: insn.memorySegment === Register.GS,
        jumpAt: direct ? offsets.immediateOffset : -1,
        jumpSize: direct ? offsets.immediateSize : 0,
      }
    } finally {
      offsets.free()
      insn.free()
      decoder.free()
    }
  }
}
