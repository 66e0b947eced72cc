"""How much of the slots' time a sweep spends in training, and what a decision costs as a sweep grows.

    python benchmarks/scaling.py [--slots 1 4 16 64] [--seconds 30] [--rounds 2]   all that follows, about 20 minutes
    python benchmarks/scaling.py --only sweep      slots of one machine's Ray, whose folds sleep
    python benchmarks/scaling.py --only peers      plain Ray Tune, fresh and reused actors, two slots and folds of 2 s
    python benchmarks/scaling.py --only core [search.sampler=RandomSampler …] [--units 100 …]   1,000 slots, without Ray

The adapter, search, ledger and journal are the sweep's own; a fold sleeps instead of training and leaves files of the
size that a narrow network's has. A gap is the time between two folds in one worker; the share is that of folds in the
time between a worker's first and last, and, start-up and end included, in all the time of all slots. Without Ray the
slots are simulated: each waits for the driver, which decides for one after the other in the processor time that it
really takes.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import psutil
import ray
from ray import tune
from ray.cluster_utils import Cluster as Nodes
from scipy import special  # by its module: a worker would look for a ufunc in __main__

from datasets.patch_store import PatchStore
from sweep import tune_adapter
from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.ledger import Ledger, Unit
from sweep.proposals import open_study
from sweep.run_folder import RunFolder, open_search, write_tables
from sweep.search_pool import SearchPool, Stage
from sweep.settings import Settings
from sweep.worker import FoldTrainable

FOLDS = 10
SLOTS_A_NODE = 16


def settings(configurations: int, *more: str) -> Settings:
    return load_settings([f"folds.count={FOLDS}", f"search.configurations={configurations}", *more])


def write_unit(folder: Path, unit: Unit, result: dict[str, Any], weights: int = 342_000) -> None:
    """What a fold leaves: predictions of 30 patients with two slices each, by a configuration of its own quality."""
    quality = int(unit.configuration[:6], 16) % 997 / 500
    label = np.repeat(np.arange(30) % 3 == 0, 2)
    score = np.random.default_rng([int(unit.configuration, 16), unit.fold]).normal(quality * label, 1)
    table = pd.DataFrame({"label": label.astype(int), "probability": special.ndtr(score)})
    table.insert(0, "patient_id", [f"{unit.fold}-{row // 2:03d}" for row in range(60)])
    table.insert(1, "sop_instance_uid", [f"1.2.826.0.1.3680043.8.498.{unit.fold}.{row}" for row in range(60)])
    for name in ("predictions", "inner_predictions"):
        table.to_parquet(folder / f"{name}.parquet", index=False)
    (folder / "curve.csv").write_text("epoch,train_loss,inner_loss,inner_auc\n" + "0,0.5,0.5,0.5\n" * 50)
    (folder / "weights.pt").write_bytes(bytes(weights))
    (folder / "result.json").write_text(json.dumps(result | {"epochs": 50, "best_epoch": 0, "seconds": 1.0}))


class SleepingTrainable(FoldTrainable):
    """A worker whose folds sleep."""

    def step(self) -> dict[str, Any]:
        started = time.monotonic()
        for one in self._pack:
            folder = one.ledger.begin(one.unit)
            time.sleep(float(os.environ.get("SECONDS_A_FOLD", "1")))
            write_unit(folder, one.unit, {"worker": os.getpid(), "started": started, "ended": time.monotonic()})
            one.ledger.finish(one.unit)
        return {"folds": len(self._pack)}


@contextmanager
def nodes(slots: int) -> Iterator[str]:
    """Ray on this machine, with as many slots as asked for on nodes of at most SLOTS_A_NODE."""
    sizes = [min(SLOTS_A_NODE, slots - start) for start in range(0, slots, SLOTS_A_NODE)]
    cluster = Nodes(initialize_head=True, head_node_args={"num_cpus": sizes[0], "include_dashboard": False})
    for size in sizes[1:]:
        cluster.add_node(num_cpus=size)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()


def sweep(slots: int, seconds: float, rounds: int) -> None:
    """Print the share and gaps of a sweep in which every slot has `rounds` folds."""
    os.environ["SECONDS_A_FOLD"] = str(seconds)
    chosen = settings(-(-slots * rounds // FOLDS), "resources.gpus_per_fold=0")
    with tempfile.TemporaryDirectory() as name, nodes(slots) as address:
        folder = Path(name)
        ledger, journal = Ledger(folder / "ledger", "split"), folder / "optuna.journal"
        search = open_search(chosen, open_study(journal, "scaling", chosen.own_values()), ledger, FOLDS)
        pool = SearchPool([iter([Stage("scaling", 0, search, ledger, folder, journal)])])
        store, began = PatchStore(folder, ""), time.monotonic()
        joined = chosen.model_copy(update={"cluster": chosen.cluster.model_copy(update={"address": address})})
        tune_adapter.run_units(pool, joined, store, on_event=lambda *_: None, beat=lambda: None)
        report(f"{slots} slots", ledger.folder, began, slots)


def report(name: str, ledger: Path, began: float, slots: int) -> None:
    all_of_it = slots * (time.monotonic() - began)
    by_worker: dict[int, list[tuple[float, float]]] = {}
    for path in ledger.rglob("result.json"):
        result = json.loads(path.read_text())
        by_worker.setdefault(result["worker"], []).append((result["started"], result["ended"]))
    spans = [sorted(worker) for worker in by_worker.values()]
    gaps = [later[0] - earlier[1] for span in spans for earlier, later in itertools.pairwise(span)]
    inside = sum(ended - started for span in spans for started, ended in span)
    whole = sum(span[-1][1] - span[0][0] for span in spans)
    first = min(span[0][0] for span in spans) - began
    last = max(span[0][0] for span in spans) - began
    middle, most = (statistics.median(gaps), max(gaps)) if gaps else (0.0, 0.0)
    print(
        f"{name}: {len(by_worker)} workers, {sum(map(len, spans))} folds, {inside / whole:.2%} of slot time in folds "
        f"({inside / all_of_it:.2%} with start-up and end), "
        f"gap {1000 * middle:.0f} ms (most {1000 * most:.0f}); first worker after {first:.1f} s, last {last:.1f} s",
        flush=True,
    )


class Trivial(tune.Trainable):
    """A trial of plain Ray Tune that sleeps."""

    def setup(self, config: dict[str, Any]) -> None:
        self.folder = Path(config["folder"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        return True

    def step(self) -> dict[str, Any]:
        started = time.monotonic()
        time.sleep(float(os.environ.get("SECONDS_A_FOLD", "1")))
        result = {"worker": os.getpid(), "started": started, "ended": time.monotonic()}
        folder = self.folder / self.trial_id
        folder.mkdir(parents=True)
        (folder / "result.json").write_text(json.dumps(result))
        return {"done": True}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Nothing."""


