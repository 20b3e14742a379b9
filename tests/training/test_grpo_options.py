"""GRPODTrainer beside the plain step: several updates a rollout, other prompts for equal ones, bad gradients."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import TrainerCallback

from othink_mr1.data.completions import CompletionsFolder
from othink_mr1.errors import UserError
from tests.training.test_training import SAMPLES, Reporter, base, trainer_of  # noqa: F401

HERE = "tests.training.test_grpo_options"


def by_length(completions: list[str], solutions: list[str], **columns: Any) -> list[float | None]:
    """Says nothing of every second completion."""
    return [float(len(text)) if i % 2 else None for i, text in enumerate(completions)]


def says_nothing(completions: list[str], solutions: list[str], **columns: Any) -> list[float | None]:
    return [None] * len(completions)


def equal_for_some(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    """Equal rewards for the samples with an even index, and different ones for the others."""
    return [i * float(int(number) % 2) for i, number in enumerate(columns["sample_id"])]


def length_for_some(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    """The same for samples with an even number, the length for the others, whatever stands beside it."""
    return [len(text) * float(int(n) % 2) for text, n in zip(completions, columns["sample_id"], strict=True)]


def always_equal(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    return [1.0] * len(completions)


def trained(make: Callable[..., Any]) -> Any:
    trainer = make([])
    trainer.train()
    return trainer


def logs(trainer: Any, name: str) -> list[float]:
    return [entry[name] for entry in trainer.state.log_history if name in entry]


def test_the_clip_acts_with_several_updates_a_rollout(base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"num_iterations": 3, "max_steps": 6, "save_strategy": "no", "learning_rate": 1e-2, "epsilon": 0.05}
    trainer = trained(trainer_of("grpo_d", base, tmp_path / "ck", **options))
    acts = logs(trainer, "clip_ratio/region_mean")
    assert [acts[0], acts[3]] == [0, 0]  # the policy that sampled
    assert min(acts[1], acts[2], acts[4], acts[5]) > 0
    # A reward is told once a rollout, and prompts come three times each.
    assert len(logs(trainer, "reward")) == 2


def test_the_first_update_of_several_is_that_of_one(base: Path, tmp_path: Path) -> None:  # noqa: F811
    first = {}
    for times in (1, 2):
        options = {"num_iterations": times, "max_steps": 1, "save_strategy": "no", "loss_type": "dapo",
                   "train_sampling_strategy": "sequential"}  # fmt: skip
        trainer = trained(trainer_of("grpo_d", base, tmp_path / f"ck{times}", **options))
        first[times] = (logs(trainer, "reward")[0], logs(trainer, "grad_norm")[0])
    assert first[1] == pytest.approx(first[2], rel=1e-5)


def test_prompts_that_teach_nothing_are_replaced(base: Path, tmp_path: Path) -> None:  # noqa: F811
    common = {"save_strategy": "no", "max_steps": 3, "reward_funcs": [f"{HERE}:equal_for_some"]}
    seen: dict[bool, list[int]] = {}
    for dynamic in (False, True):
        rows: list[dict[str, Any]] = []
        trainer = trainer_of("grpo_d", base, tmp_path / f"ck{dynamic}", dynamic_sample=dynamic, **common)([])
        trainer.record = lambda step, new, rows=rows: rows.extend(new)
        trainer.train()
        seen[dynamic] = [row["index"] for row in rows]
        share = logs(trainer, "frac_reward_zero_std")
        assert (max(share) > 0) == (not dynamic)
    assert any(index % 2 == 0 for index in seen[False])
    assert all(index % 2 for index in seen[True])


def test_only_the_prompts_that_are_replaced_are_sampled_again(base: Path, tmp_path: Path) -> None:  # noqa: F811
    common = {"save_strategy": "no", "max_steps": 1, "per_device_train_batch_size": 4, "dynamic_sample": True}
    asked: list[list[str]] = []

    def watched(completions: list[str], solutions: list[str], sample_id: list[str], **columns: Any) -> list[float]:
        asked.append(sample_id)
        return length_for_some(completions, solutions, sample_id=sample_id)

    trainer = trainer_of("grpo_d", base, tmp_path / "ck", reward_funcs=["no:such"], reward_weights=[1.0], **common)
    with pytest.raises(UserError, match="no:such"):
        trainer([])
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", rewards=[watched], reward_weights=[1.0], **common)([])
    trainer.train()
    assert logs(trainer, "rewards/watched/mean")  # a function, by its own name
    sampled = [number for numbers in asked for number in dict.fromkeys(numbers)]
    assert len(sampled) > 4
    assert len(sampled) == len(set(sampled))


def test_replacing_ends(base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"save_strategy": "no", "max_steps": 1, "dynamic_sample": True, "max_resample_times": 2,
               "reward_funcs": [f"{HERE}:always_equal"]}  # fmt: skip
    trainer = trained(trainer_of("grpo_d", base, tmp_path / "ck", **options))
    assert logs(trainer, "frac_reward_zero_std") == [1.0]
    assert logs(trainer, "resampled") == [4.0]  # both prompts, twice


def test_a_reward_may_have_nothing_to_say(base: Path, tmp_path: Path) -> None:  # noqa: F811
    names = [f"{HERE}:by_length", f"{HERE}:always_equal"]
    common = {"save_strategy": "no", "max_steps": 1}
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", reward_funcs=names, reward_weights=[2.0, 1.0], **common)([])
    folder = CompletionsFolder(tmp_path / "shown", tmp_path / "kept")
    trainer.record = folder
    trainer.add_callback(folder)
    trainer.train()
    rows = pq.read_table(tmp_path / "shown" / "step-000001.parquet").to_pylist()
    assert [row["by_length"] is None for row in rows] == [True, False] * (len(rows) // 2)
    for row in rows:
        assert row["reward"] == 1 + 2 * (row["by_length"] or 0)
    assert {"step", "sample_id", "prompt", "completion", "advantage", "always_equal"} <= set(rows[0])
    alone = trainer_of("grpo_d", base, tmp_path / "ck2", reward_funcs=[f"{HERE}:says_nothing"], **common)([])
    with pytest.raises(UserError, match=r"sample \d: no reward function gave its completion a number \(says_nothing\)"):
        alone.train()


def test_completions_after_a_resume_are_those_of_an_unbroken_run(base: Path, tmp_path: Path) -> None:  # noqa: F811
    def run(name: str, stop_at: int) -> None:
        folder = CompletionsFolder(tmp_path / name, tmp_path / f"{name}-ck" / "completions")
        reporter = Reporter(stop_at)
        trainer = trainer_of("grpo_d", base, tmp_path / f"{name}-ck")([folder, StopAfter(reporter, stop_at)])
        trainer.record = folder
        trainer.train(resume_from_checkpoint=True)

    run("whole", -1)
    run("parts", 2)
    (tmp_path / "parts-ck" / "completions" / "step-000003.parquet").write_bytes(b"of a step that comes again")
    run("parts", -1)
    files = sorted(path.name for path in (tmp_path / "whole").iterdir())
    assert files == [f"step-00000{step}.parquet" for step in (1, 2, 3, 4)]
    for name in files:
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


class StopAfter(TrainerCallback):
    def __init__(self, reporter: Reporter, step: int) -> None:
        self.step = step

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_save = control.should_training_stop = True


@pytest.mark.parametrize("kind", ["sft", "grpo_d"])
def test_a_gradient_that_is_not_finite_is_skipped_and_counted(kind: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    poisoned = PoisonGradient(steps={2})
    trainer = trainer_of(kind, base, tmp_path / "ck", max_steps=4, save_strategy="no")([poisoned])
    poisoned.trainer = trainer
    trainer.train()
    assert poisoned.weights[2] == poisoned.weights[1] != poisoned.weights[3]
    assert logs(trainer, "skipped_steps") == [1, 1, 1]
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())


@pytest.mark.parametrize("max_grad_norm", [1.0, 0.0])
def test_gradients_that_stay_bad_end_the_run(max_grad_norm: float, base: Path, tmp_path: Path) -> None:  # noqa: F811
    poisoned = PoisonGradient(steps={2, 3, 4, 5})
    options = {"max_steps": 9, "max_skipped_steps": 3, "max_grad_norm": max_grad_norm}
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", **options)([poisoned])
    poisoned.trainer = trainer
    with pytest.raises(UserError, match="step 4: loss or gradient was not finite in 3 steps in a row"):
        trainer.train()


class PoisonGradient(TrainerCallback):
    """Puts a NaN into the gradient of some steps, as soon as it has been summed up."""

    def __init__(self, steps: set[int]) -> None:
        self.steps, self.trainer, self.weights = steps, None, {}

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        parameter = next(p for p in self.trainer.model.parameters() if p.requires_grad)
        if state.global_step + 1 in self.steps:
            handle = parameter.register_hook(lambda gradient: gradient * float("nan"))
            self.handle = handle

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if hasattr(self, "handle"):
            self.handle.remove()
        self.weights[state.global_step] = sum(p.double().sum().item() for p in self.trainer.model.parameters())


def test_beta_follows_a_controller_that_a_checkpoint_remembers(base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"kl_schedule": "adaptive", "beta_max": 0.1, "kl_target": 1e-4, "kl_horizon": 2.0, "max_steps": 4}
    whole = logs(trained(trainer_of("grpo_d", base, tmp_path / "whole", **options)), "beta")
    assert whole[0] == 0.1
    assert whole[1] == pytest.approx(0.1 * 0.9)  # the first step's KL is 0, far below the target
    stop = StopAfter(Reporter(), 2)
    trainer_of("grpo_d", base, tmp_path / "parts", **options)([stop]).train()
    again = trainer_of("grpo_d", base, tmp_path / "parts", **options)([])
    again.train(resume_from_checkpoint=True)
    assert logs(again, "beta") == whole


def test_the_trainer_lets_a_frozen_tower_look_once(base: Path, tmp_path: Path) -> None:  # noqa: F811
    looks = {}
    for frozen in (True, False):
        trainer = trainer_of("grpo_d", base, tmp_path / f"ck{frozen}", max_steps=1, save_strategy="no",
                             freeze_vision=frozen)([])  # fmt: skip
        count = Counter(trainer)
        trainer.train()
        looks[frozen] = count.calls
    assert looks[True] == {"policy": 1, "reference": 0}
    assert looks[False] == {"policy": 1, "reference": 1}


class Counter:
    def __init__(self, trainer: Any) -> None:
        self.calls = {"policy": 0, "reference": 0}
        for name, model in (("policy", trainer.model), ("reference", trainer.reference)):
            model.model.visual.register_forward_hook(lambda *_, name=name: self._add(name))

    def _add(self, name: str) -> None:
        self.calls[name] += 1


def test_steps_need_samples_for_a_window(base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"num_iterations": 2, "gradient_accumulation_steps": 4}
    with pytest.raises(UserError, match=f"needs 8 train samples for one step; there are {len(SAMPLES)}"):
        trainer_of("grpo_d", base, tmp_path / "ck", **options)([]).train()


@pytest.mark.parametrize("kind", ["sft", "grpo_d"])
def test_activation_checkpointing_changes_nothing(kind: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    ends = []
    for on in (False, True):
        options = {"max_steps": 2, "save_strategy": "no", "gradient_checkpointing": on}
        trainer = trained(trainer_of(kind, base, tmp_path / f"ck{on}", **options))
        ends.append(torch.cat([p.detach().flatten() for p in trainer.model.parameters()]))
    torch.testing.assert_close(*ends, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["sft", "grpo_d"])
def test_half_precision_trains(kind: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    ends = []
    for half in (False, True):
        options = {"max_steps": 1, "save_strategy": "no", "bf16": half, "temperature": 1.0}
        if kind == "sft":
            del options["temperature"]
        trainer = trained(trainer_of(kind, base, tmp_path / f"ck{half}", **options))
        ends.append(logs(trainer, "loss" if kind == "sft" else "entropy")[0])
    assert ends[0] == pytest.approx(ends[1], rel=0.05)
    assert ends[0] != ends[1]


def fails_on_one(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
    return [1 / (int(number) != 3) for number in columns["sample_id"]]


def test_a_reward_that_raises_is_told_with_its_sample(base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"per_device_train_batch_size": 6, "reward_funcs": [f"{HERE}:fails_on_one"]}
    with pytest.raises(UserError, match=r"reward fails_on_one: ZeroDivisionError: .* \(sample 3, completion "):
        trainer_of("grpo_d", base, tmp_path / "ck", **options)([]).train()


@pytest.mark.parametrize("changes", [{}, {"freeze_vision": True}, {"lora_r": 2, "lora_alpha": 4}])
def test_half_precision_is_that_of_every_pass(changes: dict[str, Any], base: Path, tmp_path: Path) -> None:  # noqa: F811
    """Where nothing is learned the policy is the reference, to the last bit."""
    options = {"max_steps": 2, "save_strategy": "no", "bf16": True, "learning_rate": 0.0, **changes}
    trainer = trained(trainer_of("grpo_d", base, tmp_path / "ck", **options))
    assert logs(trainer, "kl") == [0.0, 0.0]
    assert all(norm > 0 for norm in logs(trainer, "grad_norm"))


def test_a_loss_that_is_not_finite_is_skipped_although_its_gradient_is(base: Path, tmp_path: Path) -> None:  # noqa: F811
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", max_steps=3, save_strategy="no", max_skipped_steps=9)([])
    plain = trainer.reference.forward

    def far_away(*args: Any, **kwargs: Any) -> Any:
        logprobs, entropy = plain(*args, **kwargs)
        return logprobs.fill_(-torch.inf), entropy

    trainer.reference.forward = far_away
    before = [p.detach().clone() for p in trainer.model.parameters()]
    trainer.train()
    assert logs(trainer, "skipped_steps") == [1, 2, 3]
    assert all(torch.equal(a, b) for a, b in zip(before, trainer.model.parameters(), strict=True))


def test_a_broken_model_is_told_as_such(base: Path, tmp_path: Path) -> None:  # noqa: F811
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", max_steps=1, save_strategy="no")([])
    with torch.no_grad():
        trainer.model.lm_head.weight.fill_(torch.nan)
    with pytest.raises(UserError, match="the model's logits are not finite"):
        trainer.train()


@pytest.mark.parametrize(
    "wrong",
    [{"temperature": 0.0}, {"temperature": -1.0}, {"top_k": -1}, {"top_p": 0.0}, {"min_p": 2.0}, {"epsilon": -1.0},
     {"max_completion_length": 0}, {"logprob_chunk": 0}, {"num_iterations": 0}, {"loss_type": "bnpo"},
     {"kl_schedule": "adaptive", "kl_horizon": 0.1}],
)  # fmt: skip
def test_impossible_settings_are_refused(wrong: dict[str, Any], base: Path, tmp_path: Path) -> None:  # noqa: F811
    name = "horizon" if "kl_horizon" in wrong else next(iter(wrong))
    with pytest.raises(ValueError, match=rf"{name} is .*should"):
        trainer_of("grpo_d", base, tmp_path / "ck", **wrong)([])


@pytest.mark.parametrize("schedule", ["dynamic", "linear"])
def test_beta_of_a_step_is_known_when_it_begins_and_when_it_ends(schedule: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    options = {"kl_schedule": schedule, "max_steps": 4, "gradient_accumulation_steps": 2, "save_strategy": "no"}
    seen = WatchBeta()
    trainer = trainer_of("grpo_d", base, tmp_path / "ck", **options)([seen])
    seen.trainer = trainer
    trainer.train()
    low, high, w = trainer.args.beta_min, trainer.args.beta_max, 4 * trainer.args.kl_exploration
    assert 1 <= w < 2  # so one step explores
    middle = (low + high) / 2
    expected = {
        "dynamic": [middle - (middle - low) / w, *(low + (high - low) * (s - w) / (4 - w) for s in (2, 3, 4))],  # Eq. 3
        "linear": [low + (high - low) * s / 4 for s in (1, 2, 3, 4)],
    }[schedule]
    assert seen.begun == seen.ended == pytest.approx(expected)


class WatchBeta(TrainerCallback):
    trainer: Any

    def __init__(self) -> None:
        self.begun: list[float] = []
        self.ended: list[float] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begun.append(self.trainer.beta)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended.append(self.trainer.beta)


@pytest.mark.parametrize("missing", ["image", "problem", "solution"])
def test_a_sample_that_lacks_something_is_named(missing: str, base: Path, tmp_path: Path, monkeypatch) -> None:  # noqa: F811
    broken = [{**sample, "sample_id": f"number {i}", missing: None} for i, sample in enumerate(SAMPLES)]
    monkeypatch.setattr("tests.training.test_training.SAMPLES", broken)
    with pytest.raises(UserError, match=rf"sample number \d: it has no {missing}"):
        trained(trainer_of("grpo_d", base, tmp_path / "ck", save_strategy="no"))
    monkeypatch.setattr("tests.training.test_training.SAMPLES", [])
    with pytest.raises(UserError, match="train_samples: there are none"):
        trained(trainer_of("grpo_d", base, tmp_path / "ck", save_strategy="no"))


@pytest.mark.parametrize("name", ["accuracy_reward", "completion"])
def test_every_reward_has_a_name_of_its_own(name: str, base: Path, tmp_path: Path) -> None:  # noqa: F811
    def mine(completions: list[str], solutions: list[str], **columns: Any) -> list[float]:
        return [0.0] * len(completions)

    mine.__name__ = name
    rewards = ["othink_mr1.rewards:accuracy_reward", mine]
    with pytest.raises(UserError, match=f"'{name}' is the name of a"):
        trainer_of("grpo_d", base, tmp_path / "ck", rewards=rewards, reward_weights=[1.0, 1.0])([])
