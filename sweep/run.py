"""One sweep, start to report: cohort, split, search, units, tables."""

import logging
import time
from pathlib import Path

import pandas as pd
from rich.console import Console

from datasets.folds import split_digest
from datasets.patch_store import PatchStore
from sweep.candidate import Candidate
from sweep.contact_sheet import summary
from sweep.display import Display
from sweep.further_validation import (
    REPEATED,
    further_searches,
    further_trainings,
    require_inner_folds,
    write_further_tables,
)
from sweep.journal import mend, seal
from sweep.ledger import Ledger
from sweep.predictions import per_patient
from sweep.prepare import check_networks, prepare_patches, prepare_split, require_patients, write_cohort
from sweep.proposals import open_study, sampler
from sweep.report import write_report
from sweep.run_folder import RunFolder, candidate_predictions, open_search, write_tables
from sweep.search import Search
from sweep.search_pool import SearchPool, Stage
from sweep.settings import Settings, below
from sweep.storage import at_hand
from sweep.tracking import Tracker

log = logging.getLogger("sweep")
DONE, FAILED, INTERRUPTED = 0, 1, 130


def run_sweep(settings: Settings) -> int:
    """Run or resume the sweep that the settings describe; everything it leaves stands in `settings.run_folder`.

    Returns:
        0 done; 1 some configuration failed; 130 interrupted, to be resumed by the same call.

    Raises:
        SettingsError: the settings cannot be used, or do not fit the run folder.
        CohortError: the cohort cannot be used.
    """
    check_networks(settings)
    sampler(settings, 0)  # an unknown one is found before hours of compute
    with at_hand(settings.run_folder) as folder, (run := RunFolder(folder)).locked():
        run.require(settings)
        _log_to(run.path / "sweep.log")
        ingested = prepare_patches(settings)
        write_cohort(run, settings, ingested)
        store = ingested.store
        require_patients(run, settings, store)
        split = prepare_split(run, settings, store)
        ledger = Ledger(run.ledger, split_digest(split))
        run.save(settings)
        mend(run.journal)
        study = open_study(run.journal, run.path.name, settings.own_values())
        search = open_search(settings, study, ledger, split["fold"].nunique())
        _announce(settings, split, search)
        try:
            _train(settings, run, store, ledger, search)
        finally:
            write_tables(run, ledger, search.candidates, settings.evaluation)
            seal(run.journal)
        outcome = exit_code(search)
        if search.is_finished and search.best:
            outcome = max(outcome, _validate_further(settings, run, store, split, search))
        write_report(run.path)
        log.info("report: %s", below(settings.run_folder, "report.html"))
        return outcome


def run_ingest(settings: Settings) -> None:
    """The sweep's first step alone: cohort.csv, excluded.csv and ingest.html in the run folder, and a summary.

    Raises:
        SettingsError: the settings cannot be used, or do not fit the run folder.
        CohortError: the cohort cannot be used, or too many patients fall out.
    """
    with at_hand(settings.run_folder) as folder, (run := RunFolder(folder)).locked():
        run.require(settings)
        _log_to(run.path / "sweep.log")
        ingested = prepare_patches(settings)
        write_cohort(run, settings, ingested)
        Console(stderr=True).print(summary(ingested.store, ingested.skipped, files=ingested.files))
        log.info("look at %s; tables: cohort.csv and excluded.csv beside it", below(settings.run_folder, "ingest.html"))
        require_patients(run, settings, ingested.store)


