"""Which stored patches a fold trains on, is stopped by and predicts, in which order; a pack's Lightning data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.folds import inner_validation
from datasets.patch_store import PatchStore

EarlyStopping = Literal["inner", "scored_fold", "none"]


class FoldData:
    """Rows of the patch store of one fold's training, inner validation and held-out patients.

    The held-out rows are for the final prediction alone, unless `early_stopping` is "scored_fold", the study's own
    habit.

    Attributes:
        label, patient: (N,), of every row of the store: 1 is malignant; an integer code.
        training_rows, inner_rows, held_out_rows: a partition of the rows whose patients are in the split.
        validation_rows: who validates each epoch.
        batch_sizes: of an epoch's steps. They differ by at most one sample, so that no batch norm sees a lone sample.
    """

    def __init__(
        self,
        lesions: pd.DataFrame,
        split: pd.DataFrame,
        fold: int,
        *,
        batch_size: int,
        benign_factor: int,
        malignant_factor: int,
        early_stopping: EarlyStopping,
        inner_fraction: float,
        seed: int,
        order_seed: int,
    ) -> None:
        """Args:
        lesions: a row per patch with its patient_id.
        split: patient_id, label, fold; its labels are the ones that count, and patients without a row take no part.
        benign_factor, malignant_factor: times that a sample of the class appears in an epoch.
        inner_fraction: share of the training patients in the inner validation split, which `seed` decides, alike for
            all configurations; `order_seed` decides the order of the samples.
        """
        patients = pd.Index(split["patient_id"])
        self.patient: NDArray[np.int64] = patients.get_indexer(pd.Index(lesions["patient_id"])).astype(np.int64)
        known = self.patient >= 0
        self.label: NDArray[np.float32] = np.where(known, split["label"].to_numpy(np.float32)[self.patient], np.nan)
        held_out = known & (split["fold"].to_numpy() == fold)[self.patient]
        inner = np.zeros_like(held_out)
        if early_stopping == "inner":
            chosen = inner_validation(split, fold, inner_fraction, seed)
            inner = known & patients.isin(chosen)[self.patient]
        self.held_out_rows = np.flatnonzero(held_out)
        self.inner_rows = np.flatnonzero(inner)
        self.training_rows = np.flatnonzero(known & ~held_out & ~inner)
        self.validation_rows = self.held_out_rows if early_stopping == "scored_fold" else self.inner_rows
        factors = np.where(self.label[self.training_rows] == 1, malignant_factor, benign_factor)
        self._repeated = np.repeat(self.training_rows, factors)
        self._order_seed = order_seed
        steps = -(-len(self._repeated) // batch_size)
        self.batch_sizes = [len(part) for part in np.array_split(self._repeated, steps)]

    def order(self, epoch: int) -> NDArray[np.int64]:
        """Rows of an epoch's samples, each of them its factor's times, in an order that seed and epoch decide."""
        return np.random.default_rng((self._order_seed, epoch)).permutation(self._repeated)


class PackData(pl.LightningDataModule):
    """The data of folds that are trained side by side: the patch store on the device, and each fold's rows of it.

    A batch is the number of a step. Each fold looks up on the device which samples that is, so none travel.

    Attributes:
        patches: (N, 6, side, side), the whole store: a few hundred megabytes of a GPU; on a CPU its memory map.
    """

    def __init__(self, store: PatchStore, folds: Sequence[FoldData], device: torch.device) -> None:
        super().__init__()
        self.folds, self.patches = folds, _patches_on(device, store)

    def train_dataloader(self) -> range:
        """As many steps as the fold with the most has; the others rest meanwhile."""
        return range(max(len(fold.batch_sizes) for fold in self.folds))


@lru_cache(maxsize=1)
def _patches_on(device: torch.device, store: PatchStore) -> Tensor:
    """Brought there once for all packs of a worker."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(store.patches()).to(device)
