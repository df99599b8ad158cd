namespace Scalpel.Lab.Reports;

/// <summary>The style sheet of reports: reads on a phone, in the dark and on paper.</summary>
static class ReportStyle
{
    public const string Css = """
        :root { --paper: #fbfaf8; --card: #ffffff; --ink: #1d2125; --quiet: #5c646d; --line: #e3e0da; --accent: #0b6e6e; --heat: #b4432d; --good: #1e7145; --bad: #a8321f; --code: #f2f0ec; }
        @media (prefers-color-scheme: dark) { :root { --paper: #14171a; --card: #1b1f23; --ink: #e6e8ea; --quiet: #9aa3ac; --line: #2e343a; --accent: #5cc4bd; --heat: #ff8f6b; --good: #6ac792; --bad: #ff8f7a; --code: #23282d; } }
        * { box-sizing: border-box; }
        html { -webkit-text-size-adjust: 100%; }
        body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Liberation Sans", "DejaVu Sans", sans-serif; }
        main { max-width: 860px; margin: 0 auto; padding: 40px 24px 64px; }
        .brand { margin: 0; color: var(--accent); font-size: .82rem; font-weight: 600; letter-spacing: .04em; text-transform: uppercase; }
        h1 { margin: .2em 0 .35em; font-size: clamp(1.6rem, 5vw, 2.3rem); line-height: 1.18; letter-spacing: -.015em; overflow-wrap: anywhere; }
        h2 { margin: 0 0 .6em; font-size: 1.15rem; letter-spacing: -.005em; }
        .lead { margin: 0; max-width: 62ch; color: var(--quiet); font-size: 1.05rem; }
        .verdict { display: inline-block; margin: 18px 0 0; padding: 4px 12px; border: 1px solid currentColor; border-radius: 999px; font-weight: 600; font-size: .92rem; }
        .verdict.good { color: var(--good); } .verdict.bad { color: var(--bad); }
        .caveat { margin: 18px 0 0; padding: 10px 14px; border-left: 3px solid var(--heat); background: var(--card); }
        section { margin-top: 32px; padding: 22px 24px; background: var(--card); border: 1px solid var(--line); border-radius: 12px; }
        section > p { margin: 0 0 1em; max-width: 66ch; }
        section > :last-child { margin-bottom: 0; }
        .facts { margin: 0; padding: 0; list-style: none; font-size: 1.08rem; }
        .facts li + li { margin-top: .4em; }
        del { color: var(--quiet); } ins { margin-left: .25em; color: var(--accent); font-weight: 600; text-decoration: none; }
        table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
        th, td { padding: 9px 12px 9px 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; overflow-wrap: anywhere; }
        tbody tr:last-child > * { border-bottom: 0; }
        thead th { color: var(--quiet); font-size: .8rem; font-weight: 600; }
        tbody th { font-weight: 400; }
        .answers tbody th { width: 36%; } .answers td { width: 32%; }
        .scores td, .tensors td { white-space: nowrap; }
        th small { display: block; color: var(--quiet); font-size: .82rem; line-height: 1.4; }
        .kind { display: block; color: var(--quiet); font-size: .78rem; }
        .wanted .mark { color: var(--good); } .unwanted .mark { color: var(--bad); } .mark { font-weight: 700; margin-right: .35em; }
        .unseen { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
        .bar { display: inline-block; width: 56px; height: 7px; margin-right: 8px; border-radius: 4px; background: linear-gradient(to right, var(--accent) calc(var(--share) * 100%), var(--line) 0); }
        .map { margin: 22px 0 0; } .map + .map { margin-top: 30px; }
        figcaption span { color: var(--quiet); font-size: .88rem; } figcaption strong { display: block; }
        .cells { display: grid; grid-template-columns: max-content minmax(0, 1fr); column-gap: 8px; margin-top: 8px; color: var(--quiet); font-size: .8rem; }
        .tokens span { display: block; max-width: 8.5em; height: 22px; overflow: hidden; line-height: 22px; text-align: right; text-overflow: ellipsis; white-space: nowrap; }
        .tokens .subject { color: var(--ink); font-weight: 700; }
        .layers { position: relative; grid-column: 2; height: 3em; } .layers span { position: absolute; top: .25em; transform: translateX(-50%); } .layers em { position: absolute; top: 1.6em; width: 100%; font-style: normal; text-align: center; }
        svg { display: block; width: 100%; overflow: visible; }
        svg .empty { fill: var(--line); fill-opacity: .45; } svg .full { fill: var(--heat); } svg .peak { fill: none; stroke: var(--ink); stroke-width: 1.6; }
        .reading { margin: .5em 0 0; color: var(--quiet); font-size: .9rem; }
        dl { margin: 0; } dd { margin: 0; }
        .commands dt { margin-top: .8em; color: var(--quiet); font-size: .9rem; } .commands dt:first-child { margin-top: 0; }
        code, pre { font: .86rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
        pre { margin: 4px 0 0; padding: 10px 12px; border-radius: 8px; background: var(--code); white-space: pre-wrap; overflow-wrap: anywhere; }
        .provenance div { display: grid; grid-template-columns: 11em 1fr; gap: 12px; padding: 5px 0; border-bottom: 1px solid var(--line); font-size: .9rem; }
        .provenance div:last-child { border-bottom: 0; } .provenance dt { color: var(--quiet); } .provenance dd { overflow-wrap: anywhere; }
        @media (max-width: 640px) {
          main { padding: 24px 14px 40px; } section { padding: 18px 16px; margin-top: 20px; }
          thead { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); }
          tbody tr { display: block; padding: 10px 0; border-bottom: 1px solid var(--line); } tbody tr:last-child { border-bottom: 0; padding-bottom: 0; }
          tbody th, tbody td, .answers tbody th, .answers td { display: block; width: auto; padding: 2px 0; border: 0; white-space: normal; }
          tbody th { font-weight: 600; } tbody th small, .kind { font-weight: 400; }
          td::before { content: attr(data-label) " "; display: inline-block; min-width: 10em; color: var(--quiet); font-size: .84rem; text-indent: 0; }
          .answers tbody td { padding-left: 4em; text-indent: -4em; } .answers td::before { width: 4.76em; min-width: 0; }
          .scores tbody tr { display: grid; grid-template-columns: 1fr 1fr auto; column-gap: 14px; } .scores tbody th { grid-column: 1 / -1; }
          .scores td::before { min-width: 0; margin-right: .5em; } .scores td[data-label="n"] { grid-area: 2 / 3; } .scores td[data-label*="interval"] { grid-area: 3 / 1 / auto / -1; }
          .tokens span { max-width: 6em; }
          .provenance div { grid-template-columns: 1fr; gap: 0; }
        }
        @page { margin: 16mm 14mm; }
        @media print {
          :root { --paper: #fff; --card: #fff; --ink: #000; --quiet: #444; --line: #ccc; --accent: #045; --heat: #a33; --good: #053; --bad: #900; --code: #f4f4f4; }
          body { font-size: 10.5pt; } main { max-width: none; padding: 0; } section { margin-top: 14pt; padding: 0; border: 0; border-radius: 0; }
          tr, figure, .facts li, .provenance div { break-inside: avoid; } h2 { break-after: avoid; }
          svg, .bar { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
        }
        """;
}
