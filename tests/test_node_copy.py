"""A node has one whole copy of a patch store, whichever of its workers was first."""

import multiprocessing
import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from datasets.patch_store import PatchStore
from sweep.node_copy import on_own_disk
from tests.stores import write_store


@pytest.fixture
def other_disk(tmp_path: Path) -> Iterator[Path]:
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    on_own_disk.cache_clear()
    with TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_store_on_the_same_disk_is_used_as_it_is(tmp_path: Path) -> None:
    store = write_store(tmp_path / "store")
    assert on_own_disk(store, tmp_path / "node") == store
    assert not list((tmp_path / "node").iterdir())


def test_workers_that_start_at_once_share_one_copy(tmp_path: Path, other_disk: Path) -> None:
    store = write_store(tmp_path / "store")
    with ProcessPoolExecutor(3, multiprocessing.get_context("spawn")) as workers:
        copies = set(workers.map(on_own_disk, [store] * 3, [other_disk] * 3))
    (copy,) = copies
    assert copy.folder.is_relative_to(other_disk) and files(copy.folder) == files(store.folder)
    assert sorted(path.name for path in copy.folder.parent.iterdir()) == [store.digest, f"{store.digest}.lock"]


def test_a_damaged_copy_is_made_again(tmp_path: Path, other_disk: Path) -> None:
    store = write_store(tmp_path / "store")
    copy = on_own_disk(store, other_disk)
    patches = bytearray((copy.folder / "patches.npy").read_bytes())
    patches[-1] ^= 1
    (copy.folder / "patches.npy").write_bytes(patches)
    on_own_disk.cache_clear()
    assert on_own_disk(store, other_disk) == copy and files(copy.folder) == files(store.folder)


def test_a_copy_that_is_not_like_the_store_is_never_used(tmp_path: Path, other_disk: Path) -> None:
    store = write_store(tmp_path / "store")
    damaged = PatchStore(tmp_path / "damaged", store.digest)
    shutil.copytree(store.folder, damaged.folder)
    with (damaged.folder / "patches.npy").open("ab") as file:
        file.write(b"0")
    with pytest.raises(OSError, match="is not like it"):
        on_own_disk(damaged, other_disk)
    assert not (other_disk / "patches" / store.digest).exists()


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for a part of the smallest store."""
    folder = tmp_path / "full"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder]
    if os.geteuid() or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a file system")
    on_own_disk.cache_clear()
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk_is_named_and_nothing_half_written_stays(tmp_path: Path, full_disk: Path) -> None:
    store = write_store(tmp_path / "store")
    with pytest.raises(OSError, match="No space left on device"):
        on_own_disk(store, full_disk)
    assert [path.name for path in (full_disk / "patches").iterdir()] == [f"{store.digest}.lock"]
