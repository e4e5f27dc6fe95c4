// From points to a plan: chooses a site for each point, gives each site a counter slot and a patch, and lays the patches
// out in the order of the sites. Every point is either served whole or refused whole, with a code and a reason.
// The plan is not to be trusted before check.ts has accepted it.

import { reachable, type FunctionGraph } from '../cfg/function.js'
import { END } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import type { SecondDecoder } from '../code/second.js'
import { assert } from '../error.js'
import { bytesAt, type Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { isTraced } from '../liveness/convention.js'
import type { KernelLiveness } from '../liveness/live.js'
import type { Point } from '../probe/points.js'
import { CodeBuffer } from './code.js'
import { emitCounters } from './counter.js'
import { move, originalOf } from './move.js'
import { REFUSALS, type RefusalCode } from './refusal.js'
import { findReserved } from './reserved.js'
import {
  insnIndex, prepareFunction, siteRva, spliceFor, spliceTaken, type Ground, type PlannedFunction, type Splice, type Tactic,
} from './site.js'
import {
  EXPECTED_BYTES, FORM_BYTES, FORM_KIND, RELOC_KIND, SITE_KIND, type PatchTables,
} from './tables.js'

/** A place that a point counts: its runs are those of `site`. */
export interface ServedPart {
  readonly rva: Rva // the place asked for, e.g. one return
  readonly site: number
}

export interface ServedPoint {
  readonly point: Point
  readonly name: string //   with the place, for call points
  readonly parts: readonly ServedPart[]
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

/** The one class of forms so far: what a return site may hold. */
const RETURN_FORMS = 1

/** Patches start at multiples of this, so that one is rarely spread over two cache lines. */
const PATCH_ALIGNMENT = 16

interface Part {
  rva: Rva
  splice: Splice
}

class Planner {
  readonly #ground: Ground
  readonly #functions = new Map<number, PlannedFunction>()
  readonly #sites = new Map<Rva, Splice>()
  readonly served: { point: Point; name: string; parts: Part[] }[] = []
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

  #reachedBlocks(graph: FunctionGraph): Uint8Array {
    return reachable(graph, [...graph.entries])
  }

  // A site can be shared by points that count the same thing there.
  readonly #accept = (splice: Splice): boolean => {
    const there = this.#sites.get(siteRva(splice))
    return there === undefined || there.tactic === splice.tactic
  }

  #take(point: Point, name: string, parts: Part[]): void {
    for (const { splice } of parts) {
      assert(this.#accept(splice), 'a site is spliced in one way')
      if (!this.#sites.has(siteRva(splice))) this.#sites.set(siteRva(splice), splice)
    }
    this.served.push({ point, name, parts })
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
  return {
    tables: encode(image, sites),
    served: planner.served.map(({ point, name, parts }) => ({
      point,
      name,
      parts: parts.map(({ rva, splice }) => ({ rva, site: indexOfSite.get(siteRva(splice))! })),
    })),
    refused: planner.refused,
    tactics: sites.map((splice) => splice.tactic),
    live: Uint32Array.from(sites, (splice): RegisterSet => splice.live),
    reserved: ground.reserved,
  }
}

// The forms of a return site (arch/x86/kernel/alternative.c, __apply_returns; 6.1 and 6.12): a plain ret and four int3,
// or a jump to whichever return thunk the mitigations chose.
const returnForms = (image: Image): { kind: number; bytes: number[]; target: Rva }[] => {
  const forms: { kind: number; bytes: number[]; target: Rva }[] = [
    { kind: FORM_KIND.literal, bytes: [0xc3, 0xcc, 0xcc, 0xcc, 0xcc], target: NONE },
  ]
  const thunks = new Set<Rva>()
  for (let f = 0; f < image.functions.count; f++) {
    if (/_return_thunk$/.test(image.functions.nameOf(f))) thunks.add(image.functions.start[f]!)
  }
  for (const name of ['__x86_return_thunk', 'retbleed_return_thunk', 'zen_return_thunk', 'srso_return_thunk',
    'srso_alias_return_thunk', 'call_depth_return_thunk', 'its_return_thunk']) {
    for (const i of image.symbols.find(name)) thunks.add(image.symbols.rva[i]!)
  }
  for (const target of [...thunks].sort((a, b) => a - b)) forms.push({ kind: FORM_KIND.jmp, bytes: [], target })
  return forms
}

const encode = (image: Image, sites: readonly Splice[]): PatchTables => {
  const count = sites.length
  const siteRvas = new Uint32Array(count)
  const sitePatch = new Uint32Array(count)
  const siteLength = new Uint8Array(count)
  const siteKind = new Uint8Array(count)
  const siteFormClass = new Uint8Array(count)
  const siteRelocKind = new Uint8Array(count)
  const siteRelocOffset = new Uint8Array(count)
  const siteTail = new Uint32Array(count).fill(NONE)
  const siteExpected = new Uint8Array(count * EXPECTED_BYTES)
  const code = new CodeBuffer()
  sites.forEach((splice, s) => {
    const { insns } = splice.fn.graph
    const rva = siteRva(splice)
    const length = insns.length[splice.insn]!
    const target = insns.target[splice.insn]!
    const flow = insns.flow[splice.insn]!
    code.align(PATCH_ALIGNMENT)
    siteRvas[s] = rva
    sitePatch[s] = code.length
    siteLength[s] = length
    emitCounters(code, splice.live, [s])
    if (splice.tactic === 'return') {
      siteKind[s] = SITE_KIND.jmp
      siteFormClass[s] = RETURN_FORMS
      siteTail[s] = code.length
      siteExpected.set(bytesAt(image, rva, length), s * EXPECTED_BYTES)
      code.emit(0xcc, 0xcc, 0xcc, 0xcc, 0xcc)
      return
    }
    const original = originalOf(image, rva, length)
    assert(typeof original !== 'string', 'a chosen site can be described')
    siteExpected.set(original.bytes, s * EXPECTED_BYTES)
    siteRelocKind[s] = original.relocKind
    siteRelocOffset[s] = original.relocKind === RELOC_KIND.none ? 0 : original.relocOffset
    if (splice.tactic === 'jump-over') {
      siteKind[s] = SITE_KIND.jmp
      const moved = move(image, rva, length, flow, target)
      assert(typeof moved !== 'string', 'a chosen site can be moved')
      code.append(moved.bytes, moved.fixups)
      if (flow !== FLOW.indirectJump) code.jumpTo(rva + length)
    } else {
      siteKind[s] = splice.tactic === 'retarget-call' ? SITE_KIND.call
        : splice.tactic === 'retarget-branch' ? SITE_KIND.jcc : SITE_KIND.jmp
      code.jumpTo(target)
    }
  })
  const needsForms = siteFormClass.some((c) => c !== 0)
  const forms = needsForms ? returnForms(image) : []
  const formBytes = new Uint8Array(forms.length * FORM_BYTES)
  forms.forEach((form, i) => formBytes.set(form.bytes, i * FORM_BYTES))
  return {
    siteCount: count, siteRva: siteRvas, sitePatch, siteLength, siteKind, siteFormClass, siteRelocKind, siteRelocOffset,
    siteTail, siteExpected,
    formCount: forms.length,
    formClass: new Uint8Array(forms.length).fill(RETURN_FORMS),
    formKind: Uint8Array.from(forms, (f) => f.kind),
    formBytes,
    formTarget: Uint32Array.from(forms, (f) => f.target),
    fixupCount: code.fixups.length,
    fixupOffset: Uint32Array.from(code.fixups, (f) => f.offset),
    fixupValue: Uint32Array.from(code.fixups, (f) => f.value),
    fixupKind: Uint8Array.from(code.fixups, (f) => f.kind),
    fixupTrail: Uint8Array.from(code.fixups, (f) => f.trail),
    code: code.bytes(),
    slotCount: count,
  }
}

