"""Percentile intervals by drawing patients anew, each class for itself (Efron 1979)."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sweep.patient_metrics import Array, mean_roc_points

RATES = np.linspace(0, 1, 51)  # false-positive rates of the ROC band


def bootstrap_limits(
    statistic: Callable[[Array], float | Array], label: Array, draws: int = 2000, seed: int = 0
) -> Array:
    """(2, …): 95 % limits of a figure, or of each of several, of the patients whose numbers `statistic` is given.

    `label` (N,) is that of every patient. Draws without a figure have no part.
    """
    random = np.random.default_rng(seed)
    classes = [np.flatnonzero(label == kind) for kind in np.unique(label)]
    drawn = [statistic(np.concatenate([random.choice(of, len(of)) for of in classes])) for _ in range(draws)]
    return np.asarray(np.nanquantile(np.array(drawn), [0.025, 0.975], axis=0))


def roc_band(label: Array, score: Array, fold: Array, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The mean of the folds' ROC curves at RATES with pointwise 95 % intervals; label, score, fold a row per patient.

    Columns: false_positive_rate, sensitivity, low, high. Patients keep their folds and are drawn within their class
    over all folds. Pointwise: it is about the sensitivity at each rate, not about the whole curve. Where every
    fold's curve lies at 1 nothing varies and the band has no width; docs/decisions.md has its coverage.
    """

    def curve(rows: Array) -> Array:
        return np.interp(RATES, *mean_roc_points(label[rows], score[rows], fold[rows]))

    low, high = bootstrap_limits(curve, label, draws, seed)
    own = {"false_positive_rate": RATES, "sensitivity": curve(np.arange(len(label)))}
    return pd.DataFrame({**own, "low": low, "high": high})
