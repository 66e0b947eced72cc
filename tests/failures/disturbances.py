"""What goes wrong: each disturbs a running or resting sweep; the suite then starts it again and looks at the result."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.failures.sweeps import Place, called, check, descendants, ended, training, until

Disturbance = Callable[[Place, random.Random], None]
DISTURBANCES: dict[str, Disturbance] = {}
RAY = ("raylet", "gcs_server", "ray::", "/ray/")


def disturbance(function: Disturbance) -> Disturbance:
    DISTURBANCES[function.__name__] = function
    return function


def _somewhere_in_training(place: Place, driver: subprocess.Popen[bytes], generator: random.Random) -> None:
    """Wait until some units are done, then a part of an epoch."""
    done = generator.randrange(3)
    until(lambda: training(driver) and len(place.units()) >= done, driver)
    time.sleep(generator.random())


def _kill(processes: list[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@disturbance
def worker_killed(place: Place, generator: random.Random) -> None:
    """The sweep itself goes on: a new worker takes the unit up at its last epoch."""
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        _kill(training(driver)[:1])
        check(driver.wait(300) == 0, "the sweep did not outlive one of its workers")


@disturbance
def worker_killed_while_it_writes_results(place: Place, generator: random.Random) -> None:
    """Between the first file of results and DONE."""
    name = generator.choice(["predictions.parquet", "inner_predictions.parquet", "weights.pt", "result.json"])
    with ended(place.start()) as driver:
        if until(lambda: any(place.run.glob(f"ledger/*/*/*.*/{name}")), driver, pause=0.0005):
            _kill(training(driver))
        check(driver.wait(300) == 0, "the sweep did not outlive its workers")


@disturbance
def driver_killed(place: Place, generator: random.Random) -> None:
    """Its orphaned workers must be gone, or at least write no more, when the sweep is started again."""
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        family = descendants(driver)
        driver.kill()
        driver.wait()
        limit = time.monotonic() + 30
        while called(family, "Trainable") and time.monotonic() < limit:
            time.sleep(0.05)
        check(not called(family, "Trainable"), "orphaned workers go on training")


@disturbance
def driver_killed_and_started_at_once(place: Place, generator: random.Random) -> None:
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        family = descendants(driver)
        driver.kill()
        driver.wait()
        place.finish()
        _kill(list(family))


@disturbance
def worker_hangs(place: Place, generator: random.Random) -> None:
    """It is killed when it has finished no epoch for resources.stall_minutes."""
    place.changes.append("resources.stall_minutes=0.5")
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        for worker in training(driver)[:1]:
            worker.suspend()
        check(driver.wait(300) == 0, "the sweep did not outlive a worker that hangs")
    check("no progress for 0.5 minutes" in place.log, "the log does not name the worker that hung")


@disturbance
def worker_out_of_memory(place: Place, generator: random.Random) -> None:
    """The next try has twice the room."""
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        for worker in training(driver)[:1]:
            resident = worker.memory_info().vms
            worker.rlimit(psutil.RLIMIT_AS, (resident, resident))
        check(driver.wait(300) == 0, "the sweep did not outlive a worker without memory")


@disturbance
def raylet_killed(place: Place, generator: random.Random) -> None:
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        _kill(called(descendants(driver), "/raylet"))
        driver.wait(300)  # it says so and ends, rather than wait for a node that will not come back


@disturbance
def all_of_ray_killed(place: Place, generator: random.Random) -> None:
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        _kill(called(descendants(driver), *RAY))
        driver.wait(300)


def _half_done(place: Place) -> None:
    """A sweep that was interrupted in mid-epoch, with some units finished."""
    with ended(place.start()) as driver:
        until(lambda: len(place.units()) >= 2 and any(place.run.glob("ledger/*/*/*.partial-*/last.ckpt")), driver)
        family = descendants(driver)
        _kill([psutil.Process(driver.pid), *family])  # the orphans, too: they would go on for two seconds
        driver.wait()


def _damage(file: Path, generator: random.Random) -> None:
    """Half of it, nothing, or a flipped bit."""
    content = bytearray(file.read_bytes())
    kind = generator.choice(["half", "empty", "bit"])
    if kind == "bit":
        content[generator.randrange(len(content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content if kind == "bit" else content[: len(content) // 2 if kind == "half" else 0])


@disturbance
def ledger_entry_damaged(place: Place, generator: random.Random) -> None:
    _half_done(place)
    folder = generator.choice(sorted(place.units()))
    _damage(folder / generator.choice(["predictions.parquet", "curve.csv", "result.json", "DONE"]), generator)
    place.forgiven.add(folder)
    place.must_log.append(f"{folder.name}.damaged")


@disturbance
def checkpoint_damaged(place: Place, generator: random.Random) -> None:
    _half_done(place)
    for checkpoint in place.run.glob("ledger/*/*/*.partial-*/last.ckpt"):
        checkpoint.write_bytes(checkpoint.read_bytes()[: generator.randrange(1000, 100_000)])
        place.must_log.append("a checkpoint that was not whole was not used")


@disturbance
def journal_torn(place: Place, generator: random.Random) -> None:
    _half_done(place)
    with (place.run / "optuna.journal").open("ab") as journal:
        journal.write(b'{"op_code":5,"worker_id"'[: generator.randrange(1, 24)])


@disturbance
def patch_store_damaged(place: Place, generator: random.Random) -> None:
    """In a cache of its own: the others' must stay whole."""
    cache = place.folder / "cache"
    shutil.copytree(place.cache, cache)
    place.cache = cache
    _half_done(place)
    _damage(next(cache.glob("patches/*/patches.npy")), generator)
    place.must_log.append("the patch store is built again")


@disturbance
def second_driver(place: Place, generator: random.Random) -> None:
    """It refuses; the first one goes on."""
    with ended(place.start()) as driver:
        _somewhere_in_training(place, driver, generator)
        check(place.finish() == 2, "a second driver did not refuse")
        check("another sweep is running here" in place.printed, "the second driver did not say why")
        check(driver.wait(300) == 0, "the first driver failed")


@disturbance
def disk_full(place: Place, generator: random.Random) -> None:
    """A small file system for all that the sweep writes; afterwards a larger one."""
    place.folder.mkdir(parents=True)
    size = generator.randrange(200, 9000)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}k", "tmpfs", place.folder], check=True)
    check(place.finish() not in (0, 130), f"the sweep calls itself done on a disk of {size} kB")
    check("No space left" in place.printed or "failed" in place.printed, "the sweep did not say why")
    subprocess.run(["mount", "-o", "remount,size=1g", place.folder], check=True)


@disturbance
def output_read_only(place: Place, generator: random.Random) -> None:  # noqa: ARG001
    _half_done(place)
    subprocess.run(["mount", "--bind", place.run, place.run], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", place.run], check=True)
        check(place.finish() == 2, "a read-only run folder is not refused")
        check("Read-only file system" in place.printed, "the refusal does not say why")
    finally:
        subprocess.run(["umount", place.run], check=True)


@disturbance
def clock_jumps(place: Place, generator: random.Random) -> None:
    """The second start sees another time than the files of the first one."""
    _half_done(place)
    for path in [place.run, *place.run.rglob("*")]:
        moved = time.time() + generator.choice([-1, 1]) * 86_400 * generator.randrange(1, 3000)
        if "DONE" not in {other.name for other in path.parent.glob("DONE")}:
            os.utime(path, (moved, moved))
