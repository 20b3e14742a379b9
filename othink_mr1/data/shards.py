"""A split as a folder of parquet files: what they are called, and which rows lie in which.

A row's file depends on its sample_id alone, so on its content, and the number of files is a power of two: a row more or
less changes one file, and DVC keeps the others as they are, unless the number of rows passes such a power.
"""

from pathlib import Path

from othink_mr1.errors import UserError

_ROWS = 2048  # in a file at most, on average
_NAME = "{number:05d}-of-{files:05d}.parquet"


def shard_ids(rows: int) -> list[tuple[str, str]]:
    """The files of a split of so many rows: the first sample_id of each, and the first that is beyond it."""
    files = 1 << ((rows - 1) // _ROWS).bit_length()
    first = [f"{number * 16**8 // files:08x}" for number in range(files)]
    return list(zip(first, [*first[1:], "g"], strict=True))  # no hex digit comes after "f"


def shard_name(number: int, files: int) -> str:
    """The name of a file, as the hub's datasets have them."""
    return _NAME.format(number=number, files=files)


def shard_files(folder: Path) -> list[Path]:
    """The files of a split, in the order of its rows.

    Raises:
        UserError: there are none, or not all of them.
    """
    found = sorted(folder.glob("*.parquet"))
    wanted = [shard_name(number, len(found)) for number in range(len(found))]
    if not found:
        raise UserError(f"{folder}: holds no parquet files; `python -m steps.prepare_data` writes them")
    if [path.name for path in found] != wanted:
        raise UserError(f"{folder}: holds {len(found)} parquet files, not all of those that were written")
    return found
