// Assembly that users write. test/cases/assembly.txt has texts, with what they read and write, or why they are refused.
// Judges: GNU as and objdump, who must make the same instructions of each text; a second set of rules, over objdump's words;
// and the processor, which runs what is taken, to see what it reads and writes.

import { execFileSync, spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Decoder, DecoderOptions, RflagsBits } from 'iced-x86'
import t from 'tap'
import { AF, CF, namesOf, OF, PF, RSP, SF, ZF, type RegisterSet } from '../src/code/registers.js'
import { Assembler, type Assembled } from '../src/probe/assembly.js'
import { casesOf } from './cases.js'
import { ROOT } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-assembly-'))
t.teardown(() => rmSync(scratch, { recursive: true, force: true }))
t.comment(seedNote)

const assembler = await Assembler.load()
const cases = casesOf('assembly.txt').map(({ name, expected }) => ({ text: name.slice(2), expected }))

interface Taken extends Assembled {
  readonly text: string
}

const taken: Taken[] = []

t.test('cases', (t) => {
  let refused = 0
  for (const { text, expected } of cases) {
    const got = assembler.assemble(text)
    if (typeof got === 'string') {
      refused++
      t.same([got.replace(/^'[^;]*': (?=.)/, '')], expected, text)
    } else {
      taken.push({ text, ...got })
      t.same([`reads ${namesOf(got.reads).join(' ') || '-'}`, `writes ${namesOf(got.writes).join(' ') || '-'}`], expected, text)
    }
  }
  t.ok(taken.length >= 25 && refused >= 60, `${taken.length} taken, ${refused} refused`)
  t.equal(process.exitCode, undefined, 'nothing has changed how this process ends')
  t.end()
})

t.test('limits', (t) => {
  t.type(assembler.assemble('nop;'.repeat(64)), 'object')
  t.match(assembler.assemble('nop;'.repeat(65)), /more than 64 instructions/)
  t.match(assembler.assemble('mov rax, 0x123456789abcdef0;'.repeat(52)), /520 bytes of code, more than 512/)
  for (const text of ['', ' ', ';', 'x'.repeat(100_000), '['.repeat(100_000), `lea rax, [${'rbx+'.repeat(30_000)}1]`,
    `mov rax, ${'9'.repeat(100_000)}`, `nop ${' '.repeat(100_000)}x`, `mov rax, ${'-'.repeat(100_000)}1`, 'mov rax, \0rbx', '\u{1f600}']) {
    const reason = assembler.assemble(text)
    t.ok(typeof reason === 'string' && reason.length < 300, JSON.stringify(text.slice(0, 30)))
  }
  t.end()
})

/** objdump's listing of code: where instructions begin, and their text. */
const listing = (code: Uint8Array): Map<number, string> => {
  const file = join(scratch, 'code')
  writeFileSync(file, code)
  const out = execFileSync('objdump', ['-D', '-w', '-z', '-b', 'binary', '-m', 'i386:x86-64', '-M', 'intel', '--no-show-raw-insn', file],
    { encoding: 'utf8', maxBuffer: 1 << 28 })
  return new Map(out.split('\n').flatMap((line): [number, string][] => {
    const [, at, text] = /^\s*([0-9a-f]+):\s+(.*?)\s*$/.exec(line) ?? []
    return at === undefined ? [] : [[parseInt(at, 16), text!.replaceAll(/\s+/g, ' ')]]
  }))
}

/** What objdump says of each of several pieces of code, one after the other. */
const listings = (codes: readonly Uint8Array[]): string[][] => {
  const lines = listing(Buffer.concat(codes))
  let at = 0
  return codes.map((code) => {
    const own: string[] = []
    if (!lines.has(at)) own.push('(out of step)')
    for (const end = at + code.length; at < end; at++) if (lines.has(at)) own.push(lines.get(at)!)
    return own
  })
}

