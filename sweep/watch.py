"""What the driver looks at while Tune runs: the display's beat, Ctrl-C, workers that hang, nodes that are gone."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray
from ray.air.execution._internal import RayActorManager
from ray.exceptions import OutOfMemoryError, RayActorError, RayError
from ray.tune import Callback

SECONDS_BETWEEN_LOOKS = 1.0
SECONDS_FOR_AN_ANSWER = 10.0
_task_failed = RayActorManager._actor_task_failed


class Watch(Callback):
    """Runs between two steps of Tune's loop, where stopping leaves nothing half done."""

    def __init__(
        self,
        beat: Callable[[], None],
        stop: threading.Event,
        folders: Callable[[str], Iterable[Path]],
        stall_minutes: float,
    ) -> None:
        """Args:
        beat: called with every look, to show progress.
        stop: set when the user wants to stop.
        folders: in which a trial works.
        stall_minutes: a worker in whose folders nothing changes for so long is killed; its units are tried again.
        """
        self._beat, self._stop, self._folders, self._stall_minutes = beat, stop, folders, stall_minutes
        self._next_look = 0.0
        self.actors: dict[str, Any] = {}
        self.nodes: dict[str, str] = {}
        """Of each trial's worker."""
        self._progress: dict[str, tuple[object, float]] = {}
        self.stalled: dict[str, str] = {}
        """Why a trial's worker was killed."""
        self.avoiding: dict[str, frozenset[str]] = {}
        """Nodes on which a trial must not run; if all others are gone before it has begun, the sweep ends."""
        self.needed: Mapping[str, float] = {}
        """Resources of a unit."""
        self.more_nodes_may_come = False
        self.error: Exception | None = None

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        actor = self.actors[trial.trial_id] = trial.temporary_state.ray_actor
        with suppress(RayError):  # dead already, or it hangs; Tune or the next looks find out
            self.nodes[trial.trial_id] = ray.get(actor.node.remote(), timeout=SECONDS_FOR_AN_ANSWER)
        self.avoiding.pop(trial.trial_id, None)

    def forget(self, trial_id: str) -> None:
        """The trial has ended."""
        for table in (self.actors, self.nodes, self._progress, self.stalled, self.avoiding):
            table.pop(trial_id, None)

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._beat()
            self._look(now)
            took = time.monotonic() - now
            self._next_look = now + took + max(SECONDS_BETWEEN_LOOKS, 20 * took)  # a twentieth of the driver's time
        if self._stop.is_set() or self.error:
            raise KeyboardInterrupt

    def _look(self, now: float) -> None:
        draining, able = draining_nodes(), self.able_nodes().keys()
        stuck = any(avoided and able <= avoided for avoided in self.avoiding.values())
        if not living_nodes() or (stuck and not self.more_nodes_may_come):
            self.error = ConnectionError("Ray's nodes are gone: the same command goes on where this one stopped")
        for trial_id, actor in self.actors.items():
            if self.nodes.get(trial_id) in draining:
                ray.kill(actor)  # its units go on elsewhere from their last epochs
            else:
                self._look_at(trial_id, now)

    def able_nodes(self) -> dict[str, Mapping[str, float]]:
        """Living nodes on which a unit has room when nothing else runs there; a head often has none."""
        return {
            node: there
            for node, there in living_nodes().items()
            if all(there.get(name, 0) >= amount for name, amount in self.needed.items())
        }

    def _look_at(self, trial_id: str, now: float) -> None:
        state = [last_change(folder) for folder in self._folders(trial_id)]
        before, since = self._progress.get(trial_id, (None, now))
        self._progress[trial_id] = (state, since if state == before else now)
        if state == before and now - since >= 60 * self._stall_minutes:
            self.stalled[trial_id] = f"no progress for {self._stall_minutes:g} minutes (resources.stall_minutes)"
            ray.kill(self.actors[trial_id])

    def __reduce__(self) -> tuple[type[Callback], tuple[()]]:
        return Callback, ()


def outlive_lack_of_memory() -> None:
    """Make the death of a worker that Ray's memory monitor kills a trial's failure: it would end all of Tune."""

    def failed(self: RayActorManager, tracked_actor_task: Any, exception: Exception) -> None:
        killed = isinstance(exception, OutOfMemoryError)
        _task_failed(self, tracked_actor_task, RayActorError(error_msg=str(exception)) if killed else exception)

    RayActorManager._actor_task_failed = failed  # type: ignore[method-assign]


def living_nodes() -> dict[str, Mapping[str, float]]:
    """Resources by node, of those that are not about to be taken away."""
    draining = draining_nodes()
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: node["Resources"] for node in nodes if node["Alive"] and node["NodeID"] not in draining}


def draining_nodes() -> set[str]:
    """Nodes that Ray was told to drain, as when a spot machine's notice came."""
    return set(ray._private.state.state.get_draining_nodes())


def last_change(folder: Path) -> tuple[Path, int]:
    """Compared with itself only: no clock need agree with another."""
    changes = [0]
    for path in folder.glob("*"):
        with suppress(FileNotFoundError):  # a file that was being written has got its name meanwhile
            changes.append(path.stat().st_mtime_ns)
    return folder, max(changes)
