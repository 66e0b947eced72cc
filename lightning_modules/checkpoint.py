"""All that an epoch leaves behind, in one file that is always whole."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytorch_lightning as pl
from torch import Tensor


class TrainingDivergedError(ValueError):
    """The loss is no longer a number."""


class EpochCheckpoint(pl.Callback):
    """Saves each epoch, remembers the best weights, stops early, and leaves the best weights in the module.

    folder/last.ckpt: Lightning's checkpoint after the last finished epoch, for `Trainer.fit(ckpt_path=...)`; the curve
        and the best weights so far are in it, so that it is consistent on its own.
    folder/curve.csv: epoch, train_loss, inner_loss, inner_auc; the last two empty where there is no validation set.

    The best epoch has the lowest inner_loss, the earlier of equals; without a validation set it is the last one.
    patience: epochs without a better inner_loss before training stops; None never stops.

    Raises TrainingDivergedError after an epoch whose train_loss is not finite, and leaves the epoch before on disk.
    """

    def __init__(self, folder: Path, patience: int | None) -> None:
        self.folder, self.patience = folder, patience
        self.curve: list[dict[str, float]] = []
        self.best_weights: dict[str, Tensor] = {}

    @property
    def best_epoch(self) -> int:
        """0-based."""
        scored = [row for row in self.curve if not math.isnan(row["inner_loss"])]
        return int(min(scored, key=lambda row: row["inner_loss"])["epoch"]) if scored else len(self.curve) - 1

    def state_dict(self) -> dict[str, Any]:
        return {"curve": self.curve, "best_weights": self.best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.curve, self.best_weights = state_dict["curve"], state_dict["best_weights"]

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        # The run that wrote the checkpoint may have been killed between its last epoch and its end.
        trainer.should_stop |= self._patience_is_over()

    # Lightning resumes at the next epoch only from a checkpoint of this hook: one saved in on_validation_end runs
    # this hook a second time for the same epoch, without metrics.
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        row = _curve_row(trainer)
        self.curve.append(row)
        if self.best_epoch == row["epoch"] and not math.isnan(row["inner_loss"]):
            self.best_weights = {key: value.cpu().clone() for key, value in pl_module.state_dict().items()}
        _replace(self.folder / "last.ckpt", lambda path: trainer.save_checkpoint(path, weights_only=False))
        self._write_curve()
        trainer.should_stop |= self._patience_is_over()

    def on_fit_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._write_curve()
        if not self.best_weights and "inner_loss" in trainer.callback_metrics:
            raise TrainingDivergedError("training diverged: inner_loss was never a number; lower model.learning_rate")
        if self.best_weights:
            pl_module.load_state_dict(self.best_weights)

    def _patience_is_over(self) -> bool:
        return self.patience is not None and len(self.curve) - 1 - self.best_epoch >= self.patience

    def _write_curve(self) -> None:
        table = pd.DataFrame(self.curve).astype({"epoch": int})
        _replace(self.folder / "curve.csv", lambda path: table.to_csv(path, index=False))


def _curve_row(trainer: pl.Trainer) -> dict[str, float]:
    metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
    if not math.isfinite(metrics["train_loss"]):
        raise TrainingDivergedError(
            f"training diverged: train_loss={metrics['train_loss']} in epoch {trainer.current_epoch}; "
            "lower model.learning_rate"
        )
    row = {"epoch": trainer.current_epoch, "train_loss": metrics["train_loss"]}
    return row | {name: metrics.get(name, math.nan) for name in ("inner_loss", "inner_auc")}


def _replace(path: Path, write: Callable[[Path], None]) -> None:
    """Writes under another name first, so that a kill leaves the old file or the new one."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    write(unfinished)
    unfinished.replace(path)
