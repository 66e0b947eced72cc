"""Ensembles: against brute force over subsets, bags and resamples, and the golden optimism of the best of 511."""

import itertools
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.special import expit
from scipy.stats import norm

from sweep import ensembles
from sweep import patient_metrics as metrics
from sweep.selection_bias import draw_patients

Array = metrics.Array


def models(seed: int, count: int, ties: bool = False) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    label, fold = np.tile(np.repeat([1, 0], [4, 9]), 4), np.repeat(np.arange(4), 13)
    score = random.normal(size=52) + random.normal(size=(count, 52)) + 1.5 * label
    probability = expit(score)
    return label, np.round(probability * 4) / 4 if ties else probability, fold


def brute_force(label: Array, probability: Array, fold: Array, chosen: tuple[int, ...]) -> float:
    return metrics.mean_of_folds(label, probability[list(chosen)].sum(axis=0), fold).value


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("folds", [1, 4])
def test_every_subset_has_the_auc_of_its_average(ties: bool, folds: int) -> None:
    label, probability, fold = models(1, 5, ties)
    fold = fold % folds
    aucs = ensembles.subset_aucs(label, probability, fold)
    chosen = [ensembles.members(mask) for mask in range(1, 32)]
    assert sorted(chosen) == sorted(c for size in range(1, 6) for c in itertools.combinations(range(5), size))
    expected = [brute_force(label, probability, fold, subset) for subset in chosen]
    np.testing.assert_allclose(aucs, expected, atol=1e-12)
    best = ensembles.best_subset(label, probability, fold, resamples=20)
    assert best.auc == pytest.approx(max(expected))
    assert brute_force(label, probability, fold, best.models) == pytest.approx(best.auc)


def test_a_fold_with_one_class_has_no_part_and_scores_of_any_size_are_ranked() -> None:
    label, probability, fold = models(2, 3)
    label = np.where(fold == 2, 0, label)
    tiny = probability**200
    for row, found in zip(tiny, ensembles.row_aucs(label, tiny, fold), strict=True):
        assert found == pytest.approx(metrics.mean_of_folds(label, row, fold).value, abs=1e-12)
    assert np.isnan(ensembles.row_aucs(np.zeros(52), tiny, fold)).all()


def test_order_of_patients_and_swapped_labels() -> None:
    label, probability, fold = models(3, 4, ties=True)
    aucs = ensembles.subset_aucs(label, probability, fold)
    order = np.random.default_rng(0).permutation(52)
    np.testing.assert_allclose(
        ensembles.subset_aucs(label[order], probability[:, order], fold[order]), aucs, atol=1e-12
    )
    np.testing.assert_allclose(ensembles.subset_aucs(1 - label, probability, fold), 1 - aucs, atol=1e-12)


@pytest.mark.parametrize("wrong", [np.nan, -0.1])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    label, probability, fold = models(4, 3)
    probability[1, 5] = wrong
    with pytest.raises(ValueError, match="from 0 to 1"):
        ensembles.subset_aucs(label, probability, fold)


def test_too_many_models_are_sent_to_the_greedy_search() -> None:
    label, probability, fold = models(5, ensembles.MOST_MODELS + 1)
    with pytest.raises(ValueError, match="greedily"):
        ensembles.subset_aucs(label, probability, fold)


def test_a_search_too_large_to_repeat_has_no_corrected_figure() -> None:
    label, probability, fold = models(6, ensembles.MOST_CORRECTED + 1)
    assert np.isnan(ensembles.best_subset(label, probability, fold).corrected.value)


def test_greedy_is_brute_force_over_bags() -> None:
    label, probability, fold = models(7, 4)
    bag: tuple[int, ...] = ()
    met = []
    for _ in range(ensembles.ROUNDS):
        bag = max(
            ((*bag, model) for model in range(4)), key=lambda bag: round(brute_force(label, probability, fold, bag), 12)
        )
        met.append((round(brute_force(label, probability, fold, bag), 12), -len(bag), bag))
    assert ensembles.greedy_models(label, probability, fold) == max(met)[2]


