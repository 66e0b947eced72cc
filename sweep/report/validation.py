"""What nested cross-validation, other splits and permuted labels say, as far as the run has them."""

from typing import Any

import pandas as pd

from sweep.patient_metrics import mean_of_folds
from sweep.predictions import arrays
from sweep.report.reading import calls_measured
from sweep.report.tables import RunTables


def validate(run: RunTables) -> dict[str, Any]:
    """nested, repeats and permutations of the summary; None or [] where the run has none."""
    return {
        "nested": _nested(run) if "nested" in run.further else None,
        "repeats": _repeats(run) if "repeats" in run.further else [],
        "permutations": _permutations(run) if "permutations" in run.further else None,
    }


def _nested(run: RunTables) -> dict[str, Any]:
    """The procedure's AUC and calls once every outer fold is done, and what each outer fold chose."""
    folds, patients = run.further["nested"], run.further["nested_patients"]
    missing = sorted(set(run.split["fold"]) - set(folds["fold"]))
    label, score, fold = arrays(patients)
    call = (patients["probability"] >= patients["threshold"]).to_numpy(int)
    done = {"mean_of_folds": mean_of_folds(label, score, fold), **calls_measured(label, call)}
    rows = [{"settings": {name: row.pop(name) for name in run.searched}} | row for row in folds.to_dict("records")]
    found = {"missing_folds": [int(fold) for fold in missing], "folds": rows, "mean_of_folds": None}
    return found if missing else found | done


def _repeats(run: RunTables) -> list[dict[Any, Any]]:
    """A row per repeated configuration: its AUC under the sweep's split, and under the others."""
    own = run.configurations.set_index("configuration")["mean_fold_auc"].rename("own_split")
    table = run.further["repeats"].groupby("configuration", sort=False)["mean_fold_auc"].agg(["mean", "std", list])
    return table.rename(columns={"std": "sd", "list": "other_splits"}).join(own).reset_index().to_dict("records")


def _permutations(run: RunTables) -> dict[str, Any]:
    """One-sided p = (b + 1)/(n + 1) of a sweep's best AUC (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585).

    The best of every sweep on permuted labels is naive, as the observed one is: what selection does is in both.
    """
    aucs: pd.Series[float] = run.further["permutations"]["mean_fold_auc"]
    observed = float(run.complete["mean_fold_auc"].max())
    reached = int((aucs >= observed - 1e-12).sum())
    found = {"permutations": len(aucs), "reached": reached, "p": (reached + 1) / (len(aucs) + 1)}
    return found | {"mean": float(aucs.mean()), "highest": float(aucs.max())}
