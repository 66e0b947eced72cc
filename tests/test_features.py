"""Features: Table 1 and the resident's errors are the golden ones; the regression is finite and Firth's."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import chi2

from datasets.phantom_features import draw_features
from sweep import features
from sweep.patient_metrics import Array


def written(folder: Path, text: str) -> Path:
    path = folder / "features.csv"
    path.write_text(text)
    return path


def with_counts(counts: Mapping[str, Sequence[int]]) -> tuple[pd.DataFrame, Array]:
    """Features of (with, all) in a first and (with, all) in a second group; the first group as a mask."""
    columns = {n: np.concatenate([np.arange(a) < w for w, a in (c[:2], c[2:])]) for n, c in counts.items()}
    first_all, second_all = next(iter(counts.values()))[1::2]
    return pd.DataFrame(columns).astype(float), np.arange(first_all + second_all) < first_all


def test_table_1_is_the_golden_one(shared: Path) -> None:
    golden = pd.read_csv(shared / "golden/table1_fisher.csv").set_index("feature")
    names = ["malignant_pos", "malignant_n", "benign_pos", "benign_n"]
    table, malignant = with_counts({str(name): [int(v) for v in row] for name, row in golden[names].iterrows()})
    found = features.compare_features(table, malignant, ~malignant).set_index("feature")
    assert (
        found[["first_with", "first_all", "second_with", "second_all"]].to_numpy() == golden[names].to_numpy()
    ).all()
    for ours, theirs in {"p": "fisher_two_sided_p", "holm": "holm_p", "bh": "bh_q"}.items():
        np.testing.assert_allclose(found[ours], golden[theirs], rtol=1e-9)
    np.testing.assert_allclose(found["odds_ratio"], golden["cond_mle_odds_ratio"], rtol=3e-4)


def test_errors_of_the_first_year_resident_are_the_golden_ones(shared: Path) -> None:
    golden = pd.read_csv(shared / "golden/r1_error_fisher.csv").set_index("feature")
    counts = {str(n): [int(v) for v in row] for n, row in golden[["fp_pos", "fp_n", "tn_pos", "tn_n"]].iterrows()}
    table, false_positive = with_counts(counts)
    found = features.compare_features(table, false_positive, ~false_positive).set_index("feature")
    np.testing.assert_allclose(found["p"], golden["fisher_two_sided_p"], rtol=1e-9)
    np.testing.assert_allclose(found["sample_odds_ratio"], golden["sample_odds_ratio"], rtol=1e-9)


def test_a_feature_that_was_not_noted_is_not_counted() -> None:
    table, first = with_counts({"a": [3, 10, 5, 10]})
    table.loc[[0, 9, 15], "a"] = np.nan
    found = features.compare_features(table, first, ~first).iloc[0]
    assert found[["first_with", "first_all", "second_with", "second_all"]].tolist() == [2, 8, 5, 9]
    empty = features.compare_features(table, first, np.zeros(20, dtype=bool)).iloc[0]
    assert empty["second_all"] == 0 and np.isnan(empty["p"]) and np.isnan(empty["odds_ratio"])


def penalised(parameters: Array, design: Array, label: Array) -> float:
    """Firth's criterion, written down: log likelihood + half the log determinant of the information, negative."""
    expected = expit(design @ parameters)
    information = design.T @ (design * (expected * (1 - expected))[:, None])
    likelihood = np.sum(label * np.log(expected) + (1 - label) * np.log1p(-expected))
    return -float(likelihood + np.linalg.slogdet(information)[1] / 2)


