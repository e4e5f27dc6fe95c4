// Counts by conservation: which flows of a network to measure so that the wanted ones follow (D. Knuth, F. Stevenson:
// Optimal measurement points for program frequency counts, 1973; T. Ball, J. Larus: Optimally profiling and tracing
// programs, 1994). In: a network (flows.ts), what measuring each flow costs, and which flows are wanted. Out: the
// flows to measure, and of each wanted flow an equation, or that it cannot be had.
//
// At each node, what comes in goes out. So among the flows that are not measured, a flow is determined exactly if it
// is a bridge: removing it parts the network in two, and what was measured across the parting tells it; while any
// amount can run round a cycle unseen. What cannot be measured is therefore left out first, together with all the
// cycles that it has (these cannot be had, whatever is measured); then, dearest first, every flow that closes no
// cycle. Left-out flows hold a spanning forest, whose fundamental cuts are the equations. Measured flows in no wanted
// flow's cut are dropped.
//
// How cheap: the cheapest there is wherever all that can be measured is wanted (it is a matroid's greatest basis): so
// for all edges, and for all blocks where blocks alone can be measured. Where blocks are wanted and edges can be
// measured too, we know of no fast exact way; the cheaper one of two is taken: by cost alone, and with what is not
// wanted left out before what is. Either gives all that can be had.
//
// What a reader may conclude. A derived count is exact if every thread that entered the function while it was counted
// has left it, and none was inside when counting began. Threads in flight then, and when the counters are read, make
// each derived count wrong by up to their number, and a count near zero may come out negative: that is an imbalance,
// to be named as one. One that is larger than the number of threads that there may be means that control goes where
// the graph has no edge, or stays in a call that flows.ts takes to come back: then no count derived in this function
// is to be believed. The same holds for the equations that are left over where more is measured than is needed
// (redundant()).
//
// No recursion. Time: the sorting of costs, then near-linear in the network and in the equations' terms; a measured
// flow is a term of each wanted flow on its cycle, which makes few in kernels, though a long ladder could make them
// many.

import { assert } from '../error.js'
import { NONE } from '../image/rva.js'
import type { FlowNetwork } from './flows.js'
import { FLOWS } from './flows.js'
import { Row } from './row.js'

/** What is decided of a flow. */
export const HOW = {
  ignored: 0, //  neither wanted nor of use
  measured: 1,
  derived: 2, //  wanted, and follows
  unknown: 3, //  wanted, and cannot be had
} as const

/** Equations: derived[k] is the sum of sign[i] * term[i] over start[k] <= i < start[k + 1]. */
export interface Choice {
  readonly how: Uint8Array //          flow -> HOW
  readonly measured: Uint32Array //    flows, ascending; a wanted one is its own count
  readonly derived: Uint32Array //     flows, ascending
  readonly unknown: Uint32Array //     flows, ascending
  readonly start: Uint32Array //       derived -> first index into term; start[derived.length] = term.length
  readonly term: Uint32Array //        index -> measured flow
  readonly sign: Int8Array //          index -> 1 or -1
  readonly cost: number //             of all that is measured
}

/** Nodes and flows, whatever they stand for. */
export type Net = Pick<FlowNetwork, 'nodeCount' | 'from' | 'to'>

/** flow -> 1 where wanted: all blocks, or all edges, entries and ways out as well. */
export const wantedFlows = ({ kind }: Pick<FlowNetwork, 'kind'>, what: 'blocks' | 'edges'): Uint8Array =>
  Uint8Array.from(kind, (k) => (k === FLOWS.block || (what === 'edges' && k !== FLOWS.lost) ? 1 : 0))

/** Sets of nodes that are put together one by one. */
class Sets {
  readonly #parent: Uint32Array // node -> a node of the same set, nearer to its representative

  /** @param parent room for so many nodes */
  constructor(nodeCount: number, parent: Uint32Array) {
    for (let i = 0; i < nodeCount; i++) parent[i] = i
    this.#parent = parent
  }

  find(node: number): number {
    const parent = this.#parent
    let n = node
    while (parent[n] !== n) {
      parent[n] = parent[parent[n]!]!
      n = parent[n]!
    }
    return n
  }

  /** Whether they were apart; the set of the second keeps its representative. */
  join(a: number, b: number): boolean {
    const x = this.find(a)
    const y = this.find(b)
    this.#parent[x] = y
    return x !== y
  }
}

/** A choice in the making. It is used for one network after the other, and so are its rows. */
class Chooser {
  // The spanning forest of the flows that are not measured, as a tree over the nodes.
  readonly #isTree = new Row() // flow -> 1 where it is in it
  readonly #parent = new Row() // node -> node, or NONE
  readonly #flow = new Row() //   node -> flow between it and its parent
  readonly #depth = new Row() //  node -> how far from the root
  readonly #order = new Row() //  nodes, parents first

