"""How the day's page looks: on a desk, a phone and paper, by day and by night. Colours have the contrast of WCAG AA."""

CSS = """
:root { --paper: #f6f7f9; --card: #ffffff; --ink: #1b2330; --soft: #566073; --line: #dfe3ea; --bar: #2f6fd0;
  --quiet: #76839a; --good: #1c7c4a; --soon: #9a5b00; --bad: #b3261e; --odd: #6c4aa8; }
@media (prefers-color-scheme: dark) { :root { --paper: #12161d; --card: #1b212b; --ink: #e8ecf3; --soft: #a5b0c2;
  --line: #323b49; --bar: #6ea3f2; --quiet: #77849a; --good: #5cc48d; --soon: #e5ac4d; --bad: #ff8a80;
  --odd: #b79cec; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 1rem; max-width: 74rem; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
h1 { margin: 0; font-size: clamp(1.6rem, 4.5vw, 2.4rem); line-height: 1.15; letter-spacing: -.02em; }
h2 { margin: 0; font-size: 1.15rem; }
.kicker { margin: 0 0 .25rem; color: var(--soft); font-size: .85rem; letter-spacing: .04em; }
.settled { margin: .5rem 0 0; color: var(--soft); }
.project { display: inline-block; margin-right: 1.25rem; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(7.6rem, 1fr)); gap: .75rem; margin: 1.5rem 0; }
.tile, section { background: var(--card); border: 1px solid var(--line); border-radius: .75rem; }
.tile { display: flex; flex-direction: column; justify-content: space-between; padding: .75rem .9rem; }
.tile dt { color: var(--soft); font-size: .82rem; line-height: 1.3; }
.tile dd { margin: 0; font-size: 1.6rem; font-weight: 650; font-variant-numeric: tabular-nums; }
.tile.bad dd, .bad { color: var(--bad); } .tile.soon dd, .soon { color: var(--soon); }
td strong { white-space: nowrap; }
.good { color: var(--good); } .odd { color: var(--odd); }
main { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 1rem; }
section { padding: 1.1rem 1.25rem 1.25rem; min-width: 0; }
section:last-of-type { grid-column: 1 / -1; }
.lead { margin: .2rem 0 .9rem; color: var(--soft); font-size: .9rem; max-width: 46rem; }
table { width: 100%; border-collapse: collapse; font-size: .88rem; font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; } thead th { color: var(--soft); font-size: .8rem; }
td, th { padding: .28rem .5rem .28rem 0; vertical-align: top; overflow-wrap: anywhere; }
.number { text-align: right; padding-right: 0; padding-left: .75rem; white-space: nowrap; }
.wide { overflow-x: auto; margin-top: .9rem; } .wide tbody tr { border-top: 1px solid var(--line); }
.bars { table-layout: fixed; }
.bars thead th:first-child { width: 6.7rem; } .bars thead th:last-child { width: 7.2rem; }
.bars .bar { vertical-align: middle; padding-right: 0; }
.bar svg { display: block; width: 100%; height: .85rem; background: color-mix(in srgb, var(--line) 45%, transparent);
  border-radius: 2px; }
.columns { display: block; width: 100%; height: auto; max-width: 36rem; }
.columns text { fill: var(--soft); font-size: 11px; } .grid { stroke: var(--line); }
rect.plain { fill: var(--bar); } rect.quiet { fill: var(--quiet); } rect.good { fill: var(--good); }
rect.soon { fill: var(--soon); } rect.bad { fill: var(--bad); } rect.odd { fill: var(--odd); }
details { margin-top: .8rem; } summary { color: var(--soft); font-size: .85rem; cursor: pointer; }
footer { margin: 1.25rem 0 0; color: var(--soft); font-size: .82rem; }
@media (max-width: 46rem) { body { padding: 1.25rem .9rem; } main { grid-template-columns: minmax(0, 1fr); gap: .8rem; }
  section { padding: .95rem 1rem 1.05rem; } .tiles { grid-template-columns: repeat(2, 1fr); gap: .6rem; } }
@media print { :root { color-scheme: light; --paper: #ffffff; --card: #ffffff; --ink: #000000; --soft: #444444;
  --line: #cccccc;
  --bar: #2f6fd0; --quiet: #76839a; --good: #1c7c4a; --soon: #9a5b00; --bad: #b3261e; --odd: #6c4aa8; }
  @page { size: A4; margin: 14mm; } body { padding: 0; max-width: none; font-size: 11pt; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; } section, .tile { break-inside: avoid; }
  .tiles { grid-template-columns: repeat(8, 1fr); gap: 2mm; } .tile { padding: 2mm; } .tile dd { font-size: 14pt; }
  .tile dt { font-size: 8pt; } details { display: none; } h2 { break-after: avoid; } }
"""