def test_the_regression_maximises_firths_criterion_where_the_likelihood_has_no_maximum() -> None:
    table, malignant = with_counts({"empty cell": [0, 30, 25, 60], "other": [18, 30, 15, 60]})
    table["other"] = np.random.default_rng(0).permutation(table["other"])
    label, fold = malignant.astype(int), np.arange(90) % 5
    found = features.feature_model(table, label, fold).table.set_index("feature")
    design = np.column_stack([table, np.ones(90)])
    best = minimize(penalised, np.zeros(3), args=(design, label), tol=1e-10)
    np.testing.assert_allclose(found["coefficient"], best.x[:2], atol=1e-3)
    np.testing.assert_allclose(found["odds_ratio"], np.exp(found["coefficient"]))
    for place, (p, low, high) in enumerate(found[["p", "low", "high"]].to_numpy()):
        rest = [place_ for place_ in range(3) if place_ != place]

        def profile(value: float, place: int = place, rest: list[int] = rest) -> float:
            def fixed(others: Array) -> float:
                parameters = np.empty(3)
                parameters[place], parameters[rest] = value, others
                return penalised(parameters, design, label)

            return float(chi2.sf(2 * (minimize(fixed, best.x[rest], tol=1e-10).fun - best.fun), 1))

        assert p == pytest.approx(profile(0.0), rel=0.01)
        for end in (low, high):
            assert profile(np.log(end)) == pytest.approx(0.05, abs=0.002)


def test_15_features_of_a_synthetic_cohort_are_fitted(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    label = np.repeat([1, 0], [50, 140])
    rows = [{"patient_id": f"{n:03d}"} | draw_features(int(kind), random) for n, kind in enumerate(label)]
    drawn = pd.DataFrame(rows).replace({True: 1, False: 0})
    table = features.read_features(written(tmp_path, drawn.to_csv(index=False)))
    table["always absent"] = 0.0
    table.iloc[3, 2] = np.nan
    found = features.feature_model(table, label, np.arange(190) % 10)
    rows_ = found.table.set_index("feature")
    assert (found.patients, len(rows_), table.index[0]) == (189, 16, "000")
    assert np.isfinite(rows_.drop("always absent")["coefficient"]).all() and rows_.loc["always absent"].isna().all()
    known = rows_.dropna()
    assert ((known["low"] < known["odds_ratio"]) & (known["odds_ratio"] < known["high"])).all() and len(known) > 8
    assert ((known["p"] < 0.05) == ((known["low"] > 1) | (known["high"] < 1))).all()
    predicted = ~np.isnan(found.probability)
    out_of_fold = np.mean((found.probability >= 0.5)[predicted] == label[predicted])
    assert predicted.sum() == 189 and not predicted[3]
    assert 0.9 < out_of_fold <= found.accuracy


def test_features_out_of_fold_know_nothing_of_their_own_label() -> None:
    random = np.random.default_rng(1)
    table = pd.DataFrame(random.integers(0, 2, (100, 6)).astype(float))
    label, fold = random.integers(0, 2, 100), np.arange(100) % 5
    before = features.feature_model(table, label, fold).probability
    after = features.feature_model(table, np.where(fold == 2, 1 - label, label), fold).probability
    np.testing.assert_array_equal(before[fold == 2], after[fold == 2])
    assert (before[fold != 2] != after[fold != 2]).all()


def test_features_that_determine_each_other_are_refused() -> None:
    table, malignant = with_counts({"a": [3, 10, 5, 10]})
    with pytest.raises(ValueError, match="leave one out"):
        features.feature_model(table.assign(b=1 - table["a"]), malignant.astype(int), np.arange(20) % 2)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient,a\n1,1\n", "no column patient_id"),
        ("patient_id,a\n1,1\n1,0\n", "patient 1 has two rows"),
        ("patient_id,a,b\n1,1,0\n2,0,3\n", "patient 2, b is 3: write 1, 0 or nothing"),
        ("patient_id,a\n1,1\n2,yes\n", "patient 2, a is yes"),
        ("patient_id,a\n1,\n2,0.5\n", "patient 2, a is 0.5"),
    ],
)
def test_a_table_that_cannot_be_read_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"features.csv: {message}"):
        features.read_features(written(tmp_path, text))


@pytest.mark.parametrize("constant", ["features", "label"])
def test_a_regression_needs_something_that_varies(constant: str) -> None:
    random = np.random.default_rng(0)
    table = pd.DataFrame(random.integers(0, 2, (20, 2)), columns=["a", "b"]).astype(float)
    label = random.integers(0, 2, 20)
    if constant == "features":
        table[:] = 1.0
    else:
        label[:] = 1
    with pytest.raises(ValueError, match="no feature varies"):
        features.feature_model(table, label, np.arange(20) % 4)
