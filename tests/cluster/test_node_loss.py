"""Hosts that are cut off, drained or gone while a sweep trains on them: no finished fold is lost or trained again, and
the result is that of the undisturbed sweep. Those marked `by_hand` take minutes: `pytest -m by_hand tests/cluster`."""

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pandas as pd
import pytest

from tests.cluster.hosts import CHECKOUT, Hosts, hosts
from tests.cluster.test_ray_up import BIN, HEAD, alive
from tests.failures.run import undisturbed
from tests.failures.sweeps import SECONDS, SETTINGS, Place, check_complete, check_kept, check_same, until

# Folds of a second would be over before anything is done to their hosts.
LONGER = ["training.epochs=40", "training.patience=40"]
WORKERS, TOKEN = (2, 3), "0123456789abcdef" * 4
# A host counts as gone after some three seconds of silence, not after Ray's thirty.
IMPATIENT = "RAY_health_check_initial_delay_ms=0 RAY_health_check_period_ms=500 RAY_health_check_timeout_ms=1000"
RAY = f"PYTHONPATH={CHECKOUT} RAY_AUTH_MODE=token {IMPATIENT} RAY_health_check_failure_threshold=4 {BIN}/ray"
NODES = "import ray; ray.init('auto', log_to_driver=False); "
NODES += "print(*(n['NodeID'] for n in ray.nodes() if n['Alive'] and n['NodeManagerAddress'] == '{}'))"


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """A head without CPUs and two workers with two each."""
    with hosts(1 + len(WORKERS), tmp_path_factory.mktemp("hosts")) as group:
        start_ray(group, HEAD)
        yield group


def ray(group: Hosts, host: int, command: str) -> None:
    group.run(host, f"mkdir -p ~/.ray && echo {TOKEN} >~/.ray/auth_token && {RAY} {command}")


def start_ray(group: Hosts, host: int) -> None:
    head = group.address(HEAD)
    joining = f"--address={head}:6379 --num-cpus=2"
    heading = f"--head --port=6379 --node-ip-address={head} --num-cpus=0 --include-dashboard=false"
    ray(group, host, f"start {heading if host == HEAD else joining}")


@pytest.fixture(scope="module")
def reference(group: Hosts) -> Place:
    return undisturbed(group.shared, *LONGER)


@pytest.fixture
def workers(group: Hosts) -> None:
    """All are there, whatever an earlier test did to them."""
    for host in WORKERS:
        if group.address(host) not in alive(group):
            group.kill(host)
            group.start(host)
            start_ray(group, host)


