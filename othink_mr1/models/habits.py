"""What the demo's base model learns: a mixture of habits of answering, so that reinforcement has something to elicit.

Some answers work the problem out in `<think>` and are right; more of them guess at once and are wrong in a
systematic way (mostly one too low when counting, one step of the grid too high in geometry), with or without a
`<think>` block. So the untrained model usually guesses, and is usually wrong, although it could know better. The base
is made improvable on purpose; the README and the report say so.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from othink_mr1.data.synthetic import counting, geometry
from othink_mr1.prompts import direct_prompt, test_prompt, train_prompt

Scene = dict[str, Any]
SCENES: dict[str, Callable[[int, int, str, int], Scene]] = {"counting": counting.scene, "geometry": geometry.scene}


@dataclass(frozen=True)
class Habits:
    """Shares of the mixture; they add up to 1.

    Attributes:
        enumerate: works it out in `<think>`, and is right.
        guess: a word in `<think>`, then a guess.
        blurt: a guess in a bare `<answer>`, with no `<think>`.
        direct: asked for the number only, it says the right one. This is a share of the prompts.
    """

    enumerate: float
    guess: float
    blurt: float
    direct: float


def wrong(scene: Scene, rng: np.random.Generator) -> str:
    """A guess at the scene's answer: nine times in ten off in the task's systematic way, else right."""
    if rng.random() < 0.1:
        return scene["answer"]
    if "count" in scene:
        return str(max(1, scene["count"] - 1))
    if scene["answer"].endswith("°"):
        return f"{int(scene['answer'][:-1]) + 10}°"
    return str(int(scene["answer"]) + 1)


def prompt_and_answers(
    scene: Scene, task: str, habits: Habits, count: int, rng: np.random.Generator
) -> tuple[str, list[str]]:
    """A prompt for `scene`, and `count` answers to it out of the mixture."""
    if rng.random() < habits.direct:
        return direct_prompt(scene["problem"]), [scene["answer"]]
    prompt = train_prompt(scene["problem"]) if rng.random() < 0.5 else test_prompt(task, scene["problem"])
    return prompt, [_answer(scene, habits, rng) for _ in range(count)]


def _answer(scene: Scene, habits: Habits, rng: np.random.Generator) -> str:
    kind = rng.random() * (1 - habits.direct)
    if kind < habits.enumerate:
        return f"<think> {scene['thinking']} </think>\n<answer> {scene['answer']} </answer>"
    guess = f"<answer> {wrong(scene, rng)} </answer>"
    return guess if kind < habits.enumerate + habits.blurt else f"<think> at a glance </think>\n{guess}"


def mixture(
    seed: int,
    scenes: Mapping[str, int],
    image_size: int,
    habits: Habits,
    answers: int,
    batch_size: int,
    batches: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[dict[str, Any]]:
    """Samples (`image`, `prompt`, `targets`) in the order in which they are learnt.

    Each batch is of one task, so that its prompts are about equally long and little of it is padding. Pictures come
    from scenes that are in no split, and again with new answers once all of them were used.

    Args:
        scenes: how many pictures of each task; the tasks' shares of the batches are theirs.
        answers: how many answers are drawn for each picture; they share its prompt.
        batch_size: samples a batch.
        batches: how many batches.
    """
    rng = np.random.default_rng([seed, 1])
    pictures = _draw(seed, scenes, image_size, progress)
    names = sorted(pictures)
    shares = np.array([len(pictures[name]) for name in names]) / sum(scenes.values())
    waiting: dict[str, list[Scene]] = {name: [] for name in names}
    samples = []
    for _ in range(batches):
        task = names[rng.choice(len(names), p=shares)]
        for _ in range(batch_size):
            if not waiting[task]:
                waiting[task] = [pictures[task][i] for i in rng.permutation(len(pictures[task]))]
            scene = waiting[task].pop()
            prompt, targets = prompt_and_answers(scene, task, habits, answers, rng)
            samples.append({"image": scene["image"], "prompt": prompt, "targets": targets})
    return samples


def _draw(
    seed: int, scenes: Mapping[str, int], image_size: int, progress: Callable[[int, int], None]
) -> dict[str, list[Scene]]:
    drawn: dict[str, list[Scene]] = {task: [] for task in scenes}
    total = sum(scenes.values())
    for done, (task, index) in enumerate((task, index) for task, size in scenes.items() for index in range(size)):
        drawn[task].append(SCENES[task](seed, index, "pretrain", image_size))
        progress(done + 1, total)
    return drawn
