// Random programs of the probe language, as text: every operator, input and aggregate, in trees of some depth.

import { REGISTER_NAMES } from '../src/code/registers.js'
import { ASSEMBLY } from './interpreter.js'
import type { Lottery } from './lottery.js'

const BINARY = ['||', '&&', '|', '^', '&', '==', '!=', '<', '<=', '>', '>=', '<<', '>>', '+', '-', '*', '/', '%']
const CASTS = ['int8', 'uint8', 'int16', 'uint16', 'int32', 'uint32', 'int64', 'uint64']

const pick = <T>(random: Lottery, list: readonly T[]): T => list[random(list.length)]!

const constant = (random: Lottery): string => {
  switch (random(6)) {
    case 0: return String(random(5))
    case 1: return String(1n << BigInt(random(64)))
    case 2: return `0x${((BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32))).toString(16)}`
    case 3: return `(-${random(100)})`
    default: return String(random(70_000))
  }
}

const randomExpression = (random: Lottery, inputs: readonly string[], depth: number): string => {
  const part = (): string => randomExpression(random, inputs, depth - 1 - random(2))
  const kind = depth <= 0 ? random(4) : random(10)
  if (kind === 0) return constant(random)
  if (kind < 4) return pick(random, inputs)
  if (kind === 4) return `(${pick(random, ['-', '!', '~'])} ${part()})`
  if (kind === 5) return `((${pick(random, CASTS)}) ${part()})`
  if (kind === 6) return `(${part()} ? ${part()} : ${part()})`
  return `(${part()} ${pick(random, BINARY)} ${part()})`
}

/** A key whose range can be seen. */
const randomKey = (random: Lottery, value: () => string): string => {
  switch (random(12)) {
    case 0: return 'cpu'
    case 1: return `${value()} & 7`
    case 2: return `(uint64) ${value()} % 10`
    case 3: return 'cpu & 3'
    case 4: return `((uint8) ${value()}) & 15`
    case 5: return `((uint64) ${value()}) >> 61`
    case 6: return `${value()} > ${value()}`
    case 7: return '3'
    case 8: return `${value()} ? 1 : 2`
    case 9: return `(${value()} & 3) * 2 + 1`
    case 10: return `(${value()} & 12) | 1`
    default: return `(${value()} & 7) / 3`
  }
}

/** Where a program is to run, and what it may read there. */
export interface Setting {
  readonly point: string
  readonly inputs: readonly string[]
  readonly assembly: boolean
  /** Part of every predicate. */
  readonly predicate?: string
  /** Begins the names of aggregates. */
  readonly prefix?: string
}

/** Any setting of a process that is all ours. */
const anySetting = (random: Lottery): Setting => {
  const entry = random(2) === 0
  const registers = REGISTER_NAMES.map((name) => `reg("${name}")`).filter((name) => name !== 'reg("rsp")')
  const inputs = [...entry ? ['arg0', 'arg1', 'arg2', 'arg3', 'arg4', 'arg5'] : ['retval', 'retval', 'retval'],
    'cpu', 'pid', 'tid', 'caller', ...Array.from({ length: 5 }, () => pick(random, registers))]
  return { point: entry ? 'entry:f' : 'return:f', inputs, assembly: true }
}

/** A program of one to three probes at one kind of point. */
export const randomProgram = (random: Lottery, setting: Setting = anySetting(random)): string => {
  const { point, inputs, predicate = '', prefix = '' } = setting
  const value = (): string => randomExpression(random, inputs, random(5))
  const aggregate = (name: string): string => {
    const key = random(3) === 0 ? `[${randomKey(random, value)}]` : ''
    switch (random(7)) {
      case 0: return `@${name}${key} = count()`
      case 1: return `@${name}${key} = sum(${value()})`
      case 2: return `@${name}${key} = avg(${value()})`
      case 3: return `@${name}${key} = min(${value()})`
      case 4: return `@${name}${key} = max(${value()})`
      case 5: return `@${name}${key} = hist(${value()})`
      default: {
        const step = pick(random, [1, 2, 10, 64, 100, 4096])
        const low = pick(random, [0, 0, step * 3, 7, -5])
        return `@${name}${key} = lhist(${low < 0 ? '(int64) ' : ''}${value()}, ${low}, ${low + step * (1 + random(12))}, ${step})`
      }
    }
  }
  let names = 0
  let assembly = false
  const body = (depth: number): string => {
    const statements: string[] = []
    for (let n = 1 + random(2); n > 0; n--) {
      if (assembly && random(3) === 0) statements.push(`asm("${pick(random, Object.keys(ASSEMBLY))}")`)
      statements.push(depth > 0 && random(4) === 0
        ? `if (${value()}) { ${body(depth - 1)} }${random(2) === 0 ? ` else { ${body(depth - 1)} }` : ''}`
        : aggregate(`${prefix}n${names++}`))
    }
    return statements.join('; ')
  }
  const probes = Array.from({ length: 1 + random(3) }, () => {
    assembly = setting.assembly && random(5) === 0
    const conditions = [...predicate === '' ? [] : [predicate], ...random(2) === 0 ? [value()] : []]
    return `${point} ${conditions.length > 0 ? `/${conditions.join(' && ')}/ ` : ''}{ ${body(2)} }`
  })
  return probes.join('\n')
}
