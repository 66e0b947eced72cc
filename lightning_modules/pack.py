"""Several folds trained side by side in one process, each as if alone; a pack of one is the ordinary case."""

from collections.abc import Sequence

import pytorch_lightning as pl

from lightning_modules.fold_training import FoldTraining


class FoldPack(pl.LightningModule):
    """One step of the pack is one step of each of its folds; Lightning's batches are only its step's numbers.

    Every fold has its own optimiser, counts its own epochs and ends on its own; the pack ends with its last fold.
    """

    def __init__(self, folds: Sequence[FoldTraining]) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.folds = folds

    def running(self) -> list[FoldTraining]:
        return [fold for fold in self.folds if not fold.is_over]

    def configure_optimizers(self) -> list[object]:  # type: ignore[override]
        return []  # each fold's own

    def on_train_epoch_start(self) -> None:
        for fold in self.running():
            fold.begin_epoch()

    def training_step(self, step: int, batch_idx: int) -> None:
        for fold in self.running():
            fold.step()

    def on_train_epoch_end(self) -> None:
        # Lightning runs the callbacks, which end folds, before this.
        self.trainer.should_stop = not self.running()
