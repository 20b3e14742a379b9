"""What a dataset as a whole has to be like: Great Expectations suites, built in code, one a split.

Limits, as they stand under `data.<task>.checks` of the resolved parameters; null leaves the expectation out:

| field | type | what |
|---|---|---|
| max_quarantined | 0 to 1 | share of the rows read of a split that may be put aside |
| min_rows | int >= 1 | least rows of each split |
| max_answer_share | 0 to 1 or null | share of rows that may have the same answer (a warning; from 30 rows on) |
| max_answer_drift | 0 to 1 or null | distance of the answers from the accepted ones (`profile.Drift`) |
| max_size_drift | 0 to 1 or null | distance of the picture sizes from the accepted ones |

A critical expectation that fails stops the step; a warning is reported. A test split keeps rows that would be put
aside elsewhere, such as repeats: there they are a warning.
"""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from othink_mr1.data.offline_pages import offline
from othink_mr1.data.pictures import LEAST_SIDE
from othink_mr1.data.prepare import Prepared, Split
from othink_mr1.data.profile import Drift, Profile, drift, measure
from othink_mr1.data.shards import shard_files
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    import great_expectations as gx
    import pandas as pd

ANSWERS = {"counting": r"^[0-9]+$", "geometry": r"\S"}
CRITICAL, WARNING = "critical", "warning"
_TEXTS = ("sample_id", "task", "split", "source", "answer")
_LONG_TEXTS = ("problem", "solution", "thinking")
_MOST_EXAMPLES = 3
_MANY = 30  # of fewer rows, the share of one answer says little
_DRIFTS = {"answer_drift": "max_answer_drift", "size_drift": "max_size_drift"}


@dataclass(frozen=True)
class Failure:
    """An expectation that was not met."""

    split: str
    expectation: str
    severity: str
    observed: str
    expected: str
    example: str
    notes: str

    def __str__(self) -> str:
        return f"{self.expectation} failed: observed {self.observed}, expected {self.expected}{self.example}"


@dataclass(frozen=True)
class Checked:
    """What came out: the profile of each split, and what was not met, in the order of the splits."""

    profiles: dict[str, Profile]
    failures: list[Failure]
    met: dict[str, tuple[int, int]]  # expectations met, and asked, of each split
    without_reference: list[str]  # splits whose source has no accepted profile


@dataclass(frozen=True)
class _Split:
    """One split as its suite looks at it. Numbers of the whole split are columns with one value."""

    name: str
    found: Split
    rows: "pd.DataFrame"
    drifts: Mapping[str, Drift]  # by column


def validate(
    prepared: Prepared,
    checks: Mapping[str, Any],
    sources: Mapping[str, str],
    accepted: Mapping[tuple[str, str], Profile],
    data_docs: Path,
) -> Checked:
    """Runs the task's suites and writes a page for each split into the folder `data_docs`.

    Args:
        prepared: what was written.
        checks: the limits, see above.
        sources: the name of each split's source (`profile.source_name`).
        accepted: the accepted profiles, by split and source.
        data_docs: is made.
    """
    profiles: dict[str, Profile] = {}
    failures: list[Failure] = []
    met: dict[str, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory(prefix="othink-expectations-") as project:
        context = _context(Path(project))
        data = context.data_sources.add_pandas(prepared.task)
        for name, found in prepared.splits.items():
            rows = _rows(prepared.folder / name, prepared.sizes[name])
            profiles[name] = measure(rows, sources[name])
            split = _Split(name, found, rows, _drifts(profiles[name], accepted.get((name, sources[name]))))
            results = _run(context, data.add_dataframe_asset(name), prepared.task, split, checks).results
            unmet = [_failure(split, one) for one in results if not one.success]
            failures += unmet
            met[name] = (len(results) - len(unmet), len(results))
        _build_pages(context, Path(project) / "gx" / "uncommitted", prepared.task, data_docs)
    without = [name for name in prepared.splits if (name, sources[name]) not in accepted]
    return Checked(profiles, failures, met, without)


def require(failures: list[Failure], task: str, data_docs: Path) -> None:
    """Stops where anything critical failed.

    Raises:
        UserError: names the first failure, and where the Data Docs show them all.
    """
    critical = [one for one in failures if one.severity == CRITICAL]
    if not critical:
        return
    first, others = critical[0], len(critical) - 1
    told = f"data.{task}: {first.split} split: {first}" + (f" (and {others} more)" if others else "")
    told += f"; see {data_docs / 'index.html'}"
    if any(column in first.expectation for column in _DRIFTS):
        told += f"; if the data are right, `othink data accept --task {task} --refused` accepts them"
    raise UserError(told)


def _context(project: Path) -> "gx.data_context.FileDataContext":
    """A file context, which alone writes Data Docs; without telemetry, progress bars or chatter."""
    os.environ["GX_ANALYTICS_ENABLED"] = "false"
    os.environ["TQDM_DISABLE"] = "1"
    logging.getLogger("great_expectations").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"great_expectations|pandas|marshmallow")
    # Seconds of import: only here, once the rows are ready.
    import great_expectations as gx
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="file", project_root_dir=project)
    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    return context


