// The plan while it is made: sites, the counters and programs in their patches, and what each byte of text is used for. A
// counter is asked for before an instruction, or on the taken side of a conditional jump; the draft finds a way to put it
// there, or says why there is none. What is asked for is done whole or not at all.
//
// A *hook* is such a place at which programs run, behind its counter if it has one. The counts that a program keeps for a
// point by itself are slots as well, of that hook.
//
// The ways (tactics), cheapest first. Each replaces the first bytes of a site by one jump, call or branch:
//
//   retarget-call     call F            the call's displacement goes to the patch, which ends in jmp F; the return
//                                       address is the natural one
//   retarget-jump     jmp T             likewise, ends in jmp T
//   return            jmp return_thunk  a return site: what the kernel made of it at boot ends the patch
//   retarget-branch   jcc T             the taken side goes to the patch, which ends in jmp T: counts that side only
//   jump-over         5 bytes or more   jmp to the patch, which runs the moved instruction and jumps back
//   window            several short     jmp to the patch, which runs all of them; nothing may jump between them
//   short-jump        2 bytes or more   jmp rel8 to a springboard, which jumps to the patch
//
// A springboard lies in padding between functions, or in what a window leaves free behind its own jump. Where there is
// neither, a window nearby is moved away for its room alone (eviction).
//
// Once instructions are moved, a counter before any of them costs nothing more than itself: several points that lie in
// one site share its patch.

import type { FunctionGraph } from '../cfg/function.js'
import { EDGE, END } from '../cfg/kinds.js'
import { FLOW } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf } from '../image/search.js'
import { Column } from './column.js'
import { counterCost } from './counter.js'
import { wholeInsn, type Ground, type PlannedFunction } from './ground.js'
import { findPadding } from './padding.js'
import type { RefusalCode } from './refusal.js'
import { BYTE, JUMP_BYTES, Room } from './room.js'
import { TACTIC } from './tactics.js'

/** How far the search for a way goes: each level also tries what the ones before it do. */
export const LEVEL = { direct: 0, window: 1, shortJump: 2 } as const

/** All levels, cheapest first. */
export const LEVELS = [LEVEL.direct, LEVEL.window, LEVEL.shortJump] as const

/** A window has at most so many bytes (kmod/uapi/kerninst.h: expected[16]). */
const MAX_WINDOW = 16

/** A window whose bytes behind its jump hold a springboard. */
const MIN_HOST = 2 * JUMP_BYTES

/** So many instructions on either side are tried as the start of a window to evict. */
const HOSTS_TRIED = 48

/** A jump with an 8-bit displacement. */
const SHORT_BYTES = 2

/** Jumps to the patch and back. */
const DETOUR = 2

/** A place at which programs run. */
export interface Hook {
  readonly insn: number // before which they run, or whose taken side
  readonly takes: number // 1 for that
  readonly live: RegisterSet // what they must leave alone
  readonly runs: HookRun[] // in the order in which they were asked for
}

/** What of a program runs at a hook: all of it; or of a span's, what belongs to the entry or to a way out. */
export const ROLE = { whole: 0, enter: 1, leave: 2 } as const

/** In place of a program's index: what runs at every switch from one thread to another, for spans. */
export const SWITCHES = 0xffff_ffff

export interface HookRun {
  readonly program: number //   index, or SWITCHES
  readonly role: number //      ROLE
  readonly key: number //       of the point that it runs for
  readonly insn: number
  readonly takes: number
  readonly firstSlot: number // of its counts, which follow each other
  readonly counts: number //    how many
}

/** What is asked to run somewhere. */
export type RunWanted = Pick<HookRun, 'program' | 'role' | 'key' | 'counts'>

export class Draft {
  readonly ground: Ground
  readonly room: Room
  readonly siteOf: Uint32Array //    insn -> the site that it lies in, or NONE
  readonly #slotBefore: Uint32Array // insn -> slot, or NONE
  readonly #slotTaken = new Map<number, number>() // insn -> slot

  readonly #siteFirst = new Column()
  readonly #siteCount = new Column()
  readonly #siteTactic = new Column()
  readonly #siteBoard = new Column()

