"""(configuration, fold) → out-of-fold predictions. A function of its arguments, wherever it runs. Knows no Ray."""

from __future__ import annotations

import hashlib
import json
import logging
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytorch_lightning as pl
import torch

from datasets.fold_data import FoldData
from datasets.folds import read_split
from datasets.patches import PatchStore
from lightning_modules.augmentation import AffineRanges
from lightning_modules.checkpoint import EpochCheckpoint, TrainingDivergedError
from lightning_modules.classifier import FractureClassifier
from sweep.ledger import write_atomically
from sweep.settings import Configuration, SettingsError


def train_fold(configuration: Configuration, fold: int, folder: Path, *, store: PatchStore, split: Path) -> None:
    """Train on the other folds' patients, then predict the held-out fold once.

    Every epoch leaves a checkpoint in `folder`; called again after an interruption it resumes there and ends with the
    same bytes.

    Args:
        configuration: everything that training depends on besides the data.
        fold: the held-out fold, 0-based.
        folder: where predictions.parquet, inner_predictions.parquet, curve.csv, result.json and weights.pt go.
        store: patches of the cohort's lesion slices.
        split: the saved table patient_id, label, fold; its labels are the ones that count.

    Raises:
        TrainingDivergedError: the loss is not finite under this configuration; trying again cannot help.
    """
    started = time.monotonic()
    torch.set_num_threads(configuration.cpus_per_fold)
    table = read_split(split)
    seed = unit_seed(configuration, fold)
    data = _fold_data(configuration, fold, store, table, seed)
    classifier = _classifier(configuration, configuration.widest_context, seed)
    early_stopping = configuration.training.early_stopping
    checkpoint = EpochCheckpoint(folder, None if early_stopping == "none" else configuration.training.patience)
    trainer = _trainer(configuration, checkpoint)
    last = folder / "last.ckpt"
    with warnings.catch_warnings():
        # Patches come from a memory map by the batch: loader workers would only copy them.
        warnings.filterwarnings("ignore", message=".*does not have many workers.*")
        trainer.fit(classifier, data, ckpt_path=last if last.exists() else None)
        predicted = _predict(trainer, classifier, data)
    _write_predictions(folder / "predictions.parquet", predicted[data.held_out_rows], store, table)
    _write_predictions(folder / "inner_predictions.parquet", predicted[data.inner_rows], store, table)
    torch.save(classifier.state_dict(), folder / "weights.pt")
    seconds = time.monotonic() - started
    result = {"best_epoch": checkpoint.best_epoch, "epochs": len(checkpoint.curve), "seconds": seconds}
    write_atomically(folder / "result.json", json.dumps(result) + "\n")
    last.unlink(missing_ok=True)


def check_network(configuration: Configuration) -> None:
    """Build the configuration's network and load its weights, to find before the first fold that they cannot be had.

    Raises:
        SettingsError: the backbone, its package, or the weights are missing or do not fit each other.
    """
    try:
        _classifier(configuration, configuration.widest_context, seed=0)
    except (ValueError, ImportError) as error:
        raise SettingsError(str(error)) from error


def unit_seed(configuration: Configuration, fold: int) -> int:
    """The seed of everything random in a unit: a function of (sweep seed, configuration, fold) alone."""
    key = f"{configuration.seed}/{configuration.digest}/{fold}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])


def _fold_data(
    configuration: Configuration, fold: int, store: PatchStore, split: pd.DataFrame, order_seed: int
) -> FoldData:
    augmentation, training = configuration.augmentation, configuration.training
    return FoldData(
        store.patches(),
        store.lesions,
        split,
        fold,
        batch_size=training.batch_size,
        benign_factor=augmentation.benign_factor,
        malignant_factor=augmentation.malignant_factor,
        early_stopping=training.early_stopping,
        inner_fraction=configuration.inner_fraction,
        seed=configuration.seed,
        order_seed=order_seed,
    )


def _classifier(configuration: Configuration, widest_context: float, seed: int) -> FractureClassifier:
    augmentation = configuration.augmentation
    ranges = AffineRanges(
        translation=augmentation.translation,
        scaling=augmentation.scaling,
        rotation_degrees=augmentation.rotation_degrees,
        flip=augmentation.flip,
    )
    return FractureClassifier(
        **configuration.model.model_dump(),
        **configuration.input.model_dump(),
        widest_context=widest_context,
        ranges=ranges,
        seed=seed,
    )


def _trainer(configuration: Configuration, checkpoint: EpochCheckpoint) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        max_epochs=configuration.training.epochs,
        precision=configuration.training.precision,
        # The ResNets are deterministic; some of timm's networks have no such backward on a GPU and would only raise.
        deterministic="warn",
        callbacks=[checkpoint],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def _predict(trainer: pl.Trainer, classifier: FractureClassifier, data: FoldData) -> pd.Series:
    """Probability by row of the patch store, of the held-out and the inner validation patients."""
    batches: list[Any] = trainer.predict(classifier, data) or []
    columns = {name: torch.cat([batch[name] for batch in batches]).numpy() for name in ("row", "probability")}
    if not np.isfinite(columns["probability"]).all():
        raise TrainingDivergedError(
            "training diverged: a predicted probability is not a number; lower model.learning_rate"
        )
    return pd.Series(columns["probability"].astype(float), index=columns["row"])


def _write_predictions(path: Path, probability: pd.Series, store: PatchStore, split: pd.DataFrame) -> None:
    """patient_id, sop_instance_uid, label, probability; `probability` is indexed by the rows of the patch store."""
    lesions = store.lesions.loc[probability.index, ["patient_id", "sop_instance_uid"]]
    label = lesions["patient_id"].map(split.set_index("patient_id")["label"])
    lesions.assign(label=label, probability=probability).to_parquet(path, index=False)
