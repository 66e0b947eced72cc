"""3D Slicer's ROI markups to boxes, against SimpleITK."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from datasets.regions import draw_boxes
from tests.mr_files import Stack
from tests.regions import SECRET, STACKS, T2, annotations, boxes, reason, series_of, voxels_of


def roi(centre: Any, size: Any, axes: NDArray[np.float64], system: str = "LPS", /, **values: Any) -> dict[str, Any]:
    """Markups as 3D Slicer writes them, of a box given in LPS coordinates."""
    flip = np.diag([1, 1, 1]) if system == "LPS" else np.diag([-1, -1, 1])
    markup = {
        "type": "ROI",
        "name": SECRET,
        "coordinateSystem": system,
        "coordinateUnits": "mm",
        "roiType": "Box",
        "center": (flip @ centre).tolist(),
        "orientation": (flip @ axes).ravel().tolist(),
        "size": list(size),
        "controlPoints": [{"label": SECRET, "position": (flip @ centre).tolist()}],
    } | values
    return {"markups": [{key: value for key, value in markup.items() if value is not None}]}


def write_roi(folder: Path, content: Any, name: str = "roi.mrk.json") -> str:
    (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    return name


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("system", ["LPS", "RAS"])
@pytest.mark.parametrize("degrees", [(0, 0, 0), (20, -35, 50)])
def test_box_is_where_the_roi_cuts_the_slice(
    tmp_path: Path, stack: Stack, system: str, degrees: tuple[float, float, float]
) -> None:
    """Points sown over each slice: those that SimpleITK puts inside the ROI fill the box up to their distance."""
    axes, size = Rotation.from_euler("xyz", degrees, degrees=True).as_matrix(), np.array([14.0, 19.0, 11.0])
    centre = np.add(stack.centre, (1.3, -4.0, 2.2))
    series, image = series_of(tmp_path, stack), voxels_of(stack)
    found = boxes(annotations(tmp_path, write_roi(tmp_path, roi(centre, size, axes, system)), stack), series)
    step, expected = 0.1, {}
    low, high = np.min(list(found.values()), axis=0)[:2] - 3, np.max(list(found.values()), axis=0)[2:] + 3
    x, y = np.meshgrid(np.arange(low[0], high[0], step), np.arange(low[1], high[1], step))
    for index in range(stack.slices):
        origin, right, down = (
            np.array(image.TransformContinuousIndexToPhysicalPoint((*point, index)))
            for point in ((0, 0), (1, 0), (0, 1))
        )
        points = origin + x[..., None] * (right - origin) + y[..., None] * (down - origin)
        inside = (np.abs((points - centre) @ axes) <= size / 2).all(axis=-1)
        if inside.any():
            expected[stack.sop(index)] = [x[inside].min(), y[inside].min(), x[inside].max(), y[inside].max()]
    assert len(expected) > 1
    assert set(expected) <= set(found)
    for uid, box in found.items():
        if uid in expected:
            np.testing.assert_allclose(box, expected[uid], atol=2.5 * step)
        else:  # too small a corner for the points
            assert min(box[2] - box[0], box[3] - box[1]) < 2.5 * step


@pytest.mark.parametrize("thickness", [8.0, 7.99])
def test_upright_roi_gives_its_own_edges_in_pixels(tmp_path: Path, thickness: float) -> None:
    centre = T2.points(3)[20, 15]
    name = write_roi(
        tmp_path, roi(centre, (thickness, 12.0, 20.0), np.eye(3), coordinateUnits=["mm", "UCUM", "millimeter"])
    )
    found = boxes(annotations(tmp_path, name), series_of(tmp_path, T2))
    assert found == {T2.sop(index): [12, 15, 18, 25] for index in (2, 3, 4)}  # 2 mm pixels; its faces lie on slices


@pytest.mark.parametrize("away", [-1.9, 1.9])
def test_roi_between_slices_goes_to_the_nearest(tmp_path: Path, away: float) -> None:
    centre = T2.points(3)[20, 15] + (away, 0, 0)
    table = annotations(tmp_path, write_roi(tmp_path, roi(centre, (1.0, 12.0, 20.0), np.eye(3))))
    assert boxes(table, series_of(tmp_path, T2)) == {T2.sop(3): [12, 15, 18, 25]}


def test_roi_beside_the_stack_is_excluded(tmp_path: Path) -> None:
    centre = T2.points(0)[20, 15] - 2.2 * np.cross(*T2.directions)
    table = annotations(tmp_path, write_roi(tmp_path, roi(centre, (1.0, 12.0, 20.0), np.eye(3))))
    assert "on no slice" in reason(table, series_of(tmp_path, T2))


GOOD = ((3.0, -20.0, 11.0), (8.0, 12.0, 20.0), np.eye(3))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("not JSON", "cannot be read (JSONDecodeError)"),
        ("[" * 100_000, "cannot be read (RecursionError)"),
        ({"markups": []}, "cannot be read (ValueError)"),
        ({"markups": roi(*GOOD)["markups"] * 2}, "not a single box in mm"),
        (roi(*GOOD, type="Fiducial"), "not a single box in mm"),
        (roi(*GOOD, roiType="BoundingBox"), "not a single box in mm"),
        (roi(*GOOD, coordinateUnits="um"), "not a single box in mm"),
        (roi(*GOOD, coordinateSystem=SECRET), "cannot be read (KeyError)"),
        (roi(*GOOD, center=None), "cannot be read (KeyError)"),
        (roi(*GOOD, size=[8.0, 0.0, 20.0]), "not a box's"),
        (roi(*GOOD, size=[8.0, float("nan"), 20.0]), "not a box's"),
        (roi(*GOOD, center=[float("nan"), 0.0, 0.0]), "not a box's"),
        (roi(*GOOD, orientation=[1.0, 0, 0, 0, 2.0, 0, 0, 0, 1.0]), "not a box's"),
        (roi(*GOOD, orientation=[1.0, 0, 0]), "cannot be read (ValueError)"),
    ],
)
def test_bad_markups_exclude_their_patient(tmp_path: Path, content: Any, expected: str) -> None:
    table = annotations(tmp_path, write_roi(tmp_path, content))
    assert expected in reason(table, series_of(tmp_path, T2))


def test_unknown_and_transverse_series_are_excluded(tmp_path: Path) -> None:
    axial = replace(T2, uid="1.2.3.1.7", directions=np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    series = series_of(tmp_path, T2, axial)
    for stack in (replace(T2, uid="9.9"), axial):
        assert "no readable sagittal series" in reason(
            annotations(tmp_path, write_roi(tmp_path, roi(*GOOD)), stack), series
        )


def test_other_rows_stay_in_order_and_regions_are_counted(tmp_path: Path) -> None:
    table = annotations(tmp_path, write_roi(tmp_path, roi(*GOOD)))
    bad = table[:1].assign(region=str(tmp_path / write_roi(tmp_path, "not JSON", "Mustermann.mrk.json")))
    drawn, excluded = draw_boxes(pd.concat([table, bad, table[1:]], ignore_index=True), series_of(tmp_path, T2))
    assert [problem["item"] for problem in excluded] == ["region 2"]
    boxes_of_b = drawn[drawn["patient_id"] == "B"]
    assert list(boxes_of_b.index) == [len(drawn) - 2, len(drawn) - 1]
    for row in (0, 1):
        pd.testing.assert_series_equal(boxes_of_b.iloc[row], table.iloc[1], check_names=False)
