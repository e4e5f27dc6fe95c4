// The whole line, on real kernels: plan here, boot, apply, count, dump, remove in the guest, report here.
//
// The outside judge is the kernel itself: its kprobe and kretprobe events count the same functions over the same
// workload (test/guest/judge.c says why the comparison is exact), /proc/kcore shows its text before and after, and
// dmesg what it complained of. Each kernel boots twice, with KASLR: with its default preemption and with preempt=full.

import { existsSync, mkdtempSync, readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import {
  ROOT, buildInjector, buildModule, kernel, kerninst, keygen, manifest, must, mustKerninst, plan, program,
} from './artefacts.js'
import type { Kernel } from './artefacts.js'
import { runGuest } from './guest.js'
import type { GuestFile, GuestResult } from './guest.js'
import type { ManifestPoint, ManifestText } from '../../src/splice/manifest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const ROUNDS = 5 //     of the workload while both count
const REPEATS = 15  //  of apply and remove under load; world.test.ts and the soak go on
const FLIPS = 96 //     bundles with one wrong bit
const MIN_FUNCTIONS = 30
const MIN_SEVERAL = 5 // functions with several returns, and with tail calls
const GUEST_SECONDS = 400

/** A function whose calls are counted; every call of CALLEE comes from it in the workload. */
const CALLER = 'do_filp_open'
const CALLEE = 'path_openat'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-line-'))
// Not a teardown of tap's: that does not run when building, below, throws.
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))

// ---- what is built once ---------------------------------------------------------------------------------------------

const functions = readFileSync(join(ROOT, 'test/guest/functions.txt'), 'utf8').split('\n')
  .filter(line => line !== '' && !line.startsWith('#')).flatMap(line => line.split(/\s+/).slice(1))

interface Target extends Kernel {
  readonly module: string
  readonly programs: readonly string[]
  readonly bundle: string
  readonly manifest: ManifestText
  readonly calls: readonly Call[] // in CALLER
  readonly judged: readonly string[] // functions whose entry and return are both served
}

const counting = (point: string): string => `${point} { @ = count() }`
const key = keygen(scratch, 'trusted')
const stranger = keygen(scratch, 'stranger')
const injector = buildInjector(scratch)
const programs = ['judge', 'texthash', 'workload'].map(name => program(`test/guest/${name}.c`, join(scratch, 'bin')))

interface Call {
  readonly at: string // 'do_filp_open+0xaa'
  readonly callee: string
}

/** The direct calls in a function, by objdump; the one to __fentry__ is ftrace's. */
function callsIn(target: Kernel, caller: string): Call[] {
  const symbols = must('nm', ['-n', target.vmlinux]).split('\n').map(line => line.split(' '))
  const at = symbols.findIndex(([, type, name]) => name === caller && /[tT]/.test(type ?? ''))
  const start = BigInt(`0x${symbols[at]?.[0]}`)
  const next = symbols.slice(at).find(([address]) => BigInt(`0x${address}`) > start)
  const listing = must('objdump', ['-d', '--no-show-raw-insn', `--start-address=${start}`,
    `--stop-address=0x${next?.[0]}`, target.vmlinux])
  return [...listing.matchAll(/^ *([0-9a-f]+):\s+call\s+[0-9a-f]+ <([^>+]+)>/gm)]
    .filter(match => match[2] !== '__fentry__')
    .map(match => ({ at: `${caller}+0x${(BigInt(`0x${match[1]}`) - start).toString(16)}`, callee: match[2]! }))
}

function prepare(name: string): Target {
  const target = kernel(name)
  const bundle = join(scratch, `${name}.bundle`)
  const calls = callsIn(target, CALLER)
  const points = functions.flatMap(one => [`entry:${one}`, `return:${one}`])
  const programs = [...points, `call:${CALLER}`, ...calls.map(one => `insn:${one.at}`)].map(counting)
  plan(target, programs, key, bundle)
  const made = manifest(bundle)
  const served = new Set(made.points.map(one => one.point))
  return {
    ...target,
    module: buildModule(target, key.cert, scratch),
    programs,
    bundle,
    manifest: made,
    calls,
    judged: functions.filter(one => served.has(`entry:${one}`) && served.has(`return:${one}`)),
  }
}

