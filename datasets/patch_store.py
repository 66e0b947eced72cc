"""A finished patch store, as workers read it. Apart from patches.py, which brings pydicom along."""

from __future__ import annotations

import json
import logging
import shutil
import zlib
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.tables import read_csv

CHECKSUMS = "checksums.json"
EXCLUDED_COLUMNS = ["patient_id", "item", "reason", "remedy"]
PART = 2**18  # bytes read at once
_TEXT = dict.fromkeys(("patient_id", "site", "sop_instance_uid", "t1_series_uid", "t2_series_uid", "note"), str)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchStore:
    """A finished store; small to send to another process, which opens the array itself."""

    folder: Path
    digest: str

    @classmethod
    def of(cls, cache: Path, digest: str) -> PatchStore:
        return cls(cache / "patches" / digest, digest)

    def patches(self) -> NDArray[np.float16]:
        """(N, 6, side, side), memory-mapped, read only; axes lesion slice, channel, row, column.

        Channels: T1W previous, same, next, T2W previous, same, next. Each image was divided by the 99th percentile
        of its magnitudes; outside an image is 0.
        """
        array: NDArray[np.float16] = np.load(self.folder / "patches.npy", mmap_mode="r")
        return array

    def is_whole(self) -> bool:
        """Whether the store is there, which reads all of it; one that is not as it was written is removed."""
        if not self.folder.is_dir():
            return False
        try:
            checksums: dict[str, int] = json.loads((self.folder / CHECKSUMS).read_text())
            changed = [name for name, checksum in checksums.items() if checksum_of(self.folder / name) != checksum]
        except (FileNotFoundError, ValueError, AttributeError):
            changed = [CHECKSUMS]
        if changed:
            log.warning("%s: not as it was written; the patch store is built again", self.folder / changed[0])
            shutil.rmtree(self.folder)
        return not changed

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """cohort.csv: a row per patch, in order."""
        return read_csv(self.folder / "cohort.csv", _TEXT)

    @cached_property
    def excluded(self) -> pd.DataFrame:
        """excluded.csv: patient_id, item, reason, remedy."""
        return read_csv(self.folder / "excluded.csv", dict.fromkeys(EXCLUDED_COLUMNS, str))


def checksum_of(file: Path) -> int:
    """CRC-32, which tells damage from what was written three times as fast as a digest."""
    checksum = 0
    with file.open("rb", buffering=0) as opened:
        for part in iter(partial(opened.read, PART), b""):
            checksum = zlib.crc32(part, checksum)
    return checksum
