"""Annotations and series to cohort: the right slices, and a reason for every patient left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.annotations import CohortError, read_annotations
from datasets.cohort import LESION_COLUMNS, Cohort, build_cohort
from tests.mr_files import Stack, annotation, series_in, study, tilted, write_stack

BOX = (10.0, 12.0, 20.0, 22.0)
GOOD = {"patient_id": "007", "label": "1", "sop_instance_uid": "1.2", "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4}


def cohort_of(folder: Path, stacks: list[Stack], rows: list[dict[str, Any]]) -> Cohort:
    for stack in stacks:
        write_stack(folder / stack.uid, stack)
    pd.DataFrame(rows).to_csv(folder / "annotations.csv", index=False)
    return build_cohort(series_in(folder), read_annotations(folder / "annotations.csv"))


def exclusion(cohort: Cohort) -> dict[str, str]:
    """The only exclusion of a cohort without lesions."""
    assert cohort.lesions.empty
    assert cohort.slices == ()
    (row,) = cohort.excluded.to_dict("records")
    assert row["remedy"]
    return {str(key): value for key, value in row.items()}


def write(path: Path, *rows: dict[str, Any]) -> Path:
    pd.DataFrame(list(rows)).to_csv(path, index=False)
    return path


def test_annotations_keep_identifiers_as_text_and_type_the_rest(tmp_path: Path) -> None:
    named = [{**GOOD, "label": "Malignant"}, {**GOOD, "patient_id": "NA", "label": "BENIGN", "x_min": "1.5"}]
    table = read_annotations(write(tmp_path / "a.csv", *named))
    assert table["patient_id"].tolist() == ["007", "NA"]
    assert table["label"].tolist() == [1, 0]
    assert table["x_min"].tolist() == [1.0, 1.5]
    assert table["t1_series_uid"].tolist() == ["", ""]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": "2"}, "line 3: label is '2'; write 0 or benign, 1 or malignant"),
        ({"x_min": "left"}, "line 3: x_min is 'left'"),
        ({"y_max": "inf"}, "line 3: y_max is 'inf'"),
        ({"y_max": ""}, "line 3: y_max is ''"),
        ({"patient_id": " "}, "line 3: patient_id is ''"),
        ({"sop_instance_uid": ""}, "line 3: sop_instance_uid is ''"),
        ({}, "line 3: sop_instance_uid is '1.2'; remove the repeated row"),
    ],
)
def test_bad_annotation_names_file_line_value_and_remedy(tmp_path: Path, change: dict[str, str], message: str) -> None:
    path = write(tmp_path / "lesions.csv", GOOD, {**GOOD, **change})
    with pytest.raises(CohortError) as caught:
        read_annotations(path)
    assert f"{path}, {message}" in str(caught.value)


def test_unusable_annotation_files_are_named(tmp_path: Path) -> None:
    without = write(tmp_path / "w.csv", {key: value for key, value in GOOD.items() if key != "label"})
    (tmp_path / "empty.csv").write_text(",".join(GOOD))
    (tmp_path / "longer.csv").write_text(f"{','.join(GOOD)}\n1,1,1.2,1,2,3,4\n1,1,1.2,1,2,3,4,5,6\n")
    (tmp_path / "shorter.csv").write_text(f"{','.join(GOOD)}\n1,1,1.2,1,2,3\n")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    for path, message in [
        (without, "no column label"),
        (tmp_path / "empty.csv", "no rows"),
        (tmp_path / "binary.csv", "cannot be read"),
        (tmp_path / "absent.csv", "cannot be read"),
        (tmp_path / "longer.csv", "cannot be read"),
        (tmp_path / "shorter.csv", "line 2: y_max is ''"),
    ]:
        with pytest.raises(CohortError, match=message) as caught:
            read_annotations(path)
        assert str(path) in str(caught.value)


def test_lesion_gets_its_slices_and_their_neighbours(tmp_path: Path) -> None:
    t2, t1 = study(1)
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX), annotation("A", 1, t2, 4, BOX)])
    assert list(cohort.lesions) == LESION_COLUMNS
    assert cohort.excluded.empty
    uids = [[header.sop_instance_uid for header in images] for images in cohort.slices]
    ascending = [stack.sop(index) for stack in (t1, t2) for index in (4, 3, 2)]  # the normal points right
    assert uids[0] == ascending
    assert uids[1] == [stack.sop(index) for stack in (t1, t2) for index in (5, 4, 3)]
    assert cohort.lesions["note"].tolist() == ["", ""]
    assert cohort.lesions["box_side_mm"].tolist() == [20.0, 20.0]


def test_stacks_stored_from_left_and_from_right_give_the_same_neighbours(tmp_path: Path) -> None:
    positions = []
    for number, degrees in enumerate([(0, 0, 0), (0, 0, 180)]):
        t2, t1 = (replace(stack, directions=tilted(degrees)) for stack in study(number))
        folder = tmp_path / str(number)
        cohort = cohort_of(folder, [t2, t1], [annotation("A", 1, t2, 3, BOX)])
        positions.append([header.position[0] for header in cohort.slices[0]])
    np.testing.assert_allclose(positions[0], positions[1], atol=1e-5)
    assert positions[0][0] < positions[0][1] < positions[0][2]


def test_t1_slices_are_nearest_to_the_box_in_each_t2_slice(tmp_path: Path) -> None:
    t2, t1 = study(1, thickness=2.0, slices=15, directions=tilted((0, 12, 8)), centre=(4.1, -20.0, 11.0))
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX)])
    normal = np.cross(*t1.directions)
    offsets = np.array([t1.position(index) for index in range(t1.slices)]) @ normal
    for t1_slice, t2_index in zip(cohort.slices[0][:3], (4, 3, 2), strict=True):
        centre = t2.points(t2_index)[17, 15]
        assert t1_slice.sop_instance_uid == t1.sop(int(np.abs(offsets - centre @ normal).argmin()))


def test_edge_slices_are_repeated_and_noted(tmp_path: Path) -> None:
    t2, t1 = study(1, slices=6, centre=(5.0, -20.0, 11.0))  # T1W covers x = -5 to 15, T2W -9 to 15 mm
    rows = [annotation("A", 1, t2, 0, BOX), annotation("A", 1, t2, 3, BOX), annotation("A", 1, t2, 5, BOX)]
    cohort = cohort_of(tmp_path, [t2, t1], rows)
    assert cohort.lesions["note"].tolist() == ["T2W edge slice repeated", "", "nearest T1W slice 4.0 mm away"]
    assert cohort.slices[0][4] == cohort.slices[0][5]
    assert cohort.slices[2][0] == cohort.slices[2][1]


def test_box_is_made_square_about_its_centre(tmp_path: Path) -> None:
    t2, t1 = study(1)
    t2 = replace(t2, spacing=(2.0, 1.0))
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, (10, 20, 20, 28))])  # 10 by 16 mm
    lesion = cohort.lesions.iloc[0]
    assert lesion[["x_min", "y_min", "x_max", "y_max"]].tolist() == [7, 20, 23, 28]
    assert lesion["box_side_mm"] == 16
    assert lesion["note"] == "box made square"


def test_explicit_t1_series_settles_ambiguity(tmp_path: Path) -> None:
    t2, t1 = study(1)
    again = replace(t1, uid="1.2.3.1.5")
    row = annotation("A", 1, t2, 3, BOX)
    problem = exclusion(cohort_of(tmp_path / "open", [t2, t1, again], [row]))
    assert problem["reason"] == f"several sagittal T1W series: {t1.uid}, {again.uid}"
    settled = cohort_of(tmp_path / "settled", [t2, t1, again], [{**row, "t1_series_uid": again.uid}])
    assert settled.lesions["t1_series_uid"].tolist() == [again.uid]


def test_axial_and_foreign_t1_series_are_no_candidates(tmp_path: Path) -> None:
    t2, t1 = study(1)
    axial = replace(t1, uid="1.2.3.1.6", directions=np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    other = study(2)[1]
    cohort = cohort_of(tmp_path, [t2, t1, axial, other], [annotation("A", 1, t2, 3, BOX)])
    assert cohort.lesions["t1_series_uid"].tolist() == [t1.uid]


def axis_swapped(stack: Stack) -> Stack:
    return replace(stack, directions=np.array([[1.0, 0, 0], [0, 0, -1.0]]))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sop_instance_uid": "9.9"}, "no readable image"),
        ({"t1_series_uid": "9.9"}, "no sagittal T1W series of t1_series_uid"),
        ({"t2_series_uid": "9.9"}, "belongs to series 1.2.3.1.2"),
        ({"x_max": 10.0}, "empty or reversed"),
        ({"y_max": 3.0}, "empty or reversed"),
        ({"x_max": 41.0}, "outside the image of 40 columns and 48 rows"),
    ],
)
def test_row_at_fault_excludes_its_patient_only(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    (t2, t1), (other_t2, other_t1) = study(1), study(2)
    rows = [annotation("A", 1, t2, 3, BOX), {**annotation("A", 1, t2, 4, BOX), **change}]
    cohort = cohort_of(tmp_path, [t2, t1, other_t2, other_t1], [*rows, annotation("B", 0, other_t2, 2, BOX)])
    assert cohort.lesions["patient_id"].tolist() == ["B"]
    assert len(cohort.slices) == 1
    assert cohort.excluded["patient_id"].tolist() == ["A"]
    assert reason in cohort.excluded["reason"].iloc[0]


@pytest.mark.parametrize(
    ("t1_geometry", "reason"),
    [
        ({"frame_of_reference": "5.5"}, "do not share a frame of reference"),
        ({"tags": {"RepetitionTime": 3000.0, "EchoTime": 80.0}}, "no sagittal T1W series in the study"),
        ({"directions": np.array([[1.0, 0, 0], [0, 0, -1.0]])}, "no sagittal T1W series in the study"),
        ({"centre": (40.0, -20.0, 11.0)}, "25.0 mm from the nearest T1W slice"),
        ({"centre": (3.0, 60.0, 11.0)}, "outside the T1W image"),
    ],
)
def test_unfit_t1_series_excludes(tmp_path: Path, t1_geometry: dict[str, Any], reason: str) -> None:
    t2, t1 = study(1, **t1_geometry)
    problem = exclusion(cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX)]))
    assert reason in problem["reason"]


def test_missing_frame_of_reference_is_no_common_one(tmp_path: Path) -> None:
    t2, t1 = (replace(stack, frame_of_reference="") for stack in study(1))
    problem = exclusion(cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX)]))
    assert "do not share a frame of reference" in problem["reason"]


def test_annotated_slice_must_be_sagittal_and_not_t1(tmp_path: Path) -> None:
    t2, t1 = study(1)
    on_t1 = exclusion(cohort_of(tmp_path / "t1", [t2, t1], [annotation("A", 1, t1, 3, BOX)]))
    assert "is T1W" in on_t1["reason"]
    coronal = axis_swapped(t2)
    turned = exclusion(cohort_of(tmp_path / "cor", [coronal, t1], [annotation("A", 1, coronal, 3, BOX)]))
    assert "not sagittal" in turned["reason"]


def test_patient_with_two_labels_or_sites_is_excluded(tmp_path: Path) -> None:
    t2, t1 = study(1)
    rows = [annotation("A", 0, t2, 2, BOX), annotation("A", 1, t2, 3, BOX)]
    assert exclusion(cohort_of(tmp_path / "label", [t2, t1], rows))["item"] == "label"
    rows = [{**annotation("A", 0, t2, 2 + place, BOX), "site": site} for place, site in enumerate("XY")]
    assert exclusion(cohort_of(tmp_path / "site", [t2, t1], rows))["reason"] == "several values: X, Y"


def test_one_study_under_two_patients_is_a_leak_and_excludes_both(tmp_path: Path) -> None:
    t2, t1 = study(1)
    rows = [annotation("A", 0, t2, 2, BOX), annotation("B", 0, t2, 3, BOX)]
    cohort = cohort_of(tmp_path, [t2, t1], rows)
    assert cohort.lesions.empty
    assert cohort.excluded["patient_id"].tolist() == ["A", "B"]
    assert set(cohort.excluded["item"]) == {t2.study}
