"""Optuna's journal after a crash or a bad disk: what was half-written is cut off, what was changed is refused."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

from sweep.ledger import write_atomically
from sweep.settings import SettingsError


def seal(journal: Path) -> None:
    """Write down how many bytes the journal has and their SHA-256: it only ever grows."""
    content = journal.read_bytes()
    write_atomically(_seal(journal), f"{len(content)} {sha256(content).hexdigest()}\n")


def mend(journal: Path) -> None:
    """Cut off a last record that a kill left half-written, and with it the lock of the killed process.

    Call it only while the run folder is locked.

    Raises:
        SettingsError: records were changed after they were written.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        _seal(journal).unlink(missing_ok=True)
        return
    content = journal.read_bytes()
    end = content.rfind(b"\n") + 1
    try:
        size, checksum = _seal(journal).read_text().split() if _seal(journal).exists() else ("0", sha256().hexdigest())
        if sha256(content[: int(size)]).hexdigest() != checksum:
            raise ValueError(size, checksum)
        for line in content[:end].splitlines():
            json.loads(line)
    except ValueError as error:
        raise SettingsError(
            f"{journal}: not as it was written; restore it from a copy, or remove it: "
            "the sweep then proposes its configurations anew, and finished folds of equal ones count"
        ) from error
    if end < len(content):
        with journal.open("r+b") as file:
            file.truncate(end)


def _seal(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.sha256")
