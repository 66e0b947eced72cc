"""A unit is a function of (configuration, fold), resumes to the same bytes, and never sees the held-out patients."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pytorch_lightning import Callback, Trainer

from datasets.patch_store import PatchStore
from lightning_modules.checkpoint import EpochCheckpoint, HopelessError, TrainingDivergedError
from lightning_modules.fold_training import FoldTraining
from sweep.compose import load_settings
from sweep.settings import Configuration
from sweep.train_fold import Task, train_pack, unit_seed
from tests.folds import train_fold
from tests.stores import write_split, write_store

QUICK = ["input.size=32", "training.epochs=3", "training.batch_size=16", "data.widest_context=1.5"]
QUICK += ["augmentation.benign_factor=1", "augmentation.malignant_factor=2", "model.learning_rate=1e-3"]


def configuration(overrides: Sequence[str] = ()) -> Configuration:
    return load_settings([*QUICK, "search/space=none", "search.configurations=1", *overrides]).configuration({})


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> PatchStore:
    return write_store(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def split(store: PatchStore, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("split") / "split.csv"
    write_split(path, store)
    return path


@pytest.fixture(scope="module")
def trained(store: PatchStore, split: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fold-0")
    train_fold(configuration(), 0, folder, store=store, split=split)
    return folder


def same_bytes(first: Path, second: Path) -> bool:
    names = ("predictions.parquet", "inner_predictions.parquet", "curve.csv", "weights.pt")
    return all((first / name).read_bytes() == (second / name).read_bytes() for name in names)


def test_it_leaves_predictions_of_exactly_the_held_out_slices(trained: Path, store: PatchStore, split: Path) -> None:
    predictions = pd.read_parquet(trained / "predictions.parquet")
    table = pd.read_csv(split)
    held_out = store.lesions[store.lesions["patient_id"].isin(table.loc[table["fold"] == 0, "patient_id"])]
    assert predictions["sop_instance_uid"].tolist() == held_out["sop_instance_uid"].tolist()
    assert predictions["label"].tolist() == held_out["label"].tolist()
    assert predictions["probability"].between(0, 1).all()
    inner = pd.read_parquet(trained / "inner_predictions.parquet")
    assert not set(inner["patient_id"]) & set(predictions["patient_id"]) and len(inner)


def test_it_leaves_curve_result_and_weights_but_no_checkpoint(trained: Path) -> None:
    curve = pd.read_csv(trained / "curve.csv")
    assert curve["epoch"].tolist() == [0, 1, 2] and curve["inner_auc"].between(0, 1).all()
    result = json.loads((trained / "result.json").read_text())
    assert result["epochs"] == 3 and result["best_epoch"] == curve["inner_loss"].idxmin() and result["seconds"] > 0
    weights = torch.load(trained / "weights.pt", weights_only=True)
    assert all(torch.isfinite(value).all() for value in weights.values())
    assert not (trained / "last.ckpt").exists()


def test_the_same_unit_gives_the_same_bytes(trained: Path, store: PatchStore, split: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)  # what ran before in the process must not matter
    train_fold(configuration(), 0, tmp_path, store=store, split=split)
    assert same_bytes(trained, tmp_path)


def test_an_interrupted_unit_resumes_to_the_same_bytes(
    store: PatchStore, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    epochs_begun: list[int] = []

    def stop_in_second_epoch(self: EpochCheckpoint, *_: object) -> None:
        epochs_begun.append(self.fold.epoch)
        if epochs_begun == [0, 1]:
            raise ConnectionResetError("the node is gone")

    monkeypatch.setattr(EpochCheckpoint, "on_train_batch_end", stop_in_second_epoch, raising=False)
    with pytest.raises(ConnectionResetError):
        train_fold(configuration(["training.batch_size=1000"]), 0, tmp_path, store=store, split=split)
    assert (tmp_path / "last.ckpt").exists()
    train_fold(configuration(["training.batch_size=1000"]), 0, tmp_path, store=store, split=split)
    assert epochs_begun == [0, 1, 1, 2]
    undisturbed = tmp_path / "undisturbed"
    monkeypatch.undo()
    train_fold(configuration(["training.batch_size=1000"]), 0, undisturbed, store=store, split=split)
    assert same_bytes(undisturbed, tmp_path)


def pack_of(folder: Path, split: Path, precision: str) -> list[Task]:
    """Folds and configurations mixed: two that stop early, two with dropout, one of another architecture and length."""
    own = [f"training.precision={precision}"]
    early = configuration([*own, "training.epochs=7", "training.patience=2", "model.learning_rate=0.02"])
    other = configuration([*own, "model.dropout=0.4", "input.context=1.4", "augmentation.malignant_factor=5"])
    wide = configuration([*own, "model.stem=3x3", "model.l2_weight=0.01", "training.batch_size=7", "training.epochs=2"])
    units = [(early, 0), (early, 2), (other, 0), (other, 1), (wide, 1)]
    return [Task(*unit, folder / str(number), split) for number, unit in enumerate(units)]


@pytest.fixture(scope="module", params=["32-true", "64-true"])
def alone(
    request: pytest.FixtureRequest, store: PatchStore, split: Path, tmp_path_factory: pytest.TempPathFactory
) -> list[Task]:
    tasks = pack_of(tmp_path_factory.mktemp("alone"), split, request.param)
    for task in tasks:
        train_fold(task.configuration, task.fold, task.folder, store=store, split=split)
    lengths = {json.loads((task.folder / "result.json").read_text())["epochs"] for task in tasks}
    assert len(lengths) >= 3, "the pack's folds should end at different epochs"
    return tasks


def test_a_packed_fold_is_the_fold_alone(alone: list[Task], store: PatchStore, split: Path, tmp_path: Path) -> None:
    packed = pack_of(tmp_path, split, alone[0].configuration.training.precision)
    assert train_pack(packed, store) == [None] * len(packed)
    for one, other in zip(alone, packed, strict=True):
        assert same_bytes(one.folder, other.folder)


def test_a_pack_killed_on_its_way_goes_on_in_other_packs(
    alone: list[Task], store: PatchStore, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die_in_third_epoch(self: Callback, trainer: Trainer, *_: object) -> None:  # noqa: ARG001
        if trainer.current_epoch == 2:
            raise ConnectionResetError("the node is gone")

    tasks = pack_of(tmp_path, split, alone[0].configuration.training.precision)
    with monkeypatch.context() as patched, pytest.raises(ConnectionResetError):
        patched.setattr(EpochCheckpoint, "on_train_batch_end", die_in_third_epoch, raising=False)
        train_pack(tasks, store)
    assert all((task.folder / "last.ckpt").exists() for task in tasks)
    for part in (tasks[3:], tasks[:1], tasks[1:3]):
        train_pack(part, store)
    for one, other in zip(alone, tasks, strict=True):
        assert same_bytes(one.folder, other.folder)


def test_a_fold_that_diverges_ends_alone(
    trained: Path, store: PatchStore, split: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    diverging = configuration(["seed=5"])
    end_epoch = FoldTraining.end_epoch

    def no_number(self: FoldTraining) -> dict[str, float]:
        lost = {"train_loss": float("nan")} if self.classifier.seed == unit_seed(diverging, 1) else {}
        return end_epoch(self) | lost

    monkeypatch.setattr(FoldTraining, "end_epoch", no_number)
    units = [(diverging, 1, tmp_path / "diverging"), (configuration(), 0, tmp_path / "other")]
    tasks = [Task(*unit, split) for unit in units]
    errors = train_pack(tasks, store)
    assert "loss or weights are nan in epoch 0" in str(errors[0]) and errors[1] is None
    assert same_bytes(trained, tmp_path / "other") and not (tmp_path / "diverging" / "predictions.parquet").exists()


def test_poisoned_held_out_patients_change_nothing_in_training(trained: Path, split: Path, tmp_path: Path) -> None:
    """Other pixels and labels of the test fold's patients: the same weights and curve to the last bit."""
    table = pd.read_csv(split)
    held_out = table["fold"] == 0
    poisoned = write_store(tmp_path / "store")
    patches = np.array(poisoned.patches())
    rows = poisoned.lesions["patient_id"].isin(table.loc[held_out, "patient_id"]).to_numpy()
    patches[rows] = np.random.default_rng(1).normal(0, 100, patches[rows].shape)
    np.save(poisoned.folder / "patches.npy", patches)
    table.loc[held_out, "label"] = 1 - table.loc[held_out, "label"]
    table.to_csv(tmp_path / "split.csv", index=False)
    folder = tmp_path / "fold"
    train_fold(configuration(), 0, folder, store=poisoned, split=tmp_path / "split.csv")
    for name in ("weights.pt", "curve.csv", "inner_predictions.parquet"):
        assert (folder / name).read_bytes() == (trained / name).read_bytes()
    poisoned_predictions = pd.read_parquet(folder / "predictions.parquet")
    clean = pd.read_parquet(trained / "predictions.parquet")
    assert (poisoned_predictions["label"] == 1 - clean["label"]).all()
    assert (poisoned_predictions["probability"] != clean["probability"]).all(), "the poison reaches the final predict"


