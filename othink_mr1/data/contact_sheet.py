"""Pictures of a dataset on one sheet, each with its answer, to look at what was prepared."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont, ImageOps

from othink_mr1.data.reading import decode

_SIDE, _CAPTION, _GAP = 176, 46, 12
_LETTERS = 29  # to a line under a picture
# Row groups that are read at most: each is 32 pictures.
_GROUPS = 16


def pick(paths: Sequence[Path], number: int) -> list[dict[str, Any]]:
    """Rows from all over a split's parquet files, `number` at most: dicts of image, problem and answer."""
    there = [(path, group) for path in paths for group in range(pq.read_metadata(path).num_row_groups)]
    groups = [there[place] for place in _spread(len(there), min(_GROUPS, len(there)))]
    rows: list[dict[str, Any]] = []
    for place, (path, group) in enumerate(groups):
        with pq.ParquetFile(path) as file:
            table = file.read_row_group(group, columns=["image", "problem", "answer"])
        wanted = (number - len(rows)) // (len(groups) - place)
        rows += table.take(_spread(table.num_rows, min(wanted, table.num_rows))).to_pylist()
    return rows


def contact_sheet(rows: Sequence[dict[str, Any]], columns: int = 6) -> Image.Image:
    """The rows' pictures side by side, an answer and the beginning of the question under each."""
    lines = -(-len(rows) // columns)
    width, height = _SIDE + _GAP, _SIDE + _CAPTION + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, lines * height + _GAP), "white")
    draw, large, small = ImageDraw.Draw(sheet), ImageFont.load_default(14), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        left, top = _GAP + number % columns * width, _GAP + number // columns * height
        picture = ImageOps.contain(decode(row["image"]["bytes"]), (_SIDE, _SIDE))
        sheet.paste(picture, (left + (_SIDE - picture.width) // 2, top + _SIDE - picture.height))
        question = textwrap.shorten(row["problem"], 2 * _LETTERS, placeholder=" …")
        draw.text((left, top + _SIDE + 2), textwrap.shorten(row["answer"], 20, placeholder=" …"), "black", large)
        draw.multiline_text((left, top + _SIDE + 19), textwrap.fill(question, _LETTERS), "#555555", small, spacing=1)
    return sheet


def _spread(total: int, wanted: int) -> list[int]:
    return np.linspace(0, total - 1, wanted).round().astype(int).tolist() if wanted else []
