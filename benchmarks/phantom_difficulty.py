"""Can single pixel statistics separate the phantom's classes as well as a small network can?

    python benchmarks/phantom_difficulty.py            (about ten minutes on two cores)

Tenfold cross-validation by patient; a patient's score is the highest of its slices; the figure is the mean AUC of the
folds. A statistic of each patch goes into a logistic regression; the network is the sweep's narrow one.
"""

import argparse
import tempfile
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from datasets.folds import make_split, shuffle_labels
from datasets.ingest import ingest
from datasets.patch_store import PatchStore
from datasets.phantom import write_phantom
from lightning_modules.augmentation import (
    AffineRanges,
    central_crop,
    draw_affine,
    identity_affine,
    reach,
    resample,
    standardise,
)
from lightning_modules.backbone import build_backbone
from sweep.compose import load_settings

CONTEXTS = (1.0, 2.0)
WIDEST_CONTEXT, SIZE, BATCH = 3.0, 64, 32
RANGES = AffineRanges(translation=0.05, scaling=0.1, rotation_degrees=10.0)
CHANNELS = {"T1W": slice(1, 2), "T2W": slice(4, 5), "all six": slice(0, 6)}
Array = NDArray[np.float64]


def histograms(images: Array, low: float, high: float) -> Array:
    """Shares of pixels in 24 bins of every channel, (N, channels * 24)."""
    edges = np.linspace(low, high, 25)
    counts = [[np.histogram(np.clip(c, low, high), edges)[0] for c in image] for image in images]
    return np.asarray(np.reshape(counts, (len(images), -1)) / images[0, 0].size)


def z_scored(images: Array) -> Array:
    deviation = images.std((2, 3), keepdims=True)
    return np.asarray((images - images.mean((2, 3), keepdims=True)) / deviation)


STATISTICS: dict[str, Callable[[Array], Array]] = {
    "mean": lambda images: images.mean((2, 3)),
    "standard deviation": lambda images: images.std((2, 3)),
    "standard deviation / mean": lambda images: images.std((2, 3)) / images.mean((2, 3)),
    "histogram": lambda images: histograms(images, 0, 1.2),
    "histogram after z-score": lambda images: histograms(z_scored(images), -2.5, 2.5),
}


def fold_auc(lesions: pd.DataFrame, scores: Array) -> float:
    """AUC of the patients by their highest slice."""
    patients = lesions.assign(score=scores).groupby("patient_id").agg({"label": "first", "score": "max"})
    return float(roc_auc_score(patients.label, patients.score))


def statistic_auc(features: Array, lesions: pd.DataFrame) -> list[float]:
    aucs = []
    for fold in sorted(lesions.fold.unique()):
        test = (lesions.fold == fold).to_numpy()
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=1000, class_weight="balanced"))
        model.fit(features[~test], lesions.label[~test])
        aucs.append(fold_auc(lesions[test], model.decision_function(features[test])))
    return aucs


def network_auc(store: PatchStore, lesions: pd.DataFrame, steps: int, context_and_fold: tuple[float, int]) -> float:
    """Train on all folds but one for a fixed number of steps, without any selection; AUC of that fold."""
    context, fold = context_and_fold
    torch.set_num_threads(1)
    torch.manual_seed(fold)
    generator = torch.Generator().manual_seed(fold)
    stored = torch.from_numpy(np.array(store.patches()))
    patches, extent = central_crop(stored, WIDEST_CONTEXT, reach(context, RANGES))
    crop = partial(resample, context=context, widest_context=extent, size=SIZE)
    labels, test = torch.tensor(lesions.label.to_numpy(np.float32)), torch.tensor((lesions.fold == fold).to_numpy())
    network = build_backbone("narrow", stem="7x7")
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    share = labels[~test].mean()
    chance = torch.where(labels == 1, 1 / share, 1 / (1 - share)) * ~test
    for _ in range(steps):
        rows = torch.multinomial(chance, BATCH, generator=generator)
        images = standardise(crop(patches[rows], draw_affine(BATCH, RANGES, generator)))
        loss = F.binary_cross_entropy_with_logits(network(images), labels[rows])
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    network.eval()
    with torch.inference_mode():
        images = standardise(crop(patches[test], identity_affine(int(test.sum()))))
        return fold_auc(lesions[test.numpy()], network(images).double().numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--patients", type=int, default=96)
    parser.add_argument("--seed", type=int, default=2022)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--shuffle-labels", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        phantom = Path(temporary, "phantom")
        write_phantom(phantom, options.patients, options.seed)
        rules = load_settings(["data.pixels_per_box=64"]).data
        store = ingest(phantom / "dicom", phantom / "annotations.csv", Path(temporary, "cache"), rules).store
        lesions = shuffle_labels(store.lesions, options.seed) if options.shuffle_labels else store.lesions
        split = make_split(lesions[["patient_id", "label"]].drop_duplicates("patient_id"), 10, seed=options.seed)
        compare(store, lesions.merge(split[["patient_id", "fold"]], on="patient_id"), options.steps)


def compare(store: PatchStore, lesions: pd.DataFrame, steps: int) -> None:
    """Print the table: a row per statistic and channel, a column per context."""
    patches = torch.from_numpy(np.array(store.patches()))
    rows: dict[tuple[str, float], str] = {}
    for context in CONTEXTS:
        affine = identity_affine(len(patches))
        images = resample(patches, affine, context=context, widest_context=WIDEST_CONTEXT, size=SIZE).double().numpy()
        for name, statistic in STATISTICS.items():
            for channels, which in CHANNELS.items():
                aucs = statistic_auc(statistic(images[:, which]), lesions)
                rows[f"{name}, {channels}", context] = f"{np.mean(aucs):.2f}"
    folds = sorted(lesions.fold.unique())
    tasks = [(context, int(fold)) for context in CONTEXTS for fold in folds]
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        aucs = list(pool.map(partial(network_auc, store, lesions, steps), tasks))
    for context, of_context in zip(CONTEXTS, np.reshape(aucs, (len(CONTEXTS), -1)), strict=True):
        error = of_context.std(ddof=1) / len(folds) ** 0.5
        rows["network", context] = f"{of_context.mean():.2f} ± {error:.2f}"
    print("| | " + " | ".join(f"context {context}" for context in CONTEXTS) + " |\n|---|" + "---|" * len(CONTEXTS))
    for name in dict.fromkeys(name for name, _ in rows):
        print(f"| {name} | " + " | ".join(rows[name, context] for context in CONTEXTS) + " |")


if __name__ == "__main__":
    main()
