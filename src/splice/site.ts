// Whether and how one instruction can be spliced, and what a probe there costs. The tactics, cheapest first:
//
//   retarget-call     call F            the call's displacement goes to the patch, which ends in jmp F; the return
//                                       address is the natural one
//   retarget-jump     jmp T             likewise, ends in jmp T
//   return            jmp return_thunk  a return site: what the kernel made of it at boot ends the patch
//   retarget-branch   jcc T             the taken edge goes to the patch, which ends in jmp T: counts taken edges only
//   jump-over         5 bytes or more   jmp to the patch, which runs the moved instruction and jumps back

import { equivalentBlocks } from '../cfg/equivalent.js'
import { cutFunction, type FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import { effectChangesGs } from '../code/effects.js'
import { FLOW } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import { agrees, type SecondDecoder } from '../code/second.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { livenessOf, type KernelLiveness, type Liveness } from '../liveness/live.js'
import { counterCost } from './counter.js'
import { move, originalOf } from './move.js'
import { CODES, type RefusalCode } from './refusal.js'
import { reservedCode } from './reserved.js'

export type Tactic = 'retarget-call' | 'retarget-jump' | 'return' | 'retarget-branch' | 'jump-over'

/** One function, ready to be planned. */
export interface PlannedFunction {
  readonly index: number // in image.functions
  readonly graph: FunctionGraph
  readonly liveness: Liveness
}

/** Where and how to count. */
export interface Splice {
  readonly fn: PlannedFunction
  readonly insn: number //     index in fn.graph.insns
  readonly tactic: Tactic
  readonly live: RegisterSet // what the counting code must leave alone
  readonly cost: number //     instructions added per hit
}

/** No splice adds fewer instructions: a redirected transfer, a pointer, an increment, where nothing has to be saved. */
const LEAST_COST = 3

/** What is known of the whole image while sites are chosen. */
export interface Ground {
  readonly image: Image
  readonly live: KernelLiveness
  readonly reserved: Uint8Array
  readonly second: SecondDecoder
}

/** One function (an index into image.functions), ready to be planned. */
export const prepareFunction = ({ live }: Pick<Ground, 'live'>, index: number): PlannedFunction => {
  const graph = cutFunction(live.graph, index)
  return { index, graph, liveness: livenessOf(live, graph) }
}

const nearForm = (bytes: Uint8Array, flow: number): boolean =>
  (flow === FLOW.call && bytes[0] === 0xe8) || (flow === FLOW.jump && bytes[0] === 0xe9) ||
  (flow === FLOW.branch && bytes[0] === 0x0f && (bytes[1]! & 0xf0) === 0x80)

/** A splice that counts every run of one instruction, or why there is none. */
export const spliceBefore = (ground: Ground, fn: PlannedFunction, insn: number): Splice | RefusalCode => {
  const { image, reserved } = ground
  const { insns } = fn.graph
  const rva = insns.rva[insn]!
  const length = insns.length[insn]!
  const flow = insns.flow[insn]!
  const live = fn.liveness.liveIn[insn]!
  const make = (tactic: Tactic, jumps: number): Splice => ({ fn, insn, tactic, live, cost: counterCost(live) + jumps })
  const code = reservedCode(image, reserved, rva, rva + length)
  if (code === 'return-site' && length === 5 && isReturnSite(image, rva) && fn.graph.blockEnd[fn.graph.blockOfInsn[insn]!]! & END.return) {
    return make('return', 1)
  }
  const blocked = code || checkInstruction(ground, fn.graph, insn)
  if (blocked) return blocked
  if (length < 5) return 'too-short'
  const bytes = bytesAt(image, rva, length)
  if (length === 5 && nearForm(bytes, flow) && flow !== FLOW.branch) {
    if (insns.target[insn]! >= image.imageBytes) return 'out-of-range'
    return make(flow === FLOW.call ? 'retarget-call' : 'retarget-jump', 1)
  }
  const original = originalOf(image, rva, length)
  if (typeof original === 'string') return original
  const moved = move(image, rva, length, flow, insns.target[insn]!)
  if (typeof moved === 'string') return moved
  return make('jump-over', flow === FLOW.indirectJump ? 1 : 2)
}

/** A splice that counts the taken edge of a conditional jump, or why there is none. */
export const spliceTaken = (ground: Ground, fn: PlannedFunction, insn: number): Splice | RefusalCode => {
  const { image, reserved } = ground
  const { insns } = fn.graph
  const rva = insns.rva[insn]!
  const length = insns.length[insn]!
  const blocked = reservedCode(image, reserved, rva, rva + length) || checkInstruction(ground, fn.graph, insn)
  if (blocked) return blocked
  if (insns.flow[insn] !== FLOW.branch || length !== 6 || !nearForm(bytesAt(image, rva, length), FLOW.branch)) return 'too-short'
  const target = insns.target[insn]!
  if (target >= image.imageBytes) return 'out-of-range'
  const inside = indexOf(insns.rva, target)
  const live = inside >= 0 ? fn.liveness.liveIn[inside]! : fn.liveness.liveAway[insn]!
  return { fn, insn, tactic: 'retarget-branch', live, cost: counterCost(live) + 1 }
}

const isReturnSite = (image: Image, rva: Rva): boolean => indexOf(image.tables.returnSites, rva) >= 0

// What holds for every tactic: both decoders agree, and nothing jumps into the instruction.
const checkInstruction = (ground: Ground, graph: FunctionGraph, insn: number): RefusalCode | '' => {
  const { insns } = graph
  const rva = insns.rva[insn]!
  const length = insns.length[insn]!
  if (insns.flow[insn] === FLOW.invalid) return 'undecodable'
  if (ground.live.graph.targets.anyInside(rva, rva + length)) return 'jump-into'
  const opinion = ground.second.decode(rva, bytesAt(ground.image, rva, length))
  return agrees(opinion, length, insns.flow[insn]!, insns.target[insn]!) ? '' : 'decoders-disagree'
}

/**
 * The cheapest splice that counts exactly the runs of an instruction: there, or at another instruction that runs as
 * often (the same block, or one that runs with it). `accept` may turn candidates down.
 * @returns the splice, or the instruction's own refusal
 */
export const spliceFor = (
  ground: Ground, fn: PlannedFunction, insn: number, accept: (splice: Splice) => boolean,
): Splice | RefusalCode => {
  const { graph } = fn
  const { image } = ground
  if (changesGs(graph)) return 'gs-changes'
  const own = spliceBefore(ground, fn, insn)
  // Another variant of an alternative may have no such instruction, or another one there.
  const rva = graph.insns.rva[insn]!
  const there = CODES[ground.reserved[rva - image.textStart] ?? 0]
  const rewritten = there === 'alternative' || there === 'paravirt'
  let best: Splice | undefined
  let taken = false
  const consider = (splice: Splice | RefusalCode): void => {
    if (typeof splice === 'string') return
    if (!accept(splice)) taken = true
    else if (best === undefined || splice.cost < best.cost) best = splice
  }
  if (!rewritten || insn === graph.blockFirst[graph.blockOfInsn[insn]!]) consider(own)
  // Where the graph is not complete, blocks may have entries that nobody knows of: only the instruction itself will do.
  if (graph.incomplete === '' && !rewritten) {
    const block = graph.blockOfInsn[insn]!
    const distanceOrder = (b: number): number[] => {
      const list: number[] = []
      for (let i = graph.blockFirst[b]!; i < graph.blockFirst[b + 1]!; i++) if (i !== insn) list.push(i)
      return list.sort((x, y) => Math.abs(x - insn) - Math.abs(y - insn))
    }
    const search = (b: number): void => {
      for (const i of distanceOrder(b)) {
        if (best !== undefined && best.cost <= LEAST_COST) return
        consider(spliceBefore(ground, fn, i))
      }
    }
    search(block)
    if (best === undefined) {
      for (const other of equivalentBlocks(graph, block).slice(1)) {
        search(other)
        if (best !== undefined) break
      }
    }
  }
  if (best !== undefined) return best
  if (taken) return 'site-taken'
  // The start of nearly every function is an ftrace site or an ENDBR; what is missing is a neighbour that would do.
  if (own === 'ftrace' || own === 'endbr') return 'too-short'
  if (typeof own === 'string') return own
  return there === undefined || there === '' ? 'site-taken' : there
}

/** Whether anything in a function may change the GS base. */
export const changesGs = ({ insns }: FunctionGraph): boolean => insns.effect.some((effect) => effectChangesGs[effect] !== 0)

/** The rva of a splice's site. */
export const siteRva = (splice: Splice): Rva => splice.fn.graph.insns.rva[splice.insn]!

/** An instruction's index from its rva, or NONE. */
export const insnIndex = (graph: FunctionGraph, rva: Rva): number => {
  const i = indexOf(graph.insns.rva, rva)
  return i < 0 ? NONE : i
}
