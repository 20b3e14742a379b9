"""Kills a whole training at random moments, restarts it, and compares what it leaves with an undisturbed one.

    python -m benchmarks.kills                                      # the demo on one task, 20 kills and the others
    python -m benchmarks.kills --tasks counting geometry --methods sft grpo grpo_d --jobs 3    # all of the demo
    python -m benchmarks.kills --set sft.lora_r=8 --set grpo.lora_r=8                          # adapters
    python -m benchmarks.kills --profile smoke --kills 3 --others 1                            # short

The base model and the methods are trained by the commands that DVC runs, once undisturbed and once with:

kill       SIGKILL at a random moment of the training
term       SIGTERM there: the step saves and reads as interrupted
saving     SIGKILL while a checkpoint is being written
truncated  SIGKILL, then the newest checkpoint loses half of one of its files

Compared are the sha256 of the weights, the curves, the log without its times, and the predictions on both test sets.
Each kill is printed with the step and the phase that it met. The last line is `kills N, identical N`; the exit code is
0 only if both numbers are the same.
"""

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from othink_mr1 import config, stages
from othink_mr1.digests import file_digest, folder_digest
from othink_mr1.names import METHODS, TASKS
from othink_mr1.training.phases import FILE

REPO = Path(__file__).resolve().parent.parent
_TIMES = (
    "time",
    "step_time",
    "tokens_per_second",
    "train_runtime",
    "train_samples_per_second",
    "train_steps_per_second",
)


@dataclass(frozen=True)
class Training:
    """One step that trains, and how long it took undisturbed."""

    model: str
    stage: str
    command: tuple[str, ...]
    seconds: float
    steps: int


@dataclass
class Kill:
    """What is done to a training, and when: `at` counts steps, and its fraction is time within one."""

    kind: str
    training: Training
    at: float
    met: str = ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", help="of params.yaml; the demo if not given")
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE", help="as `othink run`")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=["counting"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=["sft", "grpo_d"], help="after the base model")
    parser.add_argument("--kills", type=int, default=20, help="SIGKILLs at random moments")
    parser.add_argument("--others", type=int, default=3, help="of each other kind")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--jobs", type=int, default=1, help="trainings side by side, once the base model is there")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder if not given")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        return compare(chosen, chosen.folder or Path(temporary))


def compare(chosen: argparse.Namespace, folder: Path) -> int:
    """Both trainings; 0 if all is the same."""
    whole, killed = folder / "whole", folder / "killed"
    prepare(whole, chosen.profile, chosen.sets)
    shutil.copytree(whole, killed)
    wanted = [(method, task) for method in chosen.methods for task in chosen.tasks]
    with ThreadPoolExecutor(chosen.jobs) as pool:
        base = undisturbed(whole, "base", "base_model", ("steps.base_model",))
        trainings = [base, *pool.map(lambda one: undisturbed_method(whole, *one), wanted)]
        kills = plan(trainings, chosen.kills, chosen.others, random.Random(chosen.seed))

        def tried(training: Training) -> int:
            mine = [kill for kill in kills if kill.training == training]
            survive(killed, training, mine, random.Random(f"{chosen.seed} {training.model}"))
            differences = [name for name, one, other in results(whole, killed, training.model) if one != other]
            outcome = f"DIFFERENT: {', '.join(differences)}" if differences else "identical"
            print(f"{training.stage:24} {outcome}", flush=True)
            return 0 if differences else len(mine)

        identical = sum([tried(base), *pool.map(tried, trainings[1:])])
    tell_phases(kills)
    inside = sum(kill.met != "" for kill in kills if kill.kind == "kill")
    print(f"of {chosen.kills} SIGKILLs at random moments {inside} fell inside training")
    print(f"kills {len(kills)}, identical {identical}")
    return 0 if identical == len(kills) else 1


def tell_phases(kills: list[Kill]) -> None:
    """How many of each kind met which phase."""
    for kind in dict.fromkeys(kill.kind for kill in kills):
        met = [kill.met.split(maxsplit=2)[2] if kill.met else "over before it" for kill in kills if kill.kind == kind]
        counts = ", ".join(f"{name} {count}" for name, count in Counter(met).most_common())
        print(f"{kind:24} {len(met):3}: {counts}")


def prepare(folder: Path, profile: str | None, sets: list[str]) -> None:
    """Parameters and data; the data of a project is made once for both trainings."""
    folder.mkdir(parents=True)
    shutil.copy(REPO / "params.yaml", folder)
    shutil.copytree(REPO / "data_profiles", folder / "data_profiles")
    config.write_selection(folder, profile, sets)
    call(folder, "steps.resolve")
    for task in TASKS:
        call(folder, "steps.prepare_data", "--task", task)


def undisturbed_method(folder: Path, method: str, task: str) -> Training:
    """Train one method on one task from start to end."""
    model = f"{method}-{task}"
    return undisturbed(folder, model, f"train@{model}", ("steps.train", "--method", method, "--task", task))


def undisturbed(folder: Path, model: str, stage: str, command: tuple[str, ...]) -> Training:
    """Train one model from start to end."""
    with started(folder, command) as (step, marker):
        while step.poll() is None and not phase(marker):
            time.sleep(0.01)
        began = time.monotonic()
        if step.wait():
            sys.exit(f"{stage} failed undisturbed; see {folder}/*.log")
    total = (stages.read_status(stage, folder) or {})["progress"]["total"]
    training = Training(model, stage, command, time.monotonic() - began, total)
    print(f"{stage:24} undisturbed: {total} steps in {training.seconds:.1f} s", flush=True)
    return training


