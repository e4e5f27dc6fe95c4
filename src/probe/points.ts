// From requests to points: names and wildcards become functions of the image. A name that does not exist is bad input; a
// name that several functions bear is refused, since it cannot be told which was meant: F@0xffffffff81012345, with the
// link-time address of its start, is one of them. A wildcard means each of them, by that name.

import { EXIT, KerninstError } from '../error.js'
import type { Image } from '../image/image.js'
import { hex, NONE, toAddress } from '../image/rva.js'
import type { PointKind } from './program.js'
import type { Request } from './requests.js'
import { distance } from './scanner.js'

export interface Point {
  readonly name: string //      'entry:vfs_read', 'insn:vfs_read+0x1c'
  readonly kind: PointKind
  readonly fn: number //        index in image.functions, or NONE where the name is ambiguous
  readonly functionName: string
  readonly offset: number
  readonly aggregate: string
  readonly program: number //   index of the program that runs there, or -1: a plain count
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
export const uniqueName = (image: Image, f: number): string => {
  const name = image.functions.nameOf(f)
  return image.functions.functionsNamed(name).length > 1 ? `${name}@${hex(toAddress(image.base, image.functions.start[f]!))}` : name
}

/** The function that a name with its address means, as uniqueName writes them. */
export const functionAt = (image: Image, name: string, address: string): number | undefined =>
  image.functions.functionsNamed(name).find((f) => toAddress(image.base, image.functions.start[f]!) === BigInt(address))

const fullName = ({ kind, offset }: Request, name: string): string => `${kind}:${name}${kind === 'insn' ? '+' + hex(offset) : ''}`

/**
 * Resolves requests; the same point asked for twice with one aggregate is one point, and in two programs a mistake.
 * @throws KerninstError (65) where nothing has the name, or two programs count a point under one name
 */
export const resolvePoints = (image: Image, requests: readonly Request[]): Point[] => {
  const points = new Map<string, Point>()
  const counting = new Map<string, number>() // point and name -> the program that counts it
  const add = (request: Request, fn: number, functionName: string): void => {
    const { kind, offset, aggregate, program, counted, source, line, column } = request
    const name = fullName(request, functionName)
    // Two rows with one title would be told apart by nobody.
    const title = `${name} ${aggregate} ${fn}`
    const counts = counted ? counting.get(title) : undefined
    if (counts !== undefined && counts !== program) {
      throw new KerninstError(EXIT.data, `${source}:${line}:${column}: @${aggregate} counts ${name} in another probe already: take another name`)
    }
    if (counted) counting.set(title, program)
    const key = `${title} ${program}`
    if (!points.has(key)) points.set(key, { name, kind, fn, functionName, offset, aggregate, program })
  }
  for (const request of requests) {
    const { pattern: wanted, source, line, column } = request
    const fail = (message: string): never => {
      throw new KerninstError(EXIT.data, `${source}:${line}:${column}: ${message}`)
    }
    if (/[*?]/.test(wanted)) {
      const pattern = toRegExp(wanted)
      let matched = false
      for (let f = 0; f < image.functions.count; f++) {
        const name = image.functions.nameOf(f)
        if (!pattern.test(name) || isColdPart(name)) continue
        matched = true
        add(request, f, uniqueName(image, f))
      }
      if (!matched) fail(`no function matches '${wanted}'`)
      continue
    }
    const [name, address] = wanted.split('@')
    const found = image.functions.functionsNamed(name!)
    if (address !== undefined && found.length > 0) {
      const fn = functionAt(image, name!, address)
      if (fn === undefined) return fail(`${image.path} has no function '${name}' at ${address}`)
      add(request, fn, uniqueName(image, fn))
      continue
    }
    if (found.length === 0) {
      const near = nearestName(image, wanted)
      fail(`${image.path} has no function '${wanted}'${near ? `; did you mean ${near}?` : ''}`)
    }
    add(request, found.length > 1 ? NONE : found[0]!, wanted)
  }
  return [...points.values()]
}
