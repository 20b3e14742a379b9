"""One random generator a scene, so that any scene can be drawn alone, in any order and in any process."""

import numpy as np

SPLIT_IDS = {"train": 0, "validation": 1, "test": 2, "pretrain": 3}


def scene_rng(task_id: int, seed: int, index: int, split: str) -> np.random.Generator:
    """The generator of scene `index` of a split; `task_id` keeps the tasks' streams apart.

    Raises:
        ValueError: `split` is none of train, validation, test, pretrain.
    """
    if split not in SPLIT_IDS:
        raise ValueError(f"split {split!r} is not one of {', '.join(SPLIT_IDS)}")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, task_id, SPLIT_IDS[split], index])))
