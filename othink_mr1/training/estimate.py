"""What a training will need: memory by its parts, and time. An estimate, from sizes alone; imports no torch.

What is kept for every parameter is exact. Activations are counted as what the backward pass keeps of each layer (the
inputs of its products and norms), in the layers' own widths; time is arithmetic and memory traffic at a usual share of
what a device can do, plus what launching each layer costs. Of several processes the memory is each one's; what they
send to each other takes time that is not counted.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from othink_mr1.errors import UserError
from othink_mr1.models.shape import Shape

GB = 10**9
# Python, torch and transformers; on a GPU the context and the kernels, with what the allocator loses to fragments.
_FIXED = {"cpu": 0.65 * GB, "cuda": 1.5 * GB}
_TEXT_TOKENS = 64  # a question with the chat markup around it
# name in the device's own -> arithmetic in 16 and in 32 bits (operations a second), memory (bytes a second)
_DEVICES = {
    "H200": (990e12, 495e12, 4.8e12),
    "H100": (990e12, 495e12, 3.35e12),
    "A100": (312e12, 156e12, 2.0e12),
    "L40S": (362e12, 183e12, 0.86e12),
    "4090": (165e12, 83e12, 1.0e12),
}
_TRAFFIC = 1e10  # bytes a second of memory for one CPU thread
_ZERO_BUCKET = 5e8  # gradients; DeepSpeed's reduce_bucket_size
_REACHED = 0.35  # share of a device's arithmetic that training reaches
_LAUNCH = {"cpu": 3e-4, "cuda": 4e-4}  # seconds of a layer's forward pass, however small


@dataclass(frozen=True)
class Job:
    """One training: the settings by their names in params.yaml, and what its data brings.

    Attributes:
        pixels: of a picture as the model gets it.
        rows: of the training split; None where it is not known yet.
        device: "cpu" or a GPU's name.
        targets: completions of a sample that SFT trains on at once.
        processes: of the training, on all machines.
        strategy: of several processes: ddp; fsdp, which spreads out what is kept for every parameter; deepspeed (ZeRO
            stage 2), which leaves the weights whole.
        speed: operations a second that one CPU thread can do.
    """

    shape: Shape
    settings: Mapping[str, Any]
    pixels: int
    rows: int | None = None
    device: str = "cpu"
    threads: int = 1
    targets: int = 1
    processes: int = 1
    strategy: str = "ddp"
    speed: float = 1e11

    @property
    def kind(self) -> str:
        return "cpu" if self.device == "cpu" else "cuda"

    @property
    def rl(self) -> bool:
        return "num_generations" in self.settings

    @property
    def prompts(self) -> int:
        return int(self.settings["per_device_train_batch_size"])

    @property
    def group(self) -> int:
        return int(self.settings["num_generations"]) if self.rl else self.targets

    @property
    def completion(self) -> int:
        """Tokens of a completion, at most."""
        return int(self.settings["max_completion_length"]) if self.rl else 32

    @property
    def prompt(self) -> int:
        """Tokens of a prompt."""
        return self.shape.picture_tokens(self.pixels) + _TEXT_TOKENS

    @property
    def tokens(self) -> int:
        """Tokens of a training pass: prompts once, and their completions."""
        return self.prompts * (self.prompt + self.group * self.completion)

    @property
    def sampled(self) -> int:
        """Completions that are sampled together."""
        prompts = self.settings.get("rollout_batch_size") or self.prompts * self.accumulation
        return int(prompts) * self.group

    @property
    def patches(self) -> int:
        return self.prompts * self.shape.picture_tokens(self.pixels) * self.shape.merge**2

    @property
    def reference(self) -> bool:
        return self.rl and self.settings.get("beta_max", 0) > 0

    @property
    def copied_reference(self) -> bool:
        """With LoRA the reference is the model without its adapter, and no copy."""
        return self.reference and not self.settings.get("lora_r")

    @property
    def sharded(self) -> bool:
        return self.strategy == "fsdp" and self.processes > 1

    @property
    def accumulation(self) -> int:
        return int(self.settings.get("gradient_accumulation_steps") or 1)


@dataclass(frozen=True)
class Estimate:
    """Bytes by what needs them, and seconds. `certain` is kept throughout; of the rest only the larger phase counts."""

    certain: dict[str, float]
    rollout: dict[str, float]
    training: dict[str, float]
    steps: int | None
    seconds_a_step: float | None

    @property
    def bytes(self) -> float:
        """At the peak."""
        return sum(self.certain.values()) + max(sum(self.rollout.values()), sum(self.training.values()))

    @property
    def needed(self) -> float:
        """What no saving on activations takes away."""
        return sum(self.certain.values())

    @property
    def seconds(self) -> float | None:
        """Of the whole training, validation left out."""
        return None if self.steps is None or self.seconds_a_step is None else self.steps * self.seconds_a_step

    def parts(self) -> str:
        """The largest parts in words."""
        peak = max(self.rollout, self.training, key=lambda phase: sum(phase.values()))
        found = sorted({**self.certain, **peak}.items(), key=lambda part: -part[1])
        return ", ".join(f"{name} {in_words(size)}" for name, size in found if size >= 0.02 * self.bytes)


def estimate(job: Job) -> Estimate:
    """Memory and time of a training."""
    shape, settings = job.shape, job.settings
    trained, several = _trained(job), job.processes > 1
    zero = several and job.strategy == "deepspeed"
    halved = zero and bool(settings.get("bf16"))  # DeepSpeed casts the weights; its optimiser always has its own
    parts = job.processes if job.sharded else 1
    weights = (2.0 if halved else 4.0) * shape.parameters / parts
    certain = {
        "weights": weights,
        "optimiser": (12.0 if zero else 8.0) * trained / (job.processes if zero else parts),
        "gradients": 4.0 * trained / (job.processes if zero else parts),
        "reference": weights if job.copied_reference else 0.0,
        "program": _FIXED[job.kind],
    }
    if job.sharded:
        certain["gathered weights"] = _gathered(job)
    elif several:  # DDP sums gradients in buckets of its own, ZeRO in one of so many
        certain["gradients to exchange"] = 4.0 * (min(trained, _ZERO_BUCKET) if zero else trained)
    training = {"activations": _activations(job), "logits": 12.0 * shape.vocabulary * _chunk(job)}
    if settings.get("bf16") and not halved:
        training["copies in 16 bits"] = 2.0 * shape.parameters  # autocast keeps them until the backward pass is over
    rollout = {}
    if job.rl:
        cache = 8.0 * shape.layers * shape.key * job.sampled * (job.prompt + job.completion)
        rollout = {"KV cache": cache, "logits": 28.0 * shape.vocabulary * job.sampled}
    return Estimate(certain, rollout, training, _steps(job), _seconds(job))


def require_memory(job: Job, memory: float, name: str, sharing: int = 1) -> Estimate:
    """The estimate of a training, which is refused where even what is kept throughout does not fit.

    Args:
        memory: bytes that there are.
        name: of what has them, such as "this machine".
        sharing: how many of the processes have them together.

    Raises:
        UserError: it cannot fit; the message has the numbers, and what would save how much.
    """
    found = estimate(job)
    text = f"about {memory_in_words(job, found)} are needed ({found.parts()}), and {name} has {in_words(memory)}"
    if sharing > 1:
        text += f" for {sharing} of them"
    if found.needed * sharing > memory:
        raise UserError("; ".join([text, *savings(job)]))
    if found.bytes * sharing > memory:
        print("; ".join([f"warning: {text}", *savings(job)]), file=sys.stderr, flush=True)
    return found


def memory_in_words(job: Job, found: Estimate) -> str:
    """How much, and of what."""
    where = "" if job.kind == "cpu" else f" of {job.device}"
    each = f" in each of {job.processes} processes ({job.strategy})" if job.processes > 1 else ""
    return f"{in_words(found.bytes)} of memory{where}{each}"


def in_words(size: float) -> str:
    """Bytes for people."""
    return f"{size / GB:.1f} GB" if size >= 0.95 * GB else f"{size / 10**6:.0f} MB"


def savings(job: Job) -> list[str]:
    """What to lower, and what each would save at the peak, the largest first."""
    now = estimate(job).bytes
    settings = job.settings
    found = []
    others = {
        f"{name}={value}".replace("True", "true"): replace(job, settings={**settings, name: value})
        for name, value in _smaller(job)
    }
    if job.pixels > 4 * 28 * 28:
        others[f"base.max_pixels={job.pixels // 2}"] = replace(job, pixels=job.pixels // 2)
    if job.processes > 1 and not job.sharded:
        others["training.launch.strategy=fsdp"] = replace(job, strategy="fsdp")
    for name, other in others.items():
        less = now - estimate(other).bytes
        if less > 0.03 * now:
            found.append((less, f"{name} saves about {in_words(less)}"))
    return [text for _, text in sorted(found, reverse=True)]


def _smaller(job: Job) -> list[tuple[str, Any]]:
    settings = job.settings
    halves = ("per_device_train_batch_size", "max_completion_length", "num_generations")
    found: list[tuple[str, Any]] = [
        (name, settings[name] // 2) for name in halves if settings.get(name, 1) >= (4 if name.startswith("num") else 2)
    ]
    switches = [("gradient_checkpointing", True), ("freeze_vision", True), ("lora_r", 16)]
    return found + [switch for switch in switches if not settings.get(switch[0])]


def _trained(job: Job) -> float:
    """Parameters that have a gradient; of an adapter, that of a language layer's seven products and a block's four."""
    shape, frozen = job.shape, job.settings.get("freeze_vision")
    if not (rank := job.settings.get("lora_r")):
        return shape.language_parameters if frozen else shape.parameters
    layer = 7 * shape.hidden + 2 * shape.query + 2 * shape.key + 3 * shape.intermediate
    block = 7 * shape.vision_width + 2 * shape.vision_intermediate
    return float(rank) * (shape.layers * layer + (0 if frozen else shape.vision_depth * block))


def _gathered(job: Job) -> float:
    """What fully_shard holds whole at once. Of the layers: one's weights, the next one's, which are on their way, a
    gradient, and a buffer of each direction. What lies outside of the layers stays, the reference's, too."""
    shape = job.shape
    layer, block = shape.layer_parameters, shape.block_parameters
    outside = shape.parameters - shape.layers * layer - shape.vision_depth * block
    gradient = 0 if job.settings.get("lora_r") else 2 * outside
    return 4.0 * (5 * max(layer, block) + outside * (1 + job.copied_reference) + gradient)


