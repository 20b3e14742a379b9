"""What params.yaml may hold: every key, its type and its range.

Trainer settings keep the names of transformers' TrainingArguments. A setting that is not given is not passed on, so
that a default lives in one place only: with the trainer that has it.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag, model_validator

from othink_mr1.names import COMPLETION_COLUMNS, METHODS, STEP_KINDS, TASKS, Task

T = TypeVar("T")


def _no_bool(value: Any) -> Any:
    # Python counts True as 1, and YAML reads "yes" as True: a wrong type, not a number.
    if isinstance(value, bool):
        raise ValueError("should be a number")
    return value


Integer = Annotated[int, BeforeValidator(_no_bool)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Count = Annotated[Integer, Field(ge=1)]
Positive = Annotated[Number, Field(gt=0)]
NotNegative = Annotated[Number, Field(ge=0)]
Share = Annotated[Number, Field(ge=0, le=1)]
Fraction = Annotated[Number, Field(gt=0, lt=1)]
Text = Annotated[str, Field(min_length=1)]
# Side in pixels; a scene needs 48 to be drawn.
ImageSize = Annotated[Integer, Field(ge=48, le=1024)]


def _every_task(by_task: dict[Task, T]) -> dict[Task, T]:
    missing = [task for task in TASKS if task not in by_task]
    if missing:
        raise ValueError(f"{missing[0]} is not set; every task of {', '.join(TASKS)} is needed")
    return by_task


def _of_step_kinds(by_kind: dict[str, T]) -> dict[str, T]:
    for kind in by_kind:
        if kind not in STEP_KINDS:
            raise ValueError(f"{kind!r} is no step; allowed: {', '.join(STEP_KINDS)}")
    return by_kind


ByTask = Annotated[dict[Task, T], AfterValidator(_every_task)]
# Keyed by the name of a step before the "@".
ByStep = Annotated[dict[str, T], AfterValidator(_of_step_kinds)]


class Settings(BaseModel):
    """A section: unknown keys are refused, values do not change once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class Synthetic(Settings):
    """Pictures rendered by this project."""

    source: Literal["synthetic"]
    # Not `size`: DVC's run cache takes it for the size of a file and leaves it out, so that a change goes unseen.
    rows: Count
    image_size: ImageSize = 128


class Foreign(Settings):
    """Data that this project did not make."""

    # Its name in the SPDX list, such as CC-BY-4.0; null: not known.
    licence: Text | None = None


class Jsonl(Foreign):
    """A file of rows with image_path, question and ground_truth; pictures relative to the file."""

    source: Literal["jsonl"]
    path: Path


# Ours to the source's own, where they differ.
Columns = dict[Literal["image", "problem", "solution", "answer", "thinking"], Text]


class Parquet(Foreign):
    """A parquet file with the pictures inside, a folder of them, or a pattern such as data/train-*."""

    source: Literal["parquet"]
    path: Path
    columns: Columns = {}


class ImageFolder(Foreign):
    """A folder of pictures with a metadata.csv or metadata.jsonl, as `datasets` defines it."""

    source: Literal["imagefolder"]
    path: Path
    # The sub-folder to take; null: the one with the name of the split, or the folder itself where there is none.
    split: Text | None = None
    columns: Columns = {}


class Hub(Foreign):
    """A dataset of the Hugging Face hub, or a folder in a hub dataset's form."""

    source: Literal["hub"]
    name: Text
    split: Text = "train"
    # A commit; null is whatever the hub has on that day.
    revision: Text | None = None
    columns: Columns = {}


class Drawn(Settings):
    """A validation split that is drawn from train."""

    fraction: Fraction


Source = Annotated[Synthetic | Jsonl | Parquet | ImageFolder | Hub, Field(discriminator="source")]


def _kind(value: Any) -> str | None:
    """What kind of validation split a mapping means, so that its own mistakes are reported and no other kind's."""
    if isinstance(value, Settings):
        return getattr(value, "source", "drawn")
    if not isinstance(value, dict):
        return None
    return "drawn" if "fraction" in value else value.get("source")


