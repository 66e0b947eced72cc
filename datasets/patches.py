"""Cohort to patch store: one memory-mapped array of six-channel patches, named by its content."""

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Executor
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap
from numpy.typing import NDArray

from datasets.annotations import BOX, CohortError, read_annotations
from datasets.cohort import Cohort, build_cohort
from datasets.dicom import Progress, SliceHeader, list_files, read_series
from datasets.geometry import Box, patch_to_channels, sample
from datasets.pixels import read_pixels
from datasets.series_rules import SeriesRules
from datasets.workers import workers

FORMAT_VERSION = 1
SCALE_PERCENTILE = 99.0
FLOAT16_LIMIT = 60_000.0
FEWEST_FILES_FOR_PROCESSES = 1000
_TEXT = dict.fromkeys(("patient_id", "site", "sop_instance_uid", "t1_series_uid", "t2_series_uid", "note"), str)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PatchGrid:
    """Extent of a patch in box sides and its resolution in pixels per box side."""

    widest_context: float
    pixels_per_box: int

    @property
    def side(self) -> int:
        return round(self.widest_context * self.pixels_per_box)


@dataclass(frozen=True)
class PatchStore:
    """A finished store; small to send to another process, which opens the array itself."""

    folder: Path
    digest: str

    def patches(self) -> NDArray[np.float16]:
        """(N, 6, side, side), memory-mapped, read only; axes lesion slice, channel, row, column.

        Channels: T1W previous, same, next, T2W previous, same, next. Each image was divided by the 99th percentile
        of its magnitudes; outside an image is 0.
        """
        array: NDArray[np.float16] = np.load(self.folder / "patches.npy", mmap_mode="r")
        return array

    @cached_property
    def lesions(self) -> pd.DataFrame:
        """cohort.csv: a row per patch, in order."""
        return pd.read_csv(self.folder / "cohort.csv", dtype=_TEXT, keep_default_na=False)

    @cached_property
    def excluded(self) -> pd.DataFrame:
        """excluded.csv: patient_id, item, reason, remedy."""
        return pd.read_csv(self.folder / "excluded.csv", dtype=str, keep_default_na=False)


@dataclass(frozen=True)
class _Patient:
    """The work of one process at a time: rows of the array with their boxes and images."""

    patient_id: str
    rows: list[int]
    boxes: list[Box]
    slices: list[tuple[SliceHeader, ...]]


def ingest(
    root: Path,
    annotations: Path,
    cache: Path,
    *,
    widest_context: float = 3.0,
    pixels_per_box: int = 64,
    processes: int | None = None,
    progress: Progress | None = None,
) -> PatchStore:
    """Reads a folder of DICOM files and annotations.csv into a patch store below `cache`.

    Nothing is rebuilt for files that were only moved or touched; not even headers are read where no file changed.
    With several processes the calling program's main module must be importable (`if __name__ == "__main__"`).
    `progress` hears the stages headers (files), hashes (files) and patches (patients).

    Raises:
        CohortError: the annotations cannot be used, or no patient is left.
    """
    grid, cache = PatchGrid(widest_context, pixels_per_box), cache.resolve()
    table = read_annotations(annotations)
    files = list_files(root, leave_out=cache)
    if not files:
        raise CohortError(f"{root}: no files; give the folder that holds the DICOM files")
    fingerprint = cache / "fingerprints" / _fingerprint(root, files, annotations, grid)
    if fingerprint.is_file():
        store = _store(cache, fingerprint.read_text())
        if store.folder.is_dir():
            return store
    few = processes is None and len(files) < FEWEST_FILES_FOR_PROCESSES
    with workers(1 if few else processes) as executor:
        reading = read_series(files, executor, SeriesRules(), progress)
        left_out = ", ".join(f"{count} {reason}" for reason, count in reading.skipped.items())
        log.info("%d files, %d series; skipped: %s", len(files), len(reading.series), left_out or "none")
        cohort = build_cohort(reading.series, table)
        _require_patients(cohort.lesions, cohort.excluded, annotations)
        digest = _digest(cohort, grid, _content_hashes(cohort, executor, progress))
        store = _store(cache, digest)
        if not store.folder.is_dir():
            _build(store, cohort, grid, executor, progress)
    _require_patients(store.lesions, store.excluded, annotations)
    _remember(fingerprint, digest)
    return store


