"""What a sweep shows: a line per configuration on a terminal, plain lines elsewhere, and how far it is."""

import logging
import os
import pty
import subprocess
import sys
from functools import partial
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sweep.display import Display
from sweep.racing import Drop
from sweep.search import Search
from tests.test_search import finish, open_search


@pytest.fixture
def search(tmp_path: Path) -> Search:
    """Configuration 0 complete, configuration 1 with a fold done, one failed for good and one in training."""
    search = open_search(tmp_path, ["resources.tries=2"])
    for _ in range(4):
        finish(search, tmp_path, *(search.next_unit() or pytest.fail("no unit")))
    training = search.next_unit() or pytest.fail("no unit")
    failing = search.next_unit() or pytest.fail("no unit")
    for _ in range(2):
        search.failed(*failing, "out of memory")
    assert training[0].running == {1}
    return search


def test_the_summary_counts_folds_and_names_the_best(search: Search) -> None:
    summary = Display(search, total=4, epochs=lambda *_: 0).summary()
    assert summary.startswith("4 of 12 folds · best ")
    assert f"{search.candidates[0].mean_fold_auc:.3f} (configuration 0)" in summary


def test_time_left_appears_once_a_fold_is_done_in_this_start(search: Search, tmp_path: Path) -> None:
    display = Display(search, total=4, epochs=lambda *_: 0)
    assert "left" not in display.summary()
    finish(search, tmp_path, search.candidates[1], 1)
    assert "left" in display.summary()


def test_plain_lines_say_what_became_of_a_fold(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    display = Display(search, total=4, epochs=lambda *_: 0)
    with caplog.at_level(logging.INFO, logger="sweep"):
        display.finished(search.candidates[0], 0)
        display.finished(search.candidates[1], 2)
        search.failed(search.candidates[1], 1, "node lost")
        display.finished(search.candidates[1], 1)
    done, failed, again = caplog.messages
    assert f"configuration 0 fold 0: AUC {search.candidates[0].fold_aucs[0]:.3f}" in done
    assert "configuration 1 fold 2: failed for good (out of memory)" in failed
    assert "configuration 1 fold 1: failed, will be tried again (node lost)" in again


TERMINAL = """
import sys
from pathlib import Path
from sweep.display import Display
from sweep.racing import Drop
from tests.test_search import finish, open_search
folder = Path(sys.argv[1])
search = open_search(folder)
with Display(search, total=4, epochs=lambda configuration, fold: 7) as display:
    for _ in range(4):
        finish(search, folder, *search.next_unit())
    search.next_unit()
"""


def test_a_terminal_shows_a_line_for_each_configuration(tmp_path: Path) -> None:
    """In a pseudo-terminal: finished folds as squares, the epochs of the one in training, waiting ones as dots."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "120", "LINES": "40", "TERM": "xterm-256color"}
    command = [sys.executable, "-c", TERMINAL, str(tmp_path)]
    root = Path(__file__).parents[1]
    subprocess.run(command, stdout=theirs, stderr=theirs, check=True, env=environment, cwd=root)
    os.close(theirs)
    shown = b""
    while chunk := _read(ours):
        shown += chunk
    text = shown.decode()
    assert "configuration" in text and "4 of 12 folds" in text
    last = text[text.rindex("settings") :]
    assert last.count("■") == 4 and "7 " in last and "·" in last and "learning_rate=0.0001" in last


def _read(descriptor: int) -> bytes:
    try:
        return os.read(descriptor, 65536)
    except OSError:  # Linux reports the other side's end as an error
        return b""


def test_a_dropped_configuration_shows_why_and_is_logged_once(search: Search, caplog: pytest.LogCaptureFixture) -> None:
    display = Display(search, total=4, epochs=lambda *_: 0)
    search.candidates[1].failures.clear()
    search.candidates[1].dropped = Drop(1, 0, -0.031, -0.052, -0.010, "chance to win 0.0002")
    with caplog.at_level(logging.INFO, logger="sweep"):
        for _ in range(2):
            display.finished(search.candidates[0], 0)
    reason = "dropped after 1 of 3 folds: AUC -0.031 [-0.052, -0.010] against configuration 0: chance to win 0.0002"
    assert sum(reason in line for line in caplog.messages) == 1
    assert display.summary().startswith("4 of 10 folds · ") and "· 0 in the race, 1 dropped ·" in display.summary()


def test_a_terminal_shows_a_dropped_row_with_its_folds_and_why(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = partial(Console, record=True, force_terminal=True, width=140, height=40, file=StringIO())
    monkeypatch.setattr("sweep.display.Console", terminal)
    with Display(search, total=4, epochs=lambda *_: 777) as display:
        search.candidates[1].failures.clear()
        search.candidates[1].dropped = Drop(1, 0, -0.031, -0.052, -0.010, "chance to win 0.0002")
        display.finished(search.candidates[0], 0)
    shown = display._console.export_text(styles=True)
    why = "AUC -0.031 [-0.052, -0.010] against configuration 0: chance to win 0.0002"
    above, *_, row = (line for line in shown.splitlines() if why in line)
    assert f"configuration 1 is dropped after 1 of 3 folds: {why}" in above
    assert row.startswith("\x1b[2m") and f"{search.candidates[1].mean_fold_auc:.3f}" in row, "dim, with its mean so far"
    assert [row.count(mark) for mark in ("■", "777", "·")] == [1, 1, 1]
