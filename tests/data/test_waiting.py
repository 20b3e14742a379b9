"""Pictures that wait: they come back whole, or it is said which file is broken."""

import io
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from othink_mr1.data.waiting import Arrivals, Departures, Place, waiting_room
from othink_mr1.errors import UserError

PICTURES = [b"first", b"", b"the second one", bytes(range(256)) * 40]


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    with waiting_room(tmp_path / "waiting") as folder:
        yield folder


@pytest.fixture
def places(room: Path) -> list[Place]:
    with closing(Arrivals(room)) as arrivals:
        return [arrivals.add(picture) for picture in PICTURES]


def test_pictures_come_back_in_any_order(room: Path, places: list[Place]) -> None:
    with closing(Departures(room)) as departures:
        assert [departures.get(place) for place in places[::-1]] == PICTURES[::-1]


def test_a_file_that_gives_less_at_once_than_asked_is_read_on(room: Path, places: list[Place]) -> None:
    class Slow(io.FileIO):
        """As the kernel may do it: on a network, after a signal, over 2 GB."""

        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(7, size)) if size else b""

    with closing(Departures(room)) as departures:
        departures._files[places[0].file] = Slow(room / places[0].file)  # type: ignore[assignment]
        assert [departures.get(place) for place in places] == PICTURES


def test_a_file_that_was_cut_off_is_named(room: Path, places: list[Place]) -> None:
    path = room / places[0].file
    path.write_bytes(path.read_bytes()[:12])
    with closing(Departures(room)) as departures:
        assert departures.get(places[0]) == b"first"
        with pytest.raises(UserError) as caught:
            departures.get(places[2])
    assert str(caught.value) == (
        f"{path}: of the picture at byte 5, 7 of 14 bytes are there; look at the disk, run it again"
    )


def test_a_file_that_is_gone_is_named(room: Path, places: list[Place]) -> None:
    path = room / places[0].file
    path.unlink()
    with (
        closing(Departures(room)) as departures,
        pytest.raises(UserError, match=f"{path}: cannot be read .No such file"),
    ):
        departures.get(places[0])
