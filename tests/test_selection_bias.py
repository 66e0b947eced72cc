"""BBC-CV: held to golden simulations, to a plain loop over resamples, and to what selection may and may not see."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sweep import patient_metrics as metrics
from sweep.selection_bias import PRIOR_FOLDS, bbc_cv, draw_patients, fill_dropped_folds, weighted_fold_means

Array = metrics.Array
TRUE_AUC = 0.85


def equal_configurations(seed: int, count: int, rho: float = 0.5, ties: bool = False) -> tuple[Array, Array, Array]:
    """50 malignant and 140 benign patients in ten folds; scores of configurations that are equally good in truth."""
    random = np.random.default_rng(seed)
    label = np.repeat([1, 0], [50, 140])
    fold = np.concatenate([np.arange(50) % 10, np.arange(140) % 10])
    own = random.normal(size=(count, 190))
    score = np.sqrt(rho) * random.normal(size=190) + np.sqrt(1 - rho) * own + np.sqrt(2) * norm.ppf(TRUE_AUC) * label
    return label, np.round(score) if ties else score, fold


def pooled(fold: Array) -> Array:
    return np.zeros_like(fold)


@pytest.mark.parametrize("criterion", ["mean of folds", "pooled"])
def test_the_best_of_100_equal_configurations_is_corrected(shared: Path, criterion: str) -> None:
    """Golden: naive +0.053, BBC-CV -0.003. The luck that all configurations share is known here, and taken off the
    errors: 40 simulations then have standard errors of 0.0017 (naive) and 0.0024 (corrected)."""
    golden = pd.read_csv(shared / "golden/bbc_sim.csv").query("C == 100 and rho == 0.5 and sd_true_auc == 0").iloc[0]
    errors = []
    for seed in range(40):
        label, score, fold = equal_configurations(seed, 100)
        fold = fold if criterion == "mean of folds" else pooled(fold)
        found = bbc_cv(label, score, fold, resamples=80, seed=seed)
        everyone = np.ones((190, 1))
        shared_luck = np.mean([weighted_fold_means(label, row, fold, everyone) for row in score]) - TRUE_AUC
        errors.append((found.naive - TRUE_AUC - shared_luck, found.corrected.value - TRUE_AUC - shared_luck))
    naive, corrected = np.mean(errors, axis=0)
    naive_error, corrected_error = np.std(errors, axis=0) / np.sqrt(len(errors))
    assert naive == pytest.approx(golden["naive_bias"], abs=0.005 + 4 * np.hypot(naive_error, golden["naive_bias_se"]))
    assert corrected_error < 0.0025  # so that the bound below is four standard errors
    assert abs(corrected) < 0.01
    if criterion == "pooled":
        assert abs(corrected - golden["bbc_bias"]) < 4 * np.hypot(corrected_error, golden["bbc_bias_se"])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("criterion", ["mean of folds", "pooled"])
def test_weights_are_repeated_patients(ties: bool, criterion: str) -> None:
    label, score, fold = equal_configurations(1, 1, ties=ties)
    fold = fold[np.random.default_rng(2).permutation(190)]  # folds of unequal shares of the classes
    fold = fold * 7 - 3 if criterion == "mean of folds" else pooled(fold)
    weight = np.random.default_rng(3).multinomial(190, np.full(190, 1 / 190), size=8).T
    weight[:, 7] *= fold == fold[0]  # one fold only
    for column, found in zip(weight.T, weighted_fold_means(label, score[0], fold, weight), strict=True):
        drawn = np.repeat(np.arange(190), column)
        expected = metrics.mean_of_folds(label[drawn], score[0][drawn], fold[drawn]).value
        assert found == pytest.approx(expected, abs=1e-12)


def test_a_sample_with_one_class_has_no_figure() -> None:
    label, score, fold = equal_configurations(1, 1)
    weight = np.stack([label, 1 - label, np.ones(190, int)], axis=1)
    assert np.isnan(weighted_fold_means(label, score[0], fold, weight)).tolist() == [True, True, False]


def test_it_is_the_plain_loop_over_resamples() -> None:
    label, score, fold = equal_configurations(4, 7)
    found = bbc_cv(label, score, fold, resamples=40, seed=5)
    estimates, winners = [], []
    for count in draw_patients(label, fold, 40, 5).T.astype(int):
        drawn, left_out = np.repeat(np.arange(190), count), count == 0
        inside = [metrics.mean_of_folds(label[drawn], row[drawn], fold[drawn]).value for row in score]
        winners.append(int(np.argmax(np.round(inside, 12))))
        row = score[winners[-1]]
        estimates.append(metrics.mean_of_folds(label[left_out], row[left_out], fold[left_out]).value)
    expected = (np.mean(estimates), *np.quantile(estimates, [0.025, 0.975]))
    assert (found.corrected.value, found.corrected.low, found.corrected.high) == pytest.approx(expected, abs=1e-12)
    assert found.wins.tolist() == (np.bincount(winners, minlength=7) / 40).tolist()
    means = [metrics.mean_of_folds(label, row, fold).value for row in score]
    assert found.winner == np.argmax(means) and found.naive == pytest.approx(max(means))


def test_every_patient_is_drawn_once_on_average_and_left_out_with_chance_1_over_e() -> None:
    label, _, fold = equal_configurations(6, 1)
    drawn = draw_patients(label, fold, 1000, 7)
    assert (drawn.sum(axis=0) == 190).all()
    assert np.mean(drawn == 0) == pytest.approx((1 - 1 / 190) ** 190, abs=0.003)
    assert (draw_patients(label, fold, 10, 7) == draw_patients(label, fold, 10, 7)).all()


def test_monotone_transforms_and_copies_change_nothing_and_of_equals_the_first_wins() -> None:
    label, score, fold = equal_configurations(8, 5)
    found = bbc_cv(label, score, fold, resamples=50)
    assert bbc_cv(label, np.exp(score), fold, resamples=50).corrected == found.corrected
    doubled = bbc_cv(label, np.concatenate([score, score]), fold, resamples=50)
    assert (doubled.winner, doubled.corrected) == (found.winner, found.corrected)
    assert doubled.wins[5:].sum() == 0


def test_one_configuration_has_nothing_to_correct() -> None:
    label, score, fold = equal_configurations(9, 1)
    found = bbc_cv(label, score, pooled(fold), resamples=1000)
    assert found.corrected.value == pytest.approx(found.naive, abs=0.01)
    assert found.corrected.low < found.naive < found.corrected.high


def test_a_dropped_configuration_competes_in_the_resamples_but_is_never_the_winner() -> None:
    label, score, fold = equal_configurations(10, 6)
    complete = bbc_cv(label, score[[0, 2, 4]], fold, resamples=60)
    score[1] = np.where(fold < 9, 10.0 * label, np.nan)  # perfect where it has predictions
    score[[3, 5]] = np.where(fold < 2, 10.0 * (1 - label), np.nan)  # always wrong
    found = bbc_cv(label, score, fold, resamples=60)
    assert found.naive == pytest.approx(complete.naive) and found.winner == [0, 2, 4][complete.winner]
    assert found.wins[1] == 1 and found.wins[[3, 5]].sum() == 0
    without = bbc_cv(label, score[[0, 2, 4, 3, 5]], fold, resamples=60)
    # what no draw could have chosen changes nothing
    assert without.resampled == pytest.approx(complete.resampled)
    with pytest.raises(ValueError, match="has all folds"):
        bbc_cv(label, score[1::2], fold)


def test_dropped_folds_are_filled_by_the_ridge_fit_and_known_ones_kept() -> None:
    random = np.random.default_rng(0)
    auc = 0.8 + random.normal(0, 0.05, (6, 5, 3))
    assert (fill_dropped_folds(auc) == auc).all()
    auc[1, 2:], auc[3, 4:], auc[5, 1:] = np.nan, np.nan, np.nan
    auc[:, 0, 2] = np.nan  # a sample with one class in the fold
    filled = fill_dropped_folds(auc)
    assert np.isnan(filled[:, 0, 2]).all() and np.isnan(filled).sum() == 6
    for sample in range(3):
        row, column = np.nonzero(~np.isnan(auc[:, :, sample]))
        design = np.hstack([np.eye(5)[column], np.eye(6)[row]])
        penalty = np.hstack([np.zeros((6, 5)), np.sqrt(PRIOR_FOLDS) * np.eye(6)])
        target = np.concatenate([auc[row, column, sample], np.zeros(6)])
        effects = np.linalg.lstsq(np.vstack([design, penalty]), target)[0]
        expected = effects[:5] + effects[5:, None]
        missing = np.isnan(auc[:, :, sample]) & ~np.isnan(filled[:, :, sample])
        assert filled[:, :, sample][missing] == pytest.approx(expected[missing], abs=1e-4)
        assert (filled[row, column, sample] == auc[row, column, sample]).all()


def halved(label: Array, score: Array, fold: Array) -> Array:
    """Scores of a race that keeps the better half after two and five of ten folds; nan where it trained nothing."""
    raced, alive = score.copy(), np.arange(len(score))
    for done in (2, 5):
        inside = fold < done
        means = [metrics.mean_of_folds(label[inside], row[inside], fold[inside]).value for row in score]
        ranked = alive[np.argsort(-np.array(means)[alive])]
        alive = ranked[: len(alive) // 2]
        raced[np.ix_(np.setdiff1d(ranked, alive), fold >= done)] = np.nan
    return raced


def test_a_races_corrected_figure_is_nearly_that_without_a_race() -> None:
    """60 configurations of equal true AUC, so that every estimate is of 0.85; the same patients and draws in all three.
    The survivors alone are flattered by having survived on the very patients that score them."""
    errors = []
    for seed in range(16):
        label, score, fold = equal_configurations(200 + seed, 60)
        raced = halved(label, score, fold)
        survivors = raced[~np.isnan(raced).any(axis=1)]
        estimates = [bbc_cv(label, rows, fold, 50, seed).corrected.value for rows in (score, raced, survivors)]
        errors.append((estimates[1] - estimates[0], estimates[2] - estimates[0]))
    (raced_error, survivors_error), spread = np.mean(errors, axis=0), np.std(errors, axis=0) / np.sqrt(len(errors))
    assert abs(raced_error) < 0.006 + 3 * spread[0] and spread[0] < 0.0025
    assert survivors_error > 3 * spread[1] and survivors_error - raced_error > 0.004


def test_too_few_patients_are_named() -> None:
    label = np.repeat([1, 0], [1, 30])
    with pytest.raises(ValueError, match="1 malignant and 30 benign"):
        bbc_cv(label, np.random.default_rng(0).random((3, 31)), np.zeros(31), resamples=20)


def test_small_folds_are_drawn_until_they_have_a_figure() -> None:
    label, fold = np.tile([1, 0, 0], 2), np.repeat([0, 1], 3)
    found = bbc_cv(label, np.random.default_rng(0).random((3, 6)), fold, resamples=50)
    assert 0 <= found.corrected.low <= found.corrected.value <= found.corrected.high <= 1
