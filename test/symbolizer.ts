// llvm-symbolizer, a judge of debug information. In: a file, addresses. Out: what it says of each.

import { spawnSync } from 'node:child_process'

/** A function at an address, or one that it was inlined into; zero and '' where that is not known. */
export interface Frame {
  readonly FunctionName: string
  readonly FileName: string
  readonly Line: number
  readonly StartLine: number
}

/** Address -> its frames, the innermost first. */
export const framesAt = (path: string, addresses: readonly bigint[], ...options: readonly string[]): Frame[][] => {
  const { stdout } = spawnSync('llvm-symbolizer', [`--obj=${path}`, '--output-style=JSON', ...options],
    { input: addresses.map((one) => `0x${one.toString(16)}\n`).join(''), encoding: 'utf8', maxBuffer: 1 << 28 })
  return stdout.trim().split('\n').map((line) => (JSON.parse(line) as { Symbol: Frame[] }).Symbol)
}
