"""Thresholds and measures of calls: golden figures, definitions, and the leak of a threshold chosen where it scores."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics as sklearn_metrics

from sweep import operating_point, patient_metrics
from sweep.patient_metrics import Array


def golden(shared: Path, name: str) -> pd.DataFrame:
    return pd.read_csv(shared / "golden" / name)


def random_case(seed: int, ties: bool = False) -> tuple[Array, Array]:
    random = np.random.default_rng(seed)
    label = np.repeat([1, 0], (15, 40))
    score = random.normal(size=55) + label
    return label, np.round(score) if ties else score


def called(label: Array, score: Array, threshold: float) -> tuple[float, float]:
    return float((score[label == 1] >= threshold).mean()), float((score[label == 0] < threshold).mean())


def test_youdens_threshold_is_procs(shared: Path) -> None:
    cases = golden(shared, "auc_case_input.csv")
    label = cases["y"].to_numpy()
    for expected in golden(shared, "auc_case_pROC.csv").to_dict("records"):
        score = cases[expected["score"]].to_numpy()
        threshold = operating_point.choose_threshold(label, score)
        assert threshold == pytest.approx(expected["youden_thr"], rel=1e-9)
        assert called(label, score, threshold) == pytest.approx((expected["youden_se"], expected["youden_sp"]))


@pytest.mark.parametrize("ties", [False, True])
def test_no_other_threshold_does_better(ties: bool) -> None:
    for seed in range(20):
        label, score = random_case(seed, ties)
        every = np.array([called(label, score, threshold) for threshold in np.unique(score)])
        found = called(label, score, operating_point.choose_threshold(label, score))
        assert sum(found) == pytest.approx(every.sum(axis=1).max())
        for wanted in (0.0, 0.5, 14 / 15, 1.0):
            sensitivity, specificity = called(label, score, operating_point.choose_threshold(label, score, wanted))
            assert sensitivity >= wanted
            assert specificity == pytest.approx(every[every[:, 0] >= wanted - 1e-9, 1].max())


def test_thresholds_follow_the_scale_and_ignore_the_order() -> None:
    label, score = random_case(1)
    order = np.random.default_rng(0).permutation(55)
    for sensitivity in (None, 0.8):
        threshold = operating_point.choose_threshold(label, score, sensitivity)
        assert operating_point.choose_threshold(label[order], score[order], sensitivity) == threshold
        assert operating_point.choose_threshold(label, 2 * score + 1, sensitivity) == pytest.approx(2 * threshold + 1)
        transformed = operating_point.choose_threshold(label, np.exp(score), sensitivity)
        assert called(label, np.exp(score), transformed) == called(label, score, threshold)


def test_a_threshold_chosen_on_the_patients_it_scores_flatters() -> None:
    def youden(chosen_on: int, scored: int) -> float:
        return sum(called(*random_case(scored), operating_point.choose_threshold(*random_case(chosen_on)))) - 1

    inner = np.mean([youden(seed, seed + 1000) for seed in range(200)])
    leaking = np.mean([youden(seed, seed) for seed in range(200)])
    assert leaking > inner + 0.05


def test_of_equal_thresholds_the_one_that_misses_fewer_is_chosen() -> None:
    threshold = operating_point.choose_threshold(np.array([1, 0, 1, 0]), np.array([0.9, 0.6, 0.4, 0.1]))
    assert threshold == pytest.approx(0.25)


def test_thresholds_without_a_choice() -> None:
    label, score = random_case(2)
    assert operating_point.choose_threshold(label, np.full(55, 0.3)) == 0.3  # all alike: nobody is missed
    assert np.isnan(operating_point.choose_threshold(np.zeros(55), score))
    assert np.isnan(operating_point.choose_threshold(np.ones(55), score, sensitivity=0.9))


def test_every_fold_may_have_its_own_threshold() -> None:
    label, score, fold = np.array([1, 0, 1, 0]), np.array([0.3, 0.2, 0.9, 0.7]), np.array([0, 0, 1, 1])
    thresholds = np.array([0.25, 0.8])
    assert patient_metrics.outcomes(label, score, thresholds[fold]).tolist() == ["TP", "TN", "TP", "TN"]


def test_measures_agree_with_table_2(shared: Path) -> None:
    rates = golden(shared, "table2_ci.csv").set_index(["reader", "metric"]).to_dict("index")
    names = {"f1": "f1", "mcc": "mcc", "likelihood_ratio_positive": "lr_pos", "likelihood_ratio_negative": "lr_neg"}
    for row in golden(shared, "table2_derived.csv").to_dict("records"):
        found = operating_point.measures(tp=row["tp"], tn=row["tn"], fp=row["fp"], fn=row["fn"])
        for name in ("sensitivity", "specificity", "accuracy", "ppv", "npv"):
            expected = [rates[row["reader"], name][key] for key in ("estimate", "wilson_low", "wilson_high")]
            np.testing.assert_allclose([found[name].value, found[name].low, found[name].high], expected, rtol=1e-9)
        for name, column in names.items():
            assert found[name].value == pytest.approx(row[column], rel=1e-9)


def test_measures_agree_with_scikit_learn_and_lie_in_their_intervals() -> None:
    random = np.random.default_rng(0)
    for _ in range(50):
        tp, tn, fp, fn = (int(count) for count in random.integers(1, 30, 4))
        label, call = np.repeat([1, 0, 0, 1], (tp, tn, fp, fn)), np.repeat([1, 0, 1, 0], (tp, tn, fp, fn))
        found = operating_point.measures(tp, tn, fp, fn)
        ratios = sklearn_metrics.class_likelihood_ratios(label, call)
        expected = [sklearn_metrics.f1_score(label, call), sklearn_metrics.matthews_corrcoef(label, call), *ratios]
        names = ["f1", "mcc", "likelihood_ratio_positive", "likelihood_ratio_negative"]
        np.testing.assert_allclose([found[name].value for name in names], expected, rtol=1e-9, atol=1e-12)
        assert all(estimate.low < estimate.value < estimate.high for estimate in found.values())


def test_swapped_labels_and_calls_swap_the_measures() -> None:
    found, swapped = operating_point.measures(12, 30, 7, 3), operating_point.measures(30, 12, 3, 7)
    pairs = [("sensitivity", "specificity"), ("ppv", "npv"), ("mcc", "mcc"), ("accuracy", "accuracy")]
    for name, other in pairs:
        assert found[name] == swapped[other]
    inverse = swapped["likelihood_ratio_negative"]
    ours = found["likelihood_ratio_positive"]
    assert (ours.value, ours.low, ours.high) == pytest.approx((1 / inverse.value, 1 / inverse.high, 1 / inverse.low))


def test_the_variance_of_mcc_is_that_of_the_delta_method() -> None:
    counts = np.array([12.0, 30, 7, 3])  # tp, tn, fp, fn
    share, step = counts / counts.sum(), 1e-6

    def phi(p: Array) -> float:
        tp, tn, fp, fn = p
        return float((tp * tn - fp * fn) / np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))

    gradient = np.array([(phi(share + step * unit) - phi(share - step * unit)) / (2 * step) for unit in np.eye(4)])
    variance = gradient @ (np.diag(share) - np.outer(share, share)) @ gradient / counts.sum()
    found = operating_point.measures(12, 30, 7, 3)["mcc"]
    half = (np.arctanh(found.high) - np.arctanh(found.low)) / 2
    assert half == pytest.approx(1.959964 * np.sqrt(variance) / (1 - found.value**2), rel=1e-5)


def test_intervals_cover_in_samples_of_190() -> None:
    share = np.array([0.21, 0.6, 0.14, 0.05])  # tp, tn, fp, fn
    truth = operating_point.measures(*(int(count) for count in share * 10_000))
    draws = np.random.default_rng(0).multinomial(190, share, size=600)
    found = [operating_point.measures(*(int(count) for count in draw)) for draw in draws]
    for name, true in truth.items():
        covered = np.mean([figures[name].low <= true.value <= figures[name].high for figures in found])
        assert covered == pytest.approx(0.95, abs=4 * np.sqrt(0.95 * 0.05 / 600)), name


def test_tables_with_empty_cells_have_no_figure_or_no_interval() -> None:
    nobody_called = operating_point.measures(tp=0, tn=140, fp=0, fn=50)
    assert nobody_called["f1"].value == 0 and nobody_called["likelihood_ratio_negative"].value == 1
    assert np.isnan([nobody_called[name].value for name in ("ppv", "mcc", "likelihood_ratio_positive")]).all()
    perfect = operating_point.measures(tp=50, tn=140, fp=0, fn=0)
    assert perfect["mcc"].value == perfect["f1"].value == 1 and perfect["f1"].low < 1
    assert perfect["likelihood_ratio_positive"].value == np.inf and perfect["likelihood_ratio_negative"].value == 0
    for name in ("mcc", "likelihood_ratio_positive", "likelihood_ratio_negative"):
        assert np.isnan([perfect[name].low, perfect[name].high]).all()
    benign_only = operating_point.measures(tp=0, tn=9, fp=1, fn=0)
    assert np.isnan([benign_only[name].value for name in ("sensitivity", "mcc", "likelihood_ratio_positive")]).all()
    assert all(np.isnan(estimate.value) for estimate in operating_point.measures(0, 0, 0, 0).values())
