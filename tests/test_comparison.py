"""Tests of tests: held to golden figures, brute force, symmetry and simulation."""

from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.stats import hypergeom, norm

from sweep import comparison, patient_metrics
from sweep.patient_metrics import Array

Pair = tuple[Array, Array, Array, Array]


def random_pair(seed: int, second_auc: float = 0.9, shift: float = 1.0, ties: bool = False) -> Pair:
    """Label, two correlated scores (the first of AUC 0.9) and fold of ten folds of 5 malignant and 14 benign."""
    random = np.random.default_rng(seed)
    label, fold = np.tile(np.repeat([1, 0], (5, 14)), 10), np.repeat(np.arange(10), 19)
    common = random.normal(size=len(label))
    scores = []
    for auc in (0.9, second_auc):
        noise = np.sqrt(0.7) * common + np.sqrt(0.3) * random.normal(size=len(label))
        scores.append(noise + np.sqrt(2) * norm.ppf(auc) * label + shift * random.normal(size=10)[fold])
    first, second = (np.round(score) if ties else score for score in scores)
    return label, first, second, fold


def golden(shared: Path, name: str) -> list[dict[Any, Any]]:
    return pd.read_csv(shared / "golden" / name).to_dict("records")


def figures(found: comparison.AucComparison) -> list[float]:
    return [found.first, found.second, found.difference.value, found.difference.low, found.difference.high, found.p]


def test_mcnemar_agrees_with_all_tables_of_table_2(shared: Path) -> None:
    for row in golden(shared, "mcnemar_all_tables.csv"):
        found = comparison.mcnemar(row["n10"], row["n01"])
        np.testing.assert_allclose([found.exact, found.mid_p], [row["p_exact"], row["p_midp"]], rtol=1e-9)