def _chunk(job: Job) -> int:
    """Tokens whose logits are in memory at once."""
    return min(int(job.settings.get("logprob_chunk", 1024)), job.prompts * job.group * job.completion)


def _activations(job: Job) -> float:
    """Bytes that the backward pass needs of the forward pass."""
    shape, size = job.shape, 4.0
    wide = 2.0 if job.settings.get("bf16") else 4.0  # what products take under autocast; norms stay in 32 bits
    layer = job.tokens * (6 * shape.hidden * size + (5 * shape.query + 4 * shape.intermediate) * wide)
    block = job.patches * (
        6 * shape.vision_width * size + (6 * shape.vision_width + 3 * shape.vision_intermediate) * wide
    )
    if job.settings.get("lora_r"):  # as measured: about the outputs of the adapted products once more
        layer += job.tokens * (shape.query + 2 * shape.key + 2 * shape.hidden + 3 * shape.intermediate) * wide
    blocks = 0 if job.settings.get("freeze_vision") else shape.vision_depth
    if job.settings.get("gradient_checkpointing"):
        kept = size * (shape.layers * job.tokens * shape.hidden + blocks * job.patches * shape.vision_width)
        return kept + max(layer, block if blocks else 0.0)
    return shape.layers * layer + blocks * block


def _steps(job: Job) -> int | None:
    if job.settings.get("max_steps"):
        return int(job.settings["max_steps"])
    if job.rows is None:
        return None
    at_once = job.prompts * job.accumulation * job.processes
    return max(1, int(job.settings["num_train_epochs"] * job.rows / at_once))


