// Trees of the probe language, as text: what was read, as the case files have it; and random programs, as they are written
// in the language and in YAML.

import { REGISTER_NAMES } from '../src/code/registers.js'
import type { Expression } from '../src/probe/expression.js'
import type { Probe, Statement } from '../src/probe/program.js'
import type { Lottery } from './lottery.js'

const SIGNED_MATTERS = new Set(['<', '<=', '>', '>=', '/', '%', '>>'])

/** What `a` and `b` are compared or divided as: decided by whoever has a sign to tell of. */
const operandsSigned = (a: Expression, b: Expression): boolean => {
  const constant = (one: Expression): boolean => one.op === 'number' || ((one.op === 'unary' || one.op === 'cast') && constant(one.a)) ||
    (one.op === 'binary' && constant(one.a) && constant(one.b))
  return constant(a) && !constant(b) ? b.signed : constant(b) && !constant(a) ? a.signed : a.signed && b.signed
}

/** An expression, fully parenthesized, with what signs matter. */
export const show = (one: Expression): string => {
  switch (one.op) {
    case 'number': return String(one.value)
    case 'input': return one.input
    case 'register': return `%${REGISTER_NAMES[one.register]!}`
    case 'unary': return `(${one.operator} ${show(one.a)})`
    case 'cast': return `(${one.signed ? '' : 'u'}int${one.bits} ${show(one.a)})`
    case 'choice': return `(? ${show(one.test)} ${show(one.a)} ${show(one.b)})`
    case 'binary': {
      const signed = one.operator === '>>' ? one.a.signed : operandsSigned(one.a, one.b)
      return `(${one.operator}${SIGNED_MATTERS.has(one.operator) ? (signed ? 's' : 'u') : ''} ${show(one.a)} ${show(one.b)})`
    }
  }
}

const showStatement = (one: Statement): string => {
  if (one.op === 'asm') return `asm("${one.text}")`
  if (one.op === 'if') return `if ${show(one.test)} ${showBody(one.then)}${one.otherwise.length > 0 ? ` else ${showBody(one.otherwise)}` : ''}`
  const operands = [one.value && show(one.value), one.range && `${one.range.low}, ${one.range.high}, ${one.range.step}`].filter(Boolean)
  return `@${one.name}${one.key ? `[${show(one.key)}]` : ''} = ${one.kind}(${operands.join(', ')})`
}

const showBody = (body: readonly Statement[]): string => `{ ${body.map(showStatement).join(' ')} }`

/** A probe as the case files have it. */
export const showProbe = ({ points, predicate, body }: Probe): string =>
  `${points.map(({ kind, pattern, offset }) => `${kind}:${pattern}${kind === 'insn' ? `+${offset}` : ''}`).join(', ')} ` +
  `${predicate ? `/${show(predicate)}/ ` : ''}${showBody(body)}`

const LEAVES = ['arg0', 'arg5', 'retval', 'cpu', 'ticks', 'elapsed', 'reg("r15")', '7', '0xffffffffffffffff']
const BINARY = ['||', '&&', '|', '^', '&', '==', '!=', '<<', '>>', '+', '-', '*', '/', '%', '<', '>=']

/** An expression, with all parentheses. */
export const randomExpression = (random: Lottery, depth: number): string => {
  const deeper = (): string => randomExpression(random, depth - 1)
  const kind = depth === 0 ? 0 : random(8)
  if (kind < 2) return LEAVES[random(LEAVES.length)]!
  if (kind === 2) return `(${['-', '!', '~', '(int8)', '(uint16)'][random(5)]!} ${deeper()})`
  if (kind === 3) return `(${deeper()} ? ${deeper()} : ${deeper()})`
  return `(${deeper()} ${BINARY[random(BINARY.length)]!} ${deeper()})`
}

/** A statement before it is written down. */
export type Action = string | { readonly asm: string } | { readonly test: string; readonly then: readonly Action[]; readonly otherwise: readonly Action[] }

export interface Written {
  readonly points: readonly string[]
  readonly predicate?: string
  readonly body: readonly Action[]
}

const some = <T>(random: Lottery, least: number, most: number, one: () => T): T[] =>
  Array.from({ length: least + random(most - least + 1) }, one)

