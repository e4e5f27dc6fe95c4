// What a report says of aggregates: from values that are collected as the interpreter does it (interpreter.ts), on several
// CPUs, the numbers must come back that the values themselves give. And how it looks.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import type { Dump } from '../src/dump/dump.js'
import { Aggregates } from '../src/probe/aggregates.js'
import { parseProgram, type Aggregate } from '../src/probe/program.js'
import { aggregateNumbers, type Counters } from '../src/report/aggregates.js'
import { aggregateText } from '../src/report/aggregatetext.js'
import type { ManifestAggregate } from '../src/splice/manifest.js'
import { ROOT } from './guest/artefacts.js'
import { interpret, type Slots } from './interpreter.js'
import { lottery, seed, seedNote, type Lottery } from './lottery.js'

const CPUS = 3
const FIRST = 7 // slot

const word = (random: Lottery): bigint => {
  const any = (BigInt(random(2 ** 32)) << 32n) | BigInt(random(2 ** 32))
  return [any, any >> BigInt(random(64)), BigInt(random(100)), BigInt.asUintN(64, -BigInt(random(100)))][random(4)]!
}

interface Value {
  readonly cpu: number
  readonly key: number
  readonly value: bigint // as the program sees it, with its sign
}

/** An aggregate that has collected values. */
const countersOf = (dump: Dump): Counters[] => Array.from({ length: CPUS }, (_, number) => ({ dump, number }))

const collected = (text: string, values: readonly { cpu: number; arg0: bigint; arg1: bigint }[]): { one: ManifestAggregate; dump: Dump } => {
  const [probe] = parseProgram(`entry:f { ${text} }`, '-e')
  const aggregates = new Aggregates()
  aggregates.learn([probe!], text, '-e')
  const table = aggregates.tables[0]!
  const slots: Slots[] = Array.from({ length: CPUS }, () => new Map())
  for (const { cpu, arg0, arg1 } of values) {
    const registers: { readonly [name: string]: bigint } = { rdi: arg0, rsi: arg1 }
    interpret(probe!, { register: (name) => registers[name] ?? 0n, cpu: BigInt(cpu), pid: 0n, tid: 0n, caller: 0n, ticks: 12_345n }, slots[cpu]!,
      (_: Aggregate, key) => FIRST + (table.keyKind === 'index' ? Number(key) * table.width : 0))
  }
  const { name, kind, signed, unit, keyKind, keys, width, range } = table
  return {
    one: {
      name, kind, signed: signed ? 1 : 0, unit, keyKind, keys, width, first: FIRST,
      range: range === undefined ? [] : [range.low, range.high, range.step].map(String),
    },
    dump: { cpuCount: CPUS, count: (cpu: number, slot: number) => slots[cpu]!.get(slot) ?? 0n } as Dump,
  }
}

t.test('numbers', (t) => {
  t.comment(seedNote)
  const random = lottery(seed)
  for (let round = 0; round < 300; round++) {
    const signed = random(2) === 0
    const argument = signed ? '(int64) arg0' : 'arg0'
    const [keyText, keyOf] = ([
      ['', () => 0], ['[cpu]', (cpu: number) => cpu], ['[arg1 & 3]', (_: number, arg1: bigint) => Number(arg1 & 3n)],
    ] as const)[random(3)]!
    const raw = Array.from({ length: random(4) === 0 ? 0 : 1 + random(200) }, () => ({ cpu: random(CPUS), arg0: word(random), arg1: word(random) }))
    const values: Value[] = raw.map(({ cpu, arg0, arg1 }) =>
      ({ cpu, key: keyOf(cpu, arg1), value: signed ? BigInt.asIntN(64, arg0) : arg0 }))
    const at = (key: number): bigint[] => values.filter((one) => one.key === key).map(({ value }) => value)
    const keys = [...new Set(values.map(({ key }) => key))].sort((a, b) => a - b)
    const sum = (list: readonly bigint[]): bigint => {
      const all = list.reduce((total, value) => total + value, 0n)
      return signed ? BigInt.asIntN(64, all) : BigInt.asUintN(64, all)
    }
    const best = (list: readonly bigint[], sign: bigint): bigint => list.reduce((a, b) => ((a - b) * sign > 0n ? a : b))
    const check = (kind: string, expected: (list: bigint[], key: number) => object): void => {
      const { one, dump } = collected(`@x${keyText} = ${kind}`, raw)
      const got = aggregateNumbers(one, countersOf(dump)).keys.filter((each) => each.sum !== 0n || each.count !== undefined)
      const wanted = keys.map((key) => ({ key, ...expected(at(key), key) })).filter((each) => (each as { sum?: bigint }).sum !== 0n || 'count' in each)
      t.same(got, wanted, `${kind}${keyText} of ${raw.length}`)
    }
    check(`sum(${argument})`, (list) => ({ sum: sum(list) }))
    check(`avg(${argument})`, (list) => ({ count: BigInt(list.length), sum: sum(list) }))
    check(`min(${argument})`, (list) => ({ count: BigInt(list.length), min: best(list, -1n) }))
    check(`max(${argument})`, (list) => ({ count: BigInt(list.length), max: best(list, 1n) }))
    if (keyText !== '') check('count()', (list) => ({ count: BigInt(list.length) }))

    for (const kind of [`hist(${argument})`, `lhist(${argument}, ${signed ? -40 : 0}, 80, 8)`]) {
      const { one, dump } = collected(`@x${keyText} = ${kind}`, raw)
      for (const { key, count, buckets } of aggregateNumbers(one, countersOf(dump)).keys) {
        const list = at(key)
        t.equal(count, BigInt(list.length), `${kind}: how many`)
        const inside = (low: bigint | undefined, high: bigint | undefined): number =>
          list.filter((value) => (low === undefined || value >= low) && (high === undefined || value < high)).length
        const wrong = buckets!.filter(({ low, high, count: some }) => Number(some) !== inside(low, high))
        t.same(wrong, [], `${kind}: every bucket`)
        t.ok(buckets!.every(({ low }, i) => i === 0 || low === buckets![i - 1]!.high), 'without gaps')
      }
    }
  }
  t.end()
})

t.test('text', (t) => {
  const cases = readFileSync(join(ROOT, 'test/cases/aggregates.txt'), 'utf8').split(/\n\n(?=# )/)
  t.ok(cases.length >= 6, `${cases.length} cases`)
  for (const text of cases) {
    const [name, program, values, ...lines] = text.trimEnd().split('\n')
    const expected = lines.map((line) => line.replace(/^==> ?/, ''))
    const raw = values!.split(' ').filter((each) => each !== '').map((each) => {
      const [cpu, arg0, arg1] = each.split(':')
      return { cpu: Number(cpu), arg0: BigInt.asUintN(64, BigInt(arg0!)), arg1: BigInt(arg1 ?? 0) }
    })
    const { one, dump } = collected(program!, raw)
    const got = aggregateText(aggregateNumbers(one, countersOf(dump)), 60)
    t.same(got.slice(1), expected, name!)
    t.ok(got.every((line) => line.length <= 60), 'within the width')
  }
  t.end()
})
