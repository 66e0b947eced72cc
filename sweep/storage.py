"""A run at a URL (s3://…, gs://…): the URL holds all that is finished, and every process works in a folder of its own.

Object storage has neither renames nor locks, so whole files are copied there and back, and a unit's DONE last. What is
called with a path that belongs to no URL leaves it alone, so that a shared folder is used in the same words.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import urlsplit
from uuid import uuid4

from pyarrow.fs import FileInfo, FileSelector, FileSystem, LocalFileSystem, copy_files

from sweep.settings import SettingsError, is_url

LARGE = {"weights.pt", "last.ckpt"}  # fetched by who needs them
NOT_WHOLE = re.compile(r"\..*|.*\.(unfinished|lock)")
SECONDS_BETWEEN_ROUNDS, SECONDS_UNTIL_DEAD = 3.0, 15.0

log = logging.getLogger("sweep")
_mirrors: list[Mirror] = []


class Mirror:
    """A folder and the URL that it is like, or becomes like."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self.url = folder, url
        self.storage, self._root = FileSystem.from_uri(url)
        self._alike: dict[Path, int] = {}  # what is here as it is there, by its time of change
        self._pushing = threading.Lock()
        self.rounds: list[Callable[[], None]] = [lambda: self.push(folder)]
        """What is done every few seconds."""

    def at(self, path: Path) -> str:
        return "/".join([self._root, *path.relative_to(self.folder).parts])

    def pull(self, part: Path, wanted: Callable[[str], object]) -> None:
        """Fetch what changed below a folder and has a wanted name, relative to it; DONE last."""
        found = self.storage.get_file_info(FileSelector(self.at(part), recursive=True, allow_not_found=True))
        files = [one for one in found if one.is_file and wanted(os.path.relpath(one.path, self.at(part)))]
        for last in (False, True):
            with ThreadPoolExecutor(32) as copying:
                list(copying.map(self.fetch, [one for one in files if (one.base_name == "DONE") is last]))

    def fetch(self, one: FileInfo) -> None:
        path = self.folder / os.path.relpath(one.path, self._root)
        if self._alike.get(path) == one.mtime_ns:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        arriving = path.with_name(f".{path.name}.{uuid4().hex}")
        with suppress(FileNotFoundError):  # gone meanwhile: its unit is finished
            copy_files(one.path, str(arriving), self.storage, LocalFileSystem())
            os.utime(arriving, ns=(one.mtime_ns, one.mtime_ns))
            arriving.replace(path)
            self._alike[path] = one.mtime_ns

    def push(self, part: Path) -> None:
        """Bring what changed in the order in which it was written, but seals after what they seal, and DONE last.

        A seal is read first: what it seals has grown by then, if anything, and stays as it says whenever this is cut.
        """
        with self._pushing:
            changed = _whole_files(part)
            seals = {path: path.read_bytes() for path in changed if path.suffix == ".sha256"}
            for path in sorted(changed, key=lambda p: (p.name == "DONE", p in seals, changed[p], p)):
                if self._alike.get(path) != changed[path]:
                    with suppress(FileNotFoundError):  # a worker renames its folder when it has finished
                        self.write(path, seals.get(path) or path.read_bytes())
                    self._alike[path] = changed[path]

    def read(self, path: Path) -> bytes:
        """Empty where there is no such object."""
        with suppress(FileNotFoundError), self.storage.open_input_stream(self.at(path)) as stream:
            return bytes(stream.read())
        return b""

    def write(self, path: Path, content: bytes) -> None:
        with self.storage.open_output_stream(self.at(path)) as stream:
            stream.write(content)

    def remove(self, path: Path) -> None:
        for delete in (self.storage.delete_file, self.storage.delete_dir):
            with self._pushing, suppress(OSError):  # it is the other, or gone
                delete(self.at(path))

    def work(self, over: threading.Event) -> None:
        while not over.wait(SECONDS_BETWEEN_ROUNDS):
            try:
                for step in self.rounds:
                    step()
            except OSError as error:  # the network may come back
                log.warning("%s does not answer, tried again: %s", self.url, str(error).splitlines()[0])


