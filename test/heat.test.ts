// What a report concludes of edges and loops: random walks through functions of a kernel are counted twice, block by block and
// edge by edge. From the blocks alone, whatever is concluded of an edge must be what the walks counted; and from the edges
// alone, of a block. Walks begin where control may come in, and end where it may leave, seen or unseen.

import t from 'tap'
import { cutFunction, type FunctionGraph } from '../src/cfg/function.js'
import { buildGraph } from '../src/cfg/graph.js'
import { END } from '../src/cfg/kinds.js'
import { loadImage } from '../src/image/image.js'
import type { Rva } from '../src/image/rva.js'
import { heatOf } from '../src/report/heat.js'
import { kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote, type Lottery } from './lottery.js'

const FUNCTIONS = 1500
const WALKS = 40
const MOST_STEPS = 2000

const startOf = ({ insns, blockFirst }: FunctionGraph, block: number): Rva => insns.rva[blockFirst[block]!]!

/** block -> runs, edge -> runs; undefined where a walk did not come to an end. */
const walked = (graph: FunctionGraph, random: Lottery): { blocks: bigint[]; edges: bigint[] } | undefined => {
  const { entries, succStart, succ, blockCount, blockEnd } = graph
  const blocks = Array.from({ length: blockCount }, () => 0n)
  const edges = Array.from(succ, () => 0n)
  for (let walk = 0; walk < WALKS; walk++) {
    let b = entries[random(entries.length)]!
    for (let step = 0; ; step++) {
      if (step === MOST_STEPS) return undefined
      blocks[b]!++
      const ways = succStart[b + 1]! - succStart[b]!
      // Where it may leave, it does so now and then.
      if (ways === 0 || ((blockEnd[b]! & ~END.tailIndirect) !== 0 && random(3) === 0)) break
      const e = succStart[b]! + random(ways)
      edges[e]!++
      b = succ[e]!
    }
  }
  return { blocks, edges }
}

t.test('what is concluded is what was walked', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  const image = loadImage(kernel('6.1-cloud').vmlinux)
  const whole = buildGraph(image)
  let [functions, told, all, looped, ofBlocks] = [0, 0, 0, 0, 0]
  const wrong: string[] = []
  while (functions < FUNCTIONS) {
    const graph = cutFunction(whole, random(image.functions.count))
    if (graph.incomplete !== '' || graph.blockCount < 3 || graph.entries.length === 0) continue
    const walks = walked(graph, random)
    if (walks === undefined) continue
    functions++
    const blockOf = new Map(Array.from({ length: graph.blockCount }, (_, b) => [startOf(graph, b), b]))
    const edgeOf = new Map<string, number[]>()
    for (let b = 0; b < graph.blockCount; b++) {
      for (let e = graph.succStart[b]!; e < graph.succStart[b + 1]!; e++) {
        const key = `${b} ${graph.succ[e]!}`
        edgeOf.set(key, [...edgeOf.get(key) ?? [], e])
      }
    }
    // Two edges between the same blocks are one to whoever counts.
    if ([...edgeOf.values()].some((edges) => edges.length > 1)) continue
    const byBlocks = heatOf(graph, (start) => walks.blocks[blockOf.get(start)!], () => undefined)
    byBlocks.edges.forEach((count, e) => {
      all++
      if (count === undefined) return
      told++
      if (count !== walks.edges[e]) wrong.push(`${graph.name}: edge ${e}: ${count}, not ${walks.edges[e]}`)
    })
    for (const { head, back, entered, trips } of byBlocks.loops) {
      if (entered === undefined) continue
      looped++
      const rounds = back.reduce((sum, e) => sum + walks.edges[e]!, 0n)
      if (entered !== walks.blocks[head]! - rounds) wrong.push(`${graph.name}: loop at ${head}: entered ${entered}`)
      if (entered > 0n && Math.abs(trips! - Number(walks.blocks[head]!) / Number(entered)) > 1e-9) wrong.push(`${graph.name}: loop at ${head}: ${trips}`)
    }
    const byEdges = heatOf(graph, () => undefined, (from, to) => {
      const [e] = edgeOf.get(`${blockOf.get(from)!} ${blockOf.get(to)!}`) ?? []
      return e === undefined ? undefined : walks.edges[e]
    })
    byEdges.blocks.forEach((count, b) => {
      if (count === undefined) return
      ofBlocks++
      if (count !== walks.blocks[b]) wrong.push(`${graph.name}: block ${b}: ${count}, not ${walks.blocks[b]}`)
    })
  }
  t.same(wrong.slice(0, 10), [])
  t.ok(told > 0.7 * all && looped > 100 && ofBlocks > 5000, `${told} of ${all} edges follow from blocks, ${looped} loops are known, ${ofBlocks} blocks follow from edges`)
  t.end()
})
