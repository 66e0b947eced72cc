"""Optuna's journal after a crash or a bad disk: what was half-written is cut off, what was changed is refused."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

from sweep.ledger import write_atomically
from sweep.settings import SettingsError

# Optuna's codes of records.
NEW_TRIAL, SET_VALUE, SET_STATE, SET_SYSTEM_ATTRIBUTE = 4, 5, 6, 9
RUNNING = 0


def seal(journal: Path) -> None:
    """Write down how many bytes the journal has and their SHA-256: it only ever grows."""
    content = journal.read_bytes()
    write_atomically(_seal(journal), f"{len(content)} {sha256(content).hexdigest()}\n")


def mend(journal: Path) -> None:
    """Cut off a record or a proposal that a kill left half-written, and with it the lock of the killed process.

    Call it only while the run folder is locked.

    Raises:
        SettingsError: records were changed after they were written.
    """
    journal.with_name(f"{journal.name}.lock").unlink(missing_ok=True)
    if not journal.exists():
        _seal(journal).unlink(missing_ok=True)
        return
    content = journal.read_bytes()
    *lines, _half = content.split(b"\n")
    try:
        size, checksum = _seal(journal).read_text().split() if _seal(journal).exists() else ("0", sha256().hexdigest())
        if sha256(content[: int(size)]).hexdigest() != checksum:
            raise ValueError(size, checksum)
        records = [json.loads(line) for line in lines]
    except ValueError as error:
        raise SettingsError(
            f"{journal}: not as it was written; restore it from a copy, or remove it: "
            "the sweep then proposes its configurations anew, and finished folds of equal ones count"
        ) from error
    end = sum(len(line) + 1 for line in lines[: _before_half_a_proposal(records)])
    if end < len(content):
        with journal.open("r+b") as file:
            file.truncate(end)
        seal(journal)


def _before_half_a_proposal(records: list[dict[str, Any]]) -> int:
    """How many records stand before a last trial that has not all its values; `propose` writes more after these."""
    last = len(records)
    while last and records[last - 1]["op_code"] in (SET_VALUE, SET_SYSTEM_ATTRIBUTE):
        last -= 1
    beginning = records[last - 1] if last else {"op_code": None}
    asked = beginning["op_code"] == NEW_TRIAL and "state" not in beginning  # else one that waits
    begun = beginning["op_code"] == SET_STATE and beginning["state"] == RUNNING
    return last - 1 if asked or begun else len(records)


def _seal(journal: Path) -> Path:
    return journal.with_name(f"{journal.name}.sha256")
