// In: a guest that has been silent for long, by its monitor. Out: whether one of its processors takes, again and again,
// an int3 that is not in its memory: what QEMU's translation of its text still holds (test/guest/guest.ts, STALE_TRAP).
// A kernel that finds no int3 where it was taken lets the processor try again (arch/x86/kernel/kprobes/core.c,
// kprobe_int3_handler(); 6.1 and 6.12), so that with interrupts off it never comes further.
// Invariant: the guest's memory and registers are read, nothing is changed.
// Left out: what to do about it.

import type { Monitor } from './qmp.js'

const SAMPLES = 20
const SAMPLE_MS = 20
const GATE_BYTES = 16
const INT3_VECTOR = 3

/** `0f 1f ...`: a nop of the kernel's; e8: a call. Both are where it once wrote an int3. */
const REWRITTEN = /^(?:0f 1f|e8)/

const ask = async (monitor: Monitor, line: string, cpu = 0): Promise<string> =>
  String(await monitor.command('human-monitor-command', { 'command-line': line, 'cpu-index': cpu }))

/** Memory as processor `cpu` sees it. */
async function bytesAt(monitor: Monitor, cpu: number, address: bigint, count: number): Promise<Buffer> {
  const text = await ask(monitor, `x /${count}xb 0x${address.toString(16)}`, cpu)
  return Buffer.from([...text.matchAll(/\b0x([0-9a-f]{2})\b/g)].map((match) => parseInt(match[1]!, 16)))
}

/** Where the processor's int3s lead. */
async function int3Entry(monitor: Monitor, cpu: number, idt: bigint): Promise<bigint> {
  const gate = await bytesAt(monitor, cpu, idt + BigInt(INT3_VECTOR * GATE_BYTES), GATE_BYTES)
  if (gate.length < GATE_BYTES) return 0n
  return BigInt(gate.readUInt16LE(0)) | BigInt(gate.readUInt16LE(6)) << 16n | BigInt(gate.readUInt32LE(8)) << 32n
}

/** What is wrong, in words, or undefined. */
export async function staleTrap(monitor: Monitor): Promise<string | undefined> {
  const seen: Set<bigint>[] = [] // by processor: where it was
  const idt: bigint[] = []
  for (let i = 0; i < SAMPLES; i++) {
    const text = await ask(monitor, 'info registers -a')
    const cpus = text.split(/^CPU#/m).slice(1)
    for (const [cpu, registers] of cpus.entries()) {
      const value = (pattern: RegExp): bigint => BigInt(`0x${pattern.exec(registers)?.[1] ?? '0'}`)
      seen[cpu] = (seen[cpu] ?? new Set()).add(value(/\bRIP=([0-9a-f]+)/))
      idt[cpu] = value(/\bIDT= *([0-9a-f]+)/)
    }
    await new Promise((resolve) => setTimeout(resolve, SAMPLE_MS))
  }
  for (const [cpu, places] of seen.entries()) {
    if (!places.has(await int3Entry(monitor, cpu, idt[cpu]!))) continue
    for (const place of places) {
      const bytes = (await bytesAt(monitor, cpu, place, 5)).toString('hex').replace(/..\B/g, '$& ')
      if (REWRITTEN.test(bytes)) return `CPU ${cpu} takes an int3 at 0x${place.toString(16)}, which holds ${bytes}`
    }
  }
  return undefined
}
