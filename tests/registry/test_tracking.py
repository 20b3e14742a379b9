"""What MLflow is told of a pipeline run, and that nothing depends on its being there."""

import json
import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from othink_mr1 import dvc_lock, tracking
from othink_mr1.errors import UserError
from othink_mr1.tracking import connection
from othink_mr1.tracking.rows import LogTail

STAGE = "train@grpo_d-counting"
ROWS = [{"step": step, "reward": step / 10, "kl": 0.01 * step, "time": 1_700_000_000 + step} for step in range(1, 7)]


def client(root: Path) -> Any:
    return tracking.store(root).client()


def history(root: Path, run_id: str, name: str) -> list[tuple[int, float]]:
    return [(metric.step, metric.value) for metric in client(root).get_metric_history(run_id, name)]


def trained(project: Any) -> None:
    """Leave a trained model as the step and DVC do."""
    project.log("grpo_d-counting", ROWS)
    project.write("training/grpo_d-counting/curves.csv", "step,reward\n1,0.1\n")
    project.write("models/grpo_d-counting/model.safetensors", "weights")
    project.lock(
        STAGE,
        {"data/counting/train": "d" * 32, "models/base": "b" * 32 + ".dir"},
        {
            "models/grpo_d-counting": "a" * 32 + ".dir",
            "training/grpo_d-counting/curves.csv": "c" * 32,
            "training/grpo_d-counting/log.jsonl": "e" * 32,
        },
    )


# --- following a log file -------------------------------------------------------------------------------------------


