"""Optuna's journal after a crash or a bad disk: what was half-written is cut off, what was changed is refused."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from sweep.ledger import write_atomically
from sweep.settings import SettingsError


def seal(journal: Path) -> None:
    """Write down how many bytes the journal has and their SHA-256: it only ever grows."""
    content = journal.read_bytes()
    write_atomically(_seal(journal), f"{len(content)} {_sha256(content)}\n")


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
    whole = content[: content.rfind(b"\n") + 1]
    sealed, checksum = _seal(journal).read_text().split() if _seal(journal).exists() else ("0", _sha256(b""))
    before = content[: int(sealed)]
    if _sha256(before) != checksum:
        raise _damaged(journal, f"its first {sealed} bytes are not as they were written")
    for number, line in enumerate(whole[len(before) :].splitlines(), start=1 + before.count(b"\n")):
        try:
            json.loads(line)
        except ValueError as error:
            raise _damaged(journal, f"line {number} cannot be read") from error
    if whole != content:
        with journal.open("r+b") as file:
            file.truncate(len(whole))


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _seal(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.sha256")


def _damaged(journal: Path, what: str) -> SettingsError:
    return SettingsError(
        f"{journal}: {what}; restore it from a copy, or remove it: "
        "the sweep then proposes its configurations anew, and finished folds of equal ones count"
    )
