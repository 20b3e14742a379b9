"""The ordered map over processes."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TypeVar

import pytest

from othink_mr1.data import parallel
from othink_mr1.data.parallel import Workers
from othink_mr1.machine import cores

R = TypeVar("R")
HERE = os.getpid()
ALONE = "the rest is done by one process alone"


def double(number: int) -> int:
    return 2 * number


def where(number: int) -> int:
    return os.getpid()


def die_elsewhere(number: int) -> int:
    if number == 40 and os.getpid() != HERE:
        os.kill(os.getpid(), signal.SIGKILL)
    return 2 * number


def die_once(mark: Path, number: int) -> tuple[int, int]:
    if number == 40 and not mark.exists() and os.getpid() != HERE:
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return number, os.getpid()


def write_slowly(folder: Path, number: int) -> None:
    (folder / f"{number}.begun").touch()
    time.sleep(0.1)
    (folder / f"{number}.ended").touch()


def stick_from_five_on(number: int) -> None:
    time.sleep(3600 if number > 5 else 0)


def fail_at_seven(number: int) -> int:
    if number == 7:
        raise ValueError("seven")
    return number


def results(function: Callable[[int], R], items: Iterable[int], workers: int) -> list[R]:
    with Workers(workers) as pool:
        return list(pool.map(function, items))


def test_results_come_in_order_from_other_processes() -> None:
    assert results(double, range(1000), 3) == [2 * n for n in range(1000)]
    assert HERE not in set(results(where, range(300), 2))


def test_the_same_processes_do_one_thing_after_the_other() -> None:
    with Workers(2) as pool:
        first, second = (set(pool.map(where, range(300))) for _ in range(2))
    assert len(first | second) <= 2


def test_one_worker_needs_no_process() -> None:
    assert set(results(where, range(300), 1)) == {HERE}


def test_fresh_processes_take_over_from_one_that_died(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = results(partial(die_once, tmp_path / "died"), range(300), 2)
    assert (tmp_path / "died").exists()
    assert [number for number, _ in found] == list(range(300))
    pids = {pid for _, pid in found}
    assert HERE not in pids
    assert 3 <= len(pids) <= 4
    [line] = capsys.readouterr().err.splitlines()
    assert line == "warning: a worker process died, perhaps for want of memory; fresh ones go on"


def test_where_fresh_processes_die_as_well_the_rest_is_done_here(capsys: pytest.CaptureFixture[str]) -> None:
    assert results(die_elsewhere, range(300), 2) == [2 * n for n in range(300)]
    first, second = capsys.readouterr().err.splitlines()
    assert first.endswith("; fresh ones go on")
    assert second.endswith("a worker process died, perhaps for want of memory; " + ALONE)


def test_two_things_at_once_go_on_in_the_same_fresh_processes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with Workers(2) as pool:
        both = list(
            zip(pool.map(partial(die_once, tmp_path / "died"), range(100)), pool.map(double, range(100)), strict=True)
        )
    assert [(one[0], other) for one, other in both] == [(n, 2 * n) for n in range(100)]
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_fresh_processes_come_only_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Workers(2) as pool:
        for name in ("a", "b"):
            found = list(pool.map(partial(die_once, tmp_path / name), range(100)))
            assert [number for number, _ in found] == list(range(100))
        assert set(pool.map(where, range(10))) == {HERE}
    assert len(capsys.readouterr().err.splitlines()) == 2


def leave_in_the_middle(function: Callable[[int], object]) -> None:
    with Workers(2) as pool:
        found = pool.map(function, range(1000))
        for _ in range(3):
            next(found)
        raise ValueError("enough")


def test_after_an_error_no_process_is_left_that_could_write(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="enough"):
        leave_in_the_middle(partial(write_slowly, tmp_path))
    assert not multiprocessing.active_children()
    begun, ended = (len(list(tmp_path.glob(f"*.{kind}"))) for kind in ("begun", "ended"))
    assert begun == ended < 100  # what was in work came to its end, the rest was not begun


def test_what_takes_long_is_ended_after_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "_PATIENCE", 0.1)
    with pytest.raises(ValueError, match="enough"):
        leave_in_the_middle(stick_from_five_on)
    assert not multiprocessing.active_children()


def leave_beside_a_dead_process() -> None:
    with Workers(2) as pool:
        next(pool.map(double, range(1000)))
        victim = multiprocessing.active_children()[0]
        assert victim.pid is not None
        os.kill(victim.pid, signal.SIGKILL)
        raise ValueError("enough")


def test_an_error_beside_a_dead_process_is_raised(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="enough"):
        leave_beside_a_dead_process()
    assert not multiprocessing.active_children()
    assert capsys.readouterr().err == ""


def test_processes_that_cannot_be_started_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(os, "fork", refuse)
    assert set(results(where, range(300), 2)) == {HERE}
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].endswith("Resource temporarily unavailable), perhaps for want of memory; " + ALONE)
    assert len(lines) == 2


def test_without_processes_the_work_is_done_here(monkeypatch: pytest.MonkeyPatch) -> None:
    def none_left(*_: object, **__: object) -> None:
        raise OSError("no semaphores")

    monkeypatch.setattr(parallel, "ProcessPoolExecutor", none_left)
    assert set(results(where, range(300), 4)) == {HERE}


def test_an_exception_reaches_the_caller() -> None:
    with pytest.raises(ValueError, match="seven"):
        results(fail_at_seven, range(300), 2)


def test_items_are_taken_only_as_they_are_needed() -> None:
    taken = 0

    def endless() -> Iterator[int]:
        nonlocal taken
        while True:
            taken += 1
            yield taken

    with Workers(2) as pool:
        found = pool.map(double, endless())
        assert [next(found) for _ in range(10)] == [2 * n for n in range(1, 11)]
    assert taken < 40


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    code = (
        "import time, sys, os\n"
        "from othink_mr1.data.parallel import Workers\n"
        "def slow(n):\n"
        "    open(sys.argv[1] + '/' + str(os.getpid()), 'w').close(); time.sleep(0.01)\n"
        "list(Workers(2).map(slow, range(100000)))\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    limit = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2 and time.monotonic() < limit:
        time.sleep(0.05)
    workers = [Path("/proc") / path.name for path in tmp_path.iterdir()]
    assert len(workers) == 2
    parent.kill()
    parent.wait()
    while any(worker.exists() for worker in workers) and time.monotonic() < limit:
        time.sleep(0.05)
    assert not any(worker.exists() for worker in workers)


def limits(folder: Path, group: str = "/", **files: str) -> int:
    """The cores of a process in a control group, and the files of that group and of those around it."""
    for name, text in files.items():
        path = folder / name.replace("__", "/").replace("cpu_max", "cpu.max").replace("cfs", "cpu.cfs")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "own").write_text(f"0::{group}\n")
    return cores(folder, folder / "own")


def test_a_containers_quota_limits_the_cores(tmp_path: Path) -> None:
    free = len(os.sched_getaffinity(0))
    assert cores(tmp_path / "absent", tmp_path / "absent") == free
    assert limits(tmp_path / "a", cpu_max="max 100000\n") == free
    assert limits(tmp_path / "b", cpu_max="100000 100000\n") == 1
    assert limits(tmp_path / "c", cpu_max="50000 100000\n") == 1
    assert limits(tmp_path / "d", cpu_max="9900000 100000\n") == free
    assert limits(tmp_path / "e", "/a/b", a__cpu_max="100000 100000\n", a__b__cpu_max="max 100000\n") == 1
    assert limits(tmp_path / "f", "/../elsewhere", cpu_max="max 100000\n") == free
    version_1 = {"cpu__cfs_quota_us": "100000\n", "cpu__cfs_period_us": "100000\n"}
    assert limits(tmp_path / "g", **version_1) == 1
    assert limits(tmp_path / "h", **version_1 | {"cpu__cfs_quota_us": "-1\n"}) == free
