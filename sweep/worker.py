"""A worker on Ray: trains the packs of units that it is given, and leaves results and failures in the ledger."""

from __future__ import annotations

import os
import traceback
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ray
from ray import tune

from sweep.ledger import FailureKind, Ledger, Unit
from sweep.settings import Configuration
from sweep.storage import at_hand, fetch_file


@dataclass(frozen=True)
class Work:
    """What a worker is told of a unit: what to train, and where its results go."""

    configuration: Configuration
    fold: int
    ledger: Ledger
    split: Path
    hopeless_below: tuple[float, ...] = ()

    @property
    def unit(self) -> Unit:
        return Unit(self.configuration.digest, self.fold)

    def inside(self, run: Path) -> Work:
        """The same in another folder of the run."""
        split = run / self.split.relative_to(self.ledger.folder.parent)
        fetch_file(split)
        return replace(self, ledger=replace(self.ledger, folder=run / self.ledger.folder.name), split=split)


def _lacks_memory(error: Exception) -> bool:
    return "Memory" in type(error).__name__ or "allocate memory" in str(error)  # on a GPU; on a CPU


class FoldTrainable(tune.Trainable):
    """A warm worker process: every step trains a pack of units, start to end.

    Its config: the `pack`; the `directory` where the sweep was started, so that relative paths mean the same here; the
    patch `store`; a `node_folder` on the node's own disk for a copy of it, or None; the URLs of both, or None; and
    EpochCheckpoint's `saving_share`.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._config = config
        os.chdir(config["directory"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def step(self) -> dict[str, Any]:
        pack: list[Work] = self._config["pack"]
        with at_hand(self._config["url"] or str(pack[0].ledger.folder.parent), None) as run:
            self._work([one.inside(run) for one in pack])
        return {"folds": len(pack)}

    def _work(self, pack: Sequence[Work]) -> None:
        begun = {one: one.ledger.begin(one.unit) for one in pack}
        try:
            failed = self._train(begun)
        except Exception as error:
            # Other errors may quote paths, which may hold names: the traceback stays in the units' folders.
            remedy = "; lower training.batch_size" if _lacks_memory(error) else ""
            for one, folder in begun.items():
                (folder / "error.txt").write_text(traceback.format_exc())
                reason = f"{type(error).__name__}{remedy}, see error.txt in the unit's folder"
                one.ledger.record_failure(one.unit, reason, "retry")
            raise  # ends the process: nothing of a broken one, a CUDA context say, reaches the next unit
        for one in pack:
            if one in failed:
                one.ledger.record_failure(one.unit, *failed[one])
            else:
                one.ledger.finish(one.unit)

    def _train(self, begun: dict[Work, Path]) -> dict[Work, tuple[str, FailureKind]]:
        """Why training diverged or is hopeless, by unit; no entry where it ended well."""
        # Imported by the worker alone: the driver never pays for torch.
        from lightning_modules.checkpoint import HopelessError
        from sweep.node_copy import on_own_disk
        from sweep.train_fold import Task, train_pack

        store, saving_share = self._config["store"], self._config["saving_share"]
        # What has its last file was killed before its DONE; what is done was so by a worker that outlived its driver.
        tasks = {
            one: Task(one.configuration, one.fold, folder, one.split, one.hopeless_below, saving_share)
            for one, folder in begun.items()
            if not (folder / "result.json").exists() and not one.ledger.is_done(one.unit)
        }
        store = on_own_disk(store, self._config["node_folder"], self._config["store_url"])
        ended = zip(tasks, train_pack([*tasks.values()], store) if tasks else [], strict=True)
        return {one: (str(why), "hopeless" if isinstance(why, HopelessError) else "final") for one, why in ended if why}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps nothing: the unit's own checkpoint is in its working folder."""
