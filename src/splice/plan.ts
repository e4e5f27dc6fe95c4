// From points to a plan: finds a place to count for each point. Every point is either served whole or refused whole, with
// a code and a reason.
// The plan is not to be trusted before check.ts has accepted it.

import { equivalentBlocks } from '../cfg/equivalent.js'
import { findStaying } from '../cfg/flows.js'
import type { FunctionGraph } from '../cfg/function.js'
import { GPRS, RAX } from '../code/registers.js'
import type { SecondDecoder } from '../code/second.js'
import type { Image } from '../image/image.js'
import { hex, NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { isTraced } from '../liveness/convention.js'
import type { KernelLiveness } from '../liveness/live.js'
import type { Point } from '../probe/points.js'
import type { PointProgram } from '../probe/requests.js'
import type { TaskLayout } from '../probe/task.js'
import type { Expression } from '../probe/expression.js'
import { ARGUMENTS, eachExpression, eachPart, registersOf } from '../probe/trees.js'
import { specialRegisters } from './compile.js'
import { countFlows, deriveBlock, whyNoFlows, type CountKind } from './counts.js'
import { Draft, LEVELS, LEVEL, ROLE, SWITCHES, type HookRun, type RunWanted } from './draft.js'
import { encodeDraft, type Encoded } from './encode.js'
import { callsOf, waysOut, type WayOut } from './exits.js'
import { changesGs, Ground, type PlannedFunction } from './ground.js'
import { NO_PROGRAMS, type ProgramContext } from './hooks.js'
import type { Profile } from './layout.js'
import { PointCollector, type PointTable } from './points.js'
import { codeNumber, CODES, type RefusalCode } from './refusal.js'
import { spotsOf, type Spot, type Wants } from './spots.js'

export interface Plan {
  readonly encoded: Encoded
  readonly points: PointTable
  readonly reserved: Uint8Array
}

/** How far around a refused point the nearest one that could be served is looked for, in instructions. */
const NEAREST = 64

class Planner {
  readonly #ground: Ground
  readonly draft: Draft
  readonly points: PointCollector
  #function: PlannedFunction | undefined // the last one: points of one function follow each other

  readonly #programs: readonly Wanted[]
  readonly #task: TaskLayout | undefined
  readonly #keys = new Map<string, number>()

  constructor(ground: Ground, asked: readonly Point[], { programs, task }: ProgramContext) {
    this.#ground = ground
    this.#programs = programs.map(wantedBy)
    this.#task = task
    // Nobody may change a register on its way to a program that reads it, though it be dead.
    const kept = this.#programs.reduce((set, { registers, entryRegisters, switches }) =>
      set | registers | entryRegisters | (switches ? SWITCH_REGISTERS : 0), 0)
    this.draft = new Draft(ground, kept)
    this.points = new PointCollector(asked)
  }

  serve(point: Point, of: number): void {
    if (point.fn === NONE) return this.#refuse(of, NONE, 'ambiguous-name')
    const fn = this.#prepare(point.fn)
    if (fn.graph.incomplete === 'undecodable' || fn.graph.incomplete === 'jumps-inside') return this.#refuse(of, NONE, fn.graph.incomplete)
    if (point.program >= 0) return this.#run(of, fn, point)
    switch (point.kind) {
      case 'entry': return this.#entry(of, fn)
      case 'return': return this.#return(of, fn)
      case 'insn': return this.#insn(of, fn, point.offset)
      case 'call': return this.#calls(of, fn)
      case 'block': return this.#flows(of, fn, 'block')
      case 'edge': return this.#flows(of, fn, 'edge')
    }
  }

  // A program runs exactly where the point is. Every way out must be had, or the point means nothing.
  #run(of: number, fn: PlannedFunction, point: Point): void {
    const program = this.#programs[point.program]!
    if (program.task && this.#task === undefined) return this.#refuse(of, NONE, 'no-task')
    if (program.clashes) return this.#refuse(of, NONE, 'asm-registers')
    if (program.switches) {
      if (this.#ground.image.functions.nameOf(point.fn) === SWITCH) return this.#refuse(of, NONE, 'no-switch')
      const why = this.#switch()
      if (why !== '') return this.#refuse(of, NONE, 'no-switch')
    }
    const slot = program.counts.indexOf(point.aggregate)
    const wanted = { program: point.program, key: this.#keyOf(point), counts: program.counts.length }
    for (const { rva, to, spots, refusal } of spotsOf(this.#ground, fn, point, program)) {
      if (refusal !== '') {
        this.points.refuse(of, rva, codeNumber(refusal), to)
        continue
      }
      const runs: HookRun[] = []
      let why: RefusalCode | '' = ''
      let entered: Rva = NONE
      for (const spot of spots) {
        const run = this.#runAt(fn, behind(fn, spot, entered), {
          ...wanted, ...(spot.enters && { counts: 0 }), role: spot.enters ? ROLE.enter : point.kind === 'span' ? ROLE.leave : ROLE.whole,
        })
        if (typeof run === 'string') {
          why = run
          break
        }
        runs.push(run)
        if (spot.enters) entered = this.#ground.start(run.insn)
      }
      if (why !== '') {
        for (const run of runs) this.draft.stop(run)
        this.points.refuse(of, rva, codeNumber(why), to)
        continue
      }
      this.points.serve(of, rva, to)
      if (slot < 0) continue
      for (const { firstSlot, counts } of runs) if (counts > 0) this.points.term(firstSlot + slot, this.#ground.start(this.draft.slotInsn[firstSlot + slot]!))
    }
  }

  #switched: RefusalCode | '' | undefined
  /** Sees to it that spans hear of every switch from one thread to another; or says why they cannot. */
  #switch(): RefusalCode | '' {
    return this.#switched ??= this.#serveSwitch()
  }

  #serveSwitch(): RefusalCode | '' {
    const { functions } = this.#ground.image
    const found = functions.functionsNamed(SWITCH)
    if (found.length !== 1) return 'no-switch'
    const fn = this.#ground.prepare(found[0]!)
    if (fn.graph.incomplete !== '') return fn.graph.incomplete
    const point = { name: SWITCH, kind: 'entry', fn: found[0]!, functionName: SWITCH, offset: 0, aggregate: '', program: SWITCHES } as const
    const [row] = spotsOf(this.#ground, fn, point, { registers: SWITCH_REGISTERS, caller: false, entryRegisters: 0 })
    if (row!.refusal !== '') return row!.refusal
    const run = this.#runAt(fn, row!.spots[0]!, { program: SWITCHES, role: ROLE.whole, key: NONE, counts: 0 })
    return typeof run === 'string' ? run : ''
  }

  /** One number for each point of each program. */
  #keyOf({ program, name, fn }: Point): number {
    const text = `${program} ${name} ${fn}`
    const key = this.#keys.get(text) ?? this.#keys.size
    this.#keys.set(text, key)
    return key
  }

  #runAt(fn: PlannedFunction, { insns, takes }: Spot, wanted: RunWanted): HookRun | RefusalCode {
    let why: RefusalCode | undefined
    for (const level of LEVELS) {
      if (takes) {
        const run = this.draft.run(fn, insns[0]!, 1, level, wanted)
        if (typeof run !== 'string') return run
        why = run
        continue
      }
      let best = NONE
      let cost = Infinity
      for (const insn of insns) {
        // Where it runs already it stays: each count of a point is a row of its own.
        const own = this.draft.runsAt(fn, insn, wanted) ? -1 : this.draft.costBefore(fn, insn, level)
        if (own >= cost) continue
        best = insn
        cost = own
      }
      if (best === NONE) continue
      const run = this.draft.run(fn, best, 0, level, wanted)
      if (typeof run !== 'string') return run
      why ??= run
    }
    if (why !== undefined) return why
    const own = this.draft.run(fn, insns[0]!, 0, LEVEL.shortJump, wanted)
    // As for counts: what is missing is a neighbour that would do.
    return own === 'ftrace' || own === 'endbr' ? 'too-short' : own
  }

  #prepare(index: number): PlannedFunction {
    if (this.#function?.index !== index) this.#function = this.#ground.prepare(index)
    return this.#function
  }

  #refuse(of: number, rva: Rva, code: RefusalCode, nearest: Rva = NONE): void {
    this.points.refuse(of, rva, codeNumber(code), NONE, nearest)
  }

  #entry(of: number, fn: PlannedFunction): void {
    const start = indexOf(fn.graph.insns.rva, fn.graph.start)
    if (fn.graph.incomplete !== '' && isTraced(this.#ground.image, fn.graph.start)) {
      return this.#refuse(of, fn.graph.start, fn.graph.incomplete, this.#nearest(fn, start))
    }
    this.#single(of, fn, start)
  }

  #insn(of: number, fn: PlannedFunction, offset: number): void {
    const { insns, start, end } = fn.graph
    const insn = indexOf(insns.rva, start + offset)
    if (insn < 0 || start + offset >= end) {
      const before = insns.rva.findLastIndex((rva) => rva <= start + offset)
      return this.#refuse(of, start + offset, 'no-instruction', this.#nearest(fn, Math.max(0, before)))
    }
    this.#single(of, fn, insn)
  }

  #calls(of: number, fn: PlannedFunction): void {
    let any = false
    for (const insn of callsOf(this.#ground.image, fn.graph)) {
      any = true
      this.#single(of, fn, insn)
    }
    if (!any) this.#refuse(of, NONE, 'no-calls')
  }

  #single(of: number, fn: PlannedFunction, insn: number): void {
    const rva = fn.graph.insns.rva[insn]!
    const count = this.#count(fn, insn)
    if (typeof count === 'string') return this.#refuse(of, rva, count, this.#nearest(fn, insn))
    this.points.serve(of, rva, NONE, typeof count === 'number' ? 0 : 1)
    this.#put(count, rva)
  }

  /** The terms of a count: one slot, observed at an rva, or those that it is derived from. */
  #put(count: number | Uint32Array, rva: Rva): void {
    if (typeof count === 'number') return this.points.term(count, rva)
    for (const term of count) this.points.term(term >>> 1, this.#ground.start(this.draft.slotInsn[term >>> 1]!), term & 1)
  }

  // Every way out must be counted, or the point means nothing.
  #return(of: number, fn: PlannedFunction): void {
    const { graph } = fn
    if (graph.incomplete !== '' || graph.alternativeLeaves) return this.#refuse(of, NONE, graph.incomplete || 'unusual-exit')
    const at = ({ insn }: WayOut): Rva => graph.insns.rva[insn]!
    const exits: WayOut[] = []
    for (const way of waysOut(this.#ground.image, graph)) {
      if (!way.usual) return this.#refuse(of, at(way), 'unusual-exit', this.#nearest(fn, way.insn))
      exits.push(way)
    }
    if (exits.length === 0) return this.#refuse(of, NONE, 'never-returns')
    const counts: (number | Uint32Array)[] = []
    for (const way of exits) {
      const count = way.takes ? this.draft.taken(fn, way.insn, LEVEL.shortJump) : this.#count(fn, way.insn)
      if (typeof count === 'string') return this.#refuse(of, at(way), count, this.#nearest(fn, way.insn))
      counts.push(count)
    }
    this.points.serve(of, at(exits[0]!), NONE, counts.some((count) => typeof count !== 'number') ? 1 : 0)
    exits.forEach((way, k) => this.#put(counts[k]!, at(way)))
  }

  #flows(of: number, fn: PlannedFunction, kind: CountKind): void {
    const why = whyNoFlows(fn)
    if (why !== '') return this.#refuse(of, NONE, why)
    const { graph } = fn
    const { asked, refusal, derived, start, term } = countFlows(this.draft, fn, this.#staying(), kind)
    const at = (block: number): Rva => graph.insns.rva[graph.blockFirst[block]!]!
    const put = (item: number, rva: Rva, to: Rva): void => {
      if (refusal[item] !== 0) return this.points.refuse(of, rva, refusal[item]!, to)
      this.points.serve(of, rva, to, derived[item]!)
      for (let t = start[item]!; t < start[item + 1]!; t++) {
        const slot = term[t]! >>> 1
        this.points.term(slot, this.#ground.start(this.draft.slotInsn[slot]!), term[t]! & 1)
      }
    }
    if (kind === 'block') {
      for (let b = 0; b < graph.blockCount; b++) if (asked[b]) put(b, at(b), NONE)
      return
    }
    let any = false
    for (let from = 0; from < graph.blockCount; from++) {
      for (let e = graph.succStart[from]!; e < graph.succStart[from + 1]!; e++) {
        if (!asked[e]) continue
        any = true
        put(e, at(from), at(graph.succ[e]!))
      }
    }
    if (!any) this.#refuse(of, NONE, 'no-edges')
  }

  #stays: Uint8Array | undefined
  #staying(): Uint8Array {
    return this.#stays ??= findStaying(this.#ground.graph)
  }

  /**
   * Counts exactly the runs of an instruction: there, or at another one that runs as often (of the same block, or of a
   * block that runs with it), whichever costs least; or by conclusion from other counts, if there is no such place.
   */
  #count(fn: PlannedFunction, insn: number): number | Uint32Array | RefusalCode {
    const { graph } = fn
    if (changesGs(graph)) return 'gs-changes'
    const block = graph.blockOfInsn[insn]!
    // Another variant of an alternative may have no such instruction, or another one there.
    const there = this.#codeAt(graph.insns.rva[insn]!)
    const rewritten = there === 'alternative' || there === 'paravirt'
    if (rewritten && insn !== graph.blockFirst[block]) return there
    const places: number[][] = [[insn]]
    // Where the graph is not complete, blocks may have entries that nobody knows of: only the instruction itself will do.
    if (graph.incomplete === '' && !rewritten) {
      places[0] = [insn, ...others(graph, block, insn)]
      for (const other of equivalentBlocks(graph, block).slice(1)) places.push(others(graph, other, insn))
    }
    let why: RefusalCode | undefined
    for (const level of LEVELS) {
      for (const candidates of places) {
        let best = NONE
        let cost = Infinity
        for (const i of candidates) {
          const own = this.draft.costBefore(fn, i, level)
          if (own >= cost) continue
          best = i
          cost = own
        }
        if (best === NONE) continue
        const slot = this.draft.before(fn, best, level)
        if (typeof slot === 'number') return slot
        why ??= slot
      }
    }
    const own = this.draft.before(fn, insn, LEVEL.shortJump)
    if (typeof own === 'number') return own
    // A block may be left in its middle only by its last instruction, so all of them run as often as it is entered.
    const derived = rewritten ? undefined : deriveBlock(this.draft, fn, this.#staying(), block)
    if (derived !== undefined) return derived
    // The start of nearly every function is an ftrace site or an ENDBR; what is missing is a neighbour that would do.
    if (own === 'ftrace' || own === 'endbr') return why ?? 'too-short'
    return own
  }

  #codeAt(rva: Rva): RefusalCode | '' {
    return CODES[this.#ground.reserved[rva - this.#ground.image.textStart] ?? 0]!
  }

  // The nearest instruction of the function's body that can be served alone. A suggestion: other points may take the
  // springboards meanwhile.
  #nearest(fn: PlannedFunction, insn: number): Rva {
    const { insns, start, end } = fn.graph
    if (changesGs(fn.graph)) return NONE
    for (let d = 0; d < NEAREST; d++) {
      for (const i of d === 0 ? [insn] : [insn + d, insn - d]) {
        if (i < 0 || i >= insns.count || insns.rva[i]! < start || insns.rva[i]! >= end) continue
        if (this.draft.costBefore(fn, i, LEVEL.window) !== Infinity) return insns.rva[i]!
      }
    }
    return NONE
  }
}

