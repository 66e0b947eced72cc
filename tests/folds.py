"""Folds to train in tests: noise in which the malignant patients' T1W is darker in the middle."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from datasets.patch_store import PatchStore
from lightning_modules.augmentation import AffineRanges
from lightning_modules.classifier import FractureClassifier
from lightning_modules.fold_training import FoldTraining, Samples
from sweep.settings import Configuration
from sweep.train_fold import Task, train_pack

AUGMENTED = AffineRanges(translation=0.1, scaling=0.2, rotation_degrees=20.0, flip=True)


def classifier(**changes: Any) -> FractureClassifier:
    settings: dict[str, Any] = {
        "backbone": "narrow",
        "stem": "7x7",
        "weights": "none",
        "dropout": 0.0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "beta1": 0.5,
        "l2_weight": 0.0,
        "context": 1.0,
        "widest_context": 3.0,
        "size": 32,
        "ranges": AffineRanges(),
        "seed": 0,
    }
    return FractureClassifier(**settings | changes)


def lesions(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Patches, label and patient; two slices a patient."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(count, 6, 48, 48, generator=generator)
    label = (torch.arange(count) // 2 % 2).float()
    patches[label == 1, :3, 20:28, 20:28] -= 1.0
    return patches.half(), label, torch.arange(count) // 2


def samples(count: int = 24, validated: int = 8, batch_sizes: tuple[int, ...] = (6, 6, 4), seed: int = 0) -> Samples:
    """The last `validated` of the lesions decide the best epoch, the others are trained on."""
    trained = count - validated
    assert sum(batch_sizes) == trained

    def order(epoch: int) -> NDArray[np.int64]:
        return np.random.default_rng((seed, epoch)).permutation(trained)

    return Samples(*lesions(count, seed), order, list(batch_sizes), np.arange(trained, count))


def fold(samples_: Samples | None = None, **changes: Any) -> FoldTraining:
    return FoldTraining(classifier(**changes), samples_ or samples())


def train_epoch(training: FoldTraining) -> dict[str, float]:
    """An epoch without Lightning."""
    training.begin_epoch()
    for _ in training.samples.batch_sizes:
        training.step()
    return training.end_epoch()


def train_fold(configuration: Configuration, fold: int, folder: Path, *, store: PatchStore, split: Path) -> None:
    """A pack of one, or its error."""
    (error,) = train_pack([Task(configuration, fold, folder, split)], store)
    if error:
        raise error
