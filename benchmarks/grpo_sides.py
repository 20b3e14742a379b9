"""One side of `benchmarks.grpo_step`: this project's trainer, or TRL's, on the same model, pictures and question.

Both train every parameter, take one group of completions a micro-batch, sample as many tokens as they are told to
(the end token is never written before), and use the objective of Eq. 4 with a reference model.
"""

import argparse
import random
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from PIL import Image
from transformers import PreTrainedTokenizerFast, Qwen2VLForConditionalGeneration, Qwen2VLProcessor
from transformers.processing_utils import ProcessorMixin

from benchmarks.pacing import Turns, forget_peak, memory_mb, own_output
from othink_mr1.models.loading import load_model
from othink_mr1.models.processor import IMAGE_TOKEN, Processor
from othink_mr1.models.tiny import build_model, build_processor
from othink_mr1.prompts import train_prompt

QUESTION = "How many items are there in the image?"
LEARNING_RATE, BETA = 1e-6, 0.04


@dataclass(frozen=True)
class Shape:
    """What both sides are given."""

    picture_side: int  # pixels; 16 of them make one image token
    completion: int  # tokens
    group: int
    prompts: int  # groups of one step, accumulated
    hidden: int = 256
    layers: int = 6
    vision_depth: int = 4
    vision_dim: int = 96
    threads: int = 4
    seed: int = 0


def write_model(shape: Shape, folder: Path) -> None:
    """A random Qwen2-VL of the shape's size, with its processor."""
    torch.manual_seed(shape.seed)
    texts = [train_prompt(QUESTION)] * 10 + [str(i) for i in range(100)]
    processor = build_processor(texts, vocab_size=1000, picture_side=shape.picture_side)
    model = build_model(processor, shape.hidden, shape.layers, shape.vision_depth, shape.vision_dim)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


def pictures(shape: Shape, count: int) -> list[Image.Image]:
    rng = np.random.default_rng(shape.seed)
    size = (shape.picture_side, shape.picture_side, 3)
    return [Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)) for _ in range(count)]


def any_reward(completions: list[Any], *_: Any, **__: Any) -> list[float]:
    """Not all equal in a group, and nothing to compute."""
    return [random.random() for _ in completions]


def ours(shape: Shape, folder: Path, steps: int, turns: Turns) -> None:
    from othink_mr1.grpo import GRPODConfig, GRPODTrainer

    processor = Processor.from_pretrained(folder)
    model = load_model(folder, device="cpu" if not torch.cuda.is_available() else None)
    processor.forbidden_tokens = _without_end(processor)  # type: ignore[method-assign]
    _start(shape, processor, model, turns)
    config = GRPODConfig(
        **_shared_settings(folder, shape, steps),
        per_device_train_batch_size=1,
        kl_schedule="constant",
        beta_min=BETA,
        beta_max=BETA,
        reward_funcs=["benchmarks.grpo_sides:any_reward"],
        reward_weights=[1.0],
    )
    samples = [
        {"image": picture, "problem": QUESTION, "solution": "<answer> 1 </answer>", "task": "counting"}
        for picture in pictures(shape, 2 * shape.prompts)
    ]
    trainer = GRPODTrainer(model, config, processor, samples, callbacks=[turns])
    trainer.phase = turns.phase
    trainer.train()


def trl(shape: Shape, folder: Path, steps: int, turns: Turns) -> None:
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer

    processor = _peer_processor(folder)
    model = Qwen2VLForConditionalGeneration.from_pretrained(folder, dtype=torch.float32)
    _start(shape, processor, model, turns)
    config = GRPOConfig(
        **_shared_settings(folder, shape, steps),
        per_device_train_batch_size=shape.group,
        generation_kwargs={"min_new_tokens": shape.completion},
        beta=BETA,
        loss_type="grpo",
        use_bias_correction_kl=False,
        gradient_checkpointing=False,
        bf16=False,
    )
    question = train_prompt(QUESTION)
    prompt = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question}]}]
    rows = [{"prompt": prompt, "image": picture} for picture in pictures(shape, 2 * shape.prompts)]
    trainer = GRPOTrainer(
        model,
        reward_funcs=any_reward,
        args=config,
        train_dataset=Dataset.from_list(rows),
        processing_class=processor,
        callbacks=[turns],
    )
    trainer._generate = turns.timed("rollout", trainer._generate)
    plain = trainer._get_per_token_logps_and_entropies

    def logprobs(*args: Any, **kwargs: Any) -> Any:
        if torch.is_grad_enabled():
            return plain(*args, **kwargs)
        with turns.phase("reference"):
            return plain(*args, **kwargs)

    trainer._get_per_token_logps_and_entropies = logprobs
    trainer.train()


def _shared_settings(folder: Path, shape: Shape, steps: int) -> dict[str, Any]:
    return {
        "output_dir": str(folder / "run"),
        "max_steps": steps,
        "gradient_accumulation_steps": shape.prompts,
        "num_generations": shape.group,
        "max_completion_length": shape.completion,
        "learning_rate": LEARNING_RATE,
        "logging_steps": 1,
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": not torch.cuda.is_available(),
        "dataloader_pin_memory": False,
    }


def _without_end(processor: Processor) -> Any:
    forbidden = sorted({*processor.forbidden_tokens(), processor.tokenizer.eos_token_id})
    return lambda: forbidden


def _start(shape: Shape, processor: Any, model: Any, turns: Turns) -> None:
    """What is in memory before any trainer is the baseline."""
    torch.set_num_threads(shape.threads)
    grid = (shape.picture_side // 16) ** 2
    text = processor.tokenizer.apply_chat_template(
        [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": train_prompt(QUESTION)}]}],
        tokenize=False,
        add_generation_prompt=True,
    )
    tokens = len(processor.tokenizer(text)["input_ids"]) - 1 + grid
    forget_peak()
    turns.say(
        baseline_mb=memory_mb("VmRSS"),
        prompt_tokens=tokens,
        parameters=sum(p.numel() for p in model.parameters()),
    )


class _ImageTextProcessor(Qwen2VLProcessor):
    """Qwen2-VL's processor without its video part, which cannot be built where torchvision is missing."""

    def __init__(self, image_processor: Any = None, tokenizer: Any = None, chat_template: Any = None) -> None:
        self.image_token, self.video_token = IMAGE_TOKEN, "<|video_pad|>"
        self.image_token_id = tokenizer.convert_tokens_to_ids(self.image_token)
        self.video_token_id = tokenizer.convert_tokens_to_ids(self.video_token)
        ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)


def _peer_processor(folder: Path) -> Qwen2VLProcessor:
    own = Processor.from_pretrained(folder)
    tokenizer: PreTrainedTokenizerFast = own.tokenizer
    return _ImageTextProcessor(own.image_processor, tokenizer, tokenizer.chat_template)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.grpo_sides", description=__doc__)
    parser.add_argument("side", choices=("ours", "trl"))
    parser.add_argument("--steps", type=int, required=True)
    for name, value in asdict(Shape(0, 0, 0, 0)).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=value)
    chosen = vars(parser.parse_args())
    side, steps = chosen.pop("side"), chosen.pop("steps")
    shape = Shape(**chosen)
    turns = Turns(own_output())
    transformers.utils.logging.set_verbosity_error()
    random.seed(shape.seed)
    with tempfile.TemporaryDirectory() as name:
        write_model(shape, Path(name))
        {"ours": ours, "trl": trl}[side](shape, Path(name), steps, turns)


if __name__ == "__main__":
    main()
