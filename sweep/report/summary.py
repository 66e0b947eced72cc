"""Every figure of a run, once: what summary.json holds and the page shows."""

import json
import math
from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd

from sweep import comparison, patient_metrics, predictions, slices
from sweep.bootstrap import bootstrap_interval, roc_band
from sweep.explanations import Explanations
from sweep.report.evaluation import evaluate
from sweep.report.flow import flow
from sweep.report.reading import calls_measured
from sweep.report.searching import searched
from sweep.report.sequences import one_sequence
from sweep.report.tables import RunTables
from sweep.report.validation import validate
from sweep.settings import flatten

# Fewest patients of a class in a fold -> coverage in % of the 95 % interval where the true AUC is 0.85 and 0.93, from
# benchmarks/interval_coverage.py (1: folds of one and of two in turn); with three it is 94 and 92.
COVERAGE = {1: (93, 87), 2: (93, 88)}
PATIENT_COLUMNS = ["patient_id", "label", "fold", "probability", "threshold", "call", "outcome", "slices"]
PATIENT_COLUMNS += ["sop_instance_uid"]
EARLY_STOPPING = {
    "inner": "Early stopping and the choice of the best epoch used an inner split of each fold's training patients. "
    "The held-out patients were predicted once, by the finished model.",
    "scored_fold": "Early stopping watched the very fold that was then scored, as the study did: every figure of "
    "the model is optimistic for that reason, on pure noise by 0.047 (lowest loss kept) to 0.086 (highest AUC). "
    "training.early_stopping=inner is the honest variant.",
    "none": "There was no early stopping: every fold was trained for all its epochs.",
}


RACE = (
    "Configurations that a race dropped before all their folds: {dropped}. They compete in the samples of the "
    "correction with the folds they have; the others are filled from the folds' means and the configuration's own, "
    "shrunk to the mean where folds are few. Left out, they would let optimism in: the survivors survived on these "
    "same patients. In eight simulated races the figure so corrected came within 0.006 of that of the same sweep "
    "without a race, and within 0.012 of the truth, mostly below it. The race itself is not repeated in the samples."
)
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
    tables = {
        "table2": [*readers, model],
        "readers_with_model": [{"reader": row["reader"]} | way for row in summary["table2"] for way in row["helped"]],
        "errors": errors,
        "sequences": summary["sequences"],
        "flow": [
            {"what": what, "count": count} for what, count in flatten(summary["flow"]).items() if count is not None
        ],
        "roc_band": summary["best"]["roc_band"],
        "calibration": summary["calibration"]["curve"],
        "decision_curve": summary["decision_curve"],
        "table1": features.get("table1", []),
        "search_history": summary["search"]["history"],
        "settings_importance": summary["search"]["settings"],
    }
    return {name: rows for name, rows in tables.items() if rows}


def for_json(value: Any) -> Any:
    """What JSON can hold: None for nan, "Infinity" for infinity, lists for tuples."""
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


def _configurations(run: RunTables) -> list[dict[str, Any]]:
    all_folds = {int(fold) for fold in run.split["fold"]}
    finished = run.predictions.groupby("configuration")["fold"].agg(set).to_dict()
    rows = []
    for record in run.configurations.sort_values("configuration").to_dict("records"):
        row: dict[str, Any] = {
            str(name): None if pd.isna(value) or value == "" else value for name, value in record.items()
        }
        row["settings"] = {name: row.pop(name) for name in run.searched}
        row["missing_folds"] = sorted(all_folds - finished.get(row["configuration"], set()))
        rows.append(row)
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
        "mean_of_folds": asdict(patient_metrics.mean_of_folds(label, score, fold)),
        "roc_band": roc_band(label, score, fold, resamples).to_dict("records"),
        "pooled": _pooled(label, score, resamples),
        "per_slice": asdict(slices.clustered_auc_interval(*of_slices, patient_of_slices, "logit")),
        "average_precision": patient_metrics.average_precision(label, score),
        "prevalence": float(label.mean()),
        "permutation_p": comparison.permutation_test(label, score, fold),
        "fold_shift": _fold_shift(label, score, fold, run.settings["folds"].get("by") == "site"),
        "interval_caution": _interval_caution(folds),
        "folds": folds.assign(threshold=patients.groupby("fold")["threshold"].first().to_numpy()).to_dict("records"),
        "thresholds": {"lowest": float(patients["threshold"].min()), "highest": float(patients["threshold"].max())},
        **calls_measured(label, patients["call"].to_numpy()),
    }


