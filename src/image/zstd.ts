// In: ZSTD frames, as kernels are packed (a window of 128 MiB). Out: the bytes that were packed.
// Invariant: exactly `size` bytes come out, or it throws.
// The decoder is the reference one in WebAssembly (@foxglove/wasm-zstd). That package loads it behind a promise; here
// its loader is called with an instance made at once, so that reading an image stays synchronous. Each unpacker has an
// instance of its own: its memory goes with the result, and damaged data can spoil nothing but this unpacker.

import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { EXIT, KerninstError, assert } from '../error.js'

export const ZSTD_MAGIC = 0xfd2fb528

/** What is used of WebAssembly, which TypeScript declares for browsers only. */
declare const WebAssembly: {
  readonly Module: new (code: Uint8Array) => object
  readonly Instance: new (module: object, imports: object) => { readonly exports: object }
}

/** What of the loader's module object is used (its README and index.js, 1.0.1). */
interface Loader {
  instantiateWasm: (imports: object, ready: (instance: { readonly exports: object }) => void) => object
  print: () => void
  printErr: () => void
  HEAPU8?: Uint8Array
  _malloc?: (bytes: number) => number
  _decompress?: (to: number, toBytes: number, from: number, fromBytes: number) => number
}

const bad = (what: string): KerninstError => new KerninstError(EXIT.data, `ZSTD data ${what}`)

/**
 * Makes what unpacks frame after frame into the same memory. After it has thrown it is not to be used again.
 * @param maxPacked bytes of a packed frame, at most
 * @param size what each must unpack to, in bytes
 * @returns throws KerninstError 65 for data that are damaged, or do not unpack to `size` bytes
 */
export const zstdUnpacker = (maxPacked: number, size: number): ((packed: Uint8Array) => Uint8Array) => {
  const require = createRequire(import.meta.url)
  const start = require('@foxglove/wasm-zstd/dist/wasm-zstd.js') as (loader: Loader) => Promise<unknown>
  const code = readFileSync(require.resolve('@foxglove/wasm-zstd/dist/wasm-zstd.wasm'))
  const loader: Loader = {
    instantiateWasm: (imports, ready) => {
      const instance = new WebAssembly.Instance(new WebAssembly.Module(code), imports)
      ready(instance)
      return instance.exports
    },
    print: () => {},
    printErr: () => {},
  }
  start(loader).catch(() => {}) // a failure shows in what is missing below
  const { _malloc: malloc, _decompress: decompress } = loader
  assert(malloc !== undefined && decompress !== undefined, 'wasm-zstd cannot be loaded at once')
  const from = malloc(maxPacked)
  const to = malloc(Math.max(size, 1))
  if (from === 0 || to === 0) throw bad(`need more memory than there is (${size} bytes)`)
  return (packed) => {
    assert(packed.length <= maxPacked, 'zstd: more than was said')
    loader.HEAPU8!.set(packed, from)
    let done: number
    try {
      done = decompress(to, size, from, packed.length)
    } catch {
      throw bad('are corrupt')
    }
    if (done < 0) throw bad(`are corrupt, or unpack to more than ${size} bytes`)
    if (done !== size) throw bad(`unpack to ${done} bytes, not ${size}`)
    return loader.HEAPU8!.subarray(to, to + done)
  }
}

/**
 * @param size what it must unpack to, in bytes
 * @throws KerninstError 65 for data that are damaged, or do not unpack to `size` bytes
 */
export const unpackZstd = (packed: Uint8Array, size: number): Uint8Array => zstdUnpacker(packed.length, size)(packed)
