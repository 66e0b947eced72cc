"""Leakage: no content stands under two patients after it is resolved, and the message names what stood."""

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from datasets.leakage import LeakageError, SharedContent, contradictions, resolve

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
