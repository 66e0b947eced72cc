"""Regions of a lesion, 3D Slicer's ROI markups or DICOM SEG, to boxes on the slices that they cross.

Markups: github.com/Slicer/Slicer, Modules/Loadable/Markups/Resources/Schema (version 1.0.4). Segmentations: DICOM
PS3.3 A.51. Of what a person may have typed into either, such as names of segments, nothing leaves this file.
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from highdicom.seg import segread
from highdicom.spatial import ImageToReferenceTransformer
from numpy.typing import NDArray

from datasets.annotations import BOX, MARKUPS
from datasets.cohort import ExclusionError
from datasets.dicom import SAME_POSITION, Series, SliceHeader
from datasets.geometry import pixel_to_patient

Points = NDArray[np.float64]
"""(N, 3) in patient coordinates, mm."""
TO_LPS = {"LPS": np.eye(3), "RAS": np.diag([-1.0, -1.0, 1.0])}
DECIMALS = 3  # of a pixel; hides the rounding of positions in files
PARALLEL = 0.99  # cosine (8 degrees) between the normals of a segmentation's planes and of the slices


def draw_boxes(annotations: pd.DataFrame, series: Sequence[Series]) -> tuple[pd.DataFrame, list[dict[str, str]]]:
    """The annotations with every region replaced by boxes or, where that fails, by an exclusion of its patient.

    A box holds the region's outer edges on one slice of the sagittal series that t2_series_uid names or, if that is
    empty, to which the segmentation refers. An ROI that crosses no slice goes to the nearest one within half a slice
    distance, and so does each frame of a segmentation whose planes are not the slices'. Of fractional segmentations
    at least half counts. Exclusions count the patient's regions as items, since file names may tell who it is.
    """
    rows: list[dict[Any, Any]] = []
    excluded: list[dict[str, str]] = []
    regions: Counter[str] = Counter()
    for row in annotations.to_dict("records"):
        regions[row["patient_id"]] += bool(row["region"])
        try:
            boxes = _boxes(row, series) if row["region"] else {row["sop_instance_uid"]: {}}
            rows += [{**row, "sop_instance_uid": uid, **box, "region": "", "segment": ""} for uid, box in boxes.items()]
        except ExclusionError as problem:
            item = f"region {regions[row['patient_id']]}"
            excluded.append({"patient_id": row["patient_id"], **problem.row, "item": item})
    table = pd.DataFrame(rows, columns=annotations.columns)
    return table.astype(annotations.dtypes.to_dict()), excluded


def _boxes(row: dict[Any, Any], series: Sequence[Series]) -> dict[str, dict[str, float]]:
    """The corners of the box on each slice, by SOPInstanceUID."""
    read = _cuts_of_roi if row["region"].lower().endswith(MARKUPS) else _frames_of_segment
    found: dict[str, list[NDArray[np.float64]]] = {}
    try:
        for header, points in read(row, series):
            plane = pixel_to_patient(header)
            pixels = (points - plane[:, 2]) @ np.linalg.pinv(plane[:, :2]).T
            found.setdefault(header.sop_instance_uid, []).extend([pixels.min(axis=0), pixels.max(axis=0)])
    except ExclusionError:
        raise
    except Exception as error:  # damaged files provoke whatever
        reason = f"the region's file cannot be read ({type(error).__name__})"
        raise ExclusionError("", reason, "save it again as ROI markups (.mrk.json) or DICOM SEG") from error
    if not found:
        raise ExclusionError("", "the region lies on no slice of the series", "name its series in t2_series_uid")
    edges = {uid: np.ravel([np.min(some, axis=0), np.max(some, axis=0)]) for uid, some in found.items()}
    return {uid: dict(zip(BOX, box.round(DECIMALS).tolist(), strict=True)) for uid, box in edges.items()}


def _stack(uids: Iterable[str], series: Sequence[Series]) -> Series:
    stacks = [one for one in series if one.uid in set(uids) and one.is_sagittal]
    if len(stacks) != 1:
        reason = f"the region belongs to {'several' if stacks else 'no readable'} sagittal series"
        raise ExclusionError("", reason, "name its series in t2_series_uid and add that series' files")
    return stacks[0]


def _nearest(points: Points, stack: Series) -> list[SliceHeader]:
    """The slice nearest to the points' centre, if any is within half a slice distance."""
    away = np.abs(stack.offsets - stack.normal @ points.mean(axis=0))
    return [stack.slices[int(away.argmin())]] if away.min() <= stack.slice_distance / 2 + SAME_POSITION else []


