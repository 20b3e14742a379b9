"""Great Expectations' result pages as pages that open without a network.

Great Expectations' own take styles, scripts and a logo from other hosts. Here the results keep their HTML; what comes
from elsewhere is taken out, and the few styles they need are ours. A content policy in each page forbids it to run or
to fetch anything: neither can text out of a dataset, which anybody may have written.
"""

import re
from html import escape

POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"
_STYLE = """
:root { color-scheme: light dark; --paper: #faf8f3; --card: #fff; --ink: #1d1f24; --soft: #5a5f69; --rule: #ddd8cc;
  --good: #0b6b53; --bad: #a5341f; --open: #8a5a00 }
@media (prefers-color-scheme: dark) { :root { --paper: #131519; --card: #1a1d23; --ink: #e9e7e1; --soft: #a6abb5;
  --rule: #333841; --good: #62cfae; --bad: #f2927c; --open: #eda548 } }
* { box-sizing: border-box }
body { margin: 0 auto; max-width: 76rem; padding: 1rem 1.5rem 4rem; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, "Segoe UI", Roboto, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif }
a { color: inherit; text-underline-offset: .2em }
h1 { font-size: 1.6rem; margin: 1rem 0 } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem }
h4, h5, h6 { font-size: 1rem; margin: .2rem 0 }
header { padding: .5rem 0; border-bottom: 1px solid var(--rule) }
table { border-collapse: collapse; margin: .4rem 0; background: var(--card); font-variant-numeric: tabular-nums }
th, td { border: 1px solid var(--rule); padding: .35rem .6rem; text-align: left; vertical-align: top;
  overflow-wrap: anywhere; min-width: 6rem } th { white-space: nowrap } thead[hidden] { display: none }
.number { text-align: right }
.good, .text-success { color: var(--good) } .bad, .text-danger { color: var(--bad) }
.open, .text-warning { color: var(--open) } .soft { color: var(--soft) }
.alert { background: var(--card); border: 1px solid var(--rule); border-left: 4px solid var(--soft);
  padding: .6rem .9rem }
.ge-section { margin: 1.2rem 0 } .table-responsive, .wide { overflow-x: auto } .table { width: 100% }
.fa-check-circle::before { content: "\\2713" } .fa-times::before { content: "\\2717" }
.fa-exclamation-triangle::before { content: "!" } i { font-style: normal; font-weight: 700 }
.badge { border: 1px solid var(--rule); border-radius: 4px; padding: 0 .3rem; font-family: ui-monospace, monospace }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: .2rem 1rem; padding: 0 }
"""
_OUTSIDE = re.compile(r"<script\b.*?</script>|<style\b.*?</style>|<link\b[^>]*>|<footer\b.*?</footer>|<!--.*?-->", re.S)
_BUTTONS = re.compile(r'<div class="card mb-3">.*?(?=<div class="card d-md-block)', re.S)
_HANDLERS = re.compile(r'\son\w+="[^"]*"')
_INLINE_STYLES = re.compile(r'\sstyle="[^"]*"')
_NOT_KEPT = re.compile(r'(?<=<a )href="(?!#)[^"]*"')  # pages of suites and runs, and addresses elsewhere
_UNFOLD = re.compile(r'<p class="m-0">\s*<a data-toggle="collapse".*?</p>', re.S)


def offline(page: str, title: str) -> str:
    """A page of Great Expectations' results, without anything from elsewhere and with a way back to the index.

    Raises:
        ValueError: the page is not as Great Expectations writes it.
    """
    start = page.index('<div class="container-fluid')  # before it stand a logo and a way to pages that are not kept
    body = page[start : page.index("</body>")]
    for part in (_OUTSIDE, _BUTTONS, _UNFOLD, _HANDLERS, _INLINE_STYLES):
        body = part.sub("", body)
    back = f'<header><a href="index.html">All splits</a></header><h1>{escape(title)}</h1>'
    return f"{head(title)}<body>{back}{_NOT_KEPT.sub('', body)}</body></html>\n"


def head(title: str) -> str:
    """The beginning of a page, up to its body."""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n"
    )