def _fingerprint(root: Path, files: list[Path], annotations: Path, grid: PatchGrid) -> str:
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, asdict(grid), str(root.resolve())]).encode())
    digest.update(annotations.read_bytes())
    for file in files:
        status = file.stat()
        digest.update(os.fsencode(f"{file.relative_to(root)}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    return digest.hexdigest()


def _remember(fingerprint: Path, digest: str) -> None:
    fingerprint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = fingerprint.with_suffix(f".{os.getpid()}")
    unfinished.write_text(digest)
    unfinished.replace(fingerprint)


def _content_hashes(cohort: Cohort, executor: Executor, progress: Progress | None) -> list[str]:
    paths = [header.path for images in cohort.slices for header in images]
    unique = list(dict.fromkeys(paths))
    hashes: dict[Path, str] = {}
    for path, content in zip(unique, executor.map(_file_hash, unique, chunksize=64), strict=True):
        hashes[path] = content
        if progress:
            progress("hashes", len(hashes), len(unique))
    return [hashes[path] for path in paths]


def _file_hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(cohort: Cohort, grid: PatchGrid, content_hashes: Iterable[str]) -> str:
    tables = [cohort.lesions.to_csv(index=False), cohort.excluded.to_csv(index=False)]
    content = json.dumps([FORMAT_VERSION, asdict(grid), *tables, *content_hashes])
    return hashlib.sha256(content.encode()).hexdigest()


def _store(cache: Path, digest: str) -> PatchStore:
    return PatchStore(cache / "patches" / digest, digest)


def _build(store: PatchStore, cohort: Cohort, grid: PatchGrid, executor: Executor, progress: Progress | None) -> None:
    """Fills a folder under a temporary name and renames it; of two at once the first wins."""
    store.folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=store.folder.parent) as temporary:
        folder = Path(temporary, "store")
        folder.mkdir()
        failures = _write_patches(folder / "patches.npy", cohort, grid, executor, progress)
        lesions, excluded = _leave_out(folder / "patches.npy", cohort, failures)
        lesions.to_csv(folder / "cohort.csv", index=False)
        excluded.to_csv(folder / "excluded.csv", index=False)
        try:
            folder.rename(store.folder)
        except OSError:
            if not store.folder.is_dir():
                raise


def _write_patches(
    file: Path, cohort: Cohort, grid: PatchGrid, executor: Executor, progress: Progress | None
) -> dict[str, str]:
    """Fills the array in parallel, patient by patient; returns the patients that cannot be read, with the reason."""
    shape = (len(cohort.lesions), 6, grid.side, grid.side)
    open_memmap(file, mode="w+", dtype=np.float16, shape=shape).flush()
    patients = _patients(cohort)
    tasks = executor.map(_write_patient, [file] * len(patients), patients, [grid] * len(patients))
    failures: dict[str, str] = {}
    for done, (patient, failure) in enumerate(zip(patients, tasks, strict=True), start=1):
        if failure:
            failures[patient.patient_id] = failure
        if progress:
            progress("patches", done, len(patients))
    return failures


def _patients(cohort: Cohort) -> list[_Patient]:
    boxes = [Box(*corners) for corners in cohort.lesions[BOX].itertuples(index=False, name=None)]
    return [
        _Patient(str(patient), list(rows), [boxes[row] for row in rows], [cohort.slices[row] for row in rows])
        for patient, rows in cohort.lesions.groupby("patient_id", sort=False).indices.items()
    ]


def _write_patient(file: Path, patient: _Patient, grid: PatchGrid) -> str | None:
    """Writes the rows of one patient, reading every image once; returns why it cannot be read."""
    headers = {header for images in patient.slices for header in images}
    try:
        pixels = {header: read_pixels(header) for header in headers}
    except ValueError as error:
        return str(error)
    scales = {header: _intensity_scale(image) for header, image in pixels.items()}
    array = np.load(file, mmap_mode="r+")
    for row, box, images in zip(patient.rows, patient.boxes, patient.slices, strict=True):
        matrices = patch_to_channels(box, images, grid.widest_context, grid.side)
        for channel, (header, matrix) in enumerate(zip(images, matrices, strict=True)):
            values = sample(pixels[header], matrix, grid.side) / scales[header]
            array[row, channel] = np.clip(values, -FLOAT16_LIMIT, FLOAT16_LIMIT)
    return None


def _intensity_scale(image: NDArray[np.float32]) -> np.float32:
    """The 99th percentile of the magnitudes of every fourth row and column, or the largest one where that is 0."""
    magnitudes = np.abs(image[::4, ::4])
    return np.float32(np.percentile(magnitudes, SCALE_PERCENTILE) or np.abs(image).max() or 1.0)


def _leave_out(file: Path, cohort: Cohort, failures: dict[str, str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Takes the patients that cannot be read out of the array and the lesions, and into the exclusions."""
    if not failures:
        return cohort.lesions, cohort.excluded
    kept = np.flatnonzero(~cohort.lesions["patient_id"].isin(list(failures)))
    everything = np.load(file, mmap_mode="r")
    compact = open_memmap(
        file.with_name("compact.npy"), mode="w+", dtype=np.float16, shape=(len(kept), *everything.shape[1:])
    )
    for row, source in enumerate(kept):
        compact[row] = everything[source]
    compact.flush()
    file.with_name("compact.npy").replace(file)
    remedy = "export the series again, uncompressed"
    rows = [
        {"patient_id": patient, "item": "pixel data", "reason": reason, "remedy": remedy}
        for patient, reason in failures.items()
    ]
    return cohort.lesions.iloc[kept], pd.concat([cohort.excluded, pd.DataFrame(rows)], ignore_index=True)


def _require_patients(lesions: pd.DataFrame, excluded: pd.DataFrame, annotations: Path) -> None:
    if lesions.empty:
        first = excluded.iloc[0]
        raise CohortError(
            f"{annotations}: all {excluded['patient_id'].nunique()} patients are excluded; the first, "
            f"{first['patient_id']!r}, because of {first['item']}: {first['reason']}; {first['remedy']}"
        )
