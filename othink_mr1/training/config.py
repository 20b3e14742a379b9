"""The settings that SFT and GRPO share, beside those of transformers' TrainingArguments."""

from dataclasses import dataclass, field

from transformers import TrainingArguments


@dataclass
class VisionLanguageConfig(TrainingArguments):
    """TrainingArguments with this project's defaults, and how validation and the vision tower are handled."""

    eval_max_new_tokens: int = field(default=256, metadata={"help": "the longest completion at validation, in tokens"})
    save_minutes: float | None = field(
        default=10.0, metadata={"help": "a checkpoint at the latest so long after the last one, beside save_steps"}
    )
    save_total_limit: int | None = field(default=2, metadata={"help": "how many checkpoints are kept"})
    max_skipped_steps: int = field(
        default=5, metadata={"help": "steps in a row whose gradient is not finite, after which the run ends"}
    )
    freeze_vision: bool = field(default=False, metadata={"help": "leave the vision tower as it is"})

    # Samples come as they are: columns that the model does not know belong to rewards and targets.
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave it False"})
    # log.jsonl is the record; whoever wants it elsewhere mirrors the file.
    report_to: str | list[str] | None = field(default="none", metadata={"help": "as in TrainingArguments"})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "as in TrainingArguments"})
