"""Finished folds on shared storage: append-only, the only truth about what is done.

One folder per (configuration digest, split digest, fold). A unit works in `fold-N.partial`, which survives a crash so
that the next try resumes from its checkpoint; finishing renames it to `fold-N` and writes DONE last. A folder without
DONE counts as nothing.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple


class Unit(NamedTuple):
    """The unit of bookkeeping: one fold of one configuration."""

    configuration: str
    """Digest of the configuration."""
    fold: int


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


@dataclass(frozen=True)
class Ledger:
    """The finished and the begun units of one split, below `folder`."""

    folder: Path
    split_digest: str

    def finished(self, unit: Unit) -> Path:
        """Folder of the unit's results; complete only where `is_done` says so."""
        return self.folder / unit.configuration / self.split_digest / f"fold-{unit.fold}"

    def partial(self, unit: Unit) -> Path:
        """Folder in which the unit works until it is finished."""
        return self.finished(unit).with_suffix(".partial")

    def is_done(self, unit: Unit) -> bool:
        return (self.finished(unit) / "DONE").is_file()

    def begin(self, unit: Unit) -> Path:
        """The unit's working folder, with what an interrupted try left in it."""
        partial = self.partial(unit)
        partial.mkdir(parents=True, exist_ok=True)
        return partial

    def finish(self, unit: Unit) -> None:
        """Make the working folder's files the unit's result, unless it has one already."""
        if self.is_done(unit):
            shutil.rmtree(self.partial(unit), ignore_errors=True)
            return
        finished = self.finished(unit)
        shutil.rmtree(finished, ignore_errors=True)
        (self.partial(unit) / "failure.json").unlink(missing_ok=True)
        self.partial(unit).replace(finished)
        write_atomically(finished / "DONE", json.dumps(sorted(path.name for path in finished.iterdir())) + "\n")

    def record_failure(self, unit: Unit, reason: str, *, final: bool) -> None:
        """Leave why a try failed, for the driver; `final` where another try cannot help."""
        write_atomically(self.partial(unit) / "failure.json", json.dumps({"reason": reason, "final": final}) + "\n")

    def take_failure(self, unit: Unit) -> tuple[str, bool]:
        """(reason, final) of the last try; a try that could not say died with its process."""
        path = self.partial(unit) / "failure.json"
        if not path.exists():
            return "the worker process died (killed, out of memory, or its node was lost)", False
        failure = json.loads(path.read_text())
        path.unlink()
        return failure["reason"], failure["final"]

    def curve(self, unit: Unit) -> Path:
        """The unit's epochs so far, finished or not."""
        return (self.finished(unit) if self.is_done(unit) else self.partial(unit)) / "curve.csv"
