// Where calls are remembered until they return: the frame words (kmod/uapi/kerninst.h) that spans share out among
// themselves. In: programs. Out: where the tables of each lie.
//
// A table is a few arrays of words side by side. It is searched from where a hash leads, over LOOKS words, and they are so
// much longer than the hash can tell apart: no search wraps. A key is zero where nothing is remembered.
//
//   frames   of one span, by the address of the return address: no two calls that are running have the same
//     keys     that address
//     starts   ticks at the entry; 0 where the predicate says that the call is of no interest
//     virtual  ticks at the entry less what the thread was away by then, for oncpu
//     args     arguments that are asked for at the return
//   threads  of all spans that ask for oncpu, by the address of the thread's task; they are never taken out
//     keys     that address
//     away     ticks that the thread was switched out, from some time on: of use for differences alone

import { EXIT, KerninstError } from '../error.js'
import { NONE } from '../image/rva.js'
import type { PointProgram } from '../probe/requests.js'
import { FRAME, MAX_FRAME_WORDS } from './tables.js'

/** Places at which a key is looked for. */
export const LOOKS = 8

/** Calls in flight that a span can remember: as a power of two, the least, the most, and unless somebody says otherwise. */
export const SPAN_BITS = { least: 4, most: 20, usual: 14 } as const

export interface FrameTable {
  readonly bits: number // of the hash
  readonly keys: number //    first word
  readonly starts: number //  likewise
  readonly virtual: number // likewise, or NONE
  readonly args: ReadonlyMap<number, number> // number of an argument -> first word
}

export interface ThreadTable {
  readonly bits: number
  readonly keys: number
  readonly away: number
}

export interface FrameLayout {
  readonly tables: readonly (FrameTable | undefined)[] // program -> its frames, where it is a span's
  readonly threads: ThreadTable | undefined
  readonly words: number // of all; 0 where there are no spans
}

/**
 * Shares out the frame words.
 * @throws KerninstError (65) where they do not suffice
 */
export const layOutFrames = (programs: readonly PointProgram[], bits: number): FrameLayout => {
  let next = FRAME.head
  const array = (): number => {
    next += 2 ** bits + LOOKS - 1
    return next - (2 ** bits + LOOKS - 1)
  }
  const tables = programs.map(({ span }): FrameTable | undefined => span && {
    bits, keys: array(), starts: array(), virtual: span.oncpu ? array() : NONE, args: new Map(span.remembers.map((n) => [n, array()])),
  })
  const threads = programs.some(({ span }) => span?.oncpu) ? { bits, keys: array(), away: array() } : undefined
  if (next > MAX_FRAME_WORDS) {
    const spans = tables.filter((one) => one !== undefined).length
    throw new KerninstError(EXIT.data, `${spans} spans that remember ${2 ** bits} calls each take ${Math.ceil(next / 2 ** 17)} MiB, ` +
      `more than ${MAX_FRAME_WORDS / 2 ** 17}: let there be fewer, or let them remember fewer (--span-calls)`)
  }
  return { tables, threads, words: next === FRAME.head ? 0 : next }
}
