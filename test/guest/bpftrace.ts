// bpftrace in a guest: Debian's, with what it is linked with. In: what it printed with -f json. Out: its maps.

import { execFileSync } from 'node:child_process'
import { realpathSync } from 'node:fs'
import type { GuestFile } from './guest.js'

/** The program, as /bin/bpftrace, and its libraries: 200 MB, so the guest needs more memory than others. */
export const bpftraceFiles = (): GuestFile[] => {
  const path = execFileSync('sh', ['-c', 'command -v bpftrace'], { encoding: 'utf8' }).trim()
  const libraries = [...execFileSync('ldd', [path], { encoding: 'utf8' }).matchAll(/(\/\S+) \(/g)].map(([, library]) => library!)
  return [{ path: 'bin/bpftrace', from: path, executable: true },
    ...libraries.map((library) => ({ path: library.slice(1), from: realpathSync(library), executable: true }))]
}

/** What a map holds: a number; of a histogram bucket -> how often; of stats() its three figures. */
export type MapValue = number | { readonly [name: string]: number }

/** Maps by name, without the @. */
export const bpftraceMaps = (text: string): Map<string, MapValue> => {
  const maps = new Map<string, MapValue>()
  for (const line of text.split('\n').filter((one) => /"type": "(map|hist|stats)"/.test(one))) {
    const { data } = JSON.parse(line) as { data: { [name: string]: number | { [name: string]: number } | { min: number; count: number }[] } }
    for (const [name, value] of Object.entries(data)) {
      maps.set(name.slice(1), Array.isArray(value)
        ? Object.fromEntries(value.filter(({ count }) => count > 0).map(({ min, count }) => [min, count])) : value)
    }
  }
  return maps
}
