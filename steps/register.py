"""Registers a trained model with MLflow as its task's candidate. Not a DVC stage: it acts on the world outside.

python -m steps.register --task counting --method grpo_d
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from steps import harness


def main(argv: Sequence[str] | None = None) -> int:
    """Register and print the version."""
    parser = argparse.ArgumentParser(prog="python -m steps.register", description=__doc__.splitlines()[0])
    parser.add_argument("--task", required=True, choices=["counting", "geometry"], help="the training task")
    parser.add_argument("--method", default="grpo_d", choices=["sft", "grpo", "grpo_d"], help="default: %(default)s")
    arguments = parser.parse_args(argv)

    from othink_mr1 import config, registry, tracking

    root = Path.cwd()
    settings = config.load(root, *config.read_selection(root))
    tracking.connect(root, settings.tracking.uri, settings.tracking.experiment)
    entry = registry.register(root, arguments.task, arguments.method)
    print(f"{entry.name} version {entry.version}: {entry.method}, weights {entry.weights}")
    return 0


if __name__ == "__main__":
    harness.run_step(main)
