"""What goes wrong: each disturbs a running or resting sweep; the suite then starts it again and looks at the result."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from zipfile import ZipFile

import psutil
from ray.cluster_utils import Cluster

from tests.failures import broken_gpu, full_disk
from tests.failures.sweeps import SECONDS, Place, called, check, check_saved, descendants, ended, training, until

Disturbance = Callable[[Place, random.Random], None]
DISTURBANCES: dict[str, Disturbance] = {}
ROOT = Path(__file__).parents[2]
RAY = ("raylet", "gcs_server", "ray::", "/ray/")


def disturbance(function: Disturbance) -> Disturbance:
    DISTURBANCES[function.__name__] = function
    return function


@contextmanager
def _in_training(place: Place, generator: random.Random) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep that has done some units and a part of an epoch."""
    done = generator.randrange(3)
    with ended(place.start()) as driver:
        until(lambda: training() and len(place.units()) >= done, driver)
        time.sleep(generator.random())
        yield driver


def _kill(processes: Iterable[psutil.Process]) -> None:
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()


@disturbance
def worker_killed(place: Place, generator: random.Random) -> None:
    """The sweep itself goes on: a new worker takes the unit up at its last epoch."""
    with _in_training(place, generator) as driver:
        _kill(training()[:1])
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive one of its workers")


@disturbance
def worker_killed_while_it_writes_results(place: Place, generator: random.Random) -> None:
    """Between the first file of results and DONE."""
    name = generator.choice(["predictions.parquet", "inner_predictions.parquet", "weights.pt", "result.json"])
    with ended(place.start()) as driver:
        if until(lambda: any(place.run.glob(f"ledger/*/*/*.*/{name}")), driver, pause=0.0005):
            _kill(training())
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive its workers")


@disturbance
def driver_killed(place: Place, generator: random.Random) -> None:
    """Its orphaned workers are gone soon; until then they write nothing that counts, if it is started again at once."""
    with _in_training(place, generator) as driver:
        family = descendants(driver)
        driver.kill()
        driver.wait()
        if generator.random() >= 0.5:
            place.finish()
        else:
            _, orphans = psutil.wait_procs(called(family, "Trainable"), timeout=30)
            check(not orphans, "orphaned workers go on training")
        _kill(family)


@disturbance
def worker_hangs(place: Place, generator: random.Random) -> None:
    """It is killed when it has finished no epoch for resources.stall_minutes."""
    place.changes.append("resources.stall_minutes=0.5")
    with _in_training(place, generator) as driver:
        for worker in training()[:1]:
            worker.suspend()
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive a worker that hangs")
    check("no progress for 0.5 minutes" in place.log, "the log does not name the worker that hung")


@disturbance
def worker_out_of_memory(place: Place, generator: random.Random) -> None:
    """Its process is given no more; the next try has twice the room."""
    with _in_training(place, generator) as driver:
        for worker in training()[:1]:
            resident = worker.memory_info().vms
            worker.rlimit(psutil.RLIMIT_AS, (resident, resident))
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive a worker without memory")


@disturbance
def machine_out_of_memory(place: Place, generator: random.Random) -> None:
    """Ray's own monitor kills workers as soon as others have taken the memory."""
    memory = psutil.virtual_memory()
    place.environment["RAY_memory_usage_threshold"] = f"{(memory.total - memory.available + 2**31) / memory.total:.3f}"
    place.environment["RAY_memory_monitor_refresh_ms"] = "50"
    with _in_training(place, generator) as driver:
        before, others = training(), list[bytes]()

        def one_is_killed() -> bool:
            others.append(b"1" * 2**27)
            return len(others) > 64 or not all(worker.is_running() for worker in before)

        until(one_is_killed, driver)
        others.clear()
        driver.wait(SECONDS)  # tries may have run out
    place.environment.clear()
    place.must_log.append("the worker process died (killed, out of memory, or its node was lost)")


@disturbance
def gpu_broken(place: Place, generator: random.Random) -> None:
    """A CUDA error costs a try and its process, which is of no use any more; what was in its pack goes alone."""
    errors = generator.choice([1, 2])
    broken_gpu.install(place.folder / "plugin", errors)
    place.environment["PYTHONPATH"] = os.pathsep.join([str(place.folder / "plugin"), str(ROOT)])
    place.changes.append("resources.folds_per_pack=2")
    with ended(place.start()) as driver:
        check(driver.wait(SECONDS) == 0, f"the sweep did not outlive {errors} CUDA errors")
    place.environment.clear()
    place.must_log.append("failed, will be tried again (AcceleratorError")


@disturbance
def raylet_killed(place: Place, generator: random.Random) -> None:
    with _in_training(place, generator) as driver:
        _kill(called(descendants(driver), "/raylet"))
        driver.wait(SECONDS)  # it says so and ends, rather than wait for a node that will not come back


@disturbance
def raylet_of_one_node_killed(place: Place, generator: random.Random) -> None:
    """Its units go on on the other node."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = nodes.add_node(num_cpus=1)
        place.changes.append("cluster.address=auto")
        place.environment["RAY_ADDRESS"] = nodes.address
        with _in_training(place, generator) as driver:
            other.kill_raylet()
            check(driver.wait(SECONDS) == 0, "the sweep did not outlive a node")
    finally:
        nodes.shutdown()
        place.changes.clear()
        place.environment.clear()


@disturbance
def all_of_ray_killed(place: Place, generator: random.Random) -> None:
    with _in_training(place, generator) as driver:
        _kill(called(descendants(driver), *RAY))
        driver.wait(SECONDS)


def _half_done(place: Place) -> None:
    """A sweep that was interrupted in mid-epoch, with some units finished."""
    with ended(place.start()) as driver:
        until(lambda: len(place.units()) >= 2 and any(place.run.glob("ledger/*/*/*.partial-*/last.ckpt")), driver)
        family = descendants(driver)
        _kill([psutil.Process(driver.pid), *family])  # the orphans, too: they would go on for two seconds
        driver.wait()
    check_saved(place)


def _damage(file: Path, generator: random.Random, matters: bytes = b"") -> None:
    """Half of it, nothing, or a flipped bit in the part that matters."""
    content = bytearray(file.read_bytes())
    kind = generator.choice(["half", "empty", "bit"])
    if kind == "bit":
        content[content.index(matters) + generator.randrange(len(matters or content))] ^= 1 << generator.randrange(8)
    file.write_bytes(content if kind == "bit" else content[: len(content) // 2 if kind == "half" else 0])


@disturbance
def ledger_entry_damaged(place: Place, generator: random.Random) -> None:
    _half_done(place)
    folder = generator.choice(sorted(place.units()))
    # What DONE says last, of large files, is looked at only where they are used.
    file = folder / generator.choice(["predictions.parquet", "curve.csv", "result.json", "DONE"])
    _damage(file, generator, file.read_bytes().partition(b'"weights.pt"')[0])
    place.forgiven.add(folder)
    place.must_log.append(f"{folder.name}.damaged")


@disturbance
def checkpoint_damaged(place: Place, generator: random.Random) -> None:
    _half_done(place)
    for checkpoint in place.run.glob("ledger/*/*/*.partial-*/last.ckpt"):
        with ZipFile(checkpoint) as archive:
            largest = archive.read(max(archive.infolist(), key=lambda member: member.file_size))
        _damage(checkpoint, generator, largest)
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
    with _in_training(place, generator) as driver:
        check(place.finish() == 2, "a second driver did not refuse")
        check("another sweep is running here" in place.printed, "the second driver did not say why")
        check(driver.wait(SECONDS) == 0, "the first driver failed")


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
