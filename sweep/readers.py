"""The human readers: what they called, their 2x2 tables, and what they would have called with the model's help."""

from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from datasets.tables import read_csv
from sweep.patient_metrics import THRESHOLD, Array


def read_readers(path: Path, cells: pd.DataFrame | None = None) -> pd.DataFrame:
    """readers.csv -> patient_id, reader (text), call (1 = malignant, 0 = benign), score (nan where there is none).

    The file has `call` (0 or 1) or `score` (any number, higher = more malignant) or both. A call that is missing is
    made at THRESHOLD, if the scores are probabilities. `cells` are the file's where they were read otherwise.
    ValueError names the file, reader, patient and remedy.
    """
    table = read_csv(path, {"patient_id": str, "reader": str}) if cells is None else cells
    either = {"call or score"} if {"call", "score"}.isdisjoint(table) else set()
    if absent := {"patient_id", "reader"} - set(table) or either:
        raise ValueError(f"{path.name}: no column {', '.join(sorted(absent))}: add it")
    table = table.reindex(columns=["patient_id", "reader", "call", "score"])
    numbers = table[["call", "score"]].apply(pd.to_numeric, errors="coerce")
    from_score = (numbers["score"] >= THRESHOLD).astype(float).where(numbers["score"].between(0, 1))
    calls = numbers["call"].where(table["call"].notna(), from_score)
    _refuse(path, table[table.duplicated(["patient_id", "reader"])], "has two rows: keep one")
    _refuse(path, table[~calls.isin([0, 1])], "needs a call of 0 or 1, or a score from 0 to 1")
    return table.assign(call=calls.astype(int), score=numbers["score"])


def _refuse(path: Path, wrong: pd.DataFrame, problem: str) -> None:
    for row in wrong.head(1).to_dict("records"):
        who = f"reader {row['reader']}, patient {row['patient_id']} (call {row['call']}, score {row['score']})"
        raise ValueError(f"{path.name}: {who} {problem}; {len(wrong)} such rows")


def by_patient(readers: pd.DataFrame, patients: Array, values: Literal["call", "score"]) -> pd.DataFrame:
    """(patients, readers) in the order of `patients`; nan where a reader gave none."""
    return readers.pivot(index="patient_id", columns="reader", values=values).reindex(patients).astype(float)


def two_by_two(label: Array, call: Array) -> dict[str, int]:
    """tp, tn, fp, fn of the patients that were called, as operating_point.measures takes them; nan is no call."""
    names = {"tp": (1, 1), "tn": (0, 0), "fp": (0, 1), "fn": (1, 0)}
    return {name: int(((label == truth) & (call == called)).sum()) for name, (truth, called) in names.items()}


def with_model(call: Array, probability: Array, band: float, threshold: float | Array = THRESHOLD) -> dict[str, Array]:
    """A reader's calls (N,), helped by the model's probabilities (N,) in three ways; nan where there is no call.

    or: malignant if either says so. and: if both do. second opinion: up to `band` from the threshold, or each patient's
    own one (N,), the reader decides, elsewhere the model: 0 is the model alone, infinity the reader alone.
    Not what a reader would do who sees the model: that takes a reader study.
    """

    def overruled(low: float | Array, high: float | Array) -> Array:
        called = np.where(probability >= high, 1.0, np.where(probability < low, 0.0, call))
        return np.where(np.isnan(call), np.nan, called)

    return {
        "reader or model": overruled(-np.inf, threshold),
        "reader and model": overruled(threshold, np.inf),
        "model as second opinion": overruled(threshold - band, threshold + band),
    }
