#!/usr/bin/env node
// In: what is to be run (demo, test, bench, coverage or soak) and the recipes in corpora/kernels. Out: every tool that it
// needs is installed, and every kernel that it needs lies complete in the cache, described by its got.json:
//   { recipe, release, vmlinux, vmlinuz, kdir, packages: [{ name, version, bytes, sha256 }] }   paths beside got.json
// A kernel that is planned for from its vmlinuz is had in part: NAME.boot instead of NAME, without vmlinux, a tenth of
// what is to be fetched. A whole kernel serves for that too.
// A recipe has name, description, release (a pattern of uname -r) and packages: the names by role, in which {release}
// is the whole release and {abi} the part that all flavours share. linux-compiler-gcc-12-x86 is not among them: it
// holds nothing but a dependency on gcc-12.
// Invariant: a kernel's folder exists only when it is complete (it is filled under another name, then renamed), and
// nothing is skipped in silence: what cannot be had ends the run with the command that would get it.
// Left out: building anything. Plain Node without dependencies, since it runs before them; Debian's own apt does the
// fetching, with a private state, so that fetching and unpacking need no root and see the mirror's current lists.

import { spawnSync } from 'node:child_process'
import { createHash } from 'node:crypto'
import {
  closeSync, createReadStream, existsSync, mkdirSync, openSync, readFileSync, readSync, readdirSync, realpathSync,
  renameSync, rmSync, statSync, writeFileSync,
} from 'node:fs'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'

const HERE = dirname(fileURLToPath(import.meta.url))
const CACHE = process.env.KERNINST_CACHE ??
  join(process.env.XDG_CACHE_HOME ?? join(homedir(), '.cache'), 'kerninst')

/** What each purpose needs whole, and what with its vmlinuz alone. */
const KERNELS = {
  demo: { whole: ['6.1-cloud'] },
  test: { whole: ['6.1-cloud', '6.12-cloud'], boot: ['6.1-rt', '6.1-generic', '6.12-generic'] },
  bench: { whole: ['6.1-cloud', '6.12-cloud'] },
  coverage: { whole: ['6.1-cloud', '6.12-cloud', '6.1-rt'] },
  soak: { whole: ['6.1-cloud', '6.12-cloud'], boot: ['6.1-rt', '6.1-generic', '6.12-generic'] },
}

/** What is fetched of a kernel: part -> roles of packages, and what its folder must hold, by got.json's names. */
const PARTS = {
  whole: { suffix: '', roles: ['image', 'debug', 'headers', 'common', 'kbuild'], holds: ['vmlinux', 'vmlinuz', 'kdir'] },
  boot: { suffix: '.boot', roles: ['image', 'headers', 'common', 'kbuild'], holds: ['vmlinuz', 'kdir'] },
}

const EXIT_USAGE = 64
const EXIT_UNAVAILABLE = 69
const EXIT_IO = 74

class Failure extends Error {
  constructor(exit, message) {
    super(message)
    this.exit = exit
  }
}

const say = line => process.stderr.write(`prepare: ${line}\n`)
const megabytes = bytes => `${(bytes / 1e6).toFixed(1)} MB`

/** Runs a command and returns its stdout; what it says goes to our stderr. */
function capture(command, args) {
  const run = spawnSync(command, args, {
    stdio: ['ignore', 'pipe', 'inherit'], encoding: 'utf8', maxBuffer: 1 << 28, env: { ...process.env, LC_ALL: 'C' },
  })
  if (run.error) throw new Failure(EXIT_UNAVAILABLE, `${command} cannot be run (${run.error.message})`)
  return { status: run.status, stdout: run.stdout }
}

/** Runs a command that the user watches: all of its output goes to stderr. */
function watched(command, args, options = {}) {
  const run = spawnSync(command, args, {
    stdio: ['ignore', 2, 2], ...options, env: { ...process.env, LC_ALL: 'C', DEBIAN_FRONTEND: 'noninteractive' },
  })
  if (run.error) throw new Failure(EXIT_UNAVAILABLE, `${command} cannot be run (${run.error.message})`)
  return run.status === 0
}

