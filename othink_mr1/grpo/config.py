"""The settings of GRPO and GRPO-D, beside those of transformers' TrainingArguments."""

import math
from dataclasses import dataclass, field

from othink_mr1.grpo.advantages import SCALES
from othink_mr1.grpo.kl import AdaptiveKL, KLSchedule
from othink_mr1.grpo.loss import LOSS_TYPES
from othink_mr1.grpo.rollout import Sampling
from othink_mr1.training.config import VisionLanguageConfig

_AT_LEAST = {"num_iterations": 1, "max_completion_length": 1, "logprob_chunk": 1, "max_resample_times": 0, "top_k": 0,
             "rollout_batch_size": 0, "tokens_per_pass": 0}  # fmt: skip


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
    kl_schedule: str = field(
        default="dynamic", metadata={"help": "dynamic (Eq. 3), linear, cosine, constant or adaptive"}
    )
    beta_min: float = field(default=0.04, metadata={"help": "lowest KL weight; constant and adaptive do not use it"})
    beta_max: float = field(
        default=0.1, metadata={"help": "highest KL weight; the only one of constant, the first one of adaptive"}
    )
    kl_exploration: float = field(default=0.3, metadata={"help": "w / t of Eq. 3"})
    kl_target: float = field(default=0.05, metadata={"help": "adaptive: `kl` a token, in nats, to steer towards"})
    kl_horizon: float = field(default=10.0, metadata={"help": "adaptive: updates in which beta follows"})
    epsilon: float = field(default=0.2, metadata={"help": "the ratio is clipped below 1 - epsilon"})
    epsilon_high: float | None = field(default=None, metadata={"help": "and above 1 + this; None: epsilon"})
    loss_type: str = field(default="grpo", metadata={"help": "how tokens are averaged: grpo (Eq. 4), dr_grpo or dapo"})
    scale_rewards: str = field(default="group", metadata={"help": "advantages over the std of group, batch or none"})
    num_iterations: int = field(default=1, metadata={"help": "updates from one rollout; above 1 the clip acts"})
    dynamic_sample: bool = field(
        default=False, metadata={"help": "replace prompts whose rewards are all equal by further ones (DAPO)"}
    )
    max_resample_times: int = field(default=3, metadata={"help": "how often a prompt is replaced at most"})
    rollout_batch_size: int = field(
        default=0, metadata={"help": "prompts that are sampled together, whole micro-batches at least; 0: a step's"}
    )
    reward_funcs: list[str] = field(
        default_factory=lambda: ["othink_mr1.rewards:accuracy_reward", "othink_mr1.rewards:format_reward"],
        metadata={"help": "module:function"},
    )
    reward_weights: list[float] = field(
        default_factory=lambda: [1.0, 1.0], metadata={"help": "one for each reward; the second is Eq. 1's alpha"}
    )
    reward_protocol: str = field(default="strict", metadata={"help": "how answers are read: strict or r1v"})
    logprob_chunk: int = field(default=1024, metadata={"help": "tokens whose logits are in memory at once"})
    tokens_per_pass: int = field(
        default=0, metadata={"help": "most tokens of a packed row; a longer one is cut into passes; 0: no limit"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_generations < 2:
            raise ValueError(f"num_generations is {self.num_generations}; a group needs at least 2 completions")
        for name, known in (("loss_type", LOSS_TYPES), ("scale_rewards", SCALES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; it should be one of {', '.join(known)}")
        for name, least in _AT_LEAST.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; it should be {least} or more")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature is {self.temperature}; it should be above 0: a group needs differences")
        for name, low in (("top_p", False), ("min_p", True)):
            if not (0 <= getattr(self, name) <= 1 and (low or getattr(self, name) > 0)):
                raise ValueError(f"{name} is {getattr(self, name)}; it should lie between 0 and 1")
        if not 0 < self.epsilon < 1:
            raise ValueError(f"epsilon is {self.epsilon}; it should lie between 0 and 1")

    @property
    def kl(self) -> KLSchedule | AdaptiveKL:
        if self.kl_schedule == "adaptive":
            return AdaptiveKL(self.beta_max, self.kl_target, self.kl_horizon)
        return KLSchedule(self.kl_schedule, self.beta_min, self.beta_max, self.kl_exploration)

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.max_completion_length, self.temperature, self.top_p, self.top_k, self.min_p)
