"""One sweep, start to report: cohort, split, search, units, tables."""

from __future__ import annotations

import logging
from functools import partial
from itertools import product
from pathlib import Path

import pandas as pd

from datasets.folds import make_split, read_split, shuffle_labels, split_digest
from datasets.patches import PatchStore, ingest
from datasets.phantom import write_phantom
from sweep.display import Display
from sweep.ledger import Ledger, write_atomically
from sweep.predictions import per_patient
from sweep.report import write_report
from sweep.run_folder import RunFolder, candidate_predictions, held_out_auc, write_tables
from sweep.search import Candidate, Search, open_study
from sweep.settings import Settings, SettingsError, digest
from sweep.tracking import Tracker

log = logging.getLogger("sweep")
DONE, FAILED, INTERRUPTED = 0, 1, 130


def run_sweep(settings: Settings) -> int:
    """Run or resume the sweep that the settings describe; everything it leaves stands in `settings.run_folder`.

    Returns:
        0 done; 1 some configuration failed; 130 interrupted, to be resumed by the same call.

    Raises:
        SettingsError: the settings do not fit the run folder.
        ValueError: the cohort cannot be used; the message says why.
    """
    run = RunFolder(settings.run_folder)
    _check_networks(settings)
    with run.locked():
        run.claim(settings)
        _log_to(run.path / "sweep.log")
        store = cohort(settings)
        ledger = Ledger(run.ledger, split_digest(_save_cohort(run, settings, store)))
        study = open_study(run.journal, run.path.name, settings.own_values())
        search = Search(settings, study, ledger, lambda unit: held_out_auc(ledger, unit))
        try:
            _train(settings, run, store, ledger, search)
        finally:
            write_tables(run, ledger, search.candidates)
        report = write_report(run.path)
        log.info("report: %s", report)
        return _exit_code(search)


def _check_networks(settings: Settings) -> None:
    """Networks that can be missing or misfit are built once here, before hours of compute depend on them."""
    spans = {name: settings.search.space.get(f"model.{name}") for name in ("backbone", "weights", "stem")}
    choices = [
        span.choices if span and span.choices else (getattr(settings.model, name),) for name, span in spans.items()
    ]
    for backbone, weights, stem in product(*choices):
        if str(backbone).startswith("timm/") or weights != "none":
            from sweep.train_fold import check_network

            check_network(
                settings.configuration({"model.backbone": backbone, "model.weights": weights, "model.stem": stem})
            )


def cohort(settings: Settings) -> PatchStore:
    """The patch store of the settings' cohort, made or found in the cache; a missing phantom is written first."""
    stages = _Stages()
    root, annotations = settings.data.root, settings.data.annotations
    if settings.data.phantom:
        phantom = settings.data.phantom
        root = settings.cache / f"phantom-{digest(phantom.model_dump())}"
        annotations = root / "annotations.csv"
        if not root.exists():
            log.info("writing a synthetic cohort of %d patients to %s", phantom.patients, root)
            write_phantom(root, phantom.patients, phantom.seed, progress=partial(stages, "phantom patients"))
    if root is None or annotations is None:
        raise SettingsError("data.root and data.annotations must name your files")
    store = ingest(
        root,
        annotations,
        settings.cache,
        widest_context=settings.data.widest_context,
        pixels_per_box=settings.data.pixels_per_box,
        progress=stages,
    )
    patients = store.lesions["patient_id"].nunique()
    log.info("cohort: %d patients, %d lesion slices; %d excluded", patients, len(store.lesions), len(store.excluded))
    return store


class _Stages:
    """Logs the stages of long preparations, a line when one starts and every tenth of it."""

    def __init__(self) -> None:
        self._last = ("", -1)

    def __call__(self, stage: str, done: int, total: int) -> None:
        tenth = 10 * done // max(1, total)
        if (stage, tenth) != self._last:
            self._last = (stage, tenth)
            log.info("%s: %d of %d", stage, done, total)


def _save_cohort(run: RunFolder, settings: Settings, store: PatchStore) -> pd.DataFrame:
    """cohort.csv, excluded.csv and split.csv; the split is made once and then only read.

    Raises:
        SettingsError: the saved split belongs to other patients.
    """
    lesions = shuffle_labels(store.lesions, settings.seed) if settings.data.shuffle_labels else store.lesions
    patients = lesions[["patient_id", "label"]].drop_duplicates("patient_id")
    if not run.split.exists():
        write_atomically(run.split, make_split(patients, settings.folds.count, settings.seed).to_csv(index=False))
    split = read_split(run.split)
    if not split[["patient_id", "label"]].equals(patients.sort_values("patient_id", ignore_index=True)):
        raise SettingsError(f"{run.path}: the patients or labels changed since this run began; write another name=")
    write_atomically(run.path / "cohort.csv", lesions.to_csv(index=False))
    write_atomically(run.path / "excluded.csv", store.excluded.to_csv(index=False))
    return split


def _train(settings: Settings, run: RunFolder, store: PatchStore, ledger: Ledger, search: Search) -> None:
    """Train what the ledger does not hold yet, and keep TensorBoard and the display in step with it."""
    tracker = Tracker(run.path / "tensorboard")
    for candidate in search.candidates:
        _track_finished(tracker, ledger, candidate)
    if search.is_finished:
        log.info("all folds are done: nothing to train")
        return
    # Only now: Ray takes seconds to import, and a finished sweep needs none of it.
    from sweep.tune_adapter import Workplace, run_units

    workplace = Workplace(
        ledger=run.ledger.resolve(),
        split=run.split.resolve(),
        split_digest=ledger.split_digest,
        store=store.folder.resolve(),
        store_digest=store.digest,
    )
    with Display(
        search, settings.search.configurations, lambda c, fold: _epochs(ledger.curve(c.unit(fold)))
    ) as display:

        def on_event(candidate: Candidate, fold: int) -> None:
            display.finished(candidate, fold)
            _track_finished(tracker, ledger, candidate)
            if candidate.is_complete or candidate.failures:
                write_tables(run, ledger, search.candidates)

        def beat() -> None:
            display.beat()
            for candidate in search.candidates:
                for fold in candidate.running:
                    tracker.follow(candidate.number, fold, ledger.curve(candidate.unit(fold)))

        run_units(search, workplace, settings.resources, on_event=on_event, beat=beat)


def _track_finished(tracker: Tracker, ledger: Ledger, candidate: Candidate) -> None:
    curves = {fold: ledger.curve(candidate.unit(fold)) for fold in sorted(candidate.fold_aucs)}
    for fold, curve in curves.items():
        tracker.finish_fold(candidate.number, fold, curve, candidate.fold_aucs[fold])
    if candidate.is_complete:
        patients = per_patient(candidate_predictions(ledger, candidate))
        tracker.finish_configuration(candidate.number, candidate.values, list(curves.values()), patients)


def _epochs(curve: Path) -> int:
    """Finished epochs of a fold, by its curve.csv."""
    return max(0, len(curve.read_text().splitlines()) - 1) if curve.exists() else 0


def _exit_code(search: Search) -> int:
    for candidate in search.candidates:
        for fold, reason in sorted(candidate.failures.items()):
            log.error("configuration %d failed at fold %d: %s", candidate.number, fold, reason)
    if not search.is_finished:
        log.warning("interrupted: the same command goes on where this one stopped")
        return INTERRUPTED
    return FAILED if any(candidate.failures for candidate in search.candidates) else DONE


def _log_to(path: Path) -> None:
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    log.addHandler(handler)
