// Files of test/cases: "# name", lines that go in, and behind "==> " the lines that must come out.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { ROOT } from './guest/artefacts.js'

export interface Case {
  readonly name: string
  readonly text: string
  readonly expected: readonly string[]
}

export const casesOf = (file: string): Case[] =>
  readFileSync(join(ROOT, 'test/cases', file), 'utf8').split(/\n\n(?=# )/).map((whole) => {
    const [name, ...lines] = whole.trimEnd().split('\n') as [string, ...string[]]
    const first = lines.findIndex((line) => line.startsWith('==>'))
    if (first < 0) throw new Error(`${name}: nothing is expected`)
    return { name, text: lines.slice(0, first).join('\n'), expected: lines.slice(first).map((line) => line.slice(4)) }
  })
