// What the plan checker has to know of an instruction, from its bytes alone and as both decoders see it. The answer for
// the same bytes is the same anywhere, so each is asked for once.
// Left out: all that the planner knows of instructions. The two share no code.

import { Decoder, DecoderOptions, FlowControl, Mnemonic, OpKind, Register } from '../code/iced.js'
import { FLOW } from '../code/instructions.js'
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

const MAX_LENGTH = 15

/** Of the table of opinions, when it is new: room for half as many. */
const FIRST_BUCKETS = 1 << 12

/** FNV-1a over bytes [at, end). */
const hash = (bytes: Uint8Array, at: number, end: number): number => {
  let h = 0x811c9dc5
  for (let i = at; i < end; i++) h = Math.imul(h ^ bytes[i]!, 0x01000193)
  return h ^ (h >>> 15)
}

export class Opinions {
  readonly #second: SecondDecoder
  // A hash table of bytes, with open addressing: a plan asks two million times, and a string to ask for was most of it.
  readonly #known: Opinion[] = []
  #bytes = new Uint8Array((MAX_LENGTH * FIRST_BUCKETS) / 2) // MAX_LENGTH * entry of #known -> its instruction
  #bucket = new Uint32Array(FIRST_BUCKETS) //                  hash -> 1 + entry of #known, or 0

  constructor(second: SecondDecoder) {
    this.#second = second
  }

  /** The instruction that fills bytes[at..at + length), or undefined where the two decoders do not both see one. */
  of(bytes: Uint8Array, at: number, length: number): Opinion | undefined {
    if (length > MAX_LENGTH) return undefined
    const bucket = this.#find(bytes, at, length)
    const entry = this.#bucket[bucket]!
    if (entry > 0) return this.#known[entry - 1]
    const opinion = this.#ask(bytes.slice(at, at + length))
    if (opinion === undefined) return undefined
    this.#bytes.set(bytes.subarray(at, at + length), MAX_LENGTH * this.#known.length)
    this.#known.push(opinion)
    this.#bucket[bucket] = this.#known.length
    if (2 * this.#known.length === this.#bucket.length) this.#grow()
    return opinion
  }

  /** The bucket of an instruction: the one that holds it, or the empty one where it belongs. */
  #find(bytes: Uint8Array, at: number, length: number): number {
    const mask = this.#bucket.length - 1
    for (let bucket = hash(bytes, at, at + length) & mask; ; bucket = (bucket + 1) & mask) {
      const entry = this.#bucket[bucket]!
      if (entry === 0 || this.#holds(entry - 1, bytes, at, length)) return bucket
    }
  }

  #holds(entry: number, bytes: Uint8Array, at: number, length: number): boolean {
    if (this.#known[entry]!.length !== length) return false
    const from = MAX_LENGTH * entry
    for (let i = 0; i < length; i++) if (this.#bytes[from + i] !== bytes[at + i]) return false
    return true
  }

  #grow(): void {
    const bytes = new Uint8Array(2 * this.#bytes.length)
    bytes.set(this.#bytes)
    this.#bytes = bytes
    this.#bucket = new Uint32Array(2 * this.#bucket.length)
    for (let entry = 0; entry < this.#known.length; entry++) {
      this.#bucket[this.#find(bytes, MAX_LENGTH * entry, this.#known[entry]!.length)] = entry + 1
    }
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
