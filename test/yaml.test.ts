// Programs in YAML. test/cases/yaml.txt is as language.txt; "shape:" are mistakes that docs/program.schema.json must find as
// well, "yaml:" those of YAML itself, which no schema sees, "language:" those in the texts.
// The schema takes whatever is taken; random programs are the same trees as in the language; any damage is told in one line.

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Ajv2020 } from 'ajv/dist/2020.js'
import t from 'tap'
import { parse } from 'yaml'
import { KerninstError } from '../src/error.js'
import { readRequests } from '../src/probe/requests.js'
import { parseProgram, type Probe } from '../src/probe/program.js'
import { parseYaml } from '../src/probe/yaml.js'
import { casesOf, type Case } from './cases.js'
import { ROOT } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'
import { asProgram, asYaml, randomProgram, showProbe } from './trees.js'

const cases = casesOf('yaml.txt')
const isTaken = ({ expected }: Case): boolean => !/^\d+:\d+: /.test(expected[0]!)
const ajv = new Ajv2020({ strict: true, allowUnionTypes: true })
const schema = JSON.parse(readFileSync(join(ROOT, 'docs/program.schema.json'), 'utf8')) as object

/** Trees without places. */
const bare = (probes: readonly Probe[]): string => JSON.stringify(probes, (key, value: unknown) =>
  (key === 'at' || key === 'line' || key === 'column' ? undefined : typeof value === 'bigint' ? String(value) : value))

t.test('cases', (t) => {
  t.ok(cases.length > 60, `${cases.length} cases`)
  for (const { name, text, expected } of cases) {
    let got: string[]
    try {
      got = parseYaml(text, 'f.yaml').map(showProbe)
    } catch (error) {
      if (!(error instanceof KerninstError)) throw error
      t.equal(error.exit, 65)
      got = [error.message.replace(/^f\.yaml:/, '')]
    }
    t.same(got, expected, name)
    const crlf = (): Probe[] => parseYaml(text.replaceAll('\n', '\r\n'), 'f.yaml')
    if (got.every((line) => !/^\d/.test(line))) t.same(crlf().map(showProbe), expected, `${name}, with carriage returns`)
    else t.throws(crlf, { exit: 65, message: /^f\.yaml:\d+:\d+: / }, `${name}, with carriage returns`)
  }
  t.end()
})

