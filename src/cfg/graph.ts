// The control flow of the whole image: blocks, edges, direct calls. In: the image. Out: KernelGraph, which is what every
// later stage asks; cfg/function.ts cuts single functions out of it. Index spaces: insn, block, edge.
//
// A block ends at every transfer, call, trap and instruction that an exception may leave for another place, and before
// every place that control is known to reach otherwise. Edges go wherever control may go without a call or a return: so
// a tail call is an edge like any other. The edge behind a call is missing where the callee never returns.
//
// Facts used: a jump through a retpoline thunk or a register is a tail call in kernels built with retpolines, unless
// data points into the function (jump tables, labels as values; 6.1 and 6.12 have one such function, ___bpf_prog_run).
// Then, and always without retpolines, it goes where a proven jump table says (jumptables.ts), or nobody knows where.
// `jmp __x86_return_thunk` is a return (arch/x86/include/asm/nospec-branch.h, 5.19 and later).

import { FLOW, type Instructions } from '../code/instructions.js'
import { ALL, type RegisterSet } from '../code/registers.js'
import type { Image } from '../image/image.js'
import { NONE, type Rva } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import { readVariants } from './alternatives.js'
import { readJumpTables } from './jumptables.js'
import { CALL, EDGE, END, ENTRY, PROBLEM } from './kinds.js'
import { dropEdgesBehind, findReturning } from './noreturn.js'
import { sweepImage, type InsnIndex } from './sweep.js'
import { BranchTargets } from './targets.js'

export interface KernelGraph {
  readonly image: Image
  readonly insns: Instructions //       all code, ascending
  readonly index: InsnIndex //          rva -> insn
  readonly targets: BranchTargets
  readonly blockCount: number
  readonly blockFirst: Uint32Array //   block -> first insn; blockFirst[blockCount] = insns.count
  readonly blockOf: Uint32Array //      insn -> block
  readonly end: Uint8Array //           block -> END bits
  readonly problem: Uint8Array //       block -> PROBLEM
  readonly entry: Uint8Array //         block -> ENTRY bits
  readonly succStart: Uint32Array //    block -> first index into succ; succStart[blockCount] = number of edges
  readonly succ: Uint32Array //         edge -> block
  readonly succKind: Uint8Array //      edge -> EDGE
  readonly predStart: Uint32Array //    block -> first index into pred
  readonly pred: Uint32Array //         the blocks that have an edge to a block
  readonly call: Uint8Array //          block -> CALL of its last instruction
  readonly callee: Uint32Array //       block -> block that it calls, or NONE
  readonly callerStart: Uint32Array //  block -> first index into caller
  readonly caller: Uint32Array //       the blocks whose callee a block is
  /** Instructions that the kernel may rewrite, ascending, and what may be read there instead. */
  readonly altered: Uint32Array
  readonly alteredReads: Uint32Array // parallel to altered: register set
  /**
   * Calls that may stand there or not, in variants of alternatives and where these replace a call: by calling block,
   * ascending; the callee is NONE where it is not known.
   */
  readonly variantCaller: Uint32Array
  readonly variantCallee: Uint32Array
  /** block -> 1 when control that enters it may leave by a return or by a way that is not known. */
  readonly returning: Uint8Array
}

// What is noted of an instruction while the graph is built, as bits.
const LEADER = 1
const CUT = 2 //   a block ends after it
const STOPS = 4 // control does not go on to the next one
const ELSEWHERE = 8 // the target of the transfer is only a thunk on the way
const POINTED = 16 // something has its address
const PROBLEM_SHIFT = 5 // the upper three bits are its PROBLEM

/** ud2 "xen" and ud2 "kvm" (arch/x86/include/asm/emulate_prefix.h, 6.1 and 6.12). */
const EMULATION_PREFIXES = [[0x0f, 0x0b, 0x78, 0x65, 0x6e], [0x0f, 0x0b, 0x6b, 0x76, 0x6d]]

/** lea 8(%rsp),%rsp and add $8,%rsp (arch/x86/lib/retpoline.S, srso_safe_ret, 6.1 and 6.12). */
const POPS = [[0x48, 0x8d, 0x64, 0x24, 0x08], [0x48, 0x83, 0xc4, 0x08]]

