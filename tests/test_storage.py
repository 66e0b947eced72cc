"""A run at a URL: everything that is finished stands there, whichever machine worked on it. On moto's S3 server."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

import sweep.storage
from sweep.journal import mend, seal
from sweep.ledger import Ledger, Unit
from sweep.settings import SettingsError, below
from sweep.storage import Mirror, at_hand, leased
from tests import buckets
from tests.test_ledger import flip_a_bit, forget_what_was_checked
from tests.test_main import TINY
from tests.test_main import sweep as run_sweep

UNIT = Unit("a1b2", 1)


@pytest.fixture(scope="module", name="bucket")
def _bucket() -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch, buckets.bucket() as url:
        for name, value in buckets.CREDENTIALS.items():
            patch.setenv(name, value)
        yield url


def start(folder: Path, *settings: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    return subprocess.Popen([sys.executable, "-m", "sweep", *settings], cwd=folder, start_new_session=True)


def finished(url: str) -> dict[str, bytes]:
    """What DONE says of every finished fold."""
    with at_hand(url, re.compile(".*/DONE").fullmatch) as folder:
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("DONE")}


def test_a_killed_sweep_goes_on_from_another_folder_and_ends_as_an_undisturbed_one(bucket: str, tmp_path: Path) -> None:
    settings = [*TINY, "training.epochs=4", f"cache={tmp_path / 'cache'}"]
    assert run_sweep(tmp_path, "name=at-home", *settings).returncode == 0
    url, remote = below(bucket, "far"), [*settings, "name=far", f"output={bucket}"]
    driver = start(tmp_path / "first", *remote)
    limit = time.monotonic() + 200
    while len(finished(url)) < 2 and time.monotonic() < limit:
        time.sleep(0.3)
    os.killpg(driver.pid, signal.SIGKILL)
    driver.wait()
    before = finished(url)
    told = run_sweep(tmp_path, "status", url).stdout
    assert len(before) >= 2 and re.match("[2-6] of 6 folds finished, the last one", told)  # workers outlive the driver
    (tmp_path / "second").mkdir()
    resumed = run_sweep(tmp_path / "second", *remote)
    assert resumed.returncode == 0, resumed.stderr
    assert [path.name for path in (tmp_path / "second").iterdir()] == []
    home = tmp_path / "runs" / "at-home"
    after = finished(url)
    assert len(after) == 6 and before.items() <= after.items(), "a finished fold was trained again"
    with at_hand(url) as folder:
        for name in ("predictions.parquet", "configurations.csv", "patients.csv", "split.csv"):
            assert (folder / name).read_bytes() == (home / name).read_bytes()
        assert (folder / "report.html").exists() and not list(folder.rglob("*.partial-*"))
    assert run_sweep(tmp_path, "status", url).stdout.startswith("6 of 6 folds finished")
    with at_hand(url) as folder:
        (kept,) = (folder / "explanations").glob("*.parquet")
        sweep.storage.remove(kept)
    assert run_sweep(tmp_path, "report", url).returncode == 0
    with at_hand(url) as folder:
        assert (folder / "explanations" / kept.name).exists(), "the weights were not fetched"


def train(folder: Path, process: str, *, until_killed: bool = False) -> str:
    """As a worker does; what it found of earlier tries."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep.ledger, "PROCESS", process)
        ledger = Ledger(folder / "ledger", "split")
        own = ledger.begin(UNIT)
        found = torch.load(own / "last.ckpt")["by"] if (own / "last.ckpt").exists() else ""
        torch.save({"by": found + process}, own / "last.ckpt")
        sweep.storage.share(own)
        if not until_killed:
            (own / "last.ckpt").unlink()
            (own / "predictions.parquet").write_text(f"of {found + process}")
            (own / "weights.pt").write_bytes(bytes(100))
            ledger.finish(UNIT)
    return found


@pytest.mark.parametrize("written", [0, 1, 2])
def test_a_journal_is_whole_wherever_its_journey_to_the_url_was_cut(written: int, tmp_path: Path) -> None:
    """And it grows meanwhile."""
    journal, url = tmp_path / "here" / "optuna.journal", f"file://{tmp_path}/there"
    journal.parent.mkdir()

    class Cut(Mirror):
        left = 99

        def write(self, path: Path, content: bytes) -> None:
            grow()
            if self.left == 0:
                raise ConnectionError("cut")
            self.left -= 1
            super().write(path, content)

    def grow() -> None:
        with journal.open("a") as file:
            file.write('{"op_code": 0}\n')
        seal(journal)

    (tmp_path / "there").mkdir()
    grow()
    mirror = Cut(journal.parent, url)
    mirror.push(journal.parent)
    grow()
    mirror.left = written
    with contextlib.suppress(ConnectionError):
        mirror.push(journal.parent)
    there = tmp_path / "there" / journal.name
    mend(there)
    assert there.read_text().count("\n") >= 1 + bool(written)


