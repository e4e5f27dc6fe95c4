// What an operator does on the target, by the injector alone, in guests: look before applying (check), apply for a time,
// be killed at it, take series of dumps, reset; beside kprobes, under lockdown, as somebody who may not, and with
// bundles that are replayed, of another version, or signed with a key made for modules by somebody else's tool.
// docs/threat-model.md names the tests here.
//
// The outside judges: the kernel's text and complaints; openssl, which makes a key and verifies a signature.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { basename, join } from 'node:path'
import t, { type Test } from 'tap'
import { readBundle, writeBundle } from '../../src/bundle/bundle.js'
import { readCertificateDer, readKey } from '../../src/bundle/keys.js'
import { HEAP, SIZE } from '../../src/bundle/layout.js'
import { readDump } from '../../src/dump/dump.js'
import { EXPECTED_BYTES, SITE_KIND } from '../../src/splice/tables.js'
import { buildInjector, buildModule, kernel, keygen, manifest, must, plan, program, type Key, type Kernel } from './artefacts.js'
import { runGuest, type GuestResult } from './guest.js'

const KERNELS = ['6.1-cloud', '6.12-cloud']
const GUEST_SECONDS = 300
const CHANGED = 30 // sites of a bundle that are not as planned
const POINTS = 'block:vfs_*, entry:do_*, return:do_*, entry:__x64_sys_getpid { @ = count() }'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-check-'))
process.on('exit', () => rmSync(scratch, { recursive: true, force: true }))
const own = keygen(scratch, 'own')
const stranger = keygen(scratch, 'stranger')
const tools = [buildInjector(scratch), ...['request', 'texthash', 'workload'].map((name) => program(`test/guest/${name}.c`, join(scratch, 'bin')))]

/** A key and certificate as the kernel's documentation has them made for modules (Documentation/admin-guide/module-signing.rst). */
const moduleKey = (): Key => {
  const config = join(scratch, 'x509.genkey')
  writeFileSync(config, ['[ req ]', 'default_bits = 3072', 'distinguished_name = name', 'prompt = no', 'string_mask = utf8only',
    'x509_extensions = extensions', '[ name ]', 'O = Example', 'CN = Module signing key', '[ extensions ]',
    'basicConstraints = critical,CA:FALSE', 'keyUsage = digitalSignature', 'subjectKeyIdentifier = hash',
    'authorityKeyIdentifier = keyid', ''].join('\n'))
  const key = join(scratch, 'module.pem')
  const pem = join(scratch, 'module.crt.pem')
  const cert = join(scratch, 'module.crt')
  must('openssl', ['req', '-new', '-nodes', '-utf8', '-sha256', '-days', '36500', '-batch', '-x509', '-config', config, '-out', pem, '-keyout', key])
  must('openssl', ['x509', '-in', pem, '-outform', 'DER', '-out', cert])
  return { key, cert }
}

const SHELL = `
K=kerninst-inject
fail() { { echo "failed: $*"; tail -n 5 /tmp/said; dmesg | tail -n 3; } >&2; exit 1; }
try() { "$@" > /tmp/said 2>&1 || fail "$*"; }
refused() { want=$1; shift; "$@" > /tmp/said 2>&1; code=$?; [ $code = $want ] || fail "$* ended with $code, not $want"; }
keep() { name=$1; shift; "$@" > /out/$name 2>/tmp/said; echo "code $name $?"; }
state() { $K status | sed -n 's/^state //p'; }
is() { [ "$(state)" = "$1" ] || fail "the state is $(state), not $1"; }
same() { try texthash diff /tmp/text; }
mount -t securityfs none /sys/kernel/security
dmesg -c > /dev/null
`

const LOOK = `
keep absent $K check --json /bundle
try insmod /kerninst.ko
workload 1 || exit 1
texthash save /tmp/text || exit 1
keep fits $K check --json --max-stop-ms 5000 /bundle
keep text $K check /bundle
keep other $K check --json /other
keep stranger $K check --json /stranger
keep unsigned $K check --json /unsigned
keep changed $K check --json /changed
keep changed-text $K check /changed
refused 76 $K apply /changed
echo vfs_read > /sys/kernel/tracing/set_ftrace_filter
echo function > /sys/kernel/tracing/current_tracer || fail ftrace
keep traced $K check --json /bundle
echo nop > /sys/kernel/tracing/current_tracer
R='request /payload /signature'
for request in check:1 apply:1; do refused 1 $R $request; grep -q 'errno 62 reason 16' /tmp/said || fail "$request: no stop takes a nanosecond"; done
same
kprobe=/sys/kernel/tracing/kprobe_events
echo "p:kp $(cat /site)" > $kprobe || fail kprobe
keep registered $K check --json /bundle
refused 77 $K apply /bundle
echo 1 > /sys/kernel/tracing/events/kprobes/enable
keep enabled $K check --json /bundle
refused 77 $K apply /bundle
echo 0 > /sys/kernel/tracing/events/kprobes/enable
echo > $kprobe
try $K apply /bundle
keep busy $K check --json /bundle
echo "p:kp $(cat /site)" > $kprobe || fail kprobe
refused 77 $K remove
is 'partly removed'
echo > $kprobe
try $K remove
same
`