def peers(slots: int, seconds: float, rounds: int) -> None:
    """Plain Ray Tune: a trial a fold. With fresh actors no worker has two folds: wall time over that of the folds."""
    os.environ["SECONDS_A_FOLD"] = str(seconds)
    for reuse in (True, False):
        with tempfile.TemporaryDirectory() as name, nodes(slots) as address:
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
            began = time.monotonic()
            tune.Tuner(
                tune.with_resources(Trivial, {"cpu": 1}),
                param_space={"folder": f"{name}/folds"},
                tune_config=tune.TuneConfig(num_samples=slots * rounds, reuse_actors=reuse),
                run_config=tune.RunConfig(storage_path=f"{name}/tune", verbose=0),
            ).fit()
            wall = time.monotonic() - began
            report(
                f"Ray Tune, reuse_actors={reuse}, {wall / rounds - seconds:.2f} s a trial above its sleep",
                Path(name, "folds"),
                began,
                slots,
            )


def core(units: int, more: list[str], seconds: float, slots: int = 1000) -> None:
    """Search and ledger without Ray: the driver's time a unit and memory, then the same sweep resumed."""
    chosen = core_settings(units, more)
    with tempfile.TemporaryDirectory() as name:
        run, began = RunFolder(Path(name)), time.monotonic()
        ledger, study = Ledger(run.ledger, "split"), open_study(run.journal, "scaling", chosen.own_values())
        search = open_search(chosen, study, ledger, FOLDS)
        before, times, writing = psutil.Process().memory_info().rss, list[float](), 0.0
        running: list[tuple[float, int, tuple[Candidate, int]]] = []
        driver, ended, numbers = 0.0, 0.0, itertools.count()

        def decided(decision: Callable[..., Any], *arguments: Any) -> Any:
            clock = time.process_time()
            outcome = decision(*arguments)
            times.append(time.process_time() - clock)
            return outcome

        while True:
            while len(running) < slots:
                unit = decided(search.next_unit)
                driver += times[-1]
                if not unit:
                    break
                heapq.heappush(running, (driver + seconds, next(numbers), unit))
            if not running:
                break
            ended, _, (candidate, fold) = heapq.heappop(running)
            clock = time.process_time()
            write_unit(ledger.begin(candidate.unit(fold)), candidate.unit(fold), {}, weights=1000)
            ledger.finish(candidate.unit(fold))
            writing += time.process_time() - clock
            decided(search.succeeded, candidate, fold)
            driver = max(driver, ended) + times[-1]
        done = sum(len(candidate.fold_aucs) for candidate in search.candidates)
        memory, last = psutil.Process().memory_info().rss - before, times[-len(times) // 10 :]
        share = done * seconds / (slots * ended)
        what = ", ".join([f"{units} units", f"{slots} slots", *more])
        print(
            f"{what}: {done} trained, {1000 * sum(times) / done:.2f} ms a decision "
            f"(in the last tenth {1000 * sum(last) / (len(last) / 2):.2f}), {memory / done / 1000:.1f} kB a unit; "
            f"{share:.2%} of all slots' time in folds of {seconds:g} s, start and end included; "
            f"the ledger's writing {1000 * writing / done:.2f} ms; {time.monotonic() - began:.0f} s in all",
            flush=True,
        )
        again = f"import benchmarks.scaling as s; s.resume({units}, {more!r}, {name!r})"
        os.spawnl(os.P_WAIT, sys.executable, sys.executable, "-c", again)


def core_settings(units: int, more: list[str]) -> Settings:
    return settings(-(-units // FOLDS), *more)


def resume(units: int, more: list[str], folder: str) -> None:
    """In a fresh process, which has looked at no unit yet."""
    chosen, run, began = core_settings(units, more), RunFolder(Path(folder)), time.monotonic()
    ledger, study = Ledger(run.ledger, "split"), open_study(run.journal, "scaling", chosen.own_values())
    search = open_search(chosen, study, ledger, FOLDS)
    assert search.is_finished
    searched = time.monotonic()
    write_tables(run, ledger, search.candidates, chosen.evaluation)
    print(
        f"  resumed, every checksum looked at, in {searched - began:.1f} s; "
        f"tables written in {time.monotonic() - searched:.1f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--slots", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--only", choices=["sweep", "peers", "core"])
    parser.add_argument("--units", type=int, nargs="+", default=[100, 1000, 10_000])
    parser.add_argument("settings", nargs="*", help="of the core's sweep")
    chosen = parser.parse_args()
    if chosen.only in (None, "core"):
        for units in chosen.units:
            core(units, chosen.settings, chosen.seconds)
    tune_adapter.FoldTrainable = SleepingTrainable  # type: ignore[misc]
    if chosen.only in (None, "peers"):
        peers(slots=2, seconds=2.0, rounds=5)
    if chosen.only in (None, "sweep"):
        for slots in chosen.slots:
            sweep(slots, chosen.seconds, chosen.rounds)


if __name__ == "__main__":
    main()
