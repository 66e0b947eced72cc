"""A worker on Ray: trains the packs of units that it is given, and leaves results and failures in the ledger."""

from __future__ import annotations

import os
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray import tune

from datasets.patches import PatchStore
from sweep.ledger import Ledger, Unit
from sweep.settings import Configuration


@dataclass(frozen=True)
class Work:
    """What a worker is told of a unit: what to train, and where its results go."""

    configuration: Configuration
    fold: int
    ledger: Ledger
    split: Path

    @property
    def unit(self) -> Unit:
        return Unit(self.configuration.digest, self.fold)


class FoldTrainable(tune.Trainable):
    """A warm worker process: every step trains a pack of units, start to end.

    Its config: the `pack`; the `directory` where the sweep was started, so that relative paths mean the same here; the
    patch `store`; and a `node_folder` on the node's own disk for a copy of it, or None.
    """

    def setup(self, config: dict[str, Any]) -> None:
        self._pack: list[Work] = config["pack"]
        self._store: PatchStore = config["store"]
        self._node_folder: Path | None = config["node_folder"]
        os.chdir(config["directory"])

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def step(self) -> dict[str, Any]:
        begun = {one: one.ledger.begin(one.unit) for one in self._pack}
        try:
            failed = self._train(begun)
        except Exception as error:
            # Other errors may quote paths, which may hold names: the traceback stays in the units' folders.
            for one, folder in begun.items():
                (folder / "error.txt").write_text(traceback.format_exc())
                reason = f"{type(error).__name__}, see error.txt in the unit's folder"
                one.ledger.record_failure(one.unit, reason, final=False)
            raise  # ends the process: nothing of a broken one, a CUDA context say, reaches the next unit
        for one in self._pack:
            if why := failed.get(one):
                one.ledger.record_failure(one.unit, str(why), final=True)
            else:
                one.ledger.finish(one.unit)
        return {"folds": len(begun)}

    def _train(self, begun: dict[Work, Path]) -> dict[Work, Exception | None]:
        """Why training diverged, by unit; None or no entry where it did not."""
        # Imported by the worker alone: the driver never pays for torch.
        from datasets.node_copy import on_own_disk
        from sweep.train_fold import Task, train_pack

        # What has its last file was killed before its DONE.
        tasks = {
            one: Task(one.configuration, one.fold, folder, one.split)
            for one, folder in begun.items()
            if not (folder / "result.json").exists()
        }
        store = on_own_disk(self._store, self._node_folder)
        return dict(zip(tasks, train_pack([*tasks.values()], store) if tasks else [], strict=True))

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps nothing: the unit's own checkpoint is in its working folder."""
