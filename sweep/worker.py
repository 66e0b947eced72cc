"""A worker on Ray: trains the packs of units that it is given, and leaves results and failures in the ledger."""

from __future__ import annotations

import os
import traceback
from pathlib import Path
from typing import Any

import ray
from pydantic import BaseModel
from ray import tune

from sweep.ledger import Ledger, Unit
from sweep.settings import Configuration


class Workplace(BaseModel, frozen=True):
    """Where every worker finds the sweep's data and leaves its results; all on storage that workers share."""

    directory: Path
    """Where the sweep was started: relative paths of the settings mean the same in workers."""
    ledger: Path
    split: Path
    split_digest: str
    store: Path
    store_digest: str
    node_folder: Path | None = None
    """On every node's own disk, for a copy of the patches; None: they are read where they are."""


class PackedUnit(BaseModel, frozen=True):
    """What a worker is told of a unit."""

    configuration: Configuration
    fold: int
    workplace: Workplace

    @property
    def unit(self) -> Unit:
        return Unit(self.configuration.digest, self.fold)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.workplace.ledger, self.workplace.split_digest)


class FoldTrainable(tune.Trainable):
    """A warm worker process: every step trains a pack of units, start to end."""

    def setup(self, config: dict[str, Any]) -> None:
        self._pack = [PackedUnit.model_validate(one) for one in config["pack"]]
        os.chdir(self._pack[0].workplace.directory)

    def reset_config(self, new_config: dict[str, Any]) -> bool:
        self.setup(new_config)
        return True

    def node(self) -> str:
        return str(ray.get_runtime_context().get_node_id())

    def step(self) -> dict[str, Any]:
        # Imported by the worker alone: the driver never pays for torch.
        from datasets.node_copy import on_own_disk
        from datasets.patches import PatchStore
        from sweep.train_fold import Task, train_pack

        begun = [(one, one.ledger.begin(one.unit)) for one in self._pack]
        # What has its last file was killed before its DONE.
        tasks = {
            one: Task(one.configuration, one.fold, folder, one.workplace.split)
            for one, folder in begun
            if not (folder / "result.json").exists()
        }
        try:
            place = self._pack[0].workplace
            store = PatchStore(place.store, place.store_digest)
            if place.node_folder:
                store = on_own_disk(store, place.node_folder)
            diverged = train_pack([*tasks.values()], store) if tasks else []
        except Exception as error:
            # Other errors may quote paths, which may hold names: the traceback stays in the units' folders.
            for one, folder in begun:
                (folder / "error.txt").write_text(traceback.format_exc())
                reason = f"{type(error).__name__}, see error.txt in the unit's folder"
                one.ledger.record_failure(one.unit, reason, final=False)
            raise  # ends the process: nothing of a broken one, a CUDA context say, reaches the next unit
        failed = dict(zip(tasks, diverged, strict=True))
        for one in self._pack:
            if why := failed.get(one):
                one.ledger.record_failure(one.unit, str(why), final=True)
            else:
                one.ledger.finish(one.unit)
        return {"folds": len(self._pack)}

    def save_checkpoint(self, checkpoint_dir: str) -> None:
        """Tune keeps nothing: the unit's own checkpoint is in its working folder."""
