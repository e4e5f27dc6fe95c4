// Calls as pprof has them (google/pprof, proto/profile.proto). In: the numbers of a report, who called whom, the image, its source
// lines where it has them. Out: a gzipped profile; the same stacks as stacks.ts has, but each call instruction has its own.
// Invariant: each function and each location is there once. Addresses are link-time addresses: of a caller that of its call, of a
// callee that of its first byte. A location has a line where that is of the function's own file: pprof looks for it there.
// Which file and line that is, the first row of the line table tells: a heuristic, and of a function in a hundred (6.1) it is
// code inlined at the very start, and its file.
// Counts and times are int64 in there; a larger one becomes the largest. Of several hosts, times are the first one's, and comments name all.
// Left out: inlined calls, which the line tables do not tell.

import { gzipSync } from 'node:zlib'
import { PbfWriter } from 'pbf'
import type { Image } from '../image/image.js'
import { isLine, type Lines } from '../image/lines.js'
import { NONE, toAddress, type Rva } from '../image/rva.js'
import type { CallGraph } from './callgraph.js'
import type { ReportNumbers } from './numbers.js'
import { countedNs, sinceNs } from './order.js'
import { printable } from './printable.js'
import { UNKNOWN } from './stacks.js'

/** Numbers of fields, by message. */
const PROFILE = {
  sampleType: 1, sample: 2, mapping: 3, location: 4, function: 5, stringTable: 6, timeNanos: 9, durationNanos: 10, comment: 13,
} as const
const VALUE_TYPE = { type: 1, unit: 2 } as const
const SAMPLE = { locationId: 1, value: 2 } as const
const MAPPING = {
  id: 1, memoryStart: 2, memoryLimit: 3, filename: 5, buildId: 6, hasFunctions: 7, hasFilenames: 8, hasLineNumbers: 9,
} as const
const LOCATION = { id: 1, mappingId: 2, address: 3, line: 4 } as const
const LINE = { functionId: 1, line: 2 } as const
const FUNCTION = { id: 1, name: 2, systemName: 3, filename: 4, startLine: 5 } as const

/** The one mapping, of the kernel. */
const KERNEL = 1
const VARINT = 0
const MAX_VARINT_BYTES = 10
const MAX_INT64 = 2n ** 63n - 1n

const int64 = (value: bigint): bigint => (value < MAX_INT64 ? value : MAX_INT64)

/** A number of up to 64 bits, not below zero; pbf's own are exact up to 2 ** 53 alone. */
const writeBig = (pbf: PbfWriter, field: number, value: bigint): void => {
  pbf.writeTag(field, VARINT)
  pbf.realloc(MAX_VARINT_BYTES)
  let rest = value
  for (; rest > 0x7fn; rest >>= 7n) pbf.buf[pbf.pos++] = Number(rest & 0x7fn) | 0x80
  pbf.buf[pbf.pos++] = Number(rest)
}

/** Things by key, numbered in the order in which they were first asked for. */
class Numbered<K> {
  readonly #numbers = new Map<K, number>()
  readonly #first: number

  constructor(first: number) {
    this.#first = first
  }

  of(key: K): number {
    const known = this.#numbers.get(key)
    if (known !== undefined) return known
    this.#numbers.set(key, this.#first + this.#numbers.size)
    return this.#first + this.#numbers.size - 1
  }

  entries(): Iterable<[K, number]> {
    return this.#numbers
  }
}

export const reportPprof = (numbers: ReportNumbers, graph: CallGraph, image: Image, lines?: Lines): Uint8Array => {
  const { functions, base } = image
  const pbf = new PbfWriter()
  const message = (of: PbfWriter, field: number, fill: (inner: PbfWriter) => void): void => of.writeMessage(field, (_, inner) => fill(inner), undefined)
  const strings = new Numbered<string>(0)
  const string = (of: PbfWriter, field: number, text: string): void => of.writeVarintField(field, strings.of(text))
  strings.of('') // so wants the format

  const rowOf = (at: Rva): number => {
    const row = lines?.rowAt(at) ?? NONE
    return lines !== undefined && isLine(lines, row) ? row : NONE
  }
  const ids = new Numbered<number>(1) //    function, or NONE for the unknown one
  const locations = new Numbered<Rva>(1) // the same
  message(pbf, PROFILE.sampleType, (type) => {
    string(type, VALUE_TYPE.type, 'calls')
    string(type, VALUE_TYPE.unit, 'count')
  })
  /** @param stack locations, the innermost first */
  const sample = (stack: readonly Rva[], count: bigint): void => message(pbf, PROFILE.sample, (one) => {
    one.writePackedVarint(SAMPLE.locationId, stack.map((at) => locations.of(at)))
    writeBig(one, SAMPLE.value, int64(count))
  })
  for (const { at, callee, count } of graph.sites) sample([functions.start[callee]!, at], count)
  for (const [fn, count] of graph.entered) sample([functions.start[fn]!, NONE], count)

  message(pbf, PROFILE.mapping, (mapping) => {
    mapping.writeVarintField(MAPPING.id, KERNEL)
    writeBig(mapping, MAPPING.memoryStart, base)
    writeBig(mapping, MAPPING.memoryLimit, toAddress(base, image.imageBytes))
    string(mapping, MAPPING.filename, 'vmlinux')
    string(mapping, MAPPING.buildId, numbers.buildId)
    mapping.writeBooleanField(MAPPING.hasFunctions, true)
    mapping.writeBooleanField(MAPPING.hasFilenames, lines !== undefined)
    mapping.writeBooleanField(MAPPING.hasLineNumbers, lines !== undefined)
  })
  for (const [at, id] of locations.entries()) {
    const fn = at === NONE ? NONE : functions.functionAt(at)
    message(pbf, PROFILE.location, (location) => {
      location.writeVarintField(LOCATION.id, id)
      if (at !== NONE) {
        location.writeVarintField(LOCATION.mappingId, KERNEL)
        writeBig(location, LOCATION.address, toAddress(base, at))
      }
      message(location, LOCATION.line, (line) => {
        line.writeVarintField(LINE.functionId, ids.of(fn))
        const [row, first] = [at, fn === NONE ? NONE : functions.start[fn]!].map(rowOf) as [number, number]
        if (row !== NONE && first !== NONE && lines!.file[row] === lines!.file[first]) line.writeVarintField(LINE.line, lines!.line[row]!)
      })
    })
  }
  for (const [fn, id] of ids.entries()) {
    message(pbf, PROFILE.function, (one) => {
      const name = fn === NONE ? UNKNOWN : printable(functions.nameOf(fn))
      one.writeVarintField(FUNCTION.id, id)
      string(one, FUNCTION.name, name)
      string(one, FUNCTION.systemName, name)
      const row = fn === NONE ? NONE : rowOf(functions.start[fn]!)
      if (row === NONE) return
      string(one, FUNCTION.filename, printable(lines!.files[lines!.file[row]!]!))
      one.writeVarintField(FUNCTION.startLine, lines!.line[row]!)
    })
  }
  writeBig(pbf, PROFILE.timeNanos, int64(sinceNs(numbers)))
  writeBig(pbf, PROFILE.durationNanos, int64(countedNs(numbers)))
  for (const { name, release, cpuCount } of numbers.hosts) {
    string(pbf, PROFILE.comment, `host ${printable(name) || 'unknown'}: ${printable(release)}, ${cpuCount} CPUs`)
  }
  for (const [text] of strings.entries()) pbf.writeStringField(PROFILE.stringTable, text)
  return gzipSync(pbf.finish())
}
