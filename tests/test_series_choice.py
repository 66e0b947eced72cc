"""Which T1W series goes with a lesion: the named one, else the only plain sagittal one, never a guess."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets.cohort import build_cohort
from tests.cohorts import BOX, CORONAL, altered, cohort_of, exclusion, reading_of, table_of, uids, with_traits
from tests.mr_files import annotation, study, tilted

PLAIN, ENHANCED, SUPPRESSED = (), ("contrast-enhanced",), ("fat-suppressed",)


@pytest.mark.parametrize(
    ("traits", "chosen", "reason"),
    [
        ([PLAIN, ENHANCED], 0, ""),
        ([SUPPRESSED, PLAIN, ENHANCED], 1, ""),
        ([("localizer",), PLAIN], 1, ""),
        ([PLAIN, PLAIN, ENHANCED], None, "several sagittal T1W series: 1.7.0 (7 slices), 1.7.1 (7 slices)"),
        (
            [ENHANCED, ENHANCED + SUPPRESSED],
            None,
            "no plain sagittal T1W series in the study; 1.7.0 (contrast-enhanced, 7 slices), "
            "1.7.1 (contrast-enhanced, fat-suppressed, 7 slices)",
        ),
        ([("localizer",)], None, "no plain sagittal T1W series in the study"),
    ],
)
def test_the_only_plain_t1_series_is_taken(
    tmp_path: Path, traits: list[tuple[str, ...]], chosen: int | None, reason: str
) -> None:
    t2, t1 = study(1)
    stacks = [replace(t1, uid=f"1.7.{number}") for number in range(len(traits))]
    reading, row = reading_of(tmp_path, t2, *stacks), annotation("A", 1, t2, 3, BOX)
    for stack, its_traits in zip(stacks, traits, strict=True):
        reading = with_traits(reading, stack, *its_traits)
    cohort = build_cohort(reading, table_of(tmp_path, row))
    if chosen is None:
        problem = exclusion(cohort)
        assert (problem["item"], problem["reason"]) == (t2.study, reason)
        assert "t1_series_uid" in problem["remedy"]
    else:
        assert cohort.lesions["t1_series_uid"].tolist() == [stacks[chosen].uid]
    for stack in stacks:  # named, each can be used
        named = build_cohort(reading, table_of(tmp_path, {**row, "t1_series_uid": stack.uid}))
        assert named.lesions["t1_series_uid"].tolist() == [stack.uid]


@pytest.mark.parametrize("weighting", [None, "T2W"])
def test_t1_series_without_telling_headers_has_to_be_named(tmp_path: Path, weighting: Any) -> None:
    t2, t1 = study(1)
    unknown = altered(reading_of(tmp_path, t2, t1), t1, lambda header: replace(header, weighting=weighting))
    row = annotation("A", 1, t2, 3, BOX)
    problem = exclusion(build_cohort(unknown, table_of(tmp_path, row)))
    listed = f"; of unknown weighting: {t1.uid} (7 slices)" if weighting is None else ""
    assert problem["reason"] == f"no plain sagittal T1W series in the study{listed}"
    named = build_cohort(unknown, table_of(tmp_path, {**row, "t1_series_uid": t1.uid}))
    assert named.lesions["t1_series_uid"].tolist() == [t1.uid]


def test_named_t1_series_may_be_of_another_study(tmp_path: Path) -> None:
    (t2, t1), other = study(1), study(1, uid="1.2.3.8.1", study="1.2.3.8")[1]
    row = {**annotation("A", 1, t2, 3, BOX), "t1_series_uid": other.uid}
    assert cohort_of(tmp_path, [t2, t1, other], [row]).lesions["t1_series_uid"].tolist() == [other.uid]


@pytest.mark.parametrize("trait", ["fat-suppressed", "contrast-enhanced", "localizer", "T1W"])
def test_annotated_series_that_is_not_plain_has_to_be_named(tmp_path: Path, trait: Any) -> None:
    t2, t1 = study(1)
    reading, row = reading_of(tmp_path, t2, t1), annotation("A", 1, t2, 3, BOX)
    if trait == "T1W":
        reading = altered(reading, t2, lambda header: replace(header, weighting="T1W"))
    else:
        reading = with_traits(reading, t2, trait)
    problem = exclusion(build_cohort(reading, table_of(tmp_path, row)))
    assert problem["reason"] == f"the annotated slice is not of a plain T2W series but {trait}"
    assert f"write {t2.uid} in t2_series_uid" in problem["remedy"]
    named = build_cohort(reading, table_of(tmp_path, {**row, "t2_series_uid": t2.uid}))
    assert named.lesions[["t1_series_uid", "t2_series_uid"]].to_numpy().tolist() == [[t1.uid, t2.uid]]


def test_of_several_t1_series_the_one_in_the_t2_frame_of_reference_is_taken(tmp_path: Path) -> None:
    (t2, t1), moved = study(1), study(1, uid="1.7.1", frame_of_reference="5.5")[1]
    cohort = cohort_of(tmp_path, [t2, t1, moved], [annotation("A", 1, t2, 3, BOX)])
    assert cohort.lesions["t1_series_uid"].tolist() == [t1.uid]
    again = replace(moved, uid="1.7.2")
    problem = exclusion(cohort_of(tmp_path / "both", [t2, moved, again], [annotation("A", 1, t2, 3, BOX)]))
    assert problem["reason"] == "several sagittal T1W series: 1.7.1 (7 slices), 1.7.2 (7 slices)"


LUMBAR = {"centre": (3.0, -20.0, -80.0), "directions": tilted((3, 0, 0))}


def test_of_several_t1_series_the_one_that_covers_the_lesion_is_taken(tmp_path: Path) -> None:
    (t2, t1), lumbar = study(1), study(1, uid="1.7.1", **LUMBAR)[1]
    lumbar_t2 = replace(lumbar, uid="1.7.2", tags=t2.tags)
    rows = [annotation("A", 1, t2, 3, BOX), annotation("A", 1, lumbar_t2, 3, BOX)]
    cohort = cohort_of(tmp_path, [t2, t1, lumbar, lumbar_t2], rows)
    assert cohort.lesions["t1_series_uid"].tolist() == [t1.uid, lumbar.uid]


@pytest.mark.parametrize("named", ["", "1.2.3.1.1"])
def test_of_several_stacks_of_a_series_the_one_that_covers_the_lesion_is_taken(tmp_path: Path, named: str) -> None:
    (t2, t1), lumbar = study(1), study(1, uid="1.7.1", **LUMBAR)[1]
    row = {**annotation("A", 1, t2, 3, BOX), "t1_series_uid": named}
    reading = reading_of(tmp_path, t2, t1, lumbar)
    stacks = altered(reading, lumbar, lambda header: replace(header, series_instance_uid=t1.uid))
    assert set(uids(build_cohort(stacks, table_of(tmp_path, row)))[:3]) == {t1.sop(index) for index in (2, 3, 4)}
    echo = replace(t1, uid="1.7.9")
    echoes = altered(
        reading_of(tmp_path / "echoes", t2, t1, echo), echo, lambda header: replace(header, series_instance_uid=t1.uid)
    )
    problem = exclusion(build_cohort(echoes, table_of(tmp_path, row)))
    assert problem["reason"] == f"several sagittal T1W series: {t1.uid} (7 slices), {t1.uid} (7 slices)"
    assert "stacks" in problem["remedy"]


def test_the_t2_series_is_not_its_own_t1_series(tmp_path: Path) -> None:
    t2, t1 = study(1)
    row = {**annotation("A", 1, t2, 3, BOX), "t1_series_uid": t2.uid}
    assert "no sagittal series beside the T2W one" in exclusion(cohort_of(tmp_path, [t2, t1], [row]))["reason"]


def test_a_named_t1_series_must_be_sagittal(tmp_path: Path) -> None:
    t2, t1 = study(1, directions=CORONAL)
    row = {**annotation("A", 1, t2, 3, BOX), "t1_series_uid": t1.uid}
    assert "no sagittal series beside the T2W one" in exclusion(cohort_of(tmp_path, [t2, t1], [row]))["reason"]


def test_axial_and_foreign_t1_series_are_no_candidates(tmp_path: Path) -> None:
    t2, t1 = study(1)
    axial = replace(t1, uid="1.2.3.1.6", directions=np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    other = study(2)[1]
    cohort = cohort_of(tmp_path, [t2, t1, axial, other], [annotation("A", 1, t2, 3, BOX)])
    assert cohort.lesions["t1_series_uid"].tolist() == [t1.uid]
