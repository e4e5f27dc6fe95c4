// The programs of a plan's hooks, written into its patches. In: the draft, the programs, their aggregates. Out: code at each
// hook, the numbers of the slots that it counts in, and where each aggregate's slots are.
// Slots are numbered so: the counters of the plan, the counts that programs keep for single points, in the order of their
// code; then one that counts what could not be recorded, and the aggregates.

import { EXIT, KerninstError } from '../error.js'
import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { Aggregates, isPointCount, PIECE_SLOTS } from '../probe/aggregates.js'
import type { Aggregate } from '../probe/program.js'
import type { PointProgram } from '../probe/requests.js'
import type { TaskLayout } from '../probe/task.js'
import type { CodeBuffer } from './code.js'
import { Column } from './column.js'
import { compilePrograms, type Bound } from './compile.js'
import { ROLE, SWITCHES, type Draft, type HookRun } from './draft.js'
import { layOutFrames, SPAN_BITS, type FrameLayout } from './frames.js'
import type { SpanPart } from './spans.js'
import { TACTIC } from './tactics.js'

/** Where programs run, in the order of their code. */
export interface HookTable {
  readonly count: number
  readonly site: Uint32Array //      hook -> site
  readonly rva: Uint32Array //       hook -> the instruction before which they run, or whose taken side
  readonly takes: Uint32Array //     hook -> 1 for that
  readonly live: Uint32Array //      hook -> register set that they must leave alone
  readonly start: Uint32Array //     hook -> offset of their code
  readonly end: Uint32Array //       hook -> and where it ends
  readonly firstSlot: Uint32Array // hook -> the first of the counts that they keep for a point by itself
  readonly slotCount: Uint32Array // hook -> how many
  readonly asmStart: Uint32Array //  hook -> first index into asm; asmStart[count] = asm.length
  readonly asm: Uint32Array //       offsets of assembly that users wrote: start, end, start, end
}

/** Where the slots of aggregates are. */
export interface SlotLayout {
  readonly missed: number //      slot that counts what could not be recorded, or NONE
  readonly first: Uint32Array //  aggregate -> its first slot
  readonly size: Uint32Array //   aggregate -> how many
  readonly slotCount: number //   of all
}

/** What the programs of hooks are. */
export interface ProgramContext {
  readonly programs: readonly PointProgram[]
  readonly aggregates: Aggregates
  readonly task: TaskLayout | undefined
  /** A span remembers at most 2 to the power of this many calls in flight. */
  readonly spanBits: number
}

export const NO_PROGRAMS: ProgramContext = { programs: [], aggregates: new Aggregates(), task: undefined, spanBits: SPAN_BITS.usual }

/** Puts aggregates behind `used` slots, each in one piece of the heap. */
export const layOutSlots = (used: number, { programs, aggregates }: ProgramContext): SlotLayout => {
  if (programs.length === 0) return { missed: NONE, first: new Uint32Array(0), size: new Uint32Array(0), slotCount: used }
  let next = used + 1
  const size = Uint32Array.from(aggregates.tables, ({ keys, width }) => keys * width)
  const first = size.map((slots) => {
    if ((next % PIECE_SLOTS) + slots > PIECE_SLOTS) next += PIECE_SLOTS - (next % PIECE_SLOTS)
    next += slots
    return next - slots
  })
  return { missed: used, first, size, slotCount: next }
}

/** Bytes from %rsp to the function's return address where a hook's code runs; -1 where nobody knows. */
export const returnAddressAt = (image: Image, rva: Rva, tactic: number): number => {
  const offset = image.orc.returnAddressAt(rva)
  // A call that leads to the patch has pushed its own.
  return offset < 0 || tactic !== TACTIC.retargetCall ? offset : offset + 8
}

const NO_ASSEMBLY: PointProgram['assembled'] = new Map()
const noBinding = (): never => {
  throw new Error('it has no aggregates')
}

/** All programs of one hook together; the verifier takes no more than twice that. */
const MAX_BYTES = 30_000