/** The same instruction, in one of the ways to write or encode it. */
const plain = (line: string): string => line
  .replace(/^movabs /, 'mov ')
  .replace(/^(sh[lr]|sar|ro[lr]|rc[lr]) ([^,]+)$/, '$1 $2,1')
  .replace(/^(xchg|test) ([^,]+),([^,]+)$/, (_, name: string, a: string, b: string) => `${name} ${[a, b].sort().join()}`)
  .replace(/\b([a-z0-9]+)\+\1\*1\b/, '$1*2').replace(/\[([a-z0-9]+)\*2\+0x0\]/, '[$1*2]')

/** What of several texts the GNU assembler takes otherwise; it takes them all at once, one a line. */
const gnuDiffers = (all: readonly Taken[]): string[] => {
  const [source, object, binary] = ['s', 'o', 'bin'].map((end) => join(scratch, `code.${end}`)) as [string, string, string]
  writeFileSync(source, all.map(({ text }) => `${text}\n`).join(''))
  const { status, stderr } = spawnSync('as', ['-msyntax=intel', '-mnaked-reg', '-o', object, source], { encoding: 'utf8' })
  if (status !== 0) return [...stderr.matchAll(/:(\d+): Error: .*/g)].map(([error, line]) => `${all[Number(line) - 1]!.text}${error}`)
  execFileSync('objcopy', ['-O', 'binary', '-j', '.text', object, binary])
  const theirs = [...listing(readFileSync(binary)).values()]
  return listings(all.map(({ bytes }) => bytes)).flatMap((ours, i) => {
    const other = theirs.splice(0, ours.length)
    return ours.map(plain).join() === other.map(plain).join() ? [] : [`${all[i]!.text}: ${ours.join('; ')}, not ${other.join('; ')}`]
  })
}

t.test('the GNU assembler', (t) => {
  t.same(gnuDiffers(taken), [], 'makes the same of all that is taken')
  const [one] = taken.filter(({ text }) => text === 'mov rax, rdi')
  t.equal(gnuDiffers([{ ...one!, text: 'mov rax, rsi' }]).length, 1, 'and would be seen to differ')
  t.end()
})

// The rules again, for objdump's words.
const NAMES = new RegExp(`^(?:${[
  'mov(?:[sz]x|sxd|abs)?', 'lea', 'xchg', 'xadd', 'cmpxchg', 'bswap', 'c(?:bw|wde|dqe|wd|dq|qo)', 'add', 'adc', 'sub', 'sbb', 'cmp', 'inc',
  'dec', 'neg', 'i?mul', 'and', 'x?or', 'not', 'test', 'sh[lr]d?', 's[ah]r', 'ro[lr]', 'rc[lr]', 'bt[csr]?', 'bs[fr]', 'clc', 'stc', 'cmc', '[ls]ahf',
  'nop', 'pause', 'rdtsc', '(?:set|cmov)n?(?:e|[oszp]|[abgl]e?)',
].join('|')})$`)
const REGISTER = /^(?:[re]?(?:[abcd]x|[sd]i|bp)|[abcd][hl]|(?:[sd]i|bp)l|r(?:[89]|1[0-5])[dwb]?)$/
const ADDRESS = /^\[(?:(?:r(?:[abcd]x|[sd]i|bp|[89]|1[0-5])(?:\*[1248])?|0x[0-9a-f]+)[+-]?)+\]$/
const mistakeIn = (line: string): string => {
  const [name = '', operands = ''] = line.split(/ (.*)/)
  if (!NAMES.test(name)) return name
  for (const operand of operands === '' ? [] : operands.split(',')) {
    if (REGISTER.test(operand) || /^0x[0-9a-f]+$/.test(operand) || (/^(?:sh[lr]|sar|ro[lr]|rc[lr])$/.test(name) && operand === '1')) continue
    if (name !== 'lea' || !ADDRESS.test(operand)) return operand
  }
  return ''
}

