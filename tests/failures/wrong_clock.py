"""A clock that jumps while the processes of a sweep run: time.time and what Python's own modules make of it.

Every Python process that finds the folder of `install` on its PYTHONPATH, Ray's own included, goes by the seconds in
its file `ahead`. Not by the machine's clock itself, which other programs need, nor by a library under all programs:
those that wait until a time of day, as Ray's C++ does, would tell the kernel times that it does not know.
"""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

from tests.failures import plugin


def install(folder: Path) -> dict[str, str]:
    """The environment of a sweep whose clock `jump` sets."""
    folder.mkdir(parents=True)
    jump(folder, 0)
    (folder / "sitecustomize.py").write_text("from tests.failures import wrong_clock\n\nwrong_clock.watch()\n")
    return {"PYTHONPATH": plugin.path(folder)}


def jump(folder: Path, ahead: int) -> None:
    """From now on the clock is so many seconds ahead of the machine's."""
    (folder / "ahead.new").write_text(str(ahead))
    (folder / "ahead.new").replace(folder / "ahead")


def watch() -> None:
    """Called by Python itself, before anything else is imported."""
    ahead = plugin.own_folder() / "ahead"
    seconds, nanoseconds = time.time, time.time_ns

    def moved() -> int:
        with suppress(OSError):  # a process of Ray's may outlive its test
            return int(ahead.read_text())
        return 0

    time.time = lambda: seconds() + moved()
    time.time_ns = lambda: nanoseconds() + moved() * 10**9
