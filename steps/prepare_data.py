"""Makes the data of one task: reads or renders its sources, checks every row and the whole, writes the splits.

In: data_profiles/<task>.json, the accepted profiles. Out: data/<task>/, with the folders train, validation and test of
parquet files, quarantine.parquet, provenance.json and profile.json; data_docs/<task>/, pages that show the checks and
say when they were made. If a critical check fails nothing is written in their place. DVC takes the last good version
away before it runs a stage, and still has it in its cache: `othink run` puts it back, after `dvc repro` the message
says how to.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from othink_mr1.data import data_docs, expectations, profile
from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.data.schema import SPLITS
from othink_mr1.errors import UserError
from othink_mr1.names import TASKS
from othink_mr1.stages import replace_folder
from steps import harness


def main(arguments: Sequence[str] | None = None) -> None:
    """Prepare one task.

    Raises:
        UserError: a setting or a source is wrong, or a critical check failed.
    """
    parser = argparse.ArgumentParser(prog="python -m steps.prepare_data", description=__doc__)
    parser.add_argument("--task", required=True, choices=TASKS)
    task: str = parser.parse_args(arguments).task

    settings = harness.params(f"data.{task}")
    seed = harness.params("seed")
    paths = {key: Path(path) for key, path in harness.params("local.paths").items()}
    with harness.stage(f"prepare_data@{task}") as stage, _way_back(task):
        staging = _empty(Path(".othink/prepare") / task)
        made, docs = _empty(staging / "data"), staging / "data_docs"
        prepared = prepare(task, settings, seed, paths, made, stage.progress)
        _tell(prepared)
        stage.progress(0, 1, "checking the whole")
        _check(prepared, settings, paths, docs)
        stage.progress(1, 1, "checking the whole")
        replace_folder(made, Path("data") / task)
        replace_folder(docs, Path("data_docs") / task)
        shutil.rmtree(staging)


def _check(prepared: Prepared, settings: Mapping[str, Any], paths: Mapping[str, Path], docs: Path) -> None:
    """Checks the splits as a whole, says what is wrong with them, writes profile.json and the Data Docs.

    Raises:
        UserError: a critical expectation failed.
    """
    task = prepared.task
    local = {split: paths[f"data.{task}.{split}"] for split in SPLITS if f"data.{task}.{split}" in paths}
    sources = {split: profile.source_name(settings, split, local) for split in SPLITS}
    accepted = profile.read_accepted(profile.accepted_path(task))
    checked = expectations.validate(prepared, settings.get("checks") or {}, sources, accepted, docs)
    profile.write(prepared.folder / profile.FILE, checked.profiles)
    provenance = json.loads((prepared.folder / "provenance.json").read_text(encoding="utf-8"))
    fetched = {split: found.fetched for split, found in prepared.splits.items()}
    data_docs.write_index(docs, provenance, checked, fetched, time.time())
    if checked.without_reference:
        unknown = ", ".join(f"{split} ({sources[split]})" for split in checked.without_reference)
        print(f"{task}: drift is not looked for, as no profile is accepted yet of {unknown}: `othink data accept` does")
    for failure in checked.failures:
        if failure.severity == expectations.WARNING:
            print(f"{task} {failure.split}: warning: {failure}", file=sys.stderr)
    expectations.require(checked.failures, task, docs)


@contextmanager
def _way_back(task: str) -> Iterator[None]:
    """Adds to a user's mistake how the data that DVC took away can be had again. The flow does it by itself."""
    try:
        yield
    except UserError as error:
        taken = not (Path("data") / task).exists() and not harness.runs_in_flow()
        if taken and f"prepare_data@{task}:" in _text(Path("dvc.lock")):
            raise UserError(f"{error}; `dvc checkout prepare_data@{task}` brings the last good data back") from None
        raise


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def _tell(prepared: Prepared) -> None:
    """What became of the rows, for the log."""
    for split, found in prepared.splits.items():
        aside = ", ".join(f"{number} {reason}" for reason, number in found.quarantined.most_common())
        print(f"{prepared.task} {split}: {found.rows} rows" + (f"; put aside: {aside}" if aside else ""))
        for reason, number in sorted(found.reported.items()):
            print(f"{prepared.task} {split}: warning: {number} rows stay although {reason}", file=sys.stderr)


if __name__ == "__main__":
    harness.run_step(main)
