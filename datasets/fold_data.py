"""The Lightning data module of one fold: which stored patches are trained on, stopped by, and predicted."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from datasets.folds import inner_validation

EarlyStopping = Literal["inner", "scored_fold", "none"]


class PatchBatches(Dataset[dict[str, Tensor]]):
    """Stored patches by the batch; an item is a batch of rows, read from the memory map when it is asked for."""

    def __init__(self, patches: NDArray[np.float16], rows: NDArray[np.int64], table: pd.DataFrame) -> None:
        """Args:
        patches: (N, 6, side, side), memory-mapped.
        rows: rows of the store that this data set holds.
        table: label and patient (integer code) for every row of the store.
        """
        self.rows = rows
        self._patches = patches
        self._label = table["label"].to_numpy(np.float32)
        self._patient = table["patient"].to_numpy(np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitems__(self, items: Sequence[int]) -> dict[str, Tensor]:
        rows = self.rows[np.asarray(items)]
        return {
            "patches": torch.from_numpy(self._patches[rows]),
            "label": torch.from_numpy(self._label[rows]),
            "row": torch.from_numpy(rows),
            "patient": torch.from_numpy(self._patient[rows]),
        }


class RepeatedBatches(Sampler[list[int]]):
    """Batches of an epoch in which every sample appears its factor's times, in an order that seed and epoch decide."""

    def __init__(self, factors: NDArray[np.int64], batch_size: int, seed: int) -> None:
        """Args:
        factors: how often each sample appears in an epoch.
        batch_size: largest batch; batches differ by at most one sample, so that no batch norm sees a lone sample.
        seed: of the order.
        """
        self._items = np.repeat(np.arange(len(factors)), factors)
        self._batches = -(-len(self._items) // batch_size)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return self._batches

    def __iter__(self) -> Iterator[list[int]]:
        order = np.random.default_rng((self._seed, self._epoch)).permutation(self._items)
        yield from (batch.tolist() for batch in np.array_split(order, self._batches))


class FoldData(pl.LightningDataModule):
    """Training, inner validation and held-out patients of one fold.

    The held-out patches are read by `predict_dataloader` alone, unless `early_stopping` is "scored_fold",
    the study's own habit.
    """

    def __init__(
        self,
        patches: NDArray[np.float16],
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
        patches: (N, 6, side, side) stored patches, channels T1W then T2W, each previous, same, next slice.
        lesions: a row per patch with its patient_id.
        split: patient_id, label, fold; its labels are the ones that count, and patients without a row take no part.
        fold: the held-out fold.
        batch_size: samples a training step.
        benign_factor, malignant_factor: times that a sample of the class appears in an epoch.
        early_stopping: which patients validate each epoch.
        inner_fraction: share of the training patients in the inner validation split.
        seed: decides the inner split, alike for all configurations.
        order_seed: decides the order of the samples.
        """
        super().__init__()
        by_patient = split.set_index("patient_id")
        patient_id = lesions["patient_id"]
        self._patches = patches
        self._table = pd.DataFrame(
            {
                "label": patient_id.map(by_patient["label"]).to_numpy(),
                "patient": by_patient.index.get_indexer(pd.Index(patient_id)),
            }
        )
        held_out = (patient_id.map(by_patient["fold"]) == fold).to_numpy()
        inner = np.zeros_like(held_out)
        if early_stopping == "inner":
            inner = patient_id.isin(inner_validation(split, fold, inner_fraction, seed)).to_numpy()
        self.held_out_rows = np.flatnonzero(held_out)
        self.inner_rows = np.flatnonzero(inner)
        self.training_rows = np.flatnonzero(patient_id.isin(by_patient.index).to_numpy() & ~held_out & ~inner)
        self._validation_rows = self.held_out_rows if early_stopping == "scored_fold" else self.inner_rows
        self._batch_size, self._order_seed = batch_size, order_seed
        self._factors = np.where(self._table["label"].to_numpy() == 1, malignant_factor, benign_factor)

    def train_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        sampler = RepeatedBatches(self._factors[self.training_rows], self._batch_size, self._order_seed)
        return DataLoader(self._batches(self.training_rows), batch_sampler=sampler, collate_fn=_as_it_is)

    def val_dataloader(self) -> list[DataLoader[dict[str, Tensor]]]:
        return [self._in_order(self._validation_rows)] if len(self._validation_rows) else []

    def predict_dataloader(self) -> DataLoader[dict[str, Tensor]]:
        """The held-out patients first, then the inner validation patients where there are any."""
        return self._in_order(np.concatenate([self.held_out_rows, self.inner_rows]))

    def _batches(self, rows: NDArray[np.int64]) -> PatchBatches:
        return PatchBatches(self._patches, rows, self._table)

    def _in_order(self, rows: NDArray[np.int64]) -> DataLoader[dict[str, Tensor]]:
        return DataLoader(self._batches(rows), batch_size=4 * self._batch_size, collate_fn=_as_it_is)


def _as_it_is(batch: Any) -> Any:
    return batch
