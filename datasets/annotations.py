"""annotations.csv to a table with one row per lesion slice."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

REQUIRED = ["patient_id", "label", "sop_instance_uid", "x_min", "y_min", "x_max", "y_max"]
OPTIONAL = ["site", "t1_series_uid", "t2_series_uid"]
BOX = ["x_min", "y_min", "x_max", "y_max"]
LABELS = {"0": 0, "1": 1, "benign": 0, "malignant": 1}


class CohortError(ValueError):
    """Input from which no cohort can be made; names the file, the value and the remedy."""


def read_annotations(path: Path) -> pd.DataFrame:
    """Reads annotations.csv: all columns of REQUIRED and OPTIONAL, text where not a label (int) or coordinate (float).

    Raises:
        CohortError: the file, a column or a value cannot be used.
    """
    try:
        table = pd.read_csv(path, dtype=str, keep_default_na=False, index_col=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = " ".join(str(error).split())
        raise CohortError(f"{path}: cannot be read as CSV ({why}); give a comma-separated UTF-8 file") from error
    missing = [column for column in REQUIRED if column not in table]
    if missing:
        raise CohortError(f"{path}: no column {', '.join(missing)}; the columns are {', '.join(map(str, table))}")
    if table.empty:
        raise CohortError(f"{path}: no rows; add a row for every lesion slice")
    table = table.fillna("").reindex(columns=REQUIRED + OPTIONAL, fill_value="").map(str.strip)
    for column in ("patient_id", "sop_instance_uid"):
        _require(path, table[column], table[column] != "", "give a value")
    labels = table["label"].str.lower().map(LABELS)
    _require(path, table["label"], labels.notna(), "write 0 or benign, 1 or malignant")
    numbers = table[BOX].apply(pd.to_numeric, errors="coerce").astype(float)
    for column in BOX:
        _require(path, table[column], np.isfinite(numbers[column]), "write a pixel coordinate")
    _require(path, table["sop_instance_uid"], ~table.duplicated(), "remove the repeated row")
    table[["label", *BOX]] = numbers.assign(label=labels.astype(int))[["label", *BOX]]
    return table.astype({"label": int} | dict.fromkeys(BOX, float))


def _require(path: Path, values: pd.Series, good: Any, remedy: str) -> None:
    bad = np.flatnonzero(~np.asarray(good, dtype=bool))
    if bad.size:
        first = int(bad[0])
        raise CohortError(
            f"{path}, line {first + 2}: {values.name} is {values.iloc[first]!r}; {remedy} ({bad.size} such rows)"
        )
