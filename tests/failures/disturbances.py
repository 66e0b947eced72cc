"""What goes wrong: each disturbs a running or resting sweep; the suite then starts it again and looks at the result."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

from tests.failures.sweeps import Place, check_saved, descendants, ended, training, until

Disturbance = Callable[[Place, random.Random], None]
DISTURBANCES: dict[str, Disturbance] = {}
"""Filled by the modules that hold them, as they are imported."""


def disturbance(function: Disturbance) -> Disturbance:
    DISTURBANCES[function.__name__] = function
    return function


@contextmanager
def in_training(place: Place, generator: random.Random) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep that has done some units and a part of an epoch."""
    done = generator.randrange(3)
    with ended(place.start()) as driver:
        until(lambda: training() and len(place.units()) >= done, driver)
        time.sleep(generator.random())
        place.before = place.units()
        yield driver
    check_saved(place)


def kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def half_done(place: Place) -> None:
    """A sweep that was interrupted in mid-epoch, with some units finished."""
    with ended(place.start()) as driver:
        until(lambda: len(place.units()) >= 2 and any(place.run.glob("ledger/*/*/*.partial-*/last.ckpt")), driver)
        family = descendants(driver)
        kill([psutil.Process(driver.pid), *family])  # the orphans, too: they would go on for two seconds
        driver.wait()
    check_saved(place)
