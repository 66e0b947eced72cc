"""The out-of-fold table: complete or refused, and from slices to patients."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from sweep import patient_metrics, predictions
from sweep.slices import Rule
from tests.run_folders import stratified_split, synthetic_cohort, synthetic_predictions

COHORT = synthetic_cohort(40)
SPLIT = stratified_split(COHORT, 5)


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.concat([synthetic_predictions(COHORT, SPLIT, number, 1.5) for number in (0, 1)], ignore_index=True)


def test_complete_predictions_pass_and_only_the_asked_configuration_returns(frame: pd.DataFrame) -> None:
    found = predictions.require_complete(frame, COHORT, SPLIT, 1)
    pd.testing.assert_frame_equal(found, frame[frame["configuration"] == 1])


def _change(column: str, value: float | str) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.loc[3, column] = value
        return frame

    return change


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda frame: frame.drop(index=3), "1 slices have no prediction"),
        (lambda frame: pd.concat([frame, frame.loc[[3]]]), "predicted more than once"),
        (_change("fold", 99), "another fold"),
        (_change("label", 2), "another label"),
        (_change("probability", np.nan), "not between 0 and 1"),
        (_change("probability", 1.5), "not between 0 and 1"),
        (_change("sop_instance_uid", "9.9.9"), "have no prediction"),
    ],
)
def test_damaged_predictions_are_refused_and_the_slice_is_named(
    frame: pd.DataFrame, damage: Callable[[pd.DataFrame], pd.DataFrame], problem: str
) -> None:
    patient, uid = frame.loc[3, ["patient_id", "sop_instance_uid"]]
    with pytest.raises(predictions.PredictionsError, match=problem) as error:
        predictions.require_complete(damage(frame), COHORT, SPLIT, 0)
    assert "configuration 0: 1 slices" in str(error.value)
    assert f"patient {patient} slice {uid}" in str(error.value)


def test_a_slice_that_is_not_in_the_cohort_is_refused(frame: pd.DataFrame) -> None:
    with pytest.raises(predictions.PredictionsError, match="not in the cohort"):
        predictions.require_complete(frame, COHORT.drop(index=3), SPLIT, 0)


def test_a_long_list_of_slices_is_cut(frame: pd.DataFrame) -> None:
    with pytest.raises(predictions.PredictionsError, match=r"and [0-9]+ more"):
        predictions.require_complete(frame[frame["fold"] != 2], COHORT, SPLIT, 0)


def test_a_patient_has_the_probability_of_its_highest_slice(frame: pd.DataFrame) -> None:
    one = frame[frame["configuration"] == 0]
    patients = predictions.per_patient(one).set_index("patient_id")
    assert set(patients.index) == set(COHORT["patient_id"])
    for identifier, row in patients.to_dict("index").items():
        slices = one[one["patient_id"] == identifier]
        highest = slices.sort_values("probability").iloc[-1]
        assert (row["probability"], row["sop_instance_uid"]) == (highest["probability"], highest["sop_instance_uid"])
        assert (row["label"], row["fold"], row["slices"]) == (highest["label"], highest["fold"], len(slices))


def test_patients_do_not_depend_on_the_order_of_slices_even_where_they_tie(frame: pd.DataFrame) -> None:
    one = frame[frame["configuration"] == 0].assign(probability=0.5)
    shuffled = one.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(predictions.per_patient(one), predictions.per_patient(shuffled))


@pytest.mark.parametrize("rule", ["max", "mean", "top_mean", "noisy_or"])
def test_the_rule_gives_each_patient_its_own_slices_probability(frame: pd.DataFrame, rule: Rule) -> None:
    one = frame[frame["configuration"] == 0].sample(frac=1, random_state=2)
    by_hand = {
        "max": lambda p: p.max(),
        "mean": lambda p: p.mean(),
        "top_mean": lambda p: p.nlargest(3).mean(),
        "noisy_or": lambda p: 1 - (1 - p).prod(),
    }[rule]
    found = predictions.per_patient(one, rule).set_index("patient_id")["probability"]
    expected = one.groupby("patient_id")["probability"].apply(by_hand)
    pd.testing.assert_series_equal(found, expected)
    label, score, fold = predictions.arrays(predictions.per_patient(one, rule))
    aucs = patient_metrics.mean_of_folds(label, score, fold)
    assert predictions.configuration_figures(one, rule)["mean_fold_auc"] == aucs.value
    assert predictions.fold_table(one, rule)["auc"].mean() == pytest.approx(aucs.value)


def test_two_configurations_are_never_mixed(frame: pd.DataFrame) -> None:
    with pytest.raises(predictions.PredictionsError, match="more than once"):
        predictions.per_patient(frame)


def test_figures_of_a_configuration_are_those_of_its_patients(frame: pd.DataFrame) -> None:
    one = frame[frame["configuration"] == 0]
    figures, folds = predictions.configuration_figures(one), predictions.fold_table(one)
    patients = predictions.per_patient(one)
    label, score, _ = predictions.arrays(patients)
    assert figures["mean_fold_auc"] == pytest.approx(folds["auc"].mean())
    assert figures["sd_fold_auc"] == pytest.approx(folds["auc"].std())
    assert figures["pooled_auc"] == patient_metrics.auc(label, score)
    assert folds["patients"].sum() == len(patients) and folds["slices"].sum() == len(one)


def test_the_auc_per_slice_counts_slices(frame: pd.DataFrame) -> None:
    one = frame[frame["configuration"] == 0]
    fold = one[one["fold"] == 2]
    expected = patient_metrics.auc(fold["label"].to_numpy(), fold["probability"].to_numpy())
    assert predictions.fold_table(one).set_index("fold").loc[2, "slice_auc"] == expected
