"""Percentile intervals by drawing patients anew, all rows of a patient at once, each class for itself (Efron 1979)."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from sweep.patient_metrics import Array, Estimate, mean_roc_points

RATES = np.linspace(0, 1, 51)  # false-positive rates of the ROC band


def bootstrap_interval(
    statistic: Callable[[Array], float],
    label: Array,
    patient: Array,
    draws: int = 2000,
    seed: int = 0,
    confidence: float = 0.95,
) -> Estimate:
    """A figure of the rows whose numbers `statistic` is given; `label` (N,) is the same in all rows of a patient.

    No interval where a draw has no figure or all have the same.
    """
    drawn = np.array([statistic(rows) for rows in draw_rows(label, patient, draws, seed)])
    value = float(statistic(np.arange(len(label))))
    low, high = np.quantile(drawn, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Estimate(value, float(low), float(high)) if low < high else Estimate(value, float("nan"), float("nan"))


def roc_band(label: Array, score: Array, fold: Array, draws: int = 1000, seed: int = 0) -> pd.DataFrame:
    """The mean of the folds' ROC curves at RATES with pointwise 95 % intervals; label, score, fold a row per patient.

    Columns: false_positive_rate, sensitivity, low, high. Patients keep their folds and are drawn within their class
    over all folds. Pointwise: it is about the sensitivity at each rate, not about the whole curve. Where every
    fold's curve lies at 1 nothing varies and the band has no width; docs/decisions.md has its coverage.
    """

    def curve(rows: Array) -> Array:
        return np.interp(RATES, *mean_roc_points(label[rows], score[rows], fold[rows]))

    drawn = np.array([curve(rows) for rows in draw_rows(label, np.arange(len(label)), draws, seed)])
    low, high = np.nanquantile(drawn, [0.025, 0.975], axis=0)
    own = {"false_positive_rate": RATES, "sensitivity": curve(np.arange(len(label)))}
    return pd.DataFrame({**own, "low": low, "high": high})


def draw_rows(label: Array, patient: Array, draws: int, seed: int) -> list[Array]:
    """Numbers of the rows of each draw."""
    _, first, code = np.unique(patient, return_index=True, return_inverse=True)
    strata = [np.flatnonzero(label[first] == kind) for kind in np.unique(label)]
    random, rows = np.random.default_rng(seed), []
    for _ in range(draws):
        drawn = np.concatenate([random.choice(members, len(members)) for members in strata])
        rows.append(np.repeat(np.arange(len(code)), np.bincount(drawn, minlength=len(first))[code]))
    return rows
