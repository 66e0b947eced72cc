"""Readers beside the model, with the model's help, and the features of everybody's errors."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from sweep import comparison, patient_metrics, predictions
from sweep.features import compare_features
from sweep.operating_point import measures
from sweep.patient_metrics import Array
from sweep.readers import by_patient, two_by_two, with_model
from sweep.report.tables import RunTables

BAND = 0.2  # of probability to either side of the threshold, where a reader's opinion decides
TESTS = ("sensitivity_test", "specificity_test")


def calls_measured(label: Array, call: Array) -> dict[str, Any]:
    """Counts of the calls (N,), nan where there is none, and every measure of them."""
    counts = two_by_two(label, call)
    return {"counts": {kind.upper(): count for kind, count in counts.items()}, "measures": measures(**counts)}


def readers_beside_model(run: RunTables, patients: pd.DataFrame) -> list[dict[str, Any]]:
    """A row per reader: calls, McNemar's tests against the model, `helped` by it, and `auc` where there are scores.

    Holm's adjustment covers the tests of one kind over all readers.
    """
    if run.readers is None or run.settings["data"]["shuffle_labels"]:
        return []
    who, label = patients["patient_id"].to_numpy(), patients["label"].to_numpy()
    calls, scores = by_patient(run.readers, who, "call"), by_patient(run.readers, who, "score")
    rows: list[dict[str, Any]] = [
        {"reader": str(name), "patients": int(call.count())}
        | calls_measured(label, call.to_numpy())
        | _mcnemar(label, reader=call.to_numpy(), model=patients["call"].to_numpy())
        | {"helped": _helped(call.to_numpy(), patients), "auc": _auc(scores[name].to_numpy(), patients)}
        for name, call in calls.items()
    ]
    _adjust([row[test] for row in rows for test in TESTS])
    _adjust([way[test] for row in rows for way in row["helped"] for test in TESTS])
    for kind in ("within_folds", "pooled"):
        _adjust([row["auc"][kind] for row in rows if row["auc"]])
    return rows


def _mcnemar(label: Array, **calls: Array) -> dict[str, dict[str, Any]]:
    """TESTS of two vectors of calls (N,), named as the arguments are; patients without a call have no part."""
    (first, one), (second, other) = calls.items()
    found = {}
    for test, truth in zip(TESTS, (1, 0), strict=True):
        inside = (label == truth) & ~np.isnan(one) & ~np.isnan(other)
        only_one = int((inside & (one == label) & (other != label)).sum())
        only_other = int((inside & (one != label) & (other == label)).sum())
        p = comparison.mcnemar(only_one, only_other).exact if inside.any() else float("nan")
        found[test] = {f"only_{first}_right": only_one, f"only_{second}_right": only_other, "p": p}
    return found


def _helped(call: Array, patients: pd.DataFrame) -> list[dict[str, Any]]:
    """The reader with the model's help in the ways of readers.with_model, each against the reader alone."""
    label, probability, threshold = (patients[name].to_numpy() for name in ("label", "probability", "threshold"))
    ways = with_model(call, probability, BAND, threshold)
    return [
        {"way": way} | calls_measured(label, helped) | _mcnemar(label, alone=call, helped=helped)
        for way, helped in ways.items()
    ]


def _auc(score: Array, patients: pd.DataFrame) -> dict[str, Any] | None:
    """A reader's AUC and its difference from the model's on the patients scored (reader - model); None without scores.

    A reader has one scale and the fold models have their own, so `within_folds` is the fair comparison.
    """
    scored = ~np.isnan(score)
    if not scored.any():
        return None
    label, model, fold = (values[scored] for values in predictions.arrays(patients))
    return {
        "patients": int(scored.sum()),
        "reader": patient_metrics.auc_interval(label, score[scored], "logit"),
        "within_folds": asdict(comparison.paired_mean_of_folds(label, score[scored], model, fold)),
        "pooled": asdict(comparison.paired_delong(label, score[scored], model)),
    }


def _adjust(tests: list[dict[str, Any]]) -> None:
    for test, adjusted in zip(tests, comparison.holm(np.array([test["p"] for test in tests])), strict=True):
        test["holm"] = float(adjusted)


def errors(run: RunTables, features: pd.DataFrame, patients: pd.DataFrame) -> list[dict[str, Any]]:
    """Features of the false positives against the true negatives, of the model first, then of every reader."""
    benign, model = (patients["label"] == 0).to_numpy(), patients["call"].to_numpy(float)
    who = patients["patient_id"].to_numpy()
    readers = pd.DataFrame() if run.readers is None else by_patient(run.readers, who, "call")
    found = []
    for name, call in {"model": model, **{str(name): column.to_numpy() for name, column in readers.items()}}.items():
        wrong, right = benign & (call == 1), benign & (call == 0)
        counts = {"reader": name, "false_positives": int(wrong.sum()), "true_negatives": int(right.sum())}
        found.append(counts | {"rows": compare_features(features, wrong, right).to_dict("records")})
    return found
