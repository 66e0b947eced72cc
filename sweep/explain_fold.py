"""A finished fold's model → Grad-CAM maps of held-out slices, and their probabilities from one sequence alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from lightning_modules.augmentation import identity_affine
from lightning_modules.classifier import FractureClassifier
from lightning_modules.grad_cam import signed_maps
from sweep.settings import Configuration
from sweep.train_fold import finished_classifier

SEQUENCES = {"T1W": slice(0, 3), "T2W": slice(3, 6)}  # channels of a stored patch
BATCH = 64


def explain_fold(
    configuration: Configuration, weights: Path, patches: NDArray[np.float16], slices: pd.DataFrame
) -> pd.DataFrame:
    """Columns map, T1W and T2W for the lesion slices of a fold, under their index.

    `patches` (N, 6, side, side) are the store's; `slices` has the row of each slice in it, and whether it is the
    deciding one of its patient. map: grad_cam.signed_maps, a list of rows, of deciding slices only. T1W, T2W: the
    probability where the other sequence's channels are zero, their mean after standardisation.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    classifier = finished_classifier(configuration, weights).to(device)
    explained = []
    for start in range(0, len(slices), BATCH):
        some = slices.iloc[start : start + BATCH]
        stored = torch.from_numpy(patches[some["row"].to_numpy()]).to(device)
        alone = {name: _alone(classifier, stored, channels) for name, channels in SEQUENCES.items()}
        explained.append(pd.DataFrame(alone, index=some.index).assign(map=_maps(classifier, stored, some["deciding"])))
    return pd.concat(explained)


def _alone(classifier: FractureClassifier, patches: Tensor, channels: slice) -> NDArray[np.float64]:
    # A constant channel is zero after standardisation.
    alone = torch.zeros_like(patches)
    alone[:, channels] = patches[:, channels]
    with torch.no_grad():
        return torch.sigmoid(classifier(alone, identity_affine(len(alone)))).double().cpu().numpy()


def _maps(classifier: FractureClassifier, patches: Tensor, deciding: pd.Series) -> pd.Series:
    chosen = torch.tensor(deciding.to_numpy(bool), device=patches.device)
    if not chosen.any():
        return pd.Series(dtype=object)
    maps = signed_maps(classifier, patches[chosen]).cpu().tolist()
    return pd.Series(maps, index=deciding.index[deciding])
