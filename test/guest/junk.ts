// Bundles whose patches overwrite what liveness calls dead. For tests alone: no program makes them, and the plan checker
// would refuse them.
//
// In: liveness, and instructions to splice. Out: a signed bundle; each patch counts its runs, then puts junk into every
// dead register (a number that is no kernel address), sets every dead flag to a bit drawn by lot, and goes on with the
// moved instruction.

import { FLAGS, GPRS, RSP, type RegisterSet } from '../../src/code/registers.js'
import type { CodeBuffer } from '../../src/splice/code.js'
import { emitCounters } from '../../src/splice/counter.js'
import { changesGs, prepareFunction, spliceBefore, type Ground, type PlannedFunction, type Splice } from '../../src/splice/site.js'
import type { Key } from './artefacts.js'
import { writeSplices } from './splices.js'

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

/** A splice of the instruction itself, where something is dead before it. */
const junkAt = (ground: Ground, fn: PlannedFunction, i: number): Splice | undefined => {
  if (fn.graph.insns.length[i]! < 5 || !(~fn.liveness.liveIn[i]! & (GPRS | FLAGS))) return undefined
  const splice = spliceBefore(ground, fn, i)
  return typeof splice === 'string' ? undefined : splice
}

/** A function of which every instruction may be spliced, as far as its kind allows. */
export const usable = (ground: Ground, index: number): PlannedFunction | undefined => {
  const { functions, textEnd } = ground.image
  if (!functions.isFunc[index] || functions.start[index]! >= textEnd) return undefined
  const fn = prepareFunction(ground, index)
  return fn.graph.incomplete !== '' || changesGs(fn.graph) ? undefined : fn
}

/** All instructions of some functions that can be spliced each by itself. */
export const everywhere = (ground: Ground, functions: Iterable<number>): Splice[] => {
  const found: Splice[] = []
  for (const index of functions) {
    const fn = usable(ground, index)
    if (fn === undefined) continue
    for (let i = 0; i < fn.graph.insns.count; i++) {
      const splice = junkAt(ground, fn, i)
      if (splice !== undefined) found.push(splice)
    }
  }
  return found
}

/** One such instruction of every function, drawn by lot; none where `tries` draws find none. */
export const oneEach = (ground: Ground, random: (bound: number) => number, tries: number): Splice[] => {
  const found: Splice[] = []
  for (let index = 0; index < ground.image.functions.count; index++) {
    const fn = usable(ground, index)
    if (fn === undefined || fn.graph.insns.count === 0) continue
    for (let n = 0; n < tries; n++) {
      const splice = junkAt(ground, fn, random(fn.graph.insns.count))
      if (splice === undefined) continue
      found.push(splice)
      break
    }
  }
  return found
}

/** Some of these splices, drawn by lot, each with one live register fewer. */
export const damage = (splices: readonly Splice[], random: (bound: number) => number, count: number): Splice[] => {
  const pool = splices.filter((splice) => splice.live & GPRS & ~RSP)
  return Array.from({ length: Math.min(count, pool.length) }, () => {
    const [splice] = pool.splice(random(pool.length), 1)
    let register = random(16)
    while (!(splice!.live & GPRS & ~RSP & (1 << register))) register = (register + 1) % 16
    return { ...splice!, live: splice!.live & ~(1 << register) }
  })
}

/** Writes a bundle whose patches put junk into what is dead where these splices are. */
export const writeJunkBundle = (
  ground: Ground, splices: readonly Splice[], random: (bound: number) => number, key: Key, path: string,
): void => writeSplices(ground, splices, emitJunk(random), key, path)
