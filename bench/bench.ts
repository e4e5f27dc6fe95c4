// `npm run bench`: what kerninst costs, each figure beside that of a peer in the same run. With a word after it, only the
// part of that name.

import { benchAnalysis } from './analysis.js'
import { benchBlocks } from './blocks.js'
import { benchHits } from './hits.js'
import { benchPlanning } from './planning.js'
import { benchPrograms } from './programs.js'

const PARTS: Record<string, () => void | Promise<void>> = {
  analysis: benchAnalysis, planning: benchPlanning, hits: benchHits, programs: benchPrograms, blocks: benchBlocks,
}

const wanted = process.argv.slice(2)
for (const name of wanted) {
  if (PARTS[name] === undefined) throw new Error(`there is no ${name} in ${Object.keys(PARTS).join(', ')}`)
}
for (const [name, part] of Object.entries(PARTS)) {
  if (wanted.length === 0 || wanted.includes(name)) await part()
}