def _cuts_of_roi(row: dict[Any, Any], series: Sequence[Series]) -> Iterator[tuple[SliceHeader, Points]]:
    """The cuts of a box-shaped ROI with the planes of the slices, or with one through its centre."""
    stack = _stack([row["t2_series_uid"]], series)
    roi, *others = json.loads(Path(row["region"]).read_text(encoding="utf-8"))["markups"]
    units, remedy = roi.get("coordinateUnits", "mm"), "save one ROI of type Box, in mm, a file"
    if others or (roi["type"], roi.get("roiType", "Box")) != ("ROI", "Box") or "mm" not in (units, units[0]):
        raise ExclusionError("", "the markups are not a single box in mm", remedy)
    centre, half = np.array(roi["center"], dtype=float), np.array(roi["size"], dtype=float) / 2
    axes, to_lps = np.reshape(roi["orientation"], (3, 3)), TO_LPS[roi.get("coordinateSystem", "LPS")]
    is_box = np.allclose(axes.T @ axes, np.eye(3), atol=1e-3) and (half > 0).all()
    if not (is_box and np.isfinite([*centre, *half]).all()):
        raise ExclusionError("", "the ROI's centre, size or orientation is not a box's", remedy)
    corners = (centre + np.array(list(product((-1, 1), repeat=3))) * half @ axes.T) @ to_lps
    cuts = [(header, cut) for header in stack.slices if len(cut := _cut(corners, header))]
    for header in [] if cuts else _nearest(corners, stack):
        to_slice = header.normal * (header.normal @ (header.position - corners.mean(axis=0)))
        cuts = [(header, _cut(corners + to_slice, header))]
    yield from cuts


def _cut(corners: Points, header: SliceHeader) -> Points:
    """Where the lines between all corners (8, 3) pierce the slice's plane: the cut's corners and points inside it."""
    heights = (corners - header.position) @ header.normal
    heights[np.abs(heights) < SAME_POSITION] = 0
    pairs = [(a, b) for a, b in combinations(range(8), 2) if heights[a] * heights[b] <= 0 and heights[a] != heights[b]]
    pierced = [(corners[a] * heights[b] - corners[b] * heights[a]) / (heights[b] - heights[a]) for a, b in pairs]
    return np.reshape(pierced, (-1, 3))


def _frames_of_segment(row: dict[Any, Any], series: Sequence[Series]) -> Iterator[tuple[SliceHeader, Points]]:
    """The corners of the segment's pixels in each frame, and the slice nearest to them.

    Positions tell the slice: they also hold for other matrices, and where references to source images are missing.
    """
    segmentation = segread(row["region"])
    numbers = [int(number) for number in segmentation.segment_numbers]
    if len(chosen := [number for number in numbers if row["segment"] in ("", str(number))]) != 1:
        reason = f"the DICOM SEG holds the segments {', '.join(map(str, numbers[:20])) or 'none'}"
        raise ExclusionError("", reason, "write the number of one of them in the column segment")
    referred = [str(item.SeriesInstanceUID) for item in segmentation.get("ReferencedSeriesSequence", [])]
    stack = _stack([row["t2_series_uid"]] if row["t2_series_uid"] else referred, series)
    if segmentation.FrameOfReferenceUID != stack.frame_of_reference_uid:
        raise ExclusionError("", "the DICOM SEG's frame of reference is not the series'", "draw it on the series")
    is_labelmap, half = segmentation.SegmentationType == "LABELMAP", segmentation.get("MaximumFractionalValue", 1) / 2
    shared = segmentation.SharedFunctionalGroupsSequence[0]
    for frame, own in enumerate(segmentation.PerFrameFunctionalGroupsSequence, start=1):
        groups = own if "SegmentIdentificationSequence" in own else shared
        if is_labelmap or groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber == chosen[0]:
            to_patient = ImageToReferenceTransformer.for_image(segmentation, frame)
            if abs(to_patient.affine[:3, 2] @ stack.normal) < PARALLEL:
                raise ExclusionError("", "the DICOM SEG's planes are not the series'", "draw it on the series")
            stored = segmentation.get_stored_frame(frame)
            y_x = np.argwhere(stored == chosen[0] if is_labelmap else stored >= half)
            corners = np.vstack([y_x[:, ::-1] + corner for corner in product((0.0, 1.0), repeat=2)])
            points = to_patient(corners)
            yield from [(header, points) for header in (_nearest(points, stack) if len(points) else [])]
