// What assembly.ts uses of keystone-wasm, whose own typings its package.json hides from NodeNext resolution.
declare module 'keystone-wasm' {
  export class Keystone {
    constructor(arch: number, mode: number)
    asm(text: string): Uint8Array
  }
  export const Const: { KS_ARCH_X86: number; KS_MODE_64: number }
  /** @param settings emscripten's */
  export const loadKeystone: (settings: object) => Promise<void>
}
