"""The results of all models as tables and figures.

    python -m steps.tables

Reads evaluation/<model>/ of every model and training/<model>/curves.csv; writes tables/: results.json, CSV and
Markdown in the layout of the paper's Table 1 and Figure 7, and PNG figures.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from othink_mr1.names import TASKS
from othink_mr1.stages import write_whole
from steps import harness

TITLES = {
    "same_task": "Same task: tested on the task they were trained on",
    "cross_task": "Cross task: tested on the other task",
}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    settings, base = harness.params("tables"), harness.params("base.source")
    with harness.stage("tables") as stage:
        write_tables(settings, base == "tiny", stage)


def write_tables(settings: dict[str, Any], improvable_base: bool, stage: harness.Stage, root: Path = Path()) -> None:
    """Write all of tables/ of the project at `root`.

    Args:
        settings: confidence; paper ("2b" or "7b") where the paper's numbers belong beside ours.
        improvable_base: the base is the demo's.
    """
    from othink_mr1.evaluation.by_answer import csv_text as by_answer_csv
    from othink_mr1.evaluation.tables import comparisons_csv, csv_text, markdown, results

    stage.progress(0, 3, "comparing models")
    found = results(root / "evaluation", settings["confidence"], settings.get("paper"), improvable_base)
    out = root / "tables"
    out.mkdir(parents=True, exist_ok=True)
    stage.progress(1, 3, "drawing figures")
    draw(found, root)
    stage.progress(2, 3, "writing tables")
    for name, kind in (("same_task", "same-task"), ("cross_task", "cross-task")):
        write_whole(out / f"{name}.csv", csv_text(found[name]))
        write_whole(out / f"{name}.md", markdown(found, kind))
        write_whole(out / f"{name}_r1v.md", markdown(found, kind, "r1v"))
        write_whole(out / f"{name}_comparisons.csv", comparisons_csv(found["comparisons"][kind]))
    write_whole(out / "by_answer.csv", by_answer_csv(found["by_answer"]))
    write_whole(out / "results.json", json.dumps(found, indent=1) + "\n")
    stage.progress(3, 3, "done")


def draw(found: dict[str, Any], root: Path) -> None:
    """The figures: accuracies, and the training curves of each task."""
    from othink_mr1.evaluation.curves import read_all
    from othink_mr1.evaluation.figures import accuracy_bars, save, training_curves

    out = root / "tables"
    for name, title in TITLES.items():
        # the paper's figures are counted as R1-V counts, so ours beside them are too
        protocol, counted = ("r1v", ", R1-V's count") if found["paper"] else ("strict", "")
        save(accuracy_bars(found[name], title + counted, protocol), out / f"{name}.png")
    curves = read_all(root / "training")
    for task in TASKS:
        if any(model.endswith(f"-{task}") for model in curves):
            save(training_curves(curves, task), out / f"curves_{task}.png")


if __name__ == "__main__":
    harness.run_step(main)
