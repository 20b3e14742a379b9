"""Which commit the project's folder is at."""

import subprocess
from pathlib import Path


def git_tags(root: Path) -> dict[str, str]:
    """Commit and whether files differ from it; dvc.lock, which every run writes, does not count. No git: no tags."""
    commit = _git(root, "rev-parse", "HEAD")
    if commit is None:
        return {}
    changed = _git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")
    return {"mlflow.source.git.commit": commit, "othink.git.dirty": str(bool(changed)).lower()}


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=30, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
