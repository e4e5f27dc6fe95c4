// What is known of the image while sites are chosen: for every instruction whether its bytes may be overwritten, whether
// it can be moved elsewhere, and how the running kernel's bytes differ. Each question is answered once and remembered.
// Instructions are those of the whole graph, by index.

import { cutFunction, completenessOf, type FunctionGraph } from '../cfg/function.js'
import type { KernelGraph } from '../cfg/graph.js'
import { FLOW } from '../code/instructions.js'
import { effectChangesGs } from '../code/effects.js'
import { agrees, type SecondDecoder } from '../code/second.js'
import { bytesAt, type Image } from '../image/image.js'
import type { Rva } from '../image/rva.js'
import { livenessOf, type KernelLiveness, type Liveness } from '../liveness/live.js'
import { movable, originalOf } from './move.js'
import { codeNumber, CODES, type RefusalCode } from './refusal.js'
import { findReserved, reservedCode } from './reserved.js'
import { RELOC_KIND } from './tables.js'

/** One function, ready to be planned. */
export interface PlannedFunction {
  readonly index: number // in image.functions
  readonly graph: FunctionGraph
  readonly liveness: Liveness
}

/** Answers that are remembered: 0 not asked yet, 1 nothing against it, else 1 + the number of the refusal code. */
const FINE = 1

/** sti, hlt, mwait, monitor, mwaitx, monitorx: none of them is parted from its neighbours. */
const SHADOWED = [[0xfb], [0xf4], [0x0f, 0x01, 0xc9], [0x0f, 0x01, 0xc8], [0x0f, 0x01, 0xfb], [0x0f, 0x01, 0xfa]]

const LONGEST_SHADOWED = 3

const NO_FIELD = 1
const FIELD_ADD = 2 // + 4 * offset
const FIELD_SUB = 3

export class Ground {
  readonly image: Image
  readonly graph: KernelGraph
  readonly live: KernelLiveness
  readonly reserved: Uint8Array
  readonly second: SecondDecoder
  readonly #overwrite: Uint8Array // insn -> answer
  readonly #move: Uint8Array //      insn -> answer
  readonly #field: Uint8Array //     insn -> 0 not asked, NO_FIELD, or kind + 4 * offset of the field that KASLR changes
  #uncertain: Uint8Array | undefined

  constructor(live: KernelLiveness, second: SecondDecoder) {
    this.live = live
    this.graph = live.graph
    this.image = live.graph.image
    this.reserved = findReserved(this.image)
    this.second = second
    this.#overwrite = new Uint8Array(this.graph.insns.count)
    this.#move = new Uint8Array(this.graph.insns.count)
    this.#field = new Uint8Array(this.graph.insns.count)
  }

  /** One function (an index into image.functions), ready to be planned. */
  prepare(index: number): PlannedFunction {
    const graph = cutFunction(this.graph, index)
    return { index, graph, liveness: livenessOf(this.live, graph) }
  }

  start(insn: number): Rva {
    return this.graph.insns.rva[insn]!
  }

  end(insn: number): Rva {
    return this.graph.insns.rva[insn]! + this.graph.insns.length[insn]!
  }

  /**
   * Why an instruction may not be overwritten, or '': the kernel does something else with its bytes, or something jumps
   * into it. Whether the two decoders agree on it is asked last, when it is about to be overwritten: confirms().
   */
  whyNotOverwrite(insn: number): RefusalCode | '' {
    if (this.#overwrite[insn] === 0) this.#overwrite[insn] = FINE + codeNumber(this.#judge(insn))
    return CODES[this.#overwrite[insn]! - FINE]!
  }

  #judge(insn: number): RefusalCode | '' {
    const { image, graph: { insns, targets } } = this
    const start = this.start(insn)
    const end = this.end(insn)
    const code = reservedCode(image, this.reserved, start, end)
    if (code !== '' && code !== 'return-site') return code
    if (insns.flow[insn] === FLOW.invalid) return 'undecodable'
    if (targets.anyInside(start, end)) return 'jump-into'
    if (code !== '') return code
    return this.#isShadowed(start, end) ? 'interrupt-shadow' : ''
  }

  /** Whether the second decoder sees an instruction as the first one does. */
  confirms(insn: number): boolean {
    const { rva, length, flow, target } = this.graph.insns
    const opinion = this.second.decode(rva[insn]!, bytesAt(this.image, rva[insn]!, length[insn]!))
    return agrees(opinion, length[insn]!, flow[insn]!, target[insn]!)
  }

  // sti lets no interrupt in before the instruction behind it has run; sti; hlt and sti; mwait would sleep through one
  // that comes in between (arch/x86/include/asm/irqflags.h, native_safe_halt, 6.1 and 6.12).
  #isShadowed(start: Rva, end: Rva): boolean {
    if (end - start > LONGEST_SHADOWED) return false
    const { text, textStart } = this.image // what is reserved as outside it was refused before
    const at = start - textStart
    for (const form of SHADOWED) {
      if (form[0] === text[at] && form.length === end - start && form.every((byte, k) => byte === text[at + k])) return true
    }
    return false
  }

  /** Why an instruction cannot run anywhere else, or ''. */
  whyNotMove(insn: number): RefusalCode | '' {
    if (this.#move[insn] === 0) {
      const { rva, length, flow, target } = this.graph.insns
      this.#move[insn] = FINE + codeNumber(movable(this.image, rva[insn]!, length[insn]!, flow[insn]!, target[insn]!))
    }
    return CODES[this.#move[insn]! - FINE]!
  }

  /** Offset of the 32-bit field of an instruction that KASLR changes, -1 where there is none. Asked of what can be moved. */
  fieldOffset(insn: number): number {
    if (this.#field[insn] === 0) {
      const original = originalOf(this.image, this.start(insn), this.graph.insns.length[insn]!)
      this.#field[insn] = typeof original === 'string' || original.relocKind === RELOC_KIND.none ? NO_FIELD
        : (original.relocKind === RELOC_KIND.add ? FIELD_ADD : FIELD_SUB) + 4 * original.relocOffset
    }
    const field = this.#field[insn]!
    return field === NO_FIELD ? -1 : field >>> 2
  }

  /** How KASLR changes that field (RELOC_KIND). */
  fieldKind(insn: number): number {
    if (this.fieldOffset(insn) < 0) return RELOC_KIND.none
    return (this.#field[insn]! & 3) === FIELD_ADD ? RELOC_KIND.add : RELOC_KIND.sub
  }

  /** Whether jumps that nobody knows of may come to a block of the graph: its function is incomplete. */
  isUncertain(block: number): boolean {
    this.#uncertain ??= this.#findUncertain()
    return this.#uncertain[block] !== 0
  }

  #findUncertain(): Uint8Array {
    const uncertain = new Uint8Array(this.graph.blockCount)
    for (let f = 0; f < this.image.functions.count; f++) {
      if (completenessOf(this.graph, f) === '') continue
      for (const b of cutFunction(this.graph, f).block) uncertain[b] = 1
    }
    return uncertain
  }
}

/** The instruction of the whole graph that is a function's. */
export const wholeInsn = (ground: Ground, { graph }: PlannedFunction, insn: number): number => {
  const b = graph.blockOfInsn[insn]!
  return ground.graph.blockFirst[graph.block[b]!]! + insn - graph.blockFirst[b]!
}

/** Whether anything in a function may change the GS base. */
export const changesGs = ({ insns: { count, effect } }: FunctionGraph): boolean => {
  for (let i = 0; i < count; i++) if (effectChangesGs[effect[i]!] !== 0) return true
  return false
}
