"""What a training will need is known before it starts: against real models, real memory and real refusals."""

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from othink_mr1.errors import UserError
from othink_mr1.models.shape import KNOWN, TINY, shape_of
from othink_mr1.models.tiny import build_model, build_processor
from othink_mr1.training.estimate import Job, estimate, require_memory, savings
from tests.grpo.families import FAMILIES, model, processor

QWEN = shape_of(KNOWN["Qwen/Qwen2-VL-2B-Instruct"])
PAPER = {
    "per_device_train_batch_size": 1,
    "gradient_accumulation_steps": 16,
    "num_generations": 8,
    "max_completion_length": 256,
    "num_train_epochs": 2,
    "beta_max": 0.1,
    "bf16": True,
    "gradient_checkpointing": True,
}
JOB = Job(QWEN, PAPER, 401408, 100, "NVIDIA H100 80GB HBM3")
GB = 10**9


@pytest.mark.parametrize("family", FAMILIES)
def test_the_shape_counts_every_parameter_of_a_real_model(family: str) -> None:
    net = model(family, processor())
    shape = shape_of(net.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in net.parameters())
    assert shape.vision_parameters == sum(p.numel() for p in net.model.visual.parameters())


@pytest.mark.parametrize(
    ("name", "parameters"),  # as the heads of the published weights have them
    [
        ("Qwen/Qwen2-VL-2B-Instruct", 2_208_985_600),
        ("Qwen/Qwen2-VL-7B-Instruct", 8_291_375_616),
        ("Qwen/Qwen2.5-VL-3B-Instruct", 3_754_622_976),
        ("Qwen/Qwen2.5-VL-7B-Instruct", 8_292_166_656),
    ],
)
def test_known_models_have_their_published_sizes(name: str, parameters: int) -> None:
    assert shape_of(KNOWN[name]).parameters == parameters


def test_the_demos_model_has_the_shape_that_a_plan_takes_it_for() -> None:
    tools = build_processor(["How many items are there?"])
    built = shape_of(build_model(tools).config.to_dict())
    assert replace(built, vocabulary=640, language_parameters=0) == replace(shape_of(TINY), language_parameters=0)


def test_pictures_have_as_many_tokens_as_the_processor_makes() -> None:
    assert QWEN.picture_tokens(401408) == 512


@pytest.mark.slow
def test_the_estimate_is_near_what_a_training_takes() -> None:
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.memory", "--one", "grpo, 2M"],
            capture_output=True,
            text=True,
            check=True,
            cwd=folder,
        )
    found = json.loads(done.stdout.splitlines()[-1])
    assert 0.75 < found["estimated"] / found["measured"] < 1.25


def test_a_training_that_cannot_fit_is_refused_with_numbers() -> None:
    with pytest.raises(UserError) as refused:
        require_memory(JOB, 24 * GB, "this GPU")
    told = str(refused.value)
    assert told.startswith(
        "about 53.1 GB of memory of NVIDIA H100 80GB HBM3 are needed (optimiser 17.7 GB, weights 8.8 GB, "
    )
    assert "and this GPU has 24.0 GB; lora_r=16 saves about 3" in told
    assert "; freeze_vision=true saves about 8" in told
    require_memory(JOB, 80 * GB, "this GPU")


def test_one_that_may_not_fit_is_warned_of(capsys: pytest.CaptureFixture[str]) -> None:
    job = replace(JOB, settings={**PAPER, "gradient_checkpointing": False, "per_device_train_batch_size": 4})
    require_memory(job, 80 * GB, "this GPU")
    assert "warning: about" in capsys.readouterr().err
    assert savings(job)[0].startswith("gradient_checkpointing=true saves about")


def test_what_is_said_to_save_memory_saves_as_much() -> None:
    job = replace(JOB, settings={**PAPER, "max_completion_length": 2048, "rollout_batch_size": 4})
    [told] = [text for text in savings(job) if text.startswith("max_completion_length=1024 saves about ")]
    less = estimate(job).bytes - estimate(replace(job, settings={**job.settings, "max_completion_length": 1024})).bytes
    assert told.endswith(f"{less / GB:.1f} GB")


