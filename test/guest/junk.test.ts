// Liveness is true in fact: a guest overwrites with junk whatever liveness calls dead, registers and flags, at tens of
// thousands of instructions of the running kernel, does all that a small userland can, and nothing breaks.
//
// Twice a kernel: once at one instruction of every function; then at every instruction of those functions that were
// seen to run, as far as there is room; by whichever tactic serves. (In `npm test`, the second is on 6.1 alone.) The outside judge is the processor: the workloads
// check their own results, the kernel must not complain, and its text must be as before. That the test can fail is
// shown by a third run of the first, in which at some places one register is overwritten that is live.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { readBundle } from '../../src/bundle/bundle.js'
import { buildGraph } from '../../src/cfg/graph.js'
import { GPRS, RSP } from '../../src/code/registers.js'
import { SecondDecoder } from '../../src/code/second.js'
import { readDump } from '../../src/dump/dump.js'
import { loadImage } from '../../src/image/image.js'
import { solveLiveness } from '../../src/liveness/live.js'

import type { Rva } from '../../src/image/rva.js'
import { reportNumbers } from '../../src/report/numbers.js'
import { Draft, LEVEL } from '../../src/splice/draft.js'
import { Ground } from '../../src/splice/ground.js'
import { TACTIC_NAMES } from '../../src/splice/tactics.js'
import { ROOT, buildInjector, buildModule, kernel, keygen, longOn, program } from './artefacts.js'
import { runGuest, type GuestResult } from './guest.js'
import { damage, everywhere, oneEach, usable, writeJunkBundle } from './junk.js'
import { placeOf } from './splices.js'
import { lottery, seed, seedNote } from '../lottery.js'

const KERNELS = longOn('6.1-cloud')
const TRIES = 8 //            draws of an instruction in each function
const MAX_PLACES = 40_000 //  of the second run: the patch area holds 32 MiB, and patches full of junk are long
const DAMAGED = 60 //       places of the run that has to fail
const GUEST_SECONDS = 900 // other users of the host may slow it to a tenth; a guest that hangs says so itself
const DAMAGED_SECONDS = 150 // after which that one counts as hung; the others take 60 to 80

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-junk-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), ...['texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

const SCRIPT = `
insmod /kerninst.ko || exit 1
dmesg -c > /dev/null
sh /broad.sh || exit 2 # flips the static keys that it will flip
texthash save /tmp/text || exit 3
kerninst-inject apply /bundle || exit 4
workload -t 20 & load=$!
sh /broad.sh || exit 5
wait $load || exit 6
kerninst-inject dump -o /out/dump || exit 7
kerninst-inject remove || exit 8
texthash diff /tmp/text || exit 9
workload 2 || exit 10
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 11
exit 0
`

const boot = (vmlinuz: string, module: string, bundle: string, seconds: number): Promise<GuestResult> => runGuest({
  vmlinuz,
  files: [
    { path: 'kerninst.ko', from: module },
    { path: 'bundle', from: bundle },
    { path: 'broad.sh', from: join(ROOT, 'test/guest/broad.sh') },
    ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
  ],
  script: SCRIPT,
  // A hang ends the guest; but an emulator on a host that others use may stand still for half a minute.
  append: 'preempt=full softlockup_panic=1 watchdog_thresh=60 rcupdate.rcu_cpu_stall_timeout=120 sysctl.kernel.panic_on_rcu_stall=1',
  seconds,
})

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    t.comment(seedNote)
    const random = lottery(seed)
    const target = kernel(name)
    const module = buildModule(target, key.cert, scratch)
    const image = loadImage(target.vmlinux)
    const ground = new Ground(solveLiveness(buildGraph(image)), await SecondDecoder.load())

    const run = (label: string, draft: Draft, seconds = GUEST_SECONDS): Promise<GuestResult> => {
      writeJunkBundle(draft, random, key, join(scratch, label))
      return boot(target.vmlinuz, module, join(scratch, label), seconds)
    }
    const describe = (draft: Draft): string => {
      const counts = new Map<string, number>()
      for (const tactic of draft.siteTactic) counts.set(TACTIC_NAMES[tactic]!, (counts.get(TACTIC_NAMES[tactic]!) ?? 0) + 1)
      return [...counts].map(([tactic, count]) => `${count} ${tactic}`).join(', ')
    }

    /** Applies, works, removes; returns what ran, as places in the kernel. */
    const ranUnder = async (label: string, draft: Draft): Promise<Set<Rva>> => {
      t.comment(`${label}: ${describe(draft)}`)
      const result = await run(label, draft)
      t.equal(result.exit, 0, `${label}: ${result.lines.filter((line) => !line.startsWith('+')).slice(-8).join(' | ')}`)
      const dump = join(scratch, `${label}.dump`)
      writeFileSync(dump, result.files.get('dump') ?? '')
      const points = [...reportNumbers(readBundle(readFileSync(join(scratch, label))), readDump(dump)).points()]
      const ran = points.filter((point) => point.count > 0n)
      const runs = ran.reduce((sum, point) => sum + point.count, 0n)
      t.comment(`${label}: ${draft.slotInsn.length} places, ${ran.length} of them ran, ${runs} times; ${Math.round(result.seconds)} s`)
      return new Set(ran.map((point) => placeOf(point.point)))
    }

    const spread = new Draft(ground)
    oneEach(spread, random, TRIES)
    t.ok(spread.slotInsn.length > 35_000, `${spread.slotInsn.length} places over the whole kernel`)
    const ran = await ranUnder('everywhere', spread)
    t.ok(ran.size > 3000, `${ran.size} of them were seen to run`)

    const { functions } = image
    const places = everywhere(ground, new Set([...ran].map((rva) => functions.functionAt(rva))))
    const step = Math.max(1, places.length / MAX_PLACES)
    const dense = new Draft(ground)
    for (let at = 0; at < places.length; at += step) {
      const { fn, insn } = places[Math.floor(at)]!
      dense.before(fn, insn, LEVEL.shortJump)
    }
    t.ok(dense.slotInsn.length > 30_000, `${dense.slotInsn.length} of ${places.length} places in their functions`)
    const dug = await ranUnder('what ran', dense)

    if (name !== KERNELS[0]) return
    const damaged = new Draft(ground)
    const chosen = [...dug].sort((a, b) => a - b)
    for (let k = 0; k < DAMAGED * 4 && damaged.slotInsn.length < DAMAGED; k++) {
      const rva = chosen[random(chosen.length)]!
      const fn = usable(ground, functions.functionAt(rva))
      const insn = fn?.graph.insns.rva.indexOf(rva) ?? -1
      if (fn !== undefined && insn >= 0 && fn.liveness.liveIn[insn]! & GPRS & ~RSP) damaged.before(fn, insn, LEVEL.shortJump)
    }
    damage(damaged, random)
    t.equal(damaged.slotInsn.length, DAMAGED)
    const outcome = await run('live junk', damaged, DAMAGED_SECONDS)
      .then((result) => `exit ${result.exit}`, (error: Error) => error.message.split('\n')[0]!)
    t.not(outcome, 'exit 0', `junk in one live register at ${DAMAGED} places is noticed: ${outcome}`)
  })
}