const targets = KERNELS.map(prepare)

/** The same target with a bundle laid out by what its dump says of the first one. */
function profiled(t: Test, target: Target): Target {
  const bundle = join(scratch, `${target.name}.profiled`)
  const { hot, sites, codeBytes } = plan(target, target.programs, key, bundle,
    ['--profile', join(scratch, `${target.name}.dump`), '--profile-bundle', target.bundle])
  t.comment(`${hot.patches} of ${sites} patches ran: ${hot.bytes} of ${codeBytes} bytes`)
  t.ok(hot.patches > 0 && hot.patches < sites && hot.bytes < codeBytes, 'the profile tells what ran from what did not')
  return { ...target, bundle, manifest: manifest(bundle) }
}

const pointOf = (target: Target, name: string): ManifestPoint | undefined =>
  target.manifest.points.find(one => one.point === name)

/** The judge's list: NAME, slots of the entry, slots of the returns. */
function judgeList(target: Target): string {
  const slots = (name: string): string => pointOf(target, name)?.parts.map(part => part.slot).join(',') ?? '-'
  return target.judged.map(one => `${one} ${slots(`entry:${one}`)} ${slots(`return:${one}`)}\n`).join('')
}

/** One bit wrong, at places spread over the whole bundle and around its ends. */
function flipped(bundle: Buffer): Buffer[] {
  return Array.from({ length: FLIPS }, (_, i) => {
    const at = i < 8 ? i : i < 16 ? bundle.length - 1 - (i - 8) : Math.floor((bundle.length * (i - 16)) / (FLIPS - 16))
    const copy = Buffer.from(bundle)
    copy[at] = copy[at]! ^ (1 << (i % 8))
    return copy
  })
}

// ---- what runs in the guest -----------------------------------------------------------------------------------------

// `step NAME COMMAND...` keeps the command's output in /out/NAME.{out,err} and prints its exit code.
const SHELL = `
step() {
  name=$1; shift
  "$@" >/out/$name.out 2>/out/$name.err
  code=$?
  echo "step $name $code"
  return $code
}
`

// The warm-up flips the static keys that flip once (get_random_once and the like) before the text is saved.
const COUNT = `
judge compare /names workload 1 >/dev/null || exit 10
step save texthash save /tmp/text || exit 11
step check kerninst-inject check /bundle || exit 12
step apply kerninst-inject apply /bundle || exit 13
step status kerninst-inject status
step compare judge compare /points workload ${ROUNDS} || exit 14
step remove kerninst-inject remove || exit 15
step diff texthash diff /tmp/text
step dump kerninst-inject dump -o /out/dump || exit 16
step read judge read /points || exit 17
step status-removed kerninst-inject status
`

const REPEAT = `
workload -t 100000 & one=$!
workload -t 100000 & two=$!
sleep 1
i=0
while [ $i -lt ${REPEATS} ]; do
  kerninst-inject apply /bundle >/dev/null 2>/tmp/why || { echo "apply $i: $(cat /tmp/why)"; exit 20; }
  kerninst-inject remove >/dev/null 2>/tmp/why || { echo "remove $i: $(cat /tmp/why)"; exit 21; }
  i=$((i + 1))
done
echo "repeated $i"
step load-alive kill -0 $one $two
kill $one $two
wait
step diff-repeated texthash diff /tmp/text
step after-load workload 1
`

