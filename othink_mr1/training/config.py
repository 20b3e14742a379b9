"""The settings that SFT and GRPO share, beside those of transformers' TrainingArguments."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from othink_mr1.training import deepspeed_config

STRATEGIES = ("ddp", "fsdp", "deepspeed")
SAVED = ("merged", "adapter")


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
    lora_r: int = field(default=0, metadata={"help": "rank of a LoRA adapter; 0: all weights are trained"})
    lora_alpha: float = field(default=32.0, metadata={"help": "an adapter's change is scaled by lora_alpha / lora_r"})
    lora_dropout: float = field(default=0.0, metadata={"help": "leave it 0"})
    lora_target_modules: str | list[str] = field(
        default="all-linear", metadata={"help": "names of layers, such as q_proj; all-linear: all but the head"}
    )
    lora_save: str = field(
        default="merged", metadata={"help": "the output: merged (a whole model, the adapter in adapter/) or adapter"}
    )

    strategy: str = field(
        default="ddp",
        metadata={
            "help": "of several processes: ddp, fsdp to share out the weights, or deepspeed for ZeRO 1 or 2, with the "
            "configuration in `deepspeed`, or with stage 2"
        },
    )

    deepspeed: dict[str, Any] | str | None = field(default=None, metadata={"help": "as in TrainingArguments"})

    # Samples come as they are: columns that the model does not know belong to rewards and targets.
    remove_unused_columns: bool = field(default=False, metadata={"help": "leave it False"})
    # log.jsonl is the record; whoever wants it elsewhere mirrors the file.
    report_to: str | list[str] | None = field(default="none", metadata={"help": "as in TrainingArguments"})
    disable_tqdm: bool | None = field(default=True, metadata={"help": "as in TrainingArguments"})

    # Every pass uses every weight.
    ddp_find_unused_parameters: bool | None = field(default=False, metadata={"help": "as in TrainingArguments"})

    def __post_init__(self) -> None:
        if self.strategy == "deepspeed":
            deepspeed_config.require()
            several = int(os.environ.get("WORLD_SIZE", "1")) > 1
            self.deepspeed = _deepspeed(self.deepspeed) if several else None  # one process has nothing to share out
        elif self.deepspeed:
            raise ValueError(f"deepspeed is set, and strategy is {self.strategy!r}; it should be 'deepspeed'")
        super().__post_init__()
        if self.strategy not in STRATEGIES:
            raise ValueError(f"strategy is {self.strategy!r}; it should be one of {', '.join(STRATEGIES)}")
        if self.lora_r < 0:
            raise ValueError(f"lora_r is {self.lora_r}; it should be 0 (all weights are trained) or a rank")
        if self.lora_save not in SAVED:
            raise ValueError(f"lora_save is {self.lora_save!r}; it should be one of {', '.join(SAVED)}")
        if self.lora_dropout:
            raise ValueError(
                f"lora_dropout is {self.lora_dropout}; it should be 0: the policy that is trained would not be the one "
                "that sampled, and a completion's ratio would not begin at 1"
            )


def _deepspeed(given: dict[str, Any] | str | None) -> dict[str, Any]:
    if isinstance(given, str):
        return deepspeed_config.read(Path(given))
    return deepspeed_config.complete(given or deepspeed_config.READY, "deepspeed")
