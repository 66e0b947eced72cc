"""Work is done in order by as many processes as asked for, and dropped on an error."""

import os
import threading
from pathlib import Path

import pytest

from datasets.workers import workers


def identity(number: int) -> tuple[int, int]:
    return number, os.getpid()


def touch(path: Path) -> None:
    path.touch()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    with workers(processes) as executor:
        results = list(executor.map(identity, range(20)))
    assert [number for number, _ in results] == list(range(20))
    own = {process for _, process in results} == {os.getpid()}
    assert own == (processes == 1)


def test_an_error_drops_the_work_that_has_not_begun(tmp_path: Path) -> None:
    begun, gate = threading.Event(), threading.Event()

    def block() -> None:
        begun.set()
        gate.wait(10)

    def fail() -> None:
        with workers(1) as executor:
            executor.submit(block)
            executor.submit(touch, tmp_path / "late")
            begun.wait(10)
            threading.Timer(0.1, gate.set).start()
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert not (tmp_path / "late").exists()
