// What a plan comes to: the tables that the payload carries, in memory. bundle/payload.ts writes them, the module reads
// them; kmod/uapi/kerninst.h says what every field means.

/** A site's kind: which bytes the splice writes (KERNINST_JMP, ...). */
export const SITE_KIND = { jmp: 0, call: 1, jcc: 2, hop: 3 } as const

/**
 * What a site's bytes are, where they are not one instruction (KERNINST_WINDOW, ...): several instructions that nothing
 * jumps into and no call returns into; or bytes that nobody runs while the bundle is applied but who hops there.
 */
export const SITE_FLAG = { window: 1, springboard: 2 } as const

/** How the expected bytes depend on the slide (KERNINST_RELOC_*). */
export const RELOC_KIND = { none: 0, add: 1, sub: 2 } as const

/** A form: five bytes that the kernel may have put at a return site (KERNINST_FORM_*). */
export const FORM_KIND = { literal: 0, jmp: 1 } as const

/** How a field of the code is completed on the target (KERNINST_FIX_*). */
export const FIXUP_KIND = { rel32: 0, abs32: 1, pcpu32: 2, slot64: 3, frame64: 4 } as const

/** Bytes of the field that a fixup completes. */
export const fixupBytes = (kind: number): number => (kind === FIXUP_KIND.slot64 || kind === FIXUP_KIND.frame64 ? 8 : 4)

/** Frame words that the module fills, and how many these are: when counting began, and nanoseconds of 2^32 ticks (KERNINST_FRAME_*). */
export const FRAME = { since: 0, scale: 1, head: 2 } as const

/** KERNINST_MAX_FRAME_WORDS. */
export const MAX_FRAME_WORDS = 8 * 2 ** 20

export const EXPECTED_BYTES = 16
export const FORM_BYTES = 6

export interface PatchTables {
  readonly siteCount: number
  readonly siteRva: Uint32Array //          site -> rva of its first byte; ascending
  readonly sitePatch: Uint32Array //        site -> offset of its patch in code; a hop: the springboard's site
  readonly siteLength: Uint8Array //        site -> bytes, 5..15; a hop 2..15, a window 5..16, a springboard 5 or (hop) 2
  readonly siteKind: Uint8Array //          site -> SITE_KIND
  readonly siteFormClass: Uint8Array //     site -> 0, or the class of forms that its live bytes may have
  readonly siteFlags: Uint8Array //         site -> 0 or one of SITE_FLAG
  readonly siteRelocKind: Uint8Array //     site -> RELOC_KIND
  readonly siteRelocOffset: Uint8Array //   site -> offset of the adjusted 32-bit field in its bytes
  readonly siteTail: Uint32Array //         site -> offset in code of the live form's 5 bytes, a window's bypass, or NONE
  readonly siteExpected: Uint8Array //      site * EXPECTED_BYTES -> link-time bytes, zero past siteLength

  readonly formCount: number
  readonly formClass: Uint8Array //         form -> class, 1..255
  readonly formKind: Uint8Array //          form -> FORM_KIND
  readonly formBytes: Uint8Array //         form * FORM_BYTES -> literal bytes (five, and a zero)
  readonly formTarget: Uint32Array //       form -> rva that a jmp form jumps to, or NONE

  readonly fixupCount: number
  readonly fixupOffset: Uint32Array //      fixup -> offset of the field in code; ascending
  readonly fixupValue: Uint32Array //       fixup -> rva, per-CPU offset, slot or frame word
  readonly fixupKind: Uint8Array //         fixup -> FIXUP_KIND
  readonly fixupTrail: Uint8Array //        fixup -> bytes from the field's end to the instruction's end

  readonly code: Uint8Array
  readonly slotCount: number
  readonly frameWords: number // u64s that all CPUs share, for what is remembered of calls; 0: none
}

/** What the payload says of the kernel that it is for. */
export interface TargetIdentity {
  readonly base: bigint //       link-time address of rva 0
  readonly imageBytes: number // every rva named in the tables is below this
  readonly textStart: number //  rva; all sites lie in [textStart, textEnd)
  readonly textEnd: number
  readonly buildId: Uint8Array // 20 bytes
  readonly buildIdRva: number // where the running kernel holds them
  readonly anchors: readonly [number, number, number] // rvas of stop_machine, vmap, init_task
  readonly kprobes: readonly [number, number] // rvas of kprobe_mutex, kprobe_table; both NONE: a kernel without kprobes
}
