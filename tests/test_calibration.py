"""Calibration: held to scikit-learn, the likelihood's own equations, simulation and what a known distortion must do."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.calibration import calibration_curve as sklearn_curve
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from sweep import calibration
from sweep.patient_metrics import Array


def random_case(seed: int, patients: int = 300) -> tuple[Array, Array]:
    """Labels drawn by their probabilities: perfectly calibrated."""
    random = np.random.default_rng(seed)
    probability = expit(1.5 * random.normal(size=patients) - 1)
    return (random.random(patients) < probability).astype(int), probability


def test_the_curve_is_scikit_learns_with_its_patients_counted() -> None:
    label, probability = random_case(1)
    curve = calibration.calibration_curve(label, probability, 7)
    observed, mean = sklearn_curve(label, probability, n_bins=7)
    np.testing.assert_allclose(curve["observed"], observed)
    np.testing.assert_allclose(curve["mean_probability"], mean)
    assert curve["patients"].sum() == 300
    assert curve["mean_probability"].between(curve["low"], curve["high"]).all()
    assert ((curve["observed_low"] <= curve["observed"]) & (curve["observed"] <= curve["observed_high"])).all()


def test_brier_is_scikit_learns_and_mirrors_swapped_labels() -> None:
    label, probability = random_case(2)
    found = calibration.brier_score(label, probability)
    assert found == pytest.approx(brier_score_loss(label, probability), rel=1e-12)
    assert calibration.brier_score(1 - label, 1 - probability) == pytest.approx(found, rel=1e-12)
    assert calibration.brier_score(label, label) == 0
    prevalence = label.mean()
    assert calibration.brier_score(label, np.full(300, prevalence)) == pytest.approx(prevalence * (1 - prevalence))


def test_expected_calibration_error_is_the_weighted_distance() -> None:
    label, probability = np.array([0, 1, 1, 1, 0]), np.array([0.12, 0.15, 0.9, 0.95, 0.92])
    by_hand = 2 / 5 * abs(0.5 - 0.135) + 2 / 5 * abs(0.5 - 0.935) + 1 / 5 * abs(1 - 0.9)
    assert calibration.expected_calibration_error(label, probability) == pytest.approx(by_hand)  # 0.9 is an edge
    assert calibration.expected_calibration_error(label, label) == 0
    assert calibration.expected_calibration_error(label, 1 - label) == 1
    few, many = (calibration.expected_calibration_error(*random_case(3, patients)) for patients in (100, 20_000))
    assert many < 0.02 < few  # few patients make the perfect look imperfect


def test_slope_is_scikit_learns_and_both_solve_their_equations() -> None:
    label, probability = random_case(4)
    found = calibration.calibration(label, probability)
    x = logit(probability)
    peer = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[:, None], label)
    assert found.slope.value == pytest.approx(peer.coef_[0, 0], rel=1e-4)
    assert expit(x + found.intercept.value).sum() == pytest.approx(label.sum(), rel=1e-6)
    p = expit(x + found.intercept.value)
    half = (found.intercept.high - found.intercept.low) / 2
    assert half == pytest.approx(1.959964 / np.sqrt((p * (1 - p)).sum()), rel=1e-4)


def test_a_known_distortion_is_found_and_perfect_probabilities_are_called_so() -> None:
    label, probability = random_case(5, 20_000)
    found = calibration.calibration(label, expit(2 * logit(probability)))
    assert found.slope.low < 0.5 < found.slope.high < 0.6
    shifted = calibration.calibration(label, expit(logit(probability) + 0.7))
    assert shifted.intercept.low < -0.7 < shifted.intercept.high < -0.5
    intervals = [calibration.calibration(*random_case(seed)) for seed in range(300)]
    covered = [(i.intercept.low <= 0 <= i.intercept.high, i.slope.low <= 1 <= i.slope.high) for i in intervals]
    np.testing.assert_allclose(np.mean(covered, axis=0), 0.95, atol=4 * np.sqrt(0.95 * 0.05 / 300))


def test_calibration_ignores_order_and_mirrors_swapped_labels() -> None:
    label, probability = random_case(6)
    found, order = calibration.calibration(label, probability), np.random.default_rng(0).permutation(300)
    shuffled = calibration.calibration(label[order], probability[order])
    mirrored = calibration.calibration(1 - label, 1 - probability)
    assert shuffled.slope.value == pytest.approx(found.slope.value, abs=1e-6)
    assert mirrored.slope.value == pytest.approx(found.slope.value, abs=1e-6)
    assert mirrored.intercept.value == pytest.approx(-found.intercept.value, abs=1e-6)


def test_what_has_no_estimate_gets_none() -> None:
    label, probability = random_case(7)
    one_class = calibration.calibration(np.zeros(300), probability)
    assert np.isnan([one_class.intercept.value, one_class.slope.value]).all()
    for nothing_to_fit in (np.full(300, 0.2), 0.25 + label / 2, 0.75 - label / 2):
        found = calibration.calibration(label, nothing_to_fit)
        assert np.isnan(found.slope.value) and np.isfinite(found.intercept.low)
    assert np.isfinite(calibration.brier_score(np.zeros(300), probability))
    assert np.isfinite(calibration.expected_calibration_error(np.ones(300), probability))


def test_saturated_probabilities_count() -> None:
    label, probability = random_case(8)
    saturated = np.where(probability > 0.6, 1.0, np.where(probability < 0.1, 0.0, probability))
    found = calibration.calibration(label, saturated)
    assert 0 < found.slope.low < found.slope.value < found.slope.high < 1
    assert len(calibration.calibration_curve(label, saturated)) > 1
    assert len(calibration.calibration_curve(label, np.ones(300))) == 1
