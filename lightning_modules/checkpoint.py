"""All that an epoch of a fold leaves behind, in one file that is always whole."""

import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.fold_training import FoldTraining

COLUMNS = ["epoch", "train_loss", "inner_loss", "inner_auc"]


class TrainingDivergedError(ValueError):
    """The loss is no longer a number."""


class HopelessError(ValueError):
    """The fold will hardly reach any finished training of it."""


class EpochCheckpoint(pl.Callback):
    """Saves a fold's epochs, remembers the best weights, stops early, and leaves the best weights in the model.

    folder/last.ckpt: the fold after its last saved epoch, for `resume`, unless it is over; the curve and the best
        weights so far are in it, so that it is consistent on its own.
    folder/curve.csv: epoch, train_loss, inner_loss, inner_auc; the last two empty where there is no validation set.

    The best epoch has the lowest inner_loss, the earlier of equals; without a validation set it is the last one.
    epochs: most of them. patience: epochs without a better inner_loss before training stops.
    hopeless_below: of every epoch the inner AUC that must have been reached by then, the last one of later epochs, too;
        empty: training never ends for that.
    saving_share: of the time that saving may take; 1: every epoch is saved. A large network's epochs on a GPU may take
        no longer than writing its file.

    A fold that is hopeless or whose losses are no numbers ends, with `failure` set, while the others of its pack go on.
    """

    def __init__(
        self,
        fold: FoldTraining,
        folder: Path,
        *,
        epochs: int,
        patience: int,
        hopeless_below: Sequence[float] = (),
        saving_share: float = 1.0,
    ) -> None:
        self.fold, self.folder = fold, folder
        self.epochs, self.patience, self.saving_share = epochs, patience, saving_share
        self.hopeless_below = hopeless_below
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}
        self.failure: TrainingDivergedError | HopelessError | None = None
        self._next_save = -math.inf

    @property
    def best_epoch(self) -> int:
        """0-based."""
        scored = [row for row in self.curve if not math.isnan(row["inner_loss"])]
        return int(min(scored, key=lambda row: row["inner_loss"])["epoch"]) if scored else len(self.curve) - 1

    def resume(self) -> None:
        """Go on after the last saved epoch, if there is one."""
        self.folder.mkdir(parents=True, exist_ok=True)
        last = self.folder / "last.ckpt"
        if last.exists():
            # Each tensor goes where its owner wants it; Adam's counters would else stay on a GPU and be waited for.
            state = torch.load(last, map_location="cpu", weights_only=True)
            self.curve, self.best_weights = state["curve"], state["best_weights"]
            if state["fold"]:
                self.fold.load_state_dict(state["fold"])
            self._write_curve()
        # The run that wrote the file may have been killed between its last epoch and its end.
        self.fold.is_over = self._is_over()

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self.fold.is_over:
            return
        row = self.fold.end_epoch()
        if not math.isfinite(row["train_loss"]):
            self._fail(f"loss or weights are {row['train_loss']} in epoch {row['epoch']}")
            return
        self.curve.append(row)
        if self.best_epoch == row["epoch"] and not math.isnan(row["inner_loss"]):
            self.best_weights = self.fold.weights()
        self.fold.is_over = self._is_over()
        if not self.fold.is_over:
            self._judge()
        if time.monotonic() >= self._next_save:
            self._save()
        self._write_curve()

    def finish(self) -> None:
        """Leave the best weights in the fold's model.

        Raises:
            TrainingDivergedError: the losses are no numbers.
            HopelessError: the fold will hardly reach any finished training of it; it has its best weights so far.
        """
        if self.failure is None and not self.best_weights and len(self.fold.samples.validation_rows):
            self._fail("inner_loss was never a number")
        if self.best_weights:
            self.fold.load_weights(self.best_weights)
        if self.failure:
            raise self.failure

    def _is_over(self) -> bool:
        waited = len(self.curve) - 1 - self.best_epoch
        return len(self.curve) >= self.epochs or waited >= self.patience

    def _judge(self) -> None:
        if not self.hopeless_below:
            return
        epochs, reached = len(self.curve), max(row["inner_auc"] for row in self.curve)
        least = self.hopeless_below[min(epochs, len(self.hopeless_below)) - 1]
        if reached < least:
            needed = f"where {least:.3f} could still reach the lowest finished training"
            self.failure = HopelessError(f"inner AUC {reached:.3f} by epoch {epochs}, {needed}")
            self.fold.is_over = True

    def _fail(self, what: str) -> None:
        self.failure = TrainingDivergedError(f"training diverged: {what}; lower model.learning_rate")
        self.fold.is_over = True

    def _save(self) -> None:
        started = time.monotonic()
        # What is over trains no more: its best weights are all that is asked of it.
        fold = None if self._is_over() and self.best_weights else self.fold.state_dict()
        state = {"fold": fold, "curve": self.curve, "best_weights": self.best_weights}
        _replace(self.folder / "last.ckpt", lambda path: torch.save(state, path))
        ended = time.monotonic()
        self._next_save = ended + (ended - started) * (1 / self.saving_share - 1)

    def _write_curve(self) -> None:
        curve = pd.DataFrame(self.curve, columns=COLUMNS)
        _replace(self.folder / "curve.csv", lambda path: curve.to_csv(path, index=False))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    """Writes under another name first, so that a kill leaves the old file or the new one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    write(unfinished)
    unfinished.replace(path)
