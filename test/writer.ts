// ELF files made in memory, for tests. In: sections, of which several may share the same bytes of the file. Out: an
// x86-64 executable with a section table.
// Left out: program headers. Nothing is checked: what is written may be as wrong as the test wants it.

export interface Made {
  readonly name: string
  readonly type: number //  SHT_*
  readonly flags?: number // SHF_*
  readonly address?: bigint
  readonly bytes: Uint8Array // the same array: the same place in the file
  readonly link?: string //   name of a section
  readonly info?: number
  readonly entrySize?: number
}

const HEADER = 64
const ROW = 64

export const writeElf = (sections: readonly Made[]): Buffer => {
  const names = [...sections.map(({ name }) => name), '.shstrtab']
  const nameAt = new Map<string, number>()
  let strings = '\0'
  for (const name of names) {
    if (nameAt.has(name)) continue
    nameAt.set(name, strings.length)
    strings += `${name}\0`
  }
  const all: Made[] = [{ name: '', type: 0, bytes: new Uint8Array(0) }, ...sections,
    { name: '.shstrtab', type: 3, bytes: Buffer.from(strings, 'latin1') }]
  nameAt.set('', 0)
  const place = new Map<Uint8Array, number>()
  let end = HEADER
  for (const { bytes } of all) {
    if (place.has(bytes)) continue
    place.set(bytes, end)
    end = Math.ceil((end + bytes.length) / 8) * 8
  }
  const file = Buffer.alloc(end + all.length * ROW)
  file.set(Buffer.from('7f454c46020101', 'hex'))
  file.writeUInt16LE(2, 16)
  file.writeUInt16LE(62, 18)
  file.writeUInt32LE(1, 20)
  file.writeBigUInt64LE(BigInt(end), 40)
  file.writeUInt16LE(HEADER, 52)
  file.writeUInt16LE(ROW, 58)
  file.writeUInt16LE(all.length, 60)
  file.writeUInt16LE(all.length - 1, 62)
  for (const [bytes, at] of place) file.set(bytes, at)
  all.forEach(({ name, type, flags = 0, address = 0n, bytes, link, info = 0, entrySize = 0 }, i) => {
    const row = end + i * ROW
    file.writeUInt32LE(nameAt.get(name)!, row)
    file.writeUInt32LE(type, row + 4)
    file.writeBigUInt64LE(BigInt(flags), row + 8)
    file.writeBigUInt64LE(address, row + 16)
    file.writeBigUInt64LE(BigInt(place.get(bytes)!), row + 24)
    file.writeBigUInt64LE(BigInt(bytes.length), row + 32)
    file.writeUInt32LE(link === undefined ? 0 : all.findIndex((section) => section.name === link), row + 40)
    file.writeUInt32LE(info, row + 44)
    file.writeBigUInt64LE(1n, row + 48)
    file.writeBigUInt64LE(BigInt(entrySize), row + 56)
  })
  return file
}

export interface MadeSymbol {
  readonly name: number //  offset of its name in the string table
  readonly value: bigint
  readonly size?: number
  readonly info?: number // binding << 4 | STT_*
  readonly shndx?: number
}

export const writeSymbols = (symbols: readonly MadeSymbol[]): Buffer => {
  const rows = Buffer.alloc(symbols.length * 24)
  symbols.forEach(({ name, value, size = 0, info = 0x12, shndx = 1 }, i) => {
    rows.writeUInt32LE(name, i * 24)
    rows[i * 24 + 4] = info
    rows.writeUInt16LE(shndx, i * 24 + 6)
    rows.writeBigUInt64LE(value, i * 24 + 8)
    rows.writeBigUInt64LE(BigInt(size), i * 24 + 16)
  })
  return rows
}
