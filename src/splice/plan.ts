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
import { REFUSALS, type RefusalCode } from './refusal.js'
import { findReserved } from './reserved.js'
import {
  insnIndex, prepareFunction, siteRva, spliceFor, spliceTaken, type Ground, type PlannedFunction, type Splice, type Tactic,
} from './site.js'
import type { PatchTables } from './tables.js'

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

  constructor(ground: Ground) {
    this.#ground = ground
  }

  get sites(): Splice[] {
    return [...this.#sites.values()].sort((a, b) => siteRva(a) - siteRva(b))
  }

  serve(point: Point): void {
    if (point.fn === NONE) {
      this.#refuse(point.name, 'ambiguous-name', '')
      return
    }
    const fn = this.#function(point.fn)
    if (fn.graph.incomplete === 'undecodable' || fn.graph.incomplete === 'jumps-inside') {
      this.#refuse(point.name, fn.graph.incomplete, '')
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
    if (!any) this.#refuse(point.name, 'no-calls', '')
  }

  #single(point: Point, name: string, fn: PlannedFunction, insn: number): void {
    const splice = spliceFor(this.#ground, fn, insn, this.#accept)
    if (typeof splice === 'string') this.#refuse(name, splice, this.#nearest(fn, insn))
    else this.#take(point, name, [{ rva: fn.graph.insns.rva[insn]!, splice }])
  }

  // Every way out must be counted, or the point means nothing.
  #return(point: Point, fn: PlannedFunction): void {
    const { graph } = fn
    const { functions } = this.#ground.image
    if (graph.incomplete !== '' || graph.alternativeLeaves) {
      this.#refuse(point.name, graph.incomplete || 'unusual-exit', '')
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
    if (parts.length === 0) this.#refuse(point.name, 'never-returns', '')
    else this.#take(point, point.name, parts)
  }

  #blocks(point: Point, fn: PlannedFunction): void {
    const why = whyNoFlows(fn)
    if (why !== '') return this.#refuse(point.name, why, '')
    for (const { block, count } of countBlocks(this.#ground, fn, this.#staying(), this.#accept)) {
      const insn = fn.graph.blockFirst[block]!
      this.#flow(point, `block:${this.at(fn, fn.graph.insns.rva[insn]!, fn.graph.start)}`, fn, insn, count)
    }
  }

  #edges(point: Point, fn: PlannedFunction): void {
    const why = whyNoFlows(fn)
    if (why !== '') return this.#refuse(point.name, why, '')
    const { insns, blockFirst, start, end } = fn.graph
    let any = false
    for (const { from, to, count } of countEdges(this.#ground, fn, this.#staying(), this.#accept)) {
      any = true
      const insn = blockFirst[from]!
      const target = insns.rva[blockFirst[to]!]!
      const there = target >= start && target < end ? hex(target - start) : this.at(fn, target, start)
      this.#flow(point, `edge:${this.at(fn, insns.rva[insn]!, start)}->${there}`, fn, insn, count)
    }
    if (!any) this.#refuse(point.name, 'no-edges', '')
  }

  #flow(point: Point, name: string, fn: PlannedFunction, insn: number, count: Equation | RefusalCode): void {
    if (typeof count === 'string') return this.#refuse(name, count, '')
    const parts = (splices: readonly Splice[]): Part[] => splices.map((splice) => ({ rva: siteRva(splice), splice }))
    this.#take(point, name, parts(count.plus), parts(count.minus), count.derived ? fn.graph.insns.rva[insn]! : NONE)
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

  /** @param derived the place that a derived count is of, or NONE where the parts are what is observed */
  #take(point: Point, name: string, parts: Part[], less: Part[] = [], derived: Rva = NONE): void {
    for (const { splice } of [...parts, ...less]) {
      assert(this.#accept(splice), 'a site is spliced in one way')
      if (!this.#sites.has(siteRva(splice))) this.#sites.set(siteRva(splice), splice)
    }
    this.served.push({ point, name, parts, less, derived })
  }

  #refuse(name: string, code: RefusalCode, nearest: string): void {
    this.refused.push({ name, code, reason: REFUSALS[code], nearest })
  }

  // The nearest instruction of the function's body that can be served alone.
  #nearest(fn: PlannedFunction, insn: number): string {
    const { insns, start, end } = fn.graph
    for (let d = 0; d < 64; d++) {
      for (const i of d === 0 ? [insn] : [insn + d, insn - d]) {
        if (i < 0 || i >= insns.count || insns.rva[i]! < start || insns.rva[i]! >= end) continue
        if (typeof spliceFor(this.#ground, fn, i, this.#accept) !== 'string') return `insn:${this.at(fn, insns.rva[i]!, start)}`
      }
    }
    return ''
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
  const planner = new Planner(ground)
  for (const point of points) planner.serve(point)
  const sites = planner.sites
  const indexOfSite = new Map(sites.map((splice, i) => [siteRva(splice), i]))
  const place = ({ rva, splice }: Part): ServedPart => ({ rva, site: indexOfSite.get(siteRva(splice))! })
  return {
    tables: encodeSites(image, sites),
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
