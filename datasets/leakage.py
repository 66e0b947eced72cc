"""Leakage sentinel: one person under two identifiers would stand in the training and the held-out fold at once."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from datasets.annotations import CohortError, quoted
from datasets.ingest_rules import Leakage

MOST_SHOWN = 10  # cases, and identifiers of a case, that a message names

log = logging.getLogger(__name__)


class LeakageError(CohortError):
    """The same content stands under several patient_id."""


@dataclass(frozen=True)
class SharedContent:
    """What (kind: study, series, pixels) stands under several patients, and its UID."""

    item: str
    kind: str
    patients: tuple[str, ...]


def resolve(
    annotations: pd.DataFrame, shared: Sequence[SharedContent], policy: Leakage
) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The rows (patient_id, label, site and others) that may be used, with their index, and the exclusions.

    Merged patients carry the identifier that comes first in the table, also where only a chain of shared contents
    joins them; patients with contradictory rows are then excluded.

    Raises:
        LeakageError: something is shared and the policy is to stop.
    """
    if shared and policy == "stop":
        raise LeakageError(_message(shared))
    if policy == "merge":
        annotations = _merged(annotations, shared)
        excluded = contradictions(annotations)
    else:
        remedy = "give all rows of a person the same patient_id, or write data.leakage=merge"
        excluded = [
            {"patient_id": patient, "item": case.item, "reason": _described(case), "remedy": remedy}
            for case in shared
            for patient in case.patients
        ]
    return annotations[~annotations["patient_id"].isin([row["patient_id"] for row in excluded])], excluded


def contradictions(table: pd.DataFrame) -> list[dict[str, str]]:
    """Exclusions: a patient has one label and one site, and one box on a slice. Equal rows count once."""
    table, excluded = table.drop_duplicates(), []
    for column in ("label", "site"):
        values_of = table.groupby("patient_id", sort=False)[column].unique()
        for patient, values in values_of[values_of.map(len) > 1].items():
            reason = f"several values: {_some([quoted(str(value)) for value in values], ', ')}"
            remedy = "correct the annotations so that all rows of the patient agree"
            excluded.append({"patient_id": patient, "item": column, "reason": reason, "remedy": remedy})
    keys = ["patient_id", "sop_instance_uid"]
    reason, remedy = "several boxes on one slice", "keep one row for each slice"
    return excluded + [
        {"patient_id": patient, "item": uid, "reason": reason, "remedy": remedy}
        for patient, uid in table.loc[table.duplicated(keys), keys].drop_duplicates().itertuples(index=False)
    ]


def _merged(table: pd.DataFrame, shared: Sequence[SharedContent]) -> pd.DataFrame:
    groups: dict[str, set[str]] = {}
    for case in shared:
        joined = set(case.patients).union(*(groups.get(patient, ()) for patient in case.patients))
        groups |= dict.fromkeys(joined, joined)
    first = {other: patient for patient in [*table["patient_id"].unique()][::-1] for other in groups.get(patient, ())}
    log.info("%d patient_id are merged into %d patients", len(first), len(set(first.values())))
    return table.assign(patient_id=[first.get(patient, patient) for patient in table["patient_id"]])


def _message(shared: Sequence[SharedContent]) -> str:
    remedy = "correct annotations.csv, or write data.leakage=merge (one patient) or data.leakage=exclude (all left out)"
    cases = _some([f"{quoted(case.item, 70)}: {_described(case)}" for case in shared], "\n")
    return f"one person seems to stand under several patient_id; {remedy}:\n{cases}"


def _described(case: SharedContent) -> str:
    patients = _some([quoted(patient) for patient in case.patients], ", ")
    return f"the same {case.kind} under several patient_id: {patients}"


def _some(texts: list[str], separator: str) -> str:
    left = len(texts) - MOST_SHOWN
    return separator.join([*texts[:MOST_SHOWN], *([f"and {left} more"] if left > 0 else [])])