// ---- tools ----------------------------------------------------------------------------------------------------------

const onPath = name => (process.env.PATH ?? '').split(':').concat('/usr/sbin', '/sbin')
  .map(folder => join(folder, name)).find(path => existsSync(path))

/** Whether a 64-bit ELF file has no PT_INTERP: it runs in an initramfs that holds nothing else. */
function isStatic(path) {
  const file = openSync(path, 'r')
  try {
    const head = Buffer.alloc(4096)
    const got = readSync(file, head, 0, head.length, 0)
    if (got < 64 || head.readUInt32BE(0) !== 0x7f454c46) return false
    const offset = Number(head.readBigUInt64LE(32))
    const size = head.readUInt16LE(54)
    const count = head.readUInt16LE(56)
    for (let i = 0; i < count; i++) {
      const at = offset + i * size
      if (at + 4 > got) return false
      if (head.readUInt32LE(at) === 3) return false
    }
    return true
  } finally {
    closeSync(file)
  }
}

const LIBRARIES = ['/usr/lib/x86_64-linux-gnu', '/lib/x86_64-linux-gnu']
const inLibraries = name => LIBRARIES.some(folder => existsSync(join(folder, name)))

/**
 * The least version of QEMU. Processors of 7.2 run stale code where the kernel rewrites its own text: switching the
 * function tracer on and off under load, on a stock 6.1 kernel with two processors, hung or crashed three guests of
 * three within a few switches. With 10.0 that is rare (test/guest/guest.ts).
 */
const QEMU_MAJOR = 10

/** The major version of the QEMU on the path, or 0. */
function qemuMajor() {
  const path = onPath('qemu-system-x86_64')
  if (!path) return 0
  return Number(/version (\d+)\./.exec(capture(path, ['--version']).stdout)?.[1] ?? 0)
}

/** clang's libraries are in a folder of its version. */
const inClang = name => {
  const clang = onPath('clang')
  if (!clang) return false
  const folder = join(dirname(realpathSync(clang)), '../lib/clang')
  return existsSync(folder) && readdirSync(folder).some(version => existsSync(join(folder, version, 'lib/linux', name)))
}

/**
 * Package -> whether what is needed of it is here; whether Debian 12 has it only in its backports; the purposes that
 * alone need it.
 */
const TOOLS = [
  ['gcc-12', () => onPath('gcc-12')], // what both kernels were built with
  ['gcc', () => onPath('gcc') && onPath('cc')],
  ['libc6-dev', () => inLibraries('libc.a')],
  ['make', () => onPath('make')],
  ['binutils', () => onPath('ld') && onPath('objdump') && onPath('readelf') && onPath('objcopy')],
  ['libelf1', () => inLibraries('libelf.so.1')], // the kernel's objtool is linked with it
  ['openssl', () => onPath('openssl')],
  ['lz4', () => onPath('lz4')], // these four judge how a vmlinuz is unpacked
  ['zstd', () => onPath('zstd')],
  ['xz-utils', () => onPath('xz')],
  ['bzip2', () => onPath('bzip2')],
  ['qemu-system-x86', () => qemuMajor() >= QEMU_MAJOR, { suite: 'backports' }],
  ['busybox-static', () => onPath('busybox') && isStatic(onPath('busybox'))],
  ['bpftrace', () => onPath('bpftrace'), { purposes: ['test', 'bench'] }], // runs in guests, with its libraries
  ['chromium', () => onPath('chromium'), { purposes: ['test'] }], // opens the report's page
  ['graphviz', () => onPath('dot'), { purposes: ['test'] }],
  ['lcov', () => onPath('genhtml'), { purposes: ['test'] }],
  ['cmark-gfm', () => onPath('cmark-gfm'), { purposes: ['test'] }], // these two judge Markdown and CSV
  ['sqlite3', () => onPath('sqlite3'), { purposes: ['test'] }],
  ['golang-go', () => onPath('go'), { purposes: ['test'] }], // its pprof reads the report's profile
  ['sparse', () => onPath('sparse'), { purposes: ['test'] }],
  ['clang', () => onPath('clang'), { purposes: ['test'] }], // libFuzzer is a part of it
  ['libclang-rt-14-dev', () => inClang('libclang_rt.fuzzer-x86_64.a') && inClang('libclang_rt.asan-x86_64.a'), { purposes: ['test'] }],
  ['llvm', () => onPath('llvm-symbolizer') && onPath('llvm-profdata'), { purposes: ['test'] }], // names in what a sanitizer reports; judges of source lines and profiles
]

