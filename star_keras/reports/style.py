"""How a page looks: at any width, by day and by night."""

STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --faint: #6b6b70; --line: #dcdce0; --ground: #ffffff;
  --raised: #f5f5f7; --own: #0072b2; --other: #b8b8be; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececee; --faint: #a2a2a8; --line: #3c3c42;
  --ground: #17171a; --raised: #232327; --own: #56b4e9; --other: #66666d; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 17px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
  overflow-wrap: break-word; }
main { max-width: 1060px; margin: 0 auto; padding: 32px 20px 64px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 12px; }
h2 { font-size: 1.25rem; margin: 48px 0 14px; padding-top: 14px; border-top: 1px solid var(--line); }
p { max-width: 70ch; margin: 0 0 12px; }
.first { font-size: 1.15rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line);
  vertical-align: top; }
thead th { color: var(--faint); font-weight: 500; font-size: 0.85rem; }
tbody th { font-weight: 500; }
.numbers td { white-space: nowrap; }
.numbers td:last-child { white-space: normal; color: var(--faint); font-size: 0.85rem; padding-right: 0; }
.numbers td:nth-child(2) { font-weight: 600; }
.numbers .group th { font-weight: 700; padding-top: 18px; }
.numbers tbody tr:not(.group) th { padding-left: 12px; }
.notes { color: var(--faint); font-size: 0.88rem; padding-left: 1.2em; }
.columns { max-width: 640px; }
.columns th { white-space: nowrap; }
.columns td { width: 5.5em; }
.columns td.bars { width: 40%; padding-top: 12px; }
.bars span { display: block; height: 6px; margin-bottom: 2px; border-radius: 2px; }
.own { background: var(--own); } .other { background: var(--other); }
.key { display: inline-block; width: 0.7em; height: 0.7em; border-radius: 2px; }
figure { margin: 0; }
figcaption { color: var(--faint); font-size: 0.88rem; margin: 6px 0 10px; }
.pair { display: grid; gap: 24px; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr)); }
.pair > figure > img { width: 100%; max-width: 560px; background: #ffffff; border-radius: 8px; padding: 6px; }
.retrieved { display: grid; gap: 8px; grid-template-columns: repeat(var(--columns), 1fr); max-width: 460px; }
.retrieved img, .views img { width: 100%; image-rendering: pixelated; border-radius: 4px; display: block; }
.retrieved small { color: var(--faint); font-size: 0.75rem; }
.views { display: grid; gap: 18px; grid-template-columns: repeat(5, 1fr); }
.views dl { display: grid; grid-template-columns: auto auto; gap: 0 8px; margin: 0; font-size: 0.75rem; }
.views figcaption { margin: 4px 0; }
dt { color: var(--faint); } dd { margin: 0; }
.views dd { text-align: right; font-variant-numeric: tabular-nums; }
.facts { display: grid; grid-template-columns: max-content 1fr; gap: 6px 20px; margin: 0; }
.facts dd { overflow-wrap: anywhere; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: var(--raised); padding: 14px;
  border-radius: 8px; font-size: 0.85rem; }
@media (max-width: 700px) {
  body { font-size: 16px; }
  .numbers thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden; }
  .numbers tr { display: grid; grid-template-columns: repeat(3, 1fr); padding: 10px 0;
    border-bottom: 1px solid var(--line); }
  .numbers th, .numbers td:last-child { grid-column: 1 / -1; }
  .numbers tr.group { padding-bottom: 0; border: 0; }
  .numbers tbody tr:not(.group) th { padding-left: 0; }
  .numbers th, .numbers td { border: 0; padding: 1px 8px 1px 0; }
  .numbers td:not(:last-child)::before { content: attr(data-heading); display: block; color: var(--faint);
    font-size: 0.75rem; font-weight: 400; }
  .views { grid-template-columns: repeat(2, 1fr); }
  .views figure:nth-child(5n + 1) { grid-column: 1 / -1; max-width: 50%; }
  .facts { grid-template-columns: 1fr; gap: 0; } .facts dd { margin-bottom: 10px; }
}
"""
