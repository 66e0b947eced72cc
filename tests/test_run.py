"""What a run says of itself in the end: done, failed or interrupted."""

import logging
from pathlib import Path

import pytest

from sweep.run import DONE, FAILED, INTERRUPTED, exit_code
from tests.test_search import open_search, run_all


def test_a_sweep_with_all_folds_is_done(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_all(search, tmp_path)
    assert exit_code(search) == DONE == 0


def test_a_sweep_with_folds_left_was_interrupted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = open_search(tmp_path)
    assert exit_code(search) == INTERRUPTED == 130
    assert "the same command goes on" in caplog.text


def test_a_failed_configuration_is_named_with_its_reason(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    search = open_search(tmp_path, ["resources.tries=1"])
    candidate, fold = search.next_unit() or pytest.fail("no unit")
    search.failed(candidate, fold, "training diverged")
    run_all(search, tmp_path)
    with caplog.at_level(logging.ERROR, logger="sweep"):
        assert exit_code(search) == FAILED == 1
    assert "configuration 0 failed at fold 0: training diverged" in caplog.text
