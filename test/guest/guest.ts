// In: a kernel, files and a shell script. Out: what the script printed, its exit code, and every file that it left in
// /out. One QEMU run under TCG with an initramfs that holds busybox and the files, and nothing of the machine's own.
// Invariant: the run ends within its time limit, QEMU never outlives us, and a guest that did not say its exit code
// itself (panic, hang) is an error that shows the end of the console.
// Left out: what is run, and what its output means.

import { spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Monitor } from './qmp.js'
import { staleTrap } from './stale.js'

export interface GuestFile {
  /** Path in the guest, without the leading slash. */
  readonly path: string
  /** Contents, or the path on this machine that holds them. */
  readonly from: Uint8Array | string
  readonly executable?: boolean
}

export interface GuestJob {
  readonly vmlinuz: string
  readonly files: readonly GuestFile[]
  /** Run by busybox sh as root in /, with /proc, /sys, /dev, tracefs and debugfs mounted and loopback up. */
  readonly script: string
  /** Added to the kernel's command line. */
  readonly append?: string
  /** Default 2. */
  readonly cpus?: number
  /** Of memory, in MiB; default 1024. */
  readonly memory?: number
  /** rdtsc counts instructions; needs one CPU. */
  readonly icount?: boolean
  /** The script never comes to its end: it reboots, panics, or starts another kernel. */
  readonly leaves?: boolean
  readonly seconds: number
  /** Called for each line as it comes; what it returns may fail the run. */
  readonly onLine?: (line: string, monitor: Monitor) => Promise<unknown> | void
}

export interface GuestResult {
  /** The script's exit code; NaN of one that left. */
  readonly exit: number
  /** How the machine ended, in QEMU's words: 'guest-shutdown' (power off), 'guest-reset' (reboot and panic), ... */
  readonly end: string
  readonly lines: readonly string[]
  /** What the kernel printed. */
  readonly console: string
  readonly files: ReadonlyMap<string, Buffer>
  readonly seconds: number
}

const MAX_OUTPUT = 64 << 20
const CPIO_ALIGN = 4
const S_IFDIR = 0o040000
const S_IFREG = 0o100000

/** The last line of a guest that ended by itself. */
const EXIT_MARK = '@exit '

const INIT = `#!/bin/busybox sh
/bin/busybox mkdir -p /bin /proc /sys /dev /tmp /out
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
mount -t proc none /proc
mount -t sysfs none /sys
mount -t devtmpfs none /dev
mount -t tmpfs -o mode=1777,size=512m none /tmp
mount -t tmpfs none /out
mount -t tracefs none /sys/kernel/tracing
mount -t debugfs none /sys/kernel/debug
hostname guest
ip link set lo up
stty -F /dev/ttyS1 raw -echo
stty -F /dev/ttyS2 raw -echo
sh /script >/dev/ttyS1 2>&1 </dev/null
code=$?
tar -c -C /out -f - . >/dev/ttyS2
printf '\\n${EXIT_MARK}%s\\n' $code >/dev/ttyS1
poweroff -f
`

/** A cpio archive (newc) of the files and the folders above them, all owned by root. */
export function initramfs(files: readonly GuestFile[]): Buffer {
  const parts: Buffer[] = []
  const made = new Set<string>()
  let inode = 1
  const entry = (path: string, mode: number, data: Uint8Array): void => {
    const name = Buffer.from(path + '\0')
    const fields = [inode++, mode, 0, 0, 1, 0, data.length, 0, 0, 0, 0, name.length, 0]
    const header = '070701' + fields.map(field => field.toString(16).padStart(8, '0')).join('')
    const pad = (length: number): Buffer => Buffer.alloc((CPIO_ALIGN - (length % CPIO_ALIGN)) % CPIO_ALIGN)
    parts.push(Buffer.from(header), name, pad(header.length + name.length), Buffer.from(data), pad(data.length))
  }
  for (const file of files) {
    const folders = file.path.split('/').slice(0, -1)
    for (let i = 1; i <= folders.length; i++) {
      const folder = folders.slice(0, i).join('/')
      if (!made.has(folder)) entry(folder, S_IFDIR | 0o755, new Uint8Array(0))
      made.add(folder)
    }
    const data = typeof file.from === 'string' ? readFileSync(file.from) : file.from
    entry(file.path, S_IFREG | (file.executable ? 0o755 : 0o644), data)
  }
  entry('TRAILER!!!', 0, new Uint8Array(0))
  return Buffer.concat(parts)
}

