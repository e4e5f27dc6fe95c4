// The flow network of one function: what must balance where. In: a function's graph, and which of its blocks control
// leaves, and how. Out: FlowNetwork, nodes and directed flows, so that of any run of the function that has begun and
// ended, what flows into a node is what flows out of it (cfg/conserve.ts draws the conclusions).
//
// A block is two nodes, where it is entered and where it is left, and its count is the flow between them. So counts
// of blocks and of edges are one kind of thing, either can be measured or asked for, and an edge from a block to
// itself needs no care. Entries come from and ways out lead to one outer node: what comes in goes out. A block's
// count is that of its last instruction as much as of its first: control leaves a block at its end only, since
// whatever may fault with a fixup, call or trap ends one (graph.ts). Faults without a fixup are bugs: the thread is
// killed, or the machine. Left out: blocks that no entry reaches; functions that are incomplete, or where variants
// leave (no network at all).
//
// Calls that may not come back. A flow to the outer node ("lost") stands behind every call that threads without
// number may enter and never leave. Threads end in one place, do_task_dead (kernel/sched/core.c, 4.9 and later), and
// the idle thread of a CPU that goes offline in another; so what can be lost is lost in what reaches these by direct
// calls and jumps, of which findStaying keeps the books. All else that never returns either ends the machine (panic,
// BUG) or loops for good: a thread that loops still exists and is one of those in flight, which no equation accounts
// for (conserve.ts). Lost too are calls to where no function starts, which may take their return address away. A call
// through a pointer is a HEURISTIC: it counts as lost only in functions that hold a block that may stay. What may
// stay and has its address taken is, in 6.1 and 6.12, system calls (called by what delivers signals on the way back,
// so it may stay itself), the main functions of threads (called by kthread, which never returns, or ret_from_fork)
// and entry code. It fails where another function calls one of these through a pointer: then each thread that ends
// there is one too many in what is derived of its caller. Threads that the kernel kills after an oops leave every
// function that they are in, and are one too many in each. In 6.1 and 6.12, fewer than 100 calls with code behind
// them are lost where text may be touched at all; were all calls, a twentieth of the blocks could not be had any
// more, and those that can would take half as many sites again (test/conserve.test.ts).

import { FLOW } from '../code/instructions.js'
import { assert } from '../error.js'
import { NONE } from '../image/rva.js'
import { lowerBound } from '../image/search.js'
import { reachable, type FunctionGraph } from './function.js'
import { predecessors, type KernelGraph } from './graph.js'
import { CALL, END, ENTRY } from './kinds.js'
import { Row } from './row.js'

/** What a flow counts. */
export const FLOWS = {
  block: 0, // runs of a block
  edge: 1, //  from a block to another
  entry: 2, // control comes to a block from outside
  leave: 3, // its last instruction goes outside: a return, a tail call, the taken side of a conditional one
  fault: 4, // a fault goes on outside
  lost: 5, //  control stays in a callee, a loop without end or a bug, or nobody knows where it goes
} as const

/** Ways out of a block beside its edges, as bits: each is one flow. */
export const WAY = { leave: 1, fault: 2, lost: 4 } as const

/** The kinds of flow of WAY's bits, lowest first. */
const KIND_OF_WAY = [FLOWS.leave, FLOWS.fault, FLOWS.lost] as const

export interface FlowNetwork {
  readonly nodeCount: number //        block b is entered at node 2b, left at 2b+1; the last node is the outer one
  readonly flowCount: number
  readonly from: Uint32Array //        flow -> node
  readonly to: Uint32Array //          flow -> node
  readonly kind: Uint8Array //         flow -> FLOWS
  readonly block: Uint32Array //       flow -> block that it is, leaves, or (entry) comes to
  readonly blockFlow: Uint32Array //   block -> flow, or NONE where no entry reaches it
  readonly edgeFlow: Uint32Array //    edge -> flow, or NONE likewise
  readonly leaveFlow: Uint32Array //   block -> flow of kind leave, or NONE
}