def _pooled(label: patient_metrics.Array, score: patient_metrics.Array, resamples: int) -> dict[str, Any]:
    def auc_of(rows: patient_metrics.Array) -> float:
        return patient_metrics.auc(label[rows], score[rows])

    intervals = {scale: patient_metrics.auc_interval(label, score, scale) for scale in ("plain", "logit")}
    intervals["bootstrap"] = bootstrap_interval(auc_of, label, np.arange(len(label)), resamples)
    limits = {name: {"low": interval.low, "high": interval.high} for name, interval in intervals.items()}
    return {"value": intervals["plain"].value} | limits


def _fold_shift(
    label: patient_metrics.Array, score: patient_metrics.Array, fold: patient_metrics.Array, by_site: bool
) -> dict[str, Any]:
    shift = patient_metrics.fold_shift(label, score, fold)
    cause = ", or the sites' patients differ" if by_site else ""
    warning = (
        f"The mean of the folds and the pooled AUC differ by {abs(shift.difference):.3f}, more than the "
        f"{shift.limit:.3f} that dealing patients to folds anew explains: the fold models score on different "
        f"scales{cause}, and the pooled figure and its interval mix them. Trust the mean of the folds."
    )
    return asdict(shift) | {"warning": warning if shift.beyond_noise else None}


def _interval_caution(folds: pd.DataFrame) -> str | None:
    defined = folds.dropna(subset="auc")
    rarer = pd.concat([defined["malignant"], defined["patients"] - defined["malignant"]]).min()
    if rarer not in COVERAGE:
        return None
    good, very_good = COVERAGE[rarer]
    return (
        f"Some folds hold as few as {rarer} of one class, which makes the interval of the mean of folds a little too "
        f"narrow: in simulations, 95 % intervals held a true AUC of 0.85 {good} % of the time, and one of 0.93 "
        f"{very_good} %."
    )


def _study_setting(run: RunTables, patients: pd.DataFrame) -> dict[str, Any]:
    """Configuration 0's AUC, and the best's minus it with interval and p; None before both are known or are one."""
    found: dict[str, Any] = {"configuration": 0, "mean_fold_auc": None, "difference": None, "p": None}
    if run.best is not None and 0 in set(run.complete["configuration"]):
        (label, score, fold), study = predictions.arrays(patients), run.patients_of(0)["probability"].to_numpy()
        test = comparison.paired_mean_of_folds(label, score, study, fold)
        found["mean_fold_auc"] = test.second
        found |= {"difference": asdict(test.difference), "p": test.p} if run.best else {}
    return found


def _selection(run: RunTables) -> dict[str, Any]:
    """What was selected on what, in words that the page prints as they are."""
    early_stopping = run.settings["training"]["early_stopping"]
    return {
        "criterion": "mean_fold_auc",
        "candidates": len(run.complete),
        "dropped": run.competing.shape[1] - run.scores.shape[1],
        "compared": run.competing.shape[1],
        "early_stopping": early_stopping,
        "statements": [*_selection_among(run), EARLY_STOPPING[early_stopping], *_rules(run)],
    }


def _selection_among(run: RunTables) -> list[str]:
    if run.best is None:
        return ["No configuration with all its folds has an AUC, so none has been selected."]
    dropped = run.competing.shape[1] - run.scores.shape[1]
    if len(run.complete) == 1 and not dropped:
        return [f"Only configuration {run.best} has all its folds: nothing was selected among configurations."]
    return [
        f"Configuration {run.best} is the best of {len(run.complete)} configurations with all folds, by the mean "
        "of the folds' AUCs. It was selected on the same out-of-fold predictions that its figures are computed from: "
        "every figure of it but the corrected one is optimistic (naive), the more so the more configurations were "
        "compared. The correction selects anew in bootstrap samples of the patients and scores the selected on those "
        "left out (BBC-CV, Tsamardinos et al. 2018, doi 10.1007/s10994-018-5714-4). It errs on the low side when "
        "configurations differ much, since a sample chooses by 63 % of the patients, and its interval on the wide one. "
        "The configurations themselves were proposed by a search that had seen these AUCs; that is not repeated.",
        *([RACE.format(dropped=dropped)] if dropped else []),
    ]


def _rules(run: RunTables) -> list[str]:
    threshold = "was fixed beforehand" if run.evaluation["threshold"] == "fixed" else "used inner patients of training"
    return [
        f"The threshold {threshold}; this program tuned neither it nor the rule from slices to patients on the "
        "patients scored; a rule picked after seeing this page would be.",
        "A patient's slices all lie in one fold, and every configuration was validated on the same folds.",
    ]
