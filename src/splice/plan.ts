// From points to a plan: chooses a site for each point. Every point is either served whole or refused whole, with a code
// and a reason.
// The plan is not to be trusted before check.ts has accepted it.

import { reachable, type FunctionGraph } from '../cfg/function.js'
import { findStaying } from '../cfg/flows.js'
import { END } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import type { SecondDecoder } from '../code/second.js'
import { assert } from '../error.js'
import type { Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { isTraced } from '../liveness/convention.js'
import type { KernelLiveness } from '../liveness/live.js'
import type { Point } from '../probe/points.js'
import { encodeSites } from './encode.js'
import { countBlocks, countEdges, whyNoFlows, type Equation } from './counts.js'
import { PointCollector, type PointTable } from './points.js'
import { codeNumber, REFUSALS, type RefusalCode } from './refusal.js'
import { findReserved } from './reserved.js'
import {
  insnIndex, prepareFunction, siteRva, spliceFor, spliceTaken, type Ground, type PlannedFunction, type Splice, type Tactic,
} from './site.js'
import type { PatchTables } from './tables.js'
import { TACTIC_NAMES } from './tactics.js'

/** A place that a point counts: its runs are those of `site`. */
export interface ServedPart {
  readonly rva: Rva // the place asked for, e.g. one return
  readonly site: number
}

export interface ServedPoint {
  readonly point: Point
  readonly name: string //   with the place, where one point asked for is several
  readonly at: Rva //        the first place that is counted, or that a derived count is of
  /** Solved for from counts taken elsewhere. */
  readonly derived: boolean
  readonly parts: readonly ServedPart[] // the count is the sum of these,
  readonly less: readonly ServedPart[] //  less the sum of these
}

export interface RefusedPoint {
  readonly name: string
  readonly code: RefusalCode
  readonly reason: string
  readonly nearest: string
}

export interface Plan {
  readonly encoded: { readonly tables: PatchTables; readonly siteTactic: Uint8Array; readonly slotSite: Uint32Array }
  readonly points: PointTable
  readonly tables: PatchTables
  readonly served: readonly ServedPoint[]
  readonly refused: readonly RefusedPoint[]
  readonly tactics: readonly Tactic[] //   site -> tactic
  readonly live: Uint32Array //            site -> register set that its patch must leave alone
  readonly reserved: Uint8Array
}

interface Part {
  rva: Rva
  splice: Splice
}

class Planner {
  readonly #ground: Ground
  readonly #functions = new Map<number, PlannedFunction>()
  readonly #sites = new Map<Rva, Splice>()
  readonly served: { point: Point; name: string; parts: Part[]; less: Part[]; derived: Rva }[] = []
  readonly refused: RefusedPoint[] = []

  readonly points: PointCollector
  readonly #slots = new Map<Rva, number>() // rva of a site -> slot, by the order of taking
  #of = 0

  constructor(ground: Ground, asked: readonly Point[]) {
    this.#ground = ground
    this.points = new PointCollector(asked)
  }

  /** Rvas of sites by slots as `points` has them. */
  get slots(): Rva[] {
    return [...this.#slots.keys()]
  }

  get sites(): Splice[] {
    return [...this.#sites.values()].sort((a, b) => siteRva(a) - siteRva(b))
  }

  serve(point: Point, of: number): void {
    this.#of = of
    if (point.fn === NONE) {
      this.#refuse(point.name, 'ambiguous-name', NONE)
      return
    }
    const fn = this.#function(point.fn)
    if (fn.graph.incomplete === 'undecodable' || fn.graph.incomplete === 'jumps-inside') {
      this.#refuse(point.name, fn.graph.incomplete, NONE)
      return
    }
    switch (point.kind) {
      case 'entry': return this.#entry(point, fn)
      case 'return': return this.#return(point, fn)
      case 'insn': return this.#insn(point, fn)
      case 'call': return this.#calls(point, fn)
      case 'block': return this.#blocks(point, fn)
      case 'edge': return this.#edges(point, fn)
    }
  }

  #function(index: number): PlannedFunction {
    let fn = this.#functions.get(index)
    if (fn === undefined) {
      fn = prepareFunction(this.#ground, index)
      this.#functions.set(index, fn)
    }
    return fn
  }

  #entry(point: Point, fn: PlannedFunction): void {
    const start = insnIndex(fn.graph, fn.graph.start)
    if (fn.graph.incomplete !== '' && isTraced(this.#ground.image, fn.graph.start)) {
      this.#refuse(point.name, fn.graph.incomplete, this.#nearest(fn, start))
      return
    }
    this.#single(point, point.name, fn, start)
  }

  #insn(point: Point, fn: PlannedFunction): void {
    const insn = insnIndex(fn.graph, fn.graph.start + point.offset)
    if (insn === NONE || fn.graph.start + point.offset >= fn.graph.end) {
      const before = fn.graph.insns.rva.findLastIndex((rva) => rva <= fn.graph.start + point.offset)
      this.#refuse(point.name, 'no-instruction', this.#nearest(fn, Math.max(0, before)))
      return
    }
    this.#single(point, point.name, fn, insn)
  }

  #calls(point: Point, fn: PlannedFunction): void {
    const { insns, start } = fn.graph
    const { ftrace } = this.#ground.image.tables
    const reached = this.#reachedBlocks(fn.graph)
    let any = false
    for (let i = 0; i < insns.count; i++) {
      if (insns.flow[i] !== FLOW.call && insns.flow[i] !== FLOW.indirectCall) continue
      if (!reached[fn.graph.blockOfInsn[i]!] || indexOf(ftrace, insns.rva[i]!) >= 0) continue
      any = true
      this.#single(point, `call:${this.at(fn, insns.rva[i]!, start)}`, fn, i)
    }
    if (!any) this.#refuse(point.name, 'no-calls', NONE)
  }

  #single(point: Point, name: string, fn: PlannedFunction, insn: number): void {
    const splice = spliceFor(this.#ground, fn, insn, this.#accept)
    if (typeof splice === 'string') this.#refuse(name, splice, this.#nearest(fn, insn), fn.graph.insns.rva[insn]!)
    else this.#take(point, name, [{ rva: fn.graph.insns.rva[insn]!, splice }], [], false, fn.graph.insns.rva[insn]!)
  }

  // Every way out must be counted, or the point means nothing.
  #return(point: Point, fn: PlannedFunction): void {
    const { graph } = fn
    const { functions } = this.#ground.image
    if (graph.incomplete !== '' || graph.alternativeLeaves) {
      this.#refuse(point.name, graph.incomplete || 'unusual-exit', NONE)
      return
    }
    const reached = this.#reachedBlocks(graph)
    const parts: Part[] = []
    for (let b = 0; b < graph.blockCount; b++) {
      const end = graph.blockEnd[b]!
      if (!reached[b] || !(end & (END.return | END.tail | END.unknown | END.faultLeaves))) continue
      const last = graph.blockFirst[b + 1]! - 1
      const target = graph.insns.target[last]!
      const known = end & END.return || end & END.tailIndirect ||
        functions.start[functions.functionAt(target)] === target
      if (end & (END.unknown | END.faultLeaves) || !known) {
        this.#refuse(point.name, 'unusual-exit', this.#nearest(fn, last))
        return
      }
      // One way out must not take a site that another one of this point uses in another way.
      const accept = (splice: Splice): boolean =>
        this.#accept(splice) && parts.every((p) => siteRva(p.splice) !== siteRva(splice))
      const taken = end & END.tailTaken ? spliceTaken(this.#ground, fn, last) : spliceFor(this.#ground, fn, last, accept)
      const splice = typeof taken === 'string' || accept(taken) ? taken : 'site-taken'
      if (typeof splice === 'string') {
        this.#refuse(point.name, splice, this.#nearest(fn, last))
        return
      }
      parts.push({ rva: graph.insns.rva[last]!, splice })
    }
    if (parts.length === 0) this.#refuse(point.name, 'never-returns', NONE)
    else this.#take(point, point.name, parts, [], false, parts[0]!.rva)
  }

  #blocks(point: Point, fn: PlannedFunction): void {
    const why = whyNoFlows(fn)
    if (why !== '') return this.#refuse(point.name, why, NONE)
    for (const { block, count } of countBlocks(this.#ground, fn, this.#staying(), this.#accept)) {
      const insn = fn.graph.blockFirst[block]!
      this.#flow(point, `block:${this.at(fn, fn.graph.insns.rva[insn]!, fn.graph.start)}`, fn, insn, count)
    }
  }

  #edges(point: Point, fn: PlannedFunction): void {
    const why = whyNoFlows(fn)
    if (why !== '') return this.#refuse(point.name, why, NONE)
    const { insns, blockFirst, start, end } = fn.graph
    let any = false
    for (const { from, to, count } of countEdges(this.#ground, fn, this.#staying(), this.#accept)) {
      any = true
      const insn = blockFirst[from]!
      const target = insns.rva[blockFirst[to]!]!
      const there = target >= start && target < end ? hex(target - start) : this.at(fn, target, start)
      this.#flow(point, `edge:${this.at(fn, insns.rva[insn]!, start)}->${there}`, fn, insn, count, target)
    }
    if (!any) this.#refuse(point.name, 'no-edges', NONE)
  }

  #flow(point: Point, name: string, fn: PlannedFunction, insn: number, count: Equation | RefusalCode, to = NONE): void {
    const rva = fn.graph.insns.rva[insn]!
    if (typeof count === 'string') return this.#refuse(name, count, NONE, rva, to)
    const parts = (splices: readonly Splice[]): Part[] => splices.map((splice) => ({ rva: siteRva(splice), splice }))
    this.#take(point, name, parts(count.plus), parts(count.minus), count.derived, rva, to)
  }

  #stays: Uint8Array | undefined
  #staying(): Uint8Array {
    return this.#stays ??= findStaying(this.#ground.live.graph)
  }

  #reachedBlocks(graph: FunctionGraph): Uint8Array {
    return reachable(graph, [...graph.entries])
  }

  // A site can be shared by points that count the same thing there.
  readonly #accept = (splice: Splice): boolean => {
    const there = this.#sites.get(siteRva(splice))
    return there === undefined || there.tactic === splice.tactic
  }

  /** @param rva the place that is asked for, and that a derived count is of */
  #take(point: Point, name: string, parts: Part[], less: Part[], derived: boolean, rva: Rva, to = NONE): void {
    for (const { splice } of [...parts, ...less]) {
      assert(this.#accept(splice), 'a site is spliced in one way')
      if (!this.#sites.has(siteRva(splice))) this.#sites.set(siteRva(splice), splice)
    }
    this.served.push({ point, name, parts, less, derived: derived ? rva : NONE })
    this.points.serve(this.#of, rva, to, derived ? 1 : 0)
    for (const list of [parts, less]) {
      for (const part of list) {
        const at = siteRva(part.splice)
        if (!this.#slots.has(at)) this.#slots.set(at, this.#slots.size)
        this.points.term(this.#slots.get(at)!, part.rva, list === less ? 1 : 0)
      }
    }
  }

  #refuse(name: string, code: RefusalCode, nearest: Rva, rva = NONE, to = NONE): void {
    const f = nearest === NONE ? NONE : this.#ground.image.functions.functionAt(nearest)
    this.refused.push({ name, code, reason: REFUSALS[code], nearest: f === NONE ? '' : `insn:${placeOf(this.#ground.image, nearest)}` })
    this.points.refuse(this.#of, rva, codeNumber(code), to, nearest)
  }

  // The nearest instruction of the function's body that can be served alone.
  #nearest(fn: PlannedFunction, insn: number): Rva {
    const { insns, start, end } = fn.graph
    for (let d = 0; d < 64; d++) {
      for (const i of d === 0 ? [insn] : [insn + d, insn - d]) {
        if (i < 0 || i >= insns.count || insns.rva[i]! < start || insns.rva[i]! >= end) continue
        if (typeof spliceFor(this.#ground, fn, i, this.#accept) !== 'string') return insns.rva[i]!
      }
    }
    return NONE
  }

  /** function+0xoffset, from a given start. */
  at(fn: PlannedFunction, rva: Rva, start: Rva): string {
    return rva >= start && rva < fn.graph.end ? `${fn.graph.name}+${hex(rva - start)}` : placeOf(this.#ground.image, rva)
  }
}

/** function+0xoffset of any rva. */
export const placeOf = (image: Image, rva: Rva): string => {
  const f = image.functions.functionAt(rva)
  return f === NONE ? hex(image.base + BigInt(rva)) : `${image.functions.nameOf(f)}+${hex(rva - image.functions.start[f]!)}`
}

/** Chooses sites for all points and encodes their patches. */
export const makePlan = (live: KernelLiveness, second: SecondDecoder, points: readonly Point[]): Plan => {
  const { image } = live.graph
  const ground: Ground = { image, live, reserved: findReserved(image), second }
  const planner = new Planner(ground, points)
  points.forEach((point, of) => planner.serve(point, of))
  const sites = planner.sites
  const indexOfSite = new Map(sites.map((splice, i) => [siteRva(splice), i]))
  const place = ({ rva, splice }: Part): ServedPart => ({ rva, site: indexOfSite.get(siteRva(splice))! })
  const tables = encodeSites(image, sites)
  const numbers = new Map<string, number>(TACTIC_NAMES.map((name, i) => [name, i]))
  return {
    encoded: {
      tables,
      siteTactic: Uint8Array.from(sites, (splice) => numbers.get(splice.tactic)!),
      slotSite: Uint32Array.from(sites, (_, i) => i),
    },
    points: planner.points.table(Uint32Array.from(planner.slots, (rva) => indexOfSite.get(rva)!)),
    tables,
    served: planner.served.map(({ point, name, parts, less, derived }) => ({
      point,
      name,
      at: derived === NONE ? siteRva(parts[0]!.splice) : derived,
      derived: derived !== NONE,
      parts: parts.map(place),
      less: less.map(place),
    })),
    refused: planner.refused,
    tactics: sites.map((splice) => splice.tactic),
    live: Uint32Array.from(sites, (splice): RegisterSet => splice.live),
    reserved: ground.reserved,
  }
}
