"""Files that are damaged, disks that are full or read-only, and clocks that jump."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from zipfile import ZipFile

from tests.failures import full_disk, wrong_clock
from tests.failures.disturbances import disturbance, half_done, in_training, kill
from tests.failures.sweeps import SECONDS, Place, check, training, until


@disturbance
def ledger_entry_damaged(place: Place, generator: random.Random) -> None:
    half_done(place)
    folder = generator.choice(sorted(place.units()))
    # What DONE says last, of large files, is looked at only where they are used.
    file = folder / generator.choice(["predictions.parquet", "curve.csv", "result.json", "DONE"])
    _damage(file, generator, file.read_bytes().partition(b'"weights.pt"')[0])
    place.forgiven.add(folder)
    place.must_log.append(f"{folder.name}.damaged")


def _damage(file: Path, generator: random.Random, matters: bytes = b"") -> None:
    """Half of it, nothing, or a flipped bit in the part that matters."""
    content = bytearray(file.read_bytes())
    kind = generator.choice(["half", "empty", "bit"])
    if kind == "bit":
        content[content.index(matters) + generator.randrange(len(matters or content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content if kind == "bit" else content[: len(content) // 2 if kind == "half" else 0])


@disturbance
def checkpoint_damaged(place: Place, generator: random.Random) -> None:
    half_done(place)
    for checkpoint in place.run.glob("ledger/*/*/*.partial-*/last.ckpt"):
        with ZipFile(checkpoint) as archive:
            largest = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
        _damage(checkpoint, generator, largest)
        place.must_log.append("a checkpoint that was not whole was not used")


@disturbance
def journal_torn(place: Place, generator: random.Random) -> None:
    half_done(place)
    with (place.run / "optuna.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id"'[: generator.randrange(1, 24)])


@disturbance
def patch_store_damaged(place: Place, generator: random.Random) -> None:
    """In a cache of its own: the others' must stay whole."""
    cache = place.folder / "cache"
    shutil.copytree(place.cache, cache)
    place.cache = cache
    half_done(place)
    _damage(next(cache.glob("patches/*/patches.npy")), generator)
    place.must_log.append("the patch store is built again")


@disturbance
def disk_full(place: Place, generator: random.Random) -> None:
    """From one write on, of all that a sweep writes; afterwards there is room again."""
    disk, chosen = place.run.parent, generator.choice(place.writes)
    disk.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", disk], check=True)
    place.environment |= full_disk.install(place.folder / "plugin", disk, chosen)
    check(place.finish() not in (0, 130), f"the sweep calls itself done though the disk was full from {chosen} on")
    check((disk / "filler").exists(), f"{chosen} was not written")
    check("No space left" in place.printed or "failed" in place.printed, "the sweep did not say why")
    place.environment.clear()
    (disk / "filler").unlink()


@disturbance
def cache_full(place: Place, generator: random.Random) -> None:
    """At any byte of what the undisturbed sweep left in it; afterwards there is room again."""
    needed = sum(path.stat().st_size for path in place.cache.rglob("*") if path.is_file())
    place.cache = place.folder / "cache"
    place.cache.mkdir(parents=True)
    size = f"size={generator.randrange(4096, needed)}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "tmpfs", place.cache], check=True)
    check(place.finish() == 2, f"the sweep goes on though its cache was full at {size}")
    complaints = [line for line in place.printed.splitlines() if "No space left" in line]
    check(len(complaints) == 1 and "Traceback" not in place.printed, f"not said in one line: {place.printed}")
    subprocess.run(["mount", "-o", "remount,size=100m", place.cache], check=True)


def _fill_temporary(place: Place, generator: random.Random, filler: Path) -> int | None:
    """The exit code: a sweep that has started outlives it, unless Tune has to write of a worker that died."""
    moment = generator.choice(["start", "training", "worker dies"])
    if moment == "start":
        full_disk.fill(filler)
        check((code := place.finish()) == 2, "a full temporary folder is not refused")
        return code
    with in_training(place, generator) as driver:
        full_disk.fill(filler)
        kill(training()[:1] if moment == "worker dies" else [])
        check((code := driver.wait(SECONDS)) in ([2] if moment == "worker dies" else [0]), f"exit code {code}")
        return code


@disturbance
def temporary_folder_full(place: Place, generator: random.Random) -> None:
    """Ray's and Tune's own files stand there."""
    with TemporaryDirectory(prefix="t", dir="/tmp") as folder:  # Ray's sockets must have short names
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100m", "tmpfs", folder], check=True)
        place.environment["TMPDIR"] = folder
        try:
            code = _fill_temporary(place, generator, Path(folder, "filler"))
            said = f"sweep: [Errno 28] No space left on device: '{folder}'" in place.printed
            check(said == (code == 2) and "Traceback" not in place.printed, f"{code} and {place.printed}")
        finally:
            place.environment.clear()
            subprocess.run(["umount", "--lazy", folder], check=True)


@disturbance
def output_read_only(place: Place, generator: random.Random) -> None:  # noqa: ARG001
    half_done(place)
    subprocess.run(["mount", "--bind", place.run, place.run], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place.run], check=True)
        check(place.finish() == 2, "a read-only run folder is not refused")
        check("Read-only file system" in place.printed, "the refusal does not say why")
    finally:
        subprocess.run(["umount", place.run], check=True)


@disturbance
def clock_jumps_while_it_runs(place: Place, generator: random.Random) -> None:
    """By days and years, to and fro; neither does it count as a stall, nor does a try end by it."""
    plugin = place.folder / "plugin"
    place.environment |= wrong_clock.install(plugin)

    def jump() -> None:
        wrong_clock.jump(plugin, generator.choice([-1, 1]) * 86_400 * generator.randrange(1, 3000))

    with in_training(place, generator) as driver:
        until(jump, driver, pause=1)
        check(driver.returncode == 0, "the sweep did not outlive jumps of the clock")
    check(len({line[:4] for line in place.log.splitlines()}) > 1, "the log is of one year")
    check("will be tried again" not in place.log, "a try was ended")
    place.environment.clear()


@disturbance
def clock_jumps(place: Place, generator: random.Random) -> None:
    """The second start sees another time than the files of the first one."""
    half_done(place)
    for path in [place.run, *place.run.rglob("*")]:
        moved = time.time() + generator.choice([-1, 1]) * 86_400 * generator.randrange(1, 3000)
        if "DONE" not in {other.name for other in path.parent.glob("DONE")}:
            os.utime(path, (moved, moved))
