"""A plugin of Lightning by which one unit goes wrong at one of its epochs, in as many of its tries as wanted.

Loaded by every worker that finds the folder of `install` on its PYTHONPATH.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import pytorch_lightning as pl
import torch

from lightning_modules.fold_training import FoldTraining
from lightning_modules.pack import FoldPack
from tests.failures import plugin

Kind = Literal["nan", "memory"]


def install(folder: Path, kind: Kind, *, epoch: int, step: int, tries: int) -> None:
    """The first unit that comes to this step of this epoch has no numbers as its weights, or lacks memory."""
    plugin.install(folder, "bad_unit")
    plan = {"kind": kind, "epoch": epoch, "step": step, "tries": tries}
    (folder / "plan.json").write_text(json.dumps(plan))


class BadUnit(pl.Callback):
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._plan: dict[str, Any] = json.loads((folder / "plan.json").read_text())

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: FoldPack, *arguments: Any) -> None:  # type: ignore[override]
        step = min(self._plan["step"], int(trainer.num_training_batches) - 1)
        for fold in pl_module.running():
            if (fold.epoch, arguments[-1]) == (self._plan["epoch"], step) and self._is_hit(fold, pl_module):
                if self._plan["kind"] == "memory":
                    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB.")
                with torch.no_grad():
                    next(fold.classifier.parameters()).fill_(torch.nan)

    def _is_hit(self, fold: FoldTraining, pack: FoldPack) -> bool:
        victim, seed = self._folder / "victim", str(fold.classifier.seed)
        try:
            with victim.open("x") as chosen:
                chosen.write(seed)
        except FileExistsError:
            if victim.read_text() != seed:
                return False
        tries = self._folder / "tries"
        with tries.open("a") as packs:
            packs.write(str(len(pack.folds)))
        return tries.stat().st_size <= self._plan["tries"]


def callbacks() -> list[pl.Callback]:
    return [BadUnit(plugin.own_folder())]