def _small(name: str) -> bool:
    return name.rpartition("/")[2] not in LARGE


def _whole_files(part: Path) -> dict[Path, int]:
    """When each was changed; files may come and go meanwhile."""
    times: dict[Path, int] = {}
    inside = (Path(parent, name) for parent, _, names in os.walk(part) for name in names)
    for path in (part,) if part.is_file() else inside:
        with suppress(FileNotFoundError):
            times |= {} if NOT_WHOLE.fullmatch(path.name) else {path: path.stat().st_mtime_ns}
    return times


def _unusable(url: str, error: Exception) -> SettingsError:
    return SettingsError(f"{url}: {str(error).splitlines()[0]}; name a bucket that exists and that you may write")


@contextmanager
def at_hand(place: str, wanted: Callable[[str], object] | None = _small) -> Iterator[Path]:
    """A folder as it is, or for a URL a temporary one with its wanted files, from where changes are brought there.

    Raises:
        SettingsError: the URL cannot be used.
    """
    if not is_url(place):
        yield Path(place)
        return
    with TemporaryDirectory(prefix="sweep-") as temporary:
        folder = Path(temporary).resolve() / urlsplit(place).path.strip("/").rpartition("/")[2]
        folder.mkdir()
        try:
            mirror = Mirror(folder, place)
            if wanted:
                mirror.pull(folder, wanted)
        except (OSError, ValueError) as error:
            raise _unusable(place, error) from error
        _mirrors.append(mirror)
        over = threading.Event()
        (thread := threading.Thread(target=mirror.work, args=[over], daemon=True)).start()
        try:
            yield folder
        finally:
            over.set()
            thread.join()
            _mirrors.remove(mirror)
            if mirror.rounds:  # else it is another driver's
                mirror.push(folder)


def mirror_of(path: Path) -> Mirror | None:
    return next((mirror for mirror in _mirrors if path.is_relative_to(mirror.folder)), None)


def fetch(folder: Path, wanted: Callable[[str], object] = _small) -> None:
    """Make a folder like it is at its URL."""
    if mirror := mirror_of(folder):
        mirror.pull(folder, wanted)


def fetch_file(path: Path) -> None:
    """One that is large, or wanted alone."""
    if mirror := mirror_of(path):
        mirror.fetch(mirror.storage.get_file_info(mirror.at(path)))


def share(path: Path) -> None:
    """Bring a file or folder to its URL."""
    if mirror := mirror_of(path):
        mirror.push(path)


def remove(path: Path) -> None:
    """Remove a file or folder, here and at its URL."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    path.unlink(missing_ok=True)
    if mirror := mirror_of(path):
        mirror.remove(path)


@contextmanager
def leased(folder: Path) -> Iterator[None]:
    """Hold a folder's URL for one driver, by an object that changes every few seconds: no clocks need agree.

    Raises:
        SettingsError: another sweep is running there.
    """
    if (mirror := mirror_of(folder)) is None:
        yield
        return
    lease, mine = folder / ".driver", uuid4().bytes
    if before := mirror.read(lease):
        time.sleep(SECONDS_UNTIL_DEAD)
        if mirror.read(lease) not in (before, b""):
            raise SettingsError(f"{mirror.url}: another sweep is running here; wait, or write another name=")

    def renew() -> None:
        if mirror.read(lease).startswith(mine):
            mirror.write(lease, mine + os.urandom(8))
        else:
            mirror.rounds.clear()
            log.error("%s: another sweep has taken over, as this one was not heard of for a while", mirror.url)
            os.kill(os.getpid(), signal.SIGINT)

    try:
        mirror.write(lease, mine)
    except OSError as error:
        raise _unusable(mirror.url, error) from error
    mirror.rounds[:0] = [renew]
    mirror.rounds.append(lambda: mirror.pull(folder / "ledger", _small))
    try:
        yield
    finally:
        if mirror.rounds:
            mirror.remove(lease)