const RUN = `
is removed
try $K apply --max-stop-ms 5000 --for 3s --every 1s -o /tmp/timed /bundle
is removed; same
[ -s /tmp/timed -a -s /tmp/timed.0001 -a -s /tmp/timed.0002 ] || fail 'the series'
cp /tmp/timed /tmp/timed.0001 /tmp/timed.0002 /out/
$K apply --for 1h -o /tmp/ended /bundle > /tmp/said 2>&1 & job=$!
sleep 1; is applied; $K status --json > /out/status
kill -TERM $job; wait $job || fail 'a run that was ended'
is removed; same; [ -s /tmp/ended ] || fail 'its dump'
$K apply --for 1h -o /tmp/killed /bundle > /tmp/said 2>&1 & job=$!
sleep 1; is applied
kill -KILL $job; wait $job
i=0; while [ "$(state)" != removed ]; do i=$((i + 1)); [ $i -lt 100 ] || fail 'killed, and not removed'; sleep 0.1; done
same
# Ignored from the start, by a shell for a job in the background (SIGINT) and by nohup.
(trap '' HUP; exec $K apply --for 6s -o /tmp/hung-up /bundle > /tmp/said 2>&1) & job=$!
sleep 1; is applied; kill -HUP $job; kill -INT $job; sleep 0.5; is applied
wait $job || fail 'a run that was hung up'
is removed; same; [ -s /tmp/hung-up ] || fail 'its dump'
mkdir /small; mount -t tmpfs -o size=8k none /small
$K apply --for 5s --every 500ms -o /small/full /bundle > /tmp/said 2>&1 & job=$!
sleep 1.2; is applied; wait $job; [ $? = 74 ] || fail 'a full disk'
is removed; same; [ -z "$(ls /small)" ] || fail 'half a dump'
try $K dump -o /tmp/saved
try $K apply /bundle
workload 1 || exit 1
try $K dump -o /out/before
try $K reset
try $K dump -o /out/after
$K status > /out/status-text
try $K dump --every 1h --count 1 -o /tmp/one
try $K dump --every 100ms --count 3 -o /tmp/series
[ "$(echo /tmp/series*)" = '/tmp/series.0001 /tmp/series.0002 /tmp/series.0003' ] || fail "series: $(echo /tmp/series*)"
try $K remove --max-stop-ms 5000
same
try $K apply /bundle # replayed
try $K remove
refused 2 $R nobody open
chmod 666 /dev/kerninst
refused 2 $R nobody open
refused 2 $R drop open
chmod 600 /dev/kerninst
for request in check apply remove reset snapshot; do refused 1 $R open drop $request; grep -q 'errno 1 ' /tmp/said || fail "$request without the capability"; done
try $R open drop status
is removed
refused 64 $K applaud; refused 64 $K apply; refused 64 $K apply --for 1x -o /tmp/x /bundle; refused 64 $K apply --every 1s /bundle
refused 64 $K dump; refused 64 $K dump -o; refused 64 $K remove /bundle; refused 64 $K dump --count 3 -o /tmp/x; refused 64 $K check --for 1s /bundle
refused 64 $K dump -o --every 1s; refused 64 $K dump -o /tmp/x -o /tmp/y; refused 64 $K remove --max-stop-ms=5
refused 65 $K apply /version
refused 66 $K check /missing
echo integrity > /sys/kernel/security/lockdown || fail lockdown
keep locked $K check --json /bundle
try $K apply /bundle
try $K remove
same
try rmmod kerninst
refused 1 insmod /kerninst.ko
keep locked-out $K check --json /bundle
dmesg | grep -E 'WARNING:|BUG:|Oops:|stall|lockup|general protection|Call Trace:' && exit 2
exit 0
`

interface Checked {
  readonly schema: string
  readonly fits: boolean
  readonly exit: number
  readonly checks: readonly { readonly check: string; readonly verdict: string; readonly text: string }[]
  readonly sites: number
  readonly kernel: { readonly release: string; readonly buildId: string; readonly plannedFor: string }
  readonly signature: { readonly issuer: string | null; readonly trustedBy: string }
  readonly misfitCount: number
  readonly misfits: readonly {
    readonly symbol: string; readonly reason: string; readonly expected: string; readonly found: string; readonly why: string
  }[]
}

const sum = (bytes: Buffer): bigint => {
  const dump = readDump(bytes)
  let total = 0n
  for (let cpu = 0; cpu < dump.cpuCount; cpu++) for (let slot = 0; slot < dump.slotCount; slot++) total += dump.count(cpu, slot)
  return total
}

