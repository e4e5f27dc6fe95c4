// A small plan with every kind of site, form and fixup, for the tests of bundle/, dump/ and report/. The code is
// filler: nobody runs it.

import type { Manifest } from '../src/splice/manifest.js'
import type { PatchTables, TargetIdentity } from '../src/splice/tables.js'

export const NONE = 0xffffffff

export const sampleTarget = (): TargetIdentity => ({
  base: 0xffffffff81000000n,
  imageBytes: 0x2000000,
  textStart: 0,
  textEnd: 0x1000000,
  buildId: Uint8Array.from({ length: 20 }, (_, i) => 0xa0 + i),
  buildIdRva: 0x1800010,
  anchors: [0x11000, 0x22000, 0x1900000],
  kprobes: [0x1a00040, 0x1a00080],
})

const pad16 = (bytes: number[]): number[] => [...bytes, ...new Array<number>(16 - bytes.length).fill(0)]

// Sites: mov %rax,abs32(,%rcx,8), adjusted by the slide; a direct call; a jcc; a return site.
export const sampleTables = (): PatchTables => ({
  siteCount: 4,
  siteRva: Uint32Array.of(0x1000, 0x1008, 0x100d, 0x2000),
  sitePatch: Uint32Array.of(0, 16, 48, 80),
  siteLength: Uint8Array.of(8, 5, 6, 5),
  siteKind: Uint8Array.of(0, 1, 2, 0),
  siteFormClass: Uint8Array.of(0, 0, 0, 7),
  siteFlags: new Uint8Array(4),
  siteRelocKind: Uint8Array.of(1, 0, 0, 0),
  siteRelocOffset: Uint8Array.of(4, 0, 0, 0),
  siteTail: Uint32Array.of(NONE, NONE, NONE, 90),
  siteExpected: Uint8Array.from([
    ...pad16([0x48, 0x89, 0x04, 0xcd, 0x10, 0x20, 0x30, 0x82]),
    ...pad16([0xe8, 0x11, 0x22, 0x33, 0x00]),
    ...pad16([0x0f, 0x84, 0x40, 0x00, 0x00, 0x00]),
    ...pad16([0xe9, 0x55, 0x66, 0x77, 0x00]),
  ]),
  formCount: 2,
  formClass: Uint8Array.of(7, 7),
  formKind: Uint8Array.of(0, 1),
  formBytes: Uint8Array.of(0xc3, 0xcc, 0xcc, 0xcc, 0xcc, 0, 0, 0, 0, 0, 0, 0),
  formTarget: Uint32Array.of(NONE, 0xd00000),
  fixupCount: 6,
  fixupOffset: Uint32Array.of(2, 12, 24, 40, 52, 96),
  fixupValue: Uint32Array.of(1, 0, 0x1008, 0xfffffff0, 19, 0x3000),
  fixupKind: Uint8Array.of(3, 1, 0, 2, 4, 0),
  fixupTrail: Uint8Array.of(0, 0, 4, 1, 0, 0),
  code: Uint8Array.from({ length: 100 }, (_, i) => (i * 37) & 0xff),
  slotCount: 4,
  frameWords: 20,
})

/**
 * The same with a hop, its springboard in padding; a window of 16 bytes with a springboard that is adjusted, one that is
 * a hop, and two hops that use them. No forms: site after site is rva, patch, length, kind, flags, reloc, offset, tail.
 */
export const tacticTables = (): PatchTables => {
  const rows = [
    [0x1000, 1, 3, 3, 0, 0, 0, NONE], //     0: hop, to 1
    [0x1010, 0, 5, 0, 2, 0, 0, NONE], //     1: springboard in padding
    [0x1040, 16, 16, 0, 1, 1, 12, 64], //    2: window
    [0x1045, 5, 2, 3, 2, 0, 0, NONE], //     3: link, to 5
    [0x1048, 32, 5, 0, 2, 1, 0, NONE], //    4: springboard, adjusted from its first byte
    [0x1060, 48, 5, 0, 2, 0, 0, NONE], //    5: springboard in padding
    [0x1070, 4, 2, 3, 0, 0, 0, NONE], //     6: hop, to 4
    [0x10c0, 3, 15, 3, 0, 2, 11, NONE], //   7: hop of 15 bytes, to 3
    [0x1100, 50, 5, 0, 0, 0, 0, NONE], //    8: no more than a jmp
  ]
  const column = (i: number): number[] => rows.map((row) => row[i]!)
  return {
    ...sampleTables(),
    siteCount: rows.length,
    siteRva: Uint32Array.from(column(0)),
    sitePatch: Uint32Array.from(column(1)),
    siteLength: Uint8Array.from(column(2)),
    siteKind: Uint8Array.from(column(3)),
    siteFlags: Uint8Array.from(column(4)),
    siteFormClass: new Uint8Array(rows.length),
    siteRelocKind: Uint8Array.from(column(5)),
    siteRelocOffset: Uint8Array.from(column(6)),
    siteTail: Uint32Array.from(column(7)),
    siteExpected: Uint8Array.from(rows.flatMap((row) => Array.from({ length: 16 }, (_, i) => (i < row[2]! ? 0x90 + i : 0)))),
    formCount: 0, formClass: new Uint8Array(0), formKind: new Uint8Array(0), formBytes: new Uint8Array(0), formTarget: new Uint32Array(0),
  }
}

