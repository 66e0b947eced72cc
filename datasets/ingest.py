"""DICOM files and annotations to a patch store: read, choose, register, cut out, each once."""

import hashlib
import json
import logging
import os
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from datasets.annotations import CohortError, read_annotations
from datasets.cohort import ExclusionError, build_cohort, in_one_frame
from datasets.dicom import Progress, Series, list_files, read_series
from datasets.ingest_rules import IngestRules
from datasets.patch_store import PatchStore
from datasets.patches import FORMAT_VERSION, build_store
from datasets.pseudonyms import pseudonymise
from datasets.regions import draw_boxes
from datasets.registration import RegistrationError, register
from datasets.workers import spread, unheard, workers

FEWEST_FILES_FOR_PROCESSES = 1000

log = logging.getLogger(__name__)


class Ingested(NamedTuple):
    """A patch store, and what the folder held."""

    store: PatchStore
    files: int
    skipped: dict[str, int]  # files left aside, by reason
    series: int


def ingest(
    root: Path,
    annotations: Path,
    cache: Path,
    rules: IngestRules,
    *,
    processes: int | None = None,
    progress: Progress = unheard,
) -> Ingested:
    """Read a folder of DICOM files and annotations.csv into a patch store below `cache`; it may come out empty.

    Nothing is rebuilt for files that were only moved or touched; not even headers are read where no file changed.
    With several processes the calling program's main module must be importable (`if __name__ == "__main__"`).
    `progress` hears the stages headers (files), registrations (pairs of series), hashes (files) and patches (patients).

    Raises:
        CohortError: the annotations cannot be used, there are no files, or patients leak into each other.
    """
    cache = cache.resolve()
    table = read_annotations(annotations, rules.labels)
    if rules.pseudonyms:
        table = pseudonymise(table, rules.pseudonym_key)
    files = list_files(root, leave_out=cache)
    if not files:
        raise CohortError(f"{root}: no files; give the folder that holds the DICOM files")
    fingerprint = cache / "fingerprints" / _fingerprint(root, files, table, rules)
    if found := _remembered(fingerprint, cache):
        return found
    few = processes is None and len(files) < FEWEST_FILES_FOR_PROCESSES
    try:
        with workers(1 if few else processes) as executor:
            reading = read_series(list(files), executor, rules.series, progress)
            left_out = ", ".join(f"{count} {reason}" for reason, count in reading.skipped.items())
            log.info("%d files, %d series; skipped: %s", len(files), len(reading.series), left_out or "none")
            boxes, undrawn = draw_boxes(table, reading.series)
            rigid = partial(spread, executor, _register, report=partial(progress, "registrations"))
            register_pairs = rigid if rules.registration == "rigid" else in_one_frame
            cohort = build_cohort(reading, boxes, undrawn, leakage=rules.leakage, register=register_pairs)
            store = build_store(cohort, rules, cache, executor, progress)
    except FileNotFoundError as error:  # quotes a path, which may hold a name
        raise CohortError(f"{root}: files vanished while they were read; start again when nobody moves any") from error
    ingested = Ingested(store, len(files), dict(reading.skipped), len(reading.series))
    if "unreadable file" not in reading.skipped:  # permissions change without a trace in size and time
        _remember(fingerprint, ingested)
    return ingested


def _fingerprint(root: Path, files: dict[str, tuple[int, int]], annotations: pd.DataFrame, rules: IngestRules) -> str:
    settings = rules.model_dump(mode="json", include=set(IngestRules.model_fields))
    digest = hashlib.sha256(json.dumps([FORMAT_VERSION, Ingested._fields, settings, str(root.resolve())]).encode())
    digest.update(annotations.to_csv().encode())
    digest.update(os.fsencode("".join(f"{path}\0{state}\n" for path, state in files.items())))
    for region in filter(None, annotations["region"].unique()):
        status = Path(region).stat()
        digest.update(os.fsencode(f"{region}\0{status.st_size, status.st_mtime_ns}\n"))
    return digest.hexdigest()


def _remembered(fingerprint: Path, cache: Path) -> Ingested | None:
    if not fingerprint.is_file():
        return None
    digest, *held = json.loads(fingerprint.read_text())
    store = PatchStore.of(cache, digest)
    return Ingested(store, *held) if store.is_whole() else None


def _remember(fingerprint: Path, ingested: Ingested) -> None:
    fingerprint.parent.mkdir(parents=True, exist_ok=True)
    unfinished = fingerprint.with_suffix(f".{os.getpid()}")
    unfinished.write_text(json.dumps([ingested.store.digest, *ingested[1:]]))
    unfinished.replace(fingerprint)


def _register(pair: tuple[Series, Series]) -> Series | ExclusionError:
    try:
        return register(*pair)
    except RegistrationError as error:
        return ExclusionError(pair[0].uid, str(error), "choose another T1W series in t1_series_uid")
