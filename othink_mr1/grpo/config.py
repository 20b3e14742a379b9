"""The settings of GRPO and GRPO-D, beside those of transformers' TrainingArguments."""

from dataclasses import dataclass, field

from othink_mr1.grpo.kl import KLSchedule
from othink_mr1.grpo.rollout import Sampling
from othink_mr1.training.config import VisionLanguageConfig


@dataclass
class GRPODConfig(VisionLanguageConfig):
    """The shared settings and what GRPO-D adds; names are TRL's where TRL has one.

    `per_device_train_batch_size` counts prompts: each brings its group of `num_generations` completions.
    """

    num_generations: int = field(default=8, metadata={"help": "G, completions of a prompt (R1-V: 8)"})
    max_completion_length: int = field(default=512, metadata={"help": "C, in tokens (R1-V: 512, CLEVR script 256)"})
    temperature: float = field(default=1.0, metadata={"help": "of sampling and of the log-probabilities (R1-V: 1.0)"})
    top_p: float = field(default=1.0, metadata={"help": "nucleus sampling"})
    top_k: int = field(default=0, metadata={"help": "0 is off"})
    min_p: float = field(default=0.0, metadata={"help": "least probability relative to the likeliest token"})
    kl_schedule: str = field(default="dynamic", metadata={"help": "dynamic (Eq. 3), linear, cosine or constant"})
    beta_min: float = field(default=0.04, metadata={"help": "lowest KL weight"})
    beta_max: float = field(default=0.1, metadata={"help": "highest KL weight; the only one of a constant schedule"})
    kl_exploration: float = field(default=0.3, metadata={"help": "w / t of Eq. 3"})
    epsilon: float = field(default=0.2, metadata={"help": "clip range of the ratio"})
    reward_funcs: list[str] = field(
        default_factory=lambda: ["othink_mr1.rewards:accuracy_reward", "othink_mr1.rewards:format_reward"],
        metadata={"help": "module:function"},
    )
    reward_weights: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "one for each reward; the second is Eq. 1's alpha"}
    )
    reward_protocol: str = field(default="strict", metadata={"help": "how answers are read: strict or r1v"})
    logprob_chunk: int = field(default=1024, metadata={"help": "tokens whose logits are in memory at once"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_generations < 2:
            raise ValueError(f"num_generations is {self.num_generations}; a group needs at least 2 completions")
        if len(self.reward_weights) != len(self.reward_funcs):
            raise ValueError(f"{len(self.reward_weights)} reward_weights for {len(self.reward_funcs)} reward_funcs")

    @property
    def kl(self) -> KLSchedule:
        return KLSchedule(self.kl_schedule, self.beta_min, self.beta_max, self.kl_exploration)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_completion_length, self.temperature, self.top_p, self.top_k, self.min_p)
