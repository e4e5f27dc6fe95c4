// The probe language, from text to trees. test/cases/language.txt has a name, a program, and behind ==> what is read of it,
// fully parenthesized, with what signs matter (s, u); or where and how it is refused.
// Any text at all is read or refused in one line; and what is printed of a random tree is read as that tree.

import t from 'tap'
import { KerninstError } from '../src/error.js'
import { parseProgram, type Probe } from '../src/probe/program.js'
import { casesOf } from './cases.js'
import { lottery, seed, seedNote } from './lottery.js'
import { randomExpression, show, showProbe } from './trees.js'

t.test('cases', (t) => {
  const cases = casesOf('language.txt')
  t.ok(cases.length > 30, `${cases.length} cases`)
  for (const { name, text, expected } of cases) {
    let got: string[]
    try {
      got = parseProgram(text, '-e').map(showProbe)
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
      got = [error.message.replace(/^-e:/, '')]
    }
    t.same(got, expected, name)
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
  const negative = /^-e:\d+:\d+: '[<>=\/%]+' with a negative constant/
  let read = 0
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
    const text = randomExpression(random, 6)
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
