// Who called whom, and how often. In: how often blocks ran, the kernel's graph. Out: calls, by the counts of the blocks that end in
// them, each by itself and added up between functions; and how often functions were entered by callers that are not known.
// Left out: calls through pointers, whose targets are not known; and calls in blocks that are not counted.

import type { KernelGraph } from '../cfg/graph.js'
import { FLOW } from '../code/instructions.js'
import { NONE, type Rva } from '../image/rva.js'
import { falling } from './order.js'
import { addTo, entriesOf } from './runs.js'

export interface Calls {
  readonly caller: number // function
  readonly callee: number
  readonly count: bigint
}

/** One call instruction. */
export interface CallSite extends Calls {
  readonly at: Rva
}

export interface CallGraph {
  /** By falling count; none is of zero. */
  readonly sites: readonly CallSite[]
  /** By falling count. */
  readonly calls: readonly Calls[]
  /** Function -> entries that none of the calls above explains. */
  readonly entered: ReadonlyMap<number, bigint>
}

const byFalling = ({ count: a }: Calls, { count: b }: Calls): number => falling(a, b)

/** @param ran by blockRuns */
export const callGraphOf = (ran: ReadonlyMap<number, bigint>, graph: KernelGraph): CallGraph => {
  const { insns, blockFirst, callee, image: { functions, tables } } = graph
  const traced = new Set(tables.ftrace)
  const sites: CallSite[] = []
  const counts = new Map<string, { caller: number; callee: number; count: bigint }>()
  const known = new Map<number, bigint>() // function -> calls of it
  for (const [block, count] of ran) {
    const last = blockFirst[block + 1]! - 1
    // The call at the start of a function is the function tracer's.
    if (count === 0n || insns.flow[last] !== FLOW.call || callee[block] === NONE || traced.has(insns.rva[last]!)) continue
    const [from, to] = [functions.functionAt(insns.rva[last]!), functions.functionAt(insns.rva[blockFirst[callee[block]!]!]!)]
    if (from === NONE || to === NONE) continue
    sites.push({ at: insns.rva[last]!, caller: from, callee: to, count })
    const key = `${from} ${to}`
    const calls = counts.get(key) ?? { caller: from, callee: to, count: 0n }
    calls.count += count
    counts.set(key, calls)
    addTo(known, [[to, count]])
  }
  const entered = new Map<number, bigint>()
  for (let fn = 0; fn < functions.count; fn++) {
    const count = entriesOf(ran, graph, fn)
    if (count === undefined) continue
    const rest = count - (known.get(fn) ?? 0n)
    if (rest > 0n) entered.set(fn, rest)
  }
  return { sites: sites.sort(byFalling), calls: [...counts.values()].sort(byFalling), entered }
}