  readonly slotInsn: number[] = [] //    slot -> the insn before which it counts, or whose taken side
  readonly #slotTakes = new Column()
  readonly #slotLive = new Column()
  readonly #slotPlain = new Column()

  readonly #hooks = new Map<number, Hook>() // 2 * insn, + 1 for its taken side -> hook
  /** Registers that programs read: nothing in any patch may change them, live or not. */
  readonly kept: RegisterSet

  constructor(ground: Ground, kept: RegisterSet = 0) {
    this.ground = ground
    this.kept = kept
    const { image, graph } = ground
    this.room = new Room(image.textStart, image.textEnd)
    findPadding(graph, ground.reserved, (start, end) => {
      this.room.set(start, end, BYTE.padding)
      this.room.commit()
    })
    this.siteOf = new Uint32Array(graph.insns.count).fill(NONE)
    this.#slotBefore = new Uint32Array(graph.insns.count).fill(NONE)
  }

  /** site -> its first insn */
  get siteFirst(): Uint32Array {
    return this.#siteFirst.values()
  }

  /** site -> how many */
  get siteCount(): Uint32Array {
    return this.#siteCount.values()
  }

  /** site -> TACTIC */
  get siteTactic(): Uint32Array {
    return this.#siteTactic.values()
  }

  /** site -> rva of its springboard, or NONE */
  get siteBoard(): Uint32Array {
    return this.#siteBoard.values()
  }

  /** slot -> 1 where the taken side is counted */
  get slotTakes(): Uint32Array {
    return this.#slotTakes.values()
  }

  /** slot -> register set that counting must leave alone */
  get slotLive(): Uint32Array {
    return this.#slotLive.values()
  }

  /** slot -> 1 where it counts whatever runs, 0 where a program decides */
  get slotPlain(): Uint32Array {
    return this.#slotPlain.values()
  }

  /** The hook before an instruction (takes 0) or on its taken side (1). */
  hookAt(i: number, takes: number): Hook | undefined {
    return this.#hooks.get(2 * i + takes)
  }

