// probe/task.ts: where current, CPU, pid and tgid are, on five kernels, of two of them from both kinds of file, judged by the
// kernels' own BTF and by the names of their per-CPU variables. A function that says the same in other words is understood;
// whatever else one is changed to, the answer is the right one or none.

import { readFileSync } from 'node:fs'
import t, { type Test } from 'tap'
import { elfOf, openElf, type Elf } from '../src/image/elf.js'
import { loadImage, type Image } from '../src/image/image.js'
import { toAddress } from '../src/image/rva.js'
import type { Pieces } from '../src/image/tables.js'
import { unpackVmlinuz } from '../src/image/vmlinuz.js'
import { findTaskLayout, type TaskLayout } from '../src/probe/task.js'
import { Btf } from './btf.js'
import { bootKernel, kernel } from './guest/artefacts.js'
import { lottery, seed, seedNote } from './lottery.js'

t.comment(seedNote)
const random = lottery(seed)

const PID_TGID = 'bpf_get_current_pid_tgid'
const CPU = 'bpf_get_smp_processor_id'
const CURRENTS = ['bpf_get_current_task', 'bpf_get_current_task_btf']
const RAW_CPU = 'bpf_get_raw_cpu_id'
const FUNCTIONS = [PID_TGID, CPU, ...CURRENTS, RAW_CPU]
const VARIABLES = ['current_task', 'cpu_number', 'pcpu_hot', 'const_pcpu_hot']

const read = <T>(elf: Elf, act: (elf: Elf) => T): T => {
  try {
    return act(elf)
  } finally {
    elf.close()
  }
}
const btfBytes = (elf: Elf): Uint8Array => elf.readSection(elf.sections.find(({ name }) => name === '.BTF')!)

/** What the kernel's BTF says. */
const judged = (bytes: Uint8Array): TaskLayout => {
  const btf = new Btf(bytes)
  const hot = btf.perCpu('pcpu_hot')
  const inHot = (member: string): number => hot! + btf.memberOffset('pcpu_hot', member)!
  return {
    current: hot === undefined ? btf.perCpu('current_task')! : inHot('current_task'),
    cpu: hot === undefined ? btf.perCpu('cpu_number')! : inHot('cpu_number'),
    pid: btf.memberOffset('task_struct', 'pid')!,
    tgid: btf.memberOffset('task_struct', 'tgid')!,
  }
}

const images = new Map<string, Image>()

/** What `npm test` has whole; of the others it has the vmlinuz. */
const WHOLE = ['6.1-cloud', '6.12-cloud']

/** As they are known to be, for people who read this. */
const KERNELS: readonly (readonly [string, TaskLayout])[] = [
  ['6.1-cloud', { current: 0x1fb80, cpu: 0x19160, pid: 0x970, tgid: 0x974 }],
  ['6.12-cloud', { current: 0x35000, cpu: 0x3500c, pid: 0x980, tgid: 0x984 }],
  ['6.1-rt', { current: 0x1fc00, cpu: 0x199e0, pid: 0x9b0, tgid: 0x9b4 }],
  ['6.1-generic', { current: 0x1fb80, cpu: 0x199e0, pid: 0x970, tgid: 0x974 }],
  ['6.12-generic', { current: 0x351c0, cpu: 0x351cc, pid: 0x980, tgid: 0x984 }],
]

const packedElf = (vmlinuz: string): Elf => elfOf(vmlinuz, unpackVmlinuz(vmlinuz, readFileSync(vmlinuz)))

/** Holds what is found in a kernel's file against what is known, and against the names that it has. */
const found = (t: Test, path: string, expected: TaskLayout): Image => {
  const image = loadImage(path)
  t.same(findTaskLayout(image), expected, path)
  const { absolute } = image.symbols
  const hot = absolute.get('pcpu_hot')
  t.equal(Number(absolute.get('current_task') ?? hot), expected.current)
  t.equal(Number(absolute.get('cpu_number') ?? hot! + 12n), expected.cpu)
  return image
}

