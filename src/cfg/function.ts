// One function as control flow: its parts (the body, .cold parts, pieces of .altinstr_aux), their instructions, blocks,
// edges and ways out. A block ends at every transfer, call, trap and instruction that an exception may leave for
// another place, and before every branch target. What cannot be resolved makes the function incomplete, with a reason;
// then nothing is concluded from the shape of its graph.
//
// Facts used: a jump through a retpoline thunk or a register is a tail call in kernels built with retpolines, unless
// data points into the function (jump tables, labels as values; 6.1 and 6.12 have one such function, ___bpf_prog_run).
// `jmp __x86_return_thunk` is a return (arch/x86/include/asm/nospec-branch.h, 5.19 and later).

import { decodeRanges, FLOW, type CodeRange, type Instructions } from '../code/instructions.js'
import { bytesAt, type Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { indexOf, lowerBound } from '../image/search.js'
import type { BranchTargets } from './targets.js'

/** How a block ends, as bits. */
export const END = {
  /** Control may leave in the middle or at the end without being seen: a call may not return, an access may fault. */
  leaks: 1,
  /** Leaves by a return. */
  return: 2,
  /** Leaves by a jump out of the function: a tail call. */
  tail: 4,
  /** The return or tail call is conditional: the taken edge leaves. */
  tailTaken: 8,
  /** The tail call is indirect. */
  tailIndirect: 16,
  /** Nothing is known of where control goes. */
  unknown: 32,
} as const

/** Why a function is incomplete. */
export type Incomplete = '' | 'undecodable' | 'jump-table' | 'falls-through' | 'jumps-inside'

export interface FunctionGraph {
  readonly name: string
  readonly start: Rva
  readonly end: Rva
  readonly insns: Instructions // sorted by rva
  readonly blockCount: number
  readonly blockFirst: Uint32Array //  block -> first insn; blockFirst[blockCount] = insns.count
  readonly blockEnd: Uint8Array //     block -> END bits
  readonly blockOfInsn: Uint32Array // insn -> block
  readonly succStart: Uint32Array //   block -> first index into succ; succStart[blockCount] = succ.length
  readonly succ: Uint32Array //        edge -> block
  /** Blocks that control may enter from outside: the start, and whatever other code or data points to. */
  readonly entries: Uint32Array
  readonly incomplete: Incomplete
  /** Variants that the kernel may put over an alternative contain a way out or a jump that no edge stands for. */
  readonly alternativeLeaves: boolean
}

/** insn -> index of the instruction that starts at an rva, or NONE. */
export const insnAt = (insns: Instructions, rva: Rva): number => {
  const i = lowerBound(insns.rva, rva)
  return i < insns.count && insns.rva[i] === rva ? i : NONE
}

const regionNamed = (image: Image, name: string, rva: Rva): boolean =>
  image.regions.some((r) => r.name === name && rva >= r.start && rva < r.end)

/** Names of the thunks that returns jump to; a jump to one of them is a return. */
const isReturnThunk = (image: Image, rva: Rva): boolean => {
  const thunk = image.symbols.find('__x86_return_thunk')
  return thunk.length > 0 && image.symbols.rva[thunk[0]!] === rva
}

const isIndirectThunk = (image: Image, rva: Rva): boolean => {
  const i = image.functions.functionAt(rva)
  return i !== NONE && image.functions.start[i] === rva && image.functions.nameOf(i).startsWith('__x86_indirect_')
}

// A piece of .altinstr_aux (the slow side of _static_cpu_has) runs from its label to its unconditional jump.
const auxPiece = (image: Image, start: Rva): CodeRange => {
  const region = image.regions.find((r) => start >= r.start && start < r.end)!
  const bytes = region.bytes.subarray(start - region.start, Math.min(start - region.start + 64, region.bytes.length))
  const insns = decodeRanges([{ start, bytes }])
  for (let i = 0; i < insns.count; i++) {
    const flow = insns.flow[i]
    if (flow === FLOW.next || flow === FLOW.branch) continue
    return { start, bytes: bytes.subarray(0, insns.rva[i]! + insns.length[i]! - start) }
  }
  return { start, bytes }
}

// The body, and what direct jumps from it reach in .cold parts (gcc's .text.unlikely, "F.cold") and .altinstr_aux.
const findParts = (image: Image, index: number): CodeRange[] => {
  const { functions } = image
  const parts: CodeRange[] = []
  const seen = new Set<Rva>()
  const add = (start: Rva, end: Rva): void => {
    if (seen.has(start)) return
    seen.add(start)
    parts.push({ start, bytes: bytesAt(image, start, end - start) })
  }
  add(functions.start[index]!, functions.end[index]!)
  const jumpTo = (to: Rva): void => {
    if (parts.some((p) => to >= p.start && to < p.start + p.bytes.length)) return
    if (regionNamed(image, '.altinstr_aux', to)) {
      if (!seen.has(to)) {
        seen.add(to)
        parts.push(auxPiece(image, to))
      }
      return
    }
    const other = functions.functionAt(to)
    if (other !== NONE && /\.cold(\.\d+)?$/.test(functions.nameOf(other))) add(functions.start[other]!, functions.end[other]!)
  }
  for (let p = 0; p < parts.length; p++) {
    const part = parts[p]!
    const insns = decodeRanges([part])
    for (let i = 0; i < insns.count; i++) {
      if (insns.flow[i] === FLOW.jump || insns.flow[i] === FLOW.branch) jumpTo(insns.target[i]!)
    }
    const { staticKeys, exTable } = image.tables
    const end = part.start + part.bytes.length
    for (let k = lowerBound(staticKeys.rva, part.start); k < staticKeys.rva.length && staticKeys.rva[k]! < end; k++) {
      jumpTo(staticKeys.target[k]!)
    }
    for (let k = lowerBound(exTable.insn, part.start); k < exTable.insn.length && exTable.insn[k]! < end; k++) {
      jumpTo(exTable.fixup[k]!)
    }
  }
  return parts.sort((a, b) => a.start - b.start)
}

/** What an alternative's variants add to the graph. */
interface Variants {
  targets: Rva[]
  calls: boolean
  leaves: boolean
}

// The replacement is assembled where it lies, so its displacements give the true targets there
// (arch/x86/kernel/alternative.c, apply_relocation or its forerunners).
const variantsOf = (image: Image, alternative: number): Variants => {
  const { replRva, replLen } = image.tables.alternatives
  const result: Variants = { targets: [], calls: false, leaves: false }
  if (replLen[alternative] === 0) return result
  const start = replRva[alternative]!
  const insns = decodeRanges([{ start, bytes: bytesAt(image, start, replLen[alternative]!) }])
  for (let i = 0; i < insns.count; i++) {
    switch (insns.flow[i]) {
      case FLOW.jump:
      case FLOW.branch:
        result.targets.push(insns.target[i]!)
        break
      case FLOW.next: break
      case FLOW.call:
      case FLOW.indirectCall:
      case FLOW.trap:
        result.calls = true
        break
      default:
        result.leaves = true
    }
  }
  return result
}

/** Builds the graph of one function (an index into image.functions). */
export const buildFunction = (image: Image, targets: BranchTargets, index: number): FunctionGraph => {
  const { tables, functions } = image
  const start = functions.start[index]!
  const end = functions.end[index]!
  const parts = findParts(image, index)
  const insns = decodeRanges(parts)
  const { count, rva, length, flow, target } = insns
  const inside = (at: Rva): boolean => parts.some((p) => at >= p.start && at < p.start + p.bytes.length)
  let incomplete: Incomplete = ''
  const fail = (reason: Incomplete): void => {
    if (incomplete === '') incomplete = reason
  }

  // Pass 1: what follows each instruction. `to` holds the targets inside; bits say what else happens at its end.
  const ends = new Uint8Array(count) //           insn -> END bits
  const falls = new Uint8Array(count).fill(1) //  insn -> 1 when control may go on to the next one
  const cuts = new Uint8Array(count) //           insn -> 1 when a block ends after it
  const jumps: Rva[][] = [] //                    insn -> targets inside the function (sparse)
  let alternativeLeaves = false
  const goTo = (i: number, to: Rva, conditional: boolean): void => {
    cuts[i] = 1
    if (inside(to)) {
      const at = insnAt(insns, to)
      if (at === NONE) fail('jumps-inside')
      else (jumps[i] ??= []).push(at)
    } else if (isReturnThunk(image, to)) {
      ends[i]! |= END.return | (conditional ? END.tailTaken : 0)
    } else {
      ends[i]! |= END.tail | (conditional ? END.tailTaken : 0) | (isIndirectThunk(image, to) ? END.tailIndirect : 0)
    }
  }
  // Data that points into the body, past its start, is a jump table or a label as a value.
  const pointer = lowerBound(image.codePointers, start + 1)
  const pointedInto = pointer < image.codePointers.length && image.codePointers[pointer]! < end
  for (let i = 0; i < count; i++) {
    const at = rva[i]!
    switch (flow[i]) {
      case FLOW.next: break
      case FLOW.jump:
        falls[i] = 0
        goTo(i, target[i]!, false)
        if (ends[i]! & END.tailIndirect && pointedInto) fail('jump-table')
        break
      case FLOW.branch:
        goTo(i, target[i]!, true)
        break
      case FLOW.indirectJump:
        falls[i] = 0
        cuts[i] = 1
        ends[i]! |= END.tail | END.tailIndirect
        if (pointedInto || tables.retpolineSites.length === 0) fail('jump-table')
        break
      case FLOW.call:
        cuts[i] = 1
        // The ftrace site is a call only until the kernel boots; a tracer called from it returns.
        if (indexOf(tables.ftrace, at) < 0) ends[i]! |= END.leaks
        break
      case FLOW.indirectCall:
        cuts[i] = 1
        ends[i]! |= END.leaks
        break
      case FLOW.return:
        falls[i] = 0
        cuts[i] = 1
        ends[i]! |= END.return
        break
      case FLOW.trap:
        // WARN resumes after its ud2, BUG does not; int3 and other traps are padding or end a path.
        falls[i] = indexOf(tables.bugs, at) >= 0 ? 1 : 0
        cuts[i] = 1
        ends[i]! |= END.leaks
        break
      case FLOW.system:
        cuts[i] = 1
        ends[i]! |= END.leaks | END.unknown
        break
      default:
        cuts[i] = 1
        ends[i]! |= END.leaks | END.unknown
        falls[i] = 0
    }
    const key = indexOf(tables.staticKeys.rva, at)
    if (key >= 0) {
      falls[i] = 1
      goTo(i, tables.staticKeys.target[key]!, true)
    }
    for (let k = lowerBound(tables.exTable.insn, at); k < tables.exTable.insn.length && tables.exTable.insn[k] === at; k++) {
      ends[i]! |= END.leaks
      const fixup = tables.exTable.fixup[k]!
      if (inside(fixup)) goTo(i, fixup, true)
      else {
        cuts[i] = 1
        ends[i]! |= END.unknown
      }
    }
  }

  // Alternatives: the region is one step of unknown effect; jumps in any variant are edges out of it.
  for (const part of parts) {
    const partEnd = part.start + part.bytes.length
    const { rva: alternativeRva, len } = tables.alternatives
    for (let k = lowerBound(alternativeRva, part.start); k < alternativeRva.length && alternativeRva[k]! < partEnd; k++) {
      const from = insnAt(insns, alternativeRva[k]!)
      if (from === NONE) continue // inside an earlier alternative, or never decoded there: its bytes are reserved anyway
      const variants = variantsOf(image, k)
      if (variants.leaves) alternativeLeaves = true
      const afterRva = alternativeRva[k]! + len[k]!
      for (let i = from; i < count && rva[i]! < afterRva; i++) {
        // Another variant may fall through where this one jumps.
        if (rva[i]! + length[i]! >= afterRva || flow[i] !== FLOW.next) falls[i] = 1
        if (variants.calls) {
          cuts[i] = 1
          ends[i]! |= END.leaks
        }
        for (const to of variants.targets) {
          goTo(i, to, true)
          if (!inside(to)) alternativeLeaves = true
        }
      }
    }
  }

  // Pass 2: leaders, blocks.
  const leader = new Uint8Array(count + 1)
  if (count > 0) leader[0] = 1
  for (let i = 0; i < count; i++) {
    if (targets.has(rva[i]!) || (i > 0 && rva[i - 1]! + length[i - 1]! !== rva[i])) leader[i] = 1
    if (cuts[i]) leader[i + 1] = 1
    for (const to of jumps[i] ?? []) leader[to] = 1
  }
  let blockCount = 0
  const blockOfInsn = new Uint32Array(count)
  for (let i = 0; i < count; i++) {
    if (leader[i]) blockCount++
    blockOfInsn[i] = blockCount - 1
  }
  const blockFirst = new Uint32Array(blockCount + 1).fill(count)
  for (let i = count - 1; i >= 0; i--) blockFirst[blockOfInsn[i]!] = i
  const blockEnd = new Uint8Array(blockCount)
  const succStart = new Uint32Array(blockCount + 1)
  const succ: number[] = []
  for (let b = 0; b < blockCount; b++) {
    const last = blockFirst[b + 1]! - 1
    blockEnd[b] = ends[last]!
    succStart[b] = succ.length
    const out = new Set<number>()
    if (falls[last]) {
      const next = rva[last]! + length[last]!
      if (last + 1 < count && rva[last + 1] === next) out.add(b + 1)
      // A call at the very end does not return, and a ud2 there is a BUG; whatever else runs off goes to places unknown.
      else if (flow[last] !== FLOW.call && flow[last] !== FLOW.indirectCall && flow[last] !== FLOW.trap) {
        blockEnd[b]! |= END.unknown | END.leaks
      }
    }
    for (const to of jumps[last] ?? []) out.add(blockOfInsn[to]!)
    succ.push(...out)
  }
  succStart[blockCount] = succ.length

  // Only what the entry reaches counts: padding and dead bytes make nothing incomplete.
  const graph: FunctionGraph = {
    name: functions.nameOf(index), start, end, insns, blockCount, blockFirst, blockEnd, blockOfInsn, succStart,
    succ: Uint32Array.from(succ), entries: findEntries(image, targets, start, parts, insns, blockOfInsn), incomplete,
    alternativeLeaves,
  }
  const live = reachable(graph, [...graph.entries])
  for (let b = 0; b < blockCount; b++) {
    if (!live[b]) continue
    const last = blockFirst[b + 1]! - 1
    if (flow[last] === FLOW.invalid) fail('undecodable')
    else if (blockEnd[b]! & END.unknown && flow[last] !== FLOW.system) fail('falls-through')
  }
  return { ...graph, incomplete }
}

// The first block, and blocks that a jump or call from elsewhere, or a pointer in data, leads into.
const findEntries = (
  image: Image, targets: BranchTargets, start: Rva, parts: readonly CodeRange[], insns: Instructions,
  blockOfInsn: Uint32Array,
): Uint32Array => {
  const entries = new Set<number>()
  const add = (rva: Rva): void => {
    const i = insnAt(insns, rva)
    if (i !== NONE) entries.add(blockOfInsn[i]!)
  }
  const inside = (at: Rva): boolean => parts.some((p) => at >= p.start && at < p.start + p.bytes.length)
  for (const part of parts) {
    const end = part.start + part.bytes.length
    for (let k = lowerBound(targets.crossingTo, part.start); k < targets.crossingTo.length && targets.crossingTo[k]! < end; k++) {
      if (!inside(targets.crossingFrom[k]!)) add(targets.crossingTo[k]!)
    }
    const { codePointers, functions } = image
    for (let f = lowerBound(functions.start, part.start + 1); f < functions.count && functions.start[f]! < end; f++) {
      add(functions.start[f]!) // a label in assembly that others call
    }
    for (let k = lowerBound(codePointers, part.start); k < codePointers.length && codePointers[k]! < end; k++) add(codePointers[k]!)
  }
  for (let i = 0; i < insns.count; i++) if (insns.flow[i] === FLOW.call) add(insns.target[i]!)
  add(start)
  return Uint32Array.from(entries).sort()
}

/** The block that starts at or holds an rva of the function; NONE where no instruction starts there. */
export const blockOf = (graph: FunctionGraph, rva: Rva): number => {
  const i = insnAt(graph.insns, rva)
  return i === NONE ? NONE : graph.blockOfInsn[i]!
}

/** block -> 1 when reachable from `from` (inclusive) without passing through a block of `without`. */
export const reachable = (graph: FunctionGraph, from: readonly number[], without: readonly number[] = []): Uint8Array => {
  const seen = new Uint8Array(graph.blockCount)
  const stack: number[] = []
  const push = (b: number): void => {
    if (b === NONE || seen[b] || without.includes(b)) return
    seen[b] = 1
    stack.push(b)
  }
  for (const b of from) push(b)
  for (let b = stack.pop(); b !== undefined; b = stack.pop()) {
    for (let e = graph.succStart[b]!; e < graph.succStart[b + 1]!; e++) push(graph.succ[e]!)
  }
  return seen
}
