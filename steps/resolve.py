"""Writes the parameters in force to .othink/params.yaml, which every other stage names as its params file.

Reads params.yaml and what `othink run` was asked for last (.othink/selection.yaml). DVC runs this stage every time,
and the file is written only if it would change.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import yaml

from othink_mr1 import config, digests, stages
from steps import harness


def main(arguments: Sequence[str] | None = None) -> None:
    """Resolve params.yaml.

    Raises:
        UserError: params.yaml or the selection is not valid.
    """
    argparse.ArgumentParser(prog="python -m steps.resolve", description=__doc__).parse_args(arguments)
    with harness.stage("resolve"):
        profile, overrides = config.read_selection(Path())
        with digests.remembered(stages.WORK / "digests.json"):
            text = yaml.safe_dump(config.resolve(profile, overrides), sort_keys=False, allow_unicode=True)
        target = stages.WORK / "params.yaml"
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            stages.write_whole(target, text)


if __name__ == "__main__":
    harness.run_step(main)
