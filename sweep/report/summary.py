"""Every figure of a run, once: what summary.json holds and the page shows."""

import json
import math
from dataclasses import asdict, is_dataclass
from typing import Any

import pandas as pd

from sweep import comparison, patient_metrics, predictions, slices
from sweep.bootstrap import bootstrap_limits, roc_band
from sweep.explanations import Explanations
from sweep.patient_metrics import Array
from sweep.report.evaluation import evaluate
from sweep.report.flow import flow
from sweep.report.reading import calls_measured
from sweep.report.searching import searched
from sweep.report.sequences import one_sequence
from sweep.report.tables import RunTables
from sweep.report.validation import validate

# Fewest patients of a class in a fold -> coverage of the 95 % interval where the true AUC is 0.85 and 0.93, from
# benchmarks/interval_coverage.py (1: folds of one and of two in turn); with three it is 0.94 and 0.92.
COVERAGE = {1: (0.93, 0.87), 2: (0.93, 0.88)}
PATIENT_COLUMNS = ["patient_id", "label", "fold", "probability", "threshold", "call", "outcome", "slices"]
PATIENT_COLUMNS += ["sop_instance_uid"]
FLOW = ("files", "images", "series", "annotated")
EVALUATION = ("slices", "threshold", "sensitivity", "resamples")  # the settings that are no paths


def summarise(run: RunTables, patients: pd.DataFrame, explained: Explanations) -> dict[str, Any]:
    """The content of summary.json, with the run's patient_table and explain_best of it; nan is None, infinity a text.

    Nothing of the clock or the machine is in it, so equal tables give an equal summary.
    """
    configurations = _configurations(run)
    summary = {
        "run": run.name,
        "source": run.settings["data"]["source"],
        "labels_shuffled": bool(run.settings["data"]["shuffle_labels"]),
        "dataset": _dataset(run),
        "flow": flow(run),
        "configurations": configurations,
        "best": _best(run, patients, {row["configuration"]: row["settings"] for row in configurations}),
        "study_setting": _study_setting(run, patients),
        "search": searched(run),
        "selection": _selection(run),
        "evaluation": {name: run.evaluation[name] for name in EVALUATION},
        "sequences": one_sequence(patients, explained, run.evaluation["slices"]),
        **evaluate(run, patients),
        **validate(run),
    }
    return {name: for_json(value) for name, value in summary.items()}


def to_json(summary: dict[str, Any]) -> str:
    """Sorted keys, and numbers to the last bit."""
    return json.dumps(summary, sort_keys=True, indent=2, allow_nan=False, ensure_ascii=False) + "\n"