/** The options with which apt also sees the backports of Debian 12, and prefers them; none on another system. */
function backports() {
  const codename = /^VERSION_CODENAME=(.*)$/m.exec(readFileSync('/etc/os-release', 'utf8'))?.[1]
  if (codename !== 'bookworm') return []
  const targets = capture('apt-get', ['indextargets', '--format', '$(CODENAME) $(COMPONENT) $(REPO_URI)']).stdout
  const mirror = /^bookworm main (\S+)$/m.exec(targets)?.[1]
  if (!mirror) throw new Failure(EXIT_UNAVAILABLE, 'apt has no source of bookworm main, so that of its backports is not known')
  // A list of its own beside the machine's, which stay as they are.
  const lists = join(CACHE, 'apt', 'backports')
  mkdirSync(join(lists, 'partial'), { recursive: true })
  const list = join(CACHE, 'apt', 'backports.list')
  const had = existsSync('/etc/apt/sources.list') ? readFileSync('/etc/apt/sources.list', 'utf8') : ''
  writeFileSync(list, `${had}\ndeb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror} bookworm-backports main\n`)
  return [
    '-o', `Dir::Etc::sourcelist=${list}`, '-o', `Dir::State::lists=${lists}`,
    '-o', 'APT::Sandbox::User=root', '-t', 'bookworm-backports',
  ]
}

function installTools(names, options) {
  if (names.length === 0) return
  const install = ['install', '-y', '--no-install-recommends', ...names]
  say(`tools: installing ${names.join(' ')}`)
  // A fresh machine's lists are empty or name files that the mirror has dropped: refresh them first.
  if (!watched('apt-get', [...options, 'update'])) say('tools: apt-get update failed; going on with the lists that are here')
  if (!watched('apt-get', [...options, ...install])) {
    throw new Failure(EXIT_UNAVAILABLE, `cannot install ${names.join(' ')}; see above`)
  }
}

function prepareTools(purpose) {
  const needed = TOOLS.filter(([, , { purposes } = {}]) => purposes === undefined || purposes.includes(purpose))
  const missing = needed.filter(([, present]) => !present())
  if (missing.length === 0) return say(`tools: all ${needed.length} are here`)
  const names = missing.map(([name]) => name).join(' ')
  if (!onPath('apt-get')) {
    throw new Failure(EXIT_UNAVAILABLE, `missing: ${names}, and there is no apt-get here; Debian 12 has them` +
      ` (QEMU ${QEMU_MAJOR} or newer, from bookworm-backports)`)
  }
  if (process.getuid?.() !== 0) {
    throw new Failure(EXIT_UNAVAILABLE, `missing tools: ${names} (QEMU must be ${QEMU_MAJOR} or newer); ` +
      `run this once as root: node ${process.argv.slice(1).join(' ')}`)
  }
  installTools(missing.filter(([, , { suite } = {}]) => !suite).map(([name]) => name), [])
  const backported = missing.filter(([, , { suite } = {}]) => suite).map(([name]) => name)
  if (backported.length > 0) installTools(backported, backports())
  const still = needed.filter(([, present]) => !present()).map(([name]) => name)
  if (still.length > 0) {
    throw new Failure(EXIT_UNAVAILABLE, `installed, but still not found: ${still.join(' ')}` +
      (still.includes('qemu-system-x86') ? ` (QEMU ${QEMU_MAJOR} or newer is needed, here is ${qemuMajor() || 'none'})` : ''))
  }
}

