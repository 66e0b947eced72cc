"""Regions of patient A beside a box of patient B, and what became of them."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import SimpleITK as sitk  # noqa: N813

from datasets.annotations import BOX, read_annotations
from datasets.dicom import Series
from datasets.regions import draw_boxes
from tests.mr_files import Stack, series_in, study, tilted, write_stack

SECRET = "Mustermann^Erika"
T2 = study(1)[0]
STACKS = [
    T2,
    replace(T2, directions=tilted((12, -15, 9)), spacing=(0.7, 1.1), rows=90, columns=70, slices=9, thickness=3.3),
    replace(T2, directions=tilted((0, 0, 180)), spacing=(1.5, 1.5)),
]


def series_of(folder: Path, *stacks: Stack) -> list[Series]:
    for stack in stacks:
        write_stack(folder / "images" / stack.uid, stack)
    return series_in(folder / "images")


def annotations(folder: Path, name: str, stack: Stack | None = T2, **values: Any) -> pd.DataFrame:
    """What is read from a table with a region of patient A, and a box of patient B."""
    region = {"patient_id": "A", "label": 1, "region": name, "t2_series_uid": stack.uid if stack else "", **values}
    box = {"patient_id": "B", "label": 0, "sop_instance_uid": "1.2", "x_min": 1, "y_min": 2, "x_max": 3, "y_max": 4}
    pd.DataFrame([region, box]).to_csv(folder / "annotations.csv", index=False)
    return read_annotations(folder / "annotations.csv")


def draw_quietly(table: pd.DataFrame, series: list[Series]) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The drawn table; neither it, the exclusions nor a warning tells a name."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        drawn, excluded = draw_boxes(table, series)
    assert SECRET not in " ".join([drawn.to_csv(), str(excluded), *(str(warning.message) for warning in told)])
    return drawn, excluded


def boxes(table: pd.DataFrame, series: list[Series]) -> dict[str, list[float]]:
    """The boxes of patient A by SOPInstanceUID."""
    drawn, excluded = draw_quietly(table, series)
    assert excluded == []
    assert set(drawn["region"]) == set(drawn["segment"]) == {""}
    assert drawn["patient_id"].tolist().count("B") == 1
    rows = drawn[drawn["patient_id"] == "A"]
    assert rows["sop_instance_uid"].is_unique
    return dict(zip(rows["sop_instance_uid"], rows[BOX].to_numpy().tolist(), strict=True))


def reason(table: pd.DataFrame, series: list[Series]) -> str:
    """Why patient A is left out; patient B stays."""
    drawn, excluded = draw_quietly(table, series)
    assert drawn["patient_id"].tolist() == ["B"]
    (problem,) = excluded
    assert (problem["patient_id"], problem["item"]) == ("A", "region 1")
    assert problem["remedy"]
    return problem["reason"]


def voxels_of(stack: Stack) -> Any:
    """The stack as a SimpleITK volume."""
    image = sitk.Image(stack.columns, stack.rows, stack.slices, sitk.sitkUInt8)
    image.SetDirection(np.column_stack([*stack.directions, np.cross(*stack.directions)]).ravel().tolist())
    image.SetOrigin(stack.position(0).tolist())
    image.SetSpacing((stack.spacing[1], stack.spacing[0], stack.thickness))
    return image
