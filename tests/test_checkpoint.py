"""An epoch leaves one whole file; a run stopped anywhere ends as if it had not been."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor

from lightning_modules.augmentation import AffineRanges
from lightning_modules.checkpoint import EpochCheckpoint, TrainingDivergedError
from lightning_modules.fold_training import FoldTraining
from lightning_modules.pack import FoldPack
from tests.folds import classifier, fold, samples

Outcome = tuple[bytes, dict[str, Tensor]]


def augmented(**changes: Any) -> FoldTraining:
    settings: dict[str, Any] = {"dropout": 0.3, "learning_rate": 3e-3, "l2_weight": 1e-4, "context": 1.5, "seed": 3}
    return fold(**settings | {"ranges": AffineRanges(0.1, 0.1, 15.0, True)} | changes)


class Scripted(FoldTraining):
    """Says given losses; `trained` in its weights counts the epochs trained, of four batches each."""

    def __init__(self, inner: list[float], train: list[float] | None = None, validate: bool = True) -> None:
        model = classifier()
        model.register_buffer("trained", torch.zeros(()))
        super().__init__(model, samples(24, 8 if validate else 0, (4,) * 4 if validate else (6,) * 4))
        self.inner, self.train_losses = inner, train or [0.5] * 100

    def step(self) -> None:
        self.classifier.trained += 0.25

    def end_epoch(self) -> dict[str, float]:
        row = super().end_epoch()
        row["train_loss"] = self.train_losses[self.epoch - 1]
        validated = len(self.samples.validation_rows) > 0
        return row | ({"inner_loss": self.inner[self.epoch - 1], "inner_auc": 0.75} if validated else {})

    @property
    def trained(self) -> float:
        return self.classifier.trained.item()


class PowerCutError(RuntimeError):
    pass


class CutThePower(pl.Callback):
    """In an epoch of the fold (not of the trainer) after a batch."""

    def __init__(self, cut: FoldTraining, epoch: int, batch: int) -> None:
        self.cut, self.epoch, self.batch = cut, epoch, batch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if (self.cut.epoch, trainer.fit_loop.batch_idx) == (self.epoch, self.batch):
            raise PowerCutError


def fit(
    training: FoldTraining,
    folder: Path,
    *,
    epochs: int,
    patience: int = 100,
    cut: tuple[int, int] | None = None,
    callbacks: tuple[pl.Callback, ...] = (),
) -> EpochCheckpoint:
    """Trains on from folder/last.ckpt where there is one; every epoch is saved."""
    checkpoint = EpochCheckpoint(training, folder, epochs=epochs, patience=patience, saving_share=1.0)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        deterministic=True,
        max_epochs=-1,
        callbacks=[checkpoint, *([CutThePower(training, *cut)] if cut else []), *callbacks],
    )
    checkpoint.resume()
    if not training.is_over:
        trainer.fit(FoldPack([training]), range(len(training.samples.batch_sizes)))
    checkpoint.finish()
    return checkpoint


def outcome(folder: Path, training: FoldTraining) -> Outcome:
    return (folder / "curve.csv").read_bytes(), training.weights()


def assert_same(one: Outcome, other: Outcome) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for key, value in one[1].items():
        assert torch.equal(value, other[1][key]), key


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """Curve and best weights of four epochs in one go."""
    folder, training = tmp_path_factory.mktemp("undisturbed"), augmented()
    fit(training, folder, epochs=4)
    return outcome(folder, training)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, undisturbed: Outcome) -> None:
    torch.manual_seed(99)
    training = augmented()
    fit(training, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, training), undisturbed)


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (2, 2), (3, 1)])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: Outcome, epoch: int, batch: int
) -> None:
    with pytest.raises(PowerCutError):
        fit(augmented(), tmp_path, epochs=4, cut=(epoch, batch))
    torch.manual_seed(99)
    training = augmented()
    fit(training, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, training), undisturbed)


def test_a_cut_while_saving_leaves_the_epoch_before(
    tmp_path: Path, undisturbed: Outcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = torch.save, []

    def save_half(state: Any, path: Path) -> None:
        save(state, path)
        saved.append(path)
        if len(saved) == 3:
            path.write_bytes(path.read_bytes()[:1000])
            raise PowerCutError

    with monkeypatch.context() as patched, pytest.raises(PowerCutError):
        patched.setattr(torch, "save", save_half)
        fit(augmented(), tmp_path, epochs=4)
    training = augmented()
    fit(training, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, training), undisturbed)


def test_a_finished_run_trains_no_more_and_still_gives_its_best_weights(tmp_path: Path, undisturbed: Outcome) -> None:
    fit(augmented(), tmp_path, epochs=4)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["fold"] is None
    (tmp_path / "curve.csv").unlink()
    training = augmented()
    fit(training, tmp_path, epochs=4, cut=(3, 0))
    assert_same(outcome(tmp_path, training), undisturbed)


def test_no_epoch_is_trained_twice_or_skipped(tmp_path: Path) -> None:
    for epoch in range(3):
        with pytest.raises(PowerCutError):
            fit(Scripted([3.0, 2.0, 1.0, 0.5]), tmp_path, epochs=4, cut=(epoch, 2))
    training = Scripted([3.0, 2.0, 1.0, 0.5])
    fit(training, tmp_path, epochs=4)
    assert training.trained == 4
    assert pd.read_csv(tmp_path / "curve.csv")["epoch"].tolist() == [0, 1, 2, 3]


def test_saving_that_would_take_too_much_of_the_time_waits(tmp_path: Path) -> None:
    training = Scripted([3.0, 2.0, 1.0])
    checkpoint = EpochCheckpoint(training, tmp_path, epochs=3, patience=3, saving_share=1e-9)
    checkpoint.resume()
    saved = []
    for _ in range(3):
        checkpoint.on_train_epoch_end(pl.Trainer(logger=False, enable_checkpointing=False), FoldPack([training]))
        saved.append(torch.load(tmp_path / "last.ckpt", weights_only=True)["fold"]["epoch"])
    assert saved == [1, 1, 1] and training.is_over


@pytest.mark.parametrize(
    ("inner", "best"),
    [
        ([3.0, 1.0, 2.0, 4.0], 1),
        ([3.0, 1.0, 1.0, 4.0], 1),
        ([math.nan, 2.0, math.nan, 3.0], 1),
        ([math.inf, 5.0, 4.0, 3.0], 3),
    ],
)
def test_the_lowest_loss_wins_the_earlier_of_equals_and_never_nan(
    tmp_path: Path, inner: list[float], best: int
) -> None:
    training = Scripted(inner)
    checkpoint = fit(training, tmp_path, epochs=4)
    assert checkpoint.best_epoch == best
    assert training.trained == best + 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 7), (3, 8), (9, 9)])
def test_patience_counts_epochs_since_the_best(tmp_path: Path, patience: int, epochs: int) -> None:
    training = Scripted([3.0, 2.0, 2.5, 1.0, 0.9, math.nan, 0.9, 1.5, 0.0])
    checkpoint = fit(training, tmp_path, epochs=9, patience=patience)
    assert len(checkpoint.curve) == epochs
    assert training.trained == checkpoint.best_epoch + 1


def test_a_run_cut_after_its_last_epoch_by_patience_does_not_go_on(tmp_path: Path) -> None:
    class CutAtTheEnd(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            raise PowerCutError

    losses = [2.0, 1.0, 3.0, 0.0]
    with pytest.raises(PowerCutError):
        fit(Scripted(losses), tmp_path, epochs=4, patience=1, callbacks=(CutAtTheEnd(),))
    training = Scripted(losses)
    checkpoint = fit(training, tmp_path, epochs=4, patience=1)
    assert (len(checkpoint.curve), checkpoint.best_epoch, training.trained) == (3, 1, 2)


def test_without_validation_the_last_weights_count(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        fit(Scripted([], validate=False), tmp_path, epochs=3, cut=(1, 1))
    training = Scripted([], validate=False)
    checkpoint = fit(training, tmp_path, epochs=3)
    assert (checkpoint.best_epoch, training.trained) == (2, 3)
    assert (tmp_path / "curve.csv").read_text().splitlines()[1] == "0,0.5,,"


def test_the_curve_is_readable_while_training_goes_on(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        fit(Scripted([0.7, 0.6, 0.5]), tmp_path, epochs=3, cut=(2, 0))
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert curve.columns.tolist() == ["epoch", "train_loss", "inner_loss", "inner_auc"]
    np.testing.assert_allclose(curve.to_numpy(), [[0, 0.5, 0.7, 0.75], [1, 0.5, 0.6, 0.75]], atol=1e-7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_training_loss_that_is_no_number_stops_with_the_epoch_before_on_disk(tmp_path: Path, loss: float) -> None:
    with pytest.raises(
        TrainingDivergedError, match=r"loss or weights are (nan|inf) in epoch 2; lower model\.learning_rate"
    ):
        fit(Scripted([1.0] * 4, [0.5, 0.4, loss, 0.2]), tmp_path, epochs=4)
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["fold"]["epoch"] == 2


def test_an_inner_loss_that_never_was_a_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="inner_loss was never a number"):
        fit(Scripted([math.nan] * 2), tmp_path, epochs=2)


def test_an_epoch_leaves_two_files_and_no_rubbish(tmp_path: Path) -> None:
    fit(Scripted([1.0]), tmp_path, epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.csv", "last.ckpt"]
