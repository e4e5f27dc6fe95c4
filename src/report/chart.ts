// Pictures of numbers, as SVG without text: what they show stands beside them as text. In: counts. Out: markup.

import { el, type Markup } from './html.js'
import { greatest } from './order.js'
import { grouped, rateText } from './printable.js'

const BAR_WIDTH = 120
const BAR_HEIGHT = 10
const CPU_WIDTH = 5
const CPU_GAP = 1
const SPREAD_HEIGHT = 18
/** More CPUs than these are drawn thinner, and in one piece. */
const WIDE_CPUS = 32
/** More than these are drawn together: a page of a thousand rows has no room for a thousand bars in each. */
const MOST_BARS = 64

/** value / most, as so many hundredths of a pixel; no value but zero is drawn as nothing. */
const share = (value: bigint, most: bigint, pixels: number): number => {
  if (value <= 0n || most <= 0n) return 0
  return Math.max(1, Number((value * BigInt(pixels * 100)) / most) / 100)
}

/** How large a number is, beside the largest. */
export const bar = (value: bigint, most: bigint): Markup =>
  el('svg', { class: 'bar', width: BAR_WIDTH, height: BAR_HEIGHT, viewBox: `0 0 ${BAR_WIDTH} ${BAR_HEIGHT}`, 'aria-hidden': 'true' },
    el('rect', { width: share(value, most, BAR_WIDTH), height: BAR_HEIGHT }))

/** The sums of neighbours, so many of them at a time. */
const together = (counts: readonly bigint[], each: number): bigint[] =>
  Array.from({ length: Math.ceil(counts.length / each) }, (_, i) => counts.slice(i * each, (i + 1) * each).reduce((sum, count) => sum + count, 0n))

/** A bar for each CPU, or each host; where there are many, for several. */
export const spread = (all: readonly bigint[], by: string): Markup => {
  const each = Math.ceil(all.length / MOST_BARS)
  const counts = each > 1 ? together(all, each) : all
  const most = greatest(counts)
  const [width, gap] = counts.length > WIDE_CPUS ? [1, 0] : [CPU_WIDTH, CPU_GAP]
  const whole = counts.length * (width + gap)
  return el('svg', {
    class: 'spread', width: whole, height: SPREAD_HEIGHT, viewBox: `0 0 ${whole} ${SPREAD_HEIGHT}`, role: 'img',
    'aria-label': `by ${by}${each > 1 ? `, ${each} together` : ''}: ${counts.map(grouped).join(', ')}`,
  }, counts.length > WIDE_CPUS
    ? el('path', { d: counts.map((count, i) => `M${i} ${SPREAD_HEIGHT}v-${share(count, most, SPREAD_HEIGHT)}h1V${SPREAD_HEIGHT}z`).join('') })
    : counts.map((count, i) => {
      const height = share(count, most, SPREAD_HEIGHT)
      return el('rect', { x: i * (width + gap), y: SPREAD_HEIGHT - height, width, height })
    }))
}

const LINE_WIDTH = 120
const LINE_HEIGHT = 18

/** How something went over time: an area, evenly spaced. */
export const sparkline = (rates: readonly number[]): Markup => {
  const most = Math.max(...rates)
  const step = LINE_WIDTH / Math.max(1, rates.length)
  const tops = rates.map((rate, i) => {
    const y = (LINE_HEIGHT - (most > 0 && rate > 0 ? Math.max(1, (rate / most) * LINE_HEIGHT) : 0)).toFixed(1)
    return `L${(i * step).toFixed(1)} ${y}H${((i + 1) * step).toFixed(1)}`
  })
  return el('svg', {
    class: 'line', width: LINE_WIDTH, height: LINE_HEIGHT, viewBox: `0 0 ${LINE_WIDTH} ${LINE_HEIGHT}`, role: 'img',
    'aria-label': `over time, a second: ${rates.map(rateText).join(', ')}`,
  }, el('path', { d: `M0 ${LINE_HEIGHT}${tops.join('')}V${LINE_HEIGHT}Z` }))
}
