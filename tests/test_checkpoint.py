"""An epoch leaves one whole file; a run stopped anywhere ends as if it had not been."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Sampler

from lightning_modules.augmentation import AffineRanges
from lightning_modules.checkpoint import EpochCheckpoint, TrainingDivergedError
from lightning_modules.classifier import FractureClassifier


class EpochOrder(Sampler[int]):
    """An order that depends on the epoch alone, as the data module's does."""

    epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[int]:
        yield from np.random.default_rng(self.epoch).permutation(24).tolist()

    def __len__(self) -> int:
        return 24


def lesions() -> Any:
    generator = torch.Generator().manual_seed(0)
    patches = torch.rand(24, 6, 24, 24, generator=generator).half()
    label = (torch.arange(24) // 2 % 2).float()
    return [
        {"patches": patches[i], "label": label[i], "row": torch.tensor(i), "patient": torch.tensor(i // 2)}
        for i in range(24)
    ]


def classifier() -> FractureClassifier:
    return FractureClassifier(
        backbone="narrow",
        stem="7x7",
        weights="none",
        dropout=0.3,
        optimizer="adam",
        learning_rate=3e-3,
        beta1=0.5,
        l2_weight=1e-4,
        context=1.5,
        widest_context=3.0,
        size=32,
        ranges=AffineRanges(0.1, 0.1, 15.0, True),
        seed=3,
    )


class Scripted(pl.LightningModule):
    """Logs given losses; its weight counts the epochs trained, of four batches each."""

    def __init__(self, inner: list[float], train: list[float] | None = None) -> None:
        super().__init__()
        self.trained = nn.Parameter(torch.zeros(()))
        self.inner, self.train_losses = inner, train or [0.5] * 100

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        self.log("train_loss", self.train_losses[self.current_epoch], on_step=False, on_epoch=True)
        return -self.trained / 4

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        self.log("inner_loss", self.inner[self.current_epoch])
        self.log("inner_auc", 0.75)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0)


class PowerCutError(RuntimeError):
    pass


class CutThePower(pl.Callback):
    def __init__(self, epoch: int, batch: int) -> None:
        self.epoch, self.batch = epoch, batch

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if (trainer.current_epoch, trainer.fit_loop.batch_idx) == (self.epoch, self.batch):
            raise PowerCutError


def fit(
    model: pl.LightningModule,
    folder: Path,
    *,
    epochs: int,
    patience: int | None = None,
    validate: bool = True,
    callbacks: tuple[pl.Callback, ...] = (),
) -> EpochCheckpoint:
    """Trains on from folder/last.ckpt where there is one."""
    checkpoint = EpochCheckpoint(folder, patience)
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        deterministic=True,
        max_epochs=epochs,
        callbacks=[checkpoint, *callbacks],
    )
    last = folder / "last.ckpt"
    inner = DataLoader(lesions(), 12) if validate else None
    trainer.fit(model, DataLoader(lesions(), 6, sampler=EpochOrder()), inner, ckpt_path=last if last.exists() else None)
    return checkpoint


def outcome(folder: Path, model: pl.LightningModule) -> tuple[bytes, dict[str, Tensor]]:
    return (folder / "curve.csv").read_bytes(), {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(one: tuple[bytes, dict[str, Tensor]], other: tuple[bytes, dict[str, Tensor]]) -> None:
    assert one[0] == other[0]
    assert one[1].keys() == other[1].keys()
    for key, value in one[1].items():
        assert torch.equal(value, other[1][key]), key


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, Tensor]]:
    """Curve and best weights of four epochs in one go."""
    folder, model = tmp_path_factory.mktemp("undisturbed"), classifier()
    fit(model, folder, epochs=4)
    return outcome(folder, model)


def test_the_same_run_gives_the_same_bytes(tmp_path: Path, undisturbed: tuple[bytes, dict[str, Tensor]]) -> None:
    torch.manual_seed(99)
    model = classifier()
    fit(model, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, model), undisturbed)


@pytest.mark.parametrize(("epoch", "batch"), [(0, 2), (1, 0), (2, 3), (3, 1)])
def test_a_run_that_was_cut_ends_as_if_it_had_not_been(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Tensor]], epoch: int, batch: int
) -> None:
    with pytest.raises(PowerCutError):
        fit(classifier(), tmp_path, epochs=4, callbacks=(CutThePower(epoch, batch),))
    torch.manual_seed(99)
    model = classifier()
    fit(model, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, model), undisturbed)


def test_a_cut_while_saving_leaves_the_epoch_before(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Tensor]], monkeypatch: pytest.MonkeyPatch
) -> None:
    save = pl.Trainer.save_checkpoint

    def save_half(trainer: pl.Trainer, path: Path, **flags: Any) -> None:
        save(trainer, path, **flags)
        if trainer.current_epoch == 2:
            path.write_bytes(path.read_bytes()[:1000])
            raise PowerCutError

    with monkeypatch.context() as patched, pytest.raises(PowerCutError):
        patched.setattr(pl.Trainer, "save_checkpoint", save_half)
        fit(classifier(), tmp_path, epochs=4)
    model = classifier()
    fit(model, tmp_path, epochs=4)
    assert_same(outcome(tmp_path, model), undisturbed)


