"""Finished folds on shared storage: append-only, the only truth about what is done.

One folder per (configuration digest, split digest, fold). A unit works in a folder `fold-N.partial-PROCESS`, which
survives a crash: the next try takes it over by renaming it, so that it resumes from the checkpoint, and a process that
was only thought dead can write no more. Finishing writes DONE, which holds every file's size and SHA-256, and renames
the folder to `fold-N`. A folder without DONE counts as nothing.
"""

import hashlib
import json
import logging
import os
import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple
from uuid import uuid4

from sweep.storage import LARGE, fetch, fetch_file, mirror_of, remove, share

PROCESS = uuid4().hex[:8]

log = logging.getLogger("sweep")
_checked: set[Path] = set()


FailureKind = Literal["retry", "final", "hopeless"]
"""Another try may help; it cannot; the configuration is out of the race."""


class Unit(NamedTuple):
    """The unit of bookkeeping: one fold of one configuration."""

    configuration: str
    """Digest of the configuration."""
    fold: int


class LedgerError(ValueError):
    """Results that must not be used; the message names the file and the remedy."""


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file, text in UTF-8, so that a reader sees the old content or the new, never a part."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content.encode() if isinstance(content, str) else content)
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
        """Folder in which the unit works until it is finished, whichever process does."""
        return max(self._partials(unit), key=lambda folder: folder.stat().st_mtime, default=self._own(unit))

    def _own(self, unit: Unit) -> Path:
        return self.finished(unit).with_suffix(f".partial-{PROCESS}")

    def _partials(self, unit: Unit) -> list[Path]:
        return sorted(self.finished(unit).parent.glob(f"fold-{unit.fold}.partial-*"))

    def is_done(self, unit: Unit) -> bool:
        """Whether the unit's results are there and whole; damaged ones are set aside under a name that says so."""
        folder = self.finished(unit)
        if folder in _checked:
            return True
        if not (folder / "DONE").is_file():
            return False
        if damaged := _damaged(folder):
            aside = folder.with_suffix(".damaged")
            log.warning("%s: not as it was written; the fold is trained again (kept: %s)", folder / damaged, aside.name)
            shutil.rmtree(aside, ignore_errors=True)
            folder.replace(aside)
            return False
        _checked.add(folder)
        return True

    def file(self, unit: Unit, name: str) -> Path:
        """A large file of a finished unit, after a look at its checksum.

        Raises:
            LedgerError: it is not as it was written.
        """
        path = self.finished(unit) / name
        fetch_file(path)
        if json.loads((path.parent / "DONE").read_text()).get(name) != _fingerprint(path):
            raise LedgerError(f"{path}: not as it was written; remove its folder and start the sweep again")
        return path

    def fetch(self, unit: Unit, *, checkpoints: bool = False) -> None:
        """Learn what other processes wrote of the unit, where the run is at a URL."""

        def wanted(name: str) -> bool:
            folder, _, file = name.partition("/")
            return folder.partition(".")[0] == f"fold-{unit.fold}" and (checkpoints or file not in LARGE)

        fetch(self.finished(unit).parent, wanted)

    def begin(self, unit: Unit) -> Path:
        """The unit's working folder, with what an interrupted try left in it, less what is not whole."""
        own = self._own(unit)
        own.parent.mkdir(parents=True, exist_ok=True)
        self.fetch(unit, checkpoints=True)
        if not own.exists() and (left := self.partial(unit)) != own:
            left.replace(own)
            share(own)
            remove(left)
            for file in own.glob("*.unfinished"):  # may still be open in the process that had the folder before
                file.unlink()
        own.mkdir(exist_ok=True)
        for checkpoint in own.glob("*.ckpt"):
            if not _is_whole(checkpoint):
                checkpoint.replace(checkpoint.with_suffix(".damaged"))
        return own

    def finish(self, unit: Unit) -> None:
        """Make the working folder's files the unit's result, unless it has one already."""
        own, finished = self._own(unit), self.finished(unit)
        fetch(finished)
        if not self.is_done(unit):
            for left in ("failure.json", "DONE"):  # the latter by a process that was killed before it could rename
                (own / left).unlink(missing_ok=True)
            files = {path.name: _fingerprint(path) for path in sorted(own.iterdir())}
            write_atomically(own / "DONE", json.dumps(files, indent=0) + "\n")
            shutil.rmtree(finished, ignore_errors=True)
            own.replace(finished)
            share(finished)
        for folder in {own, *self._partials(unit)}:
            remove(folder)

    def record_failure(self, unit: Unit, reason: str, kind: FailureKind) -> None:
        """Leave why a try has no result, for the driver."""
        write_atomically(self._own(unit) / "failure.json", json.dumps({"reason": reason, "kind": kind}) + "\n")

    def take_failure(self, unit: Unit) -> tuple[str, FailureKind]:
        """Why the last try has no result; a try that could not say died with its process."""
        path = self.partial(unit) / "failure.json"
        if not path.exists():
            return "the worker process died (killed, out of memory, or its node was lost)", "retry"
        failure = json.loads(path.read_text())
        remove(path)
        return failure["reason"], failure["kind"]

    def curve(self, unit: Unit) -> Path:
        """The unit's epochs so far, finished or not."""
        return (self.finished(unit) if self.is_done(unit) else self.partial(unit)) / "curve.csv"


def _fingerprint(path: Path) -> list[int | str]:
    with path.open("rb") as file:
        return [path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()]


def _is_whole(checkpoint: Path) -> bool:
    """Torch's files are ZIP archives with a CRC-32 for every tensor, at which torch itself does not look."""
    try:
        with zipfile.ZipFile(checkpoint) as archive:
            return archive.testzip() is None
    except Exception:  # whatever a damaged directory of the archive makes of itself
        return False


def _damaged(folder: Path) -> str | None:
    """The first file that is not as DONE says; of large files the size alone."""
    try:
        files: dict[str, list[int | str]] = json.loads((folder / "DONE").read_text())
        for name, written in files.items():
            path = folder / name
            if name in LARGE and mirror_of(path) and not path.exists():
                continue
            if path.stat().st_size != written[0] or (name not in LARGE and _fingerprint(path) != written):
                return name
    except (FileNotFoundError, ValueError, AttributeError, LookupError, TypeError):
        return "DONE"
    return None
