"""Cohort to patch store: one memory-mapped array of six-channel patches, named by its content."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import open_memmap

from datasets.annotations import BOX
from datasets.cohort import Cohort
from datasets.dicom import Progress
from datasets.geometry import Box
from datasets.ingest_rules import IngestRules
from datasets.leakage import SharedContent, resolve
from datasets.patch_cutting import PatientBoxes, Written, cut_patches, file_hash
from datasets.patch_store import CHECKSUMS, EXCLUDED_COLUMNS, PatchStore, checksum_of
from datasets.tables import to_csv
from datasets.workers import spread

FORMAT_VERSION = 3


def build_store(cohort: Cohort, rules: IngestRules, cache: Path, executor: Executor, progress: Progress) -> PatchStore:
    """The store of a cohort below `cache`, built unless it is there; patients without readable pixels are left out.

    Raises:
        LeakageError: two patients have the same pixels, and the rules say stop.
        OSError: there is no room for it, for one.
    """
    store = PatchStore.of(cache, _digest(cohort, rules, _content_hashes(cohort, executor, progress)))
    if not store.is_whole():
        try:
            _build(store, cohort, rules, executor, progress)
        except OSError as error:
            if error.errno is None or error.filename is not None:
                raise
            raise OSError(error.errno, error.strerror, str(store.folder.parent)) from error  # writes do not say where
    return store


def _content_hashes(cohort: Cohort, executor: Executor, progress: Progress) -> list[str]:
    paths = [header.path for images in cohort.slices for header in images]
    unique = list(dict.fromkeys(paths))
    hashes = dict(zip(unique, spread(executor, file_hash, unique, partial(progress, "hashes"), 32), strict=True))
    return [hashes[path] for path in paths]


def _digest(cohort: Cohort, rules: IngestRules, content_hashes: Iterable[str]) -> str:
    settings = rules.model_dump(mode="json", include={"widest_context", "pixels_per_box", "leakage", "registration"})
    tables = [cohort.lesions.to_csv(index=False), cohort.excluded.to_csv(index=False)]
    places = [(header.frame, header.position, header.orientation) for images in cohort.slices for header in images]
    content = json.dumps([FORMAT_VERSION, settings, *tables, *content_hashes, places])
    return hashlib.sha256(content.encode()).hexdigest()


def _build(store: PatchStore, cohort: Cohort, rules: IngestRules, executor: Executor, progress: Progress) -> None:
    """Fills a folder under a temporary name and renames it; of two at once the first wins."""
    store.folder.parent.mkdir(parents=True, exist_ok=True)
    _remove_abandoned(store.folder.parent)
    prefix = f".building-{platform.node()}-{os.getpid()}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=store.folder.parent) as temporary:
        folder = Path(temporary, "store")
        folder.mkdir()
        file, side = folder / "patches.npy", round(rules.widest_context * rules.pixels_per_box)
        _new_array(file, (len(cohort.lesions), 6, side, side)).flush()
        cut = partial(cut_patches, file, rules.widest_context)
        written = spread(executor, cut, _patients(cohort), partial(progress, "patches"))
        lesions, excluded = _leave_out(cohort, written, rules)
        _keep_rows(file, lesions.index)
        (folder / "cohort.csv").write_text(to_csv(lesions), encoding="utf-8")
        (folder / "excluded.csv").write_text(to_csv(excluded), encoding="utf-8")
        checksums = {one.name: checksum_of(one) for one in sorted(folder.iterdir())}
        (folder / CHECKSUMS).write_text(json.dumps(checksums))
        try:
            folder.rename(store.folder)
        except OSError:
            if not store.folder.is_dir():
                raise


def _remove_abandoned(parent: Path) -> None:
    """What processes of this machine had begun to build when they were killed."""
    for folder in parent.glob(f".building-{platform.node()}-*"):
        try:
            os.kill(int(folder.name.split("-")[-2]), 0)
        except ProcessLookupError:
            shutil.rmtree(folder, ignore_errors=True)


def _new_array(file: Path, shape: tuple[int, ...]) -> np.memmap[Any, np.dtype[np.float16]]:
    """An array in a file, memory-mapped, all zeros.

    Its room is taken at once: where the disk is full, writing into a hole of the file would end the process by SIGBUS.
    """
    array: np.memmap[Any, np.dtype[np.float16]] = open_memmap(file, mode="w+", dtype=np.float16, shape=shape)
    if hasattr(os, "posix_fallocate"):  # macOS has none
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, file.stat().st_size)
    return array


def _patients(cohort: Cohort) -> list[PatientBoxes]:
    boxes = [Box(*corners) for corners in cohort.lesions[BOX].itertuples(index=False, name=None)]
    return [
        PatientBoxes(str(patient), [(row, boxes[row], cohort.slices[row]) for row in rows])
        for patient, rows in cohort.lesions.groupby("patient_id", sort=False).indices.items()
    ]


def _leave_out(cohort: Cohort, written: Sequence[Written], rules: IngestRules) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The lesions that stay, under their rows' numbers, and all exclusions."""
    remedy = "export the image again, uncompressed, or leave its series out"
    unreadable = [
        {"patient_id": patient.patient_id, "item": item, "reason": reason, "remedy": remedy}
        for patient in written
        for item, reason in sorted(patient.failures.items())
    ]
    lesions, leaking = resolve(cohort.lesions, _shared_pixels(written), rules.leakage)
    rows = pd.DataFrame([*unreadable, *leaking], columns=EXCLUDED_COLUMNS)
    kept = lesions[~lesions["patient_id"].isin(rows["patient_id"])]
    return kept, pd.concat([cohort.excluded, rows], ignore_index=True)


def _shared_pixels(written: Sequence[Written]) -> list[SharedContent]:
    """Images that several patients have to the last pixel, one image for every such set of patients."""
    owners: dict[str, dict[str, str]] = {}
    for patient in written:
        for item, content in sorted(patient.contents.items()):
            owners.setdefault(content, {})[patient.patient_id] = item
    shared = {tuple(items): min(items.values()) for items in owners.values() if len(items) > 1}
    return [SharedContent(item, "pixels", patients) for patients, item in shared.items()]


def _keep_rows(file: Path, rows: pd.Index) -> None:
    everything = np.load(file, mmap_mode="r")
    if len(rows) == len(everything):
        return
    kept = file.with_name("kept.npy")
    compact = _new_array(kept, (len(rows), *everything.shape[1:]))
    for row, source in enumerate(rows):
        compact[row] = everything[source]
    compact.flush()
    kept.replace(file)
