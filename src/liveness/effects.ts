// What each instruction and each block does to registers, before anything is solved. In: the graph. Out: for every
// instruction what it may read and what it certainly overwrites; for every block the same of all its instructions
// together, what the call at its end does where a rule (convention.ts) says it, and what is live where control leaves.
//
// `reads` over-estimates and `kills` under-estimates what happens on the processor:
//  - an instruction that the kernel may rewrite reads what any variant reads, and overwrites nothing;
//  - one that may fault overwrites nothing, since the fixup finds the old values, and reads what the handler may read;
//  - a trap behind which nothing goes on reads everything: what an oops shows shall be what was there.

import type { KernelGraph } from '../cfg/graph.js'
import { CALL, END } from '../cfg/kinds.js'
import { effectChangesGs, effectKills, effectOf, effectReads, effectWrites } from '../code/effects.js'
import { FLOW } from '../code/instructions.js'
import { ALL, FLAGS, R11, RCX, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE } from '../image/rva.js'
import {
  isTraced, LOST_AT_FTRACE_SITE, LOST_OVER_CALL, READ_AT_ENTRY, READ_AT_FTRACE_SITE, READ_BY_POINTER_CALL,
} from './convention.js'
import { findKept, type Kept } from './kept.js'
import { Worklist } from './worklist.js'

export interface Effects {
  readonly effect: Uint16Array //   insn -> a row of code/effects.ts; calls without what the callee does
  readonly use: Uint32Array //      block -> read by its instructions before they overwrite it
  readonly def: Uint32Array //      block -> overwritten by its instructions
  readonly callUse: Uint32Array //  block -> what the call at its end may read, as far as a rule says it
  readonly callDef: Uint32Array //  block -> what is lost over that call, likewise
  /** block -> the block that it calls, where that one's summary tells what the call does; else NONE. */
  readonly callee: Uint32Array
  /** block -> live where control leaves by its end, whatever the caller expects. */
  readonly away: Uint32Array
  /** block -> 1 when what the caller of the function expects is live at its end: returns and indirect tail calls. */
  readonly exits: Uint8Array
  /** block -> 1 when a traced function starts there. */
  readonly traced: Uint8Array
  /** Calls of traced functions that are taken to leave registers alone, against the rule (kept.ts). */
  readonly kept: Kept
}

/** Types of exception table entries are small numbers since 5.17; before, a handler's place stood there. */
const MAX_FIXUP_TYPE = 0x3f

/**
 * What the handler of a fault may read of the registers: rcx and the one that the entry names (EX_TYPE_UCOPY_LEN;
 * arch/x86/mm/extable.c, 6.1 and 6.12). Of entries that only write that register it is too much.
 */
const readByHandler = (data: number): RegisterSet => (data >>> 8 === 0 ? 0 : RCX | (1 << ((data >>> 8) & 15)))

/** Opcodes of instructions that set the flags for someone behind them: popf, sahf, cmc, clc, stc. */
const FLAG_SETTERS = new Set([0x9d, 0x9e, 0xf5, 0xf8, 0xf9])

/** block -> 1 when it is compiled code: of a traced function or its .cold part. */
const findCompiled = (graph: KernelGraph, traced: Uint8Array): Uint8Array => {
  const { image: { functions }, index, blockOf, predStart, pred } = graph
  const compiled = new Uint8Array(graph.blockCount)
  const colds: number[] = []
  const blocks = (f: number): [number, number] => {
    const first = index.from(functions.start[f]!)
    const end = index.from(functions.end[f]!)
    return first < end ? [blockOf[first]!, blockOf[end - 1]! + 1] : [0, 0]
  }
  for (let f = 0; f < functions.count; f++) {
    const [first, end] = blocks(f)
    if (first < end && traced[first]) compiled.fill(1, first, end)
    else if (functions.isCold[f]) colds.push(f)
  }
  for (const f of colds) {
    const [first, end] = blocks(f)
    let of = NONE
    for (let p = predStart[first]!; p < predStart[end]!; p++) if (pred[p]! < first || pred[p]! >= end) of = pred[p]!
    if (of !== NONE && compiled[of]) compiled.fill(1, first, end)
  }
  return compiled
}

/** The thunks that take the place of a call or jump through r11. */
const thunksThroughR11 = (image: Image): Set<number> => {
  const found = new Set<number>()
  for (let f = 0; f < image.functions.count; f++) {
    if (image.symbols.nameStartsWith(image.functions.symbol[f]!, '__x86_indirect_') && image.functions.nameOf(f).endsWith('_r11')) {
      found.add(image.functions.start[f]!)
    }
  }
  return found
}

