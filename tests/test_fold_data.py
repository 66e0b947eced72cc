"""The fold's rows are a partition without leaks; every sample appears its factor's times in an epoch."""

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.fold_data import FoldData, RepeatedBatches
from datasets.patches import PatchStore
from tests.stores import write_split, write_store


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def split(store: PatchStore, tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return write_split(tmp_path_factory.mktemp("split") / "split.csv", store)


def fold_data(store: PatchStore, split: pd.DataFrame, fold: int = 0, **changes: Any) -> FoldData:
    options: dict[str, Any] = {
        "batch_size": 8,
        "benign_factor": 2,
        "malignant_factor": 5,
        "early_stopping": "inner",
        "inner_fraction": 0.2,
        "seed": 1,
        "order_seed": 7,
    }
    return FoldData(store.patches(), store.lesions, split, fold, **(options | changes))


def patients_of(store: PatchStore, rows: np.ndarray[Any, np.dtype[np.int64]]) -> set[str]:
    return set(store.lesions["patient_id"].iloc[rows])


def test_training_inner_and_held_out_rows_are_a_partition_by_patient(store: PatchStore, split: pd.DataFrame) -> None:
    data = fold_data(store, split)
    parts = [data.training_rows, data.inner_rows, data.held_out_rows]
    assert sorted(np.concatenate(parts)) == list(range(len(store.lesions)))
    patients = [patients_of(store, rows) for rows in parts]
    assert all(patients) and sum(map(len, patients)) == store.lesions["patient_id"].nunique()
    assert patients[2] == set(split.loc[split["fold"] == 0, "patient_id"])


@pytest.mark.parametrize("early_stopping", ["inner", "scored_fold", "none"])
def test_patients_that_are_not_in_the_split_take_no_part(
    store: PatchStore, split: pd.DataFrame, early_stopping: str
) -> None:
    inside = split[split["fold"] != 2]
    data = fold_data(store, inside, early_stopping=early_stopping)
    batches = [*data.train_dataloader(), *data.predict_dataloader(), *(b for v in data.val_dataloader() for b in v)]
    rows = np.concatenate([batch["row"].numpy() for batch in batches])
    assert patients_of(store, rows) == set(inside["patient_id"])
    assert patients_of(store, data.training_rows).isdisjoint(split.loc[split["fold"] == 2, "patient_id"])
    assert all(batch["label"].isfinite().all() for batch in batches)


def test_every_training_sample_appears_its_factors_times(store: PatchStore, split: pd.DataFrame) -> None:
    data = fold_data(store, split)
    seen = Counter(row for batch in data.train_dataloader() for row in batch["row"].tolist())
    expected = {row: 5 if store.lesions["label"][row] else 2 for row in data.training_rows.tolist()}
    assert dict(seen) == expected


def test_batches_hold_the_stores_patches_labels_and_patients(store: PatchStore, split: pd.DataFrame) -> None:
    batch = next(iter(fold_data(store, split).train_dataloader()))
    rows = batch["row"].numpy()
    np.testing.assert_array_equal(batch["patches"].numpy(), store.patches()[rows])
    np.testing.assert_array_equal(batch["label"].numpy(), store.lesions["label"].to_numpy()[rows])
    codes = pd.Series(batch["patient"].numpy()).groupby(store.lesions["patient_id"].to_numpy()[rows]).nunique()
    assert (codes == 1).all()


def test_labels_come_from_the_split(store: PatchStore, split: pd.DataFrame) -> None:
    turned = split.assign(label=1 - split["label"])
    batch = next(iter(fold_data(store, turned).predict_dataloader()))
    np.testing.assert_array_equal(batch["label"].numpy(), 1 - store.lesions["label"].to_numpy()[batch["row"].numpy()])


def test_who_validates_each_epoch(store: PatchStore, split: pd.DataFrame) -> None:
    def validated(early_stopping: str) -> list[int]:
        loaders = fold_data(store, split, early_stopping=early_stopping).val_dataloader()
        return sorted(row for loader in loaders for batch in loader for row in batch["row"].tolist())

    data = fold_data(store, split)
    assert validated("inner") == data.inner_rows.tolist()
    assert validated("scored_fold") == data.held_out_rows.tolist()
    assert validated("none") == []
    assert len(fold_data(store, split, early_stopping="none").inner_rows) == 0


def test_prediction_covers_held_out_then_inner_patients_once(store: PatchStore, split: pd.DataFrame) -> None:
    data = fold_data(store, split)
    rows = [row for batch in data.predict_dataloader() for row in batch["row"].tolist()]
    assert rows == [*data.held_out_rows.tolist(), *data.inner_rows.tolist()]


def test_the_order_is_a_function_of_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[list[int]]:
        batches = RepeatedBatches(np.array([3, 4, 5]), batch_size=5, seed=seed)
        batches.set_epoch(epoch)
        return list(batches)

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("samples", [9, 33, 64, 65])
def test_no_batch_is_larger_than_asked_nor_a_lone_sample(samples: int) -> None:
    batches = RepeatedBatches(np.ones(samples, np.int64), batch_size=8, seed=0)
    sizes = [len(batch) for batch in batches]
    assert len(sizes) == len(batches)
    assert max(sizes) <= 8 and min(sizes) > 1


def test_the_store_is_read_by_the_batch(store: PatchStore, split: pd.DataFrame, tmp_path: Path) -> None:
    """Held-out patches full of NaN reach neither training nor validation."""
    poisoned = np.array(store.patches())
    held_out = fold_data(store, split).held_out_rows
    poisoned[held_out] = np.nan
    np.save(tmp_path / "patches.npy", poisoned)
    data = FoldData(
        np.load(tmp_path / "patches.npy", mmap_mode="r"),
        store.lesions,
        split,
        0,
        batch_size=8,
        benign_factor=1,
        malignant_factor=1,
        early_stopping="inner",
        inner_fraction=0.2,
        seed=1,
        order_seed=7,
    )
    loaders = [data.train_dataloader(), *data.val_dataloader()]
    assert all(np.isfinite(batch["patches"].numpy()).all() for loader in loaders for batch in loader)
    assert np.isnan(next(iter(data.predict_dataloader()))["patches"].numpy()).any()