/** Flags that an instruction leaves undefined, and whether a later one looks at flags. */
const undefinedIn = ({ bytes }: Assembled): { flags: RegisterSet; isRead: boolean } => {
  const decoder = new Decoder(64, bytes, DecoderOptions.None)
  const result = { flags: 0, isRead: false }
  const bits = [[RflagsBits.OF, OF], [RflagsBits.SF, SF], [RflagsBits.ZF, ZF], [RflagsBits.AF, AF], [RflagsBits.CF, CF], [RflagsBits.PF, PF]] as const
  while (decoder.canDecode) {
    const insn = decoder.decode()
    if (result.flags !== 0 && insn.rflagsRead !== 0) result.isRead = true
    for (const [theirs, ours] of bits) if (insn.rflagsUndefined & theirs) result.flags |= ours
    insn.free()
  }
  decoder.free()
  return result
}

/** The processor's opinion, by test/native/effects.c: what is not as claimed. */
const judge = (binary: string, claims: readonly Assembled[]): string[] => {
  const input = Buffer.concat(claims.flatMap((one) =>
    [new Uint8Array(Uint32Array.of(one.reads, 0, one.writes, undefinedIn(one).flags, 0, 0, one.bytes.length).buffer), one.bytes]))
  const { status, stdout, stderr, signal } = spawnSync(binary, [String(seed)], { input, encoding: 'utf8', maxBuffer: 1 << 28 })
  if (status !== 0) throw new Error(`effects: status ${status} ${signal} ${stderr}`)
  return stdout.trim().split('\n').slice(0, -1)
}

/** What can be held against the processor: neither clocks, nor what hangs on flags that are left undefined. */
const canBeJudged = (one: Taken): boolean => !/rdtsc/i.test(one.text) && !undefinedIn(one).isRead

