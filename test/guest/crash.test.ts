// The counters of a kernel that has died: it panics while it counts, its memory is saved by QEMU, in both of the formats
// that there are, and `kerninst report --vmcore` must find in it, call for call, what was called before. Also of one whose
// bundle was removed before, and had another before that.

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t from 'tap'
import { buildInjector, buildModule, kernel, keygen, mustKerninst, plan, program } from './artefacts.js'
import { runGuest } from './guest.js'

const GUEST_SECONDS = 120
const MEMORY_MB = 512
/** Until the machine is dead and its last words are written. */
const DYING_MS = 3000
const CALLS = 4321
const BEFORE = 17

const CALLED = '__x64_sys_ioprio_get'
const POINTS = `entry:${CALLED}, return:${CALLED}, block:${CALLED} { @ = count() }`

const CASES = [
  { name: '6.1-cloud', format: 'elf', removed: false },
  { name: '6.12-cloud', format: 'kdump-zlib', removed: true },
]

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-crash-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'trusted')
const tools = [buildInjector(scratch), program('test/guest/calls.c', join(scratch, 'bin'))]

const script = (removed: boolean): string => `
insmod /kerninst.ko || exit 1
kerninst-inject apply /bundle || exit 1
calls ${BEFORE} 0
kerninst-inject remove || exit 1
kerninst-inject apply /bundle || exit 1
calls ${CALLS - 1} 0
calls 1 1
${removed ? 'kerninst-inject remove || exit 1' : ''}
echo @dying
echo c > /proc/sysrq-trigger
`

for (const { name, format, removed } of CASES) {
  t.test(`${name}, ${format}`, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    const bundle = join(scratch, `${name}.bundle`)
    plan(target, [POINTS], key, bundle)
    const vmcore = join(scratch, `${name}.vmcore`)
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: script(removed),
      append: 'panic=0',
      memory: MEMORY_MB,
      leaves: true,
      seconds: GUEST_SECONDS,
      onLine: async (line, monitor) => {
        if (line !== '@dying') return
        await new Promise((resolve) => setTimeout(resolve, DYING_MS))
        await monitor.command('dump-guest-memory', { paging: false, protocol: `file:${vmcore}`, format })
        await monitor.command('quit')
      },
    })
    t.match(result.console, /Kernel panic - not syncing: sysrq triggered crash/, 'it died')
    const report = JSON.parse(mustKerninst('report', '--vmcore', vmcore, '--bundle', bundle, '--format', 'json')) as {
      state: string
      buildId: string
      points: { point: string; count: string; perCpu: string[] }[]
    }
    t.equal(report.state, removed ? 'removed' : 'applied')
    const point = (which: string): { count: string; perCpu: string[] } | undefined =>
      report.points.find((one) => one.point === `${which}:${CALLED}`)
    t.match(point('entry'), { count: String(CALLS), perCpu: [String(CALLS - 1), '1'] }, 'every call, on its processor')
    t.equal(point('return')?.count, String(CALLS))
    t.ok(report.points.some((one) => one.point.startsWith('block:') && one.count === String(CALLS)), 'its blocks, too')
    t.comment(mustKerninst('report', '--vmcore', vmcore, '--bundle', bundle).split('\n').slice(0, 8).join('\n'))
    rmSync(vmcore)
  })
}