t.test('the schema', (t) => {
  t.ok(ajv.validateSchema(schema), 'is one, of draft 2020-12')
  const validate = ajv.compile(schema)
  let [taken, refused] = [0, 0]
  for (const one of cases) {
    if (isTaken(one)) {
      t.ok(validate(parse(one.text)), `takes ${one.name}`)
      taken++
    } else if (one.name.startsWith('# shape:')) {
      t.notOk(validate(parse(one.text, { logLevel: 'silent' })), `refuses ${one.name}`)
      refused++
    } else if (!/^# (?:yaml|language):/.test(one.name)) t.fail(`${one.name}: what kind of mistake?`)
  }
  t.ok(taken > 10 && refused > 30, `${taken} taken, ${refused} refused`)
  t.end()
})

t.test('random programs', (t) => {
  t.comment(seedNote)
  const validate = ajv.compile(schema)
  const random = lottery(seed)
  const negative = /' with a negative constant/
  let read = 0
  for (let i = 0; i < 1500; i++) {
    const program = randomProgram(random)
    const [language, yaml] = [asProgram(program), asYaml(program, random)]
    const outcome = (run: () => Probe[]): string => {
      try {
        return bare(run())
      } catch (error) {
        if (error instanceof KerninstError && negative.test(error.message)) return error.message.replace(/^\S+ /, '')
        throw new Error(`${String(error)}\n${language}\n${yaml}`)
      }
    }
    const expected = outcome(() => parseProgram(language, 'f'))
    const got = outcome(() => parseYaml(yaml, 'f'))
    if (got !== expected) {
      t.equal(got, expected, `${language}\n${yaml}`)
      break
    }
    if (!validate(parse(yaml))) {
      t.fail(`the schema refuses ${yaml}`)
      break
    }
    if (got.startsWith('[')) read++
  }
  t.ok(read > 700, `${read} are read as in the language`)
  t.end()
})

t.test('positions', (t) => {
  const text = 'probes:\n  - points: [entry:a, "return:b"]\n    do: ["@ = count()"]\n  - points: |\n      entry:c,\n       insn:d+4\n    do: "@\\x20= count()"\n'
  t.same(parseYaml(text, 'f').flatMap(({ points }) => points.map(({ line, column }) => `${line}:${column}`)),
    ['2:14', '2:24', '5:7', '6:8'])
  t.same(readRequests([{ text, source: 'f', format: 'yaml' }], { parseYaml }).rows.map((p) => `${p.kind}:${p.pattern} @${p.aggregate} ${p.line}:${p.column}`),
    ['entry:a @ 2:14', 'return:b @ 2:24', 'entry:c @ 5:7', 'insn:d @ 6:8'])
  for (const [part, place, message] of [
    ['{asm: nop}', '3:10', 'asm: there is no assembler'], ['\'@\u0020= sum(reg("rsp"))\'', '3:18', 'reg..rsp.. is not to be had'],
    ['"@[ retval ] = count()"', '3:13', 'a key of count.. must be known'], ['"@\\x20[retval]= count()"', '3:9', 'a key of count.. must be known'],
  ] as const) {
    const one = `probes:\n - points: return:f\n   do: [${part}]\n`
    t.throws(() => readRequests([{ text: one, source: 'f', format: 'yaml' }], { parseYaml }), { message: new RegExp(`^f:${place}: ${message}`) }, part)
  }
  t.throws(() => parseYaml('\uFEFFprobes: 1', 'f'), { message: /^f:1:10: / }, 'with a byte order mark')
  t.end()
})

t.test('limits', (t) => {
  const probe = (body: string, points = 'entry:f'): string => `probes:\n - points: ${points}\n   do: ${body}\n`
  const nested = (n: number): string => probe(`[${'{if: 1, then: ['.repeat(n)}${']}'.repeat(n)}]`)
  const blocks = (n: number): string => {
    let text = 'probes:\n - points: entry:f\n   do:\n'
    for (let i = 0; i < n; i++) text += `${' '.repeat(3 + 4 * i)}- if: 1\n${' '.repeat(5 + 4 * i)}then:\n`
    return `${text}${' '.repeat(3 + 4 * n)}- "@ = count()"\n`
  }
  t.doesNotThrow(() => parseYaml(nested(32), 'f'), 'as many ifs as in the language')
  t.doesNotThrow(() => parseYaml(blocks(32), 'f'))
  t.doesNotThrow(() => parseYaml(probe(`[${'"@ = count()", '.repeat(256)}]`), 'f'))
  const bad: [string, RegExp][] = [
    [nested(33), /ifs are nested more than 32 deep/],
    [blocks(33), /ifs are nested more than 32 deep/],
    [probe(`[{if: 1, then: '${'if (1) { '.repeat(32)}${'}'.repeat(32)}'}]`), /ifs are nested more than 32 deep/],
    [nested(1000), /nested too deep/],
    [blocks(300), /nested too deep/],
    [probe(`[${'"@ = count()", '.repeat(257)}]`), /more than 256 statements/],
    [probe(`["${'@ = count() '.repeat(200)}", {if: 1, then: "${'@ = count() '.repeat(56)}"}]`), /more than 256 statements/],
    [probe(`[${'{asm: nop}, '.repeat(257)}]`), /more than 256 statements/],
    [probe(`[{asm: ${'nop;'.repeat(1025)}}]`), /assembly of 1 to 4096/],
    [probe('"@ = count()"', `[${'entry:f,'.repeat(100_001)}]`), /more than 100000 probes/],
    [`probes: [${'{points: [a:f,b:f], do: x},'.repeat(10)}]`, /'a' is not one of/],
    ['x'.repeat((1 << 20) + 1), /longer than/],
    ...['[', '{a: ', '- ', '? ', '- - ', 'a: ', '-\n ', 'a:\n '].map((unit): [string, RegExp] =>
      [unit.repeat(10_000), /nested too deep|not YAML|without '\?'|not one of|a list where/]),
    [Array.from({ length: 1000 }, (_, i) => `${' '.repeat(i)}-\n`).join(''), /nested too deep/],
    [`probes: ${'&a '.repeat(1000)}`, /anchors/],
    [`${Array.from({ length: 20_000 }, (_, i) => `k${i}: 1`).join('\n')}`, /'k0' is not one of/],
  ]
  for (const [text, message] of bad) t.throws(() => parseYaml(text, 'f'), { exit: 65, message }, JSON.stringify(text.slice(0, 50)))
  const many = `probes:\n${' - points: entry:f\n   do: "@ = count()"\n'.repeat(20_000)}`
  t.equal(parseYaml(many, 'f').length, 20_000)
  t.end()
})

t.test('any damage at all', (t) => {
  t.comment(seedNote)
  const random = lottery(seed + 1)
  const pieces = ['- ', ': ', '[', ']', '{', '}', '"', '\'', '|', '>', '\n', '\n  ', '\t', '#', ' #', '&a', '*a', '!x', '!!str', '%', '@', '`', '? ', ',',
    '---\n', '...\n', '\r\n', '\0', '\x02', '\x18', '\x1f', 'é', '\u{1f600}', '\ud800', '\ufeff', '\u2028', 'probes', 'points', 'when', 'do', 'if', 'then', 'else', 'asm',
    '1', 'true', '~', 'null', '<<', '\\', '\\x', '0x', '.inf', '|2-', '    ']
  const texts = cases.map(({ text }) => text)
  let read = 0
  for (let i = 0; i < 15_000; i++) {
    let text = random(3) === 0 ? asYaml(randomProgram(random), random) : texts[random(texts.length)]!
    for (let n = random(5); n > 0; n--) {
      const at = random(text.length + 1)
      const end = random(2) === 0 ? at : at + random(random(4) === 0 ? 40 : 4)
      const piece = random(4) === 0 ? text.slice(random(text.length + 1)).slice(0, random(60)) : random(3) === 0 ? '' : pieces[random(pieces.length)]!
      text = text.slice(0, at) + piece + text.slice(end)
    }
    try {
      bare(parseYaml(text, 'fuzz'))
      read++
    } catch (error) {
      const [, line = '0', column = '0'] = error instanceof KerninstError ? (/^fuzz:(\d+):(\d+): [^\n]+$/.exec(error.message) ?? []) : []
      const its = text.split('\n')[Number(line) - 1]
      if (its === undefined || Number(column) < 1 || Number(column) > its.length + 1) t.fail(`${JSON.stringify(text)}: ${String(error)}`)
    }
  }
  t.ok(read > 1000, `${read} of them were programs`)
  t.end()
})
