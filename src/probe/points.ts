// From probes to points: names and wildcards become functions of the image. A name that does not exist is bad input; a
// name that several functions bear is refused, since it cannot be told which was meant: F@0xffffffff81012345, with the
// link-time address of its start, is one of them. A wildcard means each of them, by that name.

import { EXIT, KerninstError } from '../error.js'
import type { Image } from '../image/image.js'
import { hex, NONE, toAddress } from '../image/rva.js'
import type { PlainProbe } from './plain.js'
import type { PointKind } from './program.js'
import { distance } from './scanner.js'

export interface Point {
  readonly name: string //      'entry:vfs_read', 'insn:vfs_read+0x1c'
  readonly kind: PointKind
  readonly fn: number //        index in image.functions, or NONE where the name is ambiguous
  readonly functionName: string
  readonly offset: number
  readonly aggregate: string
}

// A part of a function that gcc has moved away; wildcards mean the functions themselves.
const isColdPart = (name: string): boolean => /\.cold(\.\d+)?$/.test(name)

const toRegExp = (pattern: string): RegExp =>
  new RegExp('^' + pattern.replace(/[.$+]/g, '\\$&').replace(/\*/g, '.*').replace(/\?/g, '.') + '$')

const nearestName = (image: Image, name: string): string => {
  let best = ''
  let least = Math.max(2, Math.floor(name.length / 4)) + 1
  for (let f = 0; f < image.functions.count; f++) {
    const other = image.functions.nameOf(f)
    if (Math.abs(other.length - name.length) >= least || other[0] !== name[0]) continue
    const d = distance(other, name)
    if (d < least) {
      least = d
      best = other
    }
  }
  return best
}

/** The name by which a program can mean this function alone. */
const uniqueName = (image: Image, f: number): string => {
  const name = image.functions.nameOf(f)
  return image.functions.functionsNamed(name).length > 1 ? `${name}@${hex(toAddress(image.base, image.functions.start[f]!))}` : name
}

const fullName = (probe: PlainProbe, name: string): string =>
  `${probe.kind}:${name}${probe.kind === 'insn' ? '+' + hex(probe.offset) : ''}`

/**
 * Resolves probes; the same point asked for twice with one aggregate is one point.
 * @throws KerninstError (65) where nothing has the name
 */
export const resolvePoints = (image: Image, probes: readonly PlainProbe[], source: string): Point[] => {
  const points = new Map<string, Point>()
  const add = (probe: PlainProbe, fn: number, functionName: string): void => {
    const name = fullName(probe, functionName)
    const key = `${name} ${probe.aggregate} ${fn}`
    if (!points.has(key)) {
      points.set(key, { name, kind: probe.kind, fn, functionName, offset: probe.offset, aggregate: probe.aggregate })
    }
  }
  for (const probe of probes) {
    const at = `${source}:${probe.line}:${probe.column}`
    if (/[*?]/.test(probe.pattern)) {
      const pattern = toRegExp(probe.pattern)
      let matched = false
      for (let f = 0; f < image.functions.count; f++) {
        const name = image.functions.nameOf(f)
        if (!pattern.test(name) || isColdPart(name)) continue
        matched = true
        add(probe, f, uniqueName(image, f))
      }
      if (!matched) throw new KerninstError(EXIT.data, `${at}: no function matches '${probe.pattern}'`)
      continue
    }
    const [name, address] = probe.pattern.split('@')
    const found = image.functions.functionsNamed(name!)
    if (address !== undefined && found.length > 0) {
      const fn = found.find((f) => toAddress(image.base, image.functions.start[f]!) === BigInt(address))
      if (fn === undefined) throw new KerninstError(EXIT.data, `${at}: ${image.path} has no function '${name}' at ${address}`)
      add(probe, fn, uniqueName(image, fn))
      continue
    }
    if (found.length === 0) {
      const near = nearestName(image, probe.pattern)
      throw new KerninstError(EXIT.data,
        `${at}: ${image.path} has no function '${probe.pattern}'${near ? `; did you mean ${near}?` : ''}`)
    }
    add(probe, found.length > 1 ? NONE : found[0]!, probe.pattern)
  }
  return [...points.values()]
}
