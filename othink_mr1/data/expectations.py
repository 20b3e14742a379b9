"""What a dataset as a whole has to be like: Great Expectations suites, built in code, one a split.

Limits, as they stand under `data.<task>.checks` of the resolved parameters:

| field | type | default | what |
|---|---|---|---|
| max_quarantined | 0 to 1 | 0.05 | share of the rows read of a split that may be put aside |
| min_rows | int >= 1 | 1 | least rows of each split |

A critical expectation that fails stops the step. The others are reported in the Data Docs alone: a test split keeps
rows that would be put aside elsewhere, such as repeats.
"""

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from othink_mr1.data.pictures import LEAST_SIDE
from othink_mr1.data.prepare import Prepared
from othink_mr1.errors import UserError

if TYPE_CHECKING:
    import great_expectations as gx

ANSWERS = {"counting": r"^[0-9]+$", "geometry": r"\S"}
_TEXTS = ("sample_id", "split", "source", "problem", "solution", "answer", "thinking")
_SPLIT_TEXT = {"train": "train split", "validation": "validation split", "test": "test split"}


@dataclass(frozen=True)
class Failure:
    """A critical expectation that was not met."""

    split: str
    expectation: str
    observed: str
    expected: str
    example: str

    def __str__(self) -> str:
        return (
            f"{_SPLIT_TEXT[self.split]}: {self.expectation} failed: observed {self.observed}, "
            f"expected {self.expected}{self.example}"
        )


def validate(prepared: Prepared, checks: Mapping[str, Any], data_docs: Path) -> list[Failure]:
    """Runs the task's suites and writes their Data Docs, a static site, into the folder `data_docs`.

    Returns:
        The critical expectations that failed, in the order of the splits.
    """
    with tempfile.TemporaryDirectory(prefix="othink-expectations-") as project:
        context = _context(Path(project))
        rows = context.data_sources.add_pandas(prepared.task)
        failures: list[Failure] = []
        for split in prepared.splits:
            result = _run(context, rows.add_dataframe_asset(split), prepared, split, checks)
            failures += _failures(split, result, prepared)
        _copy_site(context, Path(project), data_docs)
    return failures


def require(failures: list[Failure], task: str, data_docs: Path) -> None:
    """Stops where anything failed.

    Raises:
        UserError: names the first failure, and where the Data Docs show them all.
    """
    if failures:
        more = f" (and {len(failures) - 1} more)" if len(failures) > 1 else ""
        raise UserError(f"data.{task}: {failures[0]}{more}; see {data_docs / 'index.html'}")


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


def suite(task: str, split: str, checks: Mapping[str, Any]) -> "gx.ExpectationSuite":
    """The expectations of one split; the meaning of each stands in its notes, which the Data Docs show."""
    import great_expectations as gx
    import great_expectations.expectations as gxe

    in_test = "warning" if split == "test" else "critical"
    limit = float(checks.get("max_quarantined", 0.05))
    expectations: list[Any] = [
        gxe.ExpectTableRowCountToBeBetween(
            min_value=int(checks.get("min_rows", 1)), severity="critical", notes="Enough rows to work with."
        ),
        gxe.ExpectColumnMaxToBeBetween(
            column="share_quarantined",
            max_value=limit,
            severity="critical",
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
    ]
    for column in _TEXTS:
        expectations.append(gxe.ExpectColumnValuesToNotBeNull(column=column, severity="critical"))
        expectations.append(gxe.ExpectColumnValuesToBeOfType(column=column, type_="str", severity="critical"))
    for column in ("problem", "solution"):
        expectations.append(gxe.ExpectColumnValueLengthsToBeBetween(column=column, min_value=1, severity="critical"))
    for column in ("width", "height"):
        expectations.append(
            gxe.ExpectColumnValuesToBeBetween(
                column=column, min_value=LEAST_SIDE, severity="critical", notes="The Qwen-VL processors refuse less."
            )
        )
    return gx.ExpectationSuite(name=f"{task}-{split}", expectations=expectations)


def _run(
    context: "gx.data_context.FileDataContext", asset: Any, prepared: Prepared, split: str, checks: Mapping[str, Any]
) -> Any:
    """The validation result of one split."""
    import great_expectations as gx
    import pandas as pd

    found = prepared.splits[split]
    # As objects: a text column is then one of Python's str, whatever pandas would make of it.
    frame = pd.DataFrame(prepared.table[split], dtype=object).astype({"width": "int64", "height": "int64"})
    read = found.read or prepared.splits["train"].read
    frame["share_quarantined"] = sum(found.quarantined.values()) / read

    name = f"{prepared.task}-{split}"
    definition = context.validation_definitions.add_or_update(
        gx.ValidationDefinition(
            name=name,
            data=asset.add_batch_definition_whole_dataframe(name),
            suite=context.suites.add_or_update(suite(prepared.task, split, checks)),
        )
    )
    checkpoint = gx.Checkpoint(
        name=name,
        validation_definitions=[definition],
        result_format={"result_format": "SUMMARY", "unexpected_index_column_names": ["source"]},
    )
    outcome = context.checkpoints.add_or_update(checkpoint).run(batch_parameters={"dataframe": frame})
    return next(iter(outcome.run_results.values()))


def _failures(split: str, result: Any, prepared: Prepared) -> list[Failure]:
    failed = [one for one in result.results if not one.success and one.expectation_config.severity == "critical"]
    return [_failure(split, one, prepared) for one in failed]


def _failure(split: str, one: Any, prepared: Prepared) -> Failure:
    config, result = one.expectation_config, one.result
    column = config.kwargs.get("column")
    if one.exception_info.get("raised_exception"):
        observed = str(one.exception_info.get("exception_message"))[:200]
    elif "observed_value" in result:
        observed = _shown(result["observed_value"])
    else:
        observed = f"{result.get('unexpected_count')} of {result.get('element_count')} rows otherwise"
    return Failure(
        split=split,
        expectation=f"{config.type}({column})" if column else config.type,
        observed=observed,
        expected=_expected(config.kwargs),
        example=_example(split, column, result, prepared),
    )


def _expected(limits: Mapping[str, Any]) -> str:
    words = {"min_value": "at least", "max_value": "at most", "regex": "matching", "type_": "of type"}
    told = [f"{word} {_shown(limits[name])}" for name, word in words.items() if limits.get(name) is not None]
    return " and ".join(told) or "all rows to comply"


def _example(split: str, column: str | None, result: Mapping[str, Any], prepared: Prepared) -> str:
    if column == "share_quarantined":
        return f"; such as {prepared.splits[split].example}"
    rows = result.get("partial_unexpected_index_list") or []
    return f"; such as {rows[0]['source']} with {str(rows[0][column])!r}" if rows else ""


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _copy_site(context: "gx.data_context.FileDataContext", project: Path, data_docs: Path) -> None:
    context.build_data_docs()
    site = project / "gx" / "uncommitted" / "data_docs" / "local_site"
    shutil.rmtree(data_docs, ignore_errors=True)
    shutil.copytree(site, data_docs, ignore=shutil.ignore_patterns("*.gif"))