// ---- kernels --------------------------------------------------------------------------------------------------------

const aptOptions = [
  `Dir::State=${CACHE}/apt/state`,
  `Dir::State::lists=${CACHE}/apt/lists`,
  'Dir::State::status=/var/lib/dpkg/status',
  `Dir::Cache=${CACHE}/apt/cache`,
  'APT::Sandbox::User=root', // the sandbox user cannot reach a home folder
  'Acquire::Languages=none',
  'Acquire::Retries=3',
].flatMap(option => ['-o', option])

let listsRefreshed = false

function refreshLists() {
  if (listsRefreshed) return
  for (const folder of ['state', 'lists/partial', 'cache/archives/partial']) {
    mkdirSync(join(CACHE, 'apt', folder), { recursive: true })
  }
  say('kernels: reading the package lists')
  if (!watched('apt-get', [...aptOptions, '-q', 'update'])) {
    say('kernels: apt-get update failed for some source; going on with the lists that were read')
  }
  listsRefreshed = true
}

/** Orders releases as people do: 6.12.97 before 6.12.117. */
function compareReleases(a, b) {
  const split = text => text.match(/\d+|\D+/g) ?? []
  const [left, right] = [split(a), split(b)]
  for (let i = 0; i < Math.min(left.length, right.length); i++) {
    const order = /^\d/.test(left[i]) && /^\d/.test(right[i])
      ? Number(left[i]) - Number(right[i])
      : left[i] < right[i] ? -1 : left[i] > right[i] ? 1 : 0
    if (order !== 0) return order
  }
  return left.length - right.length
}

/** Package -> where apt would fetch it, in the order asked for; undefined when one of them is not to be had. */
function locate(packages) {
  const run = capture('apt-get', [...aptOptions, 'download', '--print-uris', ...packages])
  if (run.status !== 0) return undefined
  const found = new Map()
  for (const line of run.stdout.split('\n')) {
    const parts = /^'([^']+)' (\S+) (\d+) SHA256:([0-9a-f]{64})$/.exec(line.trim())
    if (!parts) continue
    const [name, version] = parts[2].split('_').map(decodeURIComponent)
    found.set(name, { name, version, file: parts[2], bytes: Number(parts[3]), sha256: parts[4] })
  }
  const all = packages.map(name => found.get(name))
  return all.every(one => one !== undefined) ? all : undefined
}

/** The newest release of which the mirror holds all of these roles, all of one build. */
function choose(recipe, roles) {
  const pattern = new RegExp(`^linux-image-(${recipe.release})$`)
  const releases = capture('apt-cache', [...aptOptions, 'pkgnames', 'linux-image-']).stdout.split('\n')
    .flatMap(name => pattern.exec(name)?.[1] ?? []).sort(compareReleases).reverse()
  for (const release of releases) {
    const abi = release.replace(/-(cloud|rt)?-?amd64$/, '')
    const name = role => recipe.packages[role].replace('{release}', release).replace('{abi}', abi)
    const packages = locate(roles.map(name))
    if (!packages) {
      say(`${recipe.name}: ${release} is not whole on the mirror; looking at an older one`)
      continue
    }
    const byRole = Object.fromEntries(roles.map((role, i) => [role, packages[i]]))
    // The others are named by a version, or serve every build.
    const builds = ['image', 'debug', 'headers'].flatMap(role => byRole[role]?.version ?? [])
    if (new Set(builds).size > 1) {
      say(`${recipe.name}: ${release} has packages of different builds on the mirror; looking at an older one`)
      continue
    }
    return { release, byRole }
  }
  throw new Failure(EXIT_UNAVAILABLE, `${recipe.name}: apt knows no whole kernel like ${recipe.release}; ` +
    'the sources of Debian 12 (bookworm and bookworm-security, amd64) must be among those of this machine')
}

