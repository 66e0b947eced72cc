"""Limits by drawing patients: pROC's, and what a draw keeps."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep import bootstrap, patient_metrics
from sweep.patient_metrics import Array


def auc_of_rows(label: Array, score: Array, rows: Array) -> float:
    return patient_metrics.auc(label[rows], score[rows])


def test_the_bootstrap_agrees_with_procs(shared: Path) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    label = cases["y"].to_numpy()
    for expected in pd.read_csv(shared / "golden/auc_case_pROC.csv").to_dict("records"):
        found = bootstrap.bootstrap_limits(partial(auc_of_rows, label, cases[expected["score"]].to_numpy()), label)
        # both ends are Monte-Carlo quantiles of 2000 draws, with a standard error of 0.06 standard errors each
        tolerance = 4 * np.sqrt(2) * 0.06 * np.sqrt(expected["delong_var"])
        assert found == pytest.approx([expected["boot_lo"], expected["boot_hi"]], abs=tolerance)


def test_a_draw_keeps_the_size_of_the_classes() -> None:
    label = np.random.default_rng(0).permutation(np.repeat([0, 1], [50, 20]))

    def check(rows: Array) -> Array:
        assert label[rows].sum() == 20 and len(rows) == 70 and len(np.unique(rows)) < 70
        return np.array([rows.mean(), np.nan if rows[0] % 2 else rows[1]])

    limits = bootstrap.bootstrap_limits(check, label, draws=50)
    assert limits.shape == (2, 2) and (limits[0] < limits[1]).all()
    np.testing.assert_array_equal(limits, bootstrap.bootstrap_limits(check, label, draws=50))
    assert (limits != bootstrap.bootstrap_limits(check, label, draws=50, seed=1)).any()


def band_case(seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    label = np.tile(np.r_[np.ones(4, int), np.zeros(11, int)], 10)
    return label, random.normal(size=150) + 1.5 * label, np.repeat(np.arange(10), 15)


def test_the_band_lies_around_the_mean_of_the_folds_curves() -> None:
    label, score, fold = band_case(0)
    band = bootstrap.roc_band(label, score, fold, draws=100)
    x, y = patient_metrics.mean_roc_points(label, score, fold)
    assert band["sensitivity"].to_numpy() == pytest.approx(np.interp(bootstrap.RATES, x, y))
    assert (band["low"] <= band["sensitivity"]).all() and (band["sensitivity"] <= band["high"]).mean() > 0.9
    assert band["low"].iloc[10] < band["high"].iloc[10] and band["low"].is_monotonic_increasing
    for changed in ((label, np.exp(score), fold), (label, score, 9 - fold)):
        pd.testing.assert_frame_equal(bootstrap.roc_band(*changed, draws=100), band)


def test_the_band_at_one_rate_holds_the_expected_sensitivity() -> None:
    """Expected by simulation at these fold sizes; 40 bands of 100 draws at 0.2, of which 95 % or more are due."""
    curves = [np.interp(0.2, *patient_metrics.mean_roc_points(*band_case(seed))) for seed in range(400)]
    expected = np.mean(curves)
    bands = [bootstrap.roc_band(*band_case(1000 + seed), draws=100).iloc[10] for seed in range(40)]
    held = np.mean([band["low"] <= expected <= band["high"] for band in bands])
    assert held > 0.95 - 4 * np.sqrt(0.95 * 0.05 / 40)
    widths = [band["high"] - band["low"] for band in bands]
    assert np.mean(widths) < 1.5 * 2 * 1.96 * np.std(curves)  # folds of four steps each make it wide


def test_a_draw_without_a_fold_of_both_classes_has_no_part_in_the_band() -> None:
    label, fold = np.array([1, 0, 0, 1, 0, 0]), np.repeat([0, 1], 3)
    band = bootstrap.roc_band(label, np.array([0.9, 0.1, 0.2, 0.8, 0.3, 0.95]), fold, draws=60)
    assert band.notna().all().all()
