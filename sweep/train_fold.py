"""(configuration, fold) → out-of-fold predictions. A function of its arguments, wherever it runs. Knows no Ray."""

import gc
import hashlib
import json
import logging
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from pyarrow import parquet
from torch import Tensor

from datasets.fold_data import FoldData, PackData
from datasets.folds import read_split
from datasets.patch_store import PatchStore
from lightning_modules.augmentation import AffineRanges
from lightning_modules.checkpoint import EpochCheckpoint, HopelessError, TrainingDivergedError
from lightning_modules.classifier import Arithmetic, FractureClassifier
from lightning_modules.fold_training import FoldTraining, Samples
from lightning_modules.pack import FoldPack
from sweep.ledger import write_atomically
from sweep.settings import Configuration


@dataclass(frozen=True)
class Task:
    """A unit and the folder of its results: tables of predictions, curve.csv, result.json and weights.pt."""

    configuration: Configuration
    fold: int
    """The held-out one, 0-based."""
    folder: Path
    split: Path
    """The saved table patient_id, label, fold; its labels are the ones that count."""
    hopeless_below: tuple[float, ...] = ()
    """See EpochCheckpoint, also for `saving_share`."""
    saving_share: float = 1.0


def train_pack(tasks: Sequence[Task], store: PatchStore) -> list[TrainingDivergedError | HopelessError | None]:
    """Train units side by side in this process; each ends with the bytes that it would have had alone.

    Epochs leave a checkpoint in the task's folder; called again after an interruption, in whatever pack, the unit
    resumes there and ends with the same bytes.

    Args:
        tasks: their configurations may differ in anything but `cpus_per_fold`.
        store: patches of the cohort's lesion slices.

    Returns:
        For every task why its training diverged or is hopeless, or None: its files are written. A hopeless one leaves
        its best weights' predictions of the held-out patients in partial_predictions.parquet.
    """
    started = time.monotonic()
    # More folds than CUDA has connections by default would wait for each other; it is read when CUDA starts.
    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
    # Deterministic algorithms would otherwise fill every new tensor first, a kernel each on a GPU.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.set_num_threads(tasks[0].configuration.cpus_per_fold)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        gc.collect()  # the last pack's graphs and tensors hang in cycles of its Trainer
    data = PackData(store, [_fold_data(task, store) for task in tasks], device)
    checkpoints = [_resume(task, own, data.patches) for task, own in zip(tasks, data.folds, strict=True)]
    pack = FoldPack([checkpoint.fold for checkpoint in checkpoints])
    if pack.running():
        _trainer(checkpoints).fit(pack, datamodule=data)
    ended = zip(tasks, data.folds, checkpoints, strict=True)
    return [_write_results(task, own, checkpoint, store, started, len(tasks)) for task, own, checkpoint in ended]


def _write_results(
    task: Task, data: FoldData, checkpoint: EpochCheckpoint, store: PatchStore, started: float, side_by_side: int
) -> TrainingDivergedError | HopelessError | None:
    """The unit's files, or why there are none."""
    folder = task.folder
    try:
        checkpoint.finish()
        probability = _predict(checkpoint.fold, np.concatenate([data.held_out_rows, data.inner_rows]))
    except HopelessError as error:
        partial = _predict(checkpoint.fold, data.held_out_rows)
        _write_predictions(folder / "partial_predictions.parquet", data.held_out_rows, partial, store, data)
        return error
    except TrainingDivergedError as error:
        (folder / "last.ckpt").unlink(missing_ok=True)  # a later start trains anew, not on from where it went wrong
        return error
    held_out, inner = np.split(probability, [len(data.held_out_rows)])
    _write_predictions(folder / "predictions.parquet", data.held_out_rows, held_out, store, data)
    _write_predictions(folder / "inner_predictions.parquet", data.inner_rows, inner, store, data)
    torch.save({name: value.cpu() for name, value in checkpoint.fold.weights().items()}, folder / "weights.pt")
    result = {
        "best_epoch": checkpoint.best_epoch,
        "epochs": len(checkpoint.curve),
        "seconds": time.monotonic() - started,
        "side_by_side": side_by_side,
        "host": socket.gethostname(),
        "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", ""),
    }
    write_atomically(folder / "result.json", json.dumps(result) + "\n")
    (folder / "last.ckpt").unlink(missing_ok=True)
    return None