/** Where one thread becomes another (arch/x86/kernel/process_64.c, 6.1 and 6.12): the two are its arguments. */
const SWITCH = '__switch_to'
const SWITCH_REGISTERS = (1 << ARGUMENTS[0]!) | (1 << ARGUMENTS[1]!)

/** A spot, but for the instructions before the one at which the call was remembered, if they lie in one line with it. */
const behind = ({ graph: { insns } }: PlannedFunction, spot: Spot, entered: Rva): Spot => {
  if (entered === NONE || spot.takes) return spot
  const last = spot.insns.reduce((most, i) => Math.max(most, insns.rva[i]!), 0)
  return { ...spot, insns: spot.insns.filter((i) => insns.rva[i]! >= entered || last < entered) }
}

/** What a program reads, and what it counts for each point. */
interface Wanted extends Wants {
  readonly counts: readonly string[]
  readonly task: boolean
  readonly clashes: boolean // assembly uses what the compiler needs
  readonly switches: boolean // it must hear of every switch from one thread to another
}

const wantedBy = (program: PointProgram): Wanted => {
  let registers = 0
  let touched = 0
  for (const { reads, writes } of program.assembled.values()) {
    registers |= reads & GPRS
    touched |= (reads | writes) & GPRS
  }
  const { span } = program
  let entryRegisters = 0
  // A span knows its calls by where the return address is, and remembers the arguments that are asked for.
  let [caller, task] = [span !== undefined, span?.oncpu ?? false]
  const see = (one: Expression): void => eachPart(one, (part) => {
    if (part.op !== 'input') return
    caller ||= part.input === 'caller'
    task ||= part.input === 'cpu' || part.input === 'pid' || part.input === 'tid'
  })
  eachExpression(program, (one) => {
    if (span === undefined) registers |= registersOf(one)
    else {
      entryRegisters |= registersOf(one) & ~RAX
      registers |= registersOf(one) & RAX
    }
    see(one)
  })
  if (span?.entry !== undefined) {
    entryRegisters |= registersOf(span.entry)
    see(span.entry)
  }
  return {
    registers, entryRegisters, caller, task, counts: program.counts, clashes: (touched & specialRegisters(program)) !== 0,
    switches: span?.oncpu ?? false,
  }
}

