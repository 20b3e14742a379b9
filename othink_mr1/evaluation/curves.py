"""Training curves as training wrote them: training/<model>/curves.csv, `step` and a column a metric."""

import csv
from pathlib import Path

from othink_mr1.errors import UserError

# metric -> (steps, values)
Curves = dict[str, tuple[list[int], list[float]]]


def read_curves(path: Path) -> Curves:
    """The curves of one run; a metric that is logged on some steps only has only those.

    Raises:
        UserError: the file is broken.
    """
    curves: Curves = {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                step = int(float(row.pop("step")))
                for name, text in row.items():
                    if name and text:
                        steps, values = curves.setdefault(name, ([], []))
                        steps.append(step)
                        values.append(float(text))
    except (KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path}: not a file of curves ({type(error).__name__}: {error})") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    return curves


def read_all(folder: Path) -> dict[str, Curves]:
    """model -> curves, for every model under `folder` that has some, in alphabetical order."""
    return {path.parent.name: read_curves(path) for path in sorted(folder.glob("*/curves.csv"))}
