// The second opinion: Capstone decodes what iced decoded, and the two must agree on length and control flow wherever a
// plan overwrites or moves an instruction. Nothing else is taken from it; its register use is known to be wrong.
//
// A plan of the whole kernel asks millions of times, and the package's own disasm() takes 60 µs, most of them to build
// objects. So cs_disasm is called as it is exported, and struct cs_insn read where it lies (Capstone 5,
// include/capstone/capstone.h): 1 µs. Capstone's numbers for mnemonics say whether the text has to be looked at at all.
// What it says of the same bytes is the same anywhere, but for the place that a target is counted from; so it is asked once.

import { Capstone, Const, loadCapstone } from 'capstone-wasm'
import { assert } from '../error.js'
import { NONE, type Rva } from '../image/rva.js'
import { FLOW } from './instructions.js'
import { InstructionSet, MAX_LENGTH } from './instructionset.js'

export interface SecondOpinion {
  readonly length: number //   0: does not decode
  readonly flow: number //     FLOW; every system instruction and trap is `system` here
  readonly target: Rva //      of a direct transfer, or NONE
}

/** What the object that the package fills holds, as far as it is used. */
interface Exports {
  HEAPU8: Uint8Array
  HEAPU32: Uint32Array
  _malloc(bytes: number): number
  _cs_disasm(handle: number, code: number, bytes: number, address: bigint, count: number, found: number): number
  _cs_free(insns: number, count: number): void
}

// struct cs_insn
const SIZE_AT = 16
const MNEMONIC_AT = 42
const OPERANDS_AT = 74
const END_AT = 234

/** Far from both ends of the addresses, so that nothing wraps. */
const PLACE = 0x4000_0000_0000n

/** More instructions than a plan asks about, some three hundred thousand: what was said of so many is forgotten. */
const MAX_ASKED = 1 << 20

const JUMPS = new Set(['jmp', 'ljmp', 'notrack jmp', 'bnd jmp'])
const SYSTEM = /^(int|int1|int3|into|ud0|ud1|ud2|ud2b|syscall|sysret|sysretq|sysenter|sysexit|iret|iretd|iretq|retf|retfq|xbegin|lcall|vmcall|vmmcall|vmlaunch|vmresume|hlt)$/
const TRANSFER = /^(bnd |notrack )?(j|loop|call|ret|ljmp)/

const INVALID: SecondOpinion = { length: 0, flow: FLOW.invalid, target: NONE }

// The package loads itself once in a process. What its types leave out: the factory fills the object that it is given.
let loading: Promise<Exports> | undefined
const loadExports = async (): Promise<Exports> => {
  const raw = {}
  await (loadCapstone as unknown as (filled: object) => Promise<void>)(raw)
  return raw as Exports
}

export class SecondDecoder {
  readonly #raw: Exports
  readonly #handle: number
  readonly #code: number //  where bytes are put
  readonly #found: number // where cs_disasm puts the address of what it found
  /** Capstone's number of a mnemonic -> whether it always goes on to the next instruction. */
  readonly #plain = new Map<number, boolean>()
  #asked = new InstructionSet()
  #answers: SecondOpinion[] = [] // number in #asked -> what #ask said
  /** length -> the opinion that it is a plain instruction of that length: made once. */
  readonly #next: readonly SecondOpinion[] =
    Array.from({ length: MAX_LENGTH + 1 }, (_, length) => ({ length, flow: FLOW.next, target: NONE }))

  private constructor(raw: Exports, handle: number) {
    this.#raw = raw
    this.#handle = handle
    this.#code = raw._malloc(MAX_LENGTH + 1)
    this.#found = raw._malloc(4)
    // jmp to itself: another version of the package may lay struct cs_insn out in another way.
    const { length, flow, target } = this.decode(16, Uint8Array.of(0xeb, 0xfe))
    assert(length === 2 && flow === FLOW.jump && target === 16, 'struct cs_insn is as it was')
  }

  static async load(): Promise<SecondDecoder> {
    loading ??= loadExports()
    const raw = await loading
    const engine = new Capstone(Const.CS_ARCH_X86, Const.CS_MODE_64) as unknown as { readonly handle: number }
    return new SecondDecoder(raw, engine.handle)
  }

  #text(start: number, end: number): string {
    const { HEAPU8 } = this.#raw
    let text = ''
    for (let at = start; at < end && HEAPU8[at] !== 0; at++) text += String.fromCharCode(HEAPU8[at]!)
    return text
  }

  /** Decodes the first instruction of `bytes`, which lies at `rva`. */
  decode(rva: Rva, bytes: Uint8Array): SecondOpinion {
    const given = Math.min(bytes.length, MAX_LENGTH)
    const number = this.#asked.numberOf(bytes, 0, given)
    if (number === this.#answers.length) this.#answers.push(this.#ask(bytes, given))
    const answer = this.#answers[number]!
    if (this.#answers.length === MAX_ASKED) this.#forget()
    if (answer.target === NONE) return answer
    const target = rva + answer.target
    return { length: answer.length, flow: answer.flow, target: target >= 0 && target < NONE ? target : NONE }
  }

  #forget(): void {
    this.#asked = new InstructionSet()
    this.#answers = []
  }

  /** What is said of bytes, wherever they lie: a target is a distance from there. */
  #ask(bytes: Uint8Array, given: number): SecondOpinion {
    const raw = this.#raw
    for (let i = 0; i < given; i++) raw.HEAPU8[this.#code + i] = bytes[i]!
    if (raw._cs_disasm(this.#handle, this.#code, given, PLACE, 1, this.#found) !== 1) return INVALID
    const insn = raw.HEAPU32[this.#found >>> 2]!
    const answer = this.#read(insn)
    raw._cs_free(insn, 1)
    return answer
  }

  /** @param at where a struct cs_insn lies */
  #read(at: number): SecondOpinion {
    const { HEAPU8, HEAPU32 } = this.#raw
    const length = HEAPU8[at + SIZE_AT]!
    const id = HEAPU32[at >>> 2]!
    const plain = this.#plain.get(id)
    if (plain) return this.#next[length]!
    const name = this.#text(at + MNEMONIC_AT, at + OPERANDS_AT)
    if (plain === undefined) {
      this.#plain.set(id, !TRANSFER.test(name) && !SYSTEM.test(name))
      if (this.#plain.get(id)) return this.#next[length]!
    }
    const operands = this.#text(at + OPERANDS_AT, at + END_AT)
    const direct = /^0x[0-9a-f]+$/.test(operands)
    let flow: number = FLOW.next
    if (JUMPS.has(name)) flow = direct ? FLOW.jump : name === 'ljmp' ? FLOW.system : FLOW.indirectJump
    else if (/^(bnd )?ret$/.test(name)) flow = FLOW.return
    else if (/^(bnd |notrack )?call$/.test(name)) flow = direct ? FLOW.call : FLOW.indirectCall
    else if (/^(bnd )?(j|loop)/.test(name)) flow = FLOW.branch
    else if (SYSTEM.test(name)) flow = FLOW.system
    const transfers = direct && (flow === FLOW.jump || flow === FLOW.call || flow === FLOW.branch)
    return { length, flow, target: transfers ? Number(BigInt(operands) - PLACE) : NONE }
  }
}

/** Whether the second decoder confirms length, kind of flow and target of an instruction. */
export const agrees = (second: SecondOpinion, length: number, flow: number, target: Rva): boolean => {
  const kind = flow === FLOW.trap ? FLOW.system : flow
  return second.length === length && second.flow === kind && second.target === target
}