def test_a_unit_moves_to_another_node_at_its_last_checkpoint(bucket: str) -> None:
    url = below(bucket, "moving")
    for process, found in (("a", ""), ("b", "a"), ("c", "ab")):
        with at_hand(url, None) as scratch:
            assert train(scratch, process, until_killed=process != "c") == found
    with at_hand(url) as folder:
        ledger = Ledger(folder / "ledger", "split")
        assert ledger.is_done(UNIT) and not list(folder.rglob("*.partial-*"))
        assert (ledger.finished(UNIT) / "predictions.parquet").read_text() == "of abc"
        assert not (ledger.finished(UNIT) / "weights.pt").exists(), "weights are fetched by who wants them"
        assert ledger.file(UNIT, "weights.pt").read_bytes() == bytes(100)


def test_a_node_that_was_cut_off_keeps_the_result_of_the_other(bucket: str) -> None:
    url = below(bucket, "cut-off")
    with at_hand(url, None) as cut_off:
        begun = Ledger(cut_off / "ledger", "split").begin(UNIT)
        (begun / "predictions.parquet").write_text("late")
        with at_hand(url, None) as scratch:
            train(scratch, "other")
        Ledger(cut_off / "ledger", "split").finish(UNIT)
    with at_hand(url) as folder:
        assert [path.read_text() for path in folder.rglob("predictions.parquet")] == ["of other"]


def test_a_damaged_object_is_noticed_and_trained_again(bucket: str) -> None:
    url = below(bucket, "damaged")
    with at_hand(url, None) as scratch:
        train(scratch, "a")
    with at_hand(url) as folder:
        flip_a_bit(Ledger(folder / "ledger", "split").finished(UNIT) / "predictions.parquet")
    with at_hand(url) as folder:
        forget_what_was_checked()
        assert not Ledger(folder / "ledger", "split").is_done(UNIT)
    with at_hand(url, None) as scratch:
        train(scratch, "b")
    with at_hand(url) as folder:
        assert Ledger(folder / "ledger", "split").is_done(UNIT)


def test_a_failure_is_told_to_the_driver_once(bucket: str) -> None:
    url = below(bucket, "failing")
    with at_hand(url) as driver:
        with at_hand(url, None) as scratch:
            Ledger(scratch / "ledger", "split").begin(UNIT)
            Ledger(scratch / "ledger", "split").record_failure(UNIT, "diverged", "final")
        ledger = Ledger(driver / "ledger", "split")
        ledger.fetch(UNIT)
        assert ledger.take_failure(UNIT) == ("diverged", "final")
        ledger.fetch(UNIT)
        assert "died" in ledger.take_failure(UNIT)[0]


def test_a_url_is_held_by_one_driver(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sweep.storage, "SECONDS_BETWEEN_ROUNDS", 0.1)
    monkeypatch.setattr(sweep.storage, "SECONDS_UNTIL_DEAD", 1.5)
    url = below(bucket, "held")
    with at_hand(url) as first, leased(first):
        with at_hand(url) as second, pytest.raises(SettingsError, match="another sweep is running here"):
            leased(second).__enter__()
        (mirror,) = sweep.storage._mirrors
        mirror.rounds.clear()  # as a killed one, which leaves its lease behind
    with at_hand(url) as third, leased(third):
        (third / "settings.yaml").write_text("third")
    with at_hand(url) as fourth:
        assert [path.name for path in fourth.iterdir()] == ["settings.yaml"]


@pytest.mark.parametrize("change", [("//bucket", "//no-such-bucket"), ("127.0.0.1:", "127.0.0.1:1")])
def test_a_bucket_that_cannot_be_used_is_one_line_before_compute(
    bucket: str, change: tuple[str, str], tmp_path: Path
) -> None:
    refused = run_sweep(tmp_path, f"output={bucket.replace(*change)}", *TINY)
    assert refused.returncode == 2 and list(tmp_path.iterdir()) == []
    (line,) = refused.stderr.splitlines()
    assert line.startswith("sweep: s3://") and line.endswith("name a bucket that exists and that you may write")