def test_the_studys_habit_does_look_at_the_held_out_patients(store: PatchStore, split: Path, tmp_path: Path) -> None:
    """The leak that the inner split prevents: with scored_fold, labels of the test fold decide the validation loss."""
    table = pd.read_csv(split)
    table.loc[table["fold"] == 0, "label"] = 1 - table.loc[table["fold"] == 0, "label"]
    table.to_csv(tmp_path / "turned.csv", index=False)
    curves = []
    for number, path in enumerate((split, tmp_path / "turned.csv")):
        folder = tmp_path / str(number)
        train_fold(configuration(["training.early_stopping=scored_fold"]), 0, folder, store=store, split=path)
        curves.append(pd.read_csv(folder / "curve.csv"))
        assert pd.read_parquet(folder / "inner_predictions.parquet").empty
    assert (curves[0]["inner_loss"] != curves[1]["inner_loss"]).all()


def test_it_learns(store: PatchStore, split: Path, tmp_path: Path) -> None:
    longer = [
        "training.epochs=8",
        "training.patience=8",
        "augmentation.benign_factor=6",
        "augmentation.malignant_factor=12",
    ]
    train_fold(configuration(longer), 1, tmp_path, store=store, split=split)
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    by_label = predictions.groupby("label")["probability"]
    assert by_label.min()[1] > by_label.max()[0]


