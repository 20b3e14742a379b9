"""How a dataset's answers and picture sizes are spread, and how far that is from what was accepted before.

The step that prepares a task writes `data/<task>/profile.json`. The accepted profiles stand in
`data_profiles/<task>.json`, under split and source, and are committed; `othink data accept` renews them. The source
goes by its name and not by its content: other rows under the same name are what the comparison is for, and another
source has a profile of its own or none.
"""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from othink_mr1.data.schema import SPLITS
from othink_mr1.errors import UserError
from othink_mr1.stages import write_whole

if TYPE_CHECKING:
    import pandas as pd

FILE = "profile.json"
VERSION = 1
# Values that a profile names one by one, the commonest first; what is left over counts as one value.
MOST_VALUES = 60
# Two samples of one source seem further apart than `Drift.chance` once in so many comparisons.
FALSE_ALARMS = 1000
_DRAWS = 10_000


@dataclass(frozen=True)
class Profile:
    """One split: rows, and how many of them have each answer and each kind of picture size."""

    source: str
    rows: int
    answers: Mapping[str, int] = field(default_factory=dict)
    picture_sizes: Mapping[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As it is written: the commonest values alone."""
        return {"rows": self.rows, "answers": _commonest(self.answers), "picture_sizes": _commonest(self.picture_sizes)}


@dataclass(frozen=True)
class Drift:
    """Total variation distance: the share of rows that would need another value for the two to be alike.

    `chance` is what two samples of these sizes out of one source stay below, but for one in `FALSE_ALARMS`.
    """

    distance: float
    chance: float
    example: str  # the value whose share changed most, in words


def accepted_path(task: str, root: Path = Path()) -> Path:
    """Where the accepted profiles of a task lie."""
    return root / "data_profiles" / f"{task}.json"


def source_name(settings: Mapping[str, Any], split: str, paths: Mapping[str, Path]) -> str:
    """What the source of a split is called, whatever it holds: no digest, no revision, no number of rows.

    Args:
        settings: of the task, resolved.
        split: train, validation or test.
        paths: split to the path of its source, where it has one on this machine.
    """
    own = settings[split]
    if "fraction" in own:
        return f"drawn from {source_name(settings, 'train', paths)}"
    name = paths[split].name if split in paths else own.get("name")
    size = f"{own['image_size']} px" if "image_size" in own else None
    return " ".join(str(part) for part in (own["source"], name, own.get("split"), size) if part is not None)


def measure(frame: "pd.DataFrame", source: str) -> Profile:
    """The profile of a split, of its columns answer, width and height."""
    sides = zip(_octaves(frame["width"]), _octaves(frame["height"]), strict=True)
    sizes = Counter(f"{_range(width)} x {_range(height)}" for width, height in sides)
    return Profile(source, len(frame), Counter(frame["answer"].astype(str)), sizes)


def drift(accepted: Mapping[str, int], accepted_rows: int, present: Mapping[str, int], rows: int) -> Drift:
    """How far the present values are from the accepted ones."""
    values = list(accepted)
    before = np.array([*accepted.values(), accepted_rows - sum(accepted.values())])
    now = np.array([present.get(value, 0) for value in values])
    now = np.append(now, rows - now.sum())
    change = now / rows - before / accepted_rows
    most = int(np.abs(change).argmax())
    name = repr(values[most]) if most < len(values) else "values not among the accepted ones"
    example = f"{name}: {now[most] / rows:.1%} of the rows, accepted were {before[most] / accepted_rows:.1%}"
    return Drift(float(np.abs(change).sum() / 2), _chance(before, now), example)


def _chance(before: np.ndarray, now: np.ndarray) -> float:
    """The distance that two samples of these sizes, drawn out of both taken together, rarely exceed."""
    together = (before + now) / (before.sum() + now.sum())
    draw = np.random.default_rng(0).multinomial
    one, other = (draw(sample.sum(), together, _DRAWS) / sample.sum() for sample in (before, now))
    return float(np.quantile(np.abs(one - other).sum(axis=1) / 2, 1 - 1 / FALSE_ALARMS))


def write(path: Path, profiles: Mapping[str, Profile]) -> None:
    """Write the profiles of a dataset's splits: no times, the same bytes for the same rows."""
    splits = {split: {"source": profiles[split].source, **profiles[split].as_dict()} for split in profiles}
    write_whole(path, _text({"version": VERSION, "splits": splits}))


def read(path: Path) -> dict[str, Profile]:
    """The profiles that `write` wrote.

    Raises:
        UserError: there is no such file, or it is no profile of this version.
    """
    splits = _read(path, "`othink run` writes it")
    return {split: _profile(path, told.get("source"), told) for split, told in splits.items()}


def read_accepted(path: Path) -> dict[tuple[str, str], Profile]:
    """The accepted profiles, by split and source; none where there is no such file.

    Raises:
        UserError: it cannot be read, or holds no profiles of this version.
    """
    if not path.exists():
        return {}
    splits = _read(path, f"restore it (`git checkout {path}`), or `othink data accept` writes it anew")
    return {
        (split, source): _profile(path, source, told)
        for split, of_split in splits.items()
        for source, told in of_split.items()
    }


def accept(path: Path, profiles: Mapping[str, Profile]) -> tuple[bool, dict[str, Profile]]:
    """Put profiles in the place of the accepted ones of the same split and source.

    An accepted one of more rows stays where chance alone explains the difference: a quick run of the same source must
    not leave a coarser reference behind.

    Returns:
        Whether that changed the file; and by split the accepted profiles that stay for that reason.

    Raises:
        UserError: the file that is there is broken.
    """
    accepted = read_accepted(path)
    before = {split: accepted.get((split, profile.source)) for split, profile in profiles.items()}
    stays = {split: one for split, one in before.items() if one is not None and _says_more(one, profiles[split])}
    accepted |= {(split, profile.source): profile for split, profile in profiles.items() if split not in stays}
    splits = {
        split: {source: accepted[split, source].as_dict() for of, source in sorted(accepted) if of == split}
        for split in SPLITS
    }
    text = _text({"version": VERSION, "splits": splits})
    changed = not path.exists() or path.read_text(encoding="utf-8") != text
    if changed:
        write_whole(path, text)
    return changed, stays


def _says_more(accepted: Profile, present: Profile) -> bool:
    drifts = (
        drift(accepted.answers, accepted.rows, present.answers, present.rows),
        drift(accepted.picture_sizes, accepted.rows, present.picture_sizes, present.rows),
    )
    return accepted.rows > present.rows and all(one.distance <= one.chance for one in drifts)


def _commonest(counts: Mapping[str, int]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_VALUES])


