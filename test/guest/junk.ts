// Bundles whose patches overwrite what liveness calls dead. For tests alone: no program makes them, and the plan checker
// would refuse them.
//
// In: a draft, with counters at places that are drawn here. Out: a signed bundle; each patch counts its runs, then puts
// junk into every dead register (a number that is no kernel address), sets every dead flag to a bit drawn by lot, and
// goes on with the moved instructions.

import { FLAGS, GPRS, RSP, type RegisterSet } from '../../src/code/registers.js'
import type { CodeBuffer } from '../../src/splice/code.js'
import { emitCounters } from '../../src/splice/counter.js'
import { LEVEL, type Draft } from '../../src/splice/draft.js'
import { changesGs, type Ground, type PlannedFunction } from '../../src/splice/ground.js'
import type { Key } from './artefacts.js'
import { writeDraft } from './splices.js'

/** Bit of a register set -> bit of rflags. */
const RFLAGS = [[16, 0], [17, 2], [18, 4], [19, 6], [20, 7], [21, 11]] as const

/** Appends code that overwrites everything but `live`, then what it counts with. */
const emitJunk = (random: (bound: number) => number) => (code: CodeBuffer, live: RegisterSet, slots: readonly number[]): void => {
  emitCounters(code, live, slots)
  const dead = ~live & FLAGS
  if (dead !== 0) {
    let mask = 0
    let bits = 0
    for (const [from, to] of RFLAGS) {
      if (!(dead & (1 << from))) continue
      mask |= 1 << to
      if (random(2)) bits |= 1 << to
    }
    const word = (value: number): number[] => [value & 0xff, (value >>> 8) & 0xff, (value >>> 16) & 0xff, value >>> 24]
    code.emit(0x9c) //                               pushf
    code.emit(0x81, 0x24, 0x24, ...word(~mask)) //   andl, on the low half
    code.emit(0x81, 0x0c, 0x24, ...word(bits)) //    orl
    code.emit(0x9d) //                               popf
  }
  for (let r = 0; r < 16; r++) {
    if (live & (1 << r) || (1 << r) === RSP) continue
    const junk = [random(256), random(256), random(256), random(256)]
    code.emit(...(r < 8 ? [0xb8 + r] : [0x41, 0xb8 + (r & 7)]), ...junk) // mov $junk,%r32
  }
}

/** A place for a probe: an instruction of a function. */
export interface Place {
  readonly fn: PlannedFunction
  readonly insn: number // in fn.graph.insns
}

/** A function of which every instruction may be spliced, as far as its kind allows. */
export const usable = (ground: Ground, index: number): PlannedFunction | undefined => {
  const { functions, textEnd } = ground.image
  if (!functions.isFunc[index] || functions.start[index]! >= textEnd) return undefined
  const fn = ground.prepare(index)
  return fn.graph.incomplete !== '' || changesGs(fn.graph) ? undefined : fn
}

/** Whether something is dead before an instruction. */
const hasDead = ({ fn, insn }: Place): boolean => (~fn.liveness.liveIn[insn]! & (GPRS | FLAGS)) !== 0

/** All instructions of some functions before which something is dead. */
export const everywhere = (ground: Ground, functions: Iterable<number>): Place[] => {
  const found: Place[] = []
  for (const index of functions) {
    const fn = usable(ground, index)
    if (fn === undefined) continue
    for (let insn = 0; insn < fn.graph.insns.count; insn++) if (hasDead({ fn, insn })) found.push({ fn, insn })
  }
  return found
}

/** Puts a probe at one instruction of every function, drawn by lot; at none where `tries` draws find none. */
export const oneEach = (draft: Draft, random: (bound: number) => number, tries: number): void => {
  for (let index = 0; index < draft.ground.image.functions.count; index++) {
    const fn = usable(draft.ground, index)
    if (fn === undefined || fn.graph.insns.count === 0) continue
    for (let n = 0; n < tries; n++) {
      const insn = random(fn.graph.insns.count)
      if (hasDead({ fn, insn }) && typeof draft.before(fn, insn, LEVEL.shortJump) === 'number') break
    }
  }
}

/** Calls one live register of each counter of a draft dead, where there is one. */
export const damage = (draft: Draft, random: (bound: number) => number): void => {
  draft.slotLive.forEach((live, slot) => {
    if (!(live & GPRS & ~RSP)) return
    let register = random(16)
    while (!(live & GPRS & ~RSP & (1 << register))) register = (register + 1) % 16
    draft.slotLive[slot] = live & ~(1 << register)
  })
}

/** Writes a bundle whose patches put junk into what is dead where a draft's counters are. */
export const writeJunkBundle = (draft: Draft, random: (bound: number) => number, key: Key, path: string): void =>
  writeDraft(draft, emitJunk(random), key, path)
