"""A patch store that finds no room on the disk says so, in one line that names the folder, and leaves nothing there."""

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.ingest import ingest
from datasets.patches import _keep_rows
from tests.test_ingest import RULES, write_cohort


def refuse(*_: int) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_room_is_taken_before_patches_are_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, annotations = write_cohort(tmp_path)
    cache = tmp_path / "cache"
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match=f"No space left on device: '{cache / 'patches'}'"):
        ingest(images, annotations, cache, RULES, processes=1)
    assert [*(cache / "patches").iterdir()] == []


def test_room_is_taken_for_the_rows_that_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    np.save(tmp_path / "patches.npy", np.ones((3, 6, 4, 4), np.float16))
    _keep_rows(tmp_path / "patches.npy", pd.Index([0, 2]))
    assert np.load(tmp_path / "patches.npy").shape == (2, 6, 4, 4)
    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with pytest.raises(OSError, match="No space left"):
        _keep_rows(tmp_path / "patches.npy", pd.Index([0]))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with less room than the patches need."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk], check=False)
    if mounted.returncode:
        pytest.skip("a small file system is mounted, which needs root")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_full_disk_is_one_line_and_not_a_killed_process(tmp_path: Path, small_disk: Path) -> None:
    images, annotations = write_cohort(tmp_path)
    files = ["data=dicom", f"data.root={images}", f"data.annotations={annotations}", f"cache={small_disk}"]
    command = [sys.executable, "-m", "sweep", "ingest", "name=full", *files]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert done.stderr.splitlines()[-1] == f"sweep: [Errno 28] No space left on device: '{small_disk / 'patches'}'"