def test_each_of_several_processes_has_all_or_its_share() -> None:
    """ddp: the whole in each, and the gradients once more; fsdp: what is kept for every parameter is shared out."""
    alone, full = estimate(JOB), 4.0 * QWEN.parameters
    ddp = estimate(replace(JOB, processes=8))
    assert ddp.bytes == alone.bytes + full
    assert ddp.certain["weights"] == full
    fsdp = estimate(replace(JOB, processes=8, strategy="fsdp")).certain
    for name in ("weights", "optimiser", "gradients", "reference"):
        assert fsdp[name] == alone.certain[name] / 8
    # Embeddings and head are in no layer: whole while a pass runs, the reference's and their gradient, too.
    assert fsdp["gathered weights"] > 3 * 4.0 * 151936 * 1536
    assert any(text.startswith("training.launch.strategy=fsdp saves") for text in savings(replace(JOB, processes=8)))
    zero = estimate(replace(JOB, processes=8, strategy="deepspeed")).certain
    assert zero["weights"] == full / 2  # bf16, and its optimiser keeps them whole
    assert zero["gradients"] == alone.certain["gradients"] / 8
    assert estimate(replace(JOB, strategy="fsdp")) == alone  # one process has nobody to share with


def test_an_adapter_needs_little_beside_the_weights() -> None:
    alone = estimate(JOB).certain
    lora = estimate(replace(JOB, settings={**PAPER, "lora_r": 16})).certain
    assert lora["weights"] == alone["weights"]
    assert lora["reference"] == 0
    assert lora["optimiser"] == 2 * lora["gradients"] < 0.02 * alone["optimiser"]


def test_processes_of_one_machine_share_its_memory() -> None:
    job = replace(JOB, device="cpu", processes=2)
    require_memory(job, 70 * GB, "this machine")
    with pytest.raises(UserError, match=r"GB of memory in each of 2 processes \(ddp\) are needed .* for 2 of them; "):
        require_memory(job, 70 * GB, "this machine", sharing=2)


def test_steps_follow_from_epochs_and_rows() -> None:
    assert estimate(JOB).steps == 12  # 2 epochs of 100 rows, 16 an update
    assert estimate(replace(JOB, processes=4)).steps == 3
    assert estimate(replace(JOB, rows=None)).seconds is None
    assert estimate(replace(JOB, device="an unknown GPU")).seconds_a_step is None


OUT_OF_MEMORY = """
import resource, sys
from pathlib import Path
import pytest
from othink_mr1.training.fingerprint import Home
from othink_mr1.training.run import Outputs, run
from tests.training.test_training import Reporter, trainer_of

changes = {"per_device_train_batch_size": 4096, "max_steps": 1, "dataloader_drop_last": False}
make = trainer_of("sft", Path(sys.argv[1]), Path("ck"), **changes)

def limited(callbacks):
    trainer = make(callbacks)
    trainer.train_dataset.samples = trainer.train_dataset.samples * 700
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 150_000_000,) * 2)
    return trainer

run(limited, Home(Path("ck")), Outputs("x"), Reporter(), ["per_device_train_batch_size=2048 saves about 1.0 GB"])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux holds a process to RLIMIT_AS")
def test_out_of_memory_says_what_to_lower(tmp_path: Path) -> None:
    model("qwen2_vl", processor()).save_pretrained(tmp_path / "base")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", OUT_OF_MEMORY, str(tmp_path / "base")],
        cwd=tmp_path,
        env={"PYTHONPATH": str(root), "PATH": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("othink_mr1.errors.UserError: out of memory ("), done.stderr
    assert last.endswith("the last whole checkpoint is kept; per_device_train_batch_size=2048 saves about 1.0 GB")
