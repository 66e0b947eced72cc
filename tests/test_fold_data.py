"""The fold's rows are a partition without leaks; every sample appears its factor's times in an epoch."""

from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.fold_data import FoldData, PackData
from datasets.patch_store import PatchStore
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
    return FoldData(store.lesions, split, fold, **(options | changes))


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
    rows = np.concatenate([data.order(0), data.validation_rows, data.inner_rows, data.held_out_rows])
    assert patients_of(store, rows) == set(inside["patient_id"])
    assert patients_of(store, data.training_rows).isdisjoint(split.loc[split["fold"] == 2, "patient_id"])
    assert np.isfinite(data.label[rows]).all()


def test_every_training_sample_appears_its_factors_times(store: PatchStore, split: pd.DataFrame) -> None:
    data = fold_data(store, split)
    expected = {row: 5 if store.lesions["label"][row] else 2 for row in data.training_rows.tolist()}
    assert dict(Counter(data.order(0).tolist())) == expected
    assert sum(data.batch_sizes) == sum(expected.values())


def test_labels_come_from_the_split_and_patients_have_one_code_each(store: PatchStore, split: pd.DataFrame) -> None:
    turned = fold_data(store, split.assign(label=1 - split["label"]))
    np.testing.assert_array_equal(turned.label, 1 - store.lesions["label"].to_numpy())
    codes = pd.Series(turned.patient).groupby(store.lesions["patient_id"].to_numpy())
    assert (codes.nunique() == 1).all() and codes.first().is_unique


def test_who_validates_each_epoch(store: PatchStore, split: pd.DataFrame) -> None:
    data = fold_data(store, split)
    assert data.validation_rows.tolist() == data.inner_rows.tolist()
    scored = fold_data(store, split, early_stopping="scored_fold")
    assert scored.validation_rows.tolist() == scored.held_out_rows.tolist()
    none = fold_data(store, split, early_stopping="none")
    assert not len(none.validation_rows) and not len(none.inner_rows)


def test_the_order_is_a_function_of_seed_and_epoch(store: PatchStore, split: pd.DataFrame) -> None:
    def order(seed: int, epoch: int) -> list[int]:
        data: list[int] = fold_data(store, split, order_seed=seed).order(epoch).tolist()
        return data

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


@pytest.mark.parametrize("batch_size", [7, 8, 9, 16, 59])
def test_no_batch_is_larger_than_asked_nor_a_lone_sample(
    store: PatchStore, split: pd.DataFrame, batch_size: int
) -> None:
    sizes = fold_data(store, split, batch_size=batch_size).batch_sizes
    assert max(sizes) <= batch_size and min(sizes) > 1 and max(sizes) - min(sizes) <= 1


def test_a_packs_data_is_the_store_and_the_steps_of_its_longest_fold(store: PatchStore, split: pd.DataFrame) -> None:
    folds = [fold_data(store, split), fold_data(store, split, malignant_factor=9)]
    data = PackData(store, folds, torch.device("cpu"))
    np.testing.assert_array_equal(data.patches.numpy(), store.patches())
    assert len(data.train_dataloader()) == len(folds[1].batch_sizes) > len(folds[0].batch_sizes)
