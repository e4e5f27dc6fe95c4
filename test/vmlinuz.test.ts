// image/vmlinuz and its decoders, each judged by the tool that packed the data: what went in must come out, whatever it
// is, with the options of the kernel's build and with others. And a real kernel, packed anew in every way, must load as
// the same kernel.

import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { EXIT, KerninstError } from '../src/error.js'
import { loadImage, type Image } from '../src/image/image.js'
import { unpackVmlinuz } from '../src/image/vmlinuz.js'
import { kernel } from './guest/artefacts.js'
import {
  KERNEL_PACKERS, PACKERS, PAYLOAD_START, bzImage, pack, packedImage, withSize, type Format, type Packer,
} from './packers.js'
import { lottery, seed, seedNote } from './lottery.js'

const scratch = mkdtempSync(join(tmpdir(), 'kerninst-vmlinuz-'))
t.teardown(() => rmSync(scratch, { recursive: true }))

t.comment(seedNote)
const random = lottery(seed)

const unpack = (image: Uint8Array): Uint8Array => unpackVmlinuz('vmlinuz', image)

const refusal = (act: () => unknown): string => {
  try {
    act()
  } catch (error) {
    if (!(error instanceof KerninstError) || error.exit !== EXIT.data) throw error
    return error.message
  }
  throw new Error('nothing was refused')
}

// ---- What is packed ------------------------------------------------------------------------------------------------

const noise = (bytes: number): Buffer => Buffer.from(Uint8Array.from({ length: bytes }, () => random(256)))
const over = (alphabet: readonly number[], bytes: number): Buffer =>
  Buffer.from(Uint8Array.from({ length: bytes }, () => alphabet[random(alphabet.length)]!))
const repeated = (piece: Uint8Array, bytes: number): Buffer => Buffer.alloc(bytes, piece)

const { text } = loadImage(kernel('6.1-cloud').vmlinux)
const code = (from: number, bytes: number): Buffer => Buffer.from(text.subarray(from, from + bytes))

/** Runs of every length around those where formats change how they write them. */
const runs = (): Buffer => {
  const lengths = [1, 2, 3, 4, 5, 6, 8, 18, 19, 254, 255, 256, 258, 259, 260, 270, 273, 274, 510, 514, 515, 65_540]
  return Buffer.concat(lengths.flatMap((length, i) =>
    [Buffer.alloc(length, i), noise(random(3)), Buffer.alloc(length, 255)]))
}

/** Half of it far from the other half: what no window below the distance finds. */
const farApart = (bytes: number): Buffer => {
  const piece = noise(5000)
  return Buffer.concat([piece, Buffer.alloc(bytes, 'far'), piece])
}

const PAYLOADS: Readonly<Record<string, () => Buffer>> = {
  'nothing': () => Buffer.alloc(0),
  'a byte': () => Buffer.from([0xe8]),
  'five bytes': () => Buffer.from([0xe8, 1, 2, 3, 0]),
  'noise': () => noise(150_000 + random(1000)),
  'zeros': () => Buffer.alloc(1_500_000 + random(100)),
  'a pair repeated': () => repeated(Buffer.from('ab'), 300_001),
  'noise repeated': () => repeated(noise(1000 + random(500)), 400_000),
  'runs': runs,
  'code': () => code(random(1_000_000), 900_000),
  'code, and far from it the same': () => farApart(700_000),
  'opcodes of branches, and what decides about them': () => over([0xe8, 0xe9, 0, 0xff, 0x0f, 0x80, 0xeb, 1], 200_000),
  'branches one after another': () =>
    Buffer.concat(Array.from({ length: 20_000 }, () => [
      Buffer.from([0xe8 + random(2)]), over([0, 0xff, 0xe8, random(256)], 3), over([0, 0xff, 0xff, 0x80], 1),
      noise(random(3)),
    ]).flat()),
}

