"""What a statistician asks of a run: the parts of summary.json that take more than counting."""

from typing import Any

import numpy as np
import pandas as pd

from sweep import calibration, comparison, patient_metrics, predictions
from sweep.ensembles import compare_ensembles
from sweep.features import compare_features, feature_model
from sweep.patient_metrics import Array
from sweep.report.reading import errors, readers_beside_model
from sweep.report.tables import RunTables
from sweep.selection_bias import bbc_cv

FEWER_RESAMPLES = 200  # of searches for ensembles, which repeat a whole search in each
PARTS = ("corrected", "ensembles", "table2", "calibration", "decision_curve", "features", "sites")


def evaluate(run: RunTables, patients: pd.DataFrame) -> dict[str, Any]:
    """PARTS of the summary, of the best configuration's patients; each is None where the run has nothing for it."""
    if run.best is None:
        return dict.fromkeys(PARTS)
    label, score, fold = predictions.arrays(patients)
    scores = run.scores.to_numpy(float).T
    return {
        "corrected": _corrected(label, fold, run),
        "ensembles": _ensembles(label, scores, fold, run),
        "table2": readers_beside_model(run, patients),
        "calibration": _calibration(label, score),
        "decision_curve": decision_curve(label, score).to_dict("records"),
        "features": _features(run, patients),
        "sites": _sites(run, patients),
    }


def _corrected(label: Array, fold: Array, run: RunTables) -> dict[str, Any]:
    """BBC-CV's estimate, with the configurations that a race dropped, or in `problem` why there is none."""
    if run.competing.shape[1] == 1:
        problem = "One complete configuration only: nothing was selected, so there is nothing to correct."
        return {"estimate": None, "problem": problem}
    resamples = int(run.evaluation["resamples"])
    try:
        selected = bbc_cv(label, run.competing.to_numpy(float).T, fold, resamples)
    except ValueError as error:
        return {"estimate": None, "problem": f"No figure corrected for the selection: {error}."}
    wins = float(selected.wins[run.competing.columns.get_loc(run.best)])  # of equals the one that the page is about
    return {"estimate": selected.corrected, "problem": None, "wins": wins, "resamples": resamples}


def _ensembles(label: Array, scores: Array, fold: Array, run: RunTables) -> list[dict[str, Any]]:
    """A row per kind of ensemble."""
    if len(scores) < 2:
        return []
    resamples = min(int(run.evaluation["resamples"]), FEWER_RESAMPLES)
    try:
        found = compare_ensembles(label, scores, fold, resamples)
    except ValueError:  # too few patients to resample, as `corrected` says
        return []
    numbers = run.scores.columns.tolist()
    return [
        {"kind": kind, "configurations": [numbers[model] for model in ensemble.models], "auc": ensemble.auc}
        | {"corrected": ensemble.corrected}
        for kind, ensemble in found.items()
    ]


def _calibration(label: Array, probability: Array) -> dict[str, Any]:
    prevalence = float(label.mean())
    return {
        "brier": calibration.brier_score(label, probability),
        "brier_of_prevalence": prevalence * (1 - prevalence),
        "expected_calibration_error": calibration.expected_calibration_error(label, probability),
        **vars(calibration.calibration(label, probability)),
        "curve": calibration.calibration_curve(label, probability).to_dict("records"),
    }


def decision_curve(label: Array, probability: Array) -> pd.DataFrame:
    """Net benefit TP/N - FP/N t/(1 - t) of acting at a probability of t or more: Vickers & Elkin 2006.

    doi 10.1177/0272989X06295361. Columns: threshold t from 0.01 to 0.99, model, everyone (acting on all patients);
    acting on nobody has 0. t states how many needless actions a found malignancy is worth: (1 - t)/t.
    """
    threshold = np.arange(1, 100) / 100
    harm = threshold / (1 - threshold)
    called = probability >= threshold[:, None]
    model = (called & (label == 1)).mean(axis=1) - (called & (label == 0)).mean(axis=1) * harm
    everyone = label.mean() - (1 - label.mean()) * harm
    return pd.DataFrame({"threshold": threshold, "model": model, "everyone": everyone})


def _features(run: RunTables, patients: pd.DataFrame) -> dict[str, Any] | None:
    """Table 1, the error analyses, the regression on all features or in `problem` why there is none."""
    if run.features is None or run.features.empty or run.settings["data"]["shuffle_labels"]:
        return None
    features = run.features.reindex(patients["patient_id"])
    label, _, fold = predictions.arrays(patients)
    table1 = compare_features(features, label == 1, label == 0).to_dict("records")
    found = {"table1": table1, "errors": errors(run, features, patients), "model": None, "problem": None}
    try:
        model = feature_model(features, label, fold)
    except ValueError as error:
        return found | {"problem": f"No regression on all features: {str(error).rstrip('.')}."}
    noted = ~np.isnan(model.probability)
    auc = patient_metrics.mean_of_folds(label[noted], model.probability[noted], fold[noted])
    figures = {"accuracy": model.accuracy, "patients": model.patients, "auc": auc}
    return found | {"model": figures | {"table": model.table.to_dict("records")}}


def _sites(run: RunTables, patients: pd.DataFrame) -> dict[str, Any] | None:
    """The sites' AUCs and Cochran's Q; None with one site. Patients without a site are `unnamed`, and no site."""
    sites = run.cohort.drop_duplicates("patient_id")[["patient_id", "site"]].query("site != ''")
    named = patients.merge(sites, on="patient_id")
    if named["site"].nunique() < 2:
        return None
    label, score, _ = predictions.arrays(named)
    test = dict(vars(comparison.auc_heterogeneity(label, score, named["site"].to_numpy(str))))
    counts = named.groupby("site").agg(patients=("label", "size"), malignant=("label", "sum")).to_dict("index")
    rows = [{"site": name, **counts[name], "auc": auc} for name, auc in test.pop("sites").items()]
    return test | {"rows": rows, "unnamed": len(patients) - len(named)}