/** Blocks and edges, whatever they are of. */
export type Shape = Pick<FunctionGraph, 'blockCount' | 'succStart' | 'succ' | 'entries'>

// Where threads end, and where the idle thread of a CPU does that goes offline (kernel/sched/core.c,
// kernel/sched/idle.c and arch/x86/kernel/process.c, 6.1 and 6.12).
const ENDS_THREADS = ['do_task_dead', 'arch_cpu_idle_dead'] as const

// What do_task_dead stays in. Who else calls these comes back, since their task is not dead: so callers are not
// followed.
const SWITCHES = ['__schedule', 'context_switch', '__switch_to_asm'] as const

// Callers of these are not followed either: the end of a thread after an oops (kernel/exit.c), and exception
// handlers, which deliver signals only on their way back to user mode: kernel code that calls one for a fault of its
// own comes back or has oopsed. In 6.12 what prepares the pages of confidential guests does (arch/x86/coco/sev,
// vc_forward_exception), and with it every allocation might stay.
const NOT_FOLLOWED = /^(make_task_dead|exc_\w+)$/

/** What is said of a block: control that enters it comes back, may stay, or switches away, maybe for the last time. */
export const STAYS = { no: 0, may: 1, switches: 2 } as const

/**
 * block -> STAYS: whether control that enters it may stay for ever, in a thread that has ended, by direct calls and
 * jumps. Where it is not known where threads end, every block may.
 */
export const findStaying = (graph: KernelGraph): Uint8Array => {
  const { image: { functions }, index, blockCount, blockOf, predStart, pred, callerStart, caller } = graph
  const { variantCaller, variantCallee } = graph
  const staying = new Uint8Array(blockCount)
  const stack = new Uint32Array(blockCount)
  let top = 0
  const mark = (b: number): void => {
    if (staying[b]) return
    staying[b] = STAYS.may
    stack[top++] = b
  }
  const startOf = (f: number): number[] => {
    const at = index.at(functions.start[f]!)
    return at === NONE ? [] : [blockOf[at]!]
  }
  const starts = (name: string): number[] => functions.functionsNamed(name).flatMap(startOf)
  if (starts(ENDS_THREADS[0]).length === 0) return staying.fill(STAYS.may)
  const isStop = new Set<number>()
  for (let f = 0; f < functions.count; f++) {
    if (NOT_FOLLOWED.test(functions.nameOf(f))) for (const b of startOf(f)) isStop.add(b)
  }
  for (const name of ENDS_THREADS) for (const b of starts(name)) mark(b)
  const variantCallers = new Map<number, number[]>() // block -> those that may call it in a variant
  variantCallee.forEach((to, k) => {
    if (to !== NONE) variantCallers.set(to, [...(variantCallers.get(to) ?? []), variantCaller[k]!])
  })
  while (top > 0) {
    const b = stack[--top]!
    if (isStop.has(b)) continue
    for (let p = predStart[b]!; p < predStart[b + 1]!; p++) mark(pred[p]!)
    for (let c = callerStart[b]!; c < callerStart[b + 1]!; c++) mark(caller[c]!)
    for (const from of variantCallers.get(b) ?? []) mark(from)
  }
  for (const name of SWITCHES) for (const b of starts(name)) if (!staying[b]) staying[b] = STAYS.switches
  return staying
}