SourceOrDrawn = Annotated[
    Annotated[Synthetic, Tag("synthetic")]
    | Annotated[Jsonl, Tag("jsonl")]
    | Annotated[Parquet, Tag("parquet")]
    | Annotated[ImageFolder, Tag("imagefolder")]
    | Annotated[Hub, Tag("hub")]
    | Annotated[Drawn, Tag("drawn")],
    Discriminator(
        _kind,
        custom_error_type="source_kind",
        custom_error_message="should have source: synthetic, jsonl, parquet, imagefolder or hub, or a fraction",
    ),
]


class Checks(Settings):
    """When prepared data is too poor to train on."""

    max_quarantined: Share = 0.05
    # Of each split.
    min_rows: Count = 1
    # null: not looked at.
    max_answer_share: Share | None = 0.5
    max_answer_drift: Share | None = 0.1
    max_size_drift: Share | None = 0.1


class Data(Settings):
    """The data of one task."""

    train: Source
    validation: SourceOrDrawn
    test: Source
    train_samples: Count | None = None
    checks: Checks = Checks()
    # Whether a source without a known licence is refused, and not only warned of.
    require_licence: bool = False

    @model_validator(mode="after")
    def _enough_rows(self) -> "Data":
        if isinstance(self.train, Synthetic) and self.train_samples and self.train_samples > self.train.rows:
            raise ValueError(f"train_samples = {self.train_samples} is more than train.rows = {self.train.rows}")
        return self


def _no_dropout(value: float) -> float:
    if value:
        raise ValueError("should be 0: the policy that is trained would not be the one that sampled")
    return value


class Training(Settings):
    """What every trainer takes, by the names of TrainingArguments."""

    learning_rate: Positive
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"] | None = None
    # As in TrainingArguments: below 1 a share of all steps, else a number of steps.
    warmup_steps: NotNegative | None = None
    per_device_train_batch_size: Count
    gradient_accumulation_steps: Count | None = None
    max_steps: Count | None = None
    num_train_epochs: Positive | None = None
    max_grad_norm: NotNegative | None = None
    weight_decay: NotNegative | None = None
    adam_beta1: Fraction | None = None
    adam_beta2: Fraction | None = None
    adam_epsilon: Positive | None = None
    bf16: bool | None = None
    gradient_checkpointing: bool | None = None
    logging_steps: Count | None = None
    # A checkpoint every so many steps, and at the latest so many minutes after the last one; the last few are kept.
    save_steps: Count | None = None
    save_minutes: Positive | None = None
    save_total_limit: Count | None = None
    # Greedy accuracy on the validation split; null: never. `promotion.method: best` needs it.
    eval_steps: Count | None = None
    eval_max_new_tokens: Count | None = None
    per_device_eval_batch_size: Count | None = None
    freeze_vision: bool | None = None
    # LoRA: the rank of an adapter that is trained in the place of all weights; 0: none. `freeze_vision` keeps it out
    # of the vision tower.
    lora_r: Annotated[Integer, Field(ge=0)] | None = None
    lora_alpha: Positive | None = None
    lora_dropout: Annotated[NotNegative, AfterValidator(_no_dropout)] | None = None
    lora_target_modules: Literal["all-linear"] | Annotated[list[Text], Field(min_length=1)] | None = None
    # What the training leaves: a whole model with the adapter merged in, or the adapter alone, which needs its base.
    lora_save: Literal["merged", "adapter"] | None = None
    max_skipped_steps: Count | None = None

    @model_validator(mode="after")
    def _has_an_end(self) -> "Training":
        if (self.max_steps is None) == (self.num_train_epochs is None):
            raise ValueError("should have either max_steps or num_train_epochs (the other one null)")
        return self


class Habits(Settings):
    """Shares of the mixture that the tiny base model learns; othink_mr1.models.habits says what each is."""

    enumerate: Share
    guess: Share
    blurt: Share
    direct: Share

    @model_validator(mode="after")
    def _add_up(self) -> "Habits":
        total = self.enumerate + self.guess + self.blurt + self.direct
        if abs(total - 1) > 1e-6:
            raise ValueError(f"enumerate, guess, blurt and direct should add up to 1, not {total:g}")
        return self


