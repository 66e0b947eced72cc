"""A worker finds done what another process has done meanwhile."""

from pathlib import Path

import pytest

from datasets.patches import PatchStore
from sweep.compose import load_settings
from sweep.ledger import Ledger
from sweep.worker import FoldTrainable, Work
from tests.trained_runs import QUICK


def test_a_fold_that_was_finished_meanwhile_is_not_trained_again(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a worker that outlived its driver, after the next driver had looked."""
    monkeypatch.chdir(tmp_path)
    configuration = load_settings(QUICK).configuration({})
    (split,) = (trained_run / "ledger" / configuration.digest).iterdir()
    before = {file: file.stat().st_mtime_ns for file in split.glob("*/*")}
    work = Work(configuration, 0, Ledger(trained_run / "ledger", split.name), trained_run / "split.csv")
    nowhere = PatchStore(tmp_path / "nowhere", "none")  # training would fail
    config = {"pack": [work], "directory": tmp_path, "store": nowhere, "saving_share": 1.0}
    FoldTrainable({**config, "node_folder": None, "url": None, "store_url": None}).step()
    assert {file: file.stat().st_mtime_ns for file in split.glob("*/*")} == before
    assert not list(split.glob("*.partial-*"))
