"""Intervals by drawing patients: pROC's, the clustered interval's, and what a draw keeps together."""

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep import bootstrap, patient_metrics, slices
from sweep.patient_metrics import Array
from tests.test_slices import random_slices


def auc_of_rows(label: Array, score: Array, rows: Array) -> float:
    return patient_metrics.auc(label[rows], score[rows])


def test_the_bootstrap_agrees_with_procs(shared: Path) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    label, patient = cases["y"].to_numpy(), cases["patient"].to_numpy()
    for expected in pd.read_csv(shared / "golden/auc_case_pROC.csv").to_dict("records"):
        score = cases[expected["score"]].to_numpy()
        found = bootstrap.bootstrap_interval(partial(auc_of_rows, label, score), label, patient)
        # both ends are Monte-Carlo quantiles of 2000 draws, with a standard error of 0.06 standard errors each
        tolerance = 4 * np.sqrt(2) * 0.06 * np.sqrt(expected["delong_var"])
        assert found.value == pytest.approx(expected["auc"])
        assert [found.low, found.high] == pytest.approx([expected["boot_lo"], expected["boot_hi"]], abs=tolerance)


def test_a_draw_keeps_the_strata_and_the_slices_of_a_patient_together() -> None:
    label, score, patient = random_slices(4)
    order = np.random.default_rng(0).permutation(len(label))
    label, score, patient = label[order], score[order], patient[order]
    size = np.bincount(patient)

    def check(rows: Array) -> float:
        times = np.bincount(patient[rows], minlength=70) / size
        assert (times == times.astype(int)).all() and times[:20].sum() == 20 and times[20:].sum() == 50
        return float(score[rows].mean())

    found = bootstrap.bootstrap_interval(check, label, patient, draws=50)
    assert found.low < found.value < found.high
    assert found == bootstrap.bootstrap_interval(check, label, patient, draws=50)
    assert found != bootstrap.bootstrap_interval(check, label, patient, draws=50, seed=1)


def test_the_bootstrap_of_slices_is_as_wide_as_the_clustered_interval() -> None:
    label, score, patient = random_slices(5)
    boot = bootstrap.bootstrap_interval(partial(auc_of_rows, label, score), label, patient, 500)
    clustered = slices.clustered_auc_interval(label, score, patient)
    assert boot.high - boot.low == pytest.approx(clustered.high - clustered.low, rel=0.25)


@pytest.mark.parametrize("figure", [1.0, float("nan")])
def test_a_figure_that_does_not_vary_has_no_interval(figure: float) -> None:
    found = bootstrap.bootstrap_interval(lambda _: figure, np.array([0, 1]), np.array([0, 1]), draws=5)
    assert np.isnan([found.low, found.high]).all()


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
