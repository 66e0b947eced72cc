"""A part of what `python tests/failures/run.py` does, with fixed seeds."""

import os
import random
import subprocess
from pathlib import Path

import pytest

from tests.failures.run import play, undisturbed, unmount
from tests.failures.sweeps import Place

NEED_MOUNTS = {"disk_full"}
CHOSEN = ["gpu_broken", "driver_killed", "raylet_killed", "ledger_entry_damaged", "disk_full", "unit_out_of_memory"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return undisturbed(tmp_path_factory.mktemp("failures"))


def may_mount(folder: Path) -> bool:
    if os.geteuid() != 0:
        return False
    (folder / "runs").mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "tmpfs", folder / "runs"], check=False, capture_output=True)
    unmount(folder)
    return mounted.returncode == 0


@pytest.mark.parametrize("name", CHOSEN)
def test_nothing_is_lost_and_the_result_is_the_undisturbed_one(name: str, reference: Place, tmp_path: Path) -> None:
    if name in NEED_MOUNTS and not may_mount(tmp_path):
        pytest.skip("small and read-only file systems are mounted, which needs root")
    place = tmp_path / "place"
    try:
        play(name, random.Random(name).randrange(10**6), place, reference)
    finally:
        unmount(place)
