// Packed kernels, for tests. In: bytes. Out: them packed by a command-line tool that is not ours, with the options of
// the kernel's build and others, and a bzImage around the result.
// Invariant: what a tool cannot pack is an error; nothing is skipped.
// Left out: the real-mode code and the decompressor, which nobody here reads: a bzImage is a header and a payload.

import { spawnSync } from 'node:child_process'

export type Format = 'gzip' | 'bzip2' | 'lzma' | 'xz' | 'lz4' | 'zstd'

export interface Packer {
  readonly format: Format
  readonly name: string
  readonly command: readonly string[]
}

const packer = (format: Format, command: string): Packer => ({ format, name: command, command: command.split(' ') })

/** As scripts/Makefile.lib and scripts/xz_wrap.sh have it (5.10 to 6.12), but for xz's dictionary: it takes 1.3 GB. */
export const KERNEL_PACKERS: readonly Packer[] = [
  packer('gzip', 'gzip -n -f -9'),
  packer('bzip2', 'bzip2 -9'),
  packer('lzma', 'xz --format=lzma -9'),
  packer('xz', 'xz --check=crc32 --x86 --lzma2=preset=6,dict=16MiB'),
  packer('lz4', 'lz4 -l -9'),
  packer('zstd', 'zstd -22 --ultra'),
]

export const PACKERS: readonly Packer[] = [
  ...KERNEL_PACKERS,
  packer('gzip', 'gzip -n -1'),
  packer('bzip2', 'bzip2 -1'),
  packer('lzma', 'xz --format=lzma -0'),
  packer('xz', 'xz --check=crc64 -0'),
  packer('xz', 'xz --check=sha256 -1'),
  packer('xz', 'xz --check=none --x86 -0'),
  packer('xz', 'xz --check=crc32 --x86=start=12345 --lzma2=preset=0,lc=0,lp=4,pb=0'),
  packer('xz', 'xz --check=crc32 --lzma2=preset=0,lc=4,lp=0,pb=4,nice=273'),
  packer('xz', 'xz --check=crc32 --x86 --lzma2=preset=0,lc=1,lp=2,pb=1 --block-size=65536'),
  packer('xz', 'xz --check=crc32 -T2 -0'),
  packer('lz4', 'lz4 -l -1'),
  packer('lz4', 'lz4 -l -12'),
  packer('zstd', 'zstd -1'),
  packer('zstd', 'zstd -19 --no-check'),
  packer('zstd', 'zstd -22 --ultra --long=27'),
  packer('zstd', 'zstd --fast=5'),
]

export const pack = ({ command: [tool, ...options], name }: Packer, bytes: Uint8Array): Buffer => {
  const run = spawnSync(tool!, [...options, '-c'], { input: bytes, maxBuffer: 2 ** 30 })
  if (run.error) throw run.error
  if (run.status !== 0) throw new Error(`${name}: status ${run.status}: ${run.stderr.toString()}`)
  return run.stdout
}

const SECTOR = 512
const SECTORS = 3 // of setup code, beside the boot sector
const PAYLOAD = 0x30 // from there, as the boot protocol counts

/** Where a bzImage's payload starts. */
export const PAYLOAD_START = (SECTORS + 1) * SECTOR + PAYLOAD

/** A bzImage around any payload (Documentation/arch/x86/boot.rst, 6.12). */
export const bzImage = (payload: Uint8Array): Buffer => {
  const image = Buffer.alloc(PAYLOAD_START + payload.length + SECTOR)
  image[0x1f1] = SECTORS
  image.writeUInt16LE(0xaa55, 0x1fe)
  image.write('HdrS', 0x202, 'latin1')
  image.writeUInt16LE(0x20f, 0x206)
  image.writeUInt32LE(PAYLOAD, 0x248)
  image.writeUInt32LE(payload.length, 0x24c)
  image.set(payload, PAYLOAD_START)
  return image
}

/** A packed payload as the build leaves it: its size follows, which gzip has as its own. */
export const withSize = (format: Format, packed: Uint8Array, size: number): Buffer => {
  const last = Buffer.alloc(format === 'gzip' ? 0 : 4)
  if (last.length > 0) last.writeUInt32LE(size)
  return Buffer.concat([packed, last])
}

export const packedImage = (by: Packer, bytes: Uint8Array): Buffer =>
  bzImage(withSize(by.format, pack(by, bytes), bytes.length))
