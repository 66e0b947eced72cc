"""`python -m sweep status` tells from a run's files how far it is, and needs neither torch nor Ray for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sweep.settings import SettingsError
from sweep.status import status
from tests.run_folders import keep_folds, write_run

NOW = 1_000_000.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four configurations of five folds: one complete, one failed after two folds, one begun, one waiting."""
    run = write_run(tmp_path / "run", folds=5)
    keep_folds(run, {1: {0, 1}, 2: set(), 3: set()}, failure={1: "fold 2: training diverged"})
    for number, folds in enumerate((5, 2)):
        for fold in range(folds):
            finish(run, number, fold, NOW - 600 * (7 - 5 * number - fold))
    begun = run / "ledger" / "2" / "split" / "fold-0.partial-1"
    begun.mkdir(parents=True)
    (begun / "curve.csv").write_text("epoch,train_loss,inner_loss,inner_auc\n0,1,1,0.5\n1,1,1,0.5\n")
    return run


def finish(run: Path, number: int, fold: int, moment: float) -> None:
    folder = run / "ledger" / str(number) / "split" / f"fold-{fold}"
    folder.mkdir(parents=True)
    (folder / "DONE").touch()
    os.utime(folder / "DONE", (moment, moment))


def test_it_says_progress_speed_failures_and_the_best(run: Path) -> None:
    lines = status(run, NOW).splitlines()
    assert lines[0] == "7 of 20 folds finished, the last one 0:10:00 ago"
    assert lines[1] == "1 begun, with 2 epochs behind them"
    assert lines[2] == "6 folds an hour, about 2:10:00 left"
    assert lines[3].startswith("best so far: configuration 0, mean AUC of folds 0.")
    assert lines[4:] == ["configuration 1 failed: fold 2: training diverged"]


def test_a_pause_of_a_night_does_not_count(run: Path) -> None:
    for done in run.glob("ledger/0/*/*/DONE"):
        os.utime(done, (NOW - 50_000, NOW - 50_000))
    assert "6 folds an hour" in status(run, NOW)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run that has begun"):
        status(tmp_path)


def test_it_needs_neither_torch_nor_ray(run: Path) -> None:
    script = "import sys; from sweep.__main__ import main; main(['status', sys.argv[1]]); "
    script += "print({'torch', 'ray', 'pandas'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script, run], capture_output=True, text=True, check=True).stdout
    assert told.startswith("7 of 20 folds") and told.endswith("set()\n")