/** block -> WAY bits of a function, `staying` being what findStaying says of the whole graph. */
export const waysOut = (graph: KernelGraph, fn: FunctionGraph, staying: Uint8Array): Uint8Array => {
  const { call, callee, entry, variantCaller, variantCallee } = graph
  const ways = new Uint8Array(fn.blockCount)
  let pointers = false
  for (let b = 0; b < fn.blockCount && !pointers; b++) pointers = staying[fn.block[b]!] === STAYS.may
  const isLost = (to: number): boolean => to === NONE || staying[to] !== STAYS.no || !(entry[to]! & ENTRY.function)
  for (let b = 0; b < fn.blockCount; b++) {
    const whole = fn.block[b]!
    const end = fn.blockEnd[b]!
    let way = 0
    if (end & (END.return | END.tail)) way |= WAY.leave
    if (end & END.faultLeaves) way |= WAY.fault
    if (end & END.unknown) way |= WAY.lost
    if (call[whole] === CALL.direct && isLost(callee[whole]!)) way |= WAY.lost
    if (call[whole] === CALL.anything && pointers) way |= WAY.lost
    if (end & END.leaks) {
      for (let k = lowerBound(variantCaller, whole); k < variantCaller.length && variantCaller[k] === whole; k++) {
        const to = variantCallee[k]!
        if (to === NONE ? pointers : isLost(to)) way |= WAY.lost
      }
    }
    ways[b] = way
  }
  return ways
}

const outRow = new Row()

/** Whether two sweeps from the last block to the first show that ways lead out from all: they nearly always do. */
const allGetOut = ({ blockCount, succStart, succ }: Shape, reached: Uint8Array, ways: Uint8Array): boolean => {
  const out = outRow.of(blockCount)
  let left = 0
  for (let sweep = 0; sweep < 2; sweep++) {
    left = 0
    for (let b = blockCount - 1; b >= 0; b--) {
      if (!reached[b] || out[b]) continue
      out[b] = ways[b]!
      for (let e = succStart[b]!; e < succStart[b + 1]! && !out[b]; e++) out[b] = out[succ[e]!]!
      if (!out[b]) left++
    }
    if (left === 0) return true
  }
  return false
}

// Blocks from which no way leads out would balance only if nothing ever came to them: a loop without end, a BUG, a call
// that never returns. Each part of the graph that nothing leaves gets one way out. The block that a depth-first search
// finishes first, among those that do not yet get out, lies in such a part.
const letOut = (shape: Shape, reached: Uint8Array, ways: Uint8Array): void => {
  if (allGetOut(shape, reached, ways)) return
  const { blockCount } = shape
  const { predStart, pred } = predecessors(shape)
  const out = new Uint8Array(blockCount) // block -> 1 when a way leads out from it
  const stack = new Uint32Array(blockCount)
  let left = 0
  const leadsOut = (from: number): void => {
    if (out[from]) return
    let top = 0
    stack[top++] = from
    out[from] = 1
    left--
    while (top > 0) {
      const b = stack[--top]!
      for (let p = predStart[b]!; p < predStart[b + 1]!; p++) {
        const before = pred[p]!
        if (out[before] || !reached[before]) continue
        out[before] = 1
        left--
        stack[top++] = before
      }
    }
  }
  for (let b = 0; b < blockCount; b++) left += reached[b]!
  for (let b = 0; b < blockCount; b++) if (reached[b] && ways[b]) leadsOut(b)
  if (left === 0) return
  for (const b of finishOrder(shape)) {
    if (out[b]) continue
    ways[b]! |= WAY.lost
    leadsOut(b)
  }
}

/** The blocks that the entries reach, in the order in which a depth-first search is done with them. */
const finishOrder = ({ blockCount, succStart, succ, entries }: Shape): Uint32Array => {
  const order = new Uint32Array(blockCount)
  const path = new Uint32Array(blockCount)
  const edge = succStart.slice(0, blockCount) // block -> its next edge to follow
  const seen = new Uint8Array(blockCount)
  let count = 0
  for (const entry of entries) {
    if (seen[entry]) continue
    let depth = 0
    path[depth++] = entry
    seen[entry] = 1
    while (depth > 0) {
      const b = path[depth - 1]!
      if (edge[b]! < succStart[b + 1]!) {
        const to = succ[edge[b]!++]!
        if (seen[to]) continue
        seen[to] = 1
        path[depth++] = to
      } else {
        order[count++] = b
        depth--
      }
    }
  }
  return order.subarray(0, count)
}