t.test('any text at all', { timeout: 0 }, (t) => {
  const random = lottery(seed)
  const one = <T>(list: readonly T[]): T => list[random(list.length)]!
  const names = ('mov movzx movsx movsxd movabs lea xchg xadd cmpxchg bswap cbw cwde cdqe cwd cdq cqo add adc sub sbb cmp inc dec neg mul imul ' +
    'and or xor not test shl sal shr sar rol ror rcl rcr shld shrd bt btc btr bts bsf bsr clc stc cmc lahf sahf nop pause rdtsc setz setnae ' +
    'setpo cmovnle cmovc cmovs').split(' ')
  const others = ('jmp je call ret loop push pop pushfq popfq enter leave div idiv hlt cli sti cld std int3 int syscall ud2 in out cpuid rdmsr wrmsr ' +
    'movsb stosd lodsq cmpsw scasb xlatb fld1 fadd emms movaps addss pxor popcnt lzcnt tzcnt andn pdep rdrand lock rep repne xbegin lfence ' +
    'clflush prefetchw invlpg swapgs verr lar smsw str sgdt xgetbv rdpmc rdtscp wbinvd endbr64 movbe crc32 adcx ud1 .byte .rept nop:').split(' ')
  const registers = ('rax rbx rcx rdx rsi rdi rbp r8 r15 eax ebx ecx edx esi ebp r9d r14d ax bx cx si bp r10w al bl cl ah bh sil dil bpl r8b ' +
    'r15b').split(' ')
  const odd = 'rsp esp sp spl rip cs ds fs cr0 cr8 dr7 st(0) mm0 xmm1 ymm2 k1 foo $5 0 \' " % @ ( {z}'.split(' ')
  const number = (): string => one(['0', '1', '2', '3', '7', '8', '15', '31', '33', '63', '0x7f', '0x80', '0xff', '0x100', '0xffff', '0x7fffffff', '0x80000000',
    '0xffffffff', '0x100000000', '0xffffffffffffffff', '-1', '-128', '-129', '-0x80000000', '-0x80000001', '0x123456789abcdef0'])
  const operand = (): string => {
    switch (random(12)) {
      case 0: case 1: case 2: case 3: case 4: case 5: return one(registers)
      case 6: case 7: case 8: return number()
      case 9: return one(odd)
      default: return `${one(['', '', 'byte ptr ', 'qword ptr ', 'fs:'])}[${Array.from({ length: 1 + random(3) }, () =>
        one([one(registers), one(registers), `${one(registers)}*${one(['1', '2', '4', '8', '3'])}`, number(), one(odd)])).join(one(['+', ' + ', '-']))}]`
    }
  }
  const likely = (): string => {
    const size = random(4)
    const same = one([registers.slice(0, 9), registers.slice(9, 17), registers.slice(17, 23), registers.slice(23)])
    const name = one(names)
    if (/^(?:c(?:bw|wde|dqe|wd|dq|qo)|clc|stc|cmc|[ls]ahf|nop|pause|rdtsc)$/.test(name)) return name
    if (/^(?:bswap|inc|dec|neg|mul|not|set.*)$/.test(name)) return `${name} ${one(same)}`
    if (name === 'lea') return `lea ${one(registers.slice(0, 17))}, [${one(registers.slice(0, 9))}+${one(registers.slice(0, 9))}*${one(['1', '2', '4', '8'])}${one(['', '+5', '-0x1000'])}]`
    if (/^sh[lr]d$/.test(name)) return `${name} ${one(registers.slice(0, 9))}, ${one(registers.slice(0, 9))}, ${one(['cl', number()])}`
    return `${name} ${one(same)}, ${size === 0 ? number() : size === 1 ? 'cl' : one(same)}`
  }
  const statement = (): string => {
    if (random(3) !== 0) return likely()
    return `${one(random(4) === 0 ? others : names)} ${Array.from({ length: random(4) }, operand).join(one([', ', ',', ' ']))}`
  }
  const accepted: Taken[] = []
  let refused = 0
  for (let i = 0; i < 6000; i++) {
    const whole = Array.from({ length: random(3) === 0 ? 1 + random(8) : 1 }, random(8) === 0 ? statement : likely).join(one([';', '; ', ' ;; ']))
    const text = random(50) === 0 ? whole.slice(random(8)) : whole
    const got = assembler.assemble(text)
    if (typeof got === 'string') refused++
    else accepted.push({ text, ...got })
  }
  for (let i = 0; i < 6000; i++) {
    const text = statement()
    const got = assembler.assemble(text)
    if (typeof got === 'string') refused++
    else accepted.push({ text, ...got })
  }
  t.ok(accepted.length > 2000 && refused > 2000, `${accepted.length} accepted, ${refused} refused`)
  t.equal(process.exitCode, undefined)
  t.type(assembler.assemble('nop'), 'object', 'and it still works')

  const all = [...taken, ...accepted]
  let mistakes = 0
  listings(all.map(({ bytes }) => bytes)).forEach((lines, i) => {
    const mistake = lines.map(mistakeIn).find((found) => found !== '')
    const { text, reads, writes } = all[i]!
    if ((mistake !== undefined || ((reads | writes) & RSP) !== 0) && mistakes++ < 20) t.fail(`${text}: ${lines.join('; ')}: ${mistake}`)
  })
  t.equal(mistakes, 0, 'all of them keep to the rules')

  t.same(gnuDiffers(accepted).slice(0, 20), [], 'and are to the GNU assembler what they are here')

  const binary = join(scratch, 'effects')
  execFileSync('gcc', ['-O1', '-Wall', '-Wextra', '-Werror', '-o', binary, join(ROOT, 'test/native/effects.c')])
  const judged = all.filter(canBeJudged)
  t.ok(judged.length > all.length / 2, `${judged.length} of them are run`)
  t.same(judge(binary, judged).map((line) => `${line} ${judged[Number(line.split(' ')[0])]?.text}`), [], 'and read and write what they are said to')
  // That a wrong claim would be seen: one thing less that is read, or written.
  const lessOf = (set: RegisterSet): RegisterSet => set & (set - 1)
  const wrong = judged.filter((claim) => lessOf(claim.reads) !== claim.reads).slice(0, 500)
  const noticed = judge(binary, wrong.map((claim) => ({ ...claim, reads: lessOf(claim.reads) }))).length
  t.ok(noticed > wrong.length / 2, `${noticed} of ${wrong.length} wrong claims about what is read are seen`)
  const lost = judged.filter((claim) => claim.writes & 0xffff).slice(0, 500)
  const seen = judge(binary, lost.map((claim) => ({ ...claim, writes: lessOf(claim.writes) }))).length
  t.ok(seen > lost.length / 2, `${seen} of ${lost.length} wrong claims about what is written are seen`)
  t.end()
})
