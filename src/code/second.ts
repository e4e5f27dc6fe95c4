// The second opinion: Capstone decodes what iced decoded, and the two must agree on length and control flow wherever a
// plan overwrites or moves an instruction. Nothing else is taken from it; its register use is known to be wrong.

import { Capstone, Const, loadCapstone, type Insn } from 'capstone-wasm'
import { NONE, type Rva } from '../image/rva.js'
import { FLOW } from './instructions.js'

export interface SecondOpinion {
  readonly length: number //   0: does not decode
  readonly flow: number //     FLOW; every system instruction and trap is `system` here
  readonly target: Rva //      of a direct transfer, or NONE
}

const IP_BASE = 0x4000_0000_0000n

const JUMPS = new Set(['jmp', 'ljmp', 'notrack jmp', 'bnd jmp'])
const SYSTEM = /^(int|int1|int3|into|ud0|ud1|ud2|ud2b|syscall|sysret|sysretq|sysenter|sysexit|iret|iretd|iretq|retf|retfq|xbegin|lcall|vmcall|vmmcall|vmlaunch|vmresume|hlt)$/

export class SecondDecoder {
  readonly #engine: Capstone

  private constructor(engine: Capstone) {
    this.#engine = engine
  }

  static async load(): Promise<SecondDecoder> {
    await loadCapstone()
    return new SecondDecoder(new Capstone(Const.CS_ARCH_X86, Const.CS_MODE_64))
  }

  // The package throws where nothing decodes.
  #first(rva: Rva, bytes: Uint8Array): Insn | undefined {
    try {
      return this.#engine.disasm(bytes, { address: IP_BASE + BigInt(rva), count: 1 })[0]
    } catch {
      return undefined
    }
  }

  /** Decodes the first instruction of `bytes`, which lies at `rva`. */
  decode(rva: Rva, bytes: Uint8Array): SecondOpinion {
    const insn = this.#first(rva, bytes)
    if (insn === undefined) return { length: 0, flow: FLOW.invalid, target: NONE }
    const name = insn.mnemonic
    const direct = /^0x[0-9a-f]+$/.test(insn.opStr)
    const offset = direct ? BigInt(insn.opStr) - IP_BASE : -1n
    const target = offset >= 0n && offset < 0xffffffffn ? Number(offset) : NONE
    let flow: number = FLOW.next
    if (JUMPS.has(name)) flow = direct ? FLOW.jump : name === 'ljmp' ? FLOW.system : FLOW.indirectJump
    else if (/^(bnd )?ret$/.test(name)) flow = FLOW.return
    else if (/^(bnd |notrack )?call$/.test(name)) flow = direct ? FLOW.call : FLOW.indirectCall
    else if (/^(bnd )?(j|loop)/.test(name)) flow = FLOW.branch
    else if (SYSTEM.test(name)) flow = FLOW.system
    const transfers = flow === FLOW.jump || flow === FLOW.call || flow === FLOW.branch
    return { length: insn.size, flow, target: transfers ? target : NONE }
  }
}

/** Whether the second decoder confirms length, kind of flow and target of an instruction. */
export const agrees = (second: SecondOpinion, length: number, flow: number, target: Rva): boolean => {
  const kind = flow === FLOW.trap ? FLOW.system : flow
  return second.length === length && second.flow === kind && second.target === target
}