async function sha256(path) {
  const hash = createHash('sha256')
  for await (const chunk of createReadStream(path, { highWaterMark: 1 << 22 })) hash.update(chunk)
  return hash.digest('hex')
}

/** The .deb file: one kept in the cache's deb/ folder if its sum is right, else fetched into `folder`. */
async function fetchPackage(found, folder) {
  const kept = join(CACHE, 'deb', found.file)
  for (const path of [kept, join(CACHE, 'deb', decodeURIComponent(found.file))]) {
    if (existsSync(path) && statSync(path).size === found.bytes && await sha256(path) === found.sha256) return path
  }
  say(`fetching ${found.file} (${megabytes(found.bytes)})`)
  if (!watched('apt-get', [...aptOptions, 'download', `${found.name}=${found.version}`], { cwd: folder })) {
    throw new Failure(EXIT_UNAVAILABLE, `cannot fetch ${found.name} ${found.version}; is the network up?`)
  }
  const name = readdirSync(folder).find(file => file.startsWith(`${found.name}_`) && file.endsWith('.deb'))
  if (!name) throw new Failure(EXIT_IO, `apt-get left no file for ${found.name} in ${folder}`)
  const sum = await sha256(join(folder, name))
  if (sum !== found.sha256) throw new Failure(EXIT_IO, `${name}: SHA-256 is ${sum}, the archive says ${found.sha256}`)
  return join(folder, name)
}

/** Unpacks the members that match, and nothing else: a debug package holds gigabytes of modules. */
function unpack(deb, folder, patterns) {
  const script = 'dpkg-deb --fsys-tarfile "$1" | tar -x -C "$2" --no-same-owner --wildcards "${@:3}"'
  if (!watched('bash', ['-o', 'pipefail', '-c', script, 'unpack', deb, folder, ...patterns])) {
    throw new Failure(EXIT_IO, `cannot unpack ${deb}; is the disk full?`)
  }
}

/** What the folder of a complete part of a kernel holds, or undefined. */
function present(folder, { holds }) {
  const path = join(folder, 'got.json')
  if (!existsSync(path)) return undefined
  const got = JSON.parse(readFileSync(path, 'utf8'))
  return holds.every(key => existsSync(join(folder, got[key]))) ? got : undefined
}

/** vmlinuz and config from the packages in `debs`, and vmlinux, if there is the package of that. */
function unpackImage(debs, filling, release) {
  unpack(debs.image, filling, [`./boot/vmlinuz-${release}`, `./boot/config-${release}`])
  renameSync(join(filling, 'boot', `vmlinuz-${release}`), join(filling, 'vmlinuz'))
  renameSync(join(filling, 'boot', `config-${release}`), join(filling, 'config'))
  if (!debs.debug) return
  unpack(debs.debug, filling, [`./usr/lib/debug/boot/vmlinux-${release}`])
  renameSync(join(filling, 'usr/lib/debug/boot', `vmlinux-${release}`), join(filling, 'vmlinux'))
}

/** The folder that modules are built with, from the packages in `debs`. Returns its path in `filling`. */
function unpackBuild(debs, filling, release) {
  const build = join(filling, 'build')
  mkdirSync(build)
  for (const role of ['headers', 'common', 'kbuild']) {
    unpack(debs[role], build, role === 'kbuild' ? ['./usr/lib/linux-kbuild-*'] : ['./usr/src/linux-headers-*'])
  }
  const kdir = join('build/usr/src', `linux-headers-${release}`)
  // Newer header packages hold a vmlinux with nothing but BTF in it; with it, building a module would need pahole.
  rmSync(join(filling, kdir, 'vmlinux'), { force: true })
  const makefile = join(filling, kdir, 'Makefile')
  const text = readFileSync(makefile, 'utf8')
  // Debian's Makefile includes the common one by its installed path; beside it is where both were unpacked.
  const moved = text.replaceAll('/usr/src/', '$(dir $(lastword $(MAKEFILE_LIST)))../')
  if (moved === text) throw new Failure(EXIT_IO, `${makefile} is not what it was in other Debian kernels: ${text}`)
  writeFileSync(makefile, moved)
  return kdir
}

