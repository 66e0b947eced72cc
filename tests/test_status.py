"""`python -m sweep status` tells from a run's files how far it is, and needs neither torch nor Ray for it."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pandas as pd
import pytest

from datasets.folds import read_split, split_digest
from datasets.tables import to_csv
from sweep.ledger import Ledger, Unit
from sweep.settings import SettingsError
from sweep.status import WANTED, status
from tests.run_folders import drop_by_race, keep_folds, write_run

NOW = 1_000_000.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Four configurations of five folds: one complete, one failed after two folds, one begun, one waiting."""
    run = write_run(tmp_path / "run", folds=5)
    keep_folds(run, {1: {0, 1}, 2: set(), 3: set()}, failure={1: "fold 2: training diverged"})
    for number, folds in enumerate((5, 2)):
        for fold in range(folds):
            finish(run, number, fold, NOW - 600 * (7 - 5 * number - fold))
    begin(run, 2, 0)
    return run


def folder(run: Path, number: int, fold: int, split: str | None = None) -> Path:
    """Of a finished fold, of the run's own split unless another's digest is given."""
    own = split or split_digest(read_split(run / "split.csv"))
    return Ledger(run / "ledger", own).finished(Unit(str(number), fold))


def finish(run: Path, number: int, fold: int, moment: float, split: str | None = None) -> None:
    finished = folder(run, number, fold, split)
    finished.mkdir(parents=True)
    (finished / "DONE").touch()
    os.utime(finished / "DONE", (moment, moment))


def begin(run: Path, number: int, fold: int, split: str | None = None) -> None:
    begun = folder(run, number, fold, split).with_suffix(".partial-1")
    begun.mkdir(parents=True)
    (begun / "curve.csv").write_text("epoch,train_loss,inner_loss,inner_auc\n0,1,1,0.5\n1,1,1,0.5\n")


def test_it_says_progress_speed_failures_and_the_best(run: Path) -> None:
    lines = status(run, NOW).splitlines()
    assert lines[0] == "7 of 17 folds finished, the last one 0:10:00 ago"
    assert lines[1] == "1 begun, with 2 epochs behind them"
    assert lines[2] == "6 folds an hour, about 1:40:00 left"
    assert lines[3].startswith("best so far: configuration 0, mean AUC of folds 0.")
    assert lines[4:] == ["configuration 1 failed: fold 2: training diverged"]


def test_a_pause_of_a_night_does_not_count(run: Path) -> None:
    for done in run.glob("ledger/0/*/*/DONE"):
        os.utime(done, (NOW - 50_000, NOW - 50_000))
    assert "6 folds an hour" in status(run, NOW)


def test_folds_of_other_splits_and_damaged_ones_do_not_count(run: Path) -> None:
    told = status(run, NOW)
    finish(run, 0, 0, NOW, split="of a repeat")
    begin(run, 0, 1, split="of a repeat")
    folder(run, 0, 0).rename(folder(run, 0, 0).with_suffix(".damaged"))
    finish(run, 0, 0, NOW - 600 * 7)
    assert status(run, NOW) == told


def test_the_own_split_is_found_whatever_its_patients_are_called(run: Path) -> None:
    split = read_split(run / "split.csv")
    split.loc[:3, "patient_id"] = ["=1+1", "'a", 'b, "c"', "d\nß"]
    (run / "split.csv").write_text(to_csv(split), encoding="utf-8")
    finish(run, 0, 0, NOW)
    assert status(run, NOW).startswith("1 of ")


def test_a_race_finishes_all_folds_that_are_still_to_come(run: Path) -> None:
    drop_by_race(run, {1: {0, 1}, 2: set(), 3: set()}, "no chance")
    assert status(run, NOW).startswith("7 of 7 folds")
    finish(run, 3, 0, NOW)  # it was under way when its configuration dropped
    assert status(run, NOW).startswith("8 of 8 folds")


def test_configurations_that_no_table_lists_yet_are_among_those_to_come(run: Path) -> None:
    (run / "configurations.csv").unlink()
    assert status(run, NOW).startswith("7 of 20 folds")


def test_equal_configurations_share_their_folds(run: Path) -> None:
    table = pd.read_csv(run / "configurations.csv", dtype={"digest": str})
    table.loc[3, "digest"] = table.loc[2, "digest"]
    table.to_csv(run / "configurations.csv", index=False)
    assert status(run, NOW).startswith("7 of 12 folds")


def test_files_that_are_renamed_meanwhile_are_no_error(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right after they were listed."""
    glob = Path.glob

    def listed(path: Path, pattern: str) -> list[Path]:
        found = [*glob(path, pattern)]
        for gone in (folder(run, 0, 0), folder(run, 2, 0).with_suffix(".partial-1")):
            with suppress(FileNotFoundError):
                gone.rename(gone.with_suffix(".elsewhere"))
        return found

    monkeypatch.setattr(Path, "glob", listed)
    monkeypatch.setattr(Path, "exists", lambda _: True)
    assert status(run, NOW).startswith("6 of 17 folds")


def test_what_it_reads_is_fetched_from_a_url(run: Path) -> None:
    files = [path for path in run.glob("ledger/**/*") if path.is_file()]
    files += [run / name for name in ("settings.yaml", "split.csv", "configurations.csv")]
    assert all(WANTED.fullmatch(str(path.relative_to(run))) for path in files)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="no run that has begun"):
        status(tmp_path)


def test_it_needs_neither_torch_nor_ray(run: Path) -> None:
    script = "import sys; from sweep.__main__ import main; main(['status', sys.argv[1]]); "
    script += "print({'torch', 'ray', 'pandas'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", script, run], capture_output=True, text=True, check=True).stdout
    assert told.startswith("7 of 17 folds") and told.endswith("set()\n")
