"""Files that are written whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from othink_mr1.stages import replace_folder, write_whole


def test_threads_that_write_the_same_file_do_not_meet(tmp_path: Path) -> None:
    target = tmp_path / "status.json"
    texts = [str(number) * 200_000 for number in range(8)]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda text: write_whole(target, text), texts * 20))
    assert target.read_text() in texts
    assert list(tmp_path.iterdir()) == [target]


def test_text_is_utf8_and_bytes_stay_bytes(tmp_path: Path) -> None:
    write_whole(tmp_path / "text", "β\n")
    write_whole(tmp_path / "bytes", b"\x89PNG\r\n")
    assert (tmp_path / "text").read_bytes() == b"\xce\xb2\n"
    assert (tmp_path / "bytes").read_bytes() == b"\x89PNG\r\n"


def test_a_folder_takes_the_place_of_another_one_whole(tmp_path: Path) -> None:
    made, target = tmp_path / "made", tmp_path / "models" / "base"
    for text in ("first", "second"):
        made.mkdir()
        (made / text).write_text(text)
        replace_folder(made, target)
        assert [file.name for file in target.iterdir()] == [text]
        assert not made.exists()
    assert [path.name for path in target.parent.iterdir()] == ["base"]
