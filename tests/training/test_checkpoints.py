"""Checkpoints: verified before one is used, written by one process alone, and never another run's."""

import errno
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from othink_mr1.errors import UserError
from othink_mr1.training import checkpoints, fingerprint
from othink_mr1.training.fingerprint import Home, home
from othink_mr1.training.run import Outputs, run
from tests.training.test_training import Reporter, base, trainer_of, weights

__all__ = ["base"]  # the fixture


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def make_checkpoint(folder: Path, step: int) -> Path:
    beside = folder / checkpoints.UNFINISHED / f"checkpoint-{step}"
    beside.mkdir(parents=True)
    (beside / "model.safetensors").write_bytes(bytes(range(256)) * step)
    (beside / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    checkpoints.keep(folder, beside.name, limit=2)
    return folder / beside.name


def flip_a_bit(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda c: (c / "model.safetensors").write_bytes(b""), "model.safetensors is not as it was written"),
        (lambda c: flip_a_bit(c / "model.safetensors"), "model.safetensors is not as it was written"),
        (lambda c: (c / "trainer_state.json").unlink(), "trainer_state.json is missing"),
        (lambda c: (c / "seal.json").unlink(), "seal.json cannot be read"),
        (lambda c: (c / "seal.json").write_text("{"), "seal.json cannot be read"),
    ],
)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(spoil, told: str, capfd) -> None:
    folder = Path("ck")
    make_checkpoint(folder, 9)
    spoil(make_checkpoint(folder, 10))
    assert checkpoints.newest(folder) == folder / "checkpoint-9"
    assert f"ck/checkpoint-10 is damaged ({told}" in capfd.readouterr().err
    assert not (folder / "checkpoint-10").exists()


def test_the_last_ones_are_kept() -> None:
    for step in (8, 9, 10, 11):
        make_checkpoint(Path("ck"), step)
    assert sorted(p.name for p in Path("ck").glob("checkpoint-*")) == ["checkpoint-10", "checkpoint-11"]
    assert checkpoints.newest(Path("nowhere")) is None


HOLDER = """
import sys, time
from pathlib import Path
from othink_mr1.training import checkpoints
with checkpoints.held(Path("ck")):
    print("held", flush=True)
    time.sleep(600)
"""


def test_two_trainers_never_write_one_folder(base: Path) -> None:
    other = subprocess.Popen([sys.executable, "-c", HOLDER], stdout=subprocess.PIPE, text=True)
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"ck: process {other.pid} writes its checkpoints there"):
            trainer_of("sft", base, Path("ck"))([]).train()
        assert not list(Path("ck").glob("checkpoint-*"))
    finally:
        other.kill()
        other.wait()
    trainer_of("sft", base, Path("ck"), max_steps=1)([]).train()
    assert (Path("ck") / "checkpoint-1").is_dir()


