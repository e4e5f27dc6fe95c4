// What instructions do to registers and flags, each different effect once: an instruction's effect is a row here, by a
// number of 16 bits, and a kernel's three million instructions have some thousand rows.
// Invariant: a row never changes once it has a number. Left out: what the kernel's tables add (liveness/effects.ts).

import { ALL, type RegisterSet } from './registers.js'

const ROWS = 1 << 16

/** Row 0 is for what is not known, and for all that is new once the table is full. */
export const UNKNOWN_EFFECT = 0

/** effect -> register set that the instruction may read. */
export const effectReads = new Uint32Array(ROWS)
/** effect -> register set that it certainly overwrites, whole and always. */
export const effectKills = new Uint32Array(ROWS)
/** effect -> register set that it may change. */
export const effectWrites = new Uint32Array(ROWS)
/** effect -> 1 when it may change the GS base, through which counters are reached. */
export const effectChangesGs = new Uint8Array(ROWS)

effectReads[UNKNOWN_EFFECT] = ALL
effectWrites[UNKNOWN_EFFECT] = ALL
effectChangesGs[UNKNOWN_EFFECT] = 1

const READS_SCALE = 2 ** 22
const GS_BIT = 1 << 22

/** What is read and killed, as one number -> what may change (GS as bit 22) -> effect. */
const numbers = new Map<number, Map<number, number>>()
let count = 1

/** The number of an effect. */
export const effectOf = (reads: RegisterSet, kills: RegisterSet, writes: RegisterSet, changesGs: number): number => {
  const outer = reads * READS_SCALE + kills
  let inner = numbers.get(outer)
  if (inner === undefined) numbers.set(outer, (inner = new Map()))
  const key = changesGs ? writes | GS_BIT : writes
  let effect = inner.get(key)
  if (effect !== undefined) return effect
  if (count === ROWS) return UNKNOWN_EFFECT
  effect = count++
  inner.set(key, effect)
  effectReads[effect] = reads
  effectKills[effect] = kills
  effectWrites[effect] = writes
  effectChangesGs[effect] = changesGs
  return effect
}