/** The plain files of a tar archive (ustar, as busybox writes it), by path without the leading './'. */
export function untar(archive: Buffer): Map<string, Buffer> {
  const files = new Map<string, Buffer>()
  for (let at = 0; at + 512 <= archive.length;) {
    const header = archive.subarray(at, at + 512)
    if (header[0] === 0) break
    const text = (from: number, length: number): string =>
      header.toString('latin1', from, from + length).split('\0')[0] ?? ''
    const size = parseInt(text(124, 12), 8)
    if (!Number.isInteger(size) || at + 512 + size > archive.length) throw new Error('the tar archive is cut off')
    const type = text(156, 1)
    if (type === '0' || type === '') {
      files.set(text(0, 100).replace(/^\.\//, ''), Buffer.from(archive.subarray(at + 512, at + 512 + size)))
    }
    at += 512 + Math.ceil(size / 512) * 512
  }
  return files
}

const running = new Set<ChildProcess>()
const killAll = (): void => running.forEach(child => child.kill('SIGKILL'))
process.on('exit', killAll)
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
  process.once(signal, () => {
    killAll()
    process.kill(process.pid, signal)
  })
}

/**
 * A kernel that finds out later that its processors' TSCs differ, as 6.12 does in a loaded emulator, then switches the
 * static key `__sched_clock_stable`: text that others compare. So it is told at the beginning.
 */
const CLOCK = 'tsc=unstable'

function qemuArguments(job: GuestJob, folder: string): string[] {
  const cpus = job.cpus ?? 2
  return [
    '-nodefaults', '-no-user-config', '-display', 'none', '-monitor', 'none', '-no-reboot', '-m', String(job.memory ?? 1024),
    '-cpu', 'qemu64',
    '-accel', job.icount ? 'tcg,thread=single' : 'tcg,thread=multi',
    ...(job.icount ? ['-icount', 'shift=0'] : []),
    '-smp', String(cpus),
    '-kernel', job.vmlinuz, '-initrd', join(folder, 'initramfs'),
    '-append', ['console=ttyS0 quiet panic=-1 oops=panic', job.icount ? '' : CLOCK, job.append ?? ''].filter((one) => one !== '').join(' '),
    '-serial', `file:${join(folder, 'console')}`, '-serial', 'stdio', '-serial', `file:${join(folder, 'out.tar')}`,
    '-qmp', `unix:${join(folder, 'qmp')}`,
  ]
}

/** After so long it is looked whether a silent guest hangs. */
const SILENCE_MS = 60_000

/** How often a guest is started that QEMU lets die. */
const MAX_STARTS = 3

/**
 * Where the kernel switches its function tracer, QEMU's processors now and then take an int3 that is no longer there:
 * one of them writes the text while another translates it. The kernel then dies of an int3 where its dump shows the
 * call or the nop of the tracer, or a static key's nop (its trap handler's own entry included), or is caught there. Seen on stock
 * kernels, without us: of 100 switches under load with QEMU 7.2 every time, of 30 with 10.0 once in five.
 * No splice of ours is ever written there, so a guest that dies so says nothing of us.
 */
const STALE_TRAP = [
  /RIP: 0010:\S+\+0x1\/[^\n]*\n[^\n]*Code: [^\n]* e8 <..> .. .. .. /,
  /int3: 0000[^]*RIP: 0010:[^\n]*\n[^\n]*Code: [^\n]* 0f <1f> 44 00 00 /, // a static key's nop as well
  /soft lockup[^]*RIP: 0010:\S+\+0x0\/[^\n]*\n[^\n]*Code: [^\n]* <(?:e8|0f)> /,
  /^the guest hangs: CPU \d+ takes an int3 at /, // stale.ts
]

/** Boots the kernel and runs the script. Rejects when the guest dies, hangs past `seconds`, or says too much. */
export async function runGuest(job: GuestJob): Promise<GuestResult> {
  for (let start = 1; ; start++) {
    try {
      return await runOnce(job)
    } catch (error) {
      const text = error instanceof Error ? error.message : String(error)
      if (start === MAX_STARTS || !STALE_TRAP.some((pattern) => pattern.test(text))) throw error
      process.stderr.write(`guest: QEMU took an int3 that is not there, start ${start} of ${MAX_STARTS}:\n${text.slice(-6000)}\n`)
    }
  }
}

async function runOnce(job: GuestJob): Promise<GuestResult> {
  const folder = mkdtempSync(join(tmpdir(), 'kerninst-guest-'))
  const started = performance.now()
  const lines: string[] = []
  try {
    writeFileSync(join(folder, 'initramfs'), initramfs([
      { path: 'init', from: Buffer.from(INIT), executable: true },
      { path: 'script', from: Buffer.from(job.script) },
      { path: 'bin/busybox', from: busybox(), executable: true },
      ...job.files,
    ]))
    for (const name of ['console', 'out.tar']) writeFileSync(join(folder, name), '')

    const monitor = new Monitor(join(folder, 'qmp'))
    const child = spawn('qemu-system-x86_64', qemuArguments(job, folder), { stdio: ['ignore', 'pipe', 'pipe'] })
    running.add(child)
    let failure = ''
    let said = ''
    const kill = (why: string): void => {
      failure ||= why
      child.kill('SIGKILL')
    }
    const timer = setTimeout(() => kill(`did not end within ${job.seconds} s`), job.seconds * 1000)
    const look = (): void => {
      staleTrap(monitor).then((why) => { if (why !== undefined) kill(`hangs: ${why}`) }, () => undefined)
    }
    const silence = setInterval(look, SILENCE_MS)
    let partial = ''
    let received = 0
    child.stdout.setEncoding('latin1').on('data', (chunk: string) => {
      received += chunk.length
      silence.refresh()
      if (received > MAX_OUTPUT) kill('printed too much')
      const pieces = (partial + chunk).split('\n')
      partial = pieces.pop() ?? ''
      for (const piece of pieces) {
        const line = piece.replace(/\r$/, '')
        lines.push(line)
        if (line.startsWith(EXIT_MARK)) continue
        job.onLine?.(line, monitor)?.catch((error: unknown) => kill(`was asked for too much at '${line}': ${String(error)}`))
      }
    })
    child.stderr.setEncoding('latin1').on('data', (chunk: string) => { said += chunk })
    const status = await new Promise<number | null>((resolve, reject) => {
      child.once('error', reject)
      child.once('close', resolve)
    }).finally(() => {
      clearTimeout(timer)
      clearInterval(silence)
      running.delete(child)
      monitor.close()
    })

    const printed = readFileSync(join(folder, 'console'), 'latin1')
    const last = lines.findLast(line => line !== '')
    const whole = last !== undefined && last.startsWith(EXIT_MARK)
    if (failure || whole === (job.leaves ?? false) || status !== 0) {
      const end = (text: string): string => text.trimEnd().split('\n').slice(-140).join('\n')
      throw new Error(`the guest ${failure || (whole ? 'stayed' : `died (QEMU's status ${status})`)}\n${said}` +
        `--- output\n${end(lines.join('\n') + partial)}\n--- console\n${end(printed)}`)
    }
    return {
      exit: whole ? Number(last.slice(EXIT_MARK.length)) : NaN,
      end: String(monitor.events.findLast((one) => one.event === 'SHUTDOWN')?.data?.['reason']),
      lines: whole ? lines.slice(0, lines.lastIndexOf(last)) : lines,
      console: printed,
      files: untar(readFileSync(join(folder, 'out.tar'))),
      seconds: (performance.now() - started) / 1000,
    }
  } finally {
    rmSync(folder, { recursive: true, force: true })
  }
}

/** Where this machine has busybox. */
export function busybox(): string {
  const found = ['/usr/bin/busybox', '/bin/busybox'].find(path => {
    try {
      return readFileSync(path).length > 0
    } catch {
      return false
    }
  })
  if (found === undefined) throw new Error('no busybox here; run `node corpora/prepare.mjs test`')
  return found
}
