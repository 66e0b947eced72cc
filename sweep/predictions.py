"""The out-of-fold table: what it must hold, from slices to patients, and the figures of one configuration.

A row per configuration and lesion slice, predicted by the model of the fold that held the patient out.
"""

from collections.abc import Hashable, Mapping
from typing import Any

import pandas as pd

from sweep import patient_metrics
from sweep.slices import Rule, aggregate

COLUMNS = ["configuration", "fold", "patient_id", "sop_instance_uid", "label", "probability"]
SLICE = ["patient_id", "sop_instance_uid"]
NAMED = 5  # how many offending slices an error lists


class PredictionsError(ValueError):
    """An out-of-fold table that must not be evaluated; the message names the slices and the remedy."""


def per_patient(predictions: pd.DataFrame, rule: Rule = "max") -> pd.DataFrame:
    """Slices of one configuration -> patients, by a rule of sweep/slices.py.

    Returns patient_id, label, fold, probability, slices (how many) and sop_instance_uid of the highest slice
    (of equals the first by its identifier), sorted by patient_id. Raises PredictionsError on a slice that
    stands twice (so on two configurations at once) and on a probability outside 0 to 1.
    """
    _refuse_unsound(predictions, "predictions")
    ordered = predictions.sort_values(["patient_id", "probability", "sop_instance_uid"], ascending=[True, False, True])
    patients = ordered.drop_duplicates("patient_id").set_index("patient_id")
    patients["slices"] = ordered.groupby("patient_id").size()
    code = pd.factorize(ordered["patient_id"])[0]
    patients["probability"] = aggregate(ordered["probability"].to_numpy(float), code, rule)
    columns = ["patient_id", "label", "fold", "probability", "slices", "sop_instance_uid"]
    return patients.reset_index()[columns]


def configuration_figures(predictions: pd.DataFrame, rule: Rule = "max") -> dict[str, float]:
    """One configuration's AUCs per patient: mean_fold_auc and sd_fold_auc over its folds, and pooled_auc."""
    label, score, fold = arrays(per_patient(predictions, rule))
    folds, pooled = patient_metrics.mean_of_folds(label, score, fold), patient_metrics.auc(label, score)
    return {"mean_fold_auc": folds.value, "sd_fold_auc": folds.sd, "pooled_auc": pooled}


def arrays(table: pd.DataFrame) -> tuple[patient_metrics.Array, patient_metrics.Array, patient_metrics.Array]:
    """label, probability and fold of a table, each (N,)."""
    return table["label"].to_numpy(int), table["probability"].to_numpy(float), table["fold"].to_numpy(int)


def fold_table(predictions: pd.DataFrame, rule: Rule = "max") -> pd.DataFrame:
    """One configuration's folds: fold, patients, malignant, slices, auc (per patient) and slice_auc.

    The AUC of a fold with one class is nan.
    """
    patients = per_patient(predictions, rule)
    by_fold = patients.groupby("fold")
    table = by_fold.agg(patients=("label", "size"), malignant=("label", "sum"), slices=("slices", "sum"))
    table["auc"] = pd.Series(patient_metrics.fold_aucs(*arrays(patients)))
    table["slice_auc"] = pd.Series(patient_metrics.fold_aucs(*arrays(predictions)))
    return table.reset_index()


def require_complete(
    predictions: pd.DataFrame, cohort: pd.DataFrame, split: pd.DataFrame, configuration: int
) -> pd.DataFrame:
    """The rows of the configuration, if they hold every lesion slice once, from its fold, with a probability.

    As scikit-learn's cross_val_predict refuses anything but a partition. `predictions` may hold other
    configurations, `cohort` has a row per lesion slice, `split` the fold of each patient. Raises
    PredictionsError otherwise.
    """
    chosen = predictions[predictions["configuration"] == configuration]
    who = f"configuration {configuration}"
    _refuse_unsound(chosen, who)
    expected = cohort[[*SLICE, "label"]].merge(split[["patient_id", "fold"]], on="patient_id", how="left")
    both = expected.merge(chosen, on=SLICE, how="outer", suffixes=("_expected", ""), indicator="found")
    _refuse(both[both["found"] == "left_only"], who, "have no prediction: train their folds again")
    _refuse(both[both["found"] == "right_only"], who, "are not in the cohort: start a new run for a new cohort")
    for column in ("fold", "label"):
        wrong = both[both[column] != both[f"{column}_expected"]]
        _refuse(wrong, who, f"have another {column} than the cohort and split say: train their folds again")
    return chosen


def _refuse_unsound(predictions: pd.DataFrame, who: str) -> None:
    _refuse(predictions[predictions.duplicated(SLICE)], who, "are predicted more than once: keep one row of each")
    sound = predictions["probability"].between(0, 1)  # False for nan
    _refuse(predictions[~sound], who, "have a probability that is not between 0 and 1: train their folds again")


def _refuse(offending: pd.DataFrame, who: str, problem: str) -> None:
    if offending.empty:
        return
    named = "; ".join(_name(row) for row in offending.head(NAMED).to_dict("records"))
    more = f"; and {len(offending) - NAMED} more" if len(offending) > NAMED else ""
    raise PredictionsError(f"{who}: {len(offending)} slices {problem}. They are: {named}{more}")


def _name(row: Mapping[Hashable, Any]) -> str:
    details = ", ".join(f"{key} {row[key]}" for key in ("fold", "probability") if pd.notna(row.get(key)))
    return f"patient {row['patient_id']} slice {row['sop_instance_uid']} ({details or 'no values'})"
