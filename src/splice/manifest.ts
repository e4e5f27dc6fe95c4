// What people and reports are told about a plan: plain data, written to the bundle's manifest as MessagePack with these
// very names. Addresses are rvas; "at" is function+0xoffset. The kernel never reads it.

export interface Manifest {
  tool: { name: 'kerninst'; version: string }
  image: {
    kind: 'vmlinux' | 'vmlinuz'
    release: string //   uname -r, from linux_banner
    buildId: string //   hex
    base: string //      '0x...', link-time address of rva 0
    textSha256: string // hex, of the bytes that were analysed
    symbols: string[] //  where names came from: 'symtab', 'kallsyms', 'kallsyms-file'
  }
  programs: string[] //  the probe programs, as given
  points: ManifestPoint[]
  refusals: ManifestRefusal[]
  sites: ManifestSite[] // index = site index in the payload
  slots: number
  text: { bytes: number; instrumentableBytes: number }
}

export interface ManifestPoint {
  point: string //     'entry:vfs_read', 'call:vfs_read+0x3a'
  aggregate: string // '' for @, 'name' for @name
  at: string //        'vfs_read+0x5': the first place that is counted, or where a derived count is of
  derived: boolean //  solved for from counts taken elsewhere
  parts: ManifestPart[] // the point's count is the sum of these slots,
  less: ManifestPart[] //  less the sum of these
}

export interface ManifestPart {
  at: string //        the place observed, e.g. one of a function's returns; of a derived count, the place counted
  slot: number
  site: number //      index of the site that counts it
}

export interface ManifestRefusal {
  point: string
  code: string //      a RefusalCode
  reason: string
  nearest: string //   a point that can be served, or ''
}

export interface ManifestSite {
  rva: number
  at: string
  tactic: string
  instruction: string // what was there
  listing: string[] //   the patch, one instruction a line
}