/** Works out the effects of all code. @param work an empty list of the graph's size */
export const findEffects = (graph: KernelGraph, work = new Worklist(graph.blockCount)): Effects => {
  const { image, insns, index, blockCount, blockFirst, end, call, succStart } = graph
  const effect = insns.effect.slice()
  const replace = (i: number, reads: RegisterSet, kills: RegisterSet): void => {
    effect[i] = effectOf(reads, kills, effectWrites[effect[i]!]!, effectChangesGs[effect[i]!]!)
  }
  /** Something may run there that reads more, and nothing is certainly overwritten. */
  const weaken = (i: number, reads: RegisterSet): void => replace(i, effectReads[effect[i]!]! | reads, 0)
  for (let k = 0; k < graph.altered.length; k++) weaken(graph.altered[k]!, graph.alteredReads[k]!)
  const { exTable, ftrace } = image.tables
  const oldFixups = exTable.data.some((data) => (data & 0xff) > MAX_FIXUP_TYPE)
  exTable.insn.forEach((rva, k) => {
    const i = index.at(rva)
    if (i === NONE) return
    weaken(i, oldFixups ? ALL : readByHandler(exTable.data[k]!))
  })
  for (const rva of ftrace) {
    const i = index.at(rva)
    if (i !== NONE) replace(i, READ_AT_FTRACE_SITE, LOST_AT_FTRACE_SITE)
  }
  const warns = new Set<number>()
  for (const rva of image.tables.warns) warns.add(index.at(rva))

  const traced = new Uint8Array(blockCount)
  for (let f = 0; f < image.functions.count; f++) {
    const at = index.at(image.functions.start[f]!)
    if (at !== NONE && isTraced(image, image.functions.start[f]!)) traced[graph.blockOf[at]!] = 1
  }
  const compiled = findCompiled(graph, traced)
  const throughR11 = thunksThroughR11(image)
  const variantCaller = new Uint8Array(blockCount)
  for (const b of graph.variantCaller) variantCaller[b] = 1

  const effects = {
    effect, traced, kept: findKept(graph, traced, work),
    use: new Uint32Array(blockCount), def: new Uint32Array(blockCount),
    callUse: new Uint32Array(blockCount), callDef: new Uint32Array(blockCount),
    callee: new Uint32Array(blockCount).fill(NONE),
    away: new Uint32Array(blockCount), exits: new Uint8Array(blockCount),
  }
  /** What goes through a pointer at the end of a block may read. */
  const byPointer = (b: number, last: number): RegisterSet => {
    if (!compiled[b]) return ALL
    let set = READ_BY_POINTER_CALL
    if (throughR11.has(insns.target[last]!)) set |= R11
    for (let i = blockFirst[b]!; i < last; i++) if (setsFlags(graph, i)) set |= FLAGS
    return set
  }
  for (let b = 0; b < blockCount; b++) {
    const last = blockFirst[b + 1]! - 1
    const flow = insns.flow[last]!
    if (flow === FLOW.trap && !warns.has(last)) replace(last, ALL, effectKills[effect[last]!]!)
    let use = 0
    let def = 0
    for (let i = last; i >= blockFirst[b]!; i--) {
      const kills = effectKills[effect[i]!]!
      use = effectReads[effect[i]!]! | (use & ~kills)
      def |= kills
    }
    effects.use[b] = use
    effects.def[b] = def
    if (variantCaller[b]) effects.callUse[b] = ALL
    else if (call[b] === CALL.anything) effects.callUse[b] = byPointer(b, last)
    else if (call[b] === CALL.direct) {
      const callee = graph.callee[b]!
      if (callee === NONE) effects.callUse[b] = ALL
      else if (traced[callee]) {
        effects.callUse[b] = READ_AT_ENTRY
        effects.callDef[b] = LOST_OVER_CALL
      } else effects.callee[b] = callee
    }
    const bits = end[b]!
    let away = bits & (END.unknown | END.variantLeaves) ? ALL : 0
    if (bits & END.tailIndirect) away |= byPointer(b, last)
    if (bits & END.return && !compiled[b] && !image.orc.returnsThere(insns.rva[last]!)) away = ALL
    if (bits & (END.return | END.tailIndirect)) effects.exits[b] = 1
    // A call at the very end of the code, or one that is not followed by any.
    if (succStart[b] === succStart[b + 1] && bits & END.leaks && call[b] !== CALL.none) {
      if (call[b] !== CALL.direct || graph.callee[b] === NONE || graph.returning[graph.callee[b]!]) away = ALL
    }
    effects.away[b] = away
  }
  effects.kept.block.forEach((b, k) => {
    effects.callDef[b]! &= ~effects.kept.set[k]!
  })
  return effects
}

const setsFlags = ({ image, insns }: KernelGraph, i: number): boolean => {
  if (insns.length[i]! > 2) return false
  const region = image.regions.find(({ start, end }) => insns.rva[i]! >= start && insns.rva[i]! < end)!
  const at = insns.rva[i]! - region.start
  return FLAG_SETTERS.has(region.bytes[at]!) || (insns.length[i] === 2 && region.bytes[at] === 0x66 && FLAG_SETTERS.has(region.bytes[at + 1]!))
}