def _rows(folder: Path, sizes: np.ndarray) -> "pd.DataFrame":
    """What the suites look at of each row: no picture, of long texts the length alone; some 200 bytes a row."""
    parts = []
    for path in shard_files(folder):
        with pq.ParquetFile(path) as file:
            batches = file.iter_batches(16_384, columns=[*_TEXTS, *_LONG_TEXTS])
            parts += [_without_long_texts(batch) for batch in batches]
    frame = pa.Table.from_batches(parts).to_pandas()
    frame["width"], frame["height"] = sizes[:, 0], sizes[:, 1]
    return frame


def _without_long_texts(batch: pa.RecordBatch) -> pa.RecordBatch:
    lengths = {f"{name}_length": pc.utf8_length(batch[name]) for name in _LONG_TEXTS}
    return pa.RecordBatch.from_pydict({**{name: batch[name] for name in _TEXTS}, **lengths})


def _drifts(present: Profile, accepted: Profile | None) -> dict[str, Drift]:
    if accepted is None:
        return {}
    return {
        "answer_drift": drift(accepted.answers, accepted.rows, present.answers, present.rows),
        "size_drift": drift(accepted.picture_sizes, accepted.rows, present.picture_sizes, present.rows),
    }


def _suite(task: str, split: _Split, checks: Mapping[str, Any]) -> "gx.ExpectationSuite":
    """The expectations of one split; the meaning of each stands in its notes, which the Data Docs show if it fails."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    in_test = WARNING if split.name == "test" else CRITICAL
    expectations: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=int(checks.get("min_rows", 1)), severity=CRITICAL, notes="Enough rows to work with."
        ),
        gxe.ExpectColumnMaxToBeBetween(
            column="share_quarantined",
            max_value=float(checks.get("max_quarantined", 0.05)),
            severity=CRITICAL,
            notes="Rows put aside, as a share of the rows read: more of them means that the source is broken.",
        ),
        gxe.ExpectColumnValuesToBeUnique(
            column="sample_id", severity=in_test, notes="No picture is asked the same question twice."
        ),
        gxe.ExpectColumnValuesToMatchRegex(
            column="answer",
            regex=ANSWERS.get(task, r"\S"),
            severity=in_test,
            notes="Every answer is of the task's form.",
        ),
        gxe.ExpectColumnValuesToBeInSet(column="task", value_set=[task], severity=CRITICAL),
        gxe.ExpectColumnValuesToBeInSet(column="split", value_set=[split.name], severity=CRITICAL),
    ]
    if checks.get("max_answer_share") is not None and len(split.rows) >= _MANY:
        expectations.append(
            gxe.ExpectColumnMaxToBeBetween(
                column="commonest_answer_share",
                max_value=float(checks["max_answer_share"]),
                severity=WARNING,
                notes="Where most rows have one answer, a model that always gives it looks good.",
            )
        )
    for column, change in split.drifts.items():
        if checks.get(_DRIFTS[column]) is not None:
            expectations.append(
                gxe.ExpectColumnMaxToBeBetween(
                    column=column,
                    max_value=round(max(float(checks[_DRIFTS[column]]), change.chance), 3),
                    severity=CRITICAL,
                    notes="Share of rows that would need another value to be as the accepted ones; chance alone gives "
                    f"up to {change.chance:.3f} with so many rows.",
                )
            )
    for column in _TEXTS:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=column, severity=CRITICAL))
        expectations.append(gxe.ExpectColumnValuesToBeOfType(column=column, type_="str", severity=CRITICAL))
    for name, least in (("problem", 1), ("solution", 1), ("thinking", 0)):
        column = f"{name}_length"
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=column, severity=CRITICAL))
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(column=column, min_value=least, severity=CRITICAL, notes="Characters.")
        )
    for column in ("width", "height"):
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=LEAST_SIDE, severity=CRITICAL, notes="The Qwen-VL processors refuse less."
            )
        )
    return gx.ExpectationSuite(name=f"{task}-{split.name}", expectations=expectations)


def _run(
    context: "gx.data_context.FileDataContext", asset: Any, task: str, split: _Split, checks: Mapping[str, Any]
) -> Any:
    """The validation result of one split."""
    import great_expectations as gx

    frame, found = split.rows, split.found
    # A validation split that is drawn from train has read nothing itself.
    frame["share_quarantined"] = sum(found.quarantined.values()) / (found.read or found.rows)
    frame["commonest_answer_share"] = frame["answer"].value_counts(normalize=True).max()
    for column, change in split.drifts.items():
        frame[column] = change.distance

    name = f"{task}-{split.name}"
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(
            name=name,
            data=asset.add_batch_definition_whole_dataframe(name),
            suite=context.suites.add_or_update(_suite(task, split, checks)),
        )
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["source"]},
    )
    outcome = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": frame})
    return next(iter(outcome.run_results.values()))


def _failure(split: _Split, one: Any) -> Failure:
    config, result = one.expectation_config, one.result
    column = config.kwargs.get("column")
    if raised := _raised(one.exception_info):
        observed = raised
    elif "observed_value" in result:
        observed = _shown(result["observed_value"])
    else:
        observed = f"{result.get('unexpected_count')} of {result.get('element_count')} rows otherwise"
    return Failure(
        split=split.name,
        expectation=f"{config.type}({column})" if column else config.type,
        severity=config.severity.value,
        observed=observed,
        expected=_expected(config.kwargs),
        example=_example(split, column, result),
        notes=str(config.notes or ""),
    )


def _raised(info: Mapping[str, Any]) -> str | None:
    """What was raised, in one line. Of an error in a metric it stands below the metric's id."""
    for told in (info, *(value for value in info.values() if isinstance(value, Mapping))):
        if told.get("raised_exception"):
            return " ".join(str(told.get("exception_message")).split())[:200]
    return None


