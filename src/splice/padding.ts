// Padding between functions that nobody uses. In: the graph, and the reserved text. Out: stretches of .text that may be
// overwritten, since nothing ever runs, reads or rewrites them.
//
// Such a stretch consists of int3 and nops alone; what lies before it cannot run into it, and nothing jumps or points
// into it. It is not the padding that the kernel may put code into: that before functions which `__pfx_` and `__cfi_`
// name (call-depth tracking, arch/x86/kernel/callthunks.c; FineIBT, arch/x86/kernel/alternative.c; 6.12). And it does not
// lie between functions of text that is copied or must not be touched, since it may be copied with them.

import type { KernelGraph } from '../cfg/graph.js'
import { EDGE } from '../cfg/kinds.js'
import { paddingEnd } from '../cfg/sweep.js'
import { FLOW } from '../code/instructions.js'
import { bytesAt } from '../image/image.js'
import type { Rva } from '../image/rva.js'
import { JUMP_BYTES } from './room.js'
import { CODES, type RefusalCode } from './refusal.js'

/** Reserved for reasons that concern whole functions, and maybe what lies around them. */
const WHOLE: ReadonlySet<RefusalCode | ''> = new Set([
  'copied-text', 'machine-stopped', 'no-percpu-base', 'no-interrupt-table', 'blacklisted', 'head-text', 'kprobes-text', 'irqentry-text', 'cpuidle-text',
  'noinstr', 'entry-text',
])

/** Calls back for every stretch [start, end) of free padding that could hold a jump. */
export const findPadding = (
  graph: KernelGraph, reserved: Uint8Array, take: (start: Rva, end: Rva) => void,
): void => {
  const { image, insns, blockOf, blockFirst, succStart, succKind, predStart, entry, targets } = graph
  const { textStart, textEnd, symbols } = image
  const spoken = new Uint8Array(textEnd - textStart) // bytes that the kernel may put code into
  for (let s = 0; s < symbols.count; s++) {
    const rva = symbols.rva[s]!
    if (rva < textStart || rva >= textEnd || !(symbols.nameStartsWith(s, '__pfx_') || symbols.nameStartsWith(s, '__cfi_'))) continue
    const next = graph.index.from(rva)
    // Up to the function itself, which begins at the next place that something is known of.
    for (let at = rva; at < textEnd; at++) {
      if (at > rva && (targets.has(at) || image.functions.functionAt(at) !== image.functions.functionAt(rva) || (next < insns.count && insns.rva[next] === at))) break
      spoken[at - textStart] = 1
    }
  }
  const whole = (rva: Rva): boolean => rva < textStart || rva >= textEnd || WHOLE.has(CODES[reserved[rva - textStart]!]!)
  const isFree = (rva: Rva): boolean => !spoken[rva - textStart] && reserved[rva - textStart] === 0 && !targets.has(rva)
  /** Whether control never goes on behind an instruction, and does not come back there either. */
  const stops = (i: number): boolean => {
    const b = blockOf[i]!
    if (i !== blockFirst[b + 1]! - 1) return false
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) if (succKind[e] === EDGE.next) return false
    const flow = insns.flow[i]
    return flow === FLOW.jump || flow === FLOW.return || flow === FLOW.indirectJump
  }
  const unused = (i: number): boolean => {
    const b = blockOf[i]!
    return i !== blockFirst[b] || (predStart[b] === predStart[b + 1] && entry[b] === 0)
  }
  for (let i = graph.index.from(textStart); i < insns.count && insns.rva[i]! < textEnd; i++) {
    if (!stops(i)) continue
    const start = insns.rva[i]! + insns.length[i]!
    if (start >= textEnd) break
    let next = i + 1
    // Names from kallsyms alone make the padding part of the function before: nops that nothing leads to.
    while (next < insns.count && unused(next) && isPadding(graph, next)) next++
    const end = Math.min(next < insns.count ? insns.rva[next]! : textEnd, textEnd)
    if (end - start < JUMP_BYTES || whole(insns.rva[i]!) || whole(end)) continue
    if (paddingEnd(bytesAt(image, start, end - start), 0, end - start) !== end - start) continue
    let first = start
    for (let rva = start; rva <= end; rva++) {
      if (rva < end && isFree(rva)) continue
      if (rva - first >= JUMP_BYTES) take(first, rva)
      first = rva + 1
    }
  }
}

const isPadding = ({ image, insns }: KernelGraph, i: number): boolean => {
  const length = insns.length[i]!
  return paddingEnd(bytesAt(image, insns.rva[i]!, length), 0, length) === length
}
