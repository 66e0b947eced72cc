"""AUCs and intervals, held to golden figures, brute force, permutations and simulation."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from sweep import patient_metrics as metrics

Case = tuple[metrics.Array, metrics.Array, metrics.Array]
SCORES = ["score_a", "score_b", "score_ties"]


def random_case(seed: int, ties: bool = False, shift: float = 0.0, per_fold: tuple[int, int] = (5, 14)) -> Case:
    """Label, score and fold of ten folds; `shift`: standard deviation of the folds' score scales."""
    random = np.random.default_rng(seed)
    label = np.tile(np.repeat([1, 0], per_fold), 10)
    fold = np.repeat(np.arange(10), sum(per_fold))
    score = random.normal(size=len(label)) + np.sqrt(2) * norm.ppf(0.9) * label + shift * random.normal(size=10)[fold]
    return label, np.round(score) if ties else score, fold


def brute_force_auc(label: metrics.Array, score: metrics.Array) -> float:
    pairs = [(m > b) + (m == b) / 2 for m in score[label == 1] for b in score[label == 0]]
    return float(np.mean(pairs))


@pytest.mark.parametrize("name", SCORES)
def test_auc_and_intervals_agree_with_the_golden_figures(shared: Path, name: str) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    expected = pd.read_csv(shared / "golden/auc_case_expected.csv").set_index("score").loc[name]
    label, score, fold = cases["y"].to_numpy(), cases[name].to_numpy(), cases["fold"].to_numpy()
    plain, logit = (metrics.auc_interval(label, score, scale) for scale in ("plain", "logit"))
    folds = metrics.mean_of_folds(label, score, fold)
    found = [plain.value, metrics.delong_variance(label, score), plain.low, plain.high, logit.low, logit.high]
    curve = folds.influence_curve
    found += [folds.value, (curve.high - curve.low) / 2 / norm.ppf(0.975), curve.low, curve.high]
    np.testing.assert_allclose(found, expected.to_numpy(float), rtol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_is_the_share_of_pairs_ranked_right(ties: bool) -> None:
    label, score, fold = random_case(1, ties)
    assert metrics.auc(label, score) == pytest.approx(brute_force_auc(label, score), abs=1e-12)
    by_fold = metrics.fold_aucs(label, score, fold)
    assert by_fold[3] == pytest.approx(brute_force_auc(label[fold == 3], score[fold == 3]), abs=1e-12)


@pytest.mark.parametrize("ties", [False, True])
def test_auc_ignores_monotone_transforms_and_order_and_mirrors_swapped_labels(ties: bool) -> None:
    label, score, fold = random_case(2, ties)
    figures = metrics.mean_of_folds(label, score, fold)
    assert metrics.mean_of_folds(label, np.exp(score), fold) == figures
    order = np.random.default_rng(0).permutation(len(label))
    shuffled = metrics.mean_of_folds(label[order], score[order], fold[order])
    assert (shuffled.value, shuffled.high) == pytest.approx((figures.value, figures.high), abs=1e-12)
    assert metrics.auc(1 - label, score) == pytest.approx(1 - metrics.auc(label, score), abs=1e-12)
    assert metrics.delong_variance(1 - label, score) == pytest.approx(metrics.delong_variance(label, score))


def test_the_mean_of_folds_survives_a_shift_between_folds_and_the_pooled_auc_does_not() -> None:
    label, score, fold = random_case(3)
    shifted = score + np.random.default_rng(0).normal(size=10)[fold]
    assert metrics.mean_of_folds(label, shifted, fold).value == metrics.mean_of_folds(label, score, fold).value
    assert metrics.auc(label, shifted) < metrics.auc(label, score) - 0.02


def test_one_class_has_no_auc_and_its_fold_is_named() -> None:
    label, score, fold = random_case(4)
    label[fold == 7] = 0
    folds = metrics.mean_of_folds(label, score, fold)
    inside = fold != 7
    assert np.isnan(metrics.fold_aucs(label, score, fold)[7])
    assert folds.undefined == (7,)
    rest = metrics.mean_of_folds(label[inside], score[inside], fold[inside])
    assert (folds.value, folds.low, folds.high) == (rest.value, rest.low, rest.high)
    nothing = metrics.mean_of_folds(np.zeros(20), np.arange(20), np.arange(20) % 2)
    assert np.isnan([nothing.value, nothing.low, nothing.high]).all() and nothing.undefined == (0, 1)


def test_perfect_separation_claims_no_certainty() -> None:
    label = np.repeat([0, 1], 10)
    score = np.arange(20) / 20
    for found in (metrics.auc_interval(label, score), metrics.auc_interval(label, score, "logit")):
        assert found.value == 1 and np.isnan([found.low, found.high]).all()
    assert np.isnan(metrics.mean_of_folds(label, score, np.arange(20) % 2).low)


def test_a_score_that_is_missing_is_refused() -> None:
    with pytest.raises(ValueError, match="predict the missing"):
        metrics.auc(np.array([0, 1]), np.array([0.1, np.nan]))


@pytest.mark.parametrize("ties", [False, True])
def test_noise_of_the_difference_is_the_spread_over_all_ways_to_deal_the_folds(ties: bool) -> None:
    label = np.repeat([1, 0], [5, 6])
    score = np.random.default_rng(5).normal(size=11) + label
    score = np.round(score) if ties else score
    ways = [
        np.isin(np.arange(11), [*malignant, *benign]).astype(int)  # folds of unequal size
        for malignant in combinations(range(5), 2)
        for benign in combinations(range(5, 11), 2)
    ]
    means = [metrics.mean_of_folds(label, score, fold).value for fold in ways]
    shift = metrics.fold_shift(label, score, ways[0])
    assert shift.difference == pytest.approx(means[0] - metrics.auc(label, score))
    assert shift.noise == pytest.approx(np.std(means), rel=4 / np.sqrt(2 * metrics.DEALS))
    assert shift.limit == pytest.approx(1.959964 * shift.noise)
    assert np.mean(means) == pytest.approx(metrics.auc(label, score))


def test_the_warning_is_rare_without_and_sure_with_a_shift_of_one_standard_deviation() -> None:
    def warned(shift: float) -> float:
        found = [metrics.fold_shift(*random_case(seed, shift=shift)) for seed in range(200)]
        return float(np.mean([abs(one.difference) > one.limit for one in found]))

    assert warned(0.0) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)
    assert warned(1.0) > 0.95