/** An edge before there are blocks. */
interface LooseEdge {
  readonly from: number // insn
  readonly to: number //   insn
  readonly kind: number // EDGE
}

class Builder {
  readonly image: Image
  readonly insns: Instructions
  readonly index: InsnIndex
  readonly targets: BranchTargets
  readonly mark: Uint8Array //    insn -> LEADER and so on
  readonly end: Uint8Array //     insn -> END bits
  readonly call: Uint8Array //    insn -> CALL
  readonly loose: LooseEdge[] = []
  readonly altered: [insn: number, reads: RegisterSet][] = []
  readonly variantCalls: [insn: number, target: Rva][] = []

  constructor(image: Image) {
    const { insns, index } = sweepImage(image)
    this.image = image
    this.insns = insns
    this.index = index
    this.targets = new BranchTargets(image.regions[0]!.start, image.regions.at(-1)!.end)
    this.mark = new Uint8Array(insns.count + 1)
    this.end = new Uint8Array(insns.count)
    this.call = new Uint8Array(insns.count)
  }

  #fail(i: number, problem: number): void {
    this.mark[i] = (this.mark[i]! & ((1 << PROBLEM_SHIFT) - 1)) | (problem << PROBLEM_SHIFT)
  }

  /** Notes that control may go from an instruction to an rva. */
  #goTo(i: number, to: Rva, kind: number): void {
    this.mark[i]! |= CUT
    this.targets.add(to)
    const at = this.index.at(to)
    if (at === NONE) {
      this.end[i]! |= END.unknown | END.leaks
      this.#fail(i, PROBLEM.jumpsInside)
      this.#pointTo(to)
    } else {
      this.mark[at]! |= LEADER
      if (kind !== EDGE.jump) this.loose.push({ from: i, to: at, kind })
    }
  }

  /** Notes that control may come to an rva in ways that are not known. */
  #pointTo(rva: Rva): void {
    this.targets.add(rva)
    let at = this.index.at(rva)
    // Into the middle of an instruction: what comes behind it may be reached by other bytes than those that were swept.
    if (at === NONE) at = this.index.from(rva)
    if (at >= this.insns.count) return
    this.mark[at]! |= LEADER | POINTED
  }

  sweep(): void {
    const { image, mark, end, call, targets, index } = this
    const { flow, target, count, rva, length } = this.insns
    const returnThunk = image.symbols.rvaOf('__x86_return_thunk')
    const byPointer = this.#pointerPlaces()
    for (let i = 0; i < count; i++) {
      const to = target[i]!
      switch (flow[i]) {
        case FLOW.next: break
        case FLOW.jump:
        case FLOW.branch:
          mark[i]! |= CUT
          if (flow[i] === FLOW.jump) mark[i]! |= STOPS
          if (to === returnThunk) end[i]! |= END.return | (flow[i] === FLOW.branch ? END.tailTaken : 0)
          else if (byPointer.has(to)) {
            end[i]! |= END.tail | END.tailIndirect | (flow[i] === FLOW.branch ? END.tailTaken : 0)
          } else if (to === NONE) {
            end[i]! |= END.unknown | END.leaks
            this.#fail(i, PROBLEM.fallsThrough)
          } else this.#goTo(i, to, EDGE.jump)
          break
        case FLOW.call: {
          mark[i]! |= CUT
          end[i]! |= END.leaks
          call[i] = byPointer.has(to) ? CALL.anything : CALL.direct
          if (to === NONE) break
          targets.add(to)
          const at = index.at(to)
          if (at === NONE) this.#pointTo(to)
          else mark[at]! |= LEADER
          if (this.#dropsReturn(to)) {
            // No call, but a jump: control goes on with whoever called here.
            mark[i]! |= STOPS
            end[i]! |= END.tail | END.tailIndirect
            call[i] = CALL.none
          }
          break
        }
        case FLOW.indirectJump:
          mark[i]! |= CUT | STOPS
          end[i]! |= END.tail | END.tailIndirect
          break
        case FLOW.indirectCall:
          mark[i]! |= CUT
          end[i]! |= END.leaks
          call[i] = CALL.anything
          break
        case FLOW.return:
          mark[i]! |= CUT | STOPS
          end[i]! |= END.return
          break
        case FLOW.trap:
          // An int3 that is no padding is there for someone who resumes behind it.
          mark[i]! |= length[i] === 1 ? CUT : CUT | STOPS
          end[i]! |= END.leaks
          if (this.#emulates(rva[i]!)) {
            end[i]! |= END.unknown
            this.#fail(i, PROBLEM.undecodable)
          }
          break
        case FLOW.system:
          mark[i]! |= CUT
          end[i]! |= END.leaks | END.unknown
          this.#pointTo(rva[i]! + length[i]!)
          break
        default:
          mark[i]! |= CUT | STOPS
          end[i]! |= END.leaks | END.unknown
          this.#fail(i, PROBLEM.undecodable)
      }
      if (i + 1 < count && rva[i]! + length[i]! !== rva[i + 1]) mark[i + 1]! |= LEADER
    }
    if (count > 0) mark[0]! |= LEADER
  }

  /** Where control only passes on its way through a pointer: thunks, and trampolines that the kernel rewrites. */
  #pointerPlaces(): BranchTargets {
    const { regions, tables } = this.image
    const places = new BranchTargets(regions[0]!.start, regions.at(-1)!.end)
    for (const rva of indirectThunks(this.image)) places.add(rva)
    for (const rva of tables.staticCallTrampolines.start) places.add(rva)
    return places
  }

  /** Whether an emulation prefix starts there: a ud2 and three letters, behind which a hypervisor goes on. */
  #emulates(rva: Rva): boolean {
    return EMULATION_PREFIXES.some((prefix) => this.#isAt(rva, prefix))
  }

  /** Whether what is called there throws its return address away first, as the return thunks against SRSO do. */
  #dropsReturn(rva: Rva): boolean {
    return POPS.some((code) => this.#isAt(rva, code))
  }

  #isAt(rva: Rva, code: readonly number[]): boolean {
    const region = this.image.regions.find(({ start, end }) => rva >= start && rva + code.length <= end)
    if (region === undefined) return false
    const at = rva - region.start
    for (let i = 0; i < code.length; i++) if (region.bytes[at + i] !== code[i]) return false
    return true
  }

  /** Functions, and whatever has the address of code. */
  entries(): void {
    const { image, insns, mark } = this
    const { functions } = image
    for (let f = 0; f < functions.count; f++) {
      const at = this.index.at(functions.start[f]!)
      if (at !== NONE) mark[at]! |= LEADER
      const behind = this.index.from(functions.end[f]!)
      mark[behind]! |= LEADER
    }
    for (const pointer of image.codePointers) this.#pointTo(pointer)
    for (const exported of image.tables.exports) this.#pointTo(exported)
    // Instructions that carry an address: in a rip-relative displacement, and in a constant at the end, which is where
    // every 4-byte immediate lies; the low half of an 8-byte one is also tried. Rather too many than too few.
    const point = (to: Rva): void => {
      if (to < image.imageBytes && image.functions.functionAt(to) !== NONE) this.#pointTo(to)
    }
    const base = Number(image.base & 0xffff_ffffn)
    const high = Number(image.base >> 32n)
    for (const region of image.regions) {
      const { bytes, start } = region
      const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength)
      const last = this.index.from(region.end)
      for (let i = this.index.from(start); i < last; i++) {
        const length = insns.length[i]!
        if (length < 5 || insns.target[i] !== NONE) continue
        const at = insns.rva[i]! - start
        const end = at + length
        const rip = insns.ripAt[i]!
        if (rip !== 0) point((insns.rva[i]! + length + view.getInt32(at + rip, true)) >>> 0)
        // The last byte of the high half of a sign-extended address of the kernel, or of its low half.
        if ((rip !== 0 && rip + 8 > length) || bytes[end - 1]! < 0x80 || high !== 0xffff_ffff) continue
        const wide = length >= 10 && view.getInt32(end - 4, true) === -1
        point((view.getUint32(wide ? end - 8 : end - 4, true) - base) >>> 0)
      }
    }
  }

  /** What the kernel's tables say of single instructions. */
  tables(): void {
    const { image: { tables }, insns, index, mark, end, call } = this
    for (const rva of tables.ftrace) {
      const i = index.at(rva)
      if (i === NONE) continue
      // A call only where someone traces; the tracer returns.
      end[i]! &= ~END.leaks
      call[i] = CALL.none
    }
    for (const rva of tables.warns) {
      const i = index.at(rva)
      if (i !== NONE) mark[i]! &= ~STOPS
    }
    for (const rva of tables.staticCalls) {
      const i = index.at(rva)
      if (i !== NONE && insns.flow[i] === FLOW.call) call[i] = CALL.anything
    }
    for (let k = 0; k < tables.staticKeys.rva.length; k++) {
      const i = index.at(tables.staticKeys.rva[k]!)
      this.targets.add(tables.staticKeys.target[k]!)
      if (i === NONE) continue
      mark[i]! &= ~STOPS
      this.#goTo(i, tables.staticKeys.target[k]!, EDGE.key)
    }
    for (let k = 0; k < tables.exTable.insn.length; k++) {
      const i = index.at(tables.exTable.insn[k]!)
      this.targets.add(tables.exTable.fixup[k]!)
      if (i === NONE) continue
      end[i]! |= END.leaks
      this.#goTo(i, tables.exTable.fixup[k]!, EDGE.fixup)
    }
  }

  /** A region that the kernel may rewrite is a run of instructions, any of which may not be there. */
  alternatives(): void {
    const { image: { tables: { alternatives, paravirt } }, index, insns, mark, end, call } = this
    readVariants(this.image).forEach((variant, k) => {
      const from = index.at(alternatives.rva[k]!)
      if (from === NONE) return // inside an earlier one, or never decoded there: its bytes are reserved anyway
      const after = alternatives.rva[k]! + alternatives.len[k]!
      for (let i = from; i < insns.count && insns.rva[i]! < after; i++) {
        this.altered.push([i, variant?.reads ?? 0])
        // What the file calls there is one of several, like what variants call.
        if (insns.flow[i] === FLOW.call) this.variantCalls.push([i, insns.target[i]!])
        // Another variant may go on where this one does not.
        if (insns.rva[i]! + insns.length[i]! >= after || insns.flow[i] !== FLOW.next) mark[i]! &= ~STOPS
      }
      if (variant === undefined) return
      for (const to of variant.jumps) {
        if (to === NONE) variant.leaves = true
        else this.#goTo(from, to, EDGE.variant)
      }
      if (variant.calls.length > 0 || variant.callsAnything || variant.leaves) {
        for (let i = from; i < insns.count && insns.rva[i]! < after; i++) {
          mark[i]! |= CUT
          end[i]! |= END.leaks
        }
      }
      for (const to of variant.calls) {
        this.variantCalls.push([from, to])
        if (to === NONE) continue
        this.targets.add(to)
        const at = index.at(to)
        if (at !== NONE) mark[at]! |= LEADER
      }
      if (variant.callsAnything) {
        if (call[from] === CALL.none || call[from] === CALL.anything) call[from] = CALL.anything
        else this.variantCalls.push([from, NONE])
      }
      if (variant.leaves) end[from]! |= END.variantLeaves
    })
    paravirt.rva.forEach((rva, k) => {
      for (let i = index.from(rva); i < insns.count && insns.rva[i]! < rva + paravirt.len[k]!; i++) {
        mark[i]! = (mark[i]! | CUT) & ~STOPS
        this.altered.push([i, 0])
        if (i === index.at(rva)) call[i] = CALL.anything
      }
    })
  }

  /** Indirect jumps that are no tail calls, since data points into the function that makes them. */
  jumpTables(): void {
    const { image: { functions, codePointers, tables }, insns, index, mark, end } = this
    const jumps: number[] = []
    for (let i = 0; i < insns.count; i++) {
      if (!(end[i]! & END.tailIndirect)) continue
      const f = functions.functionAt(insns.rva[i]!)
      if (f === NONE) continue
      const pointer = lowerBound(codePointers, functions.start[f]! + 1)
      const pointedInto = pointer < codePointers.length && codePointers[pointer]! < functions.end[f]!
      if (pointedInto || (tables.retpolineSites.length === 0 && insns.flow[i] === FLOW.indirectJump)) jumps.push(i)
    }
    if (jumps.length === 0) return
    const altered = new Set(this.altered.map(([i]) => i))
    const leads = (i: number): boolean => i === 0 || (mark[i]! & LEADER) !== 0
    const found = readJumpTables(this.image, insns, index, jumps, leads, (i) => altered.has(i))
    for (const i of jumps) {
      const places = found.get(i)
      if (places === undefined) {
        this.#fail(i, PROBLEM.jumpTable)
        end[i]! |= END.unknown | END.leaks
        continue
      }
      end[i]! &= ~(END.tail | END.tailIndirect)
      mark[i]! |= ELSEWHERE
      // The kernel may put `jmp *%r` over the jump to a thunk (apply_retpolines, arch/x86/kernel/alternative.c).
      if (insns.flow[i] === FLOW.jump) this.altered.push([i, ALL])
      for (const to of places) this.#goTo(i, to, EDGE.table)
    }
  }

  build(): KernelGraph {
    const { image, insns, index, targets, mark } = this
    const { count, rva, length, flow, target } = insns
    let blockCount = 0
    for (let i = 0; i < count; i++) {
      if (i > 0 && mark[i - 1]! & CUT) mark[i]! |= LEADER
      if (mark[i]! & LEADER) blockCount++
    }
    const blockFirst = new Uint32Array(blockCount + 1)
    const blockOf = new Uint32Array(count)
    for (let i = 0, b = -1; i < count; i++) {
      if (mark[i]! & LEADER) blockFirst[++b] = i
      blockOf[i] = b
    }
    blockFirst[blockCount] = count
    const end = new Uint8Array(blockCount)
    const problem = new Uint8Array(blockCount)
    const entry = new Uint8Array(blockCount)
    const call = new Uint8Array(blockCount)
    const callee = new Uint32Array(blockCount).fill(NONE)
    const succStart = new Uint32Array(blockCount + 1)
    const bound = 2 * blockCount + this.loose.length
    const succ = new Uint32Array(bound)
    const succKind = new Uint8Array(bound)
    const loose = this.loose.sort((a, b) => a.from - b.from)
    let l = 0
    let edges = 0
    for (let b = 0; b < blockCount; b++) {
      const last = blockFirst[b + 1]! - 1
      const firstEdge = edges
      succStart[b] = firstEdge
      end[b] = this.end[last]!
      problem[b] = mark[last]! >>> PROBLEM_SHIFT
      call[b] = this.call[last]!
      if (!(mark[last]! & STOPS)) {
        if (last + 1 < count && rva[last + 1] === rva[last]! + length[last]!) {
          succ[edges] = b + 1
          succKind[edges++] = EDGE.next
        } else if (call[b] === CALL.none) {
          // A call at the very end does not return; whatever else runs off goes to places unknown.
          end[b]! |= END.unknown | END.leaks
          if (flow[last] !== FLOW.system && flow[last] !== FLOW.trap) problem[b] = PROBLEM.fallsThrough
        }
      }
      const to = target[last]!
      if ((flow[last] === FLOW.jump || flow[last] === FLOW.branch) && !(end[b]! & (END.return | END.tailIndirect)) &&
        !(mark[last]! & ELSEWHERE)) {
        const at = to === NONE ? NONE : index.at(to)
        if (at !== NONE) edges = addEdge(succ, succKind, firstEdge, edges, blockOf[at]!, EDGE.jump)
      }
      while (l < loose.length && loose[l]!.from < last) l++
      for (; l < loose.length && loose[l]!.from === last; l++) {
        edges = addEdge(succ, succKind, firstEdge, edges, blockOf[loose[l]!.to]!, loose[l]!.kind)
      }
      if (call[b] === CALL.direct && to !== NONE) {
        const at = index.at(to)
        if (at !== NONE) {
          callee[b] = blockOf[at]!
          entry[blockOf[at]!]! |= ENTRY.called
        }
      }
    }
    succStart[blockCount] = edges
    for (let i = 0; i < count; i++) if (mark[i]! & POINTED) entry[blockOf[i]!]! |= ENTRY.pointed
    const { functions } = image
    for (let f = 0; f < functions.count; f++) {
      const at = index.at(functions.start[f]!)
      if (at !== NONE) entry[blockOf[at]!]! |= ENTRY.function
    }
    const variantCalls = this.variantCalls.map(([insn, to]) => {
      const at = to === NONE ? NONE : index.at(to)
      if (at !== NONE) entry[blockOf[at]!]! |= ENTRY.called
      return [blockOf[insn]!, at === NONE ? NONE : blockOf[at]!] as const
    }).sort((a, b) => a[0] - b[0])
    this.altered.sort((a, b) => a[0] - b[0])
    const graph = {
      image, insns, index, targets, blockCount, blockFirst, blockOf, end, problem, entry,
      succStart, succ: succ.subarray(0, edges), succKind: succKind.subarray(0, edges), call, callee, ...callersOf(callee),
      altered: Uint32Array.from(this.altered, (a) => a[0]), alteredReads: Uint32Array.from(this.altered, (a) => a[1]),
      variantCaller: Uint32Array.from(variantCalls, (c) => c[0]), variantCallee: Uint32Array.from(variantCalls, (c) => c[1]),
    }
    const whole = { ...graph, ...predecessors(graph) }
    const returning = findReturning(whole)
    return { ...whole, ...dropEdgesBehind(whole, returning), returning }
  }
}