const BAD = `
step no-module kerninst-inject apply /bundle
step no-module-status kerninst-inject status
insmod /kerninst.ko || exit 30
workload 1 || exit 31
texthash save /tmp/text-bad || exit 32
step usage kerninst-inject applaud
step no-file kerninst-inject apply /missing
step not-a-bundle kerninst-inject apply /script
step truncated kerninst-inject apply /bad/truncated
step empty kerninst-inject apply /bad/empty
step other-kernel kerninst-inject apply /bad/other-kernel
step stranger kerninst-inject apply /bad/stranger
step unsigned kerninst-inject apply /bad/unsigned
step nothing-to-remove kerninst-inject remove
for file in /bad/flip-*; do step \${file#/bad/} kerninst-inject apply $file; done
step still-idle kerninst-inject status
step diff-bad texthash diff /tmp/text-bad
step first kerninst-inject apply /bundle
step twice kerninst-inject apply /bundle
mkdir /small
mount -t tmpfs -o size=8k none /small
step full-disk kerninst-inject dump -o /small/dump
step left-behind sh -c 'test -z "$(ls /small)"'
step no-folder kerninst-inject dump -o /nowhere/dump
step dump-again kerninst-inject dump -o /out/again
step last kerninst-inject remove
rmmod kerninst || exit 33
step diff-unloaded texthash diff /tmp/text-bad
insmod /kerninst.ko || exit 34
`