def finished_classifier(configuration: Configuration, weights: Path) -> FractureClassifier:
    """The classifier that a finished unit left in its weights.pt, on the CPU and in evaluation mode."""
    untrained = configuration.model.model_copy(update={"weights": "none"})
    plain = configuration.training.model_copy(update={"compile": False})
    classifier = build_classifier(configuration.model_copy(update={"model": untrained, "training": plain}), seed=0)
    classifier.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return classifier.eval()


def unit_seed(configuration: Configuration, fold: int) -> int:
    """The seed of everything random in a unit: a function of (sweep seed, configuration, fold) alone."""
    key = f"{configuration.seed}/{configuration.digest}/{fold}"
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:4])


def _fold_data(task: Task, store: PatchStore) -> FoldData:
    augmentation, training = task.configuration.augmentation, task.configuration.training
    return FoldData(
        store.lesions,
        read_split(task.split),
        task.fold,
        **augmentation.model_dump(include={"benign_factor", "malignant_factor"}),
        **training.model_dump(include={"batch_size", "early_stopping"}),
        inner_fraction=task.configuration.inner_fraction,
        seed=task.configuration.seed,
        order_seed=unit_seed(task.configuration, task.fold),
    )


def _resume(task: Task, data: FoldData, patches: Tensor) -> EpochCheckpoint:
    """The unit's training as the last try left it."""
    label, patient = torch.from_numpy(data.label), torch.from_numpy(data.patient)
    samples = Samples(patches, label, patient, data.order, data.batch_sizes, data.validation_rows)
    fold = FoldTraining(build_classifier(task.configuration, unit_seed(task.configuration, task.fold)), samples)
    training = task.configuration.training
    limits = training.model_dump(include={"epochs", "patience"})
    checkpoint = EpochCheckpoint(
        fold, task.folder, **limits, hopeless_below=task.hopeless_below, saving_share=task.saving_share
    )
    checkpoint.resume()
    return checkpoint


def build_classifier(configuration: Configuration, seed: int) -> FractureClassifier:
    """Untrained, with its initial weights loaded.

    Raises:
        NetworkError: the backbone, its package, or the weights cannot be had or do not fit each other.
    """
    ranges = configuration.augmentation.model_dump(include=set(AffineRanges.__dataclass_fields__))
    arithmetic = configuration.training.model_dump(include=set(Arithmetic.__dataclass_fields__))
    return FractureClassifier(
        **configuration.model.model_dump(),
        **configuration.input.model_dump(),
        widest_context=configuration.widest_context,
        ranges=AffineRanges(**ranges),
        seed=seed,
        arithmetic=Arithmetic(**arithmetic),
    )


def _trainer(checkpoints: Sequence[EpochCheckpoint]) -> pl.Trainer:
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    return pl.Trainer(
        accelerator="gpu" if torch.cuda.is_available() else "cpu",
        devices=1,
        max_epochs=-1,  # each fold knows when it is over
        # The ResNets are deterministic; some of timm's networks have no such backward on a GPU and would only raise.
        deterministic="warn",
        callbacks=list(checkpoints),
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _predict(fold: FoldTraining, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Probability of each of these rows of the patch store."""
    probability = torch.sigmoid(fold.logits(torch.from_numpy(rows))).cpu().numpy()
    if not np.isfinite(probability).all():
        raise TrainingDivergedError(
            "training diverged: a predicted probability is not a number; lower model.learning_rate"
        )
    return probability.astype(np.float64)


def _write_predictions(
    path: Path, rows: NDArray[np.int64], probability: NDArray[np.float64], store: PatchStore, data: FoldData
) -> None:
    """patient_id, sop_instance_uid, label, probability of these rows of the patch store."""
    identifiers = {name: store.lesions[name].take(rows) for name in ("patient_id", "sop_instance_uid")}
    table = pa.table(identifiers | {"label": data.label[rows].astype(int), "probability": probability})
    parquet.write_table(table, path)