for (const [name, expected] of KERNELS) {
  t.test(name, async (t) => {
    const { vmlinuz } = bootKernel(name)
    t.same(judged(read(packedElf(vmlinuz), btfBytes)), expected, 'BTF')
    const packed = found(t, vmlinuz, expected)
    if (!WHOLE.includes(name)) return
    const { vmlinux } = kernel(name)
    const image = found(t, vmlinux, expected)
    t.same(packed.buildId, image.buildId)
    images.set(name, image)
  })
}

t.test('BTF is in both kinds of file, where two symbols say', async (t) => {
  const { vmlinux, vmlinuz } = kernel('6.1-cloud')
  const { base, symbols } = images.get('6.1-cloud')!
  const bytes = [openElf(vmlinux), packedElf(vmlinuz)].map((file) =>
    read(file, (elf) => {
      const section = elf.sections.find((each) => each.name === '.BTF')!
      t.equal(section.address, toAddress(base, symbols.rvaOf('__start_BTF')))
      t.equal(section.address + BigInt(section.size), toAddress(base, symbols.rvaOf('__stop_BTF')))
      return Buffer.from(btfBytes(elf))
    }))
  t.ok(bytes[0]!.equals(bytes[1]!))
})

// ---- Changed images ------------------------------------------------------------------------------------------------

const spanOf = ({ functions }: Image, name: string): [number, number] => {
  const [func] = functions.functionsNamed(name)
  return [functions.start[func!]!, functions.end[func!]!]
}

/** An image whose text can be written, and back. */
class Copy {
  readonly image: Image
  readonly #text: Uint8Array
  readonly #start: number
  readonly #undo: (() => void)[] = []

