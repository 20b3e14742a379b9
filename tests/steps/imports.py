"""The files of this project that a module is made of, found by reading import statements, not by importing."""

import ast
from pathlib import Path

REPO = Path(__file__).parent.parent.parent
PACKAGES = ("steps", "othink_mr1")


def closure(module: str, without: tuple[str, ...] = ()) -> set[str]:
    """The project's files that `module` needs, itself included, as paths from the repository's root.

    Imports inside functions count, and so do modules and scripts that are only named in a text (a worker's).
    A package's `__init__.py` counts unless it holds nothing but a docstring. Modules in `without`, and what only they
    need, do not count.
    """
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = file_of(name)
        if path is None or name in without or path in found:
            continue
        found.add(path)
        waiting += named_in(path)
    return {path for path in found if not is_empty_package(path)}


def file_of(module: str) -> str | None:
    """The file of a module of this project; None for anybody else's."""
    if module.partition(".")[0] not in PACKAGES:
        return None
    path = module.replace(".", "/")
    return next((name for name in (f"{path}.py", f"{path}/__init__.py") if (REPO / name).is_file()), None)


def named_in(path: str) -> list[str]:
    """The modules that a file imports or names, with the packages around them."""
    names: list[str] = []
    for node in ast.walk(ast.parse((REPO / path).read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            names += [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            names.append(node.value.partition(":")[0])
            if node.value.endswith(".py"):  # a script beside this file
                names.append(str(Path(path).with_name(node.value).with_suffix("")).replace("/", "."))
    packages = [name.rpartition(".")[0] for name in names]
    return [name for name in (*names, *packages) if file_of(name) is not None]


def is_empty_package(path: str) -> bool:
    """Whether a file is an `__init__.py` with a docstring at most."""
    body = ast.parse((REPO / path).read_text()).body
    return path.endswith("__init__.py") and all(isinstance(node, ast.Expr) for node in body)
