"""Processes that are killed, that hang, or that lack memory."""

from __future__ import annotations

import random

import psutil
from ray.cluster_utils import Cluster

from tests.failures.disturbances import disturbance, in_training, kill
from tests.failures.sweeps import SECONDS, Place, called, check, descendants, ended, training, until

RAY = ("raylet", "gcs_server", "ray::", "/ray/")


@disturbance
def worker_killed(place: Place, generator: random.Random) -> None:
    """The sweep itself goes on: a new worker takes the unit up at its last epoch."""
    with in_training(place, generator) as driver:
        kill(training()[:1])
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive one of its workers")


@disturbance
def worker_killed_while_it_writes_results(place: Place, generator: random.Random) -> None:
    """Between the first file of results and DONE."""
    name = generator.choice(["predictions.parquet", "inner_predictions.parquet", "weights.pt", "result.json"])
    with ended(place.start()) as driver:
        if until(lambda: any(place.run.glob(f"ledger/*/*/*.*/{name}")), driver, pause=0.0005):
            kill(training())
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive its workers")


@disturbance
def driver_killed(place: Place, generator: random.Random) -> None:
    """Its orphaned workers are gone soon; until then they write nothing that counts, if it is started again at once."""
    with in_training(place, generator) as driver:
        family = descendants(driver)
        driver.kill()
        driver.wait()
        if generator.random() >= 0.5:
            place.finish()
        else:
            _, orphans = psutil.wait_procs(called(family, "Trainable"), timeout=30)
            check(not orphans, "orphaned workers go on training")
        kill(family)


@disturbance
def worker_hangs(place: Place, generator: random.Random) -> None:
    """It is killed when it has finished no epoch for resources.stall_minutes."""
    place.changes.append("resources.stall_minutes=0.5")
    with in_training(place, generator) as driver:
        for worker in training()[:1]:
            worker.suspend()
        check(driver.wait(SECONDS) == 0, "the sweep did not outlive a worker that hangs")
    check("no progress for 0.5 minutes" in place.log, "the log does not name the worker that hung")


@disturbance
def worker_out_of_memory(place: Place, generator: random.Random) -> None:
    """Its process is given no more; the next try has twice the room."""
    with in_training(place, generator) as driver:
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
    with in_training(place, generator) as driver:
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
def raylet_killed(place: Place, generator: random.Random) -> None:
    with in_training(place, generator) as driver:
        kill(called(descendants(driver), "/raylet"))
        driver.wait(SECONDS)  # it says so and ends, rather than wait for a node that will not come back


@disturbance
def raylet_of_one_node_killed(place: Place, generator: random.Random) -> None:
    """Its units go on on the other node."""
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        other = nodes.add_node(num_cpus=1)
        place.changes.append("cluster.address=auto")
        place.environment["RAY_ADDRESS"] = nodes.address
        with in_training(place, generator) as driver:
            other.kill_raylet()
            check(driver.wait(SECONDS) == 0, "the sweep did not outlive a node")
    finally:
        nodes.shutdown()
        place.changes.remove("cluster.address=auto")
        place.environment.clear()


@disturbance
def all_of_ray_killed(place: Place, generator: random.Random) -> None:
    with in_training(place, generator) as driver:
        kill(called(descendants(driver), *RAY))
        driver.wait(SECONDS)


@disturbance
def second_driver(place: Place, generator: random.Random) -> None:
    """It refuses; the first one goes on."""
    with in_training(place, generator) as driver:
        check(place.finish() == 2, "a second driver did not refuse")
        check("another sweep is running here" in place.printed, "the second driver did not say why")
        check(driver.wait(SECONDS) == 0, "the first driver failed")
