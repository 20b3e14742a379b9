"""`othink study`: the pipeline once a seed, and the accuracies of all seeds in one table.

Each run is the usual one without registration and promotion: a study compares methods and changes no champion. What
DVC's run cache holds is not computed again, so a study that was interrupted, or gets one more seed, runs what is new.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

from flows import plan, request
from flows.commands.run import running
from othink_mr1 import stages
from othink_mr1.errors import UserError


def study(seeds: str, profile: str | None, overrides: Sequence[str], as_json: bool = False) -> None:
    """Run the pipeline for each seed; print the table and where it lies.

    Args:
        seeds: whole numbers with commas between, such as "0,1,2".
        profile: a profile of params.yaml; None is the demo.
        overrides: `--set` texts.
        as_json: print the table as JSON at the end.

    Raises:
        UserError: a seed is no whole number, `seed` is set as well, or a run failed.
    """
    from othink_mr1.evaluation.seeds import markdown, over_seeds

    numbers = _numbers(seeds)
    if any(text.partition("=")[0].strip() == "seed" for text in overrides):
        raise UserError("--set seed=...: --seeds says which seeds a study has")
    results: dict[int, dict[str, Any]] = {}
    with running() as (root, run):
        folder = study_folder(root, profile, overrides)
        for number in numbers:
            wanted = request.prepare(root, profile, [*overrides, f"seed={number}"])
            run(replace(wanted, steps=wanted.steps | {act: plan.StepPlan(act, plan.OUTSIDE) for act in plan.ACTS}))
            content = (root / "tables" / "results.json").read_text(encoding="utf-8")
            stages.write_whole(folder / f"seed-{number}.json", content)
            results[number] = json.loads(content)
    found = over_seeds(results)
    stages.write_whole(folder / "study.json", json.dumps(found, indent=1) + "\n")
    stages.write_whole(folder / "study.md", markdown(found) + "\n")
    print(json.dumps(found) if as_json else f"{markdown(found)}\n{folder.relative_to(root)}/study.md holds this table")


def study_folder(root: Path, profile: str | None, overrides: Sequence[str]) -> Path:
    """Where the results of a study with these settings lie, a file a seed."""
    key = sha256(json.dumps(sorted(overrides)).encode()).hexdigest()[:8] if overrides else ""
    return root / stages.WORK / "studies" / "-".join(part for part in (profile or "demo", key) if part)


def _numbers(seeds: str) -> list[int]:
    try:
        numbers = [int(text) for text in seeds.split(",")]
    except ValueError:
        raise UserError(f"--seeds {seeds!r}: should be whole numbers with commas between, such as 0,1,2") from None
    if len(set(numbers)) < len(numbers):
        raise UserError(f"--seeds {seeds!r}: a seed stands twice")
    return numbers
