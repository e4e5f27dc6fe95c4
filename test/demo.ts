// `npm run demo`: the whole line once, to be watched. In: the 6.1 cloud kernel that prepare.mjs fetched and the example
// programs. Out: the report on stdout, and as a page; on stderr what is being done and how long it took; in build/demo/ every file
// that was made on the way, fit to be looked at with `kerninst show`, `verify` and `report`.

import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, join, relative } from 'node:path'
import { ROOT, buildInjector, buildModule, kernel, keygen, must, mustKerninst, program } from './guest/artefacts.js'
import { runGuest } from './guest/guest.js'

const PROGRAMS = ['files', 'network', 'processes', 'inside']
const ROUNDS = 20
const GUEST_SECONDS = 300

const folder = join(ROOT, 'build', 'demo')
const coloured = process.stderr.isTTY && !process.env['NO_COLOR']
const dim = (text: string): string => (coloured ? `\x1b[2m${text}\x1b[0m` : text)
const bold = (text: string): string => (coloured ? `\x1b[1m${text}\x1b[0m` : text)
const short = (path: string): string => relative(ROOT, path)

/** Runs one step, with a line on stderr that is completed by the time it took and what came of it. */
async function step<T>(title: string, work: () => T | Promise<T>, outcome: (result: T) => string): Promise<T> {
  process.stderr.write(`${bold(title.padEnd(34))}${process.stderr.isTTY ? '' : ' '}`)
  const started = performance.now()
  const result = await work()
  const seconds = `${((performance.now() - started) / 1000).toFixed(1)} s`
  process.stderr.write(`${dim(seconds.padStart(7))}  ${outcome(result)}\n`)
  return result
}

const SCRIPT = `
insmod /kerninst.ko || exit 1
echo '$ kerninst-inject apply bundle'
kerninst-inject apply /bundle || exit 2
echo '$ kerninst-inject dump -o dump --every 200ms &'
kerninst-inject dump -o /out/dump --every 200ms & series=$!
echo '$ workload ${ROUNDS}'
workload ${ROUNDS} || exit 3
kill $series; wait $series
echo '$ kerninst-inject dump -o dump'
kerninst-inject dump -o /out/dump || exit 4
echo '$ kerninst-inject remove'
kerninst-inject remove || exit 5
`

rmSync(folder, { recursive: true, force: true })
mkdirSync(folder, { recursive: true })
const target = kernel('6.1-cloud')
const bundle = join(folder, 'bundle')
const dump = join(folder, 'dump')

process.stderr.write(`${bold('kerninst')} on ${target.release}, an unmodified Debian kernel\n\n`)
const key = await step('make a signing key', () => keygen(folder, 'demo'), made => short(made.cert))
const injector = await step('build the injector', () => buildInjector(folder), short)
const module = await step('build the module', () => buildModule(target, key.cert, folder), short)
const workload = await step('build a workload', () => program('test/guest/workload.c', folder), short)
await step('plan', () => {
  must(process.execPath, [join(ROOT, 'dist/cli.js'), 'plan', target.vmlinux, '-o', bundle,
    ...PROGRAMS.flatMap(name => ['-p', join(ROOT, 'corpora/programs', `${name}.ki`)]),
    '--key', key.key, '--cert', key.cert])
  return mustKerninst('verify', bundle, '--cert', key.cert)
}, () => `${PROGRAMS.map(name => `${name}.ki`).join(', ')} -> ${short(bundle)}`)

process.stderr.write(`${bold('boot, apply, run, dump, remove')}\n`)
const result = await runGuest({
  vmlinuz: target.vmlinuz,
  files: [
    { path: 'kerninst.ko', from: module },
    { path: 'bundle', from: bundle },
    { path: 'bin/kerninst-inject', from: injector, executable: true },
    { path: 'bin/workload', from: workload, executable: true },
  ],
  script: SCRIPT,
  seconds: GUEST_SECONDS,
  onLine: line => {
    if (line !== '') process.stderr.write(`  ${dim('guest |')} ${line}\n`)
  },
})
writeFileSync(join(folder, 'console.txt'), result.console)
if (result.exit !== 0 || !result.files.has('dump')) throw new Error(`the guest's script ended with ${result.exit}`)
const dumps = [...result.files.keys()].filter(name => /^dump(\.\d+)?$/.test(name)).map(name => join(folder, name))
for (const path of dumps) writeFileSync(path, result.files.get(basename(path))!)
process.stderr.write(`  ${dim(`${result.seconds.toFixed(1)} s in the guest`)}\n`)

const report = join(folder, 'report.txt')
await step('report', () => {
  mustKerninst('report', ...dumps, '--bundle', bundle, '-o', report)
}, () => short(report))
const page = join(folder, 'report.html')
await step('page', () => {
  mustKerninst('report', ...dumps, '--bundle', bundle, '--format', 'html', '--vmlinux', target.vmlinux, '-o', page)
}, () => short(page))
process.stderr.write('\n')
process.stdout.write(readFileSync(report, 'utf8'))
process.stderr.write(`\n${bold('Look further')} (all files are in ${short(folder)}/)\n` +
  `  node dist/cli.js show ${short(bundle)}\n` +
  `  node dist/cli.js report ${short(dump)}* --bundle ${short(bundle)} --format json\n` +
  `\nThe report as a page: ${page}\n`)