def test_a_truncated_newest_checkpoint_changes_nothing_of_the_result(base: Path, capfd) -> None:
    whole, parts = Path("ck-whole"), Path("ck-parts")
    run(trainer_of("sft", base, whole), Home(whole), Outputs("whole"), Reporter())
    with pytest.raises(KeyboardInterrupt):
        run(trainer_of("sft", base, parts), Home(parts), Outputs("parts"), Reporter(stop_at=3))
    optimizer = parts / "checkpoint-3" / "optimizer.pt"
    optimizer.write_bytes(optimizer.read_bytes()[:-1000])
    run(trainer_of("sft", base, parts), Home(parts), Outputs("parts"), Reporter())
    told = capfd.readouterr()
    assert "checkpoint-3 is damaged (optimizer.pt is not as it was written): going back to the one before" in told.err
    assert "going on from ck-parts/checkpoint-2" in told.out
    assert weights(Outputs("parts").model) == weights(Outputs("whole").model)
    assert Outputs("parts").curves.read_text() == Outputs("whole").curves.read_text()


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_folder_that_became_read_only_is_one_line_and_nothing_is_lost(base: Path, folder: Path) -> None:
    disk = folder / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(disk)], check=False).returncode:
        pytest.skip("this machine does not allow mounts")
    try:
        parts, whole = disk / "ck", Path("ck-whole")
        with pytest.raises(KeyboardInterrupt):
            run(trainer_of("sft", base, parts), Home(parts), Outputs("parts"), Reporter(stop_at=2))
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        with pytest.raises(UserError, match=r"ck: checkpoints cannot be written there \(Read-only file system\)"):
            run(trainer_of("sft", base, parts), Home(parts), Outputs("parts"), Reporter())
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        run(trainer_of("sft", base, parts), Home(parts), Outputs("parts"), Reporter())
        run(trainer_of("sft", base, whole), Home(whole), Outputs("whole"), Reporter())
        assert weights(Outputs("parts").model) == weights(Outputs("whole").model)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_checkpoints_by_the_clock_change_no_bit(base: Path, monkeypatch) -> None:
    kept = []
    keep = checkpoints.keep
    monkeypatch.setattr(checkpoints, "keep", lambda folder, name, limit: [kept.append(name), keep(folder, name, limit)])
    options: dict[str, Any] = {"save_steps": 3, "logging_steps": 3, "save_total_limit": 1}
    plain, clock = Path("ck-plain"), Path("ck-clock")
    run(trainer_of("grpo_d", base, plain, **options), Home(plain), Outputs("plain"), Reporter())
    assert kept == ["checkpoint-3", "checkpoint-4"]
    kept.clear()
    run(trainer_of("grpo_d", base, clock, **options, save_minutes=1e-9), Home(clock), Outputs("clock"), Reporter())
    assert kept == [f"checkpoint-{step}" for step in (1, 2, 3, 4)]
    assert weights(Outputs("plain").model) == weights(Outputs("clock").model)
    assert Outputs("plain").curves.read_text() == Outputs("clock").curves.read_text()


