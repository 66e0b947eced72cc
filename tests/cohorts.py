"""Cohorts of small written series, and readings changed after the fact."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from datasets.annotations import read_annotations
from datasets.cohort import Cohort, build_cohort
from datasets.dicom import Reading, Series, SliceHeader
from tests.mr_files import Stack, read_folder, write_stack

BOX = (10.0, 12.0, 20.0, 22.0)
CENTRE = (17, 15)  # row and column of the box's centre
CORONAL = np.array([[1.0, 0, 0], [0, 0, -1.0]])


def reading_of(folder: Path, *stacks: Stack) -> Reading:
    for stack in stacks:
        write_stack(folder / stack.uid, stack)
    return read_folder(folder)


def table_of(folder: Path, *rows: dict[str, Any]) -> pd.DataFrame:
    pd.DataFrame(list(rows)).to_csv(folder / "annotations.csv", index=False)
    return read_annotations(folder / "annotations.csv")


def cohort_of(folder: Path, stacks: list[Stack], rows: list[dict[str, Any]], **options: Any) -> Cohort:
    return build_cohort(reading_of(folder, *stacks), table_of(folder, *rows), **options)


def altered(reading: Reading, stack: Stack, change: Callable[[SliceHeader], SliceHeader | None]) -> Reading:
    """The reading with the headers of one series changed, or left out where the change gives None."""

    def apply(one: Series) -> Series:
        return Series(tuple(new for header in one.slices if (new := change(header)))) if one.uid == stack.uid else one

    return replace(reading, series=tuple(map(apply, reading.series)))


def with_traits(reading: Reading, stack: Stack, *traits: Any) -> Reading:
    return altered(reading, stack, lambda header: replace(header, traits=frozenset(traits)))


def without_slice(reading: Reading, stack: Stack, index: int) -> Reading:
    return altered(reading, stack, lambda header: None if header.sop_instance_uid == stack.sop(index) else header)


def uids(cohort: Cohort, row: int = 0) -> list[str]:
    return [header.sop_instance_uid for header in cohort.slices[row]]


def exclusion(cohort: Cohort) -> dict[str, str]:
    """The only exclusion of a cohort without lesions."""
    assert cohort.lesions.empty
    assert cohort.slices == ()
    (row,) = cohort.excluded.to_dict("records")
    assert row["remedy"]
    return {str(key): value for key, value in row.items()}