const randomAction = (random: Lottery, depth: number): Action => {
  const kind = random(8)
  if (kind === 0) return { asm: ['nop', 'mov rax, rdi; inc rax', ' pause ; '][random(3)]! }
  if (kind < 3 && depth > 0) {
    const body = (least: number): Action[] => some(random, least, 2, () => randomAction(random, depth - 1))
    return { test: randomExpression(random, 2), then: body(0), otherwise: random(2) === 0 ? [] : body(1) }
  }
  const key = random(3) === 0 ? `[${randomExpression(random, 1)}]` : ''
  const value = randomExpression(random, 2)
  const call = ['count()', `sum(${value})`, `hist(${value})`, `lhist(${value}, -8, 0x10, 4)`][random(4)]!
  return `@${['', 'a', 'Big_1'][random(3)]!}${key} = ${call}`
}

/** Points of calls, at which all inputs are known. */
const POINTS = ['span:vfs_read', 'span:tcp_*', 'span:f.isra.0', 'span:g@0xffffffff81012345']

export const randomProgram = (random: Lottery): Written[] => some(random, 1, 3, () => ({
  points: some(random, 1, 3, () => POINTS[random(POINTS.length)]!),
  ...(random(2) === 0 ? { predicate: randomExpression(random, 3) } : {}),
  body: some(random, 1, 3, () => randomAction(random, 3)),
}))

const inLanguage = (action: Action): string => {
  if (typeof action === 'string') return action
  if ('asm' in action) return `asm("${action.asm}")`
  const block = (body: readonly Action[]): string => `{ ${body.map(inLanguage).join('; ')} }`
  return `if (${action.test}) ${block(action.then)}${action.otherwise.length > 0 ? ` else ${block(action.otherwise)}` : ''}`
}

/** A program in the language. */
export const asProgram = (program: readonly Written[]): string => program.map(({ points, predicate, body }) =>
  `${points.join(', ')}${predicate === undefined ? '' : ` /${predicate}/`} { ${body.map(inLanguage).join('; ')} }`).join('\n')

/** The same program in YAML, each part in one of the ways in which it can be written. */
export const asYaml = (program: readonly Written[], random: Lottery): string => {
  const text = (value: string, indent: string): string => {
    const plain = /^[A-Za-z0-9(~]/.test(value) && !/: | #|:$|[[\]{},]/.test(value) && value.trim() === value
    switch (random(plain ? 6 : 4)) {
      case 0: return `'${value.replaceAll('\'', '\'\'')}'`
      case 1: return `"${value.replaceAll(/["\\]/g, '\\$&')}"`
      case 2: return `"${[...value].map((c) => (random(4) === 0 || c === '"' || c === '\\' ? `\\x${c.charCodeAt(0).toString(16).padStart(2, '0')}` : c)).join('')}"`
      case 3: return value.trim() !== value ? JSON.stringify(value)
        : `${['|', '>', '|-', '>-  # folded'][random(4)]!}\n${indent}    ${value}`
      default: return value
    }
  }
  const flowText = (value: string): string => (random(2) === 0 ? JSON.stringify(value) : `'${value}'`)
  const item = (action: Action, indent: string): string => {
    if (typeof action === 'string') return random(8) === 0 ? text(`${action};`, indent) : text(action, indent)
    if (random(4) === 0) return text(inLanguage(action), indent)
    if ('asm' in action) return `asm: ${text(action.asm, `${indent}  `)}`
    const parts = [`if: ${text(action.test, `${indent}  `)}`, `then:${list(action.then, `${indent}  `)}`]
    if (action.otherwise.length > 0 || random(4) === 0) parts.push(`else:${list(action.otherwise, `${indent}  `)}`)
    return parts.join(`\n${indent}  `)
  }
  const list = (body: readonly Action[], indent: string): string => {
    if (body.length === 0) return ' []'
    if (random(3) === 0) {
      const one = body.map(inLanguage)
      return random(2) === 0 ? ` [${one.map(flowText).join(', ')}]` : ` ${text(one.join('; '), indent)}`
    }
    return `\n${body.map((one) => `${indent}- ${item(one, indent)}`).join('\n')}`
  }
  const probe = ({ points, predicate, body }: Written): string => {
    const one = [
      `points: ${random(2) === 0 ? `[${points.map((point) => (point.includes('*') ? `"${point}"` : point)).join(', ')}]` : text(points.join(', '), '    ')}`,
      ...(predicate === undefined ? [] : [`when: ${text(predicate, '    ')}`]),
      `do:${list(body, '    ')}`,
    ]
    return `  - ${one.join(['\n    ', ' # why\n\n    '][one[0]!.endsWith(']') ? random(2) : 0]!)}`
  }
  return `${random(4) === 0 ? '---\n' : ''}probes:\n${program.map(probe).join('\n')}\n`
}
