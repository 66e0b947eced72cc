"""Before the first fold: networks that can be built, a cohort with its patch store, and a split."""

import hashlib
import json
import logging
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from datasets.annotations import CohortError, composed, read_texts
from datasets.dicom import Progress
from datasets.folds import make_site_split, make_split, read_split, shuffle_labels
from datasets.ingest import Ingested, ingest
from datasets.patch_store import PatchStore
from datasets.phantom import PHANTOM_VERSION, write_phantom
from datasets.pseudonyms import pseudonymise
from datasets.tables import to_csv
from sweep.contact_sheet import write_contact_sheet
from sweep.features import read_features
from sweep.ledger import write_atomically
from sweep.readers import read_readers
from sweep.run_folder import RunFolder
from sweep.settings import Phantom, Settings, SettingsError, digest
from sweep.storage import remove

PATIENT_TABLES = {"readers": read_readers, "features": read_features}
READER_COLUMNS = {"patient_id", "reader", "call", "score"}  # others may hold names or notes

log = logging.getLogger("sweep")


def check_networks(settings: Settings) -> None:
    """Build once the networks that can be missing or misfit, before hours of compute depend on them.

    Raises:
        NetworkError: a backbone, its package or its weights cannot be had or do not fit each other.
    """
    for backbone, weights, stem in product(*(_values(settings, name) for name in ("backbone", "weights", "stem"))):
        if backbone.startswith("timm/") or weights != "none":
            # Torch takes seconds to import, and the default network needs no check.
            from sweep.train_fold import build_classifier

            values = {"model.backbone": backbone, "model.weights": weights, "model.stem": stem}
            build_classifier(settings.configuration(values), seed=0)


def _values(settings: Settings, name: str) -> list[str]:
    span = settings.search.space.get(f"model.{name}")
    return [str(value) for value in (span.ends() if span else [getattr(settings.model, name)])]


def prepare_patches(settings: Settings) -> Ingested:
    """The patch store of the settings' cohort, made or found in the cache; a missing phantom is written first.

    Raises:
        SettingsError: readers or features cannot be used.
        CohortError: the annotations cannot be used, or patients leak into each other.
    """
    patient_tables(settings)  # bad ones are found before hours of compute
    progress = _log_quarters()
    root, annotations = settings.data.root, settings.data.annotations
    if phantom := settings.data.phantom:
        root = _phantom_folder(settings, phantom)
        annotations = root / "annotations.csv"
        if not root.exists():
            log.info("writing a synthetic cohort of %d patients to %s", phantom.patients, root)
            write_phantom(root, phantom.patients, phantom.seed, progress=partial(progress, "phantom patients"))
    assert root and annotations  # without a phantom, load_settings sees to it
    return ingest(root, annotations, settings.cache, settings.data, progress=progress)


def _phantom_folder(settings: Settings, phantom: Phantom) -> Path:
    return settings.cache / f"phantom-{digest([PHANTOM_VERSION, phantom.model_dump()])}"


def patient_tables(settings: Settings) -> dict[str, pd.DataFrame]:
    """What readers called and noted, under the identifiers of the cohort: the settings' files, or the phantom's own.

    Raises:
        SettingsError: a file cannot be used.
        CohortError: a file cannot be read.
    """
    files = {name: getattr(settings.evaluation, name) for name in PATIENT_TABLES}
    if phantom := settings.data.phantom:
        folder = _phantom_folder(settings, phantom)
        files = {name: file or folder / f"{name}.csv" for name, file in files.items()}
    tables = {name: _patient_table(name, file) for name, file in files.items() if file and file.exists()}
    if not settings.data.pseudonyms:
        return tables
    return {name: pseudonymise(table, settings.data.pseudonym_key) for name, table in tables.items()}


def _patient_table(name: str, file: Path) -> pd.DataFrame:
    """The file's cells as text, read as annotations are, so that identifiers agree."""
    table = read_texts(file).map(composed)
    try:
        PATIENT_TABLES[name](file, table.mask(table == ""))
    except ValueError as error:
        raise SettingsError(f"evaluation.{name}={file}: {error}") from error
    return table[[column for column in table if name != "readers" or column in READER_COLUMNS]]


def _write_patient_tables(run: RunFolder, settings: Settings, patients: set[str]) -> None:
    tables = patient_tables(settings)
    for name in PATIENT_TABLES.keys() - tables.keys():
        remove(run.path / f"{name}.csv")  # of an earlier start
    for name, table in tables.items():
        known = table["patient_id"].isin(patients)
        if lost := table.loc[~known, "patient_id"].nunique():
            log.info("%s.csv: left out %d patients that are not in the cohort", name, lost)
        write_atomically(run.path / f"{name}.csv", to_csv(table[known]))


def write_cohort(run: RunFolder, settings: Settings, ingested: Ingested) -> None:
    """Write cohort.csv, excluded.csv, ingest.html and the tables of readers and features; log what the cohort is.

    Raises:
        SettingsError: readers or features cannot be used, or the run folder was begun with other images, boxes,
            labels or weights.
    """
    store, sheet = ingested.store, run.path / "ingest.html"
    _require_inputs(run, settings, store)
    write_atomically(run.path / "cohort.csv", to_csv(_lesions(settings, store)))
    write_atomically(run.path / "excluded.csv", to_csv(store.excluded))
    held = {"files": ingested.files, "skipped": ingested.skipped, "series": ingested.series}
    write_atomically(run.path / "ingest.json", json.dumps({"patch_store": str(store.folder.resolve()), **held}) + "\n")
    _write_patient_tables(run, settings, set(store.lesions["patient_id"]))
    if not _shows(sheet, ingested):
        context = settings.data.widest_context
        write_contact_sheet(sheet, store, ingested.skipped, title=run.path.name, widest_context=context)
    patients, excluded = (table["patient_id"].nunique() for table in (store.lesions, store.excluded))
    log.info("cohort: %d patients, %d lesion slices; %d patients excluded", patients, len(store.lesions), excluded)


def _shows(sheet: Path, ingested: Ingested) -> bool:
    """Whether the contact sheet, which takes seconds to write, is of this store and these files."""
    if not sheet.exists():
        return False
    with sheet.open(encoding="utf-8") as page:
        return f"{ingested.store.digest} {sum(ingested.skipped.values())}" in page.read(1000)


def require_patients(run: RunFolder, settings: Settings, store: PatchStore) -> None:
    """Refuse a cohort of which too many patients fell out.

    Raises:
        CohortError: says how many, why the first of them, and where the rest of the reasons stand.
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


def _log_quarters() -> Progress:
    """Logs the stages of long preparations, a line when one starts and for every quarter of it."""
    seen: set[tuple[str, int]] = set()

    def log_quarter(stage: str, done: int, total: int) -> None:
        if (quarter := (stage, 4 * done // max(1, total))) not in seen:
            seen.add(quarter)
            log.info("%s: %d of %d", stage, done, total)

    return log_quarter


def prepare_split(run: RunFolder, settings: Settings, store: PatchStore) -> pd.DataFrame:
    """Write inputs.json and split.csv; the split is made once and then only read.

    Raises:
        SettingsError: the run folder was begun with other images, boxes, labels or weights.
        CohortError: the patients cannot be split so.
    """
    if not run.split.exists():
        patients, count = _lesions(settings, store).drop_duplicates("patient_id"), settings.folds.count
        split = make_site_split(patients) if count is None else make_split(patients, count, settings.seed)
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