def csv_tables(summary: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """Tables of the summary by name; none without a best configuration, of readers and features only where given."""
    if summary["best"] is None:
        return {}
    model = {"reader": "model", "patients": summary["dataset"]["patients"]}
    model |= {name: summary["best"][name] for name in ("counts", "measures")}
    features = summary["features"] or {"errors": []}
    readers = [{name: row[name] for name in row if name != "helped" and row[name]} for row in summary["table2"]]
    errors = [{"reader": who["reader"]} | row for who in features["errors"] for row in who["rows"]]
    left_aside = [{"what": kind} | row for kind in ("skipped", "excluded") for row in summary["flow"][kind]]
    tables = {
        "table2": [*readers, model],
        "readers_with_model": [{"reader": row["reader"]} | way for row in summary["table2"] for way in row["helped"]],
        "errors": errors,
        "sequences": summary["sequences"],
        "flow": [*({"what": what, "count": summary["flow"][what]} for what in FLOW), *left_aside],
        "roc_band": summary["best"]["roc_band"],
        "calibration": summary["calibration"]["curve"],
        "decision_curve": summary["decision_curve"],
        "table1": features.get("table1", []),
        "search_history": summary["search"]["history"],
        "settings_importance": summary["search"]["settings"],
    }
    return {name: rows for name, rows in tables.items() if rows}


def for_json(value: Any) -> Any:
    """What JSON can hold: None for nan, "Infinity" for infinity, lists for tuples, dictionaries for dataclasses."""
    if is_dataclass(value) and not isinstance(value, type):
        return for_json(asdict(value))
    if isinstance(value, dict):
        return {key: for_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [for_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity"  # an odds ratio beside an empty cell
    return value


def patient_table(run: RunTables) -> pd.DataFrame:
    """patients.csv: the best configuration's patients with probability, call and outcome; empty without one."""
    if run.best is None:
        return pd.DataFrame(columns=PATIENT_COLUMNS)
    return run.patients_of(run.best)[PATIENT_COLUMNS]


def _dataset(run: RunTables) -> dict[str, int | str]:
    labels = run.cohort.drop_duplicates("patient_id")["label"]
    malignant = int(labels.sum())
    return {
        "patients": len(labels),
        "malignant": malignant,
        "benign": len(labels) - malignant,
        "lesion_slices": len(run.cohort),
        "excluded_patients": int(run.excluded["patient_id"].nunique()),
        "folds": int(run.split["fold"].nunique()),
        "folds_by": run.settings["folds"].get("by", "patient"),
    }


def _configurations(run: RunTables) -> list[dict[Any, Any]]:
    all_folds = {int(fold) for fold in run.split["fold"]}
    finished = run.predictions.groupby("configuration")["fold"].agg(set).to_dict()
    rows: list[dict[Any, Any]] = run.configurations.sort_values("configuration").replace("", None).to_dict("records")
    for row in rows:
        row["settings"] = {name: row.pop(name) for name in run.searched}
        row["missing_folds"] = sorted(all_folds - finished.get(row["configuration"], set()))
    return rows


def _best(run: RunTables, patients: pd.DataFrame, settings: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    if run.best is None:
        return None
    rows = run.predictions_of(run.best)
    label, score, fold = predictions.arrays(patients)
    of_slices, patient_of_slices = predictions.arrays(rows)[:2], rows["patient_id"].to_numpy(str)
    folds, resamples = predictions.fold_table(rows, run.evaluation["slices"]), int(run.evaluation["resamples"])
    return {
        "configuration": run.best,
        "settings": settings[run.best],
        "mean_of_folds": patient_metrics.mean_of_folds(label, score, fold),
        "roc_band": roc_band(label, score, fold, resamples).to_dict("records"),
        "pooled": _pooled(label, score, resamples),
        "per_slice": slices.clustered_auc_interval(*of_slices, patient_of_slices, "logit"),
        "average_precision": patient_metrics.average_precision(label, score),
        "prevalence": float(label.mean()),
        "permutation_p": comparison.permutation_test(label, score, fold),
        "fold_shift": patient_metrics.fold_shift(label, score, fold),
        "narrow_interval": _narrow_interval(folds),
        "folds": folds.assign(threshold=patients.groupby("fold")["threshold"].first().to_numpy()).to_dict("records"),
        "thresholds": {"lowest": float(patients["threshold"].min()), "highest": float(patients["threshold"].max())},
        **calls_measured(label, patients["call"].to_numpy()),
    }


def _pooled(label: Array, score: Array, resamples: int) -> dict[str, Any]:
    plain, logit = (patient_metrics.auc_interval(label, score, scale) for scale in ("plain", "logit"))
    drawn = bootstrap_limits(lambda rows: patient_metrics.auc(label[rows], score[rows]), label, resamples).tolist()
    limits = {"plain": (plain.low, plain.high), "logit": (logit.low, logit.high)}
    limits["bootstrap"] = drawn if drawn[0] < drawn[1] else (math.nan, math.nan)  # as at AUC 1, where nothing varies
    return {"value": plain.value} | {name: {"low": low, "high": high} for name, (low, high) in limits.items()}


def _narrow_interval(folds: pd.DataFrame) -> dict[str, Any] | None:
    """Where small folds make the interval of the mean of folds too narrow: their size, and its coverage."""
    defined = folds.dropna(subset="auc")
    fewest = pd.concat([defined["malignant"], defined["patients"] - defined["malignant"]]).min()
    return {"fewest": int(fewest), "coverage": COVERAGE[fewest]} if fewest in COVERAGE else None


def _study_setting(run: RunTables, patients: pd.DataFrame) -> dict[str, Any]:
    """Configuration 0's AUC, and the best's minus it with interval and p; None before both are known or are one."""
    found: dict[str, Any] = {"configuration": 0, "mean_fold_auc": None, "difference": None, "p": None}
    if run.best is not None and 0 in set(run.complete["configuration"]):
        (label, score, fold), study = predictions.arrays(patients), run.patients_of(0)["probability"].to_numpy()
        test = comparison.paired_mean_of_folds(label, score, study, fold)
        found["mean_fold_auc"] = test.second
        found |= {"difference": test.difference, "p": test.p} if run.best else {}
    return found


def _selection(run: RunTables) -> dict[str, Any]:
    """Among how many the best was selected, and what stopped the training."""
    return {
        "criterion": "mean_fold_auc",
        "candidates": len(run.complete),
        "dropped": run.competing.shape[1] - run.scores.shape[1],
        "compared": run.competing.shape[1],
        "early_stopping": run.settings["training"]["early_stopping"],
    }
