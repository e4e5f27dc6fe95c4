// The module when everything fails that can, and when a bundle is signed and yet nonsense. In guests:
// - a module that is built to fail (kmod/fault.h) fails at its first allocation or step, then at its second, and so on
//   through load, check, apply, reset, snapshot and remove, with and without a limit on the stops of the machine; after
//   each failure the text is what it was, and nothing is kept of what was allocated;
// - payloads damaged in one to four fields pass for signed (a module that takes unsigned ones), are checked, and some
//   of those that pass applied and removed.
// The outside judges: the kernel's text, its counts of what is allocated, and what it complains of.

import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { readBundle } from '../../src/bundle/bundle.js'
import { buildModule, kernel, keygen, longOn, plan, program } from './artefacts.js'
import { runGuest } from './guest.js'

const KERNELS = longOn('6.12-cloud')
const MUTANTS = Number(process.env['KERNINST_MUTANTS'] ?? 4000)
const ROUNDS = Number(process.env['KERNINST_FAULT_ROUNDS'] ?? 1)
const GUEST_SECONDS = 400 + MUTANTS / 500 + 60 * ROUNDS
/** A limit that holds on this slow a machine, in ns. */
const LIMIT = 2_000_000_000
/** Objects of one size of kmalloc() that come and go by themselves: caches of the allocator, other tasks. */
const NOISE = 400

const BUSY = 'block:vfs_*, block:tcp_* { @ = count() } span:vfs_read, span:tcp_sendmsg { @ns = sum(elapsed) }'
/** Xen's and Hyper-V's guests: nobody runs them in QEMU, so nonsense in their patches is not what is tried here. */
const IDLE = 'block:xen_pm*, block:xen_smp*, entry:hv_s*, return:hv_s* { @ = count() }'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-fault-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = ['request', 'texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))

const FAULTS = `
fault=/sys/module/kerninst/parameters/fault_at
R="request /busy.payload /busy.signature"
fail() { { echo "failed: $*"; cat /tmp/said; dmesg | tail -n 5; } >&2; exit 1; }
same() { texthash diff /tmp/text > /tmp/said || fail "the text differs after $*"; }
state() { $R status | sed 's/.*state \\([0-9]*\\) .*/\\1/'; }
memory() { grep Percpu /proc/meminfo; echo vmalloc $(grep -c kerninst /proc/vmallocinfo); awk '/^kmalloc/ {print $1, $2}' /proc/slabinfo; }
n=1
until insmod /kerninst-fault.ko fault_at=$n 2> /tmp/said; do n=$((n + 1)); [ $n -lt 50 ] || fail load; done
echo "failures: load $((n - 1))"
dmesg -c > /dev/null # the command line names what is looked for at the end
echo 0 > $fault
workload 1 || exit 1
texthash save /tmp/text || exit 1

# REQUEST, and the state that a failure leaves: until nothing fails any more.
try() {
  n=0
  while :; do
    n=$((n + 1)); echo $n > $fault
    $R $1 > /tmp/said 2>&1; code=$?
    left=$(cat $fault); echo 0 > $fault
    [ $left = 0 ] || break
    s=$(state)
    case $2 in
    idle) [ $code != 0 ] && [ $s = 0 -o $s = 2 ] || fail "$1: state $s after failure $n"; [ "$3" = "" ] || same "$1, failure $n";;
    applied) [ $code != 0 ] && [ $s = 1 ] || fail "$1: state $s after failure $n";;
    removed) # a failure after everything is restored is none
      [ $code != 0 -o $s = 2 ] || fail "$1: state $s after failure $n"
      [ $s = 1 ] && continue
      [ $s = 2 ] || $R remove > /tmp/said || fail "remove after $1, failure $n"
      same "$1, failure $n"
      $R apply > /tmp/said || fail "apply again";;
    esac
  done
  [ $code = 0 ] || fail "$1 without a failure"
  echo "failures: $1 $((n - 1))"
}
limited() {
  try reset:${LIMIT} applied; try snapshot:${LIMIT} applied; $R remove > /dev/null
  try apply:${LIMIT} idle text; try remove:${LIMIT} removed; $R apply > /dev/null
}
round() {
  try check idle; try apply idle $1; try reset applied; try snapshot applied; [ "$1" = "" ] || limited
  try remove removed
  same 'a round'
}
round text
memory > /tmp/before
i=0; while [ $i -lt ${ROUNDS} ]; do round > /dev/null; i=$((i + 1)); done
memory > /out/after
cp /tmp/before /out/before
rmmod kerninst || fail rmmod
same unloading
`

const MUTATE = `
insmod /kerninst-unsigned.ko || fail 'load of the module that takes unsigned bundles'
request /idle.payload /idle.signature mutate:${MUTANTS} || fail mutate
same 'damaged payloads'
rmmod kerninst || fail rmmod
workload 1 || exit 1
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 2
exit 0
`

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const parts = (['busy', 'idle'] as const).flatMap((which) => {
      const bundle = join(scratch, `${name}.${which}`)
      const { sites } = plan(target, [which === 'busy' ? BUSY : IDLE], key, bundle)
      t.ok(sites > 50, `${which}: ${sites} sites`)
      const { payload, signature } = readBundle(readFileSync(bundle))
      return [{ path: `${which}.payload`, from: payload }, { path: `${which}.signature`, from: signature }]
    })
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst-fault.ko', from: buildModule(target, key.cert, join(scratch, 'fault'), ['FAULT=1']) },
        { path: 'kerninst-unsigned.ko', from: buildModule(target, key.cert, join(scratch, 'unsigned'), ['UNSIGNED=1']) },
        ...parts,
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: FAULTS + MUTATE,
      append: 'preempt=full softlockup_panic=1 watchdog_thresh=60',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-8).join(' | '))
    if (result.exit !== 0) return
    t.comment(`${Math.round(result.seconds)} s`)

    const failures = new Map(result.lines.flatMap((line) => {
      const found = /^failures: (\S+) (\d+)$/.exec(line)
      return found ? [[found[1]!, Number(found[2])] as const] : []
    }))
    t.equal(failures.size, 10, 'every kind of request failed')
    for (const [what, steps] of failures) t.ok(steps >= 2, `${what} failed at each of ${steps} steps`)

    const memory = (when: string): Map<string, number> => new Map((result.files.get(when)?.toString() ?? '').trim().split('\n')
      .map((line) => line.split(/[: ]+/)).map(([what, count]) => [what!, Number(count)]))
    const after = memory('after')
    t.ok(after.size > 10 && after.get('Percpu')! > 0, 'there are counts of memory')
    for (const [what, before] of memory('before')) {
      const grown = after.get(what)! - before
      t.ok(grown <= (what.startsWith('kmalloc') ? NOISE : 0), `${what}: ${before}, then ${grown} more`)
    }

    const mutated = /^mutated (\d+), applied (\d+), by reason (.*)$/.exec(result.lines.find((line) => line.startsWith('mutated')) ?? '')
    const reasons = (mutated?.[3] ?? '').split(' ').map(Number)
    t.equal(Number(mutated?.[1]), MUTANTS)
    t.ok(Number(mutated?.[2]) > 0 && reasons.filter((count) => count > 0).length > 4,
      `damaged payloads: ${mutated?.[2]} applied and removed; by reason ${mutated?.[3]}`)
  })
}