export class HookWriter {
  readonly layout: SlotLayout
  readonly frames: FrameLayout
  readonly #draft: Draft
  readonly #context: ProgramContext
  #nextSlot: number
  readonly #number: (slot: number, number: number, site: number) => void
  readonly #columns = {
    site: new Column(), rva: new Column(), takes: new Column(), live: new Column(), start: new Column(), end: new Column(),
    firstSlot: new Column(), slotCount: new Column(), asmStart: new Column(), asm: new Column(),
  }

  /**
   * @param counters how many counters the plan has: slots are numbered from there on
   * @param number is told which number a slot of the draft gets
   */
  constructor(draft: Draft, context: ProgramContext, counters: number, number: (slot: number, number: number, site: number) => void) {
    this.#draft = draft
    this.#context = context
    this.#nextSlot = counters
    this.#number = number
    this.layout = layOutSlots(draft.slotInsn.length, context)
    this.frames = layOutFrames(context.programs, context.spanBits)
  }

  /**
   * Appends the code of the hook at an instruction, if there is one.
   * @throws KerninstError (65) where it is too much
   */
  write(code: CodeBuffer, insn: number, takes: number, site: number, tactic: number): void {
    const hook = this.#draft.hookAt(insn, takes)
    if (hook === undefined) return
    const { ground: { image, graph: { insns } } } = this.#draft
    const start = code.length
    const firstSlot = this.#nextSlot
    const programs = hook.runs.map((run) => {
      const span = this.#spanPart(run)
      if (run.program === SWITCHES) return { body: [], assembled: NO_ASSEMBLY, bind: noBinding, ...(span && { span }) }
      const program = this.#context.programs[run.program]!
      const first = this.#nextSlot
      for (let n = 0; n < run.counts; n++) this.#number(run.firstSlot + n, this.#nextSlot++, site)
      const { predicate, body, assembled } = program
      return {
        ...(predicate && { predicate }), body, assembled, ...(span && { span }),
        bind: (one: Aggregate) => this.#bind(program, first, one),
      }
    })
    const rva = takes ? insns.target[insn]! : insns.rva[insn]!
    const stretches = compilePrograms(code, hook.live, programs, {
      task: this.#context.task, returnAddress: returnAddressAt(image, rva, tactic), missed: this.layout.missed,
    })
    if (code.length - start > MAX_BYTES) {
      throw new KerninstError(EXIT.data,
        `the programs at one place come to ${code.length - start} bytes of code, more than ${MAX_BYTES}: let there be fewer, or simpler ones`)
    }
    const columns = this.#columns
    columns.asmStart.push(columns.asm.length)
    for (const offset of stretches.flat()) columns.asm.push(offset)
    columns.site.push(site)
    columns.rva.push(insns.rva[insn]!)
    columns.takes.push(takes)
    columns.live.push(hook.live)
    columns.start.push(start)
    columns.end.push(code.length)
    columns.firstSlot.push(firstSlot)
    columns.slotCount.push(this.#nextSlot - firstSlot)
  }

  #spanPart({ program, role }: HookRun): SpanPart | undefined {
    const { threads, tables } = this.frames
    if (program === SWITCHES) return { role: 'switch', threads: threads! }
    const terms = this.#context.programs[program]!.span
    return terms && { role: role === ROLE.enter ? 'enter' : 'leave', terms, frames: tables[program]!, threads }
  }

  #bind({ counts }: PointProgram, first: number, one: Aggregate): Bound {
    if (isPointCount(one)) return { slot: first + counts.indexOf(one.name), width: 1, keyed: false }
    const { aggregates } = this.#context
    const index = aggregates.indexOf(one)
    const { width, keyKind } = aggregates.tables[index]!
    return { slot: this.layout.first[index]!, width, keyed: keyKind === 'index' }
  }

  table(): HookTable {
    const { site, rva, takes, live, start, end, firstSlot, slotCount, asmStart, asm } = this.#columns
    asmStart.push(asm.length)
    return {
      count: site.length, site: site.values(), rva: rva.values(), takes: takes.values(), live: live.values(), start: start.values(),
      end: end.values(), firstSlot: firstSlot.values(), slotCount: slotCount.values(),
      asmStart: asmStart.values(), asm: asm.values(),
    }
  }
}
