"""CSV: harmless in a spreadsheet, and back as it was."""

import csv
from pathlib import Path

import pandas as pd
import pytest

from datasets.tables import read_csv, to_csv

HOSTILE = ["=cmd()", "+1", "-5", "@SUM(A1)", "'=1", "''", "007", "a,b", 'q"q', "NA", "", "é", "<script>", "a\nb"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    table = pd.DataFrame({"patient_id": HOSTILE, "number": -1.5, "missing": float("nan")})
    (tmp_path / "table.csv").write_text(to_csv(table), encoding="utf-8")
    return tmp_path / "table.csv"


def test_text_comes_back_as_it_was(path: Path) -> None:
    table = read_csv(path, {"patient_id": str})
    assert table["patient_id"].tolist() == HOSTILE
    assert set(table["number"]) == {-1.5}


def test_no_cell_begins_like_a_formula_unless_it_is_a_number(path: Path) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        cells = [row["patient_id"] for row in csv.DictReader(file)]
    assert not [cell for cell in cells if cell[:1] in tuple("=+-@") and cell]


def test_a_missing_number_stays_missing(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(to_csv(pd.DataFrame({"text": ["", "x"], "auc": [float("nan"), 0.5]})))
    table = read_csv(tmp_path / "t.csv", {"text": str})
    assert table["auc"].isna().tolist() == [True, False] and table["text"].tolist() == ["", "x"]
    assert list(read_csv(tmp_path / "t.csv", {}).dtypes.astype(str))[1] == "float64"