def _train(settings: Settings, run: RunFolder, store: PatchStore, ledger: Ledger, search: Search) -> None:
    """Train what the ledger does not hold yet, and keep TensorBoard and the display in step with it."""
    tracker = Tracker(run.path / "tensorboard")
    for candidate in search.candidates:
        _track_finished(tracker, ledger, candidate, settings)
    if search.is_finished:
        log.info("all folds are done: nothing to train")
        return
    # Only now: Ray takes seconds to import, and a finished sweep needs none of it.
    from sweep.tune_adapter import run_units

    next_tables = 0.0
    with Display(search, settings.search.configurations, tracker.epochs) as display:

        def on_event(candidate: Candidate, fold: int) -> None:
            nonlocal next_tables
            for changed in (candidate, *display.finished(candidate, fold)):
                _track_finished(tracker, ledger, changed, settings)
            if (candidate.is_complete or candidate.failures) and (began := time.monotonic()) >= next_tables:
                write_tables(run, ledger, search.candidates, settings.evaluation)
                seal(run.journal)
                # All folds are read for it: however many they are, that takes a hundredth of the time.
                next_tables = time.monotonic() + 100 * (time.monotonic() - began)

        def beat() -> None:
            display.draw()
            for candidate in search.candidates:
                for fold in candidate.running:
                    tracker.follow(candidate.number, fold, ledger.curve(candidate.unit(fold)))

        pool = SearchPool([iter([Stage("sweep", 0, search, ledger, run.split, run.journal)])])
        run_units(pool, settings, store, on_event=on_event, beat=beat)


def _announce(settings: Settings, split: pd.DataFrame, search: Search) -> None:
    """Say what evaluating costs before anything is trained."""
    if settings.evaluation.nested:
        require_inner_folds(split)
    # An earlier run may have trained more configurations than are asked for now.
    complete = max(settings.search.configurations, sum(candidate.is_complete for candidate in search.candidates))
    folds = split["fold"].nunique()
    for kind, count in further_trainings(settings, folds, complete).items():
        if count:
            most = "" if settings.search.racing.strategy == "none" else "at most "
            beside = f"beside the sweep's own {complete * folds}"
            log.info("evaluation.%s: %s%d fold-trainings %s", kind, most, count, beside)


def _validate_further(
    settings: Settings, run: RunFolder, store: PatchStore, split: pd.DataFrame, search: Search
) -> int:
    """Other splits of the best configurations, nested cross-validation, permuted labels, as far as the settings ask."""
    complete = [candidate for candidate in search.candidates if candidate.is_complete]
    best = sorted(complete, key=lambda candidate: -candidate.mean_fold_auc)[:REPEATED]
    pool = further_searches(run, settings, split, best)
    total = sum(further_trainings(settings, split["fold"].nunique(), len(complete)).values())

    def on_event(candidate: Candidate, fold: int) -> None:
        stage, done = pool.stage(candidate), sum(len(one.fold_aucs) for one in pool.candidates)
        outcome = f"AUC {candidate.fold_aucs[fold]:.3f}" if fold in candidate.fold_aucs else candidate.last_failure
        where = (stage.kind, stage.number, candidate.number, fold)
        log.info("%s %d, configuration %d fold %d: %s · %d of %d folds", *where, outcome, done, total)

    if not pool.is_finished:
        from sweep.tune_adapter import run_units

        try:
            run_units(pool, settings, store, on_event=on_event, beat=lambda: None)
        finally:
            for journal in run.splits.glob("*.journal"):
                seal(journal)
    write_further_tables(run, settings, best, pool)
    return exit_code(pool)


def _track_finished(tracker: Tracker, ledger: Ledger, candidate: Candidate, settings: Settings) -> None:
    if tracker.has_all_of(candidate.number):
        return
    curves = {fold: ledger.curve(candidate.unit(fold)) for fold in sorted(candidate.fold_aucs)}
    for fold, curve in curves.items():
        tracker.finish_fold(candidate.number, fold, curve, candidate.fold_aucs[fold])
    tracker.follow_race(candidate.number, list(candidate.fold_aucs.values()), candidate.why_dropped)
    if candidate.is_complete:
        patients = per_patient(candidate_predictions(ledger, candidate), settings.evaluation.slices)
        tracker.finish_configuration(candidate.number, candidate.values, list(curves.values()), patients)


def exit_code(search: Search | SearchPool) -> int:
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
    for name in ("sweep", "datasets"):
        logging.getLogger(name).addHandler(handler)
