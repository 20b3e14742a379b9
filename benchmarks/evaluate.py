"""Times this project's evaluation beside the loop of R1-V's counting script, on the same items and the same weights.

    python -m benchmarks.evaluate --json

The loop takes the questions in the order of the file, 64 at a time and left-padded, and gives each batch to
transformers' `generate`, where every row waits for the longest. Both decode greedily in float32, take turns, and must
write the same tokens: where they do not, this ends with an error.

How much there is to win depends on how much the completions' lengths differ, so nothing cuts or stretches them. The
model is a Qwen2-VL of the demo's size, taught here for a few minutes to count aloud to the number that the question
names, and then to answer. Those numbers are skewed as the lengths of thinking are: most are short, a few are many
times as long. `--model` takes a folder with another model.
"""

import argparse
import json
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from othink_mr1.data.synthetic import counting
from othink_mr1.evaluation.generate import by_size
from othink_mr1.grpo.rollout import Sampling, generate
from othink_mr1.models.loading import load_model, load_processor, save_model
from othink_mr1.models.processor import Processor
from othink_mr1.models.tiny import build_model, build_processor
from othink_mr1.prompts import test_prompt
from othink_mr1.sft import SFTConfig, SFTTrainer

PEER_BATCH = 64  # R1-V's test_qwen2vl_counting_superclevr.py
MAX_NEW_TOKENS = 256  # as there
# To which the questions ask to count, and the shares of the test questions that name them.
_NUMBERS = {4: 0.08, 8: 0.15, 12: 0.2, 20: 0.2, 32: 0.17, 52: 0.12, 84: 0.06, 136: 0.02}


def items(split: str, size: int, side: int = 64) -> list[dict[str, Any]]:
    """Scenes (`image`, `prompt`, `targets`) whose question names a number, to which the target counts."""
    shares = list(_NUMBERS.values()) if split == "test" else None  # taught are all alike
    numbers = np.random.default_rng([len(split), size]).choice(list(_NUMBERS), size, p=shares)
    made = []
    for index, number in enumerate(numbers.tolist()):
        scene = counting.scene(0, index, split, side)
        aloud = " ".join(str(n) for n in range(1, number + 1))
        prompt = test_prompt("counting", f"{scene['problem']} Count to {number} first.")
        target = f"<think> {aloud} </think>\n{scene['solution']}"
        made.append({"image": scene["image"], "prompt": prompt, "targets": [target]})
    return made


def teach(steps: int, folder: str) -> None:
    """Save a small Qwen2-VL that learnt to count aloud."""
    samples = items("pretrain", 1000)
    processor = build_processor(text for s in samples for text in [s["prompt"], *s["targets"]])
    torch.manual_seed(0)
    config = SFTConfig(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=16,
        learning_rate=1e-3,
        lr_scheduler_type="cosine",
        warmup_steps=10,
        max_grad_norm=1.0,
        use_cpu=True,
        save_strategy="no",
        logging_steps=steps,
        disable_tqdm=True,
        report_to="none",
    )
    model = build_model(processor)
    SFTTrainer(model, config, processor, samples).train()
    save_model(model, processor, folder)


def ours(model: PreTrainedModel, processor: Processor, asked: list[dict[str, Any]], size: int) -> list[list[int]]:
    """The tokens of every completion, as `othink_mr1.evaluation.generate.complete` makes them."""
    order = by_size([item["image"].size for item in asked], [item["prompt"] for item in asked])
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), size):
        batch = order[start : start + size]
        prompts = processor.encode([asked[i]["prompt"] for i in batch], [asked[i]["image"] for i in batch])
        rollout = generate(model, processor, prompts, Sampling(MAX_NEW_TOKENS, temperature=0.0))
        lengths = rollout.completion_mask.sum(1).tolist()
        rows = zip(batch, rollout.completion_ids.tolist(), lengths, strict=True)
        found |= {i: ids[:length] for i, ids, length in rows}
    return [found[i] for i in range(len(asked))]


def peer(model: PreTrainedModel, processor: Processor, asked: list[dict[str, Any]]) -> list[list[int]]:
    """The same by R1-V's loop."""
    end = processor.tokenizer.eos_token_id
    found = []
    for start in range(0, len(asked), PEER_BATCH):
        batch = asked[start : start + PEER_BATCH]
        prompts = processor.encode([item["prompt"] for item in batch], [item["image"] for item in batch])
        inputs = {name: getattr(prompts, name) for name in prompts.__dataclass_fields__}
        ids = model.generate(**inputs, use_cache=True, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        for row in ids[:, prompts.input_ids.shape[1] :].tolist():
            found.append(row[: row.index(end) + 1] if end in row else row)
    return found


def measure(folder: str | Path, asked: list[dict[str, Any]], size: int, repeats: int) -> dict[str, Any]:
    """Medians of paired runs, after one that warms up.

    Raises:
        RuntimeError: the two wrote different tokens.
    """
    processor = load_processor(folder)
    # Each its own: our decoding changes how a model's layers attend.
    mine, theirs = load_model(folder, device="cpu"), load_model(folder, device="cpu")
    seconds: dict[str, list[float]] = {"ours": [], "peer": []}
    found: dict[str, list[list[int]]] = {}
    for _ in range(repeats + 1):
        for name in seconds:
            began = time.perf_counter()
            answer = ours(mine, processor, asked, size) if name == "ours" else peer(theirs, processor, asked)
            seconds[name].append(time.perf_counter() - began)
            found[name] = answer
        differ = [i for i, pair in enumerate(zip(found["ours"], found["peer"], strict=True)) if pair[0] != pair[1]]
        if differ:
            raise RuntimeError(f"{len(differ)} of {len(asked)} completions differ, the first of item {differ[0]}")
    lengths = sorted(map(len, found["ours"]))
    ratios = [long / short for short, long in zip(seconds["ours"][1:], seconds["peer"][1:], strict=True)]
    return {
        "ours_s": statistics.median(seconds["ours"][1:]),
        "peer_s": statistics.median(seconds["peer"][1:]),
        "ratio": statistics.median(ratios),
        "ratios": [round(ratio, 3) for ratio in ratios],
        "same_tokens": True,
        "items": len(asked),
        "tokens": {"mean": statistics.mean(lengths), "median": statistics.median(lengths), "longest": lengths[-1]},
        "clipped": sum(length == MAX_NEW_TOKENS for length in lengths),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=256, help="of ours; the loop's is 64, as in R1-V's script")
    parser.add_argument("--repeats", type=int, default=3, help="paired runs whose median is taken")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--steps", type=int, default=400, help="for which the model is taught")
    parser.add_argument("--model", type=Path, help="a model folder in Hugging Face's layout, instead")
    parser.add_argument("--json", action="store_true", dest="as_json")
    chosen = parser.parse_args()
    with TemporaryDirectory() as made:
        if not chosen.model:
            teach(chosen.steps, made)
        torch.set_num_threads(chosen.threads)
        found = measure(chosen.model or made, items("test", chosen.items), chosen.batch_size, chosen.repeats)
    if chosen.as_json:
        print(json.dumps(found))
    else:
        tokens = found["tokens"]
        print(f"ours {found['ours_s']:.2f} s, R1-V's loop {found['peer_s']:.2f} s: {found['ratio']:.2f} times as fast")
        print(f"{found['items']} items, tokens: {tokens}, the same in both; {found['clipped']} clipped")


if __name__ == "__main__":
    main()
