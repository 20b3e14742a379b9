"""Who may import whom: the contracts of pyproject.toml hold, and each of them can fail."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CORE = ("answers", "errors", "grpo", "models", "prompts", "rewards", "sft", "training")
FORBIDDEN_IN_CORE = ("prefect", "mlflow", "dvc", "great_expectations", "pandas", "datasets", "pydantic", "pyarrow")


def lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache", "--no-logo"]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(folder)}
    )


def test_the_contracts_hold() -> None:
    result = lint_imports(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def skeleton(tmp_path: Path) -> Path:
    """The rooms with nothing in them, under the project's own contracts."""
    for package in ("othink_mr1", "flows", "steps", "benchmarks"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").touch()
    for module in CORE:
        (tmp_path / "othink_mr1" / f"{module}.py").touch()
    (tmp_path / "flows" / "pipeline.py").touch()
    (tmp_path / "steps" / "train.py").touch()
    (tmp_path / "pyproject.toml").write_text((ROOT / "pyproject.toml").read_text())
    return tmp_path


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("othink_mr1/rewards.py", "from flows import pipeline", "The library knows nothing of steps and flows"),
        ("othink_mr1/rewards.py", "from steps import train", "The library knows nothing of steps and flows"),
        ("steps/train.py", "from flows import pipeline", "Steps know nothing of flows"),
        ("steps/train.py", "import mlflow", "Steps write files"),
        ("flows/pipeline.py", "import torch", "Flows never import torch themselves"),
        ("othink_mr1/models.py", "import pandas", "The training core installs and runs alone"),
    ],
)
def test_each_contract_can_fail(skeleton: Path, file: str, line: str, contract: str) -> None:
    assert lint_imports(skeleton).returncode == 0
    (skeleton / file).write_text(line + "\n")
    result = lint_imports(skeleton)
    assert result.returncode == 1
    assert any(contract in text and "BROKEN" in text for text in result.stdout.splitlines()), result.stdout


IMPORT_ALL = """
import importlib, importlib.abc, importlib.machinery, pkgutil, sys

class WithoutSome(importlib.abc.MetaPathFinder):
    # Finds what is installed, except that some packages look as if they were not.

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {refused}:
            return None
        return importlib.machinery.PathFinder.find_spec(name, path, target)

    def find_distributions(self, context):
        if context.name in {refused}:
            return []
        return importlib.machinery.PathFinder.find_distributions(context)

sys.meta_path[sys.meta_path.index(importlib.machinery.PathFinder)] = WithoutSome()
names = []
for top in {core}:
    module = importlib.import_module("othink_mr1." + top)
    names.append(module.__name__)
    for info in pkgutil.walk_packages(getattr(module, "__path__", []), module.__name__ + "."):
        importlib.import_module(info.name)
        names.append(info.name)
try:
    import mlflow
except ModuleNotFoundError:
    names.append("mlflow is refused")
print("\\n".join(names))
"""


def test_the_training_core_imports_where_nothing_else_is_installed() -> None:
    program = IMPORT_ALL.format(refused=set(FORBIDDEN_IN_CORE), core=CORE)
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert "mlflow is refused" in result.stdout
    assert {"othink_mr1.rewards", "othink_mr1.grpo", "othink_mr1.sft"} <= set(result.stdout.split())


def test_every_pattern_of_package_data_matches_a_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    assert patterns
    for package, globs in patterns.items():
        assert not [glob for glob in globs if not list((ROOT / package).glob(glob))]