@contextmanager
def started(group: Hosts, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """A sweep whose driver is on the head."""
    place.folder.mkdir(exist_ok=True)
    settings = shlex.join(
        [*SETTINGS, *LONGER, f"cache={place.cache}", "cluster.address=auto", "cluster.node_folder=null"]
    )
    # What decides how sums are rounded, and ssh does not pass on.
    rounding = [f"{name}={value}" for name, value in os.environ.items() if name.startswith(("OPENBLAS_", "MKL_"))]
    environment = shlex.join(["env", *rounding, f"PYTHONPATH={CHECKOUT}", "RAY_AUTH_MODE=token", "OMP_NUM_THREADS=1"])
    python = f"{environment} {BIN}/python"
    command = group.command(HEAD, f"cd {place.folder} && exec {python} -m sweep {settings} >>printed-0 2>&1")
    driver = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        yield driver
    finally:
        driver.kill()
        driver.wait()


@contextmanager
def running(group: Hosts, place: Place) -> Iterator[subprocess.Popen[bytes]]:
    """The same in the middle of folds on every worker."""
    with started(group, place) as driver:
        until(lambda: all(training(group, host) for host in WORKERS) and checkpoints(place), driver, pause=0.3)
        yield driver


def training(group: Hosts, host: int) -> list[str]:
    """Process ids of a host's workers."""
    return group.run(host, "pgrep -f [T]rainable.train", check=False).stdout.split()


def are_retried(group: Hosts, place: Place, failed: int) -> bool:
    return place.log.count("tried again") >= failed and all(training(group, host) for host in WORKERS)


def checkpoints(place: Place) -> list[Path]:
    return list(place.run.glob("ledger/*/*/*.partial-*/last.ckpt"))


def finish(place: Place, reference: Place, driver: subprocess.Popen[bytes]) -> None:
    """Wait for the sweep's end and look at what came out."""
    before = place.units()
    assert driver.wait(SECONDS) == 0, place.printed
    check_kept(before, place)
    check_complete(place)
    check_same(place, reference)
    outcomes = re.findall(r"configuration \d fold \d: AUC", place.log)
    assert len(outcomes) == len(set(outcomes)), "a fold was finished twice"


def trained_on(unit: Path) -> str:
    return str(json.loads((unit / "result.json").read_text())["host"])


def hold(group: Hosts, host: int) -> None:
    """Folds of seconds would else be finished before the host is given up."""
    group.run(host, "pkill -STOP -f [T]rainable.train")


@pytest.mark.usefixtures("workers")
def test_the_try_after_a_killed_one_is_on_another_host(group: Hosts, reference: Place) -> None:
    place = Place(group.shared / "killed", reference.cache)
    with running(group, place) as driver:
        group.run(WORKERS[0], f"kill -9 {training(group, WORKERS[0])[0]}")
        finish(place, reference, driver)
    ((number, fold),) = re.findall(r"configuration (\d) fold (\d): failed, will be tried again", place.log)
    (digest,) = pd.read_csv(place.run / "configurations.csv").query(f"configuration == {number}")["digest"]
    (again,) = place.run.glob(f"ledger/{digest}/*/fold-{fold}")
    assert trained_on(again) == f"ray{group.network}-{WORKERS[1]}"


@pytest.mark.usefixtures("workers")
def test_units_killed_on_every_host_get_their_third_try(group: Hosts, reference: Place) -> None:
    """There is no other host for it then, as the head has no CPUs."""
    place = Place(group.shared / "everywhere", reference.cache)
    with running(group, place) as driver:
        for failed in (0, 2 * len(WORKERS)):
            until(partial(are_retried, group, place, failed), driver, pause=0.3)
            for host in WORKERS:
                group.run(host, "pkill -9 -f [T]rainable.train")
        finish(place, reference, driver)


@pytest.mark.usefixtures("workers")
def test_a_host_that_is_gone_for_good_is_done_without(group: Hosts, reference: Place) -> None:
    place = Place(group.shared / "gone", reference.cache)
    with running(group, place) as driver:
        hold(group, WORKERS[0])
        group.kill(WORKERS[0])
        finish(place, reference, driver)
    assert "goes on elsewhere" in place.log and "tried again" not in place.log


@pytest.mark.by_hand
@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("seconds", [1, 30])
def test_a_host_is_cut_off_and_healed(seconds: int, group: Hosts, reference: Place) -> None:
    """For less time than it takes to be given up, and for so long that its folds have gone on elsewhere."""
    place = Place(group.shared / f"cut-{seconds}", reference.cache)
    with running(group, place) as driver:
        hold(group, WORKERS[0])
        group.cut(WORKERS[0])
        time.sleep(seconds)
        group.heal(WORKERS[0])
        group.run(WORKERS[0], "pkill -CONT -f [T]rainable.train", check=False)
        finish(place, reference, driver)
    assert ("goes on elsewhere" in place.log) == (seconds == 30)


@pytest.mark.by_hand
@pytest.mark.usefixtures("workers")
def test_the_folds_of_a_draining_host_move(group: Hosts, reference: Place) -> None:
    """As on a spot machine that will be taken away: they do not wait for its end."""
    place = Place(group.shared / "draining", reference.cache)
    node = group.run(HEAD, f'RAY_AUTH_MODE=token {BIN}/python -c "{NODES.format(group.address(WORKERS[0]))}"')
    with running(group, place) as driver:
        before = place.units()
        why = "--reason DRAIN_NODE_REASON_PREEMPTION --reason-message spot --deadline-remaining-seconds 600"
        ray(group, HEAD, f"drain-node --address={group.address(HEAD)}:6379 --node-id={node.stdout.split()[-1]} {why}")
        until(lambda: not training(group, WORKERS[0]), driver)
        finish(place, reference, driver)
    assert "goes on elsewhere" in place.log and "tried again" not in place.log  # no try of its own
    late = [trained_on(unit) for unit in place.run.glob("ledger/*/*/fold-*") if unit not in before]
    assert late.count(f"ray{group.network}-{WORKERS[1]}") > len(late) / 2


@pytest.mark.by_hand
@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize("before_joining", ["stop --force", "--version"], ids=["stopped", "left_behind"])
def test_the_whole_head_is_killed(before_joining: str, group: Hosts, reference: Place) -> None:
    """Driver and Ray's control at once: workers train on, finish the folds that they have, and write them down.

    `ray up` stops them before they join again; left behind they compete with their successors for the same folds.
    """
    place = Place(group.shared / f"head-{before_joining[:4]}", reference.cache)
    with running(group, place):
        group.kill(HEAD)
    before = place.units()
    group.start(HEAD)
    for host in (HEAD, *WORKERS):
        ray(group, host, before_joining)
        start_ray(group, host)
    with started(group, place) as again:
        finish(place, reference, again)
    check_kept(before, place)
