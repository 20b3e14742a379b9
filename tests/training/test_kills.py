"""A short form of benchmarks/kills.py: what a killed training leaves is what an undisturbed one leaves."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SHORT = [
    *("--profile", "smoke", "--methods", "grpo_d", "--kills", "2", "--others", "1"),
    *("--set", "base.training.max_steps=8", "--set", "base.training.save_steps=2"),
    # A model of eight steps answers nothing right: without a reward nothing would be learned, and all runs be alike.
    *("--set", "reward.extra={tests.training.rewards:differs: 1.0}"),
    *("--set", "grpo.max_steps=8", "--set", "grpo.save_steps=2", "--set", "grpo.num_generations=4"),
]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_kills_change_nothing_of_the_result(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.kills", *SHORT, "--folder", str(tmp_path / "kills")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "kills 5, identical 5"
    assert len(re.findall(r"(kill|term|saving|truncated) +step \d+ ", done.stdout)) == 5