/** Every list: what it must say, and with which exit code it must end. */
const judgeChecks = (t: Test, result: GuestResult, site: string): void => {
  const codes = new Map(result.lines.flatMap((line) => {
    const found = /^code (\S+) (\d+)$/.exec(line)
    return found ? [[found[1]!, Number(found[2])] as const] : []
  }))
  const expect = (name: string, exit: number, row: string, verdict: string, text: RegExp): Checked => {
    const checked = JSON.parse(result.files.get(name)?.toString('utf8') ?? '{}') as Checked
    t.equal(checked.schema, 'kerninst.check/1', name)
    t.same([codes.get(name), checked.exit, checked.fits], [exit, exit, exit === 0], `${name} ends with ${exit}`)
    const found = checked.checks.find(({ check }) => check === row)
    t.equal(found?.verdict, verdict, `${name}: ${row} is ${verdict}`)
    t.match(found?.text ?? '', text, `${name}: ${row}`)
    return checked
  }
  expect('absent', 76, 'module', 'refuses', /load kerninst\.ko/)
  const fits = expect('fits', 0, 'sites', 'ok', /can be spliced/)
  t.same([fits.misfits, fits.misfitCount], [[], 0])
  t.equal(fits.kernel.buildId, fits.kernel.plannedFor)
  t.equal(fits.signature.trustedBy, 'module')
  expect('fits', 0, 'signature', 'ok', /by "(kerninst own|Module signing key)".*by kerninst\.ko itself/)
  expect('fits', 0, 'preemption', 'ok', /^full$/)
  expect('fits', 0, 'lockdown', 'ok', /^none$/)
  expect('fits', 0, 'memory', 'ok', /kB/)
  expect('fits', 0, 'stop limit', 'ok', /holds/)
  expect('other', 76, 'kernel', 'refuses', /has build id .* for/)
  expect('stranger', 77, 'key', 'refuses', /does not trust/)
  expect('unsigned', 77, 'signature', 'refuses', /none/)
  const { misfits, misfitCount } = expect('changed', 76, 'sites', 'refuses', new RegExp(`^${CHANGED} of \\d+ cannot be spliced$`))
  t.same([misfits.length, misfitCount], [CHANGED, CHANGED], 'all sites that do not suit are listed')
  for (const { symbol, reason, expected, found, why } of misfits) {
    t.ok(/^\S+\+0x[0-9a-f]+$/.test(symbol) && reason === 'site-bytes' && expected !== found && why !== '', `${symbol}: ${why}`)
  }
  const shown = result.files.get('changed-text')?.toString('utf8') ?? ''
  t.equal([...shown.matchAll(/^ {2}0x[0-9a-f]+ \S+\+0x[0-9a-f]+, link-time 0x[0-9a-f]+\n {4}expected {2}.*\n {4}found {5}.*\n {4}\w/gm)].length, 20)
  t.match(shown, new RegExp(`^ {2}and ${CHANGED - 20} more; check --json lists them$`, 'm'))
  expect('traced', 0, 'others', 'ok', /traced functions 1,/)
  for (const [name, why] of [['registered', /disabled kprobe/], ['enabled', /an? (optimized )?kprobe/]] as const) {
    const { misfits } = expect(name, 77, 'sites', 'refuses', /cannot be spliced/)
    t.ok(misfits.length > 0 && misfits.every(({ reason }) => reason === 'kprobe'), `${name}: ${misfits.length} sites in its reach`)
    t.match(misfits.find(({ symbol }) => symbol === site)?.why ?? '', why, `${name}: ${site}`)
  }
  expect('busy', 77, 'applied', 'refuses', /already/)
  expect('locked', 0, 'lockdown', 'note', /^integrity$/)
  expect('locked-out', 76, 'module signatures', 'note', /^enforced by the lockdown/)
  t.match(result.files.get('text')?.toString('utf8') ?? '', /^sites +ok +\d+ can be spliced$[^]*^The bundle can be applied here\.$/m)
}

