"""What each switch of docs/performance.md does to the final AUC on the phantom, paired with the default, and to time.

    python benchmarks/switches.py model.learning_rate=1e-3 augmentation.benign_factor=5 augmentation.malignant_factor=10
    python benchmarks/switches.py --seeds 1 --folds 4 --only fused_optimizer=true

A fold is trained as in a sweep, early stopping included, once for each switch from the same initial weights, in the
same order and under the same affines; on a CPU, as many folds at once as there are cores. The figure is the mean, over
folds and seeds, of the difference of the held-out patients' AUC, with its standard error; a switch is within noise
where two of those around the mean hold 0.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import roc_auc_score

from datasets.folds import make_split
from datasets.patch_store import PatchStore
from sweep import train_fold
from sweep.compose import load_settings
from sweep.prepare import prepare_patches

DEFAULT = "default"
SWITCHES = ["channels_last=false", "fused_optimizer=true", "precision=bf16-mixed"]
ON_A_GPU = ["precision=tf32", "cuda_graphs=true"]
Outcome = dict[str, tuple[float, float]]
"""Switch to AUC and seconds."""


def train(store: PatchStore, folder: Path, options: list[str], switches: list[str], unit: tuple[int, int]) -> Outcome:
    """One fold under every switch."""
    seed, fold = unit
    logging.disable(logging.WARNING)
    # A sweep gives every configuration a seed of its own, and a switch is part of the configuration.
    train_fold.unit_seed = lambda configuration, fold: 1000 * seed + fold
    split = folder / f"split-{seed}.csv"
    found: Outcome = {}
    for switch in switches:
        chosen = [] if switch == DEFAULT else [f"training.{switch}"]
        configuration = load_settings([*options, f"seed={seed}", *chosen]).configuration({})
        results = folder / f"{seed}-{fold}-{switch}"
        train_fold.train_pack([train_fold.Task(configuration, fold, results, split)], store)
        patients = (
            pd.read_parquet(results / "predictions.parquet").groupby("patient_id")[["label", "probability"]].max()
        )
        auc = float(roc_auc_score(patients["label"], patients["probability"]))
        found[switch] = auc, json.loads((results / "result.json").read_text())["seconds"]
    return found


def main(options: argparse.Namespace) -> None:
    overrides = ["search/space=none", "search.configurations=1", *options.settings]
    settings = load_settings(overrides)
    store = prepare_patches(settings).store
    patients = store.lesions[["patient_id", "label"]].drop_duplicates("patient_id")
    switches = [DEFAULT, *(options.only or SWITCHES + (ON_A_GPU if torch.cuda.is_available() else []))]
    processes = 1 if torch.cuda.is_available() else os.cpu_count()
    with tempfile.TemporaryDirectory() as folder, ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        for seed in range(options.seeds):
            make_split(patients, settings.folds.count, seed).to_csv(Path(folder, f"split-{seed}.csv"), index=False)
        units = list(product(range(options.seeds), range(options.folds)))
        found = list(pool.map(partial(train, store, Path(folder), overrides, switches), units))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{processes} cores"
    print(f"torch {torch.__version__}, {device}, {settings.model.backbone}, {len(units)} folds a switch")
    print("\n| switch | mean AUC | difference | standard error | its time |\n|---|---|---|---|---|")
    for switch in switches:
        aucs = [outcome[switch][0] for outcome in found]
        differences = np.array([outcome[switch][0] - outcome[DEFAULT][0] for outcome in found])
        ratio = statistics.median(outcome[switch][1] / outcome[DEFAULT][1] for outcome in found)
        error = differences.std(ddof=1) / len(differences) ** 0.5
        print(f"| {switch} | {np.mean(aucs):.4f} | {differences.mean():+.4f} | {error:.4f} | {ratio:.2f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("settings", nargs="*", help="as for `python -m sweep`, model=resnet50 for example")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--folds", type=int, default=10, help="of each seed's ten")
    parser.add_argument("--only", nargs="+", help="these switches, without training.")
    main(parser.parse_args())
