// Analyses a part of a kernel, or several kernels one after the other, and prints how long it took as JSON; run by
// analysis.ts, in a process of its own for each size. Arguments: the share of the functions of .text, counted from its end
// (where the return thunks lie), and the images.

import { buildGraph } from '../src/cfg/graph.js'
import { Functions } from '../src/image/functions.js'
import { loadImage, type Image } from '../src/image/image.js'
import { solveLiveness } from '../src/liveness/live.js'

/** The image with only the last part of its .text. Tables still name what is gone; nothing is found there. */
const cutText = (image: Image, share: number): Image => {
  const starts = image.functions.start.filter((rva) => rva >= image.textStart && rva < image.textEnd)
  const from = starts[Math.round((1 - share) * starts.length)]!
  const regions = image.regions.map((region) => region.name !== '.text' ? region
    : { ...region, start: from, bytes: region.bytes.subarray(from - region.start) })
  return { ...image, regions, functions: new Functions(image.symbols, regions), codePointers: image.codePointers.filter((rva) => rva >= from) }
}

const [share, ...paths] = process.argv.slice(2)
const total = { instructions: 0, graph: 0, liveness: 0 }
const kept: object[] = []
for (const path of paths) {
  const image = cutText(loadImage(path), Number(share))
  const start = process.cpuUsage()
  const graph = buildGraph(image)
  const middle = process.cpuUsage(start)
  kept.push(solveLiveness(graph))
  const end = process.cpuUsage(start)
  total.instructions += graph.insns.count
  total.graph += (middle.user + middle.system) / 1e6
  total.liveness += (end.user + end.system - middle.user - middle.system) / 1e6
}
process.stdout.write(JSON.stringify(total))
