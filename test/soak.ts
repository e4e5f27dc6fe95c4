// `npm run soak`: the whole kernel at once, on each kernel: every entry and every return, applied while a workload runs,
// several times; then blocks of the functions that the workload ran.
// In: the kernels that prepare.mjs fetched. Out: figures on stdout; exit code 1 where a text differed afterwards, a
// count went wrong, or the kernel complained. Too long for `npm test`.

import { createReadStream, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import {
  buildInjector, buildModule, CLI, kernel, keygen, must, mustKerninst, plan, program, type Kernel,
} from './guest/artefacts.js'
import { runGuest } from './guest/guest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const ROUNDS = 5
const MAX_POINTS = 20_000 // of the second stage: a program may have 1 MiB
const GUEST_SECONDS = 1200

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-soak-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const key = keygen(scratch, 'soak')
const injector = buildInjector(scratch)
const tools = ['workload', 'texthash'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))
let failed = false

const SCRIPT = `
insmod /kerninst.ko || exit 1
workload 1 || exit 2
texthash save /tmp/text || exit 3
workload -t 100000 & load=$!
i=0
while [ $i -lt ${ROUNDS} ]; do
  kerninst-inject apply /bundle || exit 4
  workload 2 || exit 5
  kerninst-inject dump -o /out/dump || exit 6
  kerninst-inject remove || exit 7
  i=$((i + 1))
done
kill $load
wait
texthash diff /tmp/text || exit 8
workload 1 || exit 9
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 10
exit 0
`

interface ReportPoint {
  point: string
  count: string
}

async function stage(target: Kernel, module: string, name: string, programs: readonly string[]): Promise<ReportPoint[]> {
  const bundle = join(scratch, `${target.name}.${name}`)
  const summary = plan(target, programs, key, bundle)
  const result = await runGuest({
    vmlinuz: target.vmlinuz,
    files: [
      { path: 'kerninst.ko', from: module },
      { path: 'bundle', from: bundle },
      ...[injector, ...tools].map((path) => ({ path: `bin/${path.slice(path.lastIndexOf('/') + 1)}`, from: path, executable: true })),
    ],
    script: SCRIPT,
    append: 'preempt=full',
    seconds: GUEST_SECONDS,
  })
  const stops = result.lines.flatMap((line) => /stopped for (\d+) us/.exec(line)?.slice(1).map(Number) ?? [])
  process.stdout.write(`${target.release}  ${name}: ${summary.served} of ${summary.points} points at ${summary.sites} sites, ` +
    `${ROUNDS} rounds, machine stopped for ${Math.max(0, ...stops) / 1000} ms at most: ${result.exit === 0 ? 'good' : `FAILED (${result.exit})`}\n`)
  if (result.exit !== 0) {
    process.stdout.write(result.lines.slice(-12).join('\n') + '\n')
    failed = true
    return []
  }
  const dump = `${bundle}.dump`
  writeFileSync(dump, result.files.get('dump') ?? '')
  const report = JSON.parse(mustKerninst('report', dump, '--bundle', bundle, '--format', 'json')) as { points: ReportPoint[] }
  return report.points
}

/** The starts of all blocks in the bodies of these functions, as points, thinned out evenly to MAX_POINTS. */
async function blocksOf(target: Kernel, functions: ReadonlySet<string>): Promise<string[]> {
  const points: string[] = []
  // One line a function; all of them, since names may be too many for a command line.
  const file = join(scratch, `${target.name}.cfg`)
  must('sh', ['-c', `"${process.execPath}" "${CLI}" cfg "${target.vmlinux}" --format json > "${file}"`])
  // More than a string can hold.
  for await (const line of createInterface({ input: createReadStream(file) })) {
    const name = /^\{"name":"([^"]+)"/.exec(line)?.[1] ?? ''
    if (!functions.has(name)) continue
    const graph = JSON.parse(line) as { start: string, end: string, blocks: { start: string }[] }
    for (const block of graph.blocks) {
      const offset = BigInt(block.start) - BigInt(graph.start)
      if (offset >= 0n && BigInt(block.start) < BigInt(graph.end)) points.push(`insn:${name}+0x${offset.toString(16)}`)
    }
  }
  const step = Math.max(1, points.length / MAX_POINTS)
  return Array.from({ length: Math.floor(points.length / step) }, (_, i) => points[Math.floor(i * step)]!)
}

for (const name of KERNELS) {
  const target = kernel(name)
  const module = buildModule(target, key.cert, scratch)
  const counts = await stage(target, module, 'entries and returns', ['entry:*, return:* { @ = count() }'])
  const ran = counts.filter((each) => each.point.startsWith('entry:') && each.count !== '0')
  const blocks = await blocksOf(target, new Set(ran.map((each) => each.point.slice('entry:'.length))))
  await stage(target, module, `blocks of the ${ran.length} functions that ran`, blocks.map((point) => `${point} { @ = count() }`))
}
process.exitCode = failed ? 1 : 0
