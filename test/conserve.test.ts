// cfg/flows.ts, depth.ts and conserve.ts. Judges: random walks that count everything, exhaustive search for the
// cheapest set, linear algebra for what is determined, natural loops by the definition; and the real kernels.

import t from 'tap'
import { chooseFlows, HOW, negative, redundant, solve, wantedFlows, type Choice } from '../src/cfg/conserve.js'
import { guessRuns, loopDepth } from '../src/cfg/depth.js'
import {
  buildNetwork, findStaying, FLOWS, flowsOf, STAYS, takenFlow, WAY, waysOut, type FlowNetwork, type Shape,
} from '../src/cfg/flows.js'
import { cutFunction, reachable, type FunctionGraph } from '../src/cfg/function.js'
import { buildGraph } from '../src/cfg/graph.js'
import { CALL, END, ENTRY } from '../src/cfg/kinds.js'
import { FLOW } from '../src/code/flow.js'
import { loadImage } from '../src/image/image.js'
import { NONE } from '../src/image/rva.js'
import { findReserved, reservedCode } from '../src/splice/reserved.js'
import { kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

t.comment(seedNote)
const random = lottery(seed)

const shapeOf = (succ: readonly number[][], entries: readonly number[]): Shape => {
  const succStart = new Uint32Array(succ.length + 1)
  succ.forEach((list, b) => (succStart[b + 1] = succStart[b]! + list.length))
  return { blockCount: succ.length, succStart, succ: Uint32Array.from(succ.flat()), entries: Uint32Array.from(entries) }
}

/** Blocks that go on to the next one and elsewhere, to themselves or twice to the same one; some leave, some leak. */
const randomShape = (blocks: number): { shape: Shape, ways: Uint8Array } => {
  const succ = Array.from({ length: blocks }, (_, b) => {
    if (random(6) === 0) return []
    const list = [Math.min(blocks - 1, b + 1)]
    for (let n = random(4) - 1; n > 0; n--) list.push(random(blocks))
    return list
  })
  const entries = new Set([0])
  for (let n = random(4) - 2; n > 0; n--) entries.add(random(blocks))
  const ways = Uint8Array.from(succ, (list) => (list.length === 0 ? random(3) : random(5) === 0 ? 1 << random(3) : 0))
  return { shape: shapeOf(succ, [...entries].sort((a, b) => a - b)), ways }
}

/** node -> the flows that leave it. */
const flowsFrom = (net: FlowNetwork): number[][] => {
  const lists: number[][] = Array.from({ length: net.nodeCount }, () => [])
  for (let f = 0; f < net.flowCount; f++) lists[net.from[f]!]!.push(f)
  return lists
}

/** node -> the flow by which the shortest way to the outer node goes on; every node that has flows must have one. */
const waysHome = (net: FlowNetwork): Uint32Array => {
  const home = new Uint32Array(net.nodeCount).fill(NONE)
  for (let nodes = [net.nodeCount - 1]; nodes.length > 0;) {
    const before: number[] = []
    for (let f = 0; f < net.flowCount; f++) {
      const from = net.from[f]!
      if (from === net.nodeCount - 1 || home[from] !== NONE || !nodes.includes(net.to[f]!)) continue
      home[from] = f
      before.push(from)
    }
    nodes = before
  }
  return home
}

/** Counts of all flows over some random walks, each from the outer node and back to it. */
const walkAbout = (net: FlowNetwork, walks: number): BigInt64Array => {
  const counts = new BigInt64Array(net.flowCount)
  const from = flowsFrom(net)
  const home = waysHome(net)
  const outer = net.nodeCount - 1
  for (let w = 0; w < walks; w++) {
    const far = random(150)
    for (let node = outer, steps = 0; steps === 0 || node !== outer; steps++) {
      const flow = steps > far && node !== outer ? home[node]! : from[node]![random(from[node]!.length)]!
      counts[flow]!++
      node = net.to[flow]!
    }
  }
  return counts
}

/** For each flow a walk through it: all counts are at least 1, and balance. */
const walkEverywhere = (net: FlowNetwork): BigInt64Array => {
  const counts = new BigInt64Array(net.flowCount)
  const home = waysHome(net)
  const outer = net.nodeCount - 1
  const reach = new Uint32Array(net.nodeCount).fill(NONE) // node -> the flow by which it is reached first
  const from = flowsFrom(net)
  const queue = [outer]
  for (const node of queue) {
    for (const f of from[node]!) {
      if (net.to[f] === outer || reach[net.to[f]!] !== NONE) continue
      reach[net.to[f]!] = f
      queue.push(net.to[f]!)
    }
  }
  for (let f = 0; f < net.flowCount; f++) {
    counts[f]!++
    for (let node = net.from[f]!; node !== outer; node = net.from[reach[node]!]!) counts[reach[node]!]!++
    for (let node = net.to[f]!; node !== outer; node = net.to[home[node]!]!) counts[home[node]!]!++
  }
  return counts
}

const balances = (net: FlowNetwork, counts: BigInt64Array): boolean => {
  const sum = new BigInt64Array(net.nodeCount)
  for (let f = 0; f < net.flowCount; f++) {
    sum[net.from[f]!]! -= counts[f]!
    sum[net.to[f]!]! += counts[f]!
  }
  return sum.every((s) => s === 0n)
}

const PRIME = 65521

/** flow -> whether measured ones determine it: by elimination, modulo a prime (the matrix is totally unimodular). */
const determined = (net: FlowNetwork, isMeasured: (flow: number) => boolean): boolean[] => {
  const open = Array.from({ length: net.flowCount }, (_, f) => f).filter((f) => !isMeasured(f))
  const rows = Array.from({ length: net.nodeCount }, (_, n) =>
    open.map((f) => (net.from[f] === n ? PRIME - 1 : 0) + (net.to[f] === n ? 1 : 0)))
  const inverse = (x: number): number => {
    let result = 1
    for (let power = PRIME - 2, base = x; power > 0; power = Math.floor(power / 2)) {
      if (power % 2 === 1) result = (result * base) % PRIME
      base = (base * base) % PRIME
    }
    return result
  }
  const pivotOf: number[] = [] // row -> column
  for (let column = 0; column < open.length; column++) {
    const rank = pivotOf.length
    const pivot = rows.findIndex((row, r) => r >= rank && row[column] !== 0)
    if (pivot < 0) continue
    const row = rows[pivot]!
    rows[pivot] = rows[rank]!
    rows[rank] = row
    const scale = inverse(row[column]!)
    for (let c = 0; c < open.length; c++) row[c] = (row[c]! * scale) % PRIME
    for (const [r, other] of rows.entries()) {
      const factor = other[column]!
      if (r === rank || factor === 0) continue
      for (let c = 0; c < open.length; c++) other[c] = (other[c]! + (PRIME - factor) * row[c]!) % PRIME
    }
    pivotOf.push(column)
  }
  const result = new Array<boolean>(net.flowCount).fill(true)
  for (const f of open) result[f] = false
  // Reduced: a column is determined if its row has nothing but the pivot.
  pivotOf.forEach((column, r) => (result[open[column]!] = rows[r]!.every((x, c) => c === column || x === 0)))
  return result
}

const randomCosts = (net: FlowNetwork, measurable: (kind: number) => boolean): Float64Array =>
  Float64Array.from(net.kind, (kind) => (measurable(kind) && random(4) > 0 ? random(9) : Infinity))

const anyKind = (kind: number): boolean => kind !== FLOWS.lost && (kind === FLOWS.block || random(2) === 0)

/** How many flows of a kind there are. */
const countOf = (net: FlowNetwork, kind: number): number =>
  net.kind.reduce((count, k) => count + (k === kind ? 1 : 0), 0)

const isMeasured = ({ how }: Choice): Uint8Array => how.map((h) => (h === HOW.measured ? 1 : 0))

const show = (net: FlowNetwork, cost: Float64Array): string =>
  [...cost].map((c, f) => `${f}: ${net.from[f]}>${net.to[f]} kind ${net.kind[f]} cost ${c}`).join('; ')

t.test('derived counts are those of random walks', (t) => {
  const seen = [0, 0, 0, 0] // HOW -> flows
  let terms = 0
  for (let g = 0; g < 3000; g++) {
    const { shape, ways } = randomShape(1 + random(14))
    const net = buildNetwork(shape, ways)
    const cost = randomCosts(net, anyKind)
    const wanted = g % 3 === 0 ? Uint8Array.from(net.kind, () => random(2))
      : wantedFlows(net, g % 3 === 1 ? 'blocks' : 'edges')
    const choice = chooseFlows(net, cost, wanted)
    const truth = walkAbout(net, 8)
    if (!balances(net, truth)) t.fail('the walks do not balance')
    const counts = truth.map((count, f) => (choice.how[f] === HOW.measured ? count : BigInt(random(1000) - 500)))
    solve(choice, counts)
    for (let f = 0; f < net.flowCount; f++) {
      const how = choice.how[f]!
      seen[how]!++
      if (how === HOW.measured && cost[f] === Infinity) t.fail(`flow ${f} cannot be measured: ${show(net, cost)}`)
      if (how === HOW.derived && counts[f] !== truth[f]) {
        t.fail(`flow ${f} is ${truth[f]}, not ${counts[f]}: ${show(net, cost)}`)
      }
      if (how === HOW.ignored && wanted[f]) t.fail(`flow ${f} is wanted`)
      if (how > HOW.measured && !wanted[f]) t.fail(`flow ${f} is not wanted`)
    }
    for (const m of choice.measured) if (!wanted[m] && !choice.term.includes(m)) t.fail(`flow ${m} is of no use`)
    terms += choice.term.length
    if (negative(choice, counts).length > 0) t.fail('a true count is negative')
    if (redundant(net, isMeasured(choice)).term.length > 0) t.fail('more is measured than is needed')
  }
  t.ok(Math.min(...seen) > 1000, `${seen.join(', ')} flows ignored, measured, derived, unknown; ${terms} terms`)
  t.end()
})

t.test('what cannot be had is not determined by anything that can be measured', (t) => {
  let unknown = 0
  for (let g = 0; g < 1500; g++) {
    const { shape, ways } = randomShape(1 + random(10))
    const net = buildNetwork(shape, ways)
    const cost = randomCosts(net, anyKind)
    const choice = chooseFlows(net, cost, wantedFlows(net, g & 1 ? 'blocks' : 'edges'))
    const counts = walkEverywhere(net)
    if (!balances(net, counts) || counts.some((count) => count < 1n)) t.fail('the walks are not everywhere')
    for (const f of choice.unknown) {
      unknown++
      // Round a cycle of what cannot be measured, one more where it runs along it, one less where against.
      const other = counts.slice()
      const by = new Map<number, number>([[net.to[f]!, NONE]])
      for (const node of by.keys()) {
        for (let e = 0; e < net.flowCount; e++) {
          if (e === f || cost[e] !== Infinity) continue
          for (const [a, b] of [[net.from[e]!, net.to[e]!], [net.to[e]!, net.from[e]!]] as const) {
            if (a === node && !by.has(b)) by.set(b, e)
          }
        }
      }
      if (!by.has(net.from[f]!)) {
        t.fail(`flow ${f} lies on no cycle: ${show(net, cost)}`)
        continue
      }
      other[f]!++
      for (let node = net.from[f]!; node !== net.to[f];) {
        const e = by.get(node)!
        const along = net.to[e] === node
        other[e]! += along ? 1n : -1n
        node = along ? net.from[e]! : net.to[e]!
      }
      if (!balances(net, other) || other.some((count) => count < 0n)) t.fail(`flow ${f}: impossible counts`)
      if (other.some((count, m) => cost[m] !== Infinity && count !== counts[m])) t.fail('a measured count differs')
    }
  }
  t.ok(unknown > 1000, `${unknown} flows that cannot be had`)
  t.end()
})

t.test('nothing that does as much is cheaper', (t) => {
  let exact = 0
  let dearer = 0
  let mixed = 0
  let excess = 0
  for (let g = 0; g < 1500; g++) {
    const { shape, ways } = randomShape(1 + random(7))
    const net = buildNetwork(shape, ways)
    const what = g & 1 ? 'edges' : 'blocks'
    const blocksAlone = g % 4 === 0
    const cost = randomCosts(net, blocksAlone ? (kind) => kind === FLOWS.block : anyKind)
    const able = [...cost.keys()].filter((f) => cost[f] !== Infinity)
    if (able.length > 9) continue
    const wanted = wantedFlows(net, what)
    const choice = chooseFlows(net, cost, wanted)
    const best = determined(net, (f) => cost[f] !== Infinity)
    for (let f = 0; f < net.flowCount; f++) {
      if (wanted[f] && best[f] !== (choice.how[f] !== HOW.unknown)) {
        t.fail(`flow ${f} can${best[f] ? '' : 'not'} be had: ${show(net, cost)}`)
      }
    }
    let least = Infinity
    for (let set = 0; set < 1 << able.length; set++) {
      let sum = 0
      const chosen = new Set<number>()
      able.forEach((f, i) => {
        if (!(set & (1 << i))) return
        chosen.add(f)
        sum += cost[f]!
      })
      if (sum >= least) continue
      const had = determined(net, (f) => chosen.has(f))
      if (had.every((is, f) => is || !wanted[f] || !best[f])) least = sum
    }
    if (choice.cost < least) t.fail(`the search is wrong: ${choice.cost} < ${least}`)
    const sum = choice.measured.reduce((total, f) => total + cost[f]!, 0)
    if (sum !== choice.cost) t.fail(`measured flows cost ${sum}, not ${choice.cost}`)
    if (able.every((f) => wanted[f])) {
      exact++
      if (choice.cost !== least) t.fail(`${choice.cost} instead of ${least} for ${what}: ${show(net, cost)}`)
    } else {
      mixed++
      if (choice.cost > least) dearer++
      excess += choice.cost - least
      const all = chooseFlows(net, cost, wantedFlows(net, 'edges'))
      if (choice.cost > all.cost) t.fail('blocks cost more than edges')
    }
  }
  t.ok(exact > 200, `${exact} cheapest`)
  t.ok(mixed > 50)
  t.comment(`blocks wanted, edges measurable too: ${dearer} of ${mixed} dearer than the cheapest, by ${excess} in all`)
  t.ok(dearer <= mixed * 0.1, `${dearer} of ${mixed} not the cheapest`)
  t.end()
})

t.test('more measured than needed: equations that come to nothing, and all of them', (t) => {
  let equations = 0
  for (let g = 0; g < 600; g++) {
    const { shape, ways } = randomShape(1 + random(7))
    const net = buildNetwork(shape, ways)
    const measured = Uint8Array.from(net.kind, () => (random(4) > 0 ? 1 : 0))
    const { start, term, sign } = redundant(net, measured)
    const counts = walkAbout(net, 5)
    for (let k = 0; k + 1 < start.length; k++) {
      let sum = 0n
      if (start[k] === start[k + 1]) t.fail('an equation of nothing')
      for (let i = start[k]!; i < start[k + 1]!; i++) {
        if (!measured[term[i]!]) t.fail('a term is not measured')
        sum += BigInt(sign[i]!) * counts[term[i]!]!
      }
      if (sum !== 0n) t.fail(`equation ${k} comes to ${sum}`)
    }
    // As many as there are measured flows that the other measured ones determine, one after the other.
    const kept = new Set([...measured.keys()].filter((f) => measured[f]))
    let spare = 0
    for (const f of [...kept]) {
      kept.delete(f)
      if (determined(net, (m) => kept.has(m))[f]) spare++
      else kept.add(f)
    }
    equations += spare
    if (start.length - 1 !== spare) t.fail(`${start.length - 1} equations instead of ${spare}`)
  }
  t.ok(equations > 500, `${equations} equations`)
  // a -> b, all measured: one thread is seen in b that did not come through a.
  const net = buildNetwork(shapeOf([[1], []], [0]), Uint8Array.of(0, WAY.leave))
  const { start, term, sign } = redundant(net, Uint8Array.from(net.kind, (k) => (k === FLOWS.block ? 1 : 0)))
  t.same([[...start], [...term], [...sign]], [[0, 2], [0, 1], [1, -1]])
  t.end()
})

t.test('a count below zero is named', (t) => {
  // A diamond with a small side: the other side and the top are measured.
  const net = buildNetwork(shapeOf([[1, 2], [3], [3], []], [0]), Uint8Array.of(0, 0, 0, WAY.leave))
  const cost = new Float64Array(net.flowCount).fill(Infinity)
  cost[net.blockFlow[0]!] = 3
  cost[net.blockFlow[2]!] = 1
  const choice = chooseFlows(net, cost, wantedFlows(net, 'blocks'))
  t.same([...choice.measured], [0, 2])
  t.same([...choice.derived], [1, 3])
  const counts = new BigInt64Array(net.flowCount)
  counts.set([7n, 0n, 9n])
  solve(choice, counts)
  t.same([...counts.slice(0, 4)], [7n, -2n, 9n, 7n])
  t.same([...negative(choice, counts)], [1])
  t.end()
})

t.test('networks of special shapes', (t) => {
  const flows = (net: FlowNetwork): string[] =>
    Array.from(net.kind, (kind, f) => `${Object.keys(FLOWS)[kind]} ${net.from[f]}>${net.to[f]}`)
      .slice(countOf(net, FLOWS.block))
  t.same(flows(buildNetwork(shapeOf([[0]], [0]), new Uint8Array(1))), ['edge 1>0', 'entry 2>0', 'lost 1>2'],
    'a loop without end')
  t.same(flows(buildNetwork(shapeOf([[1], [2, 3], [1], []], [0]), Uint8Array.of(0, 0, 0, WAY.leave))),
    ['edge 1>2', 'edge 3>4', 'edge 3>6', 'edge 5>2', 'entry 8>0', 'leave 7>8'], 'a loop')
  t.same(flows(buildNetwork(shapeOf([[1], [], [1]], [0]), Uint8Array.of(WAY.lost, WAY.leave | WAY.fault, WAY.leave))),
    ['edge 1>2', 'entry 6>0', 'lost 1>6', 'leave 3>6', 'fault 3>6'],
    'a call that may not come back; what nothing reaches is left out')
  const two = buildNetwork(shapeOf([[1, 3], [2], [1], [4], [3]], [0]), new Uint8Array(5))
  t.equal(countOf(two, FLOWS.lost), 2, 'two loops without end')
  // A chain of 200,000 blocks: no recursion, and it takes no time.
  const long = 200_000
  const links = Array.from({ length: long }, (_, b) => (b + 1 < long ? [b + 1] : []))
  const chain = buildNetwork(shapeOf(links, [0]), new Uint8Array(long))
  const one = Float64Array.from(chain.kind, (kind) => (kind === FLOWS.lost ? Infinity : 1))
  const chosen = chooseFlows(chain, one, wantedFlows(chain, 'edges'))
  t.equal(chosen.measured.length, 1)
  t.equal(chosen.derived.length, chain.flowCount - 2, 'all but the way out without end, which is not wanted')
  t.end()
})

t.test('loop depth', (t) => {
  t.same([...loopDepth(shapeOf([[1], [2, 4], [2, 3], [1], []], [0]))], [0, 1, 2, 1, 0], 'a loop in a loop')
  t.same([...guessRuns(shapeOf([[1], [2, 4], [2, 3], [1], []], [0]))], [1, 8, 64, 8, 1])
  let reducible = 0
  let irreducible = 0
  for (let g = 0; g < 8000; g++) {
    const { shape } = randomShape(1 + random(9))
    const { blockCount, succStart, succ, entries } = shape
    const depth = loopDepth(shape)
    const next = (b: number): number[] => [...succ.subarray(succStart[b]!, succStart[b + 1]!)]
    const from = Array.from({ length: blockCount }, (_, b) => reachable(shape, next(b)))
    const reached = reachable(shape, [...entries])
    const without = Array.from({ length: blockCount }, (_, b) => reachable(shape, [...entries], [b]))
    const dominates = (a: number, b: number): boolean => a === b || without[a]![b] === 0
    // Natural loops: of each head, what reaches it by a back edge without passing through it.
    const loops = new Map<number, Set<number>>()
    const forward: number[][] = Array.from({ length: blockCount }, () => [])
    for (let b = 0; b < blockCount; b++) {
      if (!reached[b]) continue
      for (const to of next(b)) {
        if (!dominates(to, b)) {
          forward[b]!.push(to)
          continue
        }
        const body = loops.get(to) ?? new Set([to])
        loops.set(to, body)
        for (let other = 0; other < blockCount; other++) {
          if (reached[other] && other !== to && b !== to && reachable(shape, [other], [to])[b]) body.add(other)
        }
      }
    }
    const acyclic = shapeOf(forward, [...entries])
    const isReducible = forward.every((list, b) => reachable(acyclic, list)[b] === 0)
    for (let b = 0; b < blockCount; b++) {
      const cyclic = reached[b] === 1 && from[b]![b] === 1
      if ((depth[b]! > 0) !== cyclic) t.fail(`block ${b} of ${[...succ]} from ${[...succStart]}: depth ${depth[b]}`)
      if (!isReducible) continue
      let expected = 0
      for (const body of loops.values()) if (body.has(b)) expected++
      if (depth[b] !== expected) t.fail(`${b} of ${[...succ]} from ${[...succStart]}: ${depth[b]}, not ${expected}`)
    }
    if (isReducible) reducible++
    else irreducible++
  }
  t.ok(reducible > 1000 && irreducible > 200, `${reducible} reducible, ${irreducible} irreducible`)
  t.end()
})

/** Text that must not be touched as a whole, in terms of refusals. */
const WHOLE = new Set(['copied-text', 'machine-stopped', 'no-percpu-base', 'no-interrupt-table', 'blacklisted', 'head-text', 'kprobes-text',
  'irqentry-text', 'cpuidle-text', 'noinstr', 'entry-text', 'outside-text'])

interface Figures {
  blocks: number
  measurable: number
  had: number
  chosen: number
  flows: number
  terms: number
  most: number //  terms in one function
  networks: number
  functions: number
  lost: number //  calls that may not come back
  losers: number // functions with one
  ms: number //    networks and choices
}

for (const [version, name] of [['6.1', '6.1-cloud'], ['6.12', '6.12-cloud']] as const) {
  t.test(name, (t) => {
    const image = loadImage(kernel(name).vmlinux)
    const graph = buildGraph(image)
    const { functions } = image
    const reserved = findReserved(image)
    let ms = performance.now()
    const staying = findStaying(graph)
    ms = performance.now() - ms
    const fnOf = (symbol: string): FunctionGraph => cutFunction(graph, functions.functionsNamed(symbol)[0]!)
    const lostCalls = (fn: FunctionGraph, stays: Uint8Array): number[] => {
      const ways = waysOut(graph, fn, stays)
      return [...ways.keys()].filter((b) => ways[b]! & WAY.lost && graph.call[fn.block[b]!] !== CALL.none)
    }
    const calleeName = (fn: FunctionGraph, b: number): string => {
      const to = graph.callee[fn.block[b]!]!
      return to === NONE ? '' : functions.nameOf(functions.functionAt(graph.insns.rva[graph.blockFirst[to]!]!))
    }
    const namesOfLost = (symbol: string): string[] => {
      const fn = fnOf(symbol)
      return [...new Set(lostCalls(fn, staying).map((b) => calleeName(fn, b)))]
    }

    t.test('what may stay', (t) => {
      t.same(namesOfLost('do_task_dead'), ['__schedule'])
      t.same(namesOfLost('__schedule'), ['__switch_to_asm'])
      t.same(namesOfLost('schedule'), ['__schedule'])
      t.same(namesOfLost('mutex_lock'), [], 'who sleeps comes back')
      t.same(namesOfLost('vfs_read'), [], 'pointers are taken to come back')
      t.ok(namesOfLost('do_group_exit').includes('do_exit'))
      t.ok(namesOfLost('arch_do_signal_or_restart').includes('get_signal'))
      t.ok(namesOfLost('do_syscall_64').includes('x64_sys_call'), 'system calls')
      const old = version === '6.1'
      t.same(namesOfLost(old ? 'kmem_cache_alloc_node' : 'kmem_cache_alloc_node_noprof'), [], 'who allocates')
      t.ok(namesOfLost(old ? 'ret_from_fork' : 'ret_from_fork_asm').length > 0, 'the bottom of a thread\'s stack')
      // What flows.ts says of pointers rests on who may be called through them.
      const mains = ['call_usermodehelper_exec_async', 'cryptomgr_probe', 'cryptomgr_test', 'idle_inject_fn',
        'io_sq_thread', 'io_wq_worker', 'io_wqe_worker', 'kthread', 'kthread_complete_and_exit', 'kthread_exit',
        '__module_put_and_kthread_exit', 'play_idle_precise', 'ret_from_fork', 'ret_from_fork_asm', 'start_secondary',
        'vhost_task_fn', 'xen_pv_play_dead']
      const entryCode = /^(__x64_sys_(exit|exit_group|reboot)|xen_entry_SYS\w+|(xen_)?asm_\w+)$/
      const others: string[] = []
      for (let f = 0; f < functions.count; f++) {
        const at = graph.index.at(functions.start[f]!)
        if (at === NONE) continue
        const b = graph.blockOf[at]!
        const start = functions.start[f]!
        if (staying[b] !== STAYS.may || !(graph.entry[b]! & ENTRY.pointed) || start >= image.textEnd) continue
        const symbol = functions.nameOf(f)
        if (mains.includes(symbol) || entryCode.test(symbol)) continue
        if (!WHOLE.has(reservedCode(image, reserved, start, start + 1))) others.push(symbol)
      }
      t.same(others, [], 'threads, system calls and entry code')
      let calls = 0
      let pointers = 0
      let lost = 0
      const holders = new Set<number>()
      for (let b = 0; b < graph.blockCount; b++) {
        if (graph.call[b] === CALL.none) continue
        if (graph.call[b] === CALL.anything) pointers++
        calls++
        const to = graph.callee[b]!
        if (graph.call[b] !== CALL.direct || to === NONE || !staying[to]) continue
        lost++
        holders.add(functions.functionAt(graph.insns.rva[graph.blockFirst[b]!]!))
      }
      t.comment(`${calls} calls, ${pointers} of them through pointers; ` +
        `${lost} direct ones in ${holders.size} functions may not come back`)
      t.ok(lost >= 50 && lost < calls * 0.001)
      t.end()
    })

    const isFree = ({ insns }: FunctionGraph, i: number): boolean => {
      const code = reservedCode(image, reserved, insns.rva[i]!, insns.rva[i]! + insns.length[i]!)
      return code === '' || (code === 'return-site' && insns.length[i] === 5)
    }
    const measure = (stays: Uint8Array, taken: boolean): Figures => {
      const figures = {
        blocks: 0, measurable: 0, had: 0, chosen: 0, flows: 0, terms: 0, most: 0, networks: 0, functions: 0,
        lost: 0, losers: 0, ms: 0,
      }
      let done = 0 // rva up to which functions were seen: aliases are left out
      for (let f = 0; f < functions.count; f++) {
        if (functions.isCold[f] || functions.start[f]! < done || functions.start[f]! >= image.textEnd) continue
        done = functions.end[f]!
        if (WHOLE.has(reservedCode(image, reserved, functions.start[f]!, functions.start[f]! + 1))) continue
        const fn = cutFunction(graph, f)
        const { insns, blockFirst } = fn
        figures.functions++
        const reached = reachable(fn, [...fn.entries])
        const net = flowsOf(graph, fn, stays)
        if ((net === undefined) !== (fn.incomplete !== '' || fn.alternativeLeaves)) t.fail(`${fn.name}: a network`)
        const able = new Uint8Array(fn.blockCount)
        for (let b = 0; b < fn.blockCount; b++) {
          if (!reached[b]) continue
          figures.blocks++
          for (let i = blockFirst[b]!; i < blockFirst[b + 1]! && !able[b]; i++) {
            if (insns.length[i]! >= 5 && isFree(fn, i)) able[b] = 1
          }
          figures.measurable += able[b]!
          if (net === undefined) figures.had += able[b]!
        }
        if (net === undefined) continue
        const before = performance.now()
        flowsOf(graph, fn, stays) // once more, for the time
        figures.networks++
        const lost = lostCalls(fn, stays).filter((b) => fn.succStart[b]! < fn.succStart[b + 1]!).length
        figures.lost += lost
        if (lost > 0) figures.losers++
        const runs = guessRuns(fn)
        const cost = new Float64Array(net.flowCount).fill(Infinity)
        for (let b = 0; b < fn.blockCount; b++) {
          if (able[b]) cost[net.blockFlow[b]!] = runs[b]!
          if (!taken || !reached[b]) continue
          const last = blockFirst[b + 1]! - 1
          const flow = takenFlow(net, fn, b)
          if (flow !== NONE && insns.length[last] === 6 && isFree(fn, last)) cost[flow] = runs[b]! / 2
        }
        const choice = chooseFlows(net, cost, wantedFlows(net, 'blocks'))
        figures.ms += performance.now() - before
        figures.had += countOf(net, FLOWS.block) - choice.unknown.length
        figures.chosen += choice.measured.length
        figures.flows += net.flowCount
        figures.terms += choice.term.length
        figures.most = Math.max(figures.most, choice.term.length)
        wellFormed(fn, net)
      }
      return figures
    }

    const wellFormed = (fn: FunctionGraph, net: FlowNetwork): void => {
      const into = new Uint32Array(net.nodeCount)
      const out = new Uint32Array(net.nodeCount)
      const outer = net.nodeCount - 1
      for (let f = 0; f < net.flowCount; f++) {
        out[net.from[f]!]!++
        into[net.to[f]!]!++
      }
      for (let n = 0; n < outer; n++) if ((into[n] === 0) !== (out[n] === 0)) t.fail(`${fn.name}: node ${n} ends`)
      if (into[outer] === 0 || out[outer] === 0) t.fail(`${fn.name}: nothing comes or goes`)
      for (let b = 0; b < fn.blockCount; b++) {
        if (net.blockFlow[b] === NONE) continue
        const last = fn.blockFirst[b + 1]! - 1
        if (fn.insns.flow[last] === FLOW.return && net.leaveFlow[b] === NONE) t.fail(`${fn.name}: block ${b} returns`)
        if (fn.blockEnd[b]! & END.tailTaken && takenFlow(net, fn, b) === NONE) t.fail(`${fn.name}: ${b} may leave`)
        if (out[2 * b + 1]! < fn.succStart[b + 1]! - fn.succStart[b]!) t.fail(`${fn.name}: an edge is missing`)
      }
    }

    const percent = (part: number, whole: number): string => `${(100 * part / whole).toFixed(1)} %`
    const tell = (what: string, x: Figures): void => t.comment(`${what}: ${x.blocks} blocks of ` +
      `${x.functions} functions, ${x.networks} with a network; measurable ${percent(x.measurable, x.blocks)}, ` +
      `had ${percent(x.had, x.blocks)}, chosen ${percent(x.chosen, x.blocks)}; ` +
      `${x.lost} calls in ${x.losers} functions may not come back; ` +
      `${x.flows} flows, ${x.terms} terms, ${x.most} at most; ${x.ms.toFixed(0)} ms`)

    const plain = measure(staying, false)
    tell('instructions of 5 bytes or more, and returns', plain)
    const everyCall = measure(new Uint8Array(graph.blockCount).fill(1), false)
    tell('the same, were every call lost', everyCall)
    const taken = measure(staying, true)
    tell('and the taken sides of 6-byte jcc', taken)
    t.comment(`what may stay: ${ms.toFixed(0)} ms`)
    t.ok(plain.measurable > plain.blocks * 0.7, 'measurable')
    t.ok(plain.had > plain.blocks * 0.905, 'had in all')
    t.ok(plain.chosen < plain.measurable * 0.55, 'chosen')
    t.ok(everyCall.had < plain.had - plain.blocks * 0.04, 'every call lost')
    t.ok(taken.had > plain.had)
    t.ok(plain.terms < 20 * plain.flows, 'equations are short')
    t.ok(plain.ms < 20_000, 'seconds')
    t.end()
  })
}
