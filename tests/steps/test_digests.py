"""The content of a source as one digest: what counts, what does not, and what is not read twice."""

import json
import os
from pathlib import Path

import pytest

from othink_mr1 import digests
from othink_mr1.digests import jsonl_digest, remembered


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.png").write_bytes(b"one")
    return tmp_path


def rows(folder: Path, *found: dict) -> Path:
    file = folder / "data" / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in found))
    return file


def old(file: Path) -> None:
    """As if it had been written a minute ago."""
    moment = os.stat(file).st_mtime_ns - 60 * 10**9
    os.utime(file, ns=(moment, moment))


@pytest.mark.parametrize(
    "row", [{"image": "a.png"}, {"image_path": "a.png"}, {"image": "a.png", "image_path": "b.png"}]
)
def test_a_changed_picture_changes_the_digest(folder: Path, row: dict) -> None:
    before = jsonl_digest(rows(folder, row))
    (folder / "data" / "a.png").write_bytes(b"two")
    assert jsonl_digest(rows(folder, row)) != before


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["/dev/zero", "../outside.png", "link.png", "pipe"])
def test_what_is_no_file_in_the_folder_is_not_read(folder: Path, name: str) -> None:
    (folder / "outside.png").write_bytes(b"one")
    (folder / "data" / "link.png").symlink_to(folder / "outside.png")
    os.mkfifo(folder / "data" / "pipe")
    before = jsonl_digest(rows(folder, {"image_path": name}))
    (folder / "outside.png").write_bytes(b"two")
    assert jsonl_digest(rows(folder, {"image_path": name})) == before


def test_a_picture_is_read_once_until_it_changes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture, memo, read = folder / "data" / "a.png", folder / "digests.json", []
    really = digests.file_digest
    monkeypatch.setattr(digests, "file_digest", lambda path: read.append(path.name) or really(path))
    old(picture)
    file = rows(folder, {"image_path": "a.png"})

    def digest() -> str:
        with remembered(memo):
            return jsonl_digest(file)

    assert digest() == digest() == jsonl_digest(file)
    assert read == ["a.png", "a.png"]  # once for the memory, once without it
    picture.write_bytes(b"two")
    assert digest() == digest() == jsonl_digest(file)
    assert read == ["a.png"] * 5  # what has just changed is read each time
    memo.write_text("{broken")
    assert digest() == jsonl_digest(file)