def _expected(limits: Mapping[str, Any]) -> str:
    words = {"min_value": "at least", "max_value": "at most", "regex": "matching", "type_": "of type"}
    words["value_set"] = "one of"
    told = [f"{word} {_shown(limits[name])}" for name, word in words.items() if limits.get(name) is not None]
    return " and ".join(told) or "all rows to comply"


def _example(split: _Split, column: str | None, result: Mapping[str, Any]) -> str:
    if column == "share_quarantined":
        return f"; such as {split.found.example}"
    if column is not None and column in split.drifts:
        return f"; most of all {split.drifts[column].example}"
    if column == "commonest_answer_share":
        return f"; it is {split.rows['answer'].mode()[0]!r}"
    rows = (result.get("partial_unexpected_index_list") or [])[:_MOST_EXAMPLES]
    return "; such as " + ", ".join(f"{row['source']} with {str(row[column])!r}" for row in rows) if rows else ""


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _build_pages(context: "gx.data_context.FileDataContext", work: Path, task: str, data_docs: Path) -> None:
    """Each split's page under its name. Great Expectations' folders are named by times."""
    for result in (work / "validations").rglob("*.json"):
        # Great Expectations puts values out of the rows into its pages as they stand, markup and all.
        result.write_text(escape(result.read_text(encoding="utf-8"), quote=False), encoding="utf-8")
    context.build_data_docs()
    shutil.rmtree(data_docs, ignore_errors=True)
    data_docs.mkdir(parents=True)
    for page in (work / "data_docs" / "local_site" / "validations").rglob("*.html"):
        split = page.stem.removeprefix(f"{task}-")
        text = offline(page.read_text(encoding="utf-8"), f"Data of {task}: {split} split")
        (data_docs / f"{split}.html").write_text(text, encoding="utf-8")
