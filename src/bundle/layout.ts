// The binary contract of kmod/uapi/kerninst.h as numbers: the offset of every field, the size of every struct, every
// constant. In: nothing. Out: tables of numbers, the one place in src/ that holds them. Invariant: test/bundle.test.ts
// compiles the header and compares each name both ways, so a field that is added, moved or renamed there fails here.
// Field names are the header's, in camel case. Everything is little-endian. What a field means is said in the header.

/** Bytes of each struct. */
export const SIZE = {
  payload: 160,
  site: 40,
  form: 16,
  fixup: 12,
  heap: 192,
  directory: 4096,
  dump: 256,
  misfit: 32,
  request: 128,
  status: 144,
} as const

/** struct kerninst_payload: field -> byte offset. */
export const PAYLOAD = {
  magic: 0,
  version: 8,
  headerBytes: 12,
  payloadBytes: 16,
  linkBase: 24,
  imageBytes: 32,
  textStart: 36,
  textEnd: 40,
  buildIdRva: 44,
  buildId: 48,
  anchorRva: 68,
  manifestSha256: 80,
  siteOffset: 112,
  siteCount: 116,
  formOffset: 120,
  formCount: 124,
  fixupOffset: 128,
  fixupCount: 132,
  codeOffset: 136,
  codeBytes: 140,
  slotCount: 144,
  kprobeRva: 148,
  frameWords: 156,
} as const

/** struct kerninst_site. */
export const SITE = {
  rva: 0,
  patch: 4,
  length: 8,
  kind: 9,
  formClass: 10,
  relocKind: 11,
  tail: 12,
  expected: 16,
  relocOffset: 32,
  flags: 33,
  reserved: 34,
} as const

/** struct kerninst_form. */
export const FORM = { formClass: 0, kind: 1, bytes: 2, target: 8, reserved: 12 } as const

/** struct kerninst_fixup. */
export const FIXUP = { offset: 0, value: 4, kind: 8, trail: 9, reserved: 10 } as const

/** struct kerninst_heap. */
export const HEAP = {
  magic: 0,
  version: 8,
  headerBytes: 12,
  buildId: 16,
  state: 36,
  payloadSha256: 40,
  slide: 72,
  slotCount: 80,
  cpuCount: 84,
  cpuStride: 88,
  appliedNs: 96,
  removedNs: 104,
  stopNs: 112,
  siteCount: 120,
  resets: 124,
  resetNs: 128,
  snapshotNs: 136,
  directoryPfn: 144,
  pageCount: 152,
  reserved: 160,
} as const

/** struct kerninst_directory. */
export const DIRECTORY = { nextPfn: 0, pfn: 8 } as const

/** struct kerninst_dump. */
export const DUMP = {
  magic: 0,
  version: 8,
  headerBytes: 12,
  heapBytes: 16,
  dumpedNs: 24,
  host: 32,
  release: 97,
  reserved: 162,
} as const

/** struct kerninst_request. */
export const REQUEST = {
  payload: 0,
  signature: 8,
  payloadBytes: 16,
  signatureBytes: 20,
  reason: 24,
  index: 28,
  value: 32,
  slide: 40,
  stopNs: 48,
  live: 56,
  maxStopNs: 80,
  misfits: 88,
  misfitRoom: 96,
  misfitCount: 100,
  flags: 104,
  trust: 108,
  stops: 112,
  reserved: 116,
  memoryBytes: 120,
} as const

/** struct kerninst_misfit. */
export const MISFIT = { site: 0, reason: 4, other: 8, live: 16 } as const

/** struct kerninst_status. */
export const STATUS = {
  state: 0,
  version: 4,
  heapBytes: 8,
  patchAreaBytes: 16,
  codeBytes: 24,
  slide: 32,
  appliedNs: 40,
  removedNs: 48,
  stopNs: 56,
  siteCount: 64,
  slotCount: 68,
  foreignSites: 72,
  unsignedOk: 76,
  payloadSha256: 80,
  resetNs: 112,
  memoryBytes: 120,
  resets: 128,
  tied: 132,
  reserved: 136,
} as const

/** Bytes of the fields that are not one integer of 1, 2, 4 or 8 bytes. */
export const LENGTH = {
  magic: 8,
  buildId: 20,
  sha256: 32,
  anchors: 3,
  kprobes: 2,
  directoryPfns: 511,
  expected: 16,
  formBytes: 6,
  host: 65,
  live: 24,
} as const

export const VERSION = 4
export const PAYLOAD_MAGIC = 'KINSTPLD'
export const HEAP_MAGIC = 'KINSTHEA'
export const DUMP_MAGIC = 'KINSTDMP'

/** KERNINST_MAX_*: what all three parts refuse to go beyond. */
export const MAX = {
  payload: 256 * 2 ** 20, //  bytes
  signature: 64 * 2 ** 10, // bytes
  sites: 2 ** 20,
  forms: 256,
  fixups: 8 * 2 ** 20,
  code: 64 * 2 ** 20, //      bytes
  slots: 2 ** 20,
} as const

/** Alignment of the tables in the payload, and of the code. */
export const TABLE_ALIGN = 8
export const CODE_ALIGN = 16

/** KERNINST_HEAP_*. */
export const HEAP_STATE = { applied: 1, removed: 2 } as const

/** struct kerninst_status: state. */
export const MODULE_STATE = { idle: 0, applied: 1, removed: 2, partial: 3 } as const

/** KERNINST_OK and KERNINST_E_*: why the module refused a request. */
export const REASON = {
  ok: 0,
  tooLarge: 1,
  malformed: 2,
  unsigned: 3,
  noKey: 4,
  badSignature: 5,
  buildId: 6,
  slide: 7,
  siteBytes: 8,
  busy: 9,
  notApplied: 10,
  space: 11,
  memory: 12,
  reach: 13,
  foreign: 14,
  stop: 15,
  stopLimit: 16,
  kprobe: 17,
  optimizer: 18,
  clock: 19,
} as const

/** Flags of a request, and what its answer says of the signature. */
export const REQUEST_FLAG = { tied: 1 } as const
export const TRUST = { none: 0, builtin: 1, kernel: 2 } as const

/** The least multiple of `to` that is not below `value`. */
export const alignUp = (value: number, to: number): number => Math.ceil(value / to) * to