const judgeDumps = (t: Test, result: GuestResult): void => {
  const file = (name: string): Buffer => result.files.get(name) ?? Buffer.alloc(0)
  const status = JSON.parse(file('status').toString('utf8')) as { schema: string; state: string; tied: boolean; hits: string }
  t.match(status, { schema: 'kerninst.status/1', state: 'applied', tied: true })
  t.ok(BigInt(status.hits) > 0n)
  for (const line of ['state applied', 'resets 1', 'tied no', String.raw`hits \d+`, String.raw`memory-bytes \d+`, String.raw`counted-seconds \d+\.\d{3}`]) {
    t.match(file('status-text').toString('utf8'), new RegExp(`^${line}$`, 'm'))
  }
  const [one, two, last] = ['timed.0001', 'timed.0002', 'timed'].map((name) => sum(file(name)))
  t.ok(one! > 0n && two! >= one! && last! >= two!, `a series grows: ${one}, ${two}, ${last}`)
  t.equal(readDump(file('timed')).state, 'removed')
  const before = sum(file('before'))
  const after = sum(file('after'))
  t.ok(after < before / 4n, `reset: ${before} before, ${after} after`)
  const dump = readDump(file('after'))
  t.ok(dump.resets === 1 && dump.resetNs > dump.appliedNs && dump.snapshotNs > dump.resetNs, 'a dump tells of the reset')
  t.equal(file('after').readBigUInt64LE(SIZE.dump + HEAP.slide), 0n, 'a dump does not tell where the kernel lies')
  t.equal(file('after').readBigUInt64LE(SIZE.dump + HEAP.directoryPfn), 0n, 'nor where its counters do')
}

/** The same bundle, but that some sites' last byte is another one: text that is not what was planned for. */
const changed = (bundle: string, { key, cert }: Key): Uint8Array => {
  const { manifest, decoded: { target, tables } } = readBundle(readFileSync(bundle))
  let left = CHANGED
  for (let site = 0; site < tables.siteCount && left > 0; site++) {
    if (tables.siteKind[site] !== SITE_KIND.jmp || [tables.siteFlags, tables.siteFormClass, tables.siteRelocKind].some((of) => of[site] !== 0)) continue
    tables.siteExpected[EXPECTED_BYTES * site + tables.siteLength[site]! - 1]! ^= 0x40
    left--
  }
  return writeBundle({ manifest, target, tables, key: readKey(key), cert: readCertificateDer(cert) })
}

const prepare = (target: Kernel, key: Key): { bundle: string; site: string } => {
  const bundle = join(scratch, `${target.name}.bundle`)
  plan(target, [POINTS], key, bundle)
  const site = manifest(bundle).sites.find((one) => one.tactic === 'jump-over' && /^vfs_(read|write)\+/.test(one.at))
  if (site === undefined) throw new Error('no site for a kprobe')
  return { bundle, site: site.at }
}

for (const [turn, name] of KERNELS.entries()) {
  t.test(name, { timeout: 0 }, async (t) => {
    const target = kernel(name)
    // The second kernel has a key that no tool of ours made.
    const key = turn === 0 ? own : moduleKey()
    const { bundle, site } = prepare(target, key)
    const { payload, signature } = readBundle(readFileSync(bundle))
    if (turn === 1) {
      const [pay, sig, cert] = ['payload', 'cms', 'module.crt.pem'].map((one) => join(scratch, one))
      writeFileSync(pay!, payload)
      writeFileSync(sig!, signature)
      must('openssl', ['cms', '-verify', '-binary', '-inform', 'DER', '-in', sig!, '-content', pay!, '-certfile', cert!, '-nointern', '-CAfile', cert!,
        '-purpose', 'any', '-out', '/dev/null'])
      t.pass('openssl verifies the signature')
    }
    const planned = (which: string, points: string, signer: Key, of = target): string => {
      const path = join(scratch, `${name}.${which}`)
      plan(of, [points], signer, path)
      return path
    }
    const version = Buffer.from(readFileSync(bundle))
    version[version.indexOf('version') + 7]! -= 1
    const unsigned = join(scratch, `${name}.unsigned`)
    must(process.execPath, ['dist/cli.js', 'plan', target.vmlinux, '-o', unsigned, '-e', 'entry:vfs_read { @ = count() }'])
    const result = await runGuest({
      vmlinuz: target.vmlinuz,
      files: [
        { path: 'kerninst.ko', from: buildModule(target, key.cert, scratch) },
        { path: 'bundle', from: bundle },
        { path: 'payload', from: payload },
        { path: 'signature', from: signature },
        { path: 'site', from: Buffer.from(site) },
        { path: 'other', from: planned('other', 'entry:vfs_read { @ = count() }', key, kernel(KERNELS[1 - turn]!)) },
        { path: 'stranger', from: planned('stranger', 'entry:vfs_read { @ = count() }', stranger) },
        { path: 'unsigned', from: unsigned },
        { path: 'version', from: version },
        { path: 'changed', from: changed(bundle, key) },
        ...tools.map((path) => ({ path: `bin/${basename(path)}`, from: path, executable: true })),
      ],
      script: SHELL + LOOK + RUN,
      append: 'preempt=full softlockup_panic=1 watchdog_thresh=60',
      seconds: GUEST_SECONDS,
    })
    t.equal(result.exit, 0, result.lines.slice(-8).join(' | '))
    if (result.exit !== 0) return
    t.comment(`${Math.round(result.seconds)} s`)
    judgeChecks(t, result, site)
    judgeDumps(t, result)
  })
}
