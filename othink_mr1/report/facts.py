"""How a run was made: settings, versions, commit. What is not known stays empty."""

import platform
import subprocess
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml

PACKAGES = (
    "torch", "transformers", "accelerate", "peft", "numpy", "Pillow", "dvc", "prefect", "mlflow", "great-expectations",
    "math-verify", "scipy",
)  # fmt: skip


@dataclass(frozen=True)
class Facts:
    """Attributes are empty where the project does not say."""

    profile: str = "demo"
    overrides: list[str] = field(default_factory=list)
    parameters: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    commit: str = ""
    dirty: bool = False

    @property
    def command(self) -> str:
        """The command that makes the same run again."""
        profile = "" if self.profile == "demo" else f" --profile {self.profile}"
        return f"othink run{profile}" + "".join(f" --set {item}" for item in self.overrides)

    def sections(self) -> dict[str, list[tuple[str, str]]]:
        """Section of the parameters -> its (dotted key, value) pairs; paths of this machine left out."""
        general = {key: value for key, value in self.parameters.items() if not isinstance(value, dict)}
        rest = {key: value for key, value in self.parameters.items() if isinstance(value, dict) and key != "local"}
        return {name: list(_flat(values)) for name, values in ({"general": general} | rest).items() if values}


def gather(root: Path) -> Facts:
    """The facts of the project at `root`."""
    selection = _yaml(root / ".othink" / "selection.yaml")
    return Facts(
        profile=str(selection.get("profile") or "demo"),
        overrides=[str(item) for item in selection.get("set") or []],
        parameters=_yaml(root / ".othink" / "params.yaml"),
        versions=versions(),
        commit=_git(root, "rev-parse", "HEAD"),
        # dvc.lock is the user's to commit, and every run writes it
        dirty=bool(_git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)dvc.lock")),
    )


def versions() -> dict[str, str]:
    """Python's version and those of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    pairs: list[tuple[str, str]] = []
    for key, value in values.items():
        if isinstance(value, dict):
            pairs += _flat(value, f"{prefix}{key}.")
        else:
            pairs.append(
                (f"{prefix}{key}", "–" if value is None else f"{value:g}" if isinstance(value, float) else str(value))
            )
    return pairs
