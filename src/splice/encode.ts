// In: sites and how each is spliced. Out: the tables that the payload carries: what each splice overwrites, the patches
// with their fixups, and the forms of return sites. One patch and one slot a site, in the order of the sites.

import { FLOW } from '../code/instructions.js'
import type { RegisterSet } from '../code/registers.js'
import { assert } from '../error.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { CodeBuffer } from './code.js'
import { emitCounters } from './counter.js'
import { move, originalOf } from './move.js'
import { siteRva, type Splice } from './site.js'
import { EXPECTED_BYTES, FORM_BYTES, FORM_KIND, RELOC_KIND, SITE_KIND, type PatchTables } from './tables.js'

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

/** Writes what a patch does before the moved instruction: appends code that leaves `live` alone and counts `slots`. */
export type EmitProbe = (code: CodeBuffer, live: RegisterSet, slots: readonly number[]) => void

/** Encodes the patches of sites, which ascend, and what else the target needs to know of them. */
export const encodeSites = (image: Image, sites: readonly Splice[], emitProbe: EmitProbe = emitCounters): PatchTables => {
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
    emitProbe(code, splice.live, [s])
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
    siteCount: count, siteRva: siteRvas, sitePatch, siteLength, siteKind, siteFormClass,
    siteFlags: new Uint8Array(count), siteRelocKind, siteRelocOffset, siteTail, siteExpected,
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

