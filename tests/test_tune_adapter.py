"""Units on real Ray workers: trained once, retried after a worker's death, failed when diverged, stopped by Ctrl-C."""

import os
import re
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest

from datasets.folds import split_digest
from datasets.patch_store import PatchStore
from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.ledger import Ledger
from sweep.proposals import open_study
from sweep.run_folder import RunFolder, held_out_auc, write_tables
from sweep.search import Search
from sweep.search_pool import SearchPool, Stage
from sweep.settings import Settings
from sweep.tune_adapter import run_units
from tests.folds import train_fold
from tests.stores import write_split, write_store
from tests.test_train_fold import QUICK

FOLDS = 3


@dataclass
class Sweep:
    """A tiny sweep with everything that `run_units` needs, and a record of what it reported."""

    settings: Settings
    store: PatchStore
    split: Path
    ledger: Ledger
    search: Search
    events: list[tuple[int, int]] = field(default_factory=list)
    after_fold: Callable[[], None] = lambda: None

    def run(self) -> None:
        journal = self.split.with_name("optuna.journal")
        pool = SearchPool([iter([Stage("test", 0, self.search, self.ledger, self.split, journal)])])
        run_units(pool, self.settings, self.store, on_event=self.note, beat=lambda: None)

    def note(self, candidate: Candidate, fold: int) -> None:
        self.events.append((candidate.number, fold))
        self.after_fold()


def open_sweep(folder: Path, overrides: Sequence[str] = (), **more: Any) -> Sweep:
    settings = load_settings([*QUICK, f"folds.count={FOLDS}", "search.configurations=2", *overrides])
    store = write_store(folder / "store")
    table = write_split(folder / "split.csv", store, FOLDS)
    ledger = Ledger(folder / "ledger", split_digest(table))
    study = open_study(folder / "optuna.journal", "test", settings.own_values())
    search = Search(settings, study, ledger, FOLDS, lambda unit: held_out_auc(ledger, unit), **more)
    return Sweep(settings, store, folder / "split.csv", ledger, search)


NARROW = ["search.space.input=null", "search.space.augmentation=null", "search.space.model.l2_weight=null"]
ALL_UNITS = [(number, fold) for number in range(2) for fold in range(FOLDS)]


def training_workers() -> list[psutil.Process]:
    """This process's own, and no other sweep's."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if " ".join(process.cmdline()).startswith("ray::ResourceTrainable.train"):
                found.append(process)
    return found


def kill_workers_in_mid_unit(sweep: Sweep) -> int:
    """Stop all workers; kill them if each has an unfinished unit, else let them go on. Returns how many died."""
    workers = training_workers()
    for worker in workers:
        worker.suspend()
    units = [candidate.unit(fold) for candidate in sweep.search.candidates for fold in list(candidate.running)]
    unfinished = [unit for unit in units if sweep.ledger.partial(unit).exists() and not sweep.ledger.is_done(unit)]
    in_mid_unit = len(workers) == len(unfinished)
    for worker in workers:
        worker.kill() if in_mid_unit else worker.resume()
    return len(workers) if in_mid_unit else 0


def test_a_sweep_survives_an_interruption_and_killed_workers(tmp_path: Path) -> None:
    interrupted = open_sweep(tmp_path, NARROW)
    interrupted.after_fold = lambda: os.kill(os.getpid(), signal.SIGINT) if len(interrupted.events) == 1 else None
    interrupted.run()
    assert not interrupted.search.is_finished
    done = [unit for unit in ALL_UNITS if unit in interrupted.events]
    assert 1 <= len(done) < len(ALL_UNITS)
    kept = {unit: _times(interrupted, *unit) for unit in done}

    resumed = open_sweep_again(tmp_path)
    killed: list[int] = []

    def kill_once() -> None:
        while not any(killed) and not resumed.search.is_finished:
            with suppress(psutil.NoSuchProcess):
                killed.append(kill_workers_in_mid_unit(resumed))
            time.sleep(0.02)

    killer = threading.Thread(target=kill_once)
    killer.start()
    resumed.run()
    killer.join()
    assert any(killed) and resumed.search.is_finished
    assert all(candidate.is_complete for candidate in resumed.search.candidates)
    assert {unit: _times(resumed, *unit) for unit in done} == kept, "a finished fold was trained again"
    assert sum(sum(candidate.tries.values()) for candidate in resumed.search.candidates) == sum(killed)

    alone = tmp_path / "alone"
    first = resumed.search.candidates[0]
    train_fold(first.configuration, 1, alone, store=resumed.store, split=resumed.split)
    for name in ("predictions.parquet", "curve.csv", "weights.pt"):
        assert (alone / name).read_bytes() == (resumed.ledger.finished(first.unit(1)) / name).read_bytes(), (
            "a fold depends on where it was trained"
        )


def test_a_hopeless_unit_ends_its_configuration_and_counts_nowhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One worker; once configuration 0 has a fold, no inner AUC is high enough for the next one's."""
    monkeypatch.setattr("sweep.racing.FEWEST_CURVES", 1)
    racing = ["search.racing.strategy=lossless", "search.racing.hopeless_after=1", "resources.cpus_per_fold=2"]
    sweep = open_sweep(tmp_path, [*NARROW, *racing], inner_aucs=lambda _: np.array([1.5]))
    sweep.run()
    first, second = sweep.search.candidates
    assert sweep.search.is_finished and first.is_complete and not second.fold_aucs
    (fold,) = {fold for number, fold in sweep.events if number == 1}
    assert second.state == "pruned"
    assert re.match(rf"fold {fold} is hopeless: inner AUC [01]\.\d{{3}} by epoch 1, ", second.why_dropped)
    assert not sweep.ledger.is_done(second.unit(fold))
    assert (sweep.ledger.partial(second.unit(fold)) / "partial_predictions.parquet").exists()
    write_tables(RunFolder(tmp_path), sweep.ledger, sweep.search.candidates, sweep.settings.evaluation)
    assert pd.read_csv(tmp_path / "configurations.csv")["dropped"][1] == second.why_dropped
    assert set(pd.read_parquet(tmp_path / "predictions.parquet")["configuration"]) == {0}