const SITE_TACTIC = Uint8Array.of(0, 1, 2, 0)
/** The places of the sample: one function, from rva 0xffb, and one that a jump leads to. */
export const VFS_READ = 0xffb

export const sampleManifest = (): Manifest => ({
  tool: { name: 'kerninst', version: '0.1.0' },
  image: {
    kind: 'vmlinux',
    release: '6.1.0-test-amd64',
    buildId: Buffer.from(sampleTarget().buildId).toString('hex'),
    base: '0xffffffff81000000',
    textSha256: '5a'.repeat(32),
    symbols: ['symtab'],
  },
  programs: ['entry:vfs_read { @ = count() }', 'return:vfs_read { @out = count() }'],
  text: { bytes: 16777216, instrumentableBytes: 9000000 },
  names: ['vfs_read', '', 'out', 'no_such'],
  places: { from: Uint32Array.of(0xffb, 0x3000), start: Uint32Array.of(0xffb, NONE), name: Uint32Array.of(0, 1) },
  asked: {
    kind: Uint8Array.of(0, 1, 3, 2, 0), // entry, return, call, insn, entry
    name: Uint32Array.of(0, 0, 0, 0, 3),
    start: Uint32Array.of(VFS_READ, VFS_READ, VFS_READ, VFS_READ, NONE),
    end: Uint32Array.of(0x2010, 0x2010, 0x2010, 0x2010, NONE),
    offset: Uint32Array.of(0, 0, 0, 1, 0),
    title: new Uint32Array(5),
    aggregate: Uint32Array.of(1, 2, 1, 1, 1),
    always: Uint8Array.of(1, 1, 1, 1, 1),
  },
  points: {
    count: 5,
    of: Uint32Array.of(0, 1, 2, 3, 4),
    rva: Uint32Array.of(0x1000, 0x100d, 0x1008, 0xffc, NONE),
    to: new Uint32Array(5).fill(NONE),
    refusal: Uint8Array.of(0, 0, 0, 1, 2),
    nearest: Uint32Array.of(NONE, NONE, NONE, 0x1000, NONE),
    derived: new Uint8Array(5),
    termStart: Uint32Array.of(0, 1, 3, 4, 4, 4),
    term: Uint32Array.of(0, 2, 6, 4),
    termRva: Uint32Array.of(0x1000, VFS_READ + 0x1d, VFS_READ + 0x100, 0x1008),
  },
  refusals: [{ code: 'short', reason: 'an instruction of 2 bytes' }, { code: 'unknown', reason: 'no function of this name' }],
  tactics: ['jmp', 'call', 'jcc'],
  siteTactic: SITE_TACTIC,
  slotSite: Uint32Array.of(0, 2, 1, 3),
  aggregates: [],
  missed: NONE,
})

/** The same with more points at the end; each derived from slots to add and slots to take away. */
export const withDerived = (
  manifest: Manifest, derived: readonly { rva: number; plus: readonly [slot: number, rva: number][]; minus: readonly [slot: number, rva: number][] }[],
): Manifest => {
  const { points, asked } = manifest
  const more = derived.length
  const all = <T extends Uint8Array | Uint32Array>(column: T, values: readonly number[]): T =>
    (column instanceof Uint8Array ? Uint8Array.of(...column, ...values) : Uint32Array.of(...column, ...values)) as T
  const terms = derived.flatMap(({ plus, minus }) => [...plus.map(([slot, rva]) => [2 * slot, rva]), ...minus.map(([slot, rva]) => [2 * slot + 1, rva])])
  let start = points.term.length
  const starts = derived.map(({ plus, minus }) => (start += plus.length + minus.length))
  return {
    ...manifest,
    asked: {
      kind: all(asked.kind, [4]), name: all(asked.name, [0]), start: all(asked.start, [VFS_READ]), end: all(asked.end, [0x2010]),
      offset: all(asked.offset, [0]), title: all(asked.title, [0]), aggregate: all(asked.aggregate, [1]), always: all(asked.always, [1]),
    },
    points: {
      count: points.count + more,
      of: all(points.of, derived.map(() => asked.kind.length)), rva: all(points.rva, derived.map(({ rva }) => rva)),
      to: all(points.to, derived.map(() => NONE)), refusal: all(points.refusal, derived.map(() => 0)),
      nearest: all(points.nearest, derived.map(() => NONE)), derived: all(points.derived, derived.map(() => 1)),
      termStart: all(points.termStart, starts), term: all(points.term, terms.map(([term]) => term!)),
      termRva: all(points.termRva, terms.map(([, rva]) => rva!)),
    },
  }
}