def test_the_clock_waits_its_minutes(base: Path, monkeypatch) -> None:
    trainer = trainer_of("sft", base, Path("ck"), save_steps=100, save_minutes=1)([])
    begin = time.monotonic()
    # Each step takes 25 seconds of this clock.
    monkeypatch.setattr("othink_mr1.training.callbacks.time.monotonic", lambda: begin + 25 * trainer.state.global_step)
    trainer.train()
    assert sorted(p.name for p in Path("ck").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_validation_runs_once_where_an_epoch_ends(base: Path) -> None:
    trainer = trainer_of(
        "sft", base, Path("ck"), eval_strategy="steps", eval_steps=3, eval_max_new_tokens=2, max_steps=6
    )([])
    calls = []
    validate = trainer.validate
    trainer.validate = lambda *args: calls.append(trainer.state.global_step) or validate(*args)
    trainer.train()  # 6 samples in batches of 2: an epoch is 3 steps
    assert calls == [3, 6]


def test_a_changed_setting_or_input_never_resumes_the_wrong_run() -> None:
    data = Path("train.parquet")
    data.write_bytes(b"rows")
    first = home("train@sft-counting", {"learning_rate": 1e-3}, [data]).folder
    make_checkpoint(first, 1)
    assert home("train@sft-counting", {"learning_rate": 1e-3}, [data]).folder == first
    assert home("train@sft-counting", {"learning_rate": 1e-4}, [data], resume_anyway=True).folder != first
    threads = torch.get_num_threads()
    torch.set_num_threads(threads + 1)
    try:
        assert home("train@sft-counting", {"learning_rate": 1e-3}, [data], resume_anyway=True).folder != first
    finally:
        torch.set_num_threads(threads)
    data.write_bytes(b"other rows")
    assert home("train@sft-counting", {"learning_rate": 1e-3}, [data], resume_anyway=True).folder != first
    assert checkpoints.newest(first) == first / "checkpoint-1"


@pytest.mark.parametrize("kind", ["sft", "grpo_d"])
def test_a_run_that_only_had_to_save_its_model_makes_no_further_step(kind: str, base: Path, monkeypatch) -> None:
    whole, parts = Path("ck-whole"), Path("ck-parts")
    run(trainer_of(kind, base, whole), Home(whole), Outputs("whole"), Reporter())
    with monkeypatch.context() as patched:
        patched.setattr("othink_mr1.training.run.replace_folder", no_space)
        with pytest.raises(UserError, match="ck-parts: a checkpoint or model could not be written"):
            run(trainer_of(kind, base, parts), Home(parts), Outputs("parts"), Reporter())
    assert (parts / "checkpoint-4").is_dir()  # of the last step
    run(trainer_of(kind, base, parts), Home(parts), Outputs("parts"), Reporter())
    assert weights(Outputs("parts").model) == weights(Outputs("whole").model)
    assert Outputs("parts").curves.read_text() == Outputs("whole").curves.read_text()


def no_space(*folders: Path) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_it_is_told_which_settings_changed(capfd) -> None:
    settings = {"learning_rate": 1e-3, "reward": {"alpha": 1.0}, "max_steps": 4, "seed": 0, "top_p": 0.9}
    make_checkpoint(home("train@sft-counting", settings, []).folder, 1)
    home("train@sft-counting", {**settings, "reward": {"alpha": 0.5}}, [])
    assert "another run's checkpoints (reward.alpha 1.0 before, 0.5 now); not used" in capfd.readouterr().out
    home("train@sft-counting", {**settings, "learning_rate": 1, "max_steps": 9, "seed": 1, "bf16": True}, [])
    told = "(bf16 not set before, True now; learning_rate 0.001 before, 1 now; max_steps 4 before, 9 now; and 1 more)"
    assert told in capfd.readouterr().out


def test_the_last_damaged_checkpoint_says_that_all_begins_anew(capfd) -> None:
    (make_checkpoint(Path("ck"), 3) / "seal.json").unlink()
    assert checkpoints.newest(Path("ck")) is None
    assert "): it was the last, so all begins anew" in capfd.readouterr().err


@pytest.mark.parametrize("moment", ["validate", "keep"])
def test_a_stop_during_validation_or_saving_begins_no_further_step(base: Path, monkeypatch, moment: str) -> None:
    options: dict[str, Any] = {"eval_strategy": "steps", "eval_steps": 2, "eval_max_new_tokens": 4, "save_steps": 2}
    run(trainer_of("sft", base, Path("ck"), **options), Home(Path("ck")), Outputs("whole"), Reporter())
    reporter = Reporter()
    keep = checkpoints.keep

    def stop(*arguments: Any) -> dict[str, float]:
        reporter.stop_requested.set()
        return {"eval_accuracy": 0.0, "eval_format": 0.0}

    def make(callbacks: list[Any]) -> Any:
        trainer = trainer_of("sft", base, Path("ck"), **options)(callbacks)
        if moment == "validate":
            trainer.validate = stop
        return trainer

    if moment == "keep":
        monkeypatch.setattr(checkpoints, "keep", lambda *arguments: [keep(*arguments), stop()])
    with pytest.raises(KeyboardInterrupt):
        run(make, Home(Path("ck")), Outputs("parts"), reporter)
    assert [path.name for path in Path("ck").glob("checkpoint-*")] == ["checkpoint-2"]


def test_a_run_goes_on_after_a_change_of_code_only_where_that_is_asked_for(base: Path, monkeypatch, capfd) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-3}

    def train(resume_anyway: bool, stop_at: int = -1) -> Reporter:
        mine, reporter = home("train@sft-counting", settings, [base], resume_anyway), Reporter(stop_at)
        run(trainer_of("sft", base, mine.folder), mine, Outputs("sft-counting"), reporter)
        return reporter

    with pytest.raises(KeyboardInterrupt):
        train(False, stop_at=2)
    before = fingerprint.origin(settings, [base])
    after = {**before, "code": {**before["code"], "othink_mr1.sft": "edited"}}
    monkeypatch.setattr(fingerprint, "origin", lambda settings, inputs: after)

    assert checkpoints.newest(home("train@sft-counting", settings, [base]).folder) is None
    assert "another run's checkpoints (code: othink_mr1.sft); not used" in capfd.readouterr().out

    reporter = train(True)
    assert "going on from step 2 although code has changed: othink_mr1.sft" in capfd.readouterr().out
    assert reporter.notes == {"resumed_anyway": "step 2: othink_mr1.sft"}
    log = [json.loads(line) for line in Outputs("sft-counting").log.read_text().splitlines()]
    assert [entry["step"] for entry in log if entry.get("resumed_anyway")] == [2]
    header, *rows = Outputs("sft-counting").curves.read_text().splitlines()
    column = header.split(",").index("resumed_anyway")
    assert [row.split(",")[column] for row in rows] == ["", "1.0", "", ""]
    assert not list(fingerprint.CHECKPOINTS.iterdir())
