"""A patch store on the disk of the node that reads it: copied once a node, mapped into memory by all its workers."""

import fcntl
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from datasets.patch_store import CHECKSUMS, PatchStore
from sweep.settings import below
from sweep.storage import Mirror


@cache
def on_own_disk(store: PatchStore, folder: Path | None, url: str | None = None) -> PatchStore:
    """A copy of the store, from a URL if it has one, below `folder`; the store itself without a folder, or on its disk.

    The first worker of a node copies, the others wait; each looks at the checksums once.

    Raises:
        OSError: the copy cannot be made, or is not like the store.
    """
    if folder is None:
        return store
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if url is None and folder.stat().st_dev == store.folder.stat().st_dev:
        return store
    copy = PatchStore.of(folder, store.digest)
    copy.folder.parent.mkdir(exist_ok=True)
    with copy.folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not copy.is_whole():
            with TemporaryDirectory(prefix=".copying-", dir=copy.folder.parent) as temporary:
                arrived = PatchStore(Path(temporary, "store"), store.digest)
                if url:
                    Mirror(arrived.folder, url).pull(arrived.folder, lambda _: True)
                else:
                    shutil.copytree(store.folder, arrived.folder)
                if not arrived.is_whole():
                    raise OSError(f"{url or store.folder}: its copy in {folder} is not like it; look at both disks")
                arrived.folder.rename(copy.folder)
    return copy


def publish(store: PatchStore, output: str) -> str:
    """Bring a store to a URL beside the runs there, unless it is there already."""
    mirror = Mirror(store.folder, url := below(output, f"_patches/{store.digest}"))
    if not mirror.read(store.folder / CHECKSUMS):  # its last file
        mirror.push(store.folder)
    return url