  readonly #chord = new Row() //  flows that cannot be measured, and close cycles of such
  readonly #cyclic = new Row() // flow -> 1 where it lies on a cycle of flows that are not measured
  readonly #how = new Row() //    flow -> HOW
  readonly #stop = new Row() //   node -> the nearest one at or above it that hangs on a derived flow, or the root
  readonly #start = new Row() //  flow -> terms of its equation, then where they begin

  // Of use for a moment.
  readonly #sets = new Row()
  readonly #around = new Row()
  readonly #aroundStart = new Row()
  readonly #next = new Row()
  readonly #seen = new Row()

  #net: Net = { nodeCount: 0, from: new Uint32Array(0), to: new Uint32Array(0) }
  #chords = 0
  /** Of all that is measured. */
  cost = 0
  /** Whether flows are measured that are not wanted. */
  takesOthers = false

  /** Chooses with flows left out in a given order: first those that cannot be measured, then the first of `order`. */
  choose(net: Net, cost: Float64Array, wanted: Uint8Array, order: Uint32Array, ordered: number): void {
    this.#net = net
    const { nodeCount, from, to } = net
    const count = from.length
    const sets = new Sets(nodeCount, this.#sets.room(nodeCount))
    const isTree = this.#isTree.of(count)
    const chord = this.#chord.room(count)
    this.#chords = 0
    for (let f = 0; f < count; f++) {
      if (cost[f] !== Infinity) continue
      if (sets.join(from[f]!, to[f]!)) isTree[f] = 1
      else chord[this.#chords++] = f
    }
    for (let k = 0; k < ordered; k++) if (sets.join(from[order[k]!]!, to[order[k]!]!)) isTree[order[k]!] = 1
    this.#root()
    this.#findCycles()
    const how = this.#how.of(count)
    const cyclic = this.#cyclic.room(count)
    for (let f = 0; f < count; f++) {
      if (wanted[f] && (isTree[f] || cyclic[f])) how[f] = cyclic[f] ? HOW.unknown : HOW.derived
    }
    const stop = this.#stop.room(nodeCount)
    const nodes = this.#order.room(nodeCount)
    const parent = this.#parent.room(nodeCount)
    const flow = this.#flow.room(nodeCount)
    for (let k = 0; k < nodeCount; k++) {
      const n = nodes[k]!
      const up = parent[n]!
      stop[n] = up === NONE || how[flow[n]!] === HOW.derived ? n : stop[up]!
    }
    const start = this.#start.of(count + 1)
    this.cost = 0
    this.takesOthers = false
    let terms = 0
    const visit = (f: number): void => {
      start[f + 1]!++
      terms++
    }
    for (let m = 0; m < count; m++) {
      if (isTree[m] || cost[m] === Infinity) continue
      const before = terms
      this.#walk(m, visit)
      if (!wanted[m] && terms === before) continue
      how[m] = HOW.measured
      this.cost += cost[m]!
      if (!wanted[m]) this.takesOthers = true
    }
  }

  /** The choice, once it is made. */
  result(): Choice {
    const count = this.#net.from.length
    const chosen = this.#how.room(count)
    const how = new Uint8Array(count)
    for (let f = 0; f < count; f++) how[f] = chosen[f]!
    const next = this.#start.room(count + 1)
    for (let f = 0; f < count; f++) next[f + 1]! += next[f]!
    const derived = select(how, HOW.derived)
    const start = new Uint32Array(derived.length + 1)
    for (let k = 0; k <= derived.length; k++) start[k] = next[k < derived.length ? derived[k]! : count]!
    const term = new Uint32Array(next[count]!)
    const sign = new Int8Array(next[count]!)
    const measured = select(how, HOW.measured)
    let m = 0
    const visit = (f: number, s: number): void => {
      term[next[f]!] = m
      sign[next[f]!++] = s
    }
    for (let k = 0; k < measured.length; k++) {
      m = measured[k]!
      this.#walk(m, visit)
    }
    return { how, measured, derived, unknown: select(how, HOW.unknown), start, term, sign, cost: this.cost }
  }

  /** Roots the forest: at the last node, the outer one, where that can be. */
  #root(): void {
    const { nodeCount, from, to } = this.#net
    const count = from.length
    const isTree = this.#isTree.room(count)
    const start = this.#aroundStart.of(nodeCount + 1)
    for (let f = 0; f < count; f++) {
      if (!isTree[f]) continue
      start[from[f]! + 1]!++
      start[to[f]! + 1]!++
    }
    const next = this.#next.room(nodeCount)
    for (let n = 0; n < nodeCount; n++) {
      next[n] = start[n]!
      start[n + 1]! += start[n]!
    }
    const around = this.#around.room(start[nodeCount]!) // flows at each node
    for (let f = 0; f < count; f++) {
      if (!isTree[f]) continue
      around[next[from[f]!]!++] = f
      around[next[to[f]!]!++] = f
    }
    const parent = this.#parent.of(nodeCount, NONE)
    const flow = this.#flow.of(nodeCount, NONE)
    const depth = this.#depth.of(nodeCount)
    const order = this.#order.room(nodeCount)
    const seen = this.#seen.of(nodeCount)
    let done = 0
    let met = 0
    for (let root = nodeCount - 1; root >= 0; root--) {
      if (seen[root]) continue
      seen[root] = 1
      order[met++] = root
      while (done < met) {
        const n = order[done++]!
        for (let i = start[n]!; i < start[n + 1]!; i++) {
          const f = around[i]!
          const other = from[f] === n ? to[f]! : from[f]!
          if (seen[other]) continue
          seen[other] = 1
          parent[other] = n
          flow[other] = f
          depth[other] = depth[n]! + 1
          order[met++] = other
        }
      }
    }
  }

  /** Finds what lies on a cycle of flows that are not measured: of forest and chords. */
  #findCycles(): void {
    const { nodeCount, from, to } = this.#net
    const cyclic = this.#cyclic.of(from.length)
    if (this.#chords === 0) return
    const chord = this.#chord.room(this.#chords)
    const parent = this.#parent.room(nodeCount)
    const flow = this.#flow.room(nodeCount)
    const depth = this.#depth.room(nodeCount)
    const merged = new Sets(nodeCount, this.#sets.room(nodeCount)) // each set's representative is its node nearest to the root
    for (let k = 0; k < this.#chords; k++) {
      cyclic[chord[k]!] = 1
      let a = merged.find(from[chord[k]!]!)
      let b = merged.find(to[chord[k]!]!)
      while (a !== b) {
        const lower = depth[a]! >= depth[b]! ? a : b
        cyclic[flow[lower]!] = 1
        merged.join(lower, parent[lower]!)
        const up = merged.find(lower)
        if (lower === a) a = up
        else b = up
      }
    }
  }

  /**
   * Calls back for every derived flow on the cycle that a measured one closes, with whether they run the same way round.
   */
  #walk(m: number, visit: (derived: number, sign: number) => void): void {
    const { nodeCount, from, to } = this.#net
    const stop = this.#stop.room(nodeCount)
    const depth = this.#depth.room(nodeCount)
    const flow = this.#flow.room(nodeCount)
    const parent = this.#parent.room(nodeCount)
    let a = stop[from[m]!]!
    let b = stop[to[m]!]!
    while (a !== b) {
      const atHead = depth[b]! >= depth[a]!
      const node = atHead ? b : a
      const f = flow[node]!
      // Round the cycle: from m's head up, then down to its tail.
      visit(f, (from[f] === node) === atHead ? 1 : -1)
      const up = stop[parent[node]!]!
      if (atHead) b = up
      else a = up
    }
  }
}

/** The flows of which one thing is decided. */
const select = (how: Uint8Array, what: number): Uint32Array => {
  let count = 0
  for (let f = 0; f < how.length; f++) if (how[f] === what) count++
  const flows = new Uint32Array(count)
  count = 0
  for (let f = 0; f < how.length; f++) if (how[f] === what) flows[count++] = f
  return flows
}

const costOrder = new Row()
const useOrder = new Row()
const classNext = new Row() // cost class -> how many flows, then where the next one of them goes

/**
 * Puts the flows that can be measured into costOrder, dearest first, and of those that cost the same the first one first.
 * A function has hundreds of flows and a dozen different costs, so the costs are sorted, and the flows dealt out.
 * @returns how many there are
 */
const orderByCost = (cost: Float64Array): number => {
  const costs: number[] = [] // cost class -> cost, descending
  const next = classNext.of(cost.length)
  /** The first class that is not dearer. */
  const classOf = (c: number): number => {
    let low = 0
    let high = costs.length
    while (low < high) {
      const middle = (low + high) >>> 1
      if (costs[middle]! > c) low = middle + 1
      else high = middle
    }
    return low
  }
  let count = 0
  for (let f = 0; f < cost.length; f++) {
    const c = cost[f]!
    assert(c >= 0, 'a cost is negative')
    if (c === Infinity) continue
    count++
    const k = classOf(c)
    if (costs[k] !== c) {
      costs.splice(k, 0, c)
      for (let later = costs.length - 1; later > k; later--) next[later] = next[later - 1]!
      next[k] = 0
    }
    next[k]!++
  }
  for (let k = 0, before = 0; k < costs.length; k++) {
    const flows = next[k]!
    next[k] = before
    before += flows
  }
  const order = costOrder.room(count)
  for (let f = 0; f < cost.length; f++) if (cost[f] !== Infinity) order[next[classOf(cost[f]!)]!++] = f
  return count
}

const byCost = new Chooser()
const byUse = new Chooser()

/**
 * Chooses what to measure.
 * @param cost flow -> what measuring it costs, not negative; Infinity where it cannot be measured
 * @param wanted flow -> 1 where its count is asked for
 */
export const chooseFlows = (net: Net, cost: Float64Array, wanted: Uint8Array): Choice => {
  const ordered = orderByCost(cost)
  const order = costOrder.room(ordered)
  byCost.choose(net, cost, wanted, order, ordered)
  // Where it takes nothing that is not wanted, leaving such flows out first would not be cheaper.
  if (!byCost.takesOthers) return byCost.result()
  const use = useOrder.room(ordered)
  let used = 0
  for (let k = 0; k < ordered; k++) if (!wanted[order[k]!]) use[used++] = order[k]!
  for (let k = 0; k < ordered; k++) if (wanted[order[k]!]) use[used++] = order[k]!
  byUse.choose(net, cost, wanted, use, ordered)
  return (byUse.cost < byCost.cost ? byUse : byCost).result()
}

/** The equations alone. */
export type Equations = Pick<Choice, 'derived' | 'start' | 'term' | 'sign'>

/** Fills in the derived counts from the measured ones: flow -> count. Counts of other flows are left as they are. */
export const solve = ({ derived, start, term, sign }: Equations, counts: BigInt64Array): void => {
  for (let k = 0; k < derived.length; k++) {
    let sum = 0n
    for (let i = start[k]!; i < start[k + 1]!; i++) sum += sign[i]! > 0 ? counts[term[i]!]! : -counts[term[i]!]!
    counts[derived[k]!] = sum
  }
}

/** Derived flows whose count came out negative: imbalances, to be named. */
export const negative = ({ derived }: Pick<Choice, 'derived'>, counts: BigInt64Array): Uint32Array =>
  derived.filter((f) => counts[f]! < 0n)

/** Equations that must come to nothing: the sum of sign[i] * term[i] over start[k] <= i < start[k + 1] is 0. */
export interface Redundant {
  readonly start: Uint32Array // equation -> first index into term
  readonly term: Uint32Array //  index -> measured flow
  readonly sign: Int8Array //    index -> 1 where it comes in, -1 where it goes out
}

/**
 * What measured counts owe each other: for each part of the network that is bound together by what is not measured,
 * that what comes into it goes out. Each part with the outer node is left out, or the last one, since it follows from
 * the others; so the equations are independent, and there are none where no less measured would have done.
 */
export const redundant = ({ nodeCount, from, to }: Net, isMeasured: Uint8Array): Redundant => {
  const parts = new Sets(nodeCount, new Uint32Array(nodeCount))
  const pieces = new Sets(nodeCount, new Uint32Array(nodeCount)) // what hangs together at all
  for (let f = 0; f < from.length; f++) {
    if (!isMeasured[f]) parts.join(from[f]!, to[f]!)
    pieces.join(from[f]!, to[f]!)
  }
  const follows = new Uint8Array(nodeCount) // part -> 1 where its equation is left out
  const known = new Uint8Array(nodeCount) //   piece -> 1 where one was
  for (let n = nodeCount - 1; n >= 0; n--) {
    const piece = pieces.find(n)
    if (known[piece]) continue
    known[piece] = 1
    follows[parts.find(n)] = 1
  }
  const sizes = new Uint32Array(nodeCount + 1) // part -> terms
  const visit = (take: (part: number, f: number, sign: number) => void): void => {
    for (let f = 0; f < from.length; f++) {
      if (!isMeasured[f]) continue
      const a = parts.find(from[f]!)
      const b = parts.find(to[f]!)
      if (a === b) continue
      if (!follows[a]) take(a, f, -1)
      if (!follows[b]) take(b, f, 1)
    }
  }
  visit((part) => sizes[part + 1]!++)
  const start = [0]
  for (let p = 0; p < nodeCount; p++) {
    sizes[p + 1]! += sizes[p]!
    if (sizes[p + 1]! > sizes[p]!) start.push(sizes[p + 1]!)
  }
  const term = new Uint32Array(sizes[nodeCount]!)
  const sign = new Int8Array(sizes[nodeCount]!)
  visit((part, f, s) => {
    term[sizes[part]!] = f
    sign[sizes[part]!++] = s
  })
  return { start: Uint32Array.from(start), term, sign }
}