/** The network of a graph of which `ways` says where control leaves: block -> WAY bits. Several edges may be alike. */
export const buildNetwork = (shape: Shape, ways: Uint8Array): FlowNetwork => {
  const { blockCount, succStart, succ, entries } = shape
  const reached = reachable(shape, entries)
  const all = ways.slice()
  letOut(shape, reached, all)
  const outer = 2 * blockCount
  let flowCount = entries.length
  for (let b = 0; b < blockCount; b++) {
    if (!reached[b]) continue
    flowCount += 1 + succStart[b + 1]! - succStart[b]!
    for (let bits = all[b]!; bits !== 0; bits &= bits - 1) flowCount++
  }
  const from = new Uint32Array(flowCount)
  const to = new Uint32Array(flowCount)
  const kind = new Uint8Array(flowCount)
  const block = new Uint32Array(flowCount)
  const blockFlow = new Uint32Array(blockCount).fill(NONE)
  const edgeFlow = new Uint32Array(succ.length).fill(NONE)
  const leaveFlow = new Uint32Array(blockCount).fill(NONE)
  let flows = 0
  const add = (what: number, b: number, source: number, sink: number): number => {
    kind[flows] = what
    block[flows] = b
    from[flows] = source
    to[flows] = sink
    return flows++
  }
  for (let b = 0; b < blockCount; b++) if (reached[b]) blockFlow[b] = add(FLOWS.block, b, 2 * b, 2 * b + 1)
  for (let b = 0; b < blockCount; b++) {
    if (!reached[b]) continue
    for (let e = succStart[b]!; e < succStart[b + 1]!; e++) edgeFlow[e] = add(FLOWS.edge, b, 2 * b + 1, 2 * succ[e]!)
  }
  for (let i = 0; i < entries.length; i++) add(FLOWS.entry, entries[i]!, outer, 2 * entries[i]!)
  for (let b = 0; b < blockCount; b++) {
    if (!reached[b]) continue
    for (let bit = 0; bit < KIND_OF_WAY.length; bit++) {
      if (!(all[b]! & (1 << bit))) continue
      const flow = add(KIND_OF_WAY[bit]!, b, 2 * b + 1, outer)
      if (KIND_OF_WAY[bit] === FLOWS.leave) leaveFlow[b] = flow
    }
  }
  assert(flows === flowCount, 'as many flows as were counted')
  return { nodeCount: outer + 1, flowCount, from, to, kind, block, blockFlow, edgeFlow, leaveFlow }
}

/** The network of a function, or undefined where nothing may be concluded from the shape of its graph. */
export const flowsOf = (graph: KernelGraph, fn: FunctionGraph, staying: Uint8Array): FlowNetwork | undefined =>
  fn.incomplete !== '' || fn.alternativeLeaves ? undefined : buildNetwork(fn, waysOut(graph, fn, staying))

/**
 * The edge that is the taken side of the conditional jump at a block's end, as a flow: an edge or, where the jump
 * leaves the function, the way out. NONE where the block ends otherwise, or where both sides lead to the same place.
 */
export const takenFlow = (net: FlowNetwork, fn: FunctionGraph, b: number): number => {
  const { insns, blockFirst, blockEnd, succStart, succ } = fn
  const last = blockFirst[b + 1]! - 1
  if (insns.flow[last] !== FLOW.branch) return NONE
  if (blockEnd[b]! & END.tailTaken) return net.leaveFlow[b]!
  const next = insns.rva[last]! + insns.length[last]!
  const target = insns.target[last]!
  if (target === NONE || target === next) return NONE
  for (let e = succStart[b]!; e < succStart[b + 1]!; e++) {
    if (insns.rva[blockFirst[succ[e]!]!] === target) return net.edgeFlow[e]!
  }
  return NONE
}
