"""Leakage: no content stands under two patients after it is resolved, and the message names what stood."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.cohort import build_cohort
from datasets.dicom import Reading
from datasets.leakage import LeakageError, SharedContent, contradictions, resolve
from tests.cohorts import BOX, altered, cohort_of, exclusion, reading_of, table_of
from tests.mr_files import Stack, annotation, study

PATIENTS = [f"P{number:02d}" for number in range(30)]


def table(patients: list[str], label: int = 0) -> pd.DataFrame:
    """A lesion slice for each name, each on its own slice."""
    sops = [f"1.2.{place}" for place in range(len(patients))]
    return pd.DataFrame({"patient_id": patients, "label": label, "site": "", "sop_instance_uid": sops})


def cases(seed: int) -> list[SharedContent]:
    random = np.random.default_rng(seed)
    groups = [random.choice(PATIENTS, random.integers(2, 4), replace=False) for _ in range(random.integers(1, 18))]
    return [SharedContent(f"1.9.{place}", "study", tuple(map(str, group))) for place, group in enumerate(groups)]


@pytest.mark.parametrize("seed", range(5))
def test_merging_joins_exactly_the_connected_patients(seed: int) -> None:
    random, shared = np.random.default_rng(seed), cases(seed)
    names = [*random.permutation(PATIENTS), *random.permutation(PATIENTS)]
    merged, excluded = resolve(table(names), shared, "merge")
    edges = np.array(
        [(PATIENTS.index(case.patients[0]), PATIENTS.index(one)) for case in shared for one in case.patients]
    )
    graph = coo_array((np.ones(len(edges)), edges.T), shape=(len(PATIENTS), len(PATIENTS)))
    component = connected_components(graph, directed=False)[1]
    first: dict[int, str] = {}
    for name in names:
        first.setdefault(component[PATIENTS.index(name)], name)
    assert merged["patient_id"].tolist() == [first[component[PATIENTS.index(name)]] for name in names]
    assert excluded == []


@pytest.mark.parametrize("seed", range(5))
def test_excluding_leaves_the_rows_of_those_who_share_nothing(seed: int) -> None:
    annotations, shared = table(PATIENTS * 2), cases(seed)
    left, excluded = resolve(annotations, shared, "exclude")
    involved = {patient for case in shared for patient in case.patients}
    assert {row["patient_id"] for row in excluded} == involved
    pd.testing.assert_frame_equal(left, annotations[[name not in involved for name in annotations["patient_id"]]])
    assert all(row["remedy"] and "the same study under several patient_id" in row["reason"] for row in excluded)


@pytest.mark.parametrize("policy", ["stop", "merge", "exclude"])
def test_nothing_shared_changes_nothing(policy: str) -> None:
    annotations = table(PATIENTS)
    left, excluded = resolve(annotations, [], policy)  # type: ignore[arg-type]
    pd.testing.assert_frame_equal(left, annotations)
    assert excluded == []


def test_merged_patients_that_disagree_are_excluded_and_the_others_stay() -> None:
    annotations = table(["A", "B", "C", "D", "E"]).assign(label=[0, 1, 0, 0, 1], site=["X", "X", "X", "Y", "X"])
    shared = [SharedContent("1.1", "pixels", ("A", "B")), SharedContent("1.2", "pixels", ("C", "D"))]
    left, excluded = resolve(annotations, shared, "merge")
    assert left["patient_id"].tolist() == ["E"]
    assert left.index.tolist() == [4]
    named = [(row["patient_id"], row["item"], row["reason"]) for row in excluded]
    assert named == [("A", "label", "several values: '0', '1'"), ("C", "site", "several values: 'X', 'Y'")]


def test_two_boxes_on_a_slice_contradict_but_a_repeated_row_does_not() -> None:
    rows = table(["A", "B"]).assign(x_min=[1.0, 1.0])
    assert contradictions(pd.concat([rows, rows])) == []
    (problem,) = contradictions(pd.concat([rows, rows.iloc[1:].assign(x_min=2.0)]))
    assert (problem["patient_id"], problem["item"], problem["reason"]) == ("B", "1.2.1", "several boxes on one slice")


def test_the_message_lists_the_cases_the_rest_and_the_remedy() -> None:
    shared = [SharedContent(f"1.5.{place}", "study", ("A", "B")) for place in range(13)]
    with pytest.raises(LeakageError) as caught:
        resolve(table(["A", "B"]), shared, "stop")
    first, *listed = str(caught.value).splitlines()
    assert "data.leakage=merge" in first
    assert "data.leakage=exclude" in first
    assert listed[:10] == [f"'1.5.{place}': the same study under several patient_id: 'A', 'B'" for place in range(10)]
    assert listed[10:] == ["and 3 more"]


def test_the_message_is_short_and_of_one_line_a_case_whatever_the_identifiers() -> None:
    hostile = ["=cmd()\n\x1b[2J<script>", "x" * 200, *PATIENTS]
    longest_uid = "1." + "2" * 62
    with pytest.raises(LeakageError) as caught:
        resolve(table(hostile), [SharedContent(longest_uid, "study", tuple(hostile))], "stop")
    _, case = str(caught.value).splitlines()
    assert case.startswith(f"'{longest_uid}': ")
    assert "x" * 58 in case
    assert "x" * 60 not in case
    assert case.endswith("'P07', and 22 more")
    assert case.isprintable()


def two_patients(folder: Path, label: int = 0) -> tuple[Reading, list[dict[str, Any]], Stack]:
    """One study annotated under A and B."""
    t2, t1 = study(1)
    return reading_of(folder, t2, t1), [annotation("A", 0, t2, 2, BOX), annotation("B", label, t2, 3, BOX)], t2


def test_one_study_under_two_patients_stops(tmp_path: Path) -> None:
    reading, rows, t2 = two_patients(tmp_path)
    with pytest.raises(LeakageError, match=f"'{t2.study}': the same study under several patient_id: 'A', 'B'"):
        build_cohort(reading, table_of(tmp_path, *rows))


def test_one_study_under_two_patients_excludes_both_if_told(tmp_path: Path) -> None:
    reading, rows, t2 = two_patients(tmp_path)
    cohort = build_cohort(reading, table_of(tmp_path, *rows), leakage="exclude")
    assert cohort.lesions.empty
    assert cohort.excluded[["patient_id", "item"]].to_numpy().tolist() == [["A", t2.study], ["B", t2.study]]


def test_one_study_under_two_patients_makes_one_patient_if_told(tmp_path: Path) -> None:
    reading, rows, t2 = two_patients(tmp_path)
    again = {**rows[0], "patient_id": "B"}  # the same box drawn under both identifiers
    cohort = build_cohort(reading, table_of(tmp_path, *rows, again), leakage="merge")
    assert cohort.lesions["patient_id"].tolist() == ["A", "A"]
    assert cohort.lesions["sop_instance_uid"].tolist() == [t2.sop(2), t2.sop(3)]
    assert cohort.excluded.empty


def test_merged_patients_with_two_labels_are_excluded(tmp_path: Path) -> None:
    reading, rows, _ = two_patients(tmp_path, label=1)
    problem = exclusion(build_cohort(reading, table_of(tmp_path, *rows), leakage="merge"))
    assert (problem["patient_id"], problem["item"], problem["reason"]) == ("A", "label", "several values: '0', '1'")


def test_earlier_exclusions_hold_for_the_patient_and_for_whom_it_is_merged_into(tmp_path: Path) -> None:
    reading, rows, t2 = two_patients(tmp_path)
    earlier = {"patient_id": "B", "item": "roi.mrk.json", "reason": "no box", "remedy": "redraw"}
    alone = build_cohort(reading, table_of(tmp_path, annotation("B", 0, t2, 3, BOX)), [earlier])
    assert exclusion(alone) == earlier
    merged = build_cohort(reading, table_of(tmp_path, *rows), [earlier], leakage="merge")
    assert exclusion(merged) == {**earlier, "patient_id": "A"}


def test_named_t1_series_of_another_patients_study_leaks(tmp_path: Path) -> None:
    (t2, t1), (other_t2, other_t1) = study(1), study(2)
    rows = [{**annotation("A", 0, t2, 2, BOX), "t1_series_uid": other_t1.uid}, annotation("B", 0, other_t2, 3, BOX)]
    with pytest.raises(LeakageError, match=f"'{other_t2.study}': the same study under several patient_id: 'A', 'B'"):
        cohort_of(tmp_path, [t2, t1, other_t2, other_t1], rows)


def test_one_series_in_two_studies_leaks(tmp_path: Path) -> None:
    (t2, t1), (other_t2, other_t1) = study(1), study(2)
    rows = [annotation("A", 0, t2, 2, BOX), annotation("B", 0, other_t2, 3, BOX)]
    reading = reading_of(tmp_path, t2, t1, other_t2, other_t1)
    shared = altered(reading, other_t2, lambda header: replace(header, series_instance_uid=t2.uid))
    with pytest.raises(LeakageError, match=f"'{t2.uid}': the same series under several patient_id: 'A', 'B'"):
        build_cohort(shared, table_of(tmp_path, *rows))