def test_the_studys_protocol_trains_its_resnet50(store: PatchStore, split: Path, tmp_path: Path) -> None:
    """All but its length, its augmentation factors and its ImageNet weights."""
    short = [
        "model.weights=none",
        "training.epochs=1",
        "augmentation.benign_factor=1",
        "augmentation.malignant_factor=1",
    ]
    study = load_settings(["experiment=yeh2022", "data.widest_context=1.5", *short]).configuration({})
    train_fold(study, 0, tmp_path, store=store, split=split)
    assert pd.read_csv(tmp_path / "curve.csv")["inner_loss"].notna().all()
    assert len(pd.read_parquet(tmp_path / "predictions.parquet")) and "network.network.layer4.2.conv3.weight" in (
        torch.load(tmp_path / "weights.pt", weights_only=True)
    )


def test_predictions_that_are_no_numbers_are_never_results(split: Path, tmp_path: Path) -> None:
    """With no validation to notice them, NaN patches of the held-out patients would come out as NaN probabilities."""
    store = write_store(tmp_path / "store")
    patches = np.array(store.patches())
    table = pd.read_csv(split)
    patches[store.lesions["patient_id"].isin(table.loc[table["fold"] == 0, "patient_id"])] = np.nan
    np.save(store.folder / "patches.npy", patches)
    with pytest.raises(TrainingDivergedError, match="not a number"):
        train_fold(configuration(["training.epochs=1"]), 0, tmp_path / "fold", store=store, split=split)
    assert not (tmp_path / "fold" / "predictions.parquet").exists()


def test_a_units_seed_depends_on_sweep_seed_configuration_and_fold() -> None:
    seeds = {
        unit_seed(configuration(), 0),
        unit_seed(configuration(), 1),
        unit_seed(configuration(["seed=1"]), 0),
        unit_seed(configuration(["model.dropout=0.1"]), 0),
    }
    assert len(seeds) == 4
    assert unit_seed(configuration(), 0) == unit_seed(configuration(), 0)


def test_a_hopeless_fold_ends_early_with_partial_predictions_and_leaves_its_packmate_alone(
    trained: Path, store: PatchStore, split: Path, tmp_path: Path
) -> None:
    hopeless = Task(configuration(), 1, tmp_path / "hopeless", split, hopeless_below=(-1.0, 1.5))
    beside = Task(configuration(), 0, tmp_path / "beside", split, hopeless_below=(0.0,))
    why, none = train_pack([hopeless, beside], store)
    assert isinstance(why, HopelessError) and "by epoch 2, where 1.500 could still" in str(why) and none is None
    assert same_bytes(tmp_path / "beside", trained)
    left = {path.name for path in hopeless.folder.iterdir()}
    assert left == {"curve.csv", "last.ckpt", "partial_predictions.parquet"}
    table = pd.read_csv(split)
    partial = pd.read_parquet(hopeless.folder / "partial_predictions.parquet")
    assert set(partial["patient_id"]) == set(table.loc[table["fold"] == 1, "patient_id"])
    assert len(pd.read_csv(hopeless.folder / "curve.csv")) == 2
    # Started again without the limit, it goes on to what it would have been without one.
    train_fold(configuration(), 1, hopeless.folder, store=store, split=split)
    train_fold(configuration(), 1, tmp_path / "undisturbed", store=store, split=split)
    assert same_bytes(hopeless.folder, tmp_path / "undisturbed")
