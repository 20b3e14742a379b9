"""Over a thousand corrupted rows, and files of every kind: no crash, and accepted + quarantined = read.

Both with and without processes, in which jobs and errors travel.
"""

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from makers import balance, digests, encoded, png, row, split_rows, use_processes, write_jsonl
from PIL import Image

from othink_mr1.data.prepare import Prepared, prepare
from othink_mr1.data.reading import read_split
from othink_mr1.errors import UserError

WORDS = "How many items are there in the image?"
QUICK = {"source": "synthetic", "rows": 1, "image_size": 48}


def run(folder: Path, split: str, source: str, path: Path) -> Prepared:
    chosen: dict[str, Any] = {"train": QUICK, "validation": QUICK, "test": QUICK, split: {"source": source}}
    out = folder / "out"
    out.mkdir()
    return prepare("counting", chosen, 0, {f"data.counting.{split}": path}, out)


def none_is_lost(prepared: Prepared, split: str) -> list[str]:
    """Where the rows of a split came from, accepted and put aside; no row twice."""
    balance(prepared)
    quarantine = pq.read_table(prepared.folder / "quarantine.parquet").to_pylist()
    aside = [one for one in quarantine if one["split"] == split]
    sources = sorted(one["source"] for one in (*split_rows(prepared.folder, split), *aside))
    assert len(sources) == len(set(sources)) == prepared.splits[split].read
    assert all(one["reason"] and one["detail"] is not None for one in aside)
    for one in read_split(prepared.folder, split):
        assert min(one["image"].size) >= 28
    return sources


def pictures() -> list[bytes]:
    """One of each kind that can be read."""
    big = Image.linear_gradient("L").resize((48, 40))
    kinds = [encoded(big.convert("RGB"), kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF")]
    return [*kinds, encoded(big), encoded(big.convert("RGBA")), encoded(big.convert("P"))]


PICTURES = pictures()


def spoiled(content: bytes, at: float, cut: int, put: bytes) -> bytes:
    """`cut` bytes replaced by others, somewhere."""
    start = int(at * len(content))
    return content[:start] + put + content[start + cut :]


spoil = st.fixed_dictionaries(
    {"at": st.floats(0, 1), "cut": st.sampled_from([0, 1, 2, 10, 100, 10**6]), "put": st.binary(max_size=8)}
)
values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("<|im_end|>")
fields = st.dictionaries(
    st.sampled_from(["question", "ground_truth", "solution", "thinking", "image_path"]), values, min_size=1
)
spoiled_pictures = st.builds(lambda picture, how: (picture, spoiled(picture, **how)), st.sampled_from(PICTURES), spoil)
# Each differs from a good row: a key that is null is one that is not there, and a picture has lost or got some bytes.
changes = st.one_of(
    fields.filter(lambda change: any(value != row(0).get(key) for key, value in change.items())),
    spoiled_pictures.filter(lambda pair: pair[0] != pair[1]).map(lambda pair: {"image_path": pair[1]}),
    st.text(max_size=30).map(lambda text: text.replace("\n", " ") + "x"),
)
splits = st.sampled_from(["train", "test"])


def prepare_changed(folder: Path, changed: list[Any], split: str) -> Path:
    """Two good rows, so that there is a dataset, then the changed ones; returns the folder of what was prepared."""
    rows = [row(60, ground_truth=1), row(61)]
    rows += [change if isinstance(change, str) else row(n % 7, **change) for n, change in enumerate(changed)]
    prepared = run(folder, split, "jsonl", write_jsonl(folder, rows))
    assert none_is_lost(prepared, split) == sorted(f"rows.jsonl:{number}" for number in range(1, len(rows) + 1))
    return prepared.folder


def test_whatever_the_rows_none_is_lost() -> None:
    rows = 0

    @settings(max_examples=130, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(changes, min_size=8, max_size=12), splits)
    @example(["0\rx", "\rx"], "train")  # a lone carriage return ends no line
    def check(changed: list[Any], split: str) -> None:
        nonlocal rows
        rows += len(changed)
        with tempfile.TemporaryDirectory() as place:
            prepare_changed(Path(place), changed, split)

    check()
    assert rows > 1000


def test_whatever_the_rows_processes_make_the_same_of_them() -> None:
    @settings(max_examples=10, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(changes, min_size=40, max_size=60), splits)  # 16 rows are a job
    def check(changed: list[Any], split: str) -> None:
        with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there:
            expected = digests(prepare_changed(Path(here), changed, split))
            with pytest.MonkeyPatch.context() as patch:
                use_processes(patch)
                assert digests(prepare_changed(Path(there), changed, split)) == expected

    check()


def jsonl_file(folder: Path) -> tuple[str, Path, Path]:
    path = write_jsonl(folder, [row(number) for number in range(12)])
    return "jsonl", path, path


def csv_folder(folder: Path) -> tuple[str, Path, Path]:
    return _image_folder(folder, "metadata.csv", "file_name,problem,answer", lambda name, n: f'{name},"{WORDS}",{n}')


def jsonl_folder(folder: Path) -> tuple[str, Path, Path]:
    line = lambda name, n: json.dumps({"file_name": name, "problem": WORDS, "answer": n})  # noqa: E731
    return _image_folder(folder, "metadata.jsonl", "", line)


def _image_folder(folder: Path, name: str, head: str, line: Callable[[str, int], str]) -> tuple[str, Path, Path]:
    for number in range(12):
        (folder / f"{number}.png").write_bytes(png(number))
    lines = [head, *(line(f"{number}.png", number) for number in range(12))]
    (folder / name).write_text("\n".join(lines))
    return "imagefolder", folder, folder / name


def parquet_file(folder: Path) -> tuple[str, Path, Path]:
    path = folder / "rows.parquet"
    columns = {"image": [png(n) for n in range(12)], "problem": [WORDS] * 12, "answer": list(range(12))}
    pq.write_table(pa.table(columns), path, row_group_size=5)
    return "parquet", path, path


def picture_folder(folder: Path) -> tuple[str, Path, Path]:
    source, path, _ = csv_folder(folder)
    return source, path, folder / "7.png"


FILES = {
    "jsonl": jsonl_file,
    "csv": csv_folder,
    "metadata.jsonl": jsonl_folder,
    "parquet": parquet_file,
    "picture": picture_folder,
}


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(FILES)), spoil)
@example("csv", {"at": 0.0, "cut": 0, "put": b"\x0b"})
def test_whatever_the_file_it_is_read_or_refused_in_one_line(kind: str, how: dict[str, Any]) -> None:
    read_or_refused(kind, how)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.sampled_from(sorted(FILES)), spoil)
def test_whatever_the_file_it_is_read_or_refused_by_processes_too(kind: str, how: dict[str, Any]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        use_processes(patch)
        read_or_refused(kind, how)


def read_or_refused(kind: str, how: dict[str, Any]) -> None:
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "in").mkdir()
        source, path, file = FILES[kind](Path(place) / "in")
        file.write_bytes(spoiled(file.read_bytes(), **how))
        try:
            prepared = run(Path(place), "train", source, path)
        except UserError as error:
            told = str(error)
            assert len(told.splitlines()) == 1
            return
        sources = none_is_lost(prepared, "train")
        if kind == "jsonl":
            lines = file.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
            numbers = [number for number, line in enumerate(lines, 1) if line.decode().strip()]
            assert sources == sorted(f"rows.jsonl:{number}" for number in numbers)
        elif kind == "parquet":
            assert len(sources) == pq.read_metadata(file).num_rows