function filesFor(target: Target): GuestFile[] {
  return [
    ...[...programs, injector].map(path => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
    { path: 'kerninst.ko', from: target.module },
    { path: 'bundle', from: target.bundle },
    { path: 'points', from: Buffer.from(judgeList(target)) },
    { path: 'names', from: Buffer.from(target.judged.map(one => `${one} - -\n`).join('')) },
  ]
}

function badFiles(target: Target): GuestFile[] {
  const good = readFileSync(target.bundle)
  const other = targets.find(one => one !== target)!
  const byStranger = join(scratch, `${target.name}.stranger`)
  plan(target, [counting('entry:vfs_read')], stranger, byStranger)
  const unsigned = join(scratch, `${target.name}.unsigned`)
  mustKerninst('plan', target.vmlinux, '-o', unsigned, '-e', counting('entry:vfs_read'))
  return [
    { path: 'bad/truncated', from: good.subarray(0, good.length >> 1) },
    { path: 'bad/empty', from: new Uint8Array(0) },
    { path: 'bad/other-kernel', from: other.bundle },
    { path: 'bad/stranger', from: byStranger },
    { path: 'bad/unsigned', from: unsigned },
    ...flipped(good).map((bytes, i) => ({ path: `bad/flip-${i}`, from: bytes })),
  ]
}

// ---- what is asked of it --------------------------------------------------------------------------------------------

/** Step -> its exit code. */
const steps = (result: GuestResult): Map<string, number> => new Map(result.lines.flatMap(line => {
  const parts = /^step (\S+) (\d+)$/.exec(line)
  return parts ? [[parts[1]!, Number(parts[2])] as const] : []
}))

const text = (result: GuestResult, file: string): string => result.files.get(file)?.toString('utf8') ?? ''

const rows = (result: GuestResult, file: string): string[][] =>
  text(result, file).split('\n').filter(line => /^\w+( \d+)+$/.test(line)).map(line => line.split(' '))

/** The kernel complained of nothing. */
function quiet(t: Test, result: GuestResult): void {
  const bad = /WARNING:|BUG:|Oops:|detected stall|lockup|blocked for more|general protection|Call Trace:/
  const complaints = text(result, 'dmesg').split('\n').filter(line => bad.test(line))
  t.same(complaints, [], 'the kernel printed no warning')
}

function sameCounts(t: Test, target: Target, result: GuestResult): void {
  const compared = rows(result, 'compare.out')
  t.same(compared.map(row => row[0]), target.judged, 'every function was compared')
  const wrong = compared.filter(row => row[1] !== row[2] || row[4] !== row[5])
  const missed = compared.filter(row => row[3] !== '0' || row[6] !== '0')
  const idle = compared.filter(row => row[1] === '0' || row[4] === '0')
  t.same(missed, [], 'the kernel\'s probes missed no hit')
  t.same(wrong, [], 'entries and returns equal those of kprobe and kretprobe, call for call')
  t.same(idle, [], 'the workload called every function')
}

function sameReport(t: Test, target: Target, result: GuestResult): void {
  const dump = join(scratch, `${target.name}.dump`)
  writeFileSync(dump, result.files.get('dump') ?? '')
  const report = JSON.parse(mustKerninst('report', dump, '--bundle', target.bundle, '--format', 'json')) as {
    schema: string
    release: string
    points: { point: string, count: string, perCpu: string[] }[]
  }
  t.equal(report.schema, 'kerninst.report/1')
  t.equal(report.release, target.release)
  const counts = new Map(report.points.map(one => [one.point, one.count]))
  const unequal = report.points
    .filter(one => one.perCpu.reduce((sum, part) => sum + BigInt(part), 0n) !== BigInt(one.count))
  t.same(unequal, [], 'each count is the sum of its CPUs')
  const seen = rows(result, 'read.out')
  t.equal(seen.length, target.judged.length)
  t.same(seen.map(([name]) => [name, counts.get(`entry:${name}`), counts.get(`return:${name}`)]), seen,
    'the report says what the counters held')
  const known = target.calls.filter(one => one.callee === CALLEE)
  t.ok(known.length > 1, `${CALLER} calls ${CALLEE} at ${known.length} places`)
  t.equal(known.reduce((sum, one) => sum + BigInt(counts.get(`insn:${one.at}`) ?? 0), 0n).toString(),
    counts.get(`entry:${CALLEE}`), `which sum to the entries of ${CALLEE}`)
  t.same(target.calls.map(one => counts.get(`call:${one.at}`)), target.calls.map(one => counts.get(`insn:${one.at}`)),
    `call:${CALLER} counts each of its ${target.calls.length} calls as often as its instruction runs`)
}

for (const first of targets) {
  t.test(`${first.name}: ${first.release}`, async t => {
    t.test('the plan serves enough to be judged', async t => {
      const returns = first.judged.map(one => pointOf(first, `return:${one}`)!)
      const several = returns.filter(one => one.parts.length > 1)
      const { sites } = first.manifest
      const tails = returns.filter(one => one.parts.some(part => sites[part.site]?.tactic === 'retarget-jump'))
      t.comment(`${first.judged.length} functions, ${several.length} with several ways out, ` +
        `${tails.length} with tail calls`)
      t.ok(first.judged.length >= MIN_FUNCTIONS)
      t.ok(several.length >= MIN_SEVERAL)
      t.ok(tails.length >= MIN_SEVERAL)
    })

    for (const preempt of ['', 'preempt=full']) {
      t.test(`counting and repeating, ${preempt ? `${preempt}, laid out by a profile` : 'default preemption'}`, async t => {
        const bad = preempt === ''
        const target = bad ? first : profiled(t, first)
        const result = await runGuest({
          vmlinuz: target.vmlinuz,
          files: [...filesFor(target), ...(bad ? badFiles(target) : [])],
          script: `${SHELL}${bad ? BAD : 'insmod /kerninst.ko || exit 30'}${COUNT}${REPEAT}dmesg >/out/dmesg\n`,
          append: preempt,
          seconds: GUEST_SECONDS,
        })
        const code = steps(result)
        t.equal(result.exit, 0, `the script went to its end\n${result.lines.slice(-5).join('\n')}`)
        if (result.exit !== 0) return
        sameCounts(t, target, result)
        t.equal(code.get('diff'), 0, `text after remove is what it was before apply\n${text(result, 'diff.out')}`)
        sameReport(t, target, result)
        t.match(text(result, 'status.out'), /^state applied$/m)
        t.match(text(result, 'status-removed.out'), /^state removed$/m)

        t.ok(result.lines.includes(`repeated ${REPEATS}`), `applied and removed ${REPEATS} times under load`)
        t.equal(code.get('load-alive'), 0, 'the load went on')
        t.equal(code.get('diff-repeated'), 0, text(result, 'diff-repeated.out'))
        t.equal(code.get('after-load'), 0, text(result, 'after-load.err'))
        quiet(t, result)
        t.comment(`${result.seconds.toFixed(0)} s in the guest`)
        if (bad) badInput(t, result)
      })
    }
  })
}

/** Step -> the exit code that DESIGN.md's list gives it. */
const EXPECTED: Readonly<Record<string, number>> = {
  'no-module': 76, 'no-module-status': 76, usage: 64, 'no-file': 66, 'not-a-bundle': 65, truncated: 65, empty: 65,
  'other-kernel': 76, stranger: 77, unsigned: 77, 'nothing-to-remove': 77, twice: 77, 'full-disk': 74, 'no-folder': 73,
}

function badInput(t: Test, result: GuestResult): void {
  const code = steps(result)
  const oneLine = (step: string): boolean => /^kerninst-inject: [^\n]+\n$/.test(text(result, `${step}.err`))
  for (const [step, expected] of Object.entries(EXPECTED)) {
    t.equal(code.get(step), expected, `${step}: ${text(result, `${step}.err`).trim()}`)
    t.ok(oneLine(step), `${step} is one line`)
    t.equal(text(result, `${step}.out`), '', `${step} prints no data`)
  }
  const flips = Array.from({ length: FLIPS }, (_, i) => `flip-${i}`)
  t.same(flips.filter(step => ![65, 77].includes(code.get(step) ?? 0) || !oneLine(step))
    .map(step => `${step}: ${code.get(step)} ${text(result, `${step}.err`)}`), [], 'one wrong bit anywhere is refused')
  t.match(text(result, 'still-idle.out'), /^state idle$/m)
  t.equal(code.get('diff-bad'), 0, `bad bundles wrote nothing\n${text(result, 'diff-bad.out')}`)
  t.equal(code.get('first'), 0, text(result, 'first.err'))
  t.equal(code.get('left-behind'), 0, 'a dump that failed leaves no file')
  t.equal(code.get('dump-again'), 0, 'the heap is readable after a dump that failed')
  t.ok((result.files.get('again')?.length ?? 0) > 256)
  t.equal(code.get('last'), 0)
  t.equal(code.get('diff-unloaded'), 0, `text after unloading\n${text(result, 'diff-unloaded.out')}`)
}

t.test('the example programs are served whole', async t => {
  const examples = readdirSync(join(ROOT, 'corpora/programs')).filter(name => name.endsWith('.ki'))
  t.ok(examples.length >= 3)
  for (const target of targets) {
    for (const name of examples) {
      const run = kerninst('plan', target.vmlinux, '-o', join(scratch, 'example'), '-p',
        join(ROOT, 'corpora/programs', name), '--json')
      t.equal(run.status, 0, `${target.name}, ${name}: ${run.stderr.trim()}`)
      const { points, served } = JSON.parse(run.stdout) as { points: number, served: number }
      t.equal(served, points, `all ${points} points of ${name}`)
    }
  }
})

t.test('a profile of another kernel, or without its bundle, is refused', async t => {
  const [one, two] = targets
  const dump = join(scratch, `${one!.name}.dump`) // of the last guest
  const counted = join(scratch, `${one!.name}.profiled`)
  const bundle = join(scratch, 'unwritten')
  for (const [status, options] of [[76, ['--profile', dump, '--profile-bundle', counted]], [64, ['--profile', dump]]] as const) {
    const run = kerninst('plan', two!.vmlinux, '-o', bundle, '-e', counting('entry:vfs_read'), ...options)
    t.equal(run.status, status, run.stderr)
    t.match(run.stderr, /^kerninst: [^\n]*profile[^\n]+\n$/)
    t.notOk(existsSync(bundle))
  }
})

t.test('a dump of another bundle is refused', async t => {
  const [one, two] = targets
  const run = kerninst('report', join(scratch, `${one!.name}.dump`), '--bundle', two!.bundle)
  t.equal(run.status, 76, run.stderr)
  t.match(run.stderr, /^kerninst: [^\n]+\n$/)
})
