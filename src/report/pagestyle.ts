// How the page looks: on a bright screen, a dark one, on paper.

export const STYLE = `
:root {
  color-scheme: light dark;
  --paper: #fdfdfb; --ink: #1c1d21; --soft: #595c66; --rule: #d9dae0; --bar: #2f6db5; --band: #f0f1f5; --warn: #8a3b00; --link: #1d55a0;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #15171c; --ink: #e6e7eb; --soft: #a3a7b3; --rule: #343842; --bar: #6aa5ec; --band: #1e2129; --warn: #f0a868; --link: #8bbcf5;
  }
}
* { box-sizing: border-box }
body { margin: 0; background: var(--paper); color: var(--ink); font: 15px/1.5 system-ui, sans-serif }
header, main, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.5rem }
header { padding-top: 2rem }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem }
h2 { font-size: 1.15rem; margin: 2.5rem 0 .5rem; padding-top: .75rem; border-top: 1px solid var(--rule) }
h3 { font-size: 1rem; margin: 1.5rem 0 .25rem }
p { max-width: 48rem; margin: .5rem 0 }
a { color: var(--link) }
.skip { position: absolute; left: -99rem }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem }
.lead, .note, caption, dt { color: var(--soft) }
.warn { color: var(--warn) }
code, .at, td.name, pre { font-family: ui-monospace, "DejaVu Sans Mono", monospace; font-size: .92em; overflow-wrap: anywhere }
pre { background: var(--band); padding: .75rem; overflow-x: auto; white-space: pre-wrap }
dl.facts { display: grid; grid-template-columns: max-content 1fr; gap: .1rem 1.25rem; margin: 1rem 0 }
dd { margin: 0; overflow-wrap: anywhere }
ul.cards { display: flex; flex-wrap: wrap; gap: .75rem; list-style: none; margin: 1.25rem 0; padding: 0 }
ul.cards li { background: var(--band); padding: .6rem 1rem; min-width: 8.5rem }
ul.cards b { display: block; font-size: 1.35rem; font-weight: 600; font-variant-numeric: tabular-nums }
nav ul { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; list-style: none; padding: 0; margin: 1rem 0 0 }
.scroll { overflow-x: auto }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start; gap: 0 1.5rem }
table { border-collapse: collapse; margin: .5rem 0; font-variant-numeric: tabular-nums }
caption { text-align: left; padding-bottom: .35rem }
th, td { padding: .22rem .9rem .22rem 0; text-align: left; vertical-align: middle; border-bottom: 1px solid var(--rule) }
th { font-weight: 600; white-space: nowrap }
td.number, th.number { text-align: right }
tbody tr:hover { background: var(--band) }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; cursor: pointer }
th[aria-sort] button::after { content: " ↕"; color: var(--soft) }
th[aria-sort="descending"] button::after { content: " ↓" }
th[aria-sort="ascending"] button::after { content: " ↑" }
svg rect, svg.spread path, svg.line path { fill: var(--bar) }
svg.bar, svg.spread, svg.line { display: block }
svg.bar + svg.bar { margin-top: 2px }
svg.flow { display: block; margin: .5rem 0; font: 12px ui-monospace, "DejaVu Sans Mono", monospace }
svg.flow text { fill: var(--ink) }
svg.flow .edge text { font-size: 10px; stroke: var(--paper); stroke-width: 3px; paint-order: stroke }
svg.flow rect.block { stroke: var(--soft) }
svg.flow .way { fill: none; stroke: var(--soft) }
svg.flow .head { fill: var(--soft) }
svg.flow .cold .way { stroke-dasharray: 3 3 }
table.code { font-size: .92em }
table.code td { border-bottom: 0; padding-top: .05rem; padding-bottom: .05rem; vertical-align: top; white-space: nowrap }
tr.block th { background: var(--band); font-weight: 400; padding: .25rem .5rem }
tr.block svg.bar { display: inline-block }
tr.block:target th { outline: 2px solid var(--link) }
input[type=search] { font: inherit; padding: .3rem .5rem; width: 20rem; max-width: 100%; color: inherit; background: var(--paper); border: 1px solid var(--soft) }
details { margin: .5rem 0 }
summary { cursor: pointer }
:focus-visible { outline: 2px solid var(--link); outline-offset: 2px }
footer { margin-top: 3rem; padding-top: 1rem; padding-bottom: 2rem; border-top: 1px solid var(--rule); color: var(--soft) }
@media print {
  :root { --paper: #fff; --ink: #000; --soft: #444; --rule: #bbb; --band: #fff; --bar: #555 }
  nav, input, .filter { display: none }
  body { font-size: 10pt }
  h2 { break-after: avoid }
  tr { break-inside: avoid }
}
`