def plan(trainings: list[Training], kills: int, others: int, dice: random.Random) -> list[Kill]:
    """Moments that are uniform over the time of all trainings together."""
    weights = [training.seconds for training in trainings]
    kinds = ["kill"] * kills + [kind for kind in ("term", "saving", "truncated") for _ in range(others)]
    drawn = [Kill(kind, dice.choices(trainings, weights)[0], dice.random()) for kind in kinds]
    for kill in drawn:
        # A truncated checkpoint has to be there first, and one that is written has to be one of those to come.
        low, high = {"truncated": (0.5, 0.95), "saving": (0.0, 0.7)}.get(kill.kind, (0.0, 0.99))
        kill.at = kill.training.steps * (low + (high - low) * kill.at)
    return sorted(drawn, key=lambda kill: kill.at)


def survive(folder: Path, training: Training, kills: list[Kill], dice: random.Random) -> None:
    """Train with all the kills, and to the end after the last."""
    for kill in kills:
        with started(folder, training.command) as (step, marker):
            kill.met = strike(step, marker, kill, dice)
            step.wait()
        status = stages.read_status(training.stage, folder) or {}
        if status.get("state") == "done":  # it met a process that had only to go
            kill.met = ""
        if kill.met and status.get("state") != "interrupted":
            sys.exit(f"{training.stage}: reads as {status.get('state')} after {kill.kind}; see {folder}/*.log")
        torn = tear(folder, training.stage, dice) if kill.kind == "truncated" else ""
        print(f"{training.stage:24} {kill.kind:10} {kill.met or 'over before it'}{torn}", flush=True)
    if call(folder, *training.command, code=None):
        sys.exit(f"{training.stage} failed after its kills; see {folder}/*.log")


def strike(step: "subprocess.Popen[bytes]", marker: Path, kill: Kill, dice: random.Random) -> str:
    """Wait for the moment and send the signal; the step and phase that it met, empty where training was over."""
    pace = kill.training.seconds / kill.training.steps
    while step.poll() is None:
        found = phase(marker)
        if found and int(found.split()[0]) >= int(kill.at) and (kill.kind != "saving" or "saving" in found):
            break
        time.sleep(0.0005)
    time.sleep(dice.random() * 0.03 if kill.kind == "saving" else (kill.at % 1) * pace)
    if kill.kind == "term":  # what it meets goes on for a while
        met = phase(marker)
        step.terminate()
        return f"step {met}" if step.wait() != 0 else ""
    step.kill()
    return f"step {phase(marker)}" if step.wait() != 0 else ""


def tear(folder: Path, stage: str, dice: random.Random) -> str:
    """Cut a file of the newest checkpoint in half."""
    found = list((folder / ".othink" / "checkpoints").glob(f"{stage}-*/checkpoint-*"))
    if not found:
        return ""
    newest = max(found, key=lambda path: int(path.name.partition("-")[2]))
    file = dice.choice(sorted(path for path in newest.iterdir() if path.stat().st_size > 1))
    os.truncate(file, file.stat().st_size // 2)
    return f", then {newest.name}/{file.name} was cut in half"


@contextmanager
def started(folder: Path, command: tuple[str, ...]) -> Iterator[tuple["subprocess.Popen[bytes]", Path]]:
    """A step as a process, and the file in which it marks its phases."""
    name = "-".join(part.removeprefix("steps.") for part in command if not part.startswith("--"))
    marker = folder / f"{name}.phase"
    marker.unlink(missing_ok=True)
    environment = {**os.environ, "PYTHONPATH": str(REPO), FILE: str(marker)}
    environment.pop("OTHINK_OWNER", None)
    with (folder / f"{name}.log").open("ab") as log:
        step = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield step, marker
        finally:
            step.kill()
            step.wait()


def call(folder: Path, *command: str, code: int | None = 0) -> int:
    """Run a step to its end."""
    with started(folder, command) as (step, _):
        ended = step.wait()
    if code is not None and ended != code:
        sys.exit(f"{command[0]} failed; see {folder}/*.log")
    return ended


def phase(marker: Path) -> str:
    """Step and phase that the trainer is in; empty before it trains."""
    try:
        return marker.read_text().strip()
    except OSError:
        return ""


def results(whole: Path, killed: Path, model: str) -> Iterator[tuple[str, Any, Any]]:
    """What the two trainings left: name, one, other."""
    for folder in (whole, killed):
        call(folder, "steps.evaluate", "--model", model)
    for name, look in (
        ("weights", lambda f: [file_digest(file) for file in sorted((f / "models" / model).rglob("*.safetensors"))]),
        ("model folder", lambda f: folder_digest(f / "models" / model)),
        ("curves.csv", lambda f: (f / "training" / model / "curves.csv").read_text()),
        ("log.jsonl", lambda f: log_without_times(f / "training" / model / "log.jsonl")),
        ("predictions", lambda f: folder_digest(f / "evaluation" / model)),
    ):
        yield name, look(whole), look(killed)


def log_without_times(path: Path) -> list[dict[str, Any]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        {key: value for key, value in entry.items() if key not in _TIMES and not key.startswith("time/")}
        for entry in entries
    ]


if __name__ == "__main__":
    sys.exit(main())
