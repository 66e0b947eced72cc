"""How far the best configuration leans on each sequence: its held-out predictions from T1W or from T2W alone."""

from typing import Any

import pandas as pd

from sweep import patient_metrics, predictions
from sweep.comparison import paired_mean_of_folds
from sweep.explanations import Explanations
from sweep.slices import Rule


def one_sequence(patients: pd.DataFrame, explained: Explanations, rule: Rule) -> list[dict[str, Any]]:
    """A row each for T1W and T2W: mean-of-folds AUC, its difference from that of both with p, and what changes.

    change: mean distance of a patient's probability from that with both; calls_changed: patients called otherwise.
    [] where the models or images are gone.
    """
    if "T1W" not in explained.table:
        return []
    label, both, fold = predictions.arrays(patients)
    rows = []
    for sequence in ("T1W", "T2W"):
        slices = explained.table.assign(probability=explained.table[sequence])
        alone = predictions.per_patient(slices, rule)["probability"].to_numpy(float)
        test = paired_mean_of_folds(label, alone, both, fold)
        auc = patient_metrics.mean_of_folds(label, alone, fold)
        called = (alone >= patients["threshold"]).astype(int)
        rows.append(
            {"sequence": sequence, "auc": {"value": auc.value, "low": auc.low, "high": auc.high}}
            | {"difference": test.difference, "p": test.p, "change": float(abs(alone - both).mean())}
            | {"calls_changed": int((called != patients["call"]).sum())}
        )
    return rows