  #liveBefore(fn: PlannedFunction, insn: number): RegisterSet {
    return fn.liveness.liveIn[insn]! | this.kept
  }

  /**
   * Instructions added to each run by a counter before an instruction, Infinity where there is no way to put one there.
   * Springboards are taken to be had.
   */
  costBefore(fn: PlannedFunction, insn: number, level: number): number {
    const i = wholeInsn(this.ground, fn, insn)
    if (this.#slotBefore[i] !== NONE) return 0
    const counting = counterCost(this.#liveBefore(fn, insn))
    const site = this.siteOf[i]!
    if (site !== NONE) return this.#joins(site, i) ? counting : Infinity
    if (!this.#isDirect(fn.graph, insn, i)) return this.#costIndirect(i, counting, level)
    const flow = this.ground.graph.insns.flow[i]
    const transfers = flow === FLOW.call || flow === FLOW.jump || flow === FLOW.indirectJump || flow === FLOW.return
    return counting + (transfers ? 1 : DETOUR)
  }

  #costIndirect(i: number, counting: number, level: number): number {
    if (level >= LEVEL.window && this.#windowAround(i) !== NONE) return counting + DETOUR
    return level >= LEVEL.shortJump && this.#whyNoShortJump(i) === '' ? counting + DETOUR + 1 : Infinity
  }

  /**
   * The same for a counter on the taken side of a conditional jump, for each run of the jump: half of them go either
   * way, as far as anyone knows.
   */
  costTaken(fn: PlannedFunction, insn: number, level: number): number {
    const { insns } = this.ground.graph
    const i = wholeInsn(this.ground, fn, insn)
    if (insns.flow[i] !== FLOW.branch) return Infinity
    if (this.#slotTaken.has(i)) return 0
    const counting = counterCost(liveTaken(fn, insn) | this.kept) / 2
    const site = this.siteOf[i]!
    if (site !== NONE) return this.#mayTake(site) ? counting : Infinity
    if (this.#retargets(i)) return counting + 1 / 2
    return this.#isDirect(fn.graph, insn, i) ? counting + DETOUR : this.#costIndirect(i, counting, level)
  }

  /** How a counter would be put before an instruction, as a TACTIC, or why not. Nothing is changed. */
  wayBefore(fn: PlannedFunction, insn: number): number | RefusalCode {
    const i = wholeInsn(this.ground, fn, insn)
    const site = this.siteOf[i]!
    if (site !== NONE) return this.#joins(site, i) ? this.#siteTactic.at(site) : 'site-taken'
    const why = this.#direct(fn.graph, insn, i)
    if (why === '') return this.ground.confirms(i) ? this.#directTactic(i) : 'decoders-disagree'
    const first = this.#windowAround(i)
    if (first !== NONE && this.#confirms(first, this.#windowFrom(first, i, JUMP_BYTES))) return TACTIC.window
    if (why !== 'too-short') return why
    const whyNot = this.#whyNoShortJump(i)
    if (whyNot !== '') return whyNot
    return this.room.springboardFrom(this.ground.start(i)) >= 0 || this.#findHost(i) !== NONE ? TACTIC.shortJump : 'no-springboard'
  }

  /**
   * Puts a counter before an instruction.
   * @returns the slot, or why there is none
   */
  before(fn: PlannedFunction, insn: number, level: number): number | RefusalCode {
    const i = wholeInsn(this.ground, fn, insn)
    const known = this.#slotBefore[i]!
    if (known !== NONE) return known
    const why = this.#reachBefore(fn, insn, i, level)
    if (why !== '') return why
    const slot = this.#addSlot(i, 0, this.#liveBefore(fn, insn), 1)
    this.#slotBefore[i] = slot
    return slot
  }

  /** Sees to it that something can be done before an instruction. */
  #reachBefore(fn: PlannedFunction, insn: number, i: number, level: number): RefusalCode | '' {
    const site = this.siteOf[i]!
    if (site === NONE) return this.#place(fn.graph, insn, i, level)
    if (!this.#joins(site, i)) return 'site-taken'
    if (this.#siteTactic.at(site) === TACTIC.retargetBranch) this.#siteTactic.set(site, TACTIC.jumpOver)
    return ''
  }

  /** Puts a counter on the taken side of a conditional jump, likewise. */
  taken(fn: PlannedFunction, insn: number, level: number): number | RefusalCode {
    const { insns } = this.ground.graph
    const i = wholeInsn(this.ground, fn, insn)
    assert(insns.flow[i] === FLOW.branch, 'a conditional jump')
    const known = this.#slotTaken.get(i)
    if (known !== undefined) return known
    const why = this.#reachTaken(fn, insn, i, level)
    if (why !== '') return why
    const slot = this.#addSlot(i, 1, liveTaken(fn, insn) | this.kept, 1)
    this.#slotTaken.set(i, slot)
    return slot
  }

  /** Sees to it that something can be done on the taken side of a conditional jump. */
  #reachTaken(fn: PlannedFunction, insn: number, i: number, level: number): RefusalCode | '' {
    const site = this.siteOf[i]!
    if (site !== NONE) return this.#mayTake(site) ? '' : 'site-taken'
    if (!this.#retargets(i)) return this.#place(fn.graph, insn, i, level)
    if (!this.ground.confirms(i)) return 'decoders-disagree'
    this.#addSite(i, 1, TACTIC.retargetBranch)
    return ''
  }

  #addSlot(i: number, takes: number, live: RegisterSet, plain: number): number {
    this.slotInsn.push(i)
    this.#slotTakes.push(takes)
    this.#slotLive.push(live)
    this.#slotPlain.push(plain)
    return this.slotInsn.length - 1
  }

  /**
   * Runs a program for a point, before an instruction or on its taken side; once, however often it is asked for.
   * @param counts how many counts it keeps for a point by itself
   */
  run(
    fn: PlannedFunction, insn: number, takes: number, level: number, { program, role, key, counts }: RunWanted,
  ): HookRun | RefusalCode {
    const i = wholeInsn(this.ground, fn, insn)
    let hook = this.hookAt(i, takes)
    const known = hook?.runs.find((one) => one.key === key && one.role === role)
    if (known !== undefined) return known
    if (hook === undefined) {
      const why = takes ? this.#reachTaken(fn, insn, i, level) : this.#reachBefore(fn, insn, i, level)
      if (why !== '') return why
      hook = { insn: i, takes, live: takes ? liveTaken(fn, insn) | this.kept : this.#liveBefore(fn, insn), runs: [] }
      this.#hooks.set(2 * i + takes, hook)
    }
    const firstSlot = this.slotInsn.length
    for (let n = 0; n < counts; n++) this.#addSlot(i, takes, hook.live, 0)
    const run = { program, role, key, insn: i, takes, firstSlot, counts }
    hook.runs.push(run)
    return run
  }

  /** Whether a program runs for a point before an instruction already. */
  runsAt(fn: PlannedFunction, insn: number, { key, role }: RunWanted): boolean {
    return this.hookAt(wholeInsn(this.ground, fn, insn), 0)?.runs.some((one) => one.key === key && one.role === role) ?? false
  }

  /** Takes back a run that was just added, where others that belong to it cannot be had. */
  stop(run: HookRun): void {
    const { insn, takes } = run
    const { runs, live } = this.hookAt(insn, takes)!
    runs.splice(runs.indexOf(run), 1)
    if (runs.length > 0) return
    this.#hooks.delete(2 * insn + takes)
    // Its splice stays, and has to do something: it counts.
    if (takes && !this.#slotTaken.has(insn)) this.#slotTaken.set(insn, this.#addSlot(insn, 1, live, 1))
    else if (!takes && this.#slotBefore[insn] === NONE) this.#slotBefore[insn] = this.#addSlot(insn, 0, live, 1)
  }

  /** Whether a counter can be put before an instruction of a site that is there already. */
  #joins(site: number, i: number): boolean {
    return this.#siteFirst.at(site) === i ? this.#siteTactic.at(site) !== TACTIC.retargetBranch || this.ground.whyNotMove(i) === ''
      : this.#siteCount.at(site) > 1
  }

  /** Whether a site moves its instructions, so that the taken side of a branch among them can be counted. */
  #mayTake(site: number): boolean {
    const tactic = this.#siteTactic.at(site)
    return tactic === TACTIC.jumpOver || tactic === TACTIC.window || tactic === TACTIC.shortJump || tactic === TACTIC.eviction
  }

  #place(graph: FunctionGraph, insn: number, i: number, level: number): RefusalCode | '' {
    const why = this.#direct(graph, insn, i)
    if (why === '') {
      if (!this.ground.confirms(i)) return 'decoders-disagree'
      this.#addSite(i, 1, this.#directTactic(i))
      return ''
    }
    if (level >= LEVEL.window) {
      const first = this.#windowAround(i)
      const count = first === NONE ? 0 : this.#windowFrom(first, i, JUMP_BYTES)
      if (first !== NONE && this.#confirms(first, count)) {
        this.#addSite(first, count, TACTIC.window)
        return ''
      }
    }
    if (why !== 'too-short' || level < LEVEL.shortJump) return why
    const whyNot = this.#whyNoShortJump(i)
    if (whyNot !== '') return whyNot
    if (!this.ground.confirms(i)) return 'decoders-disagree'
    return this.#placeShortJump(i) ? '' : 'no-springboard'
  }

  #confirms(first: number, count: number): boolean {
    for (let i = first; i < first + count; i++) if (!this.ground.confirms(i)) return false
    return true
  }

  // ---- one instruction that a jump fits into, or whose own displacement can be changed

  /** Why an instruction cannot be spliced by itself with a 32-bit displacement, or ''. */
  #direct(graph: FunctionGraph, insn: number, i: number): RefusalCode | '' {
    const { ground } = this
    const { insns } = ground.graph
    const why = ground.whyNotOverwrite(i)
    const length = insns.length[i]!
    if (why === 'return-site') {
      const returns = (graph.blockEnd[graph.blockOfInsn[insn]!]! & END.return) !== 0
      return length === 5 && returns && indexOf(ground.image.tables.returnSites, insns.rva[i]!) >= 0 ? '' : why
    }
    if (why !== '') return why
    if (length < JUMP_BYTES) return 'too-short'
    if (this.#isNear(i)) return insns.target[i]! >= ground.image.imageBytes ? 'out-of-range' : ''
    return ground.whyNotMove(i)
  }

  #isDirect(graph: FunctionGraph, insn: number, i: number): boolean {
    return this.ground.graph.insns.length[i]! >= JUMP_BYTES && this.#direct(graph, insn, i) === ''
  }

  #directTactic(i: number): number {
    if (this.ground.whyNotOverwrite(i) === 'return-site') return TACTIC.return
    if (!this.#isNear(i)) return TACTIC.jumpOver
    return this.ground.graph.insns.flow[i] === FLOW.call ? TACTIC.retargetCall : TACTIC.retargetJump
  }

  /** A byte of an instruction of .text; undefined elsewhere, where nothing may be overwritten. */
  #byte(i: number, offset: number): number | undefined {
    const { text, textStart } = this.ground.image
    return text[this.ground.start(i) + offset - textStart]
  }

  /** A call or jump of five bytes, with nothing but opcode and displacement. */
  #isNear(i: number): boolean {
    const { length, flow } = this.ground.graph.insns
    return length[i] === 5 && ((flow[i] === FLOW.call && this.#byte(i, 0) === 0xe8) || (flow[i] === FLOW.jump && this.#byte(i, 0) === 0xe9))
  }

  /** Whether the displacement of a conditional jump can lead to a patch. */
  #retargets(i: number): boolean {
    const { length, flow, target } = this.ground.graph.insns
    return flow[i] === FLOW.branch && length[i] === 6 && this.#byte(i, 0) === 0x0f && (this.#byte(i, 1)! & 0xf0) === 0x80 &&
      target[i]! < this.ground.image.imageBytes && this.ground.whyNotOverwrite(i) === ''
  }

  // ---- windows

  /** The first instruction of a window that holds an instruction, itself if it can be, or NONE. */
  #windowAround(i: number): number {
    if (this.#windowFrom(i, i, JUMP_BYTES) > 0) return i
    const end = this.ground.end(i)
    for (let first = i - 1; first >= 0 && end - this.ground.start(first) <= MAX_WINDOW; first--) {
      if (!this.#goesInto(first + 1)) break
      if (this.#windowFrom(first, i, JUMP_BYTES) > 0) return first
    }
    return NONE
  }

  /**
   * How many instructions a window has that begins with `first`, holds `holds`, and has at least so many bytes; 0 where
   * there is none.
   */
  #windowFrom(first: number, holds: number, least: number): number {
    const { insns } = this.ground.graph
    const start = this.ground.start(first)
    let fields = 0
    for (let i = first; i < insns.count; i++) {
      if (i > first && !this.#goesInto(i)) return 0
      const end = this.ground.end(i)
      if (end - start > MAX_WINDOW || !this.#mayMove(i)) return 0
      // One field that KASLR changes is all that a site can carry.
      if (this.ground.fieldOffset(i) >= 0 && ++fields > 1) return 0
      if (i >= holds && end - start >= least) return i - first + 1
      const flow = insns.flow[i]
      if (flow !== FLOW.next && flow !== FLOW.branch) return 0
    }
    return 0
  }

  /** Whether an instruction may be one of several that are moved. */
  #mayMove(i: number): boolean {
    const { ground } = this
    const flow = ground.graph.insns.flow[i]
    // A call would leave a return address inside.
    if (flow === FLOW.call || flow === FLOW.indirectCall || flow === FLOW.trap || flow === FLOW.system) return false
    return this.siteOf[i] === NONE && ground.whyNotOverwrite(i) === '' && ground.whyNotMove(i) === '' &&
      this.room.all(ground.start(i), ground.end(i), BYTE.code) && !ground.isUncertain(ground.graph.blockOf[i]!)
  }

  /** Whether control comes to an instruction in no other way than from the one before it, which lies right before it. */
  #goesInto(i: number): boolean {
    const { insns, targets, blockOf, blockFirst, entry, predStart, pred, succStart, succ, succKind } = this.ground.graph
    if (this.ground.end(i - 1) !== insns.rva[i] || targets.has(insns.rva[i]!)) return false
    const b = blockOf[i]!
    if (blockFirst[b] !== i) return true
    if (entry[b] !== 0 || predStart[b + 1]! - predStart[b]! !== 1 || pred[predStart[b]!] !== b - 1) return false
    for (let e = succStart[b - 1]!; e < succStart[b]!; e++) if (succ[e] === b && succKind[e] !== EDGE.next) return false
    return true
  }

  // ---- short jumps

  #whyNoShortJump(i: number): RefusalCode | '' {
    const { ground } = this
    const why = ground.whyNotOverwrite(i)
    if (why !== '') return why
    if (ground.graph.insns.length[i]! < SHORT_BYTES) return 'too-short'
    return ground.whyNotMove(i)
  }

  #placeShortJump(i: number): boolean {
    const { ground, room } = this
    room.set(ground.start(i), ground.end(i), BYTE.site)
    let board = room.springboardFrom(ground.start(i))
    let host = NONE
    let count = 0
    if (board < 0) {
      host = this.#findHost(i)
      if (host !== NONE) {
        count = this.#windowFrom(host, host, MIN_HOST)
        this.#clear(host, count)
        board = room.springboardFrom(ground.start(i))
      }
    }
    if (board < 0) {
      room.undo()
      return false
    }
    room.set(board, board + JUMP_BYTES, BYTE.springboard)
    if (host !== NONE) this.#record(host, count, TACTIC.eviction, NONE)
    this.#record(i, 1, TACTIC.shortJump, board)
    room.commit()
    return true
  }

  /** The start of a window near an instruction that leaves a springboard's room within its reach, or NONE. */
  #findHost(i: number): number {
    const { insns } = this.ground.graph
    const at = this.ground.start(i)
    for (let d = 1; d <= HOSTS_TRIED; d++) {
      for (const first of [i + d, i - d]) {
        if (first < 0 || first >= insns.count || Math.abs(insns.rva[first]! - at) > 128) continue
        const count = this.#windowFrom(first, first, MIN_HOST)
        if (count > 0 && this.#hostReaches(first, count, at) && this.#confirms(first, count)) return first
      }
    }
    return NONE
  }

  #hostReaches(first: number, count: number, from: Rva): boolean {
    // Tried on the room itself, and taken back to where it was.
    const mark = this.room.mark()
    this.#clear(first, count)
    const found = this.room.springboardFrom(from) >= 0
    this.room.undo(mark)
    return found
  }

  // ---- taking places

  /** Takes the bytes of a site: all of an instruction; of several, what the jump leaves free is dead. */
  #clear(first: number, count: number): void {
    const { ground, room } = this
    const start = ground.start(first)
    const end = ground.end(first + count - 1)
    room.set(start, end, BYTE.site)
    if (count === 1 || end - start <= JUMP_BYTES) return
    room.set(start + JUMP_BYTES, end, BYTE.dead)
    // The module compares a springboard's bytes by themselves, so none may hold a part of a field that KASLR changes.
    for (let i = first; i < first + count; i++) {
      const field = ground.fieldOffset(i)
      if (field < 0) continue
      const at = ground.start(i) + field
      room.set(Math.max(at, start + JUMP_BYTES), Math.max(at + 4, start + JUMP_BYTES), BYTE.site)
    }
  }

  #record(first: number, count: number, tactic: number, board: number): void {
    const site = this.#siteFirst.length
    this.#siteFirst.push(first)
    this.#siteCount.push(count)
    this.#siteTactic.push(tactic)
    this.#siteBoard.push(board)
    for (let i = first; i < first + count; i++) this.siteOf[i] = site
  }

  /** A site that needs no springboard. */
  #addSite(first: number, count: number, tactic: number): void {
    this.#clear(first, count)
    this.#record(first, count, tactic, NONE)
    this.room.commit()
  }
}

/** What is live on the taken side of a conditional jump. */
const liveTaken = ({ graph, liveness }: PlannedFunction, insn: number): RegisterSet => {
  const { insns: { rva, target }, blockOfInsn, blockFirst, succStart, succ } = graph
  const block = blockOfInsn[insn]!
  for (let e = succStart[block]!; e < succStart[block + 1]!; e++) {
    const first = blockFirst[succ[e]!]!
    if (rva[first] === target[insn]) return liveness.liveIn[first]!
  }
  const inside = indexOf(rva, target[insn]!)
  return inside >= 0 ? liveness.liveIn[inside]! : liveness.liveAway[insn]!
}