async function prepareKernel(name, part, update) {
  const recipe = JSON.parse(readFileSync(join(HERE, 'kernels', `${name}.json`), 'utf8'))
  const whole = join(CACHE, 'kernels', name)
  // What is whole is asked for first: then nothing else is needed, nor brought up to date.
  if (present(whole, PARTS.whole)) part = 'whole'
  const { suffix, roles } = PARTS[part]
  const folder = whole + suffix
  const had = present(folder, PARTS[part])
  if (had && !update) return say(`${name}: ${had.release} is in ${folder}`)

  refreshLists()
  const { release, byRole } = choose(recipe, roles)
  if (had?.release === release) return say(`${name}: ${release} is still the newest`)
  const total = Object.values(byRole).reduce((sum, one) => sum + one.bytes, 0)
  say(`${name}: ${release}, ${Object.keys(byRole).length} packages, ${megabytes(total)} packed`)

  const filling = `${folder}.filling-${process.pid}`
  try {
    mkdirSync(join(filling, 'deb'), { recursive: true })
    const debs = {}
    for (const [role, found] of Object.entries(byRole)) debs[role] = await fetchPackage(found, join(filling, 'deb'))

    say(`${name}: unpacking`)
    unpackImage(debs, filling, release)
    const kdir = unpackBuild(debs, filling, release)
    for (const left of ['deb', 'boot', 'usr']) rmSync(join(filling, left), { recursive: true, force: true })
    const got = {
      recipe: name, release, ...(part === 'whole' ? { vmlinux: 'vmlinux' } : {}), vmlinuz: 'vmlinuz', kdir,
      packages: Object.values(byRole).map(({ name, version, bytes, sha256 }) => ({ name, version, bytes, sha256 })),
    }
    writeFileSync(join(filling, 'got.json'), JSON.stringify(got, null, 2) + '\n')
    // Another run may have finished the same kernel meanwhile; then its folder stays.
    if (update || !present(folder, PARTS[part])) {
      rmSync(folder, { recursive: true, force: true })
      renameSync(filling, folder)
    }
    if (part === 'whole') rmSync(whole + PARTS.boot.suffix, { recursive: true, force: true })
    say(`${name}: ${release} is in ${folder}`)
  } finally {
    rmSync(filling, { recursive: true, force: true })
  }
}

async function main(args) {
  const purposes = args.filter(arg => !arg.startsWith('-'))
  const update = args.includes('--update')
  const [purpose = ''] = purposes
  const kernels = Object.hasOwn(KERNELS, purpose) ? KERNELS[purpose] : undefined
  if (!kernels || purposes.length !== 1 || args.some(arg => arg.startsWith('-') && arg !== '--update')) {
    throw new Failure(EXIT_USAGE, `usage: node corpora/prepare.mjs ${Object.keys(KERNELS).join('|')} [--update]`)
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Failure(EXIT_UNAVAILABLE, `needs Linux on x86-64; this is ${process.platform} on ${process.arch}`)
  }
  prepareTools(purpose)
  mkdirSync(join(CACHE, 'kernels'), { recursive: true })
  for (const [part, names] of Object.entries(kernels)) for (const name of names) await prepareKernel(name, part, update)
}

try {
  await main(process.argv.slice(2))
} catch (error) {
  if (!(error instanceof Failure)) throw error
  say(error.message)
  process.exitCode = error.exit
}
