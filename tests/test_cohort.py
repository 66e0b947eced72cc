"""Annotations and series to cohort: the right slices, and a reason for every patient left out."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from datasets.cohort import LESION_COLUMNS, ExclusionError, build_cohort
from datasets.dicom import Series, SliceHeader
from tests.cohorts import BOX, CENTRE, CORONAL, altered, cohort_of, exclusion, reading_of, table_of, uids, without_slice
from tests.mr_files import annotation, study, tilted


def test_lesion_gets_its_slices_and_their_neighbours(tmp_path: Path) -> None:
    t2, t1 = study(1)
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX), annotation("A", 1, t2, 4, BOX)])
    assert list(cohort.lesions) == LESION_COLUMNS
    assert cohort.excluded.empty
    ascending = [stack.sop(index) for stack in (t1, t2) for index in (4, 3, 2)]  # the normal points right
    assert uids(cohort) == ascending
    assert uids(cohort, 1) == [stack.sop(index) for stack in (t1, t2) for index in (5, 4, 3)]
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


@pytest.mark.parametrize("seed", range(6))
def test_t1_slices_are_nearest_to_the_box_whatever_the_geometry(tmp_path: Path, seed: int) -> None:
    """Against a search through all T1W voxels: other tilt, matrix, spacing, field of view, slices and stored order."""
    random = np.random.default_rng(seed)
    turn = random.uniform(-20, 20, (2, 3)) + np.array([[0, 0, 180 * (seed % 2)], [0, 0, 180 * (seed // 2 % 2)]])
    t2, t1 = study(
        1,
        rows=int(random.integers(50, 70)),
        columns=int(random.integers(50, 70)),
        spacing=tuple(random.uniform(1.5, 2.5, 2)),
        slices=19,
        thickness=random.uniform(1.5, 5.5),
        directions=tilted(tuple(turn[1])),
        centre=tuple(np.array([3.0, -20.0, 11.0]) + random.uniform(-3, 3, 3)),
    )
    t2 = replace(t2, directions=tilted(tuple(turn[0])))
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX)])
    voxels = np.stack([t1.points(index) for index in range(t1.slices)])
    for t1_uid, t2_uid in zip(uids(cohort)[:3], uids(cohort)[3:], strict=True):
        centre = t2.points(int(t2_uid.rpartition(".")[2]) - 1)[CENTRE]
        away = np.linalg.norm(voxels - centre, axis=-1).min(axis=(1, 2))
        assert t1_uid == t1.sop(int(away.argmin()))


def test_edge_slices_are_repeated_and_noted(tmp_path: Path) -> None:
    t2, t1 = study(1, slices=6, centre=(5.0, -20.0, 11.0))  # T1W covers x = -5 to 15, T2W -9 to 15 mm
    rows = [annotation("A", 1, t2, 0, BOX), annotation("A", 1, t2, 3, BOX), annotation("A", 1, t2, 5, BOX)]
    cohort = cohort_of(tmp_path, [t2, t1], rows)
    assert cohort.lesions["note"].tolist() == ["T2W edge slice repeated", "", "nearest T1W slice 4.0 mm away"]
    assert cohort.slices[0][4] == cohort.slices[0][5]
    assert cohort.slices[2][0] == cohort.slices[2][1]


@pytest.mark.parametrize(("beyond", "note"), [(3.0, "nearest T1W slice 7.0 mm away"), (4.5, "")])
def test_the_lesion_may_lie_one_slice_distance_beyond_the_t1_stack(tmp_path: Path, beyond: float, note: str) -> None:
    t2, t1 = study(1, thickness=2.0, slices=5, centre=(3.0 - 4.0 - beyond, -20.0, 11.0))  # T2W slices 4 mm apart
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, BOX)])
    assert cohort.lesions["note"].tolist() == ([note] if note else [])
    assert cohort.excluded["reason"].tolist() == (
        [] if note else ["the lesion slice lies 4.5 mm from the nearest T1W slice"]
    )


def test_a_missing_t2_neighbour_is_repeated_and_noted(tmp_path: Path) -> None:
    t2, t1 = study(1)
    reading, table = reading_of(tmp_path, t2, t1), table_of(tmp_path, annotation("A", 1, t2, 3, BOX))
    whole, holed = (build_cohort(one, table) for one in (reading, without_slice(reading, t2, 4)))
    assert holed.lesions["note"].tolist() == ["T2W slice repeated at a gap"]
    _, t1_same, t1_next, _, t2_same, t2_next = uids(whole)
    assert uids(holed) == [t1_same, t1_same, t1_next, t2_same, t2_same, t2_next]
    elsewhere = build_cohort(without_slice(reading, t2, 1), table)
    pd.testing.assert_frame_equal(elsewhere.lesions, whole.lesions)


def test_t1_slices_beyond_a_gap_do_not_stand_in(tmp_path: Path) -> None:
    t2, t1 = study(1, thickness=3.0, slices=11, centre=(2.5, -20.0, 11.0))  # slices at 2.5 + 3 i mm, T2W at 3 + 4 i mm
    reading, table = reading_of(tmp_path, t2, t1), table_of(tmp_path, annotation("A", 1, t2, 3, BOX))
    assert [header.position[0] for header in build_cohort(reading, table).slices[0][:3]] == [-0.5, 2.5, 5.5]
    holed = build_cohort(without_slice(reading, t1, 4), table)  # left of the lesion, at 5.5 mm
    assert [header.position[0] for header in holed.slices[0][:3]] == [-0.5, 2.5, 2.5]
    assert holed.lesions["note"].tolist() == ["nearest T1W slice 4.5 mm away"]


def test_usual_distance_is_not_the_gap_in_a_stack_of_three(tmp_path: Path) -> None:
    t2, t1 = study(1)
    reading, table = reading_of(tmp_path, replace(t2, slices=4), t1), table_of(tmp_path, annotation("A", 1, t2, 1, BOX))
    holed = build_cohort(without_slice(reading, t2, 2), table)
    assert holed.lesions["note"].tolist() == ["T2W slice repeated at a gap"]


@pytest.mark.parametrize("explicit", [False, True])
@pytest.mark.parametrize("repeated", [0, 1])
def test_repeated_positions_are_never_guessed_about(tmp_path: Path, repeated: int, explicit: bool) -> None:
    stacks = t2, t1 = study(1)
    row = annotation("A", 1, t2, 3, BOX)
    named = {"t1_series_uid": t1.uid, "t2_series_uid": t2.uid} if explicit else {}
    target = stacks[repeated]
    corner = tuple(target.position(5))
    twice = altered(
        reading_of(tmp_path, t2, t1),
        target,
        lambda header: replace(header, position=corner) if header.sop_instance_uid == target.sop(6) else header,
    )
    problem = exclusion(build_cohort(twice, table_of(tmp_path, {**row, **named})))
    assert (problem["item"], problem["reason"]) == (target.uid, "several images at one position")


def test_conflicting_images_exclude_where_they_are_used(tmp_path: Path) -> None:
    t2, t1 = study(1)
    reading, table = reading_of(tmp_path, t2, t1), table_of(tmp_path, annotation("A", 1, t2, 3, BOX))
    for stack in (t2, t1):
        for index in range(stack.slices):
            cohort = build_cohort(replace(reading, conflicting=frozenset({stack.sop(index)})), table)
            assert cohort.lesions.empty == (index in (2, 3, 4))
            if cohort.lesions.empty:
                problem = exclusion(cohort)
                assert (problem["item"], problem["reason"][:16]) == (stack.sop(index), "different images")
    dropped = replace(without_slice(reading, t2, 3), conflicting=frozenset({t2.sop(3)}))
    assert "different images" in exclusion(build_cohort(dropped, table))["reason"]


def test_box_is_made_square_about_its_centre(tmp_path: Path) -> None:
    t2, t1 = study(1)
    t2 = replace(t2, spacing=(2.0, 1.0))
    cohort = cohort_of(tmp_path, [t2, t1], [annotation("A", 1, t2, 3, (10, 20, 20, 28))])  # 10 by 16 mm
    lesion = cohort.lesions.iloc[0]
    assert lesion[["x_min", "y_min", "x_max", "y_max"]].tolist() == [7, 20, 23, 28]
    assert lesion["box_side_mm"] == 16
    assert lesion["note"] == "box made square"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"sop_instance_uid": "9.9"}, "no readable image"),
        ({"t1_series_uid": "9.9"}, "no sagittal series beside the T2W one"),
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
        ({"tags": {"RepetitionTime": 3000.0, "EchoTime": 80.0}}, "no plain sagittal T1W series in the study"),
        ({"directions": CORONAL}, "no plain sagittal T1W series in the study"),
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
    rows = [annotation("A", 1, t2, index, BOX) for index in (2, 3)]
    problem = exclusion(cohort_of(tmp_path, [t2, t1], rows))  # told once, not for each slice
    assert "do not share a frame of reference" in problem["reason"]
    assert "data.registration=rigid" in problem["remedy"]


def test_annotated_slice_must_be_sagittal_and_not_t1(tmp_path: Path) -> None:
    t2, t1 = study(1)
    on_t1 = exclusion(cohort_of(tmp_path / "t1", [t2, t1], [annotation("A", 1, t1, 3, BOX)]))
    assert on_t1["reason"].endswith("not of a plain T2W series but T1W")
    coronal = replace(t2, directions=CORONAL)
    turned = exclusion(cohort_of(tmp_path / "cor", [coronal, t1], [annotation("A", 1, coronal, 3, BOX)]))
    assert "not sagittal" in turned["reason"]


def shifted(t1: Series, t2: Series, millimetres: float = 0.0) -> Series:
    """The T1W series moved along x, in the frame of reference of the T2W series."""

    def move(header: SliceHeader) -> SliceHeader:
        x, *others = header.position
        return replace(header, position=(x + millimetres, *others), frame_of_reference_uid=t2.frame_of_reference_uid)

    return Series(tuple(map(move, t1.slices)))


@pytest.mark.parametrize("frame", ["1.2.3.1.9", "5.5", ""])
def test_the_registered_t1_series_is_used_whatever_its_frame(tmp_path: Path, frame: str) -> None:
    t2, t1 = study(1, frame_of_reference=frame, centre=(11.0, -20.0, 11.0))
    reading, table = reading_of(tmp_path, t2, t1), table_of(tmp_path, annotation("A", 1, t2, 3, BOX))
    cohort = build_cohort(reading, table, register=lambda pairs: [shifted(t1, t2, -8.0) for t1, t2 in pairs])
    assert cohort.excluded.empty
    assert [header.position[0] for header in cohort.slices[0]] == [-1.0, 3.0, 7.0] * 2


def test_a_registered_series_must_cover_the_lesion_and_a_failed_one_excludes(tmp_path: Path) -> None:
    t2, t1 = study(1, frame_of_reference="5.5")
    reading, table = reading_of(tmp_path, t2, t1), table_of(tmp_path, annotation("A", 1, t2, 3, BOX))
    away = exclusion(build_cohort(reading, table, register=lambda pairs: [shifted(*pair, 60.0) for pair in pairs]))
    assert away["reason"] == "the lesion slice lies 48.0 mm from the nearest T1W slice"
    failure = ExclusionError(t1.uid, "no overlap", "look at it")
    failed = exclusion(build_cohort(reading, table, register=lambda _: [failure]))
    assert (failed["item"], failed["reason"]) == (t1.uid, "no overlap")


def test_each_pair_of_series_is_registered_once(tmp_path: Path) -> None:
    (t2, t1), (other_t2, other_t1), (alone, _) = study(1), study(2, frame_of_reference="5.5"), study(3)
    second = replace(t1, uid="1.7.1")
    rows = [annotation("A", 1, t2, index, BOX) for index in (2, 3)]
    rows = [{**row, "t1_series_uid": uid} for row in rows for uid in (t1.uid, second.uid)][:3]
    rows += [annotation("B", 0, other_t2, 3, BOX), annotation("C", 0, alone, 3, BOX)]
    reading = reading_of(tmp_path, t2, t1, other_t2, other_t1, alone, second)
    asked: list[tuple[Series, Series]] = []

    def register(pairs: list[tuple[Series, Series]]) -> list[Series | ExclusionError]:
        asked.extend(pairs)
        return [shifted(*pair) for pair in pairs]

    build_cohort(reading, table_of(tmp_path, *rows), register=register)
    expected = [(t1.uid, t2.uid), (second.uid, t2.uid), (other_t1.uid, other_t2.uid)]
    assert sorted((t1.uid, t2.uid) for t1, t2 in asked) == sorted(expected)


def test_patient_with_two_labels_or_sites_is_excluded(tmp_path: Path) -> None:
    t2, t1 = study(1)
    rows = [annotation("A", 0, t2, 2, BOX), annotation("A", 1, t2, 3, BOX)]
    assert exclusion(cohort_of(tmp_path / "label", [t2, t1], rows))["item"] == "label"
    rows = [{**annotation("A", 0, t2, 2 + place, BOX), "site": site} for place, site in enumerate("XY")]
    assert exclusion(cohort_of(tmp_path / "site", [t2, t1], rows))["reason"] == "several values: 'X', 'Y'"
