"""Only what was finished whole counts as done, and nothing done is ever redone or lost."""

from pathlib import Path

import pytest

from sweep.ledger import Ledger, Unit, write_atomically

UNIT = Unit("a1b2", 3)


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "ledger", "split")


def test_a_unit_is_done_only_after_finish(ledger: Ledger) -> None:
    (ledger.begin(UNIT) / "predictions.parquet").write_text("results")
    assert not ledger.is_done(UNIT)
    ledger.finish(UNIT)
    assert ledger.is_done(UNIT)
    assert (ledger.finished(UNIT) / "predictions.parquet").read_text() == "results"
    assert not ledger.partial(UNIT).exists()


def test_an_interrupted_try_leaves_its_files_to_the_next(ledger: Ledger) -> None:
    (ledger.begin(UNIT) / "last.ckpt").write_text("epoch 4")
    assert (ledger.begin(UNIT) / "last.ckpt").read_text() == "epoch 4"


def test_a_second_finish_keeps_the_first_results(ledger: Ledger) -> None:
    (ledger.begin(UNIT) / "predictions.parquet").write_text("first")
    ledger.finish(UNIT)
    (ledger.begin(UNIT) / "predictions.parquet").write_text("second")
    ledger.finish(UNIT)
    assert (ledger.finished(UNIT) / "predictions.parquet").read_text() == "first"
    assert not ledger.partial(UNIT).exists()


def test_a_folder_that_was_killed_before_done_is_replaced(ledger: Ledger) -> None:
    ledger.finished(UNIT).mkdir(parents=True)
    (ledger.finished(UNIT) / "predictions.parquet").write_text("half")
    assert not ledger.is_done(UNIT)
    (ledger.begin(UNIT) / "predictions.parquet").write_text("whole")
    ledger.finish(UNIT)
    assert (ledger.finished(UNIT) / "predictions.parquet").read_text() == "whole"


def test_units_of_other_splits_folds_and_configurations_are_apart(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.finish(UNIT)
    assert not ledger.is_done(Unit("a1b2", 4))
    assert not ledger.is_done(Unit("ffff", 3))
    assert not Ledger(ledger.folder, "other split").is_done(UNIT)


def test_a_failure_is_told_once_and_a_dead_worker_tells_nothing(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.record_failure(UNIT, "training diverged", final=True)
    assert ledger.take_failure(UNIT) == ("training diverged", True)
    reason, final = ledger.take_failure(UNIT)
    assert "died" in reason and not final


def test_a_finished_unit_keeps_no_failure(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.record_failure(UNIT, "out of memory", final=False)
    ledger.finish(UNIT)
    assert not list(ledger.finished(UNIT).glob("failure*"))


def test_the_curve_is_found_before_and_after_finishing(ledger: Ledger) -> None:
    (ledger.begin(UNIT) / "curve.csv").write_text("epoch")
    assert ledger.curve(UNIT).read_text() == "epoch"
    ledger.finish(UNIT)
    assert ledger.curve(UNIT).read_text() == "epoch"


def test_a_failed_write_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "summary.json"
    write_atomically(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(path, "\ud800")
    assert path.read_text() == "old"
    write_atomically(path, "new")
    assert path.read_text() == "new"