/** The instructions of a block but one, nearest to that one first. */
const others = (graph: FunctionGraph, block: number, insn: number): number[] => {
  const list: number[] = []
  for (let i = graph.blockFirst[block]!; i < graph.blockFirst[block + 1]!; i++) if (i !== insn) list.push(i)
  return list.sort((x, y) => Math.abs(x - insn) - Math.abs(y - insn))
}

/** function+0xoffset of any rva. */
export const placeOf = (image: Image, rva: Rva): string => {
  const f = image.functions.functionAt(rva)
  return f === NONE ? hex(image.base + BigInt(rva)) : `${image.functions.nameOf(f)}+${hex(rva - image.functions.start[f]!)}`
}

/** What a plan is made for beside its points. */
export interface PlanOptions {
  /** What ran before all others is laid out first. */
  readonly profile?: Profile
  readonly programs?: ProgramContext
}

/** Chooses sites for all points and encodes their patches. */
export const makePlan = (
  live: KernelLiveness, second: SecondDecoder, asked: readonly Point[], { profile, programs = NO_PROGRAMS }: PlanOptions = {},
): Plan => {
  const ground = new Ground(live, second)
  const planner = new Planner(ground, asked, programs)
  asked.forEach((point, of) => planner.serve(point, of))
  const { slotOf, ...encoded } = encodeDraft(planner.draft, { programs, ...(profile && { profile }) })
  return { encoded, points: planner.points.table(slotOf), reserved: ground.reserved }
}
