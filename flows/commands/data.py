"""`othink data show`, `quarantine` and `accept`: what was prepared, what was put aside, what is accepted as usual."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from flows.project import find_root
from othink_mr1 import stages
from othink_mr1.data import profile
from othink_mr1.data.schema import SPLITS
from othink_mr1.data.shards import shard_files
from othink_mr1.errors import UserError
from othink_mr1.names import TASKS

_MOST_BARS = 20
_BAR = 40  # letters of the longest bar
_MOST_PICTURES = 48


def tasks(task: str | None) -> tuple[str, ...]:
    """The task that was named, or all.

    Raises:
        UserError: there is no such task.
    """
    if task is None:
        return TASKS
    if task not in TASKS:
        raise UserError(f"task: {task!r} is unknown; it should be one of {', '.join(TASKS)}")
    return (task,)


def show(task: str | None, split: str | None, out: Path | None, refused: bool, as_json: bool) -> None:
    """Print counts, answers and sources of the prepared splits; draw a sheet of their pictures.

    Raises:
        UserError: unknown task or split; not prepared yet; the sheet cannot be written there.
    """
    if split is not None and split not in SPLITS:
        raise UserError(f"split: {split!r} is unknown; it should be one of {', '.join(SPLITS)}")
    if out is not None and out.suffix.lower() != ".png":
        raise UserError(f"--out {out}: should end in .png")
    splits = SPLITS if split is None else (split,)
    folders = {name: _folder(name, refused) for name in tasks(task)}
    found = {name: {one: _about(folder, one) for one in splits} for name, folder in folders.items()}
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for name, of_task in found.items():
            for one, about in of_task.items():
                _print_split(name, one, about)
    if out is not None:
        _draw([folder / one for folder in folders.values() for one in splits], out)
        if not as_json:
            print(f"pictures: {out}")


def quarantine(task: str | None, export: Path | None, refused: bool, as_json: bool) -> None:
    """Print why rows were put aside, with the first of each reason; write them and their pictures out.

    Raises:
        UserError: unknown task; not prepared yet; the folder to write to is not empty.
    """
    from othink_mr1.data import quarantined

    folders = {name: _folder(name, refused, "quarantine.parquet") for name in tasks(task)}
    found = {name: quarantined.reasons(folder / "quarantine.parquet") for name, folder in folders.items()}
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))
    else:
        for name, reasons in found.items():
            if not reasons:
                print(f"{name}: no row was put aside")
            for reason in reasons:
                print(f"{name} {reason['split']}: {reason['rows']} {reason['reason']}")
                for example in reason["examples"]:
                    print(f"    {example['source']}: {example['detail']}")
    if export is not None:
        rows = quarantined.export([folder / "quarantine.parquet" for folder in folders.values()], export)
        if not as_json:
            print(f"{rows} rows: {export / quarantined.REASONS}, pictures beside it")


def accept(task: str | None, refused: bool, as_json: bool) -> None:
    """Make the present spread of answers and picture sizes what later data are compared with.

    Raises:
        UserError: unknown task; not prepared yet; the file of accepted profiles is broken.
    """
    root = find_root()
    found = []
    for name in tasks(task):
        present = profile.read(_folder(name, refused) / profile.FILE)
        path = profile.accepted_path(name, root)
        changed, stays = profile.accept(path, present)
        sources = {split: one.source for split, one in present.items()}
        found.append({"task": name, "file": str(path), "changed": changed, "sources": sources, "kept": sorted(stays)})
        if not as_json:
            _tell_accepted(name, {split: one for split, one in present.items() if split not in stays}, changed)
            for split, one in stays.items():
                print(
                    f"{name}: kept for {split} ({one.source}) the accepted spread of {one.rows} rows, "
                    f"with which these {present[split].rows} rows agree"
                )
            if changed:
                print(f"commit {path.relative_to(root)}; the next run holds the data against it")
    if as_json:
        print(json.dumps(found, indent=1, ensure_ascii=False))


def _tell_accepted(task: str, profiles: dict[str, profile.Profile], changed: bool) -> None:
    if profiles:
        told = ", ".join(f"{split} ({one.source}, {one.rows} rows)" for split, one in profiles.items())
        print(f"{task}: accepted {told}" if changed else f"{task}: accepted already: {told}")


def _folder(task: str, refused: bool, needed: str = "provenance.json") -> Path:
    """Where a task's data lie; with `refused`, those that were refused last, which may not have got beyond `needed`."""
    root = find_root()
    folder = root / stages.WORK / "prepare" / task / "data" if refused else root / "data" / task
    if not (folder / needed).is_file():
        what = "no data that were refused" if refused else "not prepared yet; `othink run` prepares them"
        raise UserError(f"data of {task}: {what}")
    return folder


def _about(folder: Path, split: str) -> dict[str, Any]:
    told = json.loads((folder / "provenance.json").read_text(encoding="utf-8"))["splits"][split]
    answers = [answer for path in shard_files(folder / split) for answer in _column(path, "answer")]
    known = profile.read(folder / profile.FILE)[split]
    return {
        "name": known.source,
        "rows": len(answers),
        "answers": dict(Counter(answers).most_common()),
        "picture_sizes": dict(known.picture_sizes),
        **{key: told[key] for key in ("source", "licence", "read", "quarantined", "reported")},
    }


def _column(path: Path, name: str) -> list[str]:
    try:
        values: list[str] = pq.read_table(path, columns=[name])[name].to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read ({str(error).splitlines()[0]}); `othink run` makes it anew") from None
    return values


def _print_split(task: str, split: str, about: dict[str, Any]) -> None:
    aside = sum(about["quarantined"].values())
    print(f"{task} {split}: {about['rows']} rows of {about['name']} (licence {about['licence']}), {aside} put aside")
    sizes = ", ".join(f"{size} px ({number})" for size, number in list(about["picture_sizes"].items())[:5])
    print(f"  pictures: {sizes}")
    bars = list(about["answers"].items())
    shown, left = bars[:_MOST_BARS], bars[_MOST_BARS:]
    width = max(len(answer) for answer, _ in shown)
    for answer, number in shown:
        bar = "█" * max(1, round(_BAR * number / shown[0][1]))
        print(f"  {answer:>{width}} {bar} {number} ({number / about['rows']:.1%})")
    if left:
        print(f"  {sum(number for _, number in left)} rows have one of {len(left)} other answers")


def _draw(splits: list[Path], out: Path) -> None:
    from othink_mr1.data.contact_sheet import contact_sheet, pick

    rows = [row for split in splits for row in pick(shard_files(split), max(6, _MOST_PICTURES // len(splits)))]
    contact_sheet(rows).save(out, "PNG")
