"""Work is done in order by as many processes as asked for, and dropped on an error."""

import os
from functools import partial
from pathlib import Path

import pytest

from datasets.workers import spread, workers


def identity(number: int) -> tuple[int, int]:
    return number, os.getpid()


@pytest.mark.parametrize("processes", [1, 2])
def test_results_come_in_order(processes: int) -> None:
    heard: list[tuple[int, int]] = []
    with workers(processes) as executor:
        results = spread(executor, identity, range(20), lambda *done: heard.append(done), at_once=3)
    assert [number for number, _ in results] == list(range(20))
    assert (results[-1][1], {process for _, process in results} == {os.getpid()}) == (os.getpid(), processes == 1)
    assert heard == sorted(heard)
    assert heard[-1] == (20, 20)


def fail_in(process: int, folder: Path, number: int) -> None:
    """Its first calls here fail at once."""
    if os.getpid() == process:
        raise OSError("disk full")
    (folder / str(number)).touch()


def test_an_error_drops_the_work_that_has_not_begun(tmp_path: Path) -> None:
    def fail() -> None:
        with workers(2) as executor:
            spread(executor, partial(fail_in, os.getpid(), tmp_path), range(100))

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert len(list(tmp_path.iterdir())) < 50
