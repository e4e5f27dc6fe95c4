// What a memory image is, whatever its format: pages of physical memory, by page frame number (pfn).
// In: nothing. Out: the interface that elfcore.ts and kdump.ts implement, and what they share.

export const PAGE = 4096
/** x86-64 has at most 52 bits of physical address. */
export const MAX_PFNS = 2 ** 40

export interface PhysicalMemory {
  readonly path: string
  /** The dead machine's name, '' where the image does not say. */
  readonly host: string
  /** Its kernel's, as uname -r; likewise. */
  readonly release: string
  /**
   * Reads one page. False: the image does not have it.
   * @param into PAGE bytes
   * @throws KerninstError: 65 where the image is damaged, 74 where it cannot be read
   */
  readPage(pfn: number, into: Uint8Array): boolean
  /**
   * Looks at every page that is not zero anyway, and calls `found` for those that start with `head` (12 bytes, the
   * first not zero). A page may be found twice. Yields, some times a second, how much is done, 0..1.
   */
  scan(head: Uint8Array, found: (pfn: number) => void): Generator<number, void>
  close(): void
}

/** A text in a field of fixed length. */
export const fieldText = (bytes: Uint8Array): string => {
  const end = bytes.indexOf(0)
  return Buffer.from(end < 0 ? bytes : bytes.subarray(0, end)).toString('utf8')
}

const MAX_RELEASE = 64 // characters of uname's fields

/** What VMCOREINFO, which the kernel writes for crash tools as lines of NAME=value, says of its release. */
export const releaseIn = (vmcoreinfo: Uint8Array): string =>
  /^OSRELEASE=(.*)$/m.exec(Buffer.from(vmcoreinfo).toString('latin1'))?.[1]?.slice(0, MAX_RELEASE) ?? ''