def test_a_shift_of_one_standard_deviation_pools_a_true_090_to_083_and_delong_covers_it_rarely() -> None:
    """The known size: 0.83, covered in 40 %; the mean of folds stays at 0.90."""
    label, fold = np.repeat([1, 0], [50, 140]), np.concatenate([np.arange(50) % 10, np.arange(140) % 10])
    found = []
    for seed in range(300):
        random = np.random.default_rng(seed)
        score = random.normal(size=190) + np.sqrt(2) * norm.ppf(0.9) * label + random.normal(size=10)[fold]
        pooled = metrics.auc_interval(label, score)
        found.append((pooled.value, pooled.high >= 0.9, metrics.mean_of_folds(label, score, fold).value))
    value, covered, mean = np.mean(found, axis=0)
    assert value == pytest.approx(0.83, abs=0.012) and mean == pytest.approx(0.9, abs=0.006)
    assert covered == pytest.approx(0.4, abs=0.02 + 4 * np.sqrt(0.4 * 0.6 / 300))


@pytest.mark.parametrize("per_fold", [(2, 5), (5, 14)])
def test_the_interval_covers_also_where_the_influence_curve_is_too_narrow(per_fold: tuple[int, int]) -> None:
    found = [metrics.mean_of_folds(*random_case(seed, per_fold=per_fold)) for seed in range(300)]
    ours, curve = (
        np.mean([estimate.low <= 0.9 <= estimate.high for estimate in estimates])
        for estimates in (found, [folds.influence_curve for folds in found])
    )
    assert ours > 0.90 - 4 * np.sqrt(0.9 * 0.1 / 300)
    assert ours > curve
    assert curve < 0.89 or per_fold != (2, 5)


def test_large_folds_give_both_intervals() -> None:
    """With many patients a fold, the pooled variance and the influence curve are the same to their bias of K/N."""
    folds = metrics.mean_of_folds(*random_case(9, per_fold=(200, 560)))
    curve = folds.influence_curve
    assert folds.high - folds.low == pytest.approx(curve.high - curve.low, rel=0.01)


def test_a_class_alone_in_every_fold_has_no_spread_to_measure() -> None:
    folds = metrics.mean_of_folds(*random_case(10, per_fold=(1, 3)))
    assert np.isnan([folds.low, folds.high]).all() and folds.value > 0.5


@pytest.mark.parametrize("ties", [False, True])
def test_areas_under_the_drawn_curves_are_the_aucs(ties: bool) -> None:
    label, score, fold = random_case(8, ties)
    for (x, y), expected in (
        (metrics.roc_points(label, score), metrics.auc(label, score)),
        (metrics.mean_roc_points(label, score, fold), metrics.mean_of_folds(label, score, fold).value),
    ):
        assert np.trapezoid(y, x) == pytest.approx(expected, abs=1e-12)
        assert (x[0], x[-1], y[-1]) == (0, 1, 1) and (np.diff(x) >= 0).all() and (np.diff(y) >= -1e-12).all()


def test_a_patient_at_the_threshold_is_called_malignant() -> None:
    label, score = np.array([1, 1, 0, 0]), np.array([0.5, 0.4999, 0.5, 0.4999])
    assert metrics.outcomes(label, score).tolist() == ["TP", "FN", "FP", "TN"]


@pytest.mark.parametrize("ties", [False, True])
def test_average_precision_is_the_mean_precision_where_a_malignant_patient_is_found(ties: bool) -> None:
    label, score, _ = random_case(11, ties)
    precisions = [label[score >= own].mean() for own in score[label == 1]]
    found = metrics.average_precision(label, score)
    assert found == pytest.approx(np.mean(precisions), rel=1e-12)
    assert metrics.average_precision(label, np.exp(score)) == found
    assert metrics.average_precision(label, np.zeros(len(label))) == pytest.approx(label.mean())
    assert metrics.average_precision(label, label) == 1
    assert np.isnan([metrics.average_precision(np.full(9, kind), np.arange(9)) for kind in (0, 1)]).all()


def test_auc_and_interval_agree_with_proc(shared: Path) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    for expected in pd.read_csv(shared / "golden/auc_case_pROC.csv").to_dict("records"):
        label, score = cases["y"].to_numpy(), cases[expected["score"]].to_numpy()
        found = metrics.auc_interval(label, score)
        figures = [found.value, metrics.delong_variance(label, score), found.low, found.high]
        np.testing.assert_allclose(figures, [expected[key] for key in ("auc", "delong_var", "lo", "hi")], rtol=1e-9)
