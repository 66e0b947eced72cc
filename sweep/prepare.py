"""Before the first fold: networks that can be built, a cohort with its patch store, and a split."""

from __future__ import annotations

import hashlib
import json
import logging
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from datasets.annotations import CohortError
from datasets.folds import make_split, read_split, shuffle_labels
from datasets.ingest import Ingested, ingest
from datasets.patches import PatchStore
from datasets.phantom import PHANTOM_VERSION, write_phantom
from datasets.tables import to_csv
from sweep.contact_sheet import write_contact_sheet
from sweep.ledger import write_atomically
from sweep.run_folder import RunFolder
from sweep.settings import Settings, SettingsError, digest

log = logging.getLogger("sweep")


def check_networks(settings: Settings) -> None:
    """Build once the networks that can be missing or misfit, before hours of compute depend on them.

    Raises:
        SettingsError: a backbone, its package or its weights cannot be had or do not fit each other.
    """
    for backbone, weights, stem in product(*(_values(settings, name) for name in ("backbone", "weights", "stem"))):
        if backbone.startswith("timm/") or weights != "none":
            # Torch takes seconds to import, and the default network needs no check.
            from sweep.train_fold import check_network

            values = {"model.backbone": backbone, "model.weights": weights, "model.stem": stem}
            check_network(settings.configuration(values))


def _values(settings: Settings, name: str) -> list[str]:
    span = settings.search.space.get(f"model.{name}")
    return [str(value) for value in (span.ends() if span else [getattr(settings.model, name)])]


def prepare_patches(settings: Settings) -> Ingested:
    """The patch store of the settings' cohort, made or found in the cache; a missing phantom is written first.

    Raises:
        CohortError: the annotations cannot be used, or patients leak into each other.
    """
    stages = _Stages()
    root, annotations = settings.data.root, settings.data.annotations
    if settings.data.phantom:
        phantom = settings.data.phantom
        root = settings.cache / f"phantom-{digest([PHANTOM_VERSION, phantom.model_dump()])}"
        annotations = root / "annotations.csv"
        if not root.exists():
            log.info("writing a synthetic cohort of %d patients to %s", phantom.patients, root)
            write_phantom(root, phantom.patients, phantom.seed, progress=partial(stages, "phantom patients"))
    if root is None or annotations is None:
        raise SettingsError("data.root and data.annotations must name your files")
    return ingest(root, annotations, settings.cache, settings.data, progress=stages)


def write_cohort(run: RunFolder, settings: Settings, ingested: Ingested) -> None:
    """Write cohort.csv, excluded.csv and ingest.html, and log what the cohort is.

    Raises:
        SettingsError: the run folder was begun with other images, boxes, labels or weights.
    """
    store, sheet = ingested.store, run.path / "ingest.html"
    _require_inputs(run, settings, store)
    write_atomically(run.path / "cohort.csv", to_csv(_lesions(settings, store)))
    write_atomically(run.path / "excluded.csv", to_csv(store.excluded))
    if not _shows(sheet, store):
        context = settings.data.widest_context
        write_contact_sheet(sheet, store, ingested.skipped, title=run.path.name, widest_context=context)
    patients, excluded = (table["patient_id"].nunique() for table in (store.lesions, store.excluded))
    log.info("cohort: %d patients, %d lesion slices; %d patients excluded", patients, len(store.lesions), excluded)


def _shows(sheet: Path, store: PatchStore) -> bool:
    """Whether the contact sheet, which takes seconds to write, is of this store."""
    if not sheet.exists():
        return False
    with sheet.open(encoding="utf-8") as page:
        return store.digest in page.read(1000)


def require_patients(run: RunFolder, settings: Settings, store: PatchStore) -> None:
    """Refuse a cohort of which too many patients fell out.

    Raises:
        CohortError: says how many, why most of them, and where the rest of the reasons stand.
    """
    kept, excluded = (set(table["patient_id"]) for table in (store.lesions, store.excluded))
    lost = len(excluded - kept)
    share = lost / max(1, lost + len(kept))
    if kept and share <= settings.data.max_excluded:
        return
    first = store.excluded.iloc[0] if lost else {"item": "", "reason": "no rows", "remedy": "annotate some"}
    raise CohortError(
        f"{lost} of {lost + len(kept)} patients ({share:.0%}) fall out, more than data.max_excluded="
        f"{settings.data.max_excluded:g}; the first because of {first['item']}: {first['reason']}; {first['remedy']}. "
        f"All reasons: {run.path / 'excluded.csv'}"
    )


class _Stages:
    """Logs the stages of long preparations, a line when one starts and for every quarter of it."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        quarter = 4 * done // max(1, total)
        if (stage, quarter) != self._last:
            self._last = (stage, quarter)
            log.info("%s: %d of %d", stage, done, total)


def prepare_split(run: RunFolder, settings: Settings, store: PatchStore) -> pd.DataFrame:
    """Write inputs.json and split.csv; the split is made once and then only read.

    Raises:
        SettingsError: the run folder was begun with other images, boxes, labels or weights.
        CohortError: the patients cannot be split so.
    """
    if not run.split.exists():
        patients = _lesions(settings, store)[["patient_id", "label"]].drop_duplicates("patient_id")
        split = make_split(patients, settings.folds.count, settings.seed)
        write_atomically(run.path / "inputs.json", _inputs(settings, store))
        write_atomically(run.split, to_csv(split))
    _require_inputs(run, settings, store)
    return read_split(run.split)


def _require_inputs(run: RunFolder, settings: Settings, store: PatchStore) -> None:
    if run.split.exists() and (run.path / "inputs.json").read_text() != _inputs(settings, store):
        raise SettingsError(
            f"{run.path}: images, annotations or pretrained weights changed since this run began; write another name="
        )


def _lesions(settings: Settings, store: PatchStore) -> pd.DataFrame:
    return shuffle_labels(store.lesions, settings.seed) if settings.data.shuffle_labels else store.lesions


def _inputs(settings: Settings, store: PatchStore) -> str:
    """Digests of what the numbers of a run depend on besides its settings."""
    files = [Path(weights) for weights in _values(settings, "weights") if weights not in ("none", "imagenet")]
    weights = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return json.dumps({"patch_store": store.digest, "weights": weights}, indent=2) + "\n"
