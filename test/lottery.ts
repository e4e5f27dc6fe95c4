// Chance for tests: one seed a run, from KERNINST_SEED or drawn, which every test that uses it prints; and sequences of
// numbers that follow from a seed alone.

/** The seed of this run. */
export const seed = Number(process.env['KERNINST_SEED'] ?? Math.floor(Math.random() * 2 ** 31))

/** How a test tells its seed. */
export const seedNote = `KERNINST_SEED=${seed}`

/** The next number below a bound. */
export type Lottery = (bound: number) => number

/** Numbers below a bound, from a seed: mulberry32. */
export const lottery = (from: number): Lottery => (bound) => {
  from = (from + 0x6d2b79f5) | 0
  let t = Math.imul(from ^ (from >>> 15), from | 1)
  t = (t + Math.imul(t ^ (t >>> 7), t | 61)) ^ t
  return ((t ^ (t >>> 14)) >>> 0) % bound
}
