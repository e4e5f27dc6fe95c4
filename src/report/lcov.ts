// Line coverage as lcov's tracefile (geninfo(1), FILES): what genhtml, editors and CI services read. In: coverage, where the
// sources lie. Out: text, in pieces, a file at a time.

import type { FileCoverage } from './coverage.js'
import { printable } from './printable.js'

/** A name ends where a comma or a line does. */
const name = (text: string): string => printable(text).replaceAll(',', '_')

/** @param sources the folder of the kernel's sources, put before each path; '' leaves them as they are in there */
export function* reportLcov(coverage: readonly FileCoverage[], sources: string): Generator<string, void> {
  const folder = sources === '' ? '' : sources.replace(/\/*$/, '/')
  for (const { path, lines, functions } of coverage) {
    const hit = (counts: readonly bigint[]): number => counts.filter((count) => count > 0n).length
    yield [
      'TN:',
      `SF:${folder}${name(path)}`,
      ...functions.map((each) => `FN:${each.line},${name(each.name)}`),
      ...functions.map((each) => `FNDA:${each.count},${name(each.name)}`),
      `FNF:${functions.length}`,
      `FNH:${hit(functions.map(({ count }) => count))}`,
      ...lines.map(([line, count]) => `DA:${line},${count}`),
      `LF:${lines.length}`,
      `LH:${hit(lines.map(([, count]) => count))}`,
      'end_of_record',
      '',
    ].join('\n')
  }
}
