"""The index of a task's Data Docs: what was checked, where the data come from, what was put aside.

Great Expectations draws its own index with scripts of other hosts; see `offline_pages`.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup, escape

from othink_mr1.data.expectations import CRITICAL, Checked
from othink_mr1.data.offline_pages import head


def write_index(
    folder: Path,
    provenance: Mapping[str, Any],
    checked: Checked,
    fetched: Mapping[str, float | None],
    prepared_at: float,
) -> None:
    """Write `index.html` and `sources.json`: what was checked, and the provenance with its dates.

    Args:
        folder: where the page of each split lies.
        provenance: the content of provenance.json.
        checked: how the checks came out.
        fetched: when the source of each split came to lie on this machine, Unix seconds, where that is known.
        prepared_at: Unix seconds.
    """
    moment = _moment(prepared_at)
    dates = {split: _moment(fetched.get(split)) for split in provenance["splits"]}
    told = {split: {**told, "fetched_at": dates[split] or None} for split, told in provenance["splits"].items()}
    dated = {"prepared_at": moment, **provenance, "splits": told}
    (folder / "sources.json").write_text(json.dumps(dated, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    title, splits = f"Data of {provenance['task']}", provenance["splits"]
    body = [
        f"<body><h1>{escape(title)}</h1><p>Prepared {moment}, seed {provenance['seed']}.</p>",
        _table(
            ("split", "checks", "expectations met", "read", "rows", "put aside", "accepted profile"),
            [_split_row(split, told, checked) for split, told in splits.items()],
        ),
        *_not_met(checked),
        "<h2>Sources</h2>",
        _table(
            ("split", "source", "licence", "revision", "fetched", "sha256", "changed"),
            [_source_row(split, told, dates[split]) for split, told in splits.items()],
        ),
        "<h2>Rows put aside, and test rows that stay although something is wrong</h2>",
        _table(
            ("split", "reason", "rows", "what became of them"),
            [row for split, told in splits.items() for row in _reason_rows(split, told)],
        ),
        "</body></html>\n",
    ]
    (folder / "index.html").write_text(head(title) + "\n".join(body), encoding="utf-8")


def _moment(seconds: float | None) -> str:
    return "" if seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Cells are text and get escaped, or Markup."""
    if not rows:
        return "<p>None.</p>"
    titles = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = ("<tr>" + "".join(_cell(value) for value in row) + "</tr>" for row in rows)
    return f'<div class="wide"><table><tr>{titles}</tr>{"".join(lines)}</table></div>'


def _cell(value: object) -> str:
    return f'<td class="number">{value}</td>' if isinstance(value, int) else f"<td>{escape(value)}</td>"


def _split_row(split: str, told: Mapping[str, Any], checked: Checked) -> list[object]:
    found = {failure.severity for failure in checked.failures if failure.split == split}
    state = ("bad", "failed") if CRITICAL in found else ("open", "warnings") if found else ("good", "passed")
    met, asked = checked.met[split]
    reference = "none yet" if split in checked.without_reference else "compared"
    put_aside = sum(told["quarantined"].values())
    link, result = Markup('<a href="{}.html">{}</a>'), Markup('<span class="{}">{}</span>')
    return [link.format(split, split), result.format(*state), f"{met} of {asked}", told["read"], told["rows"],
            put_aside, reference]  # fmt: skip


def _not_met(checked: Checked) -> list[str]:
    if not checked.failures:
        return []
    rows = [(failure.severity, failure.split, str(failure), failure.notes) for failure in checked.failures]
    return ["<h2>Not met</h2>", _table(("severity", "split", "what", "why it is asked"), rows)]


def _source_row(split: str, told: Mapping[str, Any], fetched: str) -> list[object]:
    shown = ("licence", "revision", "sha256")  # in columns of their own
    known = {key: value for key, value in told["source"].items() if value is not None and key not in shown}
    settings = ", ".join(f"{key} {value}" for key, value in known.items())
    changed = ", ".join(f"{what}: {rows}" for what, rows in told["changed"].items())
    revision = told.get("revision") or told["source"].get("revision") or ""
    return [split, settings, told["licence"], revision, fetched, told["sha256"] or "", changed]


def _reason_rows(split: str, told: Mapping[str, Any]) -> list[tuple[str, str, int, str]]:
    kinds = (("quarantined", "put aside"), ("reported", "reported"))
    return [(split, reason, rows, became) for kind, became in kinds for reason, rows in told[kind].items()]
