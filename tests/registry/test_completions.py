"""What a training samples, as MLflow shows it."""

import json
from pathlib import Path
from typing import Any

from othink_mr1 import tracking
from othink_mr1.data.completions import CompletionsFolder
from tests.data.makers import png, write_split

STAGE = "train@grpo_d-counting"


def data(root: Path) -> None:
    rows = [
        {"sample_id": f"s{i}", "task": "counting", "split": "train", "source": "x", "problem": "How many?",
         "image": {"bytes": png(i), "path": None}, "solution": "<answer> 3 </answer>", "answer": "3", "thinking": ""}
        for i in range(4)
    ]  # fmt: skip
    write_split(root / "data" / "counting", "train", rows)


def sampled(root: Path, steps: list[int], sample_id: str = "s") -> None:
    folder = CompletionsFolder(root / "training" / "grpo_d-counting" / "completions", root / "kept")
    for made in (folder.folder, folder.kept):
        made.mkdir(parents=True, exist_ok=True)
    for step in steps:
        folder(step, [
            {"sample_id": f"{sample_id}{i}", "index": i, "task": "counting", "prompt": "How many?",
             "solution": "<answer> 3 </answer>", "completion": f"<script>{i}{j}</script>", "accuracy_reward": None,
             "reward": float(j), "advantage": j - 1.0}
            for i in (3, 1, 2) for j in (1, 0, 2)
        ])  # fmt: skip


def test_completions_arrive_while_they_are_sampled_a_few_with_pictures(root: Path, project: Any) -> None:
    data(root)
    client = tracking.store(root).client()
    mirror = tracking.StageMirror(root, STAGE, None)
    sampled(root, [10])
    mirror.poll()
    names = {file.path for file in client.list_artifacts(mirror.run_id, "completions")}
    assert names == {"completions/step-000010.parquet", "completions/step-000010.json"}
    table = json.loads(Path(client.download_artifacts(mirror.run_id, "completions/step-000010.json")).read_text())
    shown = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    # Of the first two prompts the best and the worst completion.
    assert [(row["sample_id"], row["reward"]) for row in shown] == [("s3", 2), ("s3", 0), ("s1", 2), ("s1", 0)]
    picture = shown[0]["picture"]
    assert picture["type"] == "image"
    assert Path(client.download_artifacts(mirror.run_id, picture["filepath"])).stat().st_size > 0
    sampled(root, [20])
    mirror.finish("failed")
    assert len(client.list_artifacts(mirror.run_id, "completions")) == 4


def test_completions_of_other_data_have_no_pictures(root: Path, project: Any) -> None:
    data(root)
    mirror = tracking.StageMirror(root, STAGE, None)
    sampled(root, [10], sample_id="other")
    mirror.finish("failed")
    files = tracking.store(root).client().list_artifacts(mirror.run_id, "completions")
    assert [file.path for file in files] == ["completions/step-000010.parquet"]


def test_a_file_that_cannot_be_read_stops_nothing(root: Path, project: Any, caplog: Any) -> None:
    data(root)
    project.write("training/grpo_d-counting/completions/step-000010.parquet", "no parquet")
    mirror = tracking.StageMirror(root, STAGE, None)
    mirror.finish("failed")
    files = tracking.store(root).client().list_artifacts(mirror.run_id, "completions")
    assert [file.path for file in files] == ["completions/step-000010.parquet"]
    assert "it is logged without pictures" in caplog.text
