"""From slices to patients, and intervals with patients as clusters: golden figures, brute force and simulation."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sweep import patient_metrics, slices
from sweep.patient_metrics import Array

RULES: list[slices.Rule] = ["max", "mean", "top_mean", "noisy_or"]


def random_slices(
    seed: int, within: float = 0.8, ties: bool = False, mixed: bool = False
) -> tuple[Array, Array, Array]:
    """Label, score and patient of 20 malignant and 50 benign patients with 1 to 6 slices; AUC per slice 0.9.

    `within`: correlation of a patient's slices. `mixed`: some patients have slices of both labels.
    """
    random = np.random.default_rng(seed)
    patient = np.repeat(np.arange(70), random.integers(1, 7, 70))
    label = (patient < 20).astype(int)
    if mixed:
        label = np.where(random.random(len(label)) < 0.3, 1 - label, label)
    noise = np.sqrt(within) * random.normal(size=70)[patient] + np.sqrt(1 - within) * random.normal(size=len(patient))
    score = noise + np.sqrt(2) * norm.ppf(0.9) * label
    return label, np.round(score) if ties else score, patient


def test_rules_are_those_of_their_names_whatever_the_order() -> None:
    random = np.random.default_rng(0)
    patient = np.array(["b", "a", "c"])[random.integers(0, 3, 40)]
    probability = random.random(40)
    groups = [np.sort(probability[patient == name])[::-1] for name in "abc"]
    expected = {
        "max": [group[0] for group in groups],
        "mean": [group.mean() for group in groups],
        "top_mean": [group[:2].mean() for group in groups],
        "noisy_or": [1 - np.prod(1 - group) for group in groups],
    }
    order = random.permutation(40)
    for rule in RULES:
        found = slices.aggregate(probability, patient, rule, top=2)
        np.testing.assert_allclose(found, expected[rule], rtol=1e-12)
        np.testing.assert_allclose(slices.aggregate(probability[order], patient[order], rule, top=2), found, rtol=1e-12)


@pytest.mark.parametrize("rule", RULES)
def test_one_slice_is_its_patient_and_certain_slices_make_certain_patients(rule: slices.Rule) -> None:
    probability = np.array([0.3, 0.0, 1.0])
    np.testing.assert_allclose(slices.aggregate(probability, np.array([2, 0, 1]), rule), [0, 1, 0.3], atol=1e-15)
    certain = slices.aggregate(np.array([1.0, 1.0, 0.0, 0.0]), np.array([0, 0, 1, 1]), rule)
    assert certain.tolist() == [1, 0]


def test_rules_differ_in_the_order_that_their_definitions_impose() -> None:
    _, score, patient = random_slices(1)
    highest, mean, top, noisy = (slices.aggregate(norm.cdf(score), patient, rule) for rule in RULES)
    assert (mean <= top + 1e-12).all() and (top <= highest + 1e-12).all() and (highest <= noisy + 1e-12).all()
    assert (noisy <= 1).all() and (mean >= 0).all()


@pytest.mark.parametrize("ties", [False, True])
def test_clustered_variance_is_obuchowskis_sum_over_patients(ties: bool) -> None:
    label, score, patient = random_slices(2, ties=ties, mixed=True)
    concordance = (np.sign(score[label == 1][:, None] - score[label == 0]) + 1) / 2
    placed, auc = np.zeros(len(label)), concordance.mean()
    placed[label == 1], placed[label == 0] = concordance.mean(axis=1), concordance.mean(axis=0)
    m, n, own, both, counts = (label == 1).sum(), (label == 0).sum(), [0.0, 0.0], 0.0, [0, 0]
    for name in np.unique(patient):
        sums = []
        for kind in (1, 0):
            inside = (patient == name) & (label == kind)
            sums.append(placed[inside].sum() - inside.sum() * auc)
            own[kind], counts[kind] = own[kind] + sums[-1] ** 2, counts[kind] + int(inside.any())
        both += sums[0] * sums[1]
    expected = own[1] * counts[1] / (counts[1] - 1) / m**2 + own[0] * counts[0] / (counts[0] - 1) / n**2
    expected += 2 * both * 70 / 69 / (m * n)
    assert slices.clustered_variance(label, score, patient) == pytest.approx(expected, rel=1e-9)


def test_one_slice_a_patient_leaves_delongs_variance(shared: Path) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    label = cases["y"].to_numpy()
    for expected in pd.read_csv(shared / "golden/auc_case_pROC.csv").to_dict("records"):
        score = cases[expected["score"]].to_numpy()
        found = slices.clustered_auc_interval(label, score, cases["patient"].to_numpy())
        figures = [found.value, found.low, found.high]
        np.testing.assert_allclose(figures, [expected[key] for key in ("auc", "lo", "hi")], rtol=1e-9)


def test_slices_told_twice_bring_nothing_new() -> None:
    label, score, patient = random_slices(3)
    variance = slices.clustered_variance(label, score, patient)
    twice = slices.clustered_variance(*(np.tile(values, 2) for values in (label, score, patient)))
    assert twice == pytest.approx(variance, rel=1e-9)
    assert patient_metrics.delong_variance(np.tile(label, 2), np.tile(score, 2)) < 0.6 * variance
    mirrored = slices.clustered_variance(1 - label, score, patient)
    transformed = slices.clustered_variance(label, np.exp(score), 99 - patient)
    assert mirrored == pytest.approx(variance, rel=1e-9) and transformed == pytest.approx(variance, rel=1e-9)


def test_clustered_interval_covers_where_delongs_is_blind_to_patients() -> None:
    def covered(interval: patient_metrics.Estimate) -> bool:
        return interval.low <= 0.9 <= interval.high

    cases = [random_slices(seed) for seed in range(400)]
    clustered = np.mean([covered(slices.clustered_auc_interval(*case, scale="logit")) for case in cases])
    blind = np.mean([covered(patient_metrics.auc_interval(*case[:2], scale="logit")) for case in cases])
    assert clustered > 0.93 - 4 * np.sqrt(0.93 * 0.07 / 400)
    assert blind < 0.8


def test_a_class_from_one_patient_has_no_clustered_variance() -> None:
    label, score, patient = np.array([1, 1, 0, 0]), np.array([0.9, 0.4, 0.5, 0.1]), np.array([0, 0, 1, 2])
    assert np.isnan(slices.clustered_variance(label, score, patient))
    assert slices.clustered_auc_interval(label, score, patient).value == 0.75
    assert np.isnan(slices.clustered_auc_interval(np.zeros(4), score, patient).value)
