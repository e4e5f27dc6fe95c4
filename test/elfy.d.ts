// elfy has no types of its own: only what image.test.ts uses.
declare module 'elfy' {
  interface Section {
    readonly name: string
    readonly type: string
    readonly off: number
    readonly size: number
    readonly data: Buffer
  }
  const elfy: { parse(file: Buffer): { readonly body: { readonly sections: readonly Section[] } } }
  export default elfy
}
