// In: a draft. Out: the tables that the payload carries: what each splice overwrites, the patches with their fixups, the
// forms of return sites; and which counter counts what. Sites ascend; patches lie as layout.ts says, and slots are
// numbered in their order, so that counters of one function are together too.

import type { RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import type { TaskLayout } from '../probe/task.js'
import { CodeBuffer } from './code.js'
import { emitCounters } from './counter.js'
import type { Draft } from './draft.js'
import { HookWriter, NO_PROGRAMS, type HookTable, type ProgramContext, type SlotLayout } from './hooks.js'
import { layOut, type Profile } from './layout.js'
import { appendMoved } from './move.js'
import { JUMP_BYTES } from './room.js'
import { EXPECTED_BYTES, FORM_BYTES, FORM_KIND, SITE_FLAG, SITE_KIND, type PatchTables } from './tables.js'
import { TACTIC } from './tactics.js'

/** The one class of forms so far: what a return site may hold. */
const RETURN_FORMS = 1

/** Patches start at multiples of this, so that one is rarely spread over two cache lines. */
const PATCH_ALIGNMENT = 16

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

/** Writes what a patch does where a counter is: appends code that leaves `live` alone and counts `slots`. */
export type EmitProbe = (code: CodeBuffer, live: RegisterSet, slots: readonly number[]) => void

/** A plan's sites, counters and programs, encoded. Slots: counters, then counts of programs, then aggregates. */
export interface Encoded {
  readonly tables: PatchTables
  readonly siteTactic: Uint8Array //  site -> TACTIC
  readonly counterCount: number //    so many slots are counters: they count whatever runs
  readonly slotSite: Uint32Array //   slot -> the site whose patch counts it; aggregates are of no site
  readonly slotRva: Uint32Array //    slot -> the instruction before which it counts, or whose taken side
  readonly slotTakes: Uint8Array //   slot -> 1 where the taken side is counted
  readonly slotLive: Uint32Array //   slot -> register set that its counting must leave alone
  readonly hooks: HookTable
  readonly layout: SlotLayout //      where the slots of aggregates are
  readonly task: TaskLayout | undefined // what programs read of the current task
  /** What the profile says has run, which lies first: so many patches, in so many bytes. Zeros without a profile. */
  readonly hot: { readonly patches: number; readonly bytes: number }
}

/** One thing that is overwritten: a site of the draft, or its springboard. */
interface Order {
  readonly site: Uint32Array // final site -> site of the draft
  readonly isBoard: Uint8Array // final site -> 1 where it is that one's springboard
  readonly rva: Uint32Array
  readonly boardOf: Uint32Array // site of the draft -> final site of its springboard, or NONE
}

const orderSites = (draft: Draft): Order => {
  const sites = draft.siteFirst.length
  const boards = draft.siteBoard.reduce((n, board) => (board === NONE ? n : n + 1), 0)
  // rva, then site and which of the two: 32 + 20 + 1 bits in one number.
  assert(sites < 1 << 20, 'sites are numbered in 20 bits')
  const keys = new Float64Array(sites + boards)
  let k = 0
  for (let s = 0; s < sites; s++) {
    keys[k++] = draft.ground.start(draft.siteFirst[s]!) * 2 ** 21 + 2 * s
    if (draft.siteBoard[s] !== NONE) keys[k++] = draft.siteBoard[s]! * 2 ** 21 + 2 * s + 1
  }
  keys.sort()
  const site = new Uint32Array(keys.length)
  const isBoard = new Uint8Array(keys.length)
  const rva = new Uint32Array(keys.length)
  const boardOf = new Uint32Array(sites).fill(NONE)
  keys.forEach((key, i) => {
    const low = key % 2 ** 21
    rva[i] = Math.floor(key / 2 ** 21)
    site[i] = low >>> 1
    isBoard[i] = low & 1
    if (isBoard[i]) boardOf[site[i]!] = i
  })
  return { site, isBoard, rva, boardOf }
}

/** The slots of each instruction of a site: at most one before it, one on its taken side. */
interface Probes {
  readonly start: Uint32Array // site of the draft -> first index into slot
  readonly slot: Uint32Array //  ascending by instruction, before first
}

const orderProbes = (draft: Draft): Probes => {
  const sites = draft.siteFirst.length
  const count = draft.slotInsn.length
  const start = new Uint32Array(sites + 1)
  const { slotPlain } = draft
  const siteOf = (slot: number): number => draft.siteOf[draft.slotInsn[slot]!]!
  for (let slot = 0; slot < count; slot++) start[siteOf(slot) + 1]! += slotPlain[slot]!
  for (let s = 0; s < sites; s++) start[s + 1]! += start[s]!
  const next = start.slice()
  const slot = new Uint32Array(start[sites]!)
  for (let each = 0; each < count; each++) if (slotPlain[each]) slot[next[siteOf(each)]!++] = each
  for (let s = 0; s < sites; s++) {
    if (start[s + 1]! - start[s]! > 1) {
      slot.subarray(start[s], start[s + 1]).sort((a, b) =>
        draft.slotInsn[a]! - draft.slotInsn[b]! || draft.slotTakes[a]! - draft.slotTakes[b]!)
    }
  }
  return { start, slot }
}

export interface EncodeOptions {
  /** What each patch does where a counter is; counting where it is not given. */
  readonly emitProbe?: EmitProbe
  readonly profile?: Profile
  readonly programs?: ProgramContext
}

/** Encodes what a draft has come to. Slots are numbered in the order of their patches. */
export const encodeDraft = (
  draft: Draft, { emitProbe = emitCounters, profile, programs = NO_PROGRAMS }: EncodeOptions = {},
): Encoded & { readonly slotOf: Uint32Array } => {
  const { ground } = draft
  const { image, graph: { insns } } = ground
  const order = orderSites(draft)
  const probes = orderProbes(draft)
  const count = order.site.length
  const slots = draft.slotInsn.length
  const tables = {
    siteRva: order.rva,
    sitePatch: new Uint32Array(count),
    siteLength: new Uint8Array(count),
    siteKind: new Uint8Array(count),
    siteFlags: new Uint8Array(count),
    siteFormClass: new Uint8Array(count),
    siteRelocKind: new Uint8Array(count),
    siteRelocOffset: new Uint8Array(count),
    siteTail: new Uint32Array(count).fill(NONE),
    siteExpected: new Uint8Array(count * EXPECTED_BYTES),
  }
  const siteTactic = new Uint8Array(count)
  const slotOf = new Uint32Array(slots) //  slot of the draft -> slot
  const slotSite = new Uint32Array(slots)
  const slotRva = new Uint32Array(slots)
  const slotTakes = new Uint8Array(slots)
  const slotLive = new Uint32Array(slots)
  const counters = draft.slotPlain.reduce((sum, plain) => sum + plain, 0)
  let slotCount = 0
  let formsNeeded = false
  const code = new CodeBuffer()
  const numberSlot = (slot: number, number: number, s: number): void => {
    slotOf[slot] = number
    slotSite[number] = s
    slotRva[number] = insns.rva[draft.slotInsn[slot]!]!
    slotTakes[number] = draft.slotTakes[slot]!
    slotLive[number] = draft.slotLive[slot]!
  }
  const runner = new HookWriter(draft, programs, counters, numberSlot)

  const append = (i: number): boolean =>
    appendMoved(code, image, insns.rva[i]!, insns.length[i]!, insns.flow[i]!, insns.target[i]!)

  // Springboards are sites that have no patch of their own.
  const patched = Uint32Array.from(order.rva, (_, s) => s).filter((s) => !order.isBoard[s])
  const layout = layOut(image, patched.map((s) => order.rva[s]!), profile)
  let hotBytes = 0
  for (const [position, index] of layout.order.entries()) {
    const s = patched[index]!
    if (position === layout.hot) hotBytes = code.length
    const site = order.site[s]!
    const first = draft.siteFirst[site]!
    const end = first + draft.siteCount[site]!
    const tactic = draft.siteTactic[site]!
    siteTactic[s] = tactic
    code.align(PATCH_ALIGNMENT)
    const patch = code.length
    tables.sitePatch[s] = patch
    tables.siteLength[s] = ground.end(end - 1) - ground.start(first)
    tables.siteKind[s] = SITE_KIND.jmp
    tables.siteExpected.set(bytesAt(image, order.rva[s]!, tables.siteLength[s]!), s * EXPECTED_BYTES)

    let probe = probes.start[site]!
    const lastProbe = probes.start[site + 1]!
    const isCounted = (i: number, takes: number): boolean =>
      probe < lastProbe && draft.slotInsn[probes.slot[probe]!] === i && draft.slotTakes[probes.slot[probe]!] === takes
    /** What is done before an instruction, or on its taken side. */
    const emit = (i: number, takes: number): void => {
      if (isCounted(i, takes)) {
        const slot = probes.slot[probe++]!
        numberSlot(slot, slotCount, s)
        emitProbe(code, draft.slotLive[slot]!, [slotCount++])
      }
      runner.write(code, i, takes, s, tactic)
    }
    const isNext = (i: number, takes: number): boolean => isCounted(i, takes) || draft.hookAt(i, takes) !== undefined

    if (tactic === TACTIC.return) {
      emit(first, 0)
      tables.siteFormClass[s] = RETURN_FORMS
      formsNeeded = true
      tables.siteTail[s] = code.length
      code.emit(0xcc, 0xcc, 0xcc, 0xcc, 0xcc)
      continue
    }
    for (let i = first; i < end; i++) {
      const field = ground.fieldOffset(i)
      if (field < 0) continue
      tables.siteRelocKind[s] = ground.fieldKind(i)
      tables.siteRelocOffset[s] = ground.start(i) + field - order.rva[s]!
    }
    if (tactic === TACTIC.retargetCall || tactic === TACTIC.retargetJump || tactic === TACTIC.retargetBranch) {
      emit(first, tactic === TACTIC.retargetBranch ? 1 : 0)
      code.jumpTo(insns.target[first]!)
      tables.siteKind[s] = tactic === TACTIC.retargetCall ? SITE_KIND.call
        : tactic === TACTIC.retargetBranch ? SITE_KIND.jcc : SITE_KIND.jmp
      continue
    }

    let goesOn = true
    let counted = false // after the first instruction
    let bypass = patch
    const taken: { field: number; insn: number }[] = []
    for (let i = first; i < end; i++) {
      if (isNext(i, 0)) {
        emit(i, 0)
        if (i === first) bypass = code.length
        else counted = true
      }
      goesOn = append(i)
      if (isNext(i, 1)) {
        // The taken side goes to a stub behind the patch; its counter comes then.
        taken.push({ field: code.length - 4, insn: i })
        if (isCounted(i, 1)) probe++
        counted = true
      }
    }
    if (goesOn) code.jumpTo(ground.end(end - 1))
    const behind = probe
    for (const { field, insn } of taken) {
      code.pointHere(field)
      probe = probes.start[site]!
      while (probe < lastProbe && !isCounted(insn, 1)) probe++
      emit(insn, 1)
      code.jumpTo(insns.target[insn]!)
    }
    probe = behind
    assert(probe === lastProbe, 'every counter of a site is in its patch')
    if (tactic === TACTIC.window || tactic === TACTIC.eviction) {
      tables.siteFlags[s] = SITE_FLAG.window
      if (counted) {
        bypass = code.length
        for (let i = first; i < end; i++) goesOn = append(i)
        if (goesOn) code.jumpTo(ground.end(end - 1))
      }
      tables.siteTail[s] = bypass
    }
    if (tactic === TACTIC.shortJump) {
      const board = order.boardOf[site]!
      tables.siteKind[s] = SITE_KIND.hop
      tables.sitePatch[s] = board
      siteTactic[board] = TACTIC.springboard
      tables.sitePatch[board] = patch
      tables.siteLength[board] = JUMP_BYTES
      tables.siteKind[board] = SITE_KIND.jmp
      tables.siteFlags[board] = SITE_FLAG.springboard
      tables.siteExpected.set(bytesAt(image, order.rva[board]!, JUMP_BYTES), board * EXPECTED_BYTES)
    }
  }
  if (layout.hot === patched.length) hotBytes = code.length
  assert(slotCount === counters, 'every counter is in a patch')
  const hooks = runner.table()
  const forms = formsNeeded ? returnForms(image) : []
  const formBytes = new Uint8Array(forms.length * FORM_BYTES)
  forms.forEach((form, i) => formBytes.set(form.bytes, i * FORM_BYTES))
  return {
    tables: {
      siteCount: count, ...tables,
      formCount: forms.length,
      formClass: new Uint8Array(forms.length).fill(RETURN_FORMS),
      formKind: Uint8Array.from(forms, (f) => f.kind),
      formBytes,
      formTarget: Uint32Array.from(forms, (f) => f.target),
      ...code.fixupTables(),
      code: code.bytes(),
      slotCount: runner.layout.slotCount,
      frameWords: runner.frames.words,
    },
    siteTactic, counterCount: counters, slotSite, slotRva, slotTakes, slotLive, slotOf,
    hooks, layout: runner.layout, task: programs.task,
    hot: { patches: layout.hot, bytes: hotBytes },
  }
}
