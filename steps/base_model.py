"""Makes, or fetches, the model that every method starts from.

Out: models/base, training/base/curves.csv and log.jsonl (empty but for their heads where nothing is trained here).
"""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from othink_mr1.errors import UserError
from othink_mr1.stages import replace_folder
from steps import harness

BASE = Path("models/base")


def main(arguments: Sequence[str] | None = None) -> None:
    """Put the base model into models/base.

    Raises:
        UserError: a setting is wrong, or the model cannot be read.
    """
    argparse.ArgumentParser(prog="python -m steps.base_model", description=__doc__).parse_args(arguments)
    settings = harness.params("base")
    seed, threads = harness.params("seed"), harness.params("threads")
    with harness.stage("base_model", checkpoints=True) as stage:
        if settings["source"] == "tiny":
            _train_tiny(settings, seed, threads, stage)
        elif settings["source"] == "path":
            _take(harness.local_path("base"), settings.get("max_pixels"), stage)
        else:
            _take(
                _fetch(settings["name"], settings.get("revision")), settings.get("max_pixels"), stage, settings["name"]
            )


def _train_tiny(settings: dict[str, Any], seed: int, threads: int, stage: harness.Stage) -> None:
    import torch
    from transformers import TrainerCallback

    from othink_mr1.models.habits import Habits, mixture
    from othink_mr1.models.tiny import build_model, build_processor
    from othink_mr1.sft import SFTConfig, SFTTrainer
    from othink_mr1.training.fingerprint import home
    from othink_mr1.training.run import Outputs, machine_arguments, prepare_torch, run

    prepare_torch(settings.get("threads", threads))
    mine = home("base_model", {**settings, "seed": seed}, [], harness.resume_anyway())

    def rendering(done: int, total: int) -> None:
        stage.progress(done, total, "drawing scenes")
        stage.raise_if_stopped()

    training = settings["training"]
    samples = mixture(
        seed,
        settings["scenes"],
        settings["image_size"],
        Habits(**settings["habits"]),
        settings["answers"],
        training["per_device_train_batch_size"],
        training["max_steps"],
        rendering,
    )
    processor = build_processor(text for sample in samples for text in [sample["prompt"], *sample["targets"]])
    torch.manual_seed(seed)
    config = SFTConfig(
        **machine_arguments(mine.folder, seed),
        train_sampling_strategy="sequential",  # the mixture is in order already
        **training,
    )

    def make_trainer(callbacks: list[TrainerCallback]) -> SFTTrainer:
        return SFTTrainer(build_model(processor), config, processor, samples, callbacks=callbacks)

    run(make_trainer, mine, Outputs("base"), stage)


def _take(folder: Path, max_pixels: int | None, stage: harness.Stage, name: str | None = None) -> None:
    """Copies a model folder, after all of it was held against each other and it had answered to a picture.

    Args:
        name: of a model of the hub, whose folder has the name of its commit.
    """
    from othink_mr1.models.fitting import check_fit, run_a_picture
    from othink_mr1.models.folder import check_model_folder
    from othink_mr1.models.hub import ORIGIN, record_origin
    from othink_mr1.models.loading import load_model, load_processor
    from othink_mr1.training.logs import write_curves
    from othink_mr1.training.run import Outputs, prepare_torch

    prepare_torch(harness.params("threads"))
    config = check_model_folder(folder)
    processor = load_processor(folder, max_pixels)
    check_fit(folder, config, processor)
    stage.progress(0, 2, "reading the model")
    run_a_picture(folder, load_model(folder), processor)
    stage.progress(1, 2, "copying")
    beside = BASE.with_name(".base.part")
    shutil.rmtree(beside, ignore_errors=True)
    unwanted = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.py", "*.gguf", ".*")
    shutil.copytree(folder, beside, ignore=shutil.ignore_patterns(*unwanted))
    processor.image_processor.save_pretrained(beside)
    (beside / ORIGIN).unlink(missing_ok=True)  # a folder that was one of ours: its origin is that path now
    if name is not None:
        record_origin(beside, name, folder.name)
    replace_folder(beside, BASE)
    write_curves([], Outputs("base").curves)
    Outputs("base").log.write_text("")
    stage.progress(2, 2, "copying")


def _fetch(name: str, revision: str | None) -> Path:
    """A model of the hub, from the local cache or the network."""
    from othink_mr1.models.hub import fetch

    try:
        folder = fetch(name, revision, "base.name")
    except UserError as error:
        raise UserError(f"{error} A folder on this machine works with base.source=path") from error
    commit = folder.name
    pin = "" if revision == commit else f"; base.revision={commit} pins it"
    print(f"base model: {name} at commit {commit}{pin}", flush=True)
    return folder


if __name__ == "__main__":
    harness.run_step(main)