def test_a_finished_run_trains_no_more_and_still_gives_its_best_weights(
    tmp_path: Path, undisturbed: tuple[bytes, dict[str, Tensor]]
) -> None:
    fit(classifier(), tmp_path, epochs=4)
    (tmp_path / "curve.csv").unlink()
    model = classifier()
    fit(model, tmp_path, epochs=4, callbacks=(CutThePower(4, 0), CutThePower(3, 0)))
    assert_same(outcome(tmp_path, model), undisturbed)


def test_no_epoch_is_trained_twice_or_skipped(tmp_path: Path) -> None:
    for epoch in range(3):
        with pytest.raises(PowerCutError):
            fit(Scripted([3.0, 2.0, 1.0, 0.5]), tmp_path, epochs=4, callbacks=(CutThePower(epoch, 2),))
    model = Scripted([3.0, 2.0, 1.0, 0.5])
    fit(model, tmp_path, epochs=4)
    assert model.trained.item() == 4
    assert pd.read_csv(tmp_path / "curve.csv")["epoch"].tolist() == [0, 1, 2, 3]


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
    model = Scripted(inner)
    checkpoint = fit(model, tmp_path, epochs=4)
    assert checkpoint.best_epoch == best
    assert model.trained.item() == best + 1


@pytest.mark.parametrize(("patience", "epochs"), [(1, 3), (2, 7), (3, 8), (None, 9)])
def test_patience_counts_epochs_since_the_best(tmp_path: Path, patience: int | None, epochs: int) -> None:
    model = Scripted([3.0, 2.0, 2.5, 1.0, 0.9, math.nan, 0.9, 1.5, 0.0])
    checkpoint = fit(model, tmp_path, epochs=9, patience=patience)
    assert len(checkpoint.curve) == epochs
    assert model.trained.item() == checkpoint.best_epoch + 1


def test_a_run_cut_after_its_last_epoch_by_patience_does_not_go_on(tmp_path: Path) -> None:
    class CutAtTheEnd(pl.Callback):
        def on_train_end(self, *_: Any) -> None:
            raise PowerCutError

    losses = [2.0, 1.0, 3.0, 0.0]
    with pytest.raises(PowerCutError):
        fit(Scripted(losses), tmp_path, epochs=4, patience=1, callbacks=(CutAtTheEnd(),))
    model = Scripted(losses)
    checkpoint = fit(model, tmp_path, epochs=4, patience=1)
    assert (len(checkpoint.curve), checkpoint.best_epoch, model.trained.item()) == (3, 1, 2)


def test_without_validation_the_last_weights_count(tmp_path: Path) -> None:
    model = Scripted([])
    with pytest.raises(PowerCutError):
        fit(Scripted([]), tmp_path, epochs=3, validate=False, patience=1, callbacks=(CutThePower(1, 1),))
    checkpoint = fit(model, tmp_path, epochs=3, validate=False, patience=1)
    assert (checkpoint.best_epoch, model.trained.item()) == (2, 3)
    assert (tmp_path / "curve.csv").read_text().splitlines()[1] == "0,0.5,,"


def test_the_curve_is_readable_while_training_goes_on(tmp_path: Path) -> None:
    with pytest.raises(PowerCutError):
        fit(Scripted([0.7, 0.6, 0.5]), tmp_path, epochs=3, callbacks=(CutThePower(2, 0),))
    curve = pd.read_csv(tmp_path / "curve.csv")
    assert curve.columns.tolist() == ["epoch", "train_loss", "inner_loss", "inner_auc"]
    np.testing.assert_allclose(curve.to_numpy(), [[0, 0.5, 0.7, 0.75], [1, 0.5, 0.6, 0.75]], atol=1e-7)


@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_a_training_loss_that_is_no_number_stops_with_the_epoch_before_on_disk(tmp_path: Path, loss: float) -> None:
    with pytest.raises(TrainingDivergedError, match=r"train_loss=(nan|inf) in epoch 2; lower model\.learning_rate"):
        fit(Scripted([1.0] * 4, [0.5, 0.4, loss, 0.2]), tmp_path, epochs=4)
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)
    assert state["epoch"] == 1


def test_an_inner_loss_that_never_was_a_number_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingDivergedError, match="inner_loss was never a number"):
        fit(Scripted([math.nan] * 2), tmp_path, epochs=2)


def test_an_epoch_leaves_two_files_and_no_rubbish(tmp_path: Path) -> None:
    fit(Scripted([1.0]), tmp_path, epochs=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["curve.csv", "last.ckpt"]