class TinyBase(Settings):
    """A Qwen2-VL of about a million parameters, trained here on a mixture of answering habits."""

    source: Literal["tiny"]
    threads: Count | None = None
    scenes: dict[Task, Count]
    answers: Count
    image_size: ImageSize
    habits: Habits
    training: Training

    @model_validator(mode="after")
    def _counts_steps(self) -> "TinyBase":
        if self.training.max_steps is None:
            raise ValueError("training.max_steps should be a number; the mixture is made for so many steps")
        return self


class PathBase(Settings):
    """A model folder on this machine."""

    source: Literal["path"]
    path: Path
    max_pixels: Count | None = None


class HubBase(Settings):
    """A model of the Hugging Face hub."""

    source: Literal["hub"]
    name: str
    revision: str | None = None
    max_pixels: Count | None = None


class Sft(Training):
    """Supervised fine-tuning; the fields of SFTConfig."""

    target: Literal["answer", "thinking"] | None = None
    # Prompt and completion, in tokens; what is longer is cut.
    max_length: Count | None = None


class Grpo(Training):
    """GRPO with a constant KL weight, and GRPO-D; the fields of GRPODConfig."""

    num_generations: Annotated[Integer, Field(ge=2)]
    max_completion_length: Count
    temperature: Positive
    top_p: Annotated[Number, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Integer, Field(ge=0)] | None = None
    min_p: Share | None = None
    kl_schedule: Literal["constant", "dynamic", "linear", "cosine", "adaptive"]
    beta_min: NotNegative | None = None
    beta_max: NotNegative
    kl_exploration: Fraction | None = None
    kl_target: Positive | None = None
    kl_horizon: Positive | None = None
    epsilon: Fraction | None = None
    epsilon_high: Positive | None = None
    loss_type: Literal["grpo", "dr_grpo", "dapo"] | None = None
    scale_rewards: Literal["group", "batch", "none"] | None = None
    num_iterations: Count | None = None
    dynamic_sample: bool | None = None
    max_resample_times: Count | None = None
    rollout_batch_size: Annotated[Integer, Field(ge=0)] | None = None
    tokens_per_pass: Annotated[Integer, Field(ge=0)] | None = None
    logprob_chunk: Count | None = None

    @model_validator(mode="after")
    def _kl_weight(self) -> "Grpo":
        if self.kl_schedule in ("constant", "adaptive"):
            return self
        if self.beta_min is None:
            raise ValueError(f"kl_schedule = {self.kl_schedule!r} needs beta_min and beta_max")
        if self.beta_min > self.beta_max:
            raise ValueError(f"beta_min = {self.beta_min:g} should not be above beta_max = {self.beta_max:g}")
        return self


BUILT_IN_REWARDS = ("othink_mr1.rewards:accuracy_reward", "othink_mr1.rewards:format_reward")
_REWARD = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def _named_rewards(extra: dict[str, float]) -> dict[str, float]:
    for name in extra:
        if not _REWARD.fullmatch(name):
            raise ValueError(f"{name!r} should be module:function, such as my_rewards:short_thinking")
        if name in BUILT_IN_REWARDS:
            raise ValueError(f"{name!r} is there already; its weight is 1 for accuracy, reward.alpha for the format")
        told = name.rpartition(":")[2]
        others = [other.rpartition(":")[2] for other in (*BUILT_IN_REWARDS, *extra) if other != name]
        if told in (*others, *COMPLETION_COLUMNS):
            raise ValueError(f"{name!r}: {told} is the name of another reward or column; rename it")
    return extra


class Reward(Settings):
    """Eq. 1: R = R_acc + alpha * R_format, and the weighted rewards of one's own."""

    protocol: Literal["strict", "r1v"] = "strict"
    alpha: NotNegative = 1.0
    # `module:function` to weight; othink_mr1.rewards says what a reward is.
    extra: Annotated[dict[str, Number], AfterValidator(_named_rewards)] = {}

    @property
    def weights(self) -> dict[str, float]:
        """Every reward with its weight, the two of Eq. 1 first."""
        return dict(zip(BUILT_IN_REWARDS, (1.0, self.alpha), strict=True)) | self.extra


class Evaluation(Settings):
    """Greedy answers of every model to both test sets."""

    batch_size: Count
    max_new_tokens: ByTask[Count]
    direct_answer: bool = True


class Tables(Settings):
    """Numbers and figures of the results."""

    confidence: Fraction = 0.95
    # Whose numbers of the paper belong beside ours.
    paper: Literal["2b", "7b"] | None = None


