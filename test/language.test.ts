// The probe language, from text to trees. test/cases/language.txt has a name, a program, and behind ==> what is read of it,
// fully parenthesized, with what signs matter (s, u); or where and how it is refused.
// Any text at all is read or refused in one line; and what is printed of a random tree is read as that tree.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { KerninstError } from '../src/error.js'
import { REGISTER_NAMES } from '../src/code/registers.js'
import type { Expression } from '../src/probe/expression.js'
import { parseProgram, type Probe, type Statement } from '../src/probe/program.js'
import { ROOT } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

const SIGNED_MATTERS = new Set(['<', '<=', '>', '>=', '/', '%', '>>'])

/** What `a` and `b` are compared or divided as: decided by whoever has a sign to tell of. */
const operandsSigned = (a: Expression, b: Expression): boolean => {
  const constant = (one: Expression): boolean => one.op === 'number' || ((one.op === 'unary' || one.op === 'cast') && constant(one.a)) ||
    (one.op === 'binary' && constant(one.a) && constant(one.b))
  return constant(a) && !constant(b) ? b.signed : constant(b) && !constant(a) ? a.signed : a.signed && b.signed
}

const show = (one: Expression): string => {
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

const showProbe = ({ points, predicate, body }: Probe): string =>
  `${points.map(({ kind, pattern, offset }) => `${kind}:${pattern}${kind === 'insn' ? `+${offset}` : ''}`).join(', ')} ` +
  `${predicate ? `/${show(predicate)}/ ` : ''}${showBody(body)}`

t.test('cases', (t) => {
  const cases = readFileSync(join(ROOT, 'test/cases/language.txt'), 'utf8').split(/\n\n(?=# )/)
  t.ok(cases.length > 30, `${cases.length} cases`)
  for (const text of cases) {
    const [name, ...lines] = text.trimEnd().split('\n')
    const first = lines.findIndex((line) => line.startsWith('==>'))
    if (first < 1) throw new Error(`${name}: no program, or nothing is expected`)
    const program = lines.slice(0, first).join('\n')
    const expected = lines.slice(first).map((line) => line.slice(4))
    let got: string[]
    try {
      got = parseProgram(program, '-e').map(showProbe)
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
      got = [error.message.replace(/^-e:/, '')]
    }
    t.same(got, expected, name!)
  }
  t.end()
})

t.test('limits', (t) => {
  const bad: [string, RegExp][] = [
    [`entry:f { @ = sum(${'('.repeat(10_000)}1`, /nested more than 64 deep/],
    [`entry:f { @ = sum(${'-'.repeat(10_000)}1) }`, /nested more than 64 deep/],
    [`entry:f { @ = sum(1${'+1'.repeat(10_000)}) }`, /more than 64 operations in a row/],
    [`entry:f { @ = sum(${'1?1:'.repeat(10_000)}1) }`, /nested more than 64 deep/],
    [`entry:f { ${'if (1) { '.repeat(10_000)}`, /nested more than 32 deep/],
    [`entry:f { if (1) { @ = count() } ${'else if (1) { @ = count() } '.repeat(10_000)} }`, /nested more than 32 deep/],
    [`entry:f { ${'@ = count(); '.repeat(300)} }`, /more than 256 statements/],
    [`entry:f { @ = sum(${'9'.repeat(100_000)}) }`, /does not fit in 64 bits/],
    ['entry:f { @ = lhist(arg0, 0, 1000000, 1) }', /more than 1000 steps/],
    [`entry:f { asm("${'nop; '.repeat(10_000)}") }`, /assembly of 1 to 4096 characters/],
    [`${'entry:f, '.repeat(100_001)}entry:f { @ = count() }`, /more than 100000 probes/],
    ['x'.repeat(1 << 21), /longer than/],
  ]
  for (const [text, message] of bad) t.throws(() => parseProgram(text, '-e'), { exit: 65, message }, text.slice(0, 40))
  for (const [what, space] of [['spaces', ' '.repeat(10_000)], ['comments', '# # //\n'.repeat(1000)], ['marks in one comment', `#${' #'.repeat(1000)}\n`]] as const) {
    t.equal(parseProgram(`entry:f /arg0 /${space}2/ { @ = count() }`, '-e').length, 1, `many ${what} behind a division`)
  }
  t.doesNotThrow(() => parseProgram(`entry:f { @ = sum(${'('.repeat(60)}1${')'.repeat(60)}) }`, '-e'))
  t.end()
})

t.test('any text at all', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  const pieces = ['entry:vfs_read', 'span:f', ' /', '/ ', '{', '}', '@', '@x', '[', ']', '=', ' count()', 'hist(', 'lhist(', 'arg2', 'retval',
    ')', '(', ',', '0x10', '1', '18446744073709551616', ' + ', '-', '!', '~', ' ? ', ' : ', '&&', '||', '<<', '>>', '<=', '%', 'if (', 'else ',
    'asm("', '"', '(int32)', 'reg("rbx")', '//', '#', '\n', ';', '\0', 'é', '*']
  let read = 0
  for (let i = 0; i < 30_000; i++) {
    const whole = random(2) === 0
    let text = whole ? 'entry:f { @ = sum(' : ''
    for (let n = random(whole ? 6 : 24); n > 0; n--) text += pieces[random(pieces.length)]!
    if (whole) text += ') }'
    try {
      parseProgram(text, 'fuzz')
      read++
    } catch (error) {
      if (!(error instanceof KerninstError) || !/^fuzz:\d+:\d+: [^\n]+$/.test(error.message)) t.fail(`${JSON.stringify(text)}: ${String(error)}`)
    }
  }
  t.ok(read > 10, `${read} of them were programs`)
  t.end()
})

t.test('random trees', (t) => {
  const random = lottery(seed + 1)
  const inputs = ['arg0', 'arg5', 'retval', 'cpu', 'ticks', 'elapsed', 'reg("r15")', '7', '0xffffffffffffffff']
  const negative = /^-e:\d+:\d+: '[<>=\/%]+' with a negative constant/
  let read = 0
  const binary = ['||', '&&', '|', '^', '&', '==', '!=', '<<', '>>', '+', '-', '*', '/', '%', '<', '>=']
  /** A tree as text with all parentheses, and as it is shown. */
  const tree = (depth: number): string => {
    const kind = depth === 0 ? 0 : random(8)
    if (kind < 2) return inputs[random(inputs.length)]!
    if (kind === 2) return `(${['-', '!', '~', '(int8)', '(uint16)'][random(5)]!} ${tree(depth - 1)})`
    if (kind === 3) return `(${tree(depth - 1)} ? ${tree(depth - 1)} : ${tree(depth - 1)})`
    return `(${tree(depth - 1)} ${binary[random(binary.length)]!} ${tree(depth - 1)})`
  }
  /** The tree's own shape, without signs. */
  const shape = (text: string): string => text.replace(/([<>=/%]+)[su](?= )/g, '$1')
  const prefix = (text: string): string => {
    let at = 0
    const operand = (): string => {
      if (text[at] !== '(') {
        const word = /[^ ()]+(?:\("r15"\))?/y
        word.lastIndex = at
        const found = word.exec(text)![0]
        at += found.length
        return found === 'reg("r15")' ? '%r15' : found.startsWith('0x') ? String(BigInt(found)) : found
      }
      at++
      const unary = /(?:\(u?int\d+\)|[-!~]) /y
      unary.lastIndex = at
      const sign = unary.exec(text)?.[0]
      if (sign !== undefined) {
        at += sign.length
        const a = operand()
        at++
        return `(${sign.trim().replace(/[()]/g, '')} ${a})`
      }
      const a = operand()
      const between = / (\S+) /y
      between.lastIndex = at
      const operator = between.exec(text)![1]!
      at += operator.length + 2
      const b = operand()
      if (operator !== '?') {
        at++
        return `(${operator} ${a} ${b})`
      }
      at += 3
      const c = operand()
      at++
      return `(? ${a} ${b} ${c})`
    }
    return operand()
  }
  for (let i = 0; i < 2000; i++) {
    const text = tree(6)
    let probe: Probe
    try {
      probe = parseProgram(`span:f { @ = sum(${text}) }`, '-e')[0]!
    } catch (error) {
      if (error instanceof KerninstError && negative.test(error.message)) continue
      throw error
    }
    read++
    const [statement] = probe.body
    const got = statement!.op === 'aggregate' ? shape(show(statement!.value!)) : ''
    if (got !== prefix(text)) {
      t.equal(got, prefix(text))
      break
    }
  }
  t.ok(read > 1000, `${read} are read as they were written`)
  t.end()
})
