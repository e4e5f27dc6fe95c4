// What second.ts uses of capstone-wasm, whose own typings its package.json hides from NodeNext resolution.
declare module 'capstone-wasm' {
  export interface Insn {
    size: number
    mnemonic: string
    opStr: string
  }
  export class Capstone {
    constructor(arch: number, mode: number)
    disasm(data: Uint8Array, options: { address: bigint; count: number }): Insn[]
    close(): void
  }
  export const Const: { CS_ARCH_X86: number; CS_MODE_64: number }
  export const loadCapstone: () => Promise<void>
}
