// Programs in plans of whole kernels (splice/spots.ts, hooks.ts): each runs in its point's function; the plan checker accepts
// them, and notices whatever is changed in them; one place takes many, and refuses too many.

import { homedir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { buildGraph } from '../src/cfg/graph.js'
import { SecondDecoder } from '../src/code/second.js'
import { loadImage } from '../src/image/image.js'
import { solveLiveness } from '../src/liveness/live.js'
import { resolvePoints } from '../src/probe/points.js'
import { readRequests } from '../src/probe/requests.js'
import { findTaskLayout } from '../src/probe/task.js'
import { checkPlan } from '../src/splice/check.js'
import type { Encoded } from '../src/splice/encode.js'
import { makePlan, type Plan } from '../src/splice/plan.js'
import { CODES } from '../src/splice/refusal.js'
import { lottery, seed, seedNote } from './lottery.js'

const CACHE = process.env['KERNINST_CACHE'] ?? join(process.env['XDG_CACHE_HOME'] ?? join(homedir(), '.cache'), 'kerninst')
const KERNELS = ['6.1-cloud', '6.12-cloud']

const refusals = ({ points }: Plan): string[] => Array.from(points.refusal, (code) => CODES[code]!).filter((code) => code !== '')

for (const name of KERNELS) {
  t.test(name, { timeout: 0 }, async (t) => {
    t.comment(seedNote)
    const random = lottery(seed)
    const image = loadImage(join(CACHE, 'kernels', name, 'vmlinux'))
    const live = solveLiveness(buildGraph(image))
    const second = await SecondDecoder.load()
  const plan = (...texts: string[]): Plan => {
    const { rows, programs, aggregates } = readRequests(texts.map((text) => ({ text, source: 't' })))
    return makePlan(live, second, resolvePoints(image, rows), { programs: { programs, aggregates, task: findTaskLayout(image), spanBits: 10 } })
  }
  const text = 'entry:vfs_*, block:vfs_read, insn:vfs_write+0x20, call:vfs_statx, edge:vfs_fsync_range ' +
    '/reg("rdi") > 7 && (cpu == 1 || pid != tid)/ { @a = hist(reg("rsi")); @b[cpu] = max(ticks); @ = count(); @c[reg("rax") & 7] = avg(caller) } ' +
    'return:do_sys_openat2, return:vfs_write /retval < 0/ { @r = lhist(retval, -40, 0, 4); @ = count() } ' +
    'entry:vfs_write { @w = count(); @d = sum(arg2) } return:vfs_writev { @t = max(retval) }'
  const planned = plan(text)
  const checked = checkPlan(live.graph, planned.encoded, planned.reserved, second)
  const { encoded, points } = planned
  const { hooks } = encoded
  let served = 0
  for (let p = 0; p < points.count; p++) {
    if (points.refusal[p] !== 0) continue
    served++
    const { name, program } = points.asked[points.of[p]!]!
    if (program < 0 || name.startsWith('return:') || points.termStart[p] === points.termStart[p + 1]) continue
    // The hook of its count is in the same function, at an instruction of the image.
    const slot = points.term[points.termStart[p]!]! >>> 1
    const h = hooks.firstSlot.findIndex((first, i) => slot >= first && slot < first + hooks.slotCount[i]!)
    if (h < 0) t.fail(`${name}: no hook counts in slot ${slot}`)
    else if (image.functions.functionAt(hooks.rva[h]!) !== points.asked[points.of[p]!]!.fn) t.fail(`${name}: in another function`)
  }
  t.comment(`${served} of ${points.count} points, ${hooks.count} hooks, ${checked.instructions} instructions in patches`)
  t.ok(hooks.count > 80 && served > points.count * 0.9, 'most are served')
  t.same(refusals(planned).filter((code) => !/^(too-short|no-springboard|no-place|no-return-address|outside-text|alternative|exception-table|bug-table|no-instruction)$/.test(code)), [])

  const wrong = (what: string, change: (encoded: Encoded) => Encoded): void => {
    t.throws(() => checkPlan(live.graph, change(encoded), planned.reserved, second), /plan checker/, what)
  }
  const busy = hooks.end.findIndex((end, h) => end - hooks.start[h]! > 100)
  wrong('a register more is live', (all) => ({ ...all, hooks: { ...hooks, live: hooks.live.map((set) => set | 0xffff) } }))
  wrong('the end is elsewhere', (all) => ({ ...all, hooks: { ...hooks, end: hooks.end.map((end, h) => (h === busy ? end - 5 : end)) } }))
  wrong('a program is forgotten', (all) => ({ ...all, hooks: { ...hooks, count: hooks.count - 1 } }))
  wrong('other slots', (all) => ({ ...all, hooks: { ...hooks, firstSlot: hooks.firstSlot.map((first) => first + 1) } }))
  wrong('an aggregate is shorter', (all) => ({ ...all, layout: { ...all.layout, size: all.layout.size.map((size) => (size > 20 ? size - 20 : size)) } }))
  wrong('an aggregate in two pieces', (all) => ({ ...all, layout: { ...all.layout, first: all.layout.first.map((first, a) => (a === all.layout.first.length - 1 ? 4095 : first)) } }))
  wrong('nobody may read the task', (all) => ({ ...all, task: undefined }))
  for (let k = 0; k < 60; k++) {
    const code = encoded.tables.code.slice()
    const at = hooks.start[busy]! + random(hooks.end[busy]! - hooks.start[busy]!)
    code[at] = code[at]! ^ (1 << random(8))
    try {
      checkPlan(live.graph, { ...encoded, tables: { ...encoded.tables, code } }, planned.reserved, second)
    } catch (error) {
      if (!(error instanceof Error) || !error.message.startsWith('plan checker: ')) t.fail(String(error))
    }
  }

  // Many at one place, each counted by itself; and too many.
  const many = Array.from({ length: 300 }, (_, i) => `entry:vfs_read /arg2 > ${i}/ { @n${i} = count() }`)
  const all = plan(...many)
  checkPlan(live.graph, all.encoded, all.reserved, second)
  t.same([all.encoded.hooks.count, all.encoded.hooks.slotCount[0]], [1, 300])
  t.throws(() => plan(...Array.from({ length: 3000 }, (_, i) => `entry:vfs_read /arg2 > ${i}/ { @n${i} = count() }`)), { exit: 65, message: /come to \d+ bytes of code/ })
  t.end()
  })
}