/** Where each format changes to another block; sizes just before and behind. */
const BORDERS: Readonly<Record<Format, readonly number[]>> = {
  gzip: [32_768, 65_535],
  bzip2: [99_981, 100_000, 899_981, 900_000],
  lzma: [4096, 1 << 16],
  xz: [1 << 16, 1 << 21],
  lz4: [1 << 16, 8 << 20],
  zstd: [1 << 17, 1 << 18],
}

const check = (t: Test, by: Packer, what: string, payload: Buffer): void => {
  const unpacked = unpack(packedImage(by, payload))
  if (Buffer.compare(unpacked, payload) === 0) return
  const file = join(tmpdir(), 'kerninst-vmlinuz-differs')
  writeFileSync(file, payload)
  t.fail(`${what}, ${payload.length} bytes: not what was packed; kept as ${file}`)
}

/** zstd -22 takes seconds for a byte, so that it gets only what its long window is for. */
const FEW = ['nothing', 'code', 'code, and far from it the same']

for (const by of PACKERS) {
  t.test(by.name, async (t) => {
    if (by.name.includes('--ultra')) {
      for (const what of FEW) check(t, by, what, PAYLOADS[what]!())
      return
    }
    for (const [what, make] of Object.entries(PAYLOADS)) check(t, by, what, make())
    for (const border of BORDERS[by.format]) {
      const bytes = noise(Math.min(border + 1, 1 << 18))
      for (const size of [border - 1, border, border + 1]) check(t, by, 'around a border', repeated(bytes, size))
    }
    t.pass(`${Object.keys(PAYLOADS).length} payloads, ${BORDERS[by.format].length} borders`)
  })
}

t.test('the options do what they are for', async (t) => {
  const by = (name: string): Packer => PACKERS.find((packer) => packer.name === name)!
  const frame = pack(by('zstd -22 --ultra'), code(0, 1000))
  t.equal(frame[4]! & 0x20, 0, 'no single segment')
  t.equal(frame[5]! >>> 3, 27 - 10, 'a window of 128 MiB')
  const xz = pack(by('xz --check=crc32 --x86 --lzma2=preset=0,lc=1,lp=2,pb=1 --block-size=65536'), code(0, 200_000))
  t.equal(xz[7], 1, 'CRC-32')
  t.equal(xz[14], 4, 'the filter of x86')
  t.equal(xz[xz.length - 12 - xz.readUInt32LE(xz.length - 8) * 4 - 4 + 1], 4, 'four blocks in the index')
  const lz4 = pack(by('lz4 -l -1'), Buffer.alloc((8 << 20) + 1))
  t.equal(lz4.readUInt32LE(8 + lz4.readUInt32LE(4)), lz4.length - 12 - lz4.readUInt32LE(4), 'two blocks')
})

// ---- What was damaged ----------------------------------------------------------------------------------------------

for (const by of KERNEL_PACKERS) {
  t.test(`${by.name}: damage`, async (t) => {
    const payload = Buffer.concat([code(5000, 20_000), noise(500), Buffer.alloc(3000)])
    const packed = pack(by, payload)
    for (let n = 0; n < 60; n++) {
      const cut = random(packed.length)
      refusal(() => unpack(bzImage(withSize(by.format, packed.subarray(0, cut), payload.length))))
    }
    if (by.format !== 'gzip') {
      for (const size of [0, payload.length - 1, payload.length + 1, 512 << 20]) {
        refusal(() => unpack(bzImage(withSize(by.format, packed, size))))
      }
      const message = refusal(() => unpack(bzImage(withSize(by.format, packed, (512 << 20) + 1))))
      t.match(message, /vmlinuz: the payload unpacks to 536870913 bytes; at most 512 MiB are read/)
    }
    let wrong = 0
    for (let n = 0; n < 150; n++) {
      const copy = Buffer.from(packed)
      copy[random(copy.length)]! ^= 1 << random(8)
      try {
        if (Buffer.compare(unpack(bzImage(withSize(by.format, copy, payload.length))), payload) !== 0) wrong++
      } catch (error) {
        if (!(error instanceof KerninstError)) throw error
      }
    }
    // LZ4's legacy frame and the .lzma file have no checksum.
    if (by.format === 'lz4' || by.format === 'lzma') t.pass(`${wrong} of 150 came out otherwise`)
    else t.equal(wrong, 0, 'what comes out is what went in')
    t.same(Buffer.from(unpack(packedImage(by, payload))), payload, 'and the whole one is still read')
  })
}