class Promotion(Settings):
    """Which model becomes the candidate, and what it takes to be champion."""

    method: Literal["sft", "grpo", "grpo_d", "best"] = "grpo_d"
    # Significance of "worse than the champion" on the own task.
    alpha: Fraction = 0.05
    # Share of accuracy that the other task may lose.
    max_cross_task_drop: Share = 0.05


class Launch(Settings):
    """The processes of one training; othink_mr1.training.launch starts them."""

    # On each machine; on GPUs one a GPU.
    processes: Count = 1
    machines: Count = 1
    # null: as the method's bf16 says. (YAML reads a bare `no` as false.)
    mixed_precision: (
        Annotated[Literal["no", "bf16"], BeforeValidator(lambda given: "no" if given is False else given)] | None
    ) = None
    # ddp: each process has weights, gradients and optimiser state as a whole; fsdp: all of them are shared out;
    # deepspeed: gradients and optimiser state are (ZeRO stage 2, or what the configuration says).
    strategy: Literal["ddp", "fsdp", "deepspeed"] = "ddp"
    # Path of a DeepSpeed configuration, JSON; null: the ready one.
    deepspeed: Text | None = None

    @model_validator(mode="after")
    def _is_used(self) -> "Launch":
        if self.deepspeed is not None and self.strategy != "deepspeed":
            raise ValueError(
                f"deepspeed is {self.deepspeed!r}, and strategy {self.strategy!r}; it should be 'deepspeed'"
            )
        return self


class Trainings(Settings):
    """What holds for every training."""

    launch: Launch = Launch()


class Tracking(Settings):
    """Where MLflow keeps its records; null is the SQLite file under .othink/mlflow."""

    uri: str | None = None
    experiment: str = "othink-mr1"


# Minutes after which a step is taken to hang. Checkpoints stay, so a training that needed longer goes on from there.
TIME_LIMITS: dict[str, float] = {"prepare_data": 240, "base_model": 720, "train": 1440, "evaluate": 480, "tables": 30}


class Flow(Settings):
    """How the flow runs its stages."""

    max_parallel: Count | None = None
    retries: Annotated[Integer, Field(ge=0, le=10)] = 0
    retry_delay_seconds: NotNegative = 5
    # Minutes; a step that is not named has the limit of TIME_LIMITS.
    time_limit: Annotated[ByStep[Positive], AfterValidator(lambda given: TIME_LIMITS | given)] = TIME_LIMITS


class Config(Settings):
    """params.yaml with a profile and the command line's settings applied."""

    seed: Annotated[Integer, Field(ge=0, lt=2**32)]
    threads: Count
    data: ByTask[Data]
    base: Annotated[TinyBase | PathBase | HubBase, Field(discriminator="source")]
    sft: ByTask[Sft]
    grpo: ByTask[Grpo]
    grpo_d: ByTask[Grpo]
    reward: Reward = Reward()
    evaluation: Evaluation
    tables: Tables = Tables()
    promotion: Promotion = Promotion()
    trainings: Trainings = Field(Trainings(), alias="training")
    tracking: Tracking = Tracking()
    flow: Flow = Flow()
    pools: ByStep[Text] = {}

    @model_validator(mode="after")
    def _best_is_seen(self) -> "Config":
        """`best` compares validation accuracies: without any, the run would fail after hours of training."""
        for method in METHODS if self.promotion.method == "best" else ():
            for task in TASKS:
                found = self.training(method, task)
                if found.eval_steps is None:
                    raise ValueError(f"promotion.method = 'best' needs {method}.eval_steps (it is null for {task})")
                if found.max_steps is not None and found.eval_steps > found.max_steps:
                    raise ValueError(
                        f"promotion.method = 'best' needs {method}.eval_steps = {found.eval_steps} to be at most "
                        f"max_steps = {found.max_steps} ({task})"
                    )
        return self

    def training(self, method: str, task: Task) -> Training:
        """The trainer's settings of one method on one task."""
        by_method: Mapping[str, Mapping[Task, Training]] = {"sft": self.sft, "grpo": self.grpo, "grpo_d": self.grpo_d}
        return by_method[method][task]