def test_mcnemar_keeps_the_bounds_that_the_margins_set(shared: Path) -> None:
    for row in golden(shared, "mcnemar_bounds.csv"):
        discordant = range(row["min_discordant"], row["max_discordant"] + 1, 2)
        tables = [((count + row["diff_correct"]) // 2, (count - row["diff_correct"]) // 2) for count in discordant]
        found = [comparison.mcnemar(*table) for table in tables]
        bounds = [min(f.exact for f in found), max(f.exact for f in found)]
        bounds += [min(f.mid_p for f in found), max(f.mid_p for f in found)]
        expected = [row["p_exact_min"], row["p_exact_max"], row["p_midp_min"], row["p_midp_max"]]
        np.testing.assert_allclose(bounds, expected, rtol=1e-9)


def test_mcnemar_counts_the_coin_tosses_at_least_as_uneven() -> None:
    for b in range(7):
        for c in range(7):
            found, total = comparison.mcnemar(b, c), 2 ** (b + c)
            uneven = [comb(b + c, k) for k in range(b + c + 1) if abs(2 * k - b - c) >= abs(b - c)]
            equal = [comb(b + c, k) for k in range(b + c + 1) if abs(2 * k - b - c) == abs(b - c)]
            assert found.exact == pytest.approx(sum(uneven) / total)
            assert found.mid_p == pytest.approx((sum(uneven) - sum(equal) / 2) / total if b != c else 1.0)
            assert comparison.mcnemar(c, b) == found


def test_paired_delong_agrees_with_proc(shared: Path) -> None:
    cases = pd.read_csv(shared / "golden/auc_case_input.csv")
    for row in golden(shared, "auc_case_pROC_tests.csv"):
        label, first, second = (cases[name].to_numpy() for name in ("y", row["a"], row["b"]))
        found = comparison.paired_delong(label, first, second)
        error = (found.difference.high - found.difference.low) / 2 / norm.ppf(0.975)
        np.testing.assert_allclose([found.difference.value / error, found.p], [row["z"], row["p"]], rtol=1e-9)


@pytest.mark.parametrize("ties", [False, True])
def test_paired_delong_is_the_variance_of_brute_force_placements(ties: bool) -> None:
    label, first, second, _ = random_pair(1, 0.8, ties=ties)
    concordance = [(np.sign(score[label == 1][:, None] - score[label == 0]) + 1) / 2 for score in (first, second)]
    difference = concordance[0] - concordance[1]
    variance = sum(np.var(difference.mean(axis), ddof=1) / difference.shape[1 - axis] for axis in (0, 1))
    found = comparison.paired_delong(label, first, second)
    assert found.difference.value == pytest.approx(difference.mean(), abs=1e-12)
    assert found.p == pytest.approx(2 * norm.sf(abs(difference.mean()) / np.sqrt(variance)))


def test_comparing_ignores_order_and_monotone_transforms_and_mirrors_swaps() -> None:
    label, first, second, fold = random_pair(2, 0.8, ties=True)
    found = figures(comparison.paired_mean_of_folds(label, first, second, fold))
    order = np.random.default_rng(0).permutation(len(label))
    shuffled = comparison.paired_mean_of_folds(label[order], first[order], second[order], fold[order])
    transformed = comparison.paired_mean_of_folds(label, np.exp(first), second * 3 + fold, fold)
    np.testing.assert_allclose(figures(shuffled), found, rtol=1e-9)
    np.testing.assert_allclose(figures(transformed), found, rtol=1e-9)
    one, other, value, low, high, p = found
    mirrored = comparison.paired_mean_of_folds(label, second, first, fold)
    np.testing.assert_allclose(figures(mirrored), [other, one, -value, -high, -low, p], rtol=1e-9)
    relabelled = comparison.paired_mean_of_folds(1 - label, first, second, fold)
    np.testing.assert_allclose(figures(relabelled), [1 - one, 1 - other, -value, -high, -low, p], rtol=1e-9)


def test_against_a_score_that_knows_nothing_the_interval_is_that_of_the_mean_of_folds() -> None:
    label, score, _, fold = random_pair(3)
    folds = patient_metrics.mean_of_folds(label, score, fold)
    found = comparison.paired_mean_of_folds(label, score, np.zeros(len(label)), fold)
    expected = [folds.value, 0.5, folds.value - 0.5, folds.low - 0.5, folds.high - 0.5]
    np.testing.assert_allclose(figures(found)[:5], expected, rtol=1e-9)


def test_paired_intervals_cover_and_rarely_find_what_is_not_there() -> None:
    def rate(second_auc: float, shift: float, name: str) -> tuple[float, float]:
        pairs = [random_pair(seed, second_auc, shift) for seed in range(300)]
        found = [getattr(comparison, name)(*(pair if name == "paired_mean_of_folds" else pair[:3])) for pair in pairs]
        covered = [f.difference.low <= 0.9 - second_auc <= f.difference.high for f in found]
        return float(np.mean(covered)), float(np.mean([f.p < 0.05 for f in found]))

    four_errors = 4 * np.sqrt(0.05 * 0.95 / 300)
    for name, shift in (("paired_mean_of_folds", 1.0), ("paired_delong", 0.0)):
        covered, found = rate(0.9, shift, name)
        assert covered > 0.95 - four_errors and found < 0.05 + four_errors
        covered, found = rate(0.8, shift, name)
        assert covered > 0.95 - four_errors and found > 0.8
    assert rate(0.8, 1.0, "paired_mean_of_folds")[1] > rate(0.8, 1.0, "paired_delong")[1]  # pooling mixes scales


def test_equal_rankings_one_class_and_lone_patients_give_no_p() -> None:
    label, score, other, fold = random_pair(4)
    same = comparison.paired_mean_of_folds(label, score, np.exp(score), fold)
    assert same.difference.value == 0 and np.isnan([same.p, same.difference.low, same.difference.high]).all()
    assert np.isnan(figures(comparison.paired_delong(np.zeros(190), score, other))).all()
    assert np.isnan(comparison.paired_delong(np.arange(190) == 0, score, other).p)
    one_sided = np.where(fold == 7, 0, label)
    rest = fold != 7
    assert comparison.paired_mean_of_folds(one_sided, score, other, fold) == comparison.paired_mean_of_folds(
        label[rest], score[rest], other[rest], fold[rest]
    )


def test_fisher_agrees_with_table_1(shared: Path) -> None:
    table = pd.read_csv(shared / "golden/table1_fisher.csv")
    found = [
        comparison.fisher_exact(row["malignant_pos"], row["malignant_n"], row["benign_pos"], row["benign_n"])
        for row in table.to_dict("records")
    ]
    p = np.array([test.p for test in found])
    np.testing.assert_allclose(p, table["fisher_two_sided_p"], rtol=1e-9)
    np.testing.assert_allclose([test.sample_odds_ratio for test in found], table["sample_odds_ratio"], rtol=1e-9)
    conditional = [[test.odds_ratio.value, test.odds_ratio.low] for test in found]
    np.testing.assert_allclose(conditional, table[["cond_mle_odds_ratio", "cond_or_ci95_low"]], rtol=3e-4)
    np.testing.assert_allclose([test.odds_ratio.high for test in found], table["cond_or_ci95_high"], rtol=0.03)
    np.testing.assert_allclose(comparison.holm(p), table["holm_p"], rtol=1e-9)
    np.testing.assert_allclose(comparison.benjamini_hochberg(p), table["bh_q"], rtol=1e-9)


def test_fisher_agrees_with_the_error_analysis_of_the_first_year_resident(shared: Path) -> None:
    for row in golden(shared, "r1_error_fisher.csv"):
        found = comparison.fisher_exact(row["fp_pos"], row["fp_n"], row["tn_pos"], row["tn_n"])
        expected = [row["sample_odds_ratio"], row["fisher_two_sided_p"]]
        np.testing.assert_allclose([found.sample_odds_ratio, found.p], expected, rtol=1e-9)


def test_fisher_sums_the_tables_that_are_no_likelier_and_mirrors_swapped_groups() -> None:
    likelihood = hypergeom(12, 5, 7).pmf(np.arange(6))
    found, swapped = comparison.fisher_exact(4, 7, 1, 5), comparison.fisher_exact(1, 5, 4, 7)
    assert found.p == pytest.approx(likelihood[likelihood <= likelihood[4] * (1 + 1e-9)].sum())
    assert found.p == pytest.approx(swapped.p)
    assert found.odds_ratio.low == pytest.approx(1 / swapped.odds_ratio.high, rel=1e-6)
    assert found.odds_ratio.low < found.odds_ratio.value < found.sample_odds_ratio < found.odds_ratio.high
    nobody = comparison.fisher_exact(0, 7, 0, 5)
    assert nobody.p == 1 and np.isnan([nobody.sample_odds_ratio, nobody.odds_ratio.low]).all()
    assert np.isnan(comparison.fisher_exact(0, 0, 3, 5).p) and np.isnan(comparison.fisher_exact(3, 5, 0, 0).p)


def test_adjusted_p_are_those_of_the_definitions_in_any_order_and_ignore_what_was_not_tested() -> None:
    p = np.array([0.01, np.nan, 0.04, 0.03, 0.005, 0.04])
    tested = p[~np.isnan(p)]
    # Holm closes the Bonferroni tests: the worst of all sets of hypotheses that hold this one
    sets = [chosen for size in range(1, 6) for chosen in combinations(range(5), size)]
    closed = [max(min(1, len(s) * tested[list(s)].min()) for s in sets if i in s) for i in range(5)]
    smallest = [min(min(1, 5 * q / (tested <= q).sum()) for q in tested if q >= own) for own in tested]
    for adjust, expected in ((comparison.holm, closed), (comparison.benjamini_hochberg, smallest)):
        found = adjust(p)
        np.testing.assert_allclose(found[~np.isnan(p)], expected)
        assert np.isnan(found[1]) and np.nanmax(found) <= 1 and (found[~np.isnan(p)] >= tested).all()
        np.testing.assert_allclose(adjust(p[::-1]), found[::-1])
        assert len(adjust(np.array([]))) == 0


def test_permutations_of_few_patients_are_those_that_can_be_counted() -> None:
    label, score, fold = np.array([0, 0, 1, 1] * 2), np.arange(8) % 4, np.repeat([0, 1], 4)
    p = comparison.permutation_test(label, score, fold, permutations=20_000)
    assert p == pytest.approx(1 / 36, abs=4 * np.sqrt(1 / 36 / 20_000))  # each fold has six ways, one of them best
    assert comparison.permutation_test(label, np.zeros(8), fold) == 1
    assert np.isnan(comparison.permutation_test(label, score, np.arange(8)))


def test_permuted_labels_find_signal_within_folds_only() -> None:
    label, score, _, fold = random_pair(5)
    assert comparison.permutation_test(label, score, fold, permutations=999) == 1 / 1000
    assert comparison.permutation_test(label, np.exp(score), fold, 99) == comparison.permutation_test(
        label, score, fold, 99
    )
    random = np.random.default_rng(0)
    noise = [comparison.permutation_test(label, random.normal(size=190), fold, 99, seed) for seed in range(300)]
    assert np.mean(np.array(noise) <= 0.05) < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 300)
    assert np.mean(noise) == pytest.approx(0.5, abs=4 * np.sqrt(1 / 12 / 300))
    with pytest.raises(ValueError, match="predict the missing"):
        comparison.permutation_test(label, np.where(fold == 1, np.nan, score), fold)


def test_sites_that_are_alike_are_not_told_apart_and_one_that_fails_is() -> None:
    label, score, _, _ = random_pair(6, shift=0.0)
    copies = comparison.auc_heterogeneity(np.tile(label, 3), np.tile(score, 3), np.repeat([0, 1, 2], 190))
    assert copies.q == pytest.approx(0, abs=1e-20) and copies.freedom == 2
    assert (copies.p, copies.i_squared) == (1, 0)
    elsewhere = np.where(np.arange(190) < 95, "home", "away")
    failing = np.where(elsewhere == "away", -score, score)
    found = comparison.auc_heterogeneity(label, failing, elsewhere)
    home, away = (elsewhere == name for name in ("home", "away"))
    variances = [patient_metrics.delong_variance(label[inside], failing[inside]) for inside in (home, away)]
    z = (found.sites["home"].value - found.sites["away"].value) / np.sqrt(sum(variances))
    assert found.q == pytest.approx(z**2) and found.p < 1e-6  # two sites: Q is the squared z of their difference
    assert found.i_squared == pytest.approx(1 - 1 / found.q)


def test_a_site_that_cannot_be_weighed_is_left_out_by_name() -> None:
    label, score, _, _ = random_pair(7, shift=0.0)
    site = np.repeat(["a", "b", "one class", "perfect"], [76, 76, 19, 19])
    label, score = np.where(site == "one class", 0, label), np.where(site == "perfect", label, score)
    found = comparison.auc_heterogeneity(label, score, site)
    assert found.left_out == ("one class", "perfect") and found.freedom == 1
    rest = site < "c"
    assert found.p == comparison.auc_heterogeneity(label[rest], score[rest], site[rest]).p
    alone = comparison.auc_heterogeneity(label, score, np.repeat("only", 190))
    assert np.isnan(alone.p) and alone.freedom == 0