def test_a_half_written_line_waits_until_it_is_whole(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "rew')
    tail = LogTail(file)
    assert [(p.step, p.name, p.value) for p in tail.read()] == [(1, "reward", 0.5)]
    assert tail.read() == []
    file.write_text('{"step": 1, "reward": 0.5}\n{"step": 2, "reward": 0.25}\n')
    assert [(p.step, p.value) for p in tail.read()] == [(2, 0.25)]


def test_a_replaced_file_gives_only_what_is_new(project: Any) -> None:
    tail = LogTail(project.log("x", ROWS[:4]))
    assert [p.step for p in tail.read() if p.name == "reward"] == [1, 2, 3, 4]
    project.log("x", ROWS[:2])  # resumed from the checkpoint at step 2
    assert tail.read() == []
    project.log("x", ROWS[:5])
    assert [p.step for p in tail.read() if p.name == "reward"] == [5]


def test_a_file_replaced_by_a_longer_one_is_read_from_its_start(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 7, "loss": 1.0}\n')
    tail = LogTail(file)
    tail.read()
    file.write_text('{"step": 1, "loss": 3.5}\n{"step": 2, "loss": 3.25}\n')
    assert [(p.step, p.value) for p in tail.read()] == [(1, 3.5), (2, 3.25)]


def test_lines_that_are_no_rows_are_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('null\n{"reward": 1}\n{"step": 1, "reward": "high", "ok": true, "loss": NaN, "a b(c)": 2}\n\xff{\n')
    points = LogTail(file).read()
    assert [(p.name, p.value) for p in points if p.value == p.value] == [("a b_c_", 2.0)]
    assert [p.name for p in points if p.value != p.value] == ["loss"]


def test_the_last_line_counts_without_its_newline_once_the_step_has_ended(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    file.write_text('{"step": 1, "loss": 1.0}')
    tail = LogTail(file)
    assert tail.read() == []
    assert [p.step for p in tail.read(ended=True)] == [1]


# --- runs -----------------------------------------------------------------------------------------------------------


def test_a_pipeline_run_holds_one_run_a_stage(root: Path, project: Any) -> None:
    params = {"seed": 0, "train": {"grpo_d": {"counting": {"beta_max": 0.1}}}, "local": {"paths": {"x": "/secret"}}}
    with tracking.pipeline_run(root, params, {"othink.profile": "smoke", "othink.flow_run": "f1"}) as run:
        mirror = tracking.StageMirror(root, STAGE, run.run_id, {"beta_max": 0.1})
        project.log("grpo_d-counting", ROWS[:3], half='{"step": 4, "re')
        mirror.poll()
        mirror.poll()
        assert history(root, str(mirror.run_id), "reward") == [(1, 0.1), (2, 0.2), (3, 0.3)]
        trained(project)
        mirror.finish("done")
    parent, child = client(root).get_run(run.run_id), client(root).get_run(mirror.run_id)
    assert parent.info.status == child.info.status == "FINISHED"
    assert parent.data.params == {"seed": "0", "train.grpo_d.counting.beta_max": "0.1"}
    assert parent.data.tags["othink.flow_run"] == "f1"
    assert STAGE in parent.data.tags["mlflow.note.content"]
    assert child.data.tags["mlflow.parentRunId"] == run.run_id
    assert child.info.run_name == STAGE
    assert child.data.params == {"beta_max": "0.1"}
    assert [step for step, _ in history(root, str(mirror.run_id), "reward")] == [1, 2, 3, 4, 5, 6]
    times = [metric.timestamp for metric in client(root).get_metric_history(mirror.run_id, "kl")]
    assert times[0] == 1_700_000_001_000
    assert child.data.tags["dvc.dep.data/counting/train"] == "d" * 32
    assert {file.path for file in client(root).list_artifacts(mirror.run_id)} == {"curves.csv", "log.jsonl"}
    assert [i.dataset.digest for i in child.inputs.dataset_inputs] == ["d" * 32]


def test_artifacts_stay_in_the_projects_own_folder(root: Path, project: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    trained(project)
    tracking.log_from_files(root, STAGE)
    assert list((root / ".othink/mlflow/artifacts").rglob("curves.csv"))
    assert not (tmp_path / "mlruns").exists()


def test_scores_attach_to_the_model_with_their_dataset(root: Path, project: Any) -> None:
    trained(project)
    tracking.log_from_files(root, STAGE)
    task = {"n": 4, "strict": {"correct": 3, "accuracy": 0.75, "ci95": [0.3, 0.95]}, "format_accuracy": 1.0}
    content = {"model": "grpo_d-counting", "tasks": {"counting": task, "geometry": task}}
    project.write("evaluation/grpo_d-counting/metrics.json", content)
    deps = {"models/grpo_d-counting": "a" * 32 + ".dir", "data/counting/test": "1" * 32}
    deps["data/geometry/test"] = "2" * 32
    project.lock("evaluate@grpo_d-counting", deps, {"evaluation/grpo_d-counting": "f" * 32 + ".dir"})
    run_id = tracking.log_from_files(root, "evaluate@grpo_d-counting")

    assert client(root).get_run(run_id).data.metrics["geometry/strict/accuracy"] == 0.75
    experiment = tracking.store(root).experiment_id
    [model] = client(root).search_logged_models([experiment], filter_string="name = 'grpo_d-counting'")
    found = {m.key: (m.value, m.dataset_name, m.dataset_digest) for m in model.metrics}
    assert found["counting/strict/accuracy"] == (0.75, "counting test", "1" * 32)
    assert found["geometry/strict/accuracy"] == (0.75, "geometry test", "2" * 32)


def test_a_training_names_source_and_licence_of_its_data(root: Path, project: Any) -> None:
    trained(project)
    told = {"source": {"source": "hub", "name": "owner/data", "split": "train"}, "licence": "CC-BY-4.0", "rows": 9}
    project.write("data/counting/provenance.json", {"splits": {"train": told}})
    [data] = client(root).get_run(tracking.log_from_files(root, STAGE)).inputs.dataset_inputs
    assert {tag.key: tag.value for tag in data.tags if tag.key.startswith("data.")} == {
        "data.source": "hub owner/data train",
        "data.licence": "CC-BY-4.0",
        "data.rows": "9",
    }


def test_a_data_stage_says_how_many_rows_it_kept(root: Path, project: Any) -> None:
    told = {"read": 12, "rows": 9, "quarantined": {"picture_unreadable": 2, "no_answer": 1}}
    project.write("data/counting/provenance.json", {"splits": {"train": told}})
    project.lock("prepare_data@counting", {}, {"data/counting": "d" * 32 + ".dir"})
    run_id = tracking.log_from_files(root, "prepare_data@counting")
    metrics = client(root).get_run(run_id).data.metrics
    assert metrics == {"train/read": 12, "train/rows": 9, "train/quarantined": 3}
    assert [file.path for file in client(root).list_artifacts(run_id)] == ["provenance.json"]


def test_a_stage_is_found_by_its_outputs_and_logged_again_when_its_run_is_gone(root: Path, project: Any) -> None:
    assert tracking.find_stage_run(root, STAGE) is None
    trained(project)
    digest = dvc_lock.read_stage(root, STAGE).outputs  # type: ignore[union-attr]
    assert tracking.find_stage_run(root, STAGE, digest) is None
    first = tracking.log_from_files(root, STAGE, params={"beta_max": 0.1})
    assert tracking.find_stage_run(root, STAGE, digest) == first
    assert len(history(root, str(first), "reward")) == 6
    client(root).delete_run(first)
    assert tracking.find_stage_run(root, STAGE, digest) is None
    again = tracking.log_from_files(root, STAGE)
    assert again != first
    assert tracking.find_stage_run(root, STAGE) == again


def test_other_outputs_have_another_digest(root: Path, project: Any) -> None:
    trained(project)
    first = tracking.log_from_files(root, STAGE)
    project.lock(STAGE, {}, {"models/grpo_d-counting": "9" * 32 + ".dir"})
    assert tracking.find_stage_run(root, STAGE) is None
    assert first is not None


def test_a_failed_stage_and_a_failed_pipeline_are_closed_as_such(root: Path, project: Any) -> None:
    with pytest.raises(RuntimeError), tracking.pipeline_run(root, {}, {}) as run:  # noqa: PT012
        mirror = tracking.StageMirror(root, STAGE, run.run_id)
        project.log("grpo_d-counting", ROWS[:2], half='{"step"')
        mirror.finish("failed")
        raise RuntimeError
    assert client(root).get_run(run.run_id).info.status == "FAILED"
    assert client(root).get_run(mirror.run_id).info.status == "FAILED"
    assert history(root, str(mirror.run_id), "reward") == [(1, 0.1), (2, 0.2)]


def test_runs_of_a_killed_process_are_closed_by_the_next(root: Path) -> None:
    code = (
        "import os, signal, sys\nfrom pathlib import Path\nfrom othink_mr1 import tracking\nroot = Path(sys.argv[1])\n"
        "with tracking.pipeline_run(root, {}, {}) as run:\n"
        "    print(run.run_id, flush=True)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, text=True, check=False)
    killed = done.stdout.strip()
    assert client(root).get_run(killed).info.status == "RUNNING"
    with tracking.pipeline_run(root, {}, {}):
        assert client(root).get_run(killed).info.status == "KILLED"


def test_a_pipeline_run_points_at_the_runs_that_made_what_was_cached(root: Path, project: Any) -> None:
    trained(project)
    made = str(tracking.log_from_files(root, STAGE))
    with tracking.pipeline_run(root, {}, {}) as run:
        run.point_at(STAGE, made)
    parent = client(root).get_run(run.run_id)
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["othink.run.train/grpo_d-counting"] == made
    assert f"| {STAGE} | cached | [{made[:8]}]" in parent.data.tags["mlflow.note.content"]
    assert not list((root / ".othink/mlflow/open").iterdir())


# --- MLflow away ----------------------------------------------------------------------------------------------------


def test_a_dead_server_costs_one_warning_and_nothing_else(
    root: Path, project: Any, monkeypatch: Any, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    tracking.connect(root)
    trained(project)
    with caplog.at_level(logging.WARNING), tracking.pipeline_run(root, {"seed": 0}, {}) as run:
        mirror = tracking.StageMirror(root, STAGE, run.run_id, {"beta_max": 0.1})
        mirror.poll()
        assert mirror.finish("done") is None
        assert tracking.find_stage_run(root, STAGE) is None
        assert run.url is None
    warnings = [record.getMessage() for record in caplog.records if record.name == connection.__name__]
    assert len(warnings) == 1
    assert "http://127.0.0.1:9" in warnings[0]


def test_what_was_not_logged_is_logged_when_the_server_is_back(root: Path, project: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(connection, "PATIENCE", 0.0)
    database = root / ".othink/mlflow/mlflow.db"
    kept = database.with_suffix(".kept")
    trained(project)
    store = tracking.store(root)
    with tracking.pipeline_run(root, {"seed": 0}, {}) as run:
        mirror = tracking.StageMirror(root, STAGE, run.run_id, {"beta_max": 0.1})
        mirror.poll()
        shutil.move(database, kept)  # every call now meets an empty file without tables
        os.close(os.open(database, os.O_CREAT))
        store.client()._tracking_client.store.engine.dispose()
        mirror.finish("done")
        assert store.unfinished == [mirror]
        store.client()._tracking_client.store.engine.dispose()
        shutil.move(kept, database)
    assert store.unfinished == []
    assert client(root).get_run(mirror.run_id).info.status == "FINISHED"
    assert tracking.find_stage_run(root, STAGE) == mirror.run_id
    assert len(history(root, str(mirror.run_id), "reward")) == 6


def test_an_address_that_mlflow_cannot_use_is_one_clear_line(root: Path) -> None:
    with pytest.raises(UserError, match=r"'\./mlruns' is not an address of MLflow"):
        tracking.connect(root, "./mlruns")


def test_the_address_of_a_run_is_known_where_a_server_shows_it(root: Path, project: Any) -> None:
    trained(project)
    run_id = str(tracking.log_from_files(root, STAGE))
    assert tracking.run_url(root, run_id) is None
    from othink_mr1 import processes

    entry = {"mlflow": "http://127.0.0.1:5000", "process": str(processes.current())}
    project.write(".othink/ui.json", json.dumps(entry))
    page = f"http://127.0.0.1:5000/#/experiments/{tracking.store(root).experiment_id}/runs/{run_id}"
    assert tracking.run_url(root, run_id) == f"{page}?workflowType=machine_learning"
    project.write(".othink/ui.json", json.dumps(entry | {"process": "1:0"}))
    assert tracking.run_url(root, run_id) is None
