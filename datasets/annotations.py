"""annotations.csv to a table with one row per lesion slice, or per region to be cut into slices."""

import csv
import io
import os
import re
import unicodedata
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

BOX = ["x_min", "y_min", "x_max", "y_max"]
ALWAYS = ["patient_id", "label"]
ON_SLICE = ["sop_instance_uid", *BOX]  # unless the row names a region
COLUMNS = [*ALWAYS, *ON_SLICE, "site", "t1_series_uid", "t2_series_uid", "region", "segment"]
LABELS = {"benign": 0, "malignant": 1}
MARKUPS = ".json"  # how the name of a region ends that is no DICOM SEG


class CohortError(ValueError):
    """Input from which no cohort can be made; names the file, the value and the remedy."""


def quoted(text: str, longest: int = 60) -> str:
    """Text of foreign origin for a message: its representation, cut."""
    shown = repr(text)
    return shown if len(shown) <= longest else f"{shown[: longest - 1]}…"


def read_annotations(path: Path, labels: Mapping[str, int] = LABELS) -> pd.DataFrame:
    """Reads annotations.csv: all of COLUMNS, text where not a label (int) or coordinate (float, NaN beside a region).

    Texts are as `read_texts` has them, but patient_id and site are brought to Unicode's normal form C, so that two
    spellings that look the same are one. A region becomes its path, found from the CSV file's folder. `labels` maps
    label texts, in any case, to 0 or 1; "0" and "1" need no entry.

    Raises:
        CohortError: the file, a column or a value cannot be used, or a region's file does not exist.
    """
    codes = {"0": 0, "1": 1} | {composed(text).casefold(): code for text, code in labels.items()}
    table = _read_columns(path)
    table[["patient_id", "site", "label"]] = table[["patient_id", "site", "label"]].map(composed)
    _require(path, table["patient_id"], table["patient_id"] != "", "give a value")
    spellings = table.groupby(table["patient_id"].map(str.lower))["patient_id"]
    same_spelling = table["patient_id"] == spellings.transform("first")
    _require(path, table["patient_id"], same_spelling, "write it as above, in the same case, or rename one patient")
    numbers = table["label"].map(str.casefold).map(codes)
    known = ", ".join(" or ".join(text for text, code in codes.items() if code == label) for label in (0, 1))
    _require(path, table["label"], numbers.notna(), f"write {known}")
    coordinates = table[BOX].apply(pd.to_numeric, errors="coerce").astype(float)
    good = np.isfinite(coordinates).assign(sop_instance_uid=table["sop_instance_uid"] != "")
    drawn, remedies = table["region"] != "", dict.fromkeys(BOX, "write a pixel coordinate with a decimal point")
    for column, remedy in ({"sop_instance_uid": "name a slice, or give a region"} | remedies).items():
        _require(path, table[column], ~drawn | (table[column] == ""), "leave it empty where a region is given")
        _require(path, table[column], drawn | good[column], remedy)
    _require(path, table["sop_instance_uid"], ~table.duplicated(), "remove the repeated row")
    table = table.assign(label=numbers.astype(int), **coordinates, **_regions(path, table))
    return table.reset_index(drop=True)


def _read_columns(path: Path) -> pd.DataFrame:
    """All of COLUMNS as `read_texts` has them."""
    table = read_texts(path)
    if missing := [name for name in [*ALWAYS, *(ON_SLICE if "region" not in table else [])] if name not in table]:
        found = ", ".join(quoted(str(name)) for name in table) or "none"
        raise CohortError(f"{path}: no column {', '.join(missing)}; the columns are {found}")
    if table.empty:
        raise CohortError(f"{path}: no rows; add a row for every lesion slice")
    return table.reindex(columns=COLUMNS, fill_value="")


def read_texts(path: Path) -> pd.DataFrame:
    """A CSV file's cells as text without surrounding blanks; the index is the line on which the row begins.

    Values are separated by comma, semicolon or tab, whichever the header has most of. Blank rows and columns without a
    name are left out.

    Raises:
        CohortError: the file cannot be read, columns have the same name, or a row has more values than the header.
    """
    rows, line = [], 1
    try:
        text = path.read_bytes().decode("utf-8-sig")
        delimiter = max(",;\t", key=text.lstrip("\r\n").partition("\n")[0].count)
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        for values in reader:
            rows.append((line, [value.strip() for value in values]))
            line = reader.line_num + 1
    except (OSError, ValueError, csv.Error) as error:
        why = f"line {line}: {error}" if isinstance(error, csv.Error) else " ".join(str(error).split())
        raise CohortError(f"{path}: cannot be read as CSV ({why}); give a comma-separated UTF-8 file") from error
    (_, header), *filled = [(line, values) for line, values in rows if any(values)] or [(1, [])]
    if twice := [quoted(name) for name in header if name and header.count(name) > 1]:
        raise CohortError(f"{path}: several columns {twice[0]}; remove all but one")
    if longer := [line for line, values in filled if any(values[len(header) :])]:
        remedy = "write numbers with a decimal point, and texts that hold the separator in quotes"
        raise CohortError(f"{path}, line {longer[0]}: cannot be read: more values than columns; {remedy}")
    cells = [[*values, *[""] * len(header)][: len(header)] for _, values in filled]
    table = pd.DataFrame(cells, [line for line, _ in filled], header, dtype=str)
    return table.loc[:, table.columns != ""]


def composed(text: str) -> str:
    """Unicode's normal form C, without line ends and other characters that no table or log can hold in one cell."""
    return unicodedata.normalize("NFC", re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).strip())


def _regions(path: Path, table: pd.DataFrame) -> dict[str, pd.Series]:
    """The regions' paths, after checks of what belongs to them."""
    region, segment = table["region"], table["segment"].str.removesuffix(".0")  # as pandas writes it between blanks
    markups = region.str.lower().str.endswith(MARKUPS)
    paths = region.map(lambda name: name and str(path.parent / name))
    _require(path, region, (region == "") | paths.map(os.path.isfile), "name an existing file, from the CSV's folder")
    numbered = segment.str.fullmatch("[1-9][0-9]{0,4}") & (region != "") & ~markups
    named = ~markups | (table["t2_series_uid"] != "")
    _require(path, table["segment"], (segment == "") | numbered, "write a number from 1, beside a DICOM SEG only")
    _require(path, table["t2_series_uid"], named, "name the series on which the region was drawn")
    return {"region": paths, "segment": segment}


def _require(path: Path, values: pd.Series, good: Any, remedy: str) -> None:
    bad = np.flatnonzero(~np.asarray(good, dtype=bool))
    if bad.size:
        line, value = values.index[bad[0]], quoted(values.iloc[bad[0]])
        raise CohortError(f"{path}, line {line}: {values.name} is {value}; {remedy} ({bad.size} such rows)")
