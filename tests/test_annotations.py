"""annotations.csv: identifiers as they were written, and an error that can be acted on."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.annotations import BOX, COLUMNS, CohortError, quoted, read_annotations

HEADER = "patient_id,label,sop_instance_uid,x_min,y_min,x_max,y_max"
GOOD = {"patient_id": "007", "label": "1", "sop_instance_uid": "1.2", "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4}
REGION = {"patient_id": "007", "label": "1", "region": "roi.mrk.json", "t2_series_uid": "1.2"}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return path


def error_of(path: Path, **options: Any) -> str:
    with pytest.raises(CohortError) as caught:
        read_annotations(path, **options)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(str(path))


def test_table_has_every_column_and_types_labels_and_coordinates(tmp_path: Path) -> None:
    rows = [{**GOOD, "label": "Malignant"}, {**GOOD, "label": " BENIGN", "x_min": "1.5", "extra": "?"}]
    table = read_annotations(write(tmp_path / "a.csv", *rows))
    assert list(table) == COLUMNS
    assert table["label"].tolist() == [1, 0]
    assert table[BOX].to_numpy().tolist() == [[1, 2, 3, 4], [1.5, 2, 3, 4]]
    assert set(table["t1_series_uid"]) == set(table["region"]) == set(table["segment"]) == {""}


IDENTIFIERS = [
    "007",
    "7",
    "a  b",
    "NA",
    "nan",
    "None",
    "1e5",
    "1.0",
    "=cmd()",
    "-1",
    "Jürgen",
    "患者",
    "😀",
    'q"q',
]
IDENTIFIERS += ["a,b;c", "<script>", "../x", "TRUE", "2024-01-02", "#1", "x" * 200]


def test_identifiers_stay_as_they_are_but_for_surrounding_blanks(tmp_path: Path) -> None:
    rows = [{**GOOD, "patient_id": f" {name}\u00a0", "sop_instance_uid": name, "site": name} for name in IDENTIFIERS]
    table = read_annotations(write(tmp_path / "a.csv", *rows))
    for column in ("patient_id", "sop_instance_uid", "site"):
        assert table[column].tolist() == IDENTIFIERS


def test_line_ends_and_control_characters_in_an_identifier_become_a_blank(tmp_path: Path) -> None:
    names = ["a\nb", "c\r\nd", "e\x1b[31mf", "g\u2028h"]
    rows = [{**GOOD, "patient_id": name, "sop_instance_uid": str(row)} for row, name in enumerate(names)]
    identifiers = read_annotations(write(tmp_path / "a.csv", *rows))["patient_id"]
    assert identifiers.tolist() == ["a b", "c d", "e [31mf", "g h"]


def test_spellings_that_look_the_same_are_one_patient(tmp_path: Path) -> None:
    rows = [{**GOOD, "patient_id": name, "sop_instance_uid": name} for name in ("J\u00fcrgen", "Ju\u0308rgen")]
    assert read_annotations(write(tmp_path / "a.csv", *rows))["patient_id"].tolist() == ["J\u00fcrgen"] * 2


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_spreadsheets_dialects_read_alike(tmp_path: Path, delimiter: str, end: str, mark: str) -> None:
    lines = [HEADER.replace(",", delimiter), delimiter.join(["00ä", "1", "1.2", "1.5", "2", "3", "4"]), ""]
    (tmp_path / "a.csv").write_bytes((mark + end.join(lines)).encode())
    (row,) = read_annotations(tmp_path / "a.csv").to_dict("records")
    assert (row["patient_id"], row["x_min"], row["y_max"]) == ("00ä", 1.5, 4.0)


def test_labels_are_mapped_by_settings(tmp_path: Path) -> None:
    names = ["Gutartig ", "B\u00d6SARTIG", "Bo\u0308sartig", "0", "1"]
    path = write(tmp_path / "a.csv", *({**GOOD, "label": name, "sop_instance_uid": name} for name in names))
    assert read_annotations(path, {"GUTARTIG": 0, "bösartig ": 1})["label"].tolist() == [0, 1, 1, 0, 1]
    assert "line 2: label is 'Gutartig'; write 0 or osteoporotic, 1 or tumour" in error_of(
        path, labels={"osteoporotic": 0, "tumour": 1}
    )
    assert read_annotations(write(path, {**GOOD, "label": "1"}), {"1": 0, "2": 1})["label"].tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "2"}, "label is '2'; write 0 or benign, 1 or malignant"),
        ({"label": ""}, "label is ''"),
        ({"x_min": "left"}, "x_min is 'left'; write a pixel coordinate with a decimal point"),
        ({"x_max": "12,5"}, "x_max is '12,5'; write a pixel coordinate with a decimal point"),
        ({"x_max": "1_0"}, "x_max is '1_0'"),
        ({"y_max": "inf"}, "y_max is 'inf'"),
        ({"y_max": "NaN"}, "y_max is 'NaN'"),
        ({"y_max": ""}, "y_max is ''"),
        ({"patient_id": " "}, "patient_id is ''; give a value"),
        ({"patient_id": "p-1"}, "patient_id is 'p-1'; write it as above, in the same case"),
        ({"sop_instance_uid": ""}, "sop_instance_uid is ''; name a slice, or give a region"),
        ({"segment": "1"}, "segment is '1'; write a number from 1, beside a DICOM SEG only"),
        ({}, "sop_instance_uid is '1.2'; remove the repeated row"),
        ({"x_min": "y" * 500}, f"x_min is '{'y' * 58}…; write"),
    ],
)
def test_bad_value_is_named_with_its_line_and_a_remedy(tmp_path: Path, change: dict[str, str], message: str) -> None:
    good = {**GOOD, "patient_id": "P-1"}
    path = write(tmp_path / "lesions.csv", good, {**good, **change})
    assert f", line 3: {message}" in error_of(path)


def test_lines_are_counted_as_an_editor_shows_them(tmp_path: Path) -> None:
    """Blank rows are left out, and an identifier of two lines counts as two."""
    text = f'\n{HEADER}\n\n,,,,,,\n"a\nb",1,1.2,1,2,3,4\n \n\nc,1,1.3,1,2,3,left\n'
    (tmp_path / "a.csv").write_text(text)
    assert ", line 9: y_max is 'left'" in error_of(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(text.replace("left", "4"))
    assert read_annotations(tmp_path / "a.csv")["patient_id"].tolist() == ["a b", "c"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ": no column patient_id, label, sop_instance_uid, x_min, y_min, x_max, y_max; the columns are none"),
        (HEADER, ": no rows; add a row"),
        (f"{HEADER}\n,,,\n\n", ": no rows; add a row"),
        (HEADER.replace("label", "Label"), ": no column label; the columns are 'patient_id', 'Label'"),
        (f"sep=;\n{HEADER}\n1,1,1.2,1,2,3,4\n", ": no column patient_id"),
        (f"{HEADER},label\n1,1,1.2,1,2,3,4,0\n", ": several columns 'label'"),
        (f"{HEADER}\n1,1,1.2,1,2,3,4\n1,1,1.2,1,2,3,4,5\n", ", line 3: cannot be read: more values than columns"),
        (f"{HEADER}\n1,1,1.2,1,2,3,4,5\n", ", line 2: cannot be read: more values than columns"),
        (f"{HEADER}\n1,1,1.2,1,2,3\n", ", line 2: y_max is ''"),
        (f'{HEADER}\n1,1,1.2,1,2,3,4\n"open,1,1.2', ": cannot be read as CSV (line 3: unexpected end of data)"),
        (HEADER.encode("utf-16"), ": cannot be read as CSV ('utf-8' codec"),
        (f"{HEADER}\nJürgen,1,1.2,1,2,3,4".encode("latin-1"), ": cannot be read as CSV ('utf-8' codec"),
        (b"\x00\x01\x02" * 50, ": no column patient_id"),
        (f"{HEADER}\n{'x' * 200_000},1,1.2,1,2,3,4", ": cannot be read as CSV (line 2: field larger than"),
    ],
)
def test_unusable_file_is_named_with_a_remedy(tmp_path: Path, content: str | bytes, message: str) -> None:
    (tmp_path / "a.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    assert error_of(tmp_path / "a.csv").startswith(message)


def test_absent_file_is_named(tmp_path: Path) -> None:
    assert "No such file" in error_of(tmp_path / "absent.csv")


def test_region_stands_in_place_of_slice_and_box(tmp_path: Path) -> None:
    (tmp_path / "drawn").mkdir()
    for name in ("roi.mrk.json", "drawn/\u00fc.seg", "drawn/u\u0308.seg"):
        (tmp_path / name).touch()
    segments = [
        {**REGION, "region": name, "t2_series_uid": "", "segment": "2.0"}
        for name in ("drawn/\u00fc.seg", "drawn/u\u0308.seg")
    ]
    table = read_annotations(write(tmp_path / "a.csv", REGION, *segments))
    assert [Path(region).name for region in table["region"]] == ["roi.mrk.json", "\u00fc.seg", "u\u0308.seg"]
    assert all(Path(region).is_file() for region in table["region"])
    assert table["segment"].tolist() == ["", "2", "2"]
    assert table[BOX].isna().all(axis=None)
    mixed = read_annotations(write(tmp_path / "a.csv", REGION, GOOD))
    assert mixed["sop_instance_uid"].tolist() == ["", "1.2"]
    assert np.isnan(mixed["x_min"][0]) and mixed["x_min"][1] == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"region": "absent.mrk.json"},
            "region is 'absent.mrk.json'; name an existing file, from the CSV's folder",
        ),
        ({"region": "."}, "region is '.'; name an existing file"),
        ({"region": "x" * 5000}, f"region is '{'x' * 58}…; name an existing file"),
        ({"region": "a\0b"}, "region is 'a\\x00b'; name an existing file"),
        ({"t2_series_uid": ""}, "t2_series_uid is ''; name the series on which the region was drawn"),
        ({"segment": "1"}, "segment is '1'; write a number from 1, beside a DICOM SEG only"),
        ({"region": "seg", "segment": "0"}, "segment is '0'"),
        ({"region": "seg", "segment": "tumour"}, "segment is 'tumour'"),
        ({"region": "seg", "segment": "²"}, "segment is '²'"),
        ({"sop_instance_uid": "1.2"}, "sop_instance_uid is '1.2'; leave it empty where a region is given"),
        ({"x_min": "1"}, "x_min is '1'; leave it empty where a region is given"),
        ({"region": ""}, "sop_instance_uid is ''; name a slice, or give a region"),
    ],
)
def test_bad_region_is_named_with_its_line_and_a_remedy(tmp_path: Path, change: dict[str, str], message: str) -> None:
    for name in ("roi.mrk.json", "seg"):
        (tmp_path / name).touch()
    first = {**REGION, "patient_id": "1"}
    assert f", line 3: {message}" in error_of(write(tmp_path / "a.csv", first, {**REGION, **change}))


def test_quoted_text_is_cut_and_shows_what_cannot_be_seen() -> None:
    assert quoted("a\nb\u200b") == r"'a\nb\u200b'"
    assert len(quoted("x" * 1000)) == 60