def _octaves(sides: "pd.Series") -> list[int]:
    return np.log2(sides.to_numpy(dtype=float)).astype(int).tolist()


def _range(octave: int) -> str:
    """A side's kind: a side that doubles is always of another one."""
    return f"{2**octave}-{2 ** (octave + 1) - 1}"


def _text(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def _read(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file; {remedy}") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a profile ({str(error).splitlines()[0]}); {remedy}") from None
    version = content.get("version") if isinstance(content, dict) else None
    if version != VERSION:
        raise UserError(f"{path}: version {version!r} of a profile, not {VERSION}; {remedy}")
    splits = content.get("splits")
    if not isinstance(splits, dict) or not all(isinstance(of_split, dict) for of_split in splits.values()):
        raise UserError(f"{path}: `splits` should hold a mapping for each split; {remedy}")
    return splits


def _profile(path: Path, source: Any, told: Any) -> Profile:
    try:
        rows, answers, sizes = int(told["rows"]), dict(told["answers"]), dict(told["picture_sizes"])
        counts = [*answers.values(), *sizes.values()]
        good = rows > 0 and all(isinstance(n, int) and n > 0 for n in counts) and isinstance(source, str)
        good = good and max(sum(answers.values()), sum(sizes.values())) <= rows
    except (KeyError, TypeError, ValueError):
        good = False
    if not good:
        raise UserError(f"{path}: the profile of {source!r} should hold rows, answers and picture_sizes, with counts")
    return Profile(source, rows, answers, sizes)
