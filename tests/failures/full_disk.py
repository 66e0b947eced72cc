"""Fills a file system at one chosen write of a sweep, in whichever of its processes that comes.

Every Python process that finds the folder of `install` on its PYTHONPATH notes what it is about to write there.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.failures import plugin

WRITING = os.O_WRONLY | os.O_RDWR
# What is as good as the same file: other units, configurations, processes.
NUMBERED = re.compile(r"[0-9a-f]{6,}|\d+")


def install(folder: Path, disk: Path, chosen: str) -> dict[str, str]:
    """The environment in which a sweep notes its writes below `disk`, and finds it full from `chosen` on."""
    plugin.install(folder, "full_disk")
    (folder / "sitecustomize.py").write_text("from tests.failures import full_disk\n\nfull_disk.watch()\n")
    return {"PYTHONPATH": plugin.path(folder), "FULL_DISK": str(disk.resolve()), "FULL_DISK_AT": chosen}


def kinds(folder: Path) -> list[str]:
    """The different files that a sweep wrote, in their order, but the last: its renaming needs no room any more."""
    return [*dict.fromkeys((folder / "writes").read_text().splitlines())][:-1]


def watch() -> None:
    """Called by Python itself, before anything else is imported."""
    sys.addaudithook(_heard)
    from pyarrow import parquet  # opens files in C++, which Python is not told of

    parquet.ParquetWriter.__init__ = _noting(parquet.ParquetWriter.__init__)


def callbacks() -> list[Any]:
    """Called by Lightning in every worker; torch, too, opens files in C++."""
    import torch

    torch.save = _noting(torch.save)
    return []


def _noting(write: Callable[..., Any]) -> Callable[..., Any]:
    def noted(*arguments: Any, **options: Any) -> Any:
        if isinstance(arguments[1], str | os.PathLike):
            _writes(arguments[1])
        return write(*arguments, **options)

    return noted


def _heard(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and isinstance(arguments[0], str | bytes) and (arguments[2] or 0) & WRITING:
        _writes(arguments[0])
    elif event == "os.rename":
        _writes(arguments[1])


def _writes(path: str | bytes | os.PathLike[str]) -> None:
    disk = Path(os.environ["FULL_DISK"])
    written, filler = Path(os.fsdecode(path)).absolute(), disk / "filler"
    if written == filler or not written.is_relative_to(disk):
        return
    kind = NUMBERED.sub("0", re.sub(r"lock.*", "lock", str(written.relative_to(disk))))
    with (plugin.own_folder() / "writes").open("a") as writes:
        writes.write(f"{kind}\n")
    if kind == os.environ["FULL_DISK_AT"] or filler.exists():
        fill(filler)


def fill(filler: Path) -> None:
    """What a removed file leaves is taken, too, at every further write."""
    with filler.open("ab", buffering=0) as room:
        for size in (2**20, 2**12, 1):
            with suppress(OSError):
                while True:
                    room.write(bytes(size))