def open_sweep_again(folder: Path) -> Sweep:
    """The same sweep as another process would open it: from ledger and journal alone."""
    before = open_sweep(folder, NARROW)
    assert any(candidate.fold_aucs for candidate in before.search.candidates)
    return before


def _times(sweep: Sweep, number: int, fold: int) -> int:
    unit = sweep.search.candidates[number].unit(fold)
    return (sweep.ledger.finished(unit) / "DONE").stat().st_mtime_ns


def test_packed_units_are_the_units_alone_and_a_failed_one_tries_again_alone(tmp_path: Path) -> None:
    sweep = open_sweep(tmp_path, [*NARROW, "resources.folds_per_pack=3"])
    first = sweep.search.next_unit()
    assert first
    sweep.search.failed(*first, "tried before")
    sweep.run()
    assert all(candidate.is_complete for candidate in sweep.search.candidates)
    assert sorted(sweep.events) == ALL_UNITS
    assert sweep.events[0] == (0, 0), "the one that was tried before does not wait for a pack"
    candidate = sweep.search.candidates[1]
    train_fold(candidate.configuration, 2, tmp_path / "alone", store=sweep.store, split=sweep.split)
    for name in ("predictions.parquet", "curve.csv", "weights.pt"):
        packed = sweep.ledger.finished(candidate.unit(2)) / name
        assert packed.read_bytes() == (tmp_path / "alone" / name).read_bytes()


def test_diverged_training_fails_its_configuration_at_once(tmp_path: Path) -> None:
    sweep = open_sweep(tmp_path, ["search/space=none", "search.configurations=1", "resources.tries=3"])
    patches = np.array(sweep.store.patches())
    patches[:] = np.nan
    np.save(sweep.store.folder / "patches.npy", patches)
    sweep.run()
    candidate = sweep.search.candidates[0]
    assert candidate.state == "failed" and sweep.search.is_finished and sweep.search.best is None
    assert all("diverged" in reason for reason in candidate.failures.values())
    assert set(candidate.tries.values()) == {1}


def test_a_broken_search_ends_the_sweep_with_its_own_error(tmp_path: Path) -> None:
    sweep = open_sweep(tmp_path, ["search/space=none", "search.configurations=1"])

    def broken(candidate: Candidate, fold: int) -> None:  # noqa: ARG001
        raise OSError("disk full")

    sweep.note = broken  # type: ignore[method-assign]
    with pytest.raises(OSError, match="disk full"):
        sweep.run()