t.test('bzip2: the checksums are compared', async (t) => {
  const packed = pack(KERNEL_PACKERS.find(({ format }) => format === 'bzip2')!, code(0, 10_000))
  const altered = (at: number): Buffer => {
    const copy = Buffer.from(packed)
    copy[at]! ^= 1
    return bzImage(withSize('bzip2', copy, 10_000))
  }
  t.match(refusal(() => unpack(altered(10))), /bzip2 data are corrupt: a block's checksum is wrong/)
  t.match(refusal(() => unpack(altered(packed.length - 3))), /bzip2 data are corrupt: the stream's checksum is wrong/)
  t.match(refusal(() => unpack(bzImage(withSize('bzip2', Buffer.concat([packed, packed]), 20_000)))),
    /something follows the stream/)
})

t.test('payloads that are no payloads', async (t) => {
  const image = bzImage(pack(KERNEL_PACKERS[0]!, code(0, 100)))
  const altered = (change: (copy: Buffer) => void): Buffer => {
    const copy = Buffer.from(image)
    change(copy)
    return copy
  }
  const is = (bytes: Uint8Array, message: RegExp): void => {
    t.match(refusal(() => unpack(bytes)), message)
  }
  is(altered((copy) => copy.writeUInt16LE(0x207, 0x206)), /boot protocol 2\.7; 2\.8 is wanted/)
  is(altered((copy) => copy.writeUInt32LE(0xffffffff, 0x24c)), /truncated: the payload ends at/)
  is(altered((copy) => copy.writeUInt32LE(0xffffffff, 0x248)), /truncated: the payload ends at/)
  is(altered((copy) => copy.writeUInt32LE(7, 0x24c)), /packed in a way that is not known/)
  is(altered((copy) => copy.fill(0, PAYLOAD_START)), /packed in a way that is not known/)
  is(image.subarray(0, 0x230), /the header of the bzImage is incomplete/)
  is(bzImage(Buffer.from('894c5a4f000d0a1a0a000000', 'hex')), /packed with LZO, which is not read/)
})

// ---- A whole kernel ------------------------------------------------------------------------------------------------

const FAST: readonly Packer[] = (
  [
    ['gzip', 'gzip -n -1'], ['bzip2', 'bzip2 -9'], ['lzma', 'xz --format=lzma -0'],
    ['xz', 'xz --check=crc32 --x86 --lzma2=preset=0,dict=16MiB'], ['lz4', 'lz4 -l -1'], ['zstd', 'zstd -3 --long=27'],
  ] as const
).map(([format, name]) => ({ format, name, command: name.split(' ') }))

t.test('6.1-cloud, packed in every way', async (t) => {
  const { vmlinuz } = kernel('6.1-cloud')
  const figures = ({ kind, release, base, imageBytes, textSha256, functions, symbols, relocs }: Image): unknown => ({
    kind, release, base, imageBytes, textSha256, functions: functions.count, symbols: symbols.count,
    known: relocs.known,
    relocations: [relocs.relocAbs32.length, relocs.relocAbs64.length, relocs.relocPcpu32.length],
  })
  const wanted = figures(loadImage(vmlinuz))
  const payload = unpackVmlinuz(vmlinuz, readFileSync(vmlinuz))
  const path = join(scratch, 'vmlinuz')
  for (const by of FAST) {
    writeFileSync(path, packedImage(by, payload))
    t.same(figures(loadImage(path)), wanted, by.name)
  }
})
