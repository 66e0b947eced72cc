"""Ray Tune over search.py and train_fold.py: a thin Searcher, Trainable and Callback. A trial is a pack of units."""

import errno
import logging
import os
import signal
import tempfile
import threading
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import ray
from ray import tune
from ray.tune import RunConfig, TuneConfig
from ray.tune.search import Searcher

from datasets.patch_store import PatchStore
from sweep.allocation import fold_resources, pack_size, trial_resources
from sweep.candidate import Candidate
from sweep.ledger import Unit
from sweep.node_copy import publish
from sweep.search_pool import SearchPool
from sweep.settings import Cluster, Configuration, Settings, SettingsError, is_url
from sweep.storage import share
from sweep.watch import Watch, living_nodes, outlive_lack_of_memory
from sweep.worker import FoldTrainable, Work

WORKER_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "1",  # a unit without a GPU sees none
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # the working directory is the sweep's
}

Pack = list[tuple[Candidate, int]]

log = logging.getLogger("sweep")


class UnitSearcher(Searcher):
    """Passes the pool's units to Tune and Tune's outcomes back.

    Tune would take an exception in here for a failed trial, so the first one is kept for the driver and ends the sweep.
    """

    def __init__(
        self,
        pool: SearchPool,
        on_event: Callable[[Candidate, int], None],
        watch: Watch,
        config: Mapping[str, Any],
    ) -> None:
        """`config`: of every worker, see FoldTrainable; the others as for `run_units`."""
        super().__init__()
        self._pool, self._on_event, self._watch = pool, on_event, watch
        self._common, self._packs = config, dict[str, Pack]()
        self._failed_on = defaultdict[Unit, set[str]](set)
        self.pack_size: Callable[[Configuration], int] = lambda _: 1
        self.error: Exception | None = None

    @contextmanager
    def _errors_kept(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self.error = self.error or error

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:  # type: ignore[override]  # Ray's own FINISHED is a str
        with self._errors_kept():
            if self.error or self._pool.is_finished:
                return Searcher.FINISHED
            # A retry waits for more room than others leave: nobody else starts before it has.
            if self._watch.avoiding or not (pack := self._next_pack()):
                return None
            self._packs[trial_id] = pack
            return self._config(pack) | (self._elsewhere(trial_id, pack) if _is_retry(pack) else {})
        return Searcher.FINISHED

    def is_over(self, trial_id: str, result: Mapping[Any, Any]) -> bool:
        """After a pack: whether its worker's trial ends. Else the worker has been given the next pack.

        So Tune's time and memory for a trial are spent once a worker, not once a unit.
        """
        was_retry = _is_retry(self._packs[trial_id])
        self._end_pack(trial_id)
        with self._errors_kept():
            if was_retry or self._watch.avoiding or self.error or not (pack := self._next_pack()):
                return True
            if _is_retry(pack):  # for a worker with more room
                self._pool.stage(pack[0][0]).search.returned(*pack[0])
                return True
            self._packs[trial_id] = pack
            self._watch.actors[trial_id].reset_config.remote(self._config(pack))
        return self.error is not None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        self._end_pack(trial_id)
        self._watch.forget(trial_id)

    def folders(self, trial_id: str) -> list[Path]:
        """In which a trial's worker works."""
        pack = self._packs.get(trial_id, [])
        return [self._pool.stage(candidate).ledger.partial(candidate.unit(fold)) for candidate, fold in pack]

    def _next_pack(self) -> Pack:
        """Units for one worker; one that failed before goes alone, so that it takes no others with it again."""
        pack: Pack = []
        size = 1
        while len(pack) < size and (unit := self._pool.next_unit()):
            pack.append(unit)
            size = 1 if _is_retry(pack[:1]) else self.pack_size(pack[0][0].configuration)
        return pack

    def _config(self, pack: Pack) -> dict[str, Any]:
        return {"pack": [self._work(candidate, fold) for candidate, fold in pack], **self._common}

    def _work(self, candidate: Candidate, fold: int) -> Work:
        stage = self._pool.stage(candidate)
        for path in (stage.split, stage.journal):
            share(path)  # no unit is trained before its candidate stands at the URL
        bar = stage.search.hopeless_below(candidate, fold)
        return Work(candidate.configuration, fold, stage.ledger, stage.split, bar)

    def _elsewhere(self, trial_id: str, pack: Pack) -> dict[str, Any]:
        """A retry gets twice the room of the last try, for memory may have been short, and another node if any."""
        nodes = self._watch.able_nodes()
        failed_on = set[str]().union(*(self._failed_on[candidate.unit(fold)] for candidate, fold in pack))
        avoid = frozenset(failed_on & nodes.keys() if nodes.keys() - failed_on else ())
        self._watch.avoiding[trial_id] = avoid
        tries = max(candidate.tries.get(fold, 0) for candidate, fold in pack)
        return {"times": 2**tries, "nodes": list(nodes.values()), "avoid": sorted(avoid)}

    def _end_pack(self, trial_id: str) -> None:
        """Whatever Tune says of the trial, the ledger says which of its units are done."""
        node, stalled = self._watch.nodes.get(trial_id), self._watch.stalled.get(trial_id)
        for candidate, fold in self._packs.pop(trial_id, []):
            with self._errors_kept():
                self._take_outcome(candidate, fold, node, stalled)

    def _take_outcome(self, candidate: Candidate, fold: int, node: str | None, stalled: str | None) -> None:
        stage, unit = self._pool.stage(candidate), candidate.unit(fold)
        search, ledger = stage.search, stage.ledger
        ledger.fetch(unit)
        if ledger.is_done(unit):
            for damaged in ledger.finished(unit).glob("*.damaged"):
                log.warning("%s: a checkpoint that was not whole was not used", damaged)
            search.succeeded(candidate, fold)
        elif node and node not in living_nodes():
            log.warning("configuration %d fold %d goes on elsewhere: its node goes away", candidate.number, fold)
            search.returned(candidate, fold)  # no try of its own: machines that come and go must not fail it
            return
        else:
            reason, kind = ledger.take_failure(unit)
            if kind == "hopeless":
                search.hopeless(candidate, fold, reason)
            else:
                self._failed_on[unit] |= {node} if node else set()
                search.failed(candidate, fold, stalled or reason, final=kind == "final")
        self._on_event(candidate, fold)

    # What is done stands in the ledger and Optuna's journal: Tune's snapshots of the searcher hold nothing.
    def save(self, checkpoint_path: str) -> None:
        Path(checkpoint_path).touch()

    def __reduce__(self) -> tuple[type[Searcher], tuple[()]]:
        return Searcher, ()


def _is_retry(pack: Pack) -> bool:
    return any(candidate.tries.get(fold) for candidate, fold in pack)


def run_units(
    pool: SearchPool,
    settings: Settings,
    store: PatchStore,
    *,
    on_event: Callable[[Candidate, int], None],
    beat: Callable[[], None],
) -> None:
    """Train the pool's units on Ray until it is finished or interrupted by Ctrl-C or SIGTERM.

    An interruption ends the workers at once; each unit's last epoch is on disk.

    Args:
        pool: its ledgers and splits are where every worker sees them.
        settings: what a unit takes of a machine, and the Ray to join, if any.
        store: the cohort's patches, where every worker sees them.
        on_event: called with the candidate and fold after each outcome.
        beat: called about every second, to show progress.

    Raises:
        SettingsError: there is no such Ray, or a unit does not fit it.
    """
    _quiet()
    outlive_lack_of_memory()
    resources, cluster = settings.resources, settings.cluster
    config = _worker_config(settings, store)
    with _ray(cluster) as scratch, _stop_requested() as stop, suppress(KeyboardInterrupt):
        watch = Watch(beat, stop, lambda trial: searcher.folders(trial), resources.stall_minutes)
        searcher = UnitSearcher(pool, on_event, watch, config)
        available = ray.cluster_resources()  # type: ignore[no-untyped-call]
        needed, slots = fold_resources(resources, available, cluster.folds_at_once)
        watch.needed, watch.more_nodes_may_come = needed, cluster.folds_at_once is not None
        searcher.pack_size = partial(pack_size, resources, on_gpu=needed["GPU"] > 0, slots=slots)
        tune.Tuner(
            tune.with_resources(FoldTrainable, partial(trial_resources, needed)),
            tune_config=TuneConfig(search_alg=searcher, num_samples=-1, max_concurrent_trials=slots, reuse_actors=True),
            run_config=RunConfig(
                name="units", storage_path=scratch, verbose=0, stop=searcher.is_over, callbacks=[watch]
            ),
        ).fit()
    if (error := searcher.error or watch.error) and not stop.is_set():
        raise error


def _worker_config(settings: Settings, store: PatchStore) -> dict[str, Any]:
    """What every worker is told, see FoldTrainable; of a run at a URL, workers elsewhere fetch patches there."""
    joined, at_url = settings.cluster.address is not None, is_url(settings.output)
    return {
        "directory": Path.cwd(),
        "store": PatchStore(store.folder, store.digest),
        "node_folder": settings.cluster.node_folder if joined else None,
        "url": settings.run_folder if at_url else None,
        "saving_share": settings.resources.saving_share,
        "store_url": publish(store, settings.output) if joined and at_url else None,
    }


@contextmanager
def _ray(cluster: Cluster) -> Iterator[str]:
    """The Ray to join, else a local one, and a folder for what Tune keeps.

    Tune's threads may still write into the folder after fit() has ended by an interruption, so it goes after Ray does.
    """
    with tempfile.TemporaryDirectory(prefix="sweep-tune-", ignore_cleanup_errors=True) as scratch:
        try:
            _init(cluster)
            yield scratch
        except SettingsError:
            raise
        except Exception:
            _require_room()
            raise
        finally:
            ray.shutdown()


def _require_room() -> None:
    """Ray and Tune fail in many ways where the temporary folder is full, and do not say whose disk that is."""
    # As Ray chooses it; Python's own choice passes over a full one.
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or tempfile.gettempdir()
    try:
        with tempfile.TemporaryFile(dir=folder) as room:
            room.write(bytes(2**24))
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise OSError(error.errno, error.strerror, folder) from error


def _init(cluster: Cluster) -> None:
    quietly: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if cluster.address is None:
        ray.init(address="local", include_dashboard=False, **quietly)
        return
    try:  # nodes that others started do not have this process's environment
        ray.init(address=cluster.address, runtime_env={"env_vars": WORKER_ENVIRONMENT}, **quietly)
    except ConnectionError as error:
        raise SettingsError(
            f"cluster.address={cluster.address}: no Ray runs on this machine; "
            "start one (`ray up`, `ray start --head`), or write null"
        ) from error


@contextmanager
def _stop_requested() -> Iterator[threading.Event]:
    """Set by the first SIGINT or SIGTERM; the second one acts as it would have before."""
    stop = threading.Event()
    with ExitStack() as before:

        def request(*_: object) -> None:
            stop.set()
            before.close()

        for number in (signal.SIGINT, signal.SIGTERM):
            before.callback(signal.signal, number, signal.signal(number, request))
        yield stop


def _quiet() -> None:
    """Tune writes no logs of its own; the sweep's stand in the run folder."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # the new output prints a banner even at verbose=0
    os.environ.setdefault("TUNE_DISABLE_SIGINT_HANDLER", "1")  # Tune's own waits for the units; see _stop_requested
    os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "3600")
    os.environ.update(WORKER_ENVIRONMENT)
    logging.getLogger("ray.tune").setLevel(logging.CRITICAL)