def test_greedy_weighs_a_model_double_and_is_no_worse_than_the_best() -> None:
    label = np.array([1, 1, 0, 0])
    probability = np.array([[0.9, 0.5, 0.55, 0.1], [0.1, 0.6, 0.45, 0.3]])  # alone 0.75, evenly 0.875, 2 to 1: 1
    fold = np.zeros(4)
    assert ensembles.greedy_models(label, probability, fold) == (0, 1, 0)
    single = max(metrics.auc(label, row) for row in probability)
    assert single == 0.75 and metrics.auc(label, probability.sum(axis=0)) == 0.875
    assert metrics.auc(label, 2 * probability[0] + probability[1]) == 1


def test_greedy_is_repeated_in_every_resample() -> None:
    label, probability, fold = models(8, 3)
    found = ensembles.greedy_ensemble(label, probability, fold, resamples=15, seed=2)
    estimates = []
    for count in draw_patients(label, fold, 15, 2).T.astype(int):
        drawn, left = np.repeat(np.arange(52), count), count == 0
        chosen = ensembles.greedy_models(label[drawn], probability[:, drawn], fold[drawn])
        estimates.append(brute_force(label[left], probability[:, left], fold[left], chosen))
    assert found.corrected.value == pytest.approx(np.mean(estimates), abs=1e-12)
    assert found.auc == pytest.approx(brute_force(label, probability, fold, found.models))


def test_all_kinds_stand_beside_each_other() -> None:
    label, probability, fold = models(9, 4)
    found = ensembles.compare_ensembles(label, probability, fold, resamples=30)
    assert list(found) == ["best model", "average of all", "best subset", "greedy"]
    assert found["average of all"].models == (0, 1, 2, 3)
    assert found["best subset"].auc >= max(found["best model"].auc, found["average of all"].auc)
    for ensemble in found.values():
        assert ensemble.auc == pytest.approx(brute_force(label, probability, fold, ensemble.models))


def test_the_best_of_511_subsets_is_corrected(shared: Path) -> None:
    """50 and 140 patients, nine networks of AUC 0.85 that correlate by 0.5: golden optimism 0.0185, BBC-CV -0.0025.

    The luck of the plain average, whose true AUC is known, is taken off: 30 simulations then have standard errors of
    about 0.001 and 0.002.
    """
    golden = (
        pd.read_csv(shared / "golden/ens511_optimism.csv")
        .query("n1 == 50 and rho == 0.5 and single_auc == 0.85")
        .iloc[0]
    )
    label = np.repeat([1, 0], [50, 140])
    fold, shift, errors = np.zeros(190), np.sqrt(2) * norm.ppf(0.85), []
    for seed in range(30):
        random = np.random.default_rng(seed)
        score = np.sqrt(0.5) * (random.normal(size=190) + random.normal(size=(9, 190))) + shift * label + 10
        found = ensembles.best_subset(label, score, fold, resamples=100, seed=seed)
        true, average = (norm.cdf(shift / np.sqrt(2) / np.sqrt(0.5 + 0.5 / size)) for size in (len(found.models), 9))
        luck = metrics.auc(label, score.mean(axis=0)) - average
        errors.append((found.auc - true - luck, found.corrected.value - true - luck))
    optimism, bias = np.mean(errors, axis=0)
    optimism_error, bias_error = np.std(errors, axis=0) / np.sqrt(len(errors))
    assert average == pytest.approx(golden["avg9_true"], abs=1e-4)
    assert optimism_error < 0.0015 and bias_error < 0.003
    assert abs(optimism - golden["optimism"]) < 4 * np.hypot(optimism_error, golden["optimism_se"])
    assert abs(bias - golden["bbc_bias"]) < 4 * np.hypot(bias_error, golden["optimism_se"])