  constructor(of: Image) {
    const text = of.regions.find(({ name }) => name === '.text')!
    this.#text = text.bytes.slice()
    this.#start = text.start
    const regions = of.regions.map((region) => (region === text ? { ...region, bytes: this.#text } : region))
    this.image = { ...of, text: this.#text, regions }
  }

  at(rva: number): number {
    return this.#text[rva - this.#start]!
  }

  write(rva: number, ...bytes: number[]): void {
    const at = rva - this.#start
    const old = this.#text.slice(at, at + bytes.length)
    this.#undo.push(() => this.#text.set(old, at))
    this.#text.set(bytes, at)
  }

  restore(): void {
    for (let undo = this.#undo.pop(); undo !== undefined; undo = this.#undo.pop()) undo()
  }
}

/** An image in which some functions and variables are not named. */
const without = (of: Image, ...names: string[]): Image => ({
  ...of,
  functions: {
    start: of.functions.start, end: of.functions.end,
    functionsNamed: (name: string) => (names.includes(name) ? [] : of.functions.functionsNamed(name)),
  } as unknown as Image['functions'],
  symbols: {
    absolute: new Map([...of.symbols.absolute].filter(([name]) => !names.includes(name))),
    rvaOf: (name: string) => of.symbols.rvaOf(name),
  } as unknown as Image['symbols'],
})

/** Runs the tests of changed images on both cloud kernels. */
const onBoth = (title: string, act: (t: Test, image: Image, expected: TaskLayout) => void): void => {
  for (const [name, expected] of KERNELS) {
    if (WHOLE.includes(name)) t.test(`${title}, ${name}`, async (t) => act(t, images.get(name)!, expected))
  }
}

onBoth('what is missing', (t, image, expected) => {
  for (const name of [PID_TGID, CPU, '__per_cpu_start', '__per_cpu_end']) {
    t.equal(findTaskLayout(without(image, name)), undefined, `without ${name}`)
  }
  for (const name of [...CURRENTS, ...VARIABLES]) {
    t.same(findTaskLayout(without(image, name)), expected, `without ${name}: others confirm it`)
  }
  const named = image.symbols.absolute.has('cpu_number')
  t.same(findTaskLayout(without(image, RAW_CPU)), named ? expected : undefined, 'a variable may confirm it')
  t.same(findTaskLayout(without(image, ...VARIABLES)), expected, 'confirmed by functions alone')
  t.equal(findTaskLayout(without(image, ...VARIABLES, ...CURRENTS)), undefined, 'current unconfirmed')
  t.equal(findTaskLayout(without(image, ...VARIABLES, RAW_CPU)), undefined, 'cpu unconfirmed')
  const ambiguous = without(image)
  const functionsNamed = (name: string): number[] => {
    const found = image.functions.functionsNamed(name)
    return name === CPU ? [...found, found[0]! + 1] : found
  }
  const functions = { ...ambiguous.functions, functionsNamed } as unknown as Image['functions']
  t.equal(findTaskLayout({ ...ambiguous, functions }), undefined, 'two of a name')
})

onBoth('what others say otherwise', (t, image, expected) => {
  const renamed = (name: string, value: number): Image => {
    const changed = without(image)
    ;(changed.symbols.absolute as Map<string, bigint>).set(name, BigInt(value))
    return changed
  }
  t.equal(findTaskLayout(renamed('current_task', expected.current + 8)), undefined)
  t.equal(findTaskLayout(renamed('cpu_number', expected.cpu + 4)), undefined)
  t.equal(findTaskLayout(renamed('pcpu_hot', expected.current + 64)), undefined)
  t.equal(findTaskLayout(renamed('__per_cpu_end', expected.current)), undefined)
  t.equal(findTaskLayout(renamed('__per_cpu_start', 0x1000)), undefined)

  const [start, end] = spanOf(image, PID_TGID)
  const { tables, relocs } = image
  const at = start + 10 // in the load of current
  const piece = (rva: number, len: number): Pieces => ({ rva: Uint32Array.of(rva), len: Uint32Array.of(len) })
  const changed: [string, Partial<Image['tables']>][] = [
    ['an alternative', { alternatives: { ...piece(at, 3), replRva: Uint32Array.of(0), replLen: Uint32Array.of(0) } }],
    ['a call that reaches in', { paravirt: piece(start - 100, 111) }],
    ['a constant', { runtimeConst: piece(at, 4) }],
    ['a static key', { staticKeys: { rva: Uint32Array.of(at), target: Uint32Array.of(end - 1) } }],
    ['a static call', { staticCalls: Uint32Array.of(at) }],
    ['a call that is no ftrace site', { ftrace: new Uint32Array(0) }],
  ]
  for (const [what, table] of changed) {
    t.equal(findTaskLayout({ ...image, tables: { ...tables, ...table } }), undefined, what)
  }
  if (relocs.known) {
    const none = { ...relocs, relocPcpu32: new Uint32Array(0) }
    t.equal(findTaskLayout({ ...image, relocs: none }), undefined, 'relocations')
  }
})

onBoth('every bit of the functions, and chance', (t, image, expected) => {
  const copy = new Copy(image)
  const spans = FUNCTIONS.map((name) => spanOf(image, name))
  t.same(findTaskLayout(copy.image), expected)
  let wrong = 0
  let same = 0
  let tried = 0
  const judge = (): void => {
    const found = findTaskLayout(copy.image)
    tried++
    if (found !== undefined) {
      same++
      const right = found.current === expected.current && found.cpu === expected.cpu && found.pid === expected.pid &&
        found.tgid === expected.tgid
      if (!right) wrong++
    }
    copy.restore()
  }
  for (const [start, end] of spans) {
    for (let rva = start; rva < end; rva++) {
      for (let bit = 0; bit < 8; bit++) {
        copy.write(rva, copy.at(rva) ^ (1 << bit))
        judge()
      }
    }
  }
  for (let n = 0; n < 4000; n++) {
    const [start, end] = spans[random(spans.length)]!
    for (let edits = random(3); edits >= 0; edits--) copy.write(start + random(end - start), random(256))
    judge()
  }
  t.equal(wrong, 0, `${tried} changes: ${same} of no matter, the others refused`)
  t.ok(same < tried / 4, 'those at the ftrace site, most of them')
})

const bytesOf = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 255)

t.test('other instructions in bpf_get_current_pid_tgid', async (t) => {
  const image = images.get('6.1-cloud')!
  const { current, pid, tgid } = KERNELS[0]![1]
  const [start, stop] = spanOf(image, PID_TGID)
  const copy = new Copy(image)
  const hex = (text: string): number[] => [...Buffer.from(text.replaceAll(' ', ''), 'hex')]
  const load = [...hex('65 48 8b 04 25'), ...bytesOf(current)] //  mov %gs:current,%rax
  const pidWhole = [...hex('48 63 90'), ...bytesOf(pid)] //        movslq pid(%rax),%rdx
  const pidHalf = [...hex('8b 90'), ...bytesOf(pid)] //            mov pid(%rax),%edx
  const tgidHalf = [...hex('8b 80'), ...bytesOf(tgid)] //          mov tgid(%rax),%eax
  const shift = hex('48 c1 e0 20') //                              shl $32,%rax
  const join = hex('48 09 d0') //                                  or %rdx,%rax
  const ret = hex('c3')
  const end = [...shift, ...join, ...ret]
  const fails = hex('48 c7 c0 ea ff ff ff c3') //                  mov $-22,%rax; ret
  const test = hex('48 85 c0') //                                  test %rax,%rax
  const whole = [...pidWhole, ...tgidHalf, ...end]
  const cases: [string, boolean, number[]][] = [
    ['no test, other registers', true, [...load, ...whole]],
    ['jne over the failure', true, [...load, ...test, 0x75, fails.length, ...fails, ...whole]],
    ['je to the failure', true, [...load, ...test, 0x74, whole.length, ...whole, ...fails]],
    ['nothing at the ftrace site', true, [...hex('0f 1f 44 00 00'), ...load, ...whole]],
    ['or the other way round', true,
      [...load, ...pidWhole, ...tgidHalf, ...shift, ...hex('48 09 c2 48 89 d0'), ...ret]],
    ['pid without its sign', false, [...load, ...pidHalf, ...tgidHalf, ...end]],
    ['a shift by 31', false, [...load, ...pidWhole, ...tgidHalf, ...hex('48 c1 e0 1f'), ...join, ...ret]],
    ['no shift', false, [...load, ...pidWhole, ...tgidHalf, ...join, ...ret]],
    ['pid and tgid changed round', false,
      [...load, ...hex('48 63 90'), ...bytesOf(tgid), ...hex('8b 80'), ...bytesOf(pid), ...end]],
    ['tgid 4 bytes further', false, [...load, ...pidWhole, ...hex('8b 80'), ...bytesOf(tgid + 4), ...end]],
    ['failure where there is a task', false, [...load, ...test, 0x74, fails.length, ...fails, ...whole]],
    ['another failure', false, [...load, ...test, 0x75, 8, ...hex('48 c7 c0 eb ff ff ff c3'), ...whole]],
    ['nobody asked', false, [...load, 0x75, fails.length, ...fails, ...whole]],
    ['what is asked for was overwritten', false, [...load, ...test, ...shift, 0x75, fails.length, ...fails, ...whole]],
    ['a loop', false, [...load, 0xeb, 0xfe]],
    ['half a pointer', false, [...hex('65 8b 04 25'), ...bytesOf(current), ...whole]],
    ['a pointer from %fs', false, [...hex('64 48 8b 04 25'), ...bytesOf(current), ...whole]],
    ['a pointer that is not per CPU', false, [...hex('48 8b 04 25'), ...bytesOf(current), ...whole]],
    ['an address of 32 bits', false, [0x67, ...load, ...whole]],
    ['no return', false, [...load, ...whole.slice(0, -1)]],
  ]
  for (const [what, understood, code] of cases) {
    const site = code[0] === 0x0f ? [] : [0xe8, 0, 0, 0, 0]
    const bytes = [...site, ...code]
    if (bytes.length > stop - start) throw new Error(`${what}: ${bytes.length} bytes`)
    copy.write(start, ...bytes, ...new Array<number>(stop - start - bytes.length).fill(0xcc))
    const found = findTaskLayout(copy.image)
    copy.restore()
    if (understood) t.same(found, KERNELS[0]![1], what)
    else t.equal(found, undefined, what)
  }
})
