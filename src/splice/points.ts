// What a plan says of each point, served or refused: a table, since a plan of the whole kernel has a million of them.
// Index spaces: point; asked (the points of the programs: one that is asked for may be several, a function's blocks say);
// slot.

import { NONE, type Rva } from '../image/rva.js'
import type { Point } from '../probe/points.js'
import { Column } from './column.js'

export interface PointTable {
  readonly asked: readonly Point[] //   what the programs ask for
  readonly count: number
  readonly of: Uint32Array //           point -> which of `asked` it belongs to
  readonly rva: Uint32Array //          point -> the place, NONE where it is the function as a whole that is refused
  readonly to: Uint32Array //           point -> where an edge leads to, else NONE
  readonly refusal: Uint8Array //       point -> number of the refusal code (refusal.ts), 0 where it is served
  readonly nearest: Uint32Array //      point -> an instruction that can be served instead of a refused one, or NONE
  readonly derived: Uint8Array //       point -> 1 where its count follows from counts taken elsewhere
  readonly termStart: Uint32Array //    point -> first index into term; termStart[count] = term.length
  readonly term: Uint32Array //         slot * 2, + 1 where its count is subtracted
  readonly termRva: Uint32Array //      parallel to term: the place observed, e.g. which of a function's returns
}

/** Collects points. */
export class PointCollector {
  readonly #asked: readonly Point[]
  readonly #columns = { of: new Column(), rva: new Column(), to: new Column(), refusal: new Column(), nearest: new Column(), derived: new Column() }
  readonly #start = new Column()
  readonly #term = new Column()
  readonly #termRva = new Column()

  constructor(asked: readonly Point[]) {
    this.#asked = asked
  }

  #add(of: number, rva: Rva, to: Rva, refusal: number, nearest: Rva, derived: number): void {
    const columns = this.#columns
    columns.of.push(of)
    columns.rva.push(rva)
    columns.to.push(to)
    columns.refusal.push(refusal)
    columns.nearest.push(nearest)
    columns.derived.push(derived)
    this.#start.push(this.#term.length)
  }

  /** A point that is served; its terms follow. */
  serve(of: number, rva: Rva, to: Rva = NONE, derived = 0): void {
    this.#add(of, rva, to, 0, NONE, derived)
  }

  /** A slot that the last point's count is made of. */
  term(slot: number, rva: Rva, subtracted = 0): void {
    this.#term.push(2 * slot + subtracted)
    this.#termRva.push(rva)
  }

  /** @param refusal number of a code */
  refuse(of: number, rva: Rva, refusal: number, to: Rva = NONE, nearest: Rva = NONE): void {
    this.#add(of, rva, to, refusal, nearest, 0)
  }

  /**
   * The table. Called once: it is made of what was collected.
   * @param slotOf slot as it was given -> slot
   */
  table(slotOf: Uint32Array): PointTable {
    const { of, rva, to, refusal, nearest, derived } = this.#columns
    this.#start.push(this.#term.length)
    const term = this.#term.values()
    for (let t = 0; t < term.length; t++) term[t] = 2 * slotOf[term[t]! >>> 1]! + (term[t]! & 1)
    return {
      asked: this.#asked,
      count: of.length,
      of: of.values(), rva: rva.values(), to: to.values(), refusal: new Uint8Array(refusal.values()), nearest: nearest.values(),
      derived: new Uint8Array(derived.values()),
      termStart: this.#start.values(),
      term,
      termRva: this.#termRva.values(),
    }
  }
}