/** Appends an edge unless one of [first, edges) goes to the same block; returns how many edges there are. */
const addEdge = (succ: Uint32Array, succKind: Uint8Array, first: number, edges: number, to: number, kind: number): number => {
  for (let e = first; e < edges; e++) if (succ[e] === to) return edges
  succ[edges] = to
  succKind[edges] = kind
  return edges + 1
}

/** The thunks that indirect branches go through, by rva. */
const indirectThunks = (image: Image): Set<Rva> => {
  const thunks = new Set<Rva>()
  const { functions } = image
  for (let f = 0; f < functions.count; f++) {
    if (image.symbols.nameStartsWith(functions.symbol[f]!, '__x86_indirect_')) thunks.add(functions.start[f]!)
  }
  return thunks
}

type Edges = Pick<KernelGraph, 'blockCount' | 'succStart' | 'succ'>

/** The edges turned round, by counting sort: each block's predecessors ascend. */
export const predecessors = ({ blockCount, succStart, succ }: Edges): Pick<KernelGraph, 'predStart' | 'pred'> => {
  const predStart = new Uint32Array(blockCount + 1)
  for (let e = 0; e < succ.length; e++) predStart[succ[e]! + 1]!++
  for (let b = 0; b < blockCount; b++) predStart[b + 1]! += predStart[b]!
  const next = predStart.slice()
  const pred = new Uint32Array(succ.length)
  for (let b = 0; b < blockCount; b++) {
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) pred[next[succ[e]!]!++] = b
  }
  return { predStart, pred }
}

/** Direct calls turned round, likewise. */
const callersOf = (callee: Uint32Array): Pick<KernelGraph, 'callerStart' | 'caller'> => {
  const callerStart = new Uint32Array(callee.length + 1)
  for (let b = 0; b < callee.length; b++) if (callee[b] !== NONE) callerStart[callee[b]! + 1]!++
  for (let b = 0; b < callee.length; b++) callerStart[b + 1]! += callerStart[b]!
  const next = callerStart.slice()
  const caller = new Uint32Array(callerStart[callee.length]!)
  for (let b = 0; b < callee.length; b++) if (callee[b] !== NONE) caller[next[callee[b]!]!++] = b
  return { callerStart, caller }
}

/** Builds the graph of a whole image. */
export const buildGraph = (image: Image): KernelGraph => {
  const builder = new Builder(image)
  builder.sweep()
  builder.entries()
  builder.tables()
  builder.alternatives()
  builder.jumpTables()
  return builder.build()
}
