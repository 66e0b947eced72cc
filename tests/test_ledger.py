"""Only what was finished whole counts as done, and nothing done is ever redone or lost."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import sweep.ledger
from sweep.ledger import Ledger, LedgerError, Unit, write_atomically

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
    (ledger.begin(UNIT) / "curve.csv").write_text("epoch 4")
    assert (ledger.begin(UNIT) / "curve.csv").read_text() == "epoch 4"


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


def test_one_killed_between_its_seal_and_its_name_is_finished_by_the_next_try(ledger: Ledger) -> None:
    folder = ledger.begin(UNIT)
    (folder / "result.json").write_text("{}")
    (folder / "DONE").write_text(json.dumps({"result.json": [2, "its checksum"]}))
    ledger.finish(UNIT)
    assert json.loads((ledger.finished(UNIT) / "DONE").read_text()).keys() == {"result.json"}
    assert ledger.is_done(UNIT)


def test_units_of_other_splits_folds_and_configurations_are_apart(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.finish(UNIT)
    assert not ledger.is_done(Unit("a1b2", 4))
    assert not ledger.is_done(Unit("ffff", 3))
    assert not Ledger(ledger.folder, "other split").is_done(UNIT)


def test_a_failure_is_told_once_and_a_dead_worker_tells_nothing(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.record_failure(UNIT, "training diverged", "final")
    assert ledger.take_failure(UNIT) == ("training diverged", "final")
    reason, kind = ledger.take_failure(UNIT)
    assert "died" in reason and kind == "retry"


def test_a_finished_unit_keeps_no_failure(ledger: Ledger) -> None:
    ledger.begin(UNIT)
    ledger.record_failure(UNIT, "out of memory", "retry")
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


def finished(ledger: Ledger) -> Path:
    for name in ("predictions.parquet", "weights.pt"):
        (ledger.begin(UNIT) / name).write_bytes(bytes(range(100)))
    ledger.finish(UNIT)
    return ledger.finished(UNIT)


def flip_a_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: flip_a_bit(folder / "predictions.parquet"),
        lambda folder: flip_a_bit(folder / "DONE"),
        lambda folder: (folder / "DONE").write_text(""),
        lambda folder: (folder / "DONE").write_text("[1]"),
        lambda folder: (folder / "predictions.parquet").unlink(),
        lambda folder: (folder / "weights.pt").write_bytes(b"half"),
    ],
    ids=["a flipped bit", "a flipped bit in DONE", "DONE empty", "DONE of another kind", "a file gone", "half weights"],
)
def test_a_damaged_result_is_noticed_named_and_not_used(
    ledger: Ledger, damage: Callable[[Path], None], caplog: pytest.LogCaptureFixture
) -> None:
    folder = finished(ledger)
    damage(folder)
    forget_what_was_checked()
    assert not ledger.is_done(UNIT)
    assert "is trained again" in caplog.text and str(folder) in caplog.text
    (ledger.begin(UNIT) / "predictions.parquet").write_text("whole")
    ledger.finish(UNIT)
    assert ledger.is_done(UNIT) and (folder / "predictions.parquet").read_text() == "whole"


def test_a_flipped_bit_in_large_files_is_found_when_they_are_read(ledger: Ledger) -> None:
    folder = finished(ledger)
    assert ledger.file(UNIT, "weights.pt").read_bytes() == bytes(range(100))
    flip_a_bit(folder / "weights.pt")
    with pytest.raises(LedgerError, match=r"weights\.pt: not as it was written; remove its folder"):
        ledger.file(UNIT, "weights.pt")


def forget_what_was_checked() -> None:
    """As another process begins."""
    sweep.ledger._checked.clear()


def test_a_process_that_was_thought_dead_can_write_no_more(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that was cut off trains on; its unit has been given to another one meanwhile."""
    cut_off = ledger.begin(UNIT)
    (cut_off / "last.ckpt.unfinished").write_text("open in the other process")
    (cut_off / "curve.csv").write_text("epoch 1")
    monkeypatch.setattr(sweep.ledger, "PROCESS", "another")
    taken_over = ledger.begin(UNIT)
    assert [path.name for path in taken_over.iterdir()] == ["curve.csv"]
    assert ledger.partial(UNIT) == taken_over != cut_off
    with pytest.raises(FileNotFoundError):
        (cut_off / "curve.csv").write_text("epoch 2")
    monkeypatch.undo()
    with pytest.raises(FileNotFoundError):
        ledger.finish(UNIT)
    assert not ledger.is_done(UNIT)
    monkeypatch.setattr(sweep.ledger, "PROCESS", "another")
    ledger.finish(UNIT)
    assert (ledger.finished(UNIT) / "curve.csv").read_text() == "epoch 1"


def test_a_checkpoint_that_is_not_whole_is_left_aside(ledger: Ledger) -> None:
    folder = ledger.begin(UNIT)
    torch.save({"weight": torch.arange(1000.0)}, folder / "last.ckpt")
    assert (ledger.begin(UNIT) / "last.ckpt").exists()
    flip_a_bit(folder / "last.ckpt")
    torch.load(folder / "last.ckpt")  # torch itself would train on with it
    assert [path.name for path in ledger.begin(UNIT).iterdir()] == ["last.damaged"]
    (folder / "last.ckpt").write_bytes(b"PK half an archive")
    assert not (ledger.begin(UNIT) / "last.ckpt").exists()