def _seconds(job: Job) -> float | None:
    """Of one optimiser step."""
    if job.kind == "cpu":
        fast = slow = job.threads * job.speed
        memory = job.threads * _TRAFFIC
    else:
        known = next((speeds for name, speeds in _DEVICES.items() if name in job.device), None)
        if known is None:
            return None
        fast, slow, memory = known
    shape, settings = job.shape, job.settings
    # A training pass costs 2 operations a parameter and token forward and 4 backward.
    passes = 6 + 2 * job.reference + 2 * bool(settings.get("gradient_checkpointing"))
    vision = passes * shape.vision_parameters * job.patches
    work = (passes * shape.language_parameters * job.tokens + vision) / (fast if settings.get("bf16") else slow)
    launches = passes / 2 * (shape.layers + shape.vision_depth)
    if job.rl:
        rows, weights = job.prompts * job.group, shape.language_parameters
        prefill = 2 * weights * job.prompts * job.prompt + 2 * shape.vision_parameters * job.patches
        work += (prefill + 2 * weights * rows * job.completion) / slow
        launches += shape.layers * job.completion
        traffic = job.completion * 4 * weights / memory
    else:
        traffic = 0.0
    return job.accumulation * (work / _REACHED + launches * _LAUNCH[job.kind] + traffic)
