"""Annotations and series to cohort: six slices and a square box for every lesion slice, or the reason why not."""

from collections.abc import Iterable
from dataclasses import astuple, dataclass
from typing import Any

import numpy as np
import pandas as pd

from datasets.annotations import BOX
from datasets.dicom import Series, SliceHeader
from datasets.geometry import Box, pixel_to_patient, project, square

LESION_COLUMNS = ["patient_id", "label", "site", "sop_instance_uid", "t1_series_uid", "t2_series_uid", *BOX]
LESION_COLUMNS += ["box_side_mm", "note"]
EXCLUDED_COLUMNS = ["patient_id", "item", "reason", "remedy"]
SINGLE_SLICE_DISTANCE = 4.0  # mm, the usual sagittal spine slice, where a series has one slice only
SQUARE_TOLERANCE = 0.05  # pixels that a square box's edges may be off through rounding
BEYOND_STACK = 0.6  # slice distances from the nearest slice; within a stack no point is farther than 0.5

Row = dict[Any, Any]
Neighbours = tuple[SliceHeader, SliceHeader, SliceHeader]
"""Previous, same and next slice along the normal."""


class ExclusionError(Exception):
    """Why a patient is left out: the item at fault, the reason and the remedy."""

    def __init__(self, item: str, reason: str, remedy: str) -> None:
        super().__init__(item, reason, remedy)
        self.row = {"item": item, "reason": reason, "remedy": remedy}


@dataclass(frozen=True)
class Cohort:
    """A row per lesion slice, a row per reason of exclusion, and the images of each lesion row.

    The six images of a row are in the order of the channels: T1W previous, same, next, T2W previous, same, next.
    """

    lesions: pd.DataFrame
    slices: tuple[tuple[SliceHeader, ...], ...]
    excluded: pd.DataFrame


def build_cohort(series: Iterable[Series], annotations: pd.DataFrame) -> Cohort:
    """Finds the slices of every annotated lesion; a patient with any problem is excluded whole.

    Images belong to the patient whose annotated SOPInstanceUID lies in their study; PatientID plays no part.
    """
    index = _Index(series)
    lesions: list[Row] = []
    slices: list[tuple[SliceHeader, ...]] = []
    excluded = _shared_studies(index, annotations)
    leaking = {problem["patient_id"] for problem in excluded}
    for patient, rows in annotations.groupby("patient_id", sort=False):
        problems = _contradictions(rows)
        found: list[tuple[Row, tuple[SliceHeader, ...]]] = []
        for row in rows.to_dict("records"):
            try:
                found.append(_lesion(row, index))
            except ExclusionError as problem:
                problems.append(problem.row)
        excluded += [{"patient_id": patient, **problem} for problem in problems]
        if not problems and patient not in leaking:
            lesions += [lesion for lesion, _ in found]
            slices += [images for _, images in found]
    return Cohort(
        pd.DataFrame(lesions, columns=LESION_COLUMNS), tuple(slices), pd.DataFrame(excluded, columns=EXCLUDED_COLUMNS)
    )


class _Index:
    """Series by slice, by their UID and by study."""

    def __init__(self, series: Iterable[Series]) -> None:
        self.of_slice: dict[str, tuple[Series, int]] = {}
        self.of_uid: dict[str, list[Series]] = {}
        self.of_study: dict[str, list[Series]] = {}
        for one in series:
            self.of_uid.setdefault(one.uid, []).append(one)
            self.of_study.setdefault(one.study_uid, []).append(one)
            self.of_slice |= {header.sop_instance_uid: (one, place) for place, header in enumerate(one.slices)}


def _contradictions(rows: pd.DataFrame) -> list[Row]:
    """A patient has one label and one site, and one box on a slice."""
    several = [column for column in ("label", "site") if rows[column].nunique() > 1]
    remedy = "correct the annotations so that all rows of the patient agree"
    twice = rows.loc[rows.duplicated("sop_instance_uid"), "sop_instance_uid"].unique()
    return [
        {"item": uid, "reason": "several boxes on one slice", "remedy": "keep one row for each slice"} for uid in twice
    ] + [
        {"item": column, "reason": f"several values: {', '.join(map(str, rows[column].unique()))}", "remedy": remedy}
        for column in several
    ]


def _shared_studies(index: _Index, annotations: pd.DataFrame) -> list[Row]:
    """One study under two patient identifiers would put the same person in two folds."""
    known = annotations[[uid in index.of_slice for uid in annotations["sop_instance_uid"]]]
    studies = [index.of_slice[uid][0].study_uid for uid in known["sop_instance_uid"]]
    pairs = known.assign(study=studies)[["patient_id", "study"]].drop_duplicates()
    shared = pairs[pairs.duplicated("study", keep=False)]
    reason, remedy = "study annotated under several patient_id", "give all rows of a person the same patient_id"
    return [
        {"patient_id": pair.patient_id, "item": pair.study, "reason": reason, "remedy": remedy}
        for pair in shared.itertuples()
    ]


def _lesion(row: Row, index: _Index) -> tuple[Row, tuple[SliceHeader, ...]]:
    t2, place = _annotated_slice(row, index)
    header = t2.slices[place]
    drawn = Box(*(row[column] for column in BOX))
    _check_box(drawn, header)
    box, side = square(drawn, header.pixel_spacing)
    t1 = _t1_series(row, t2, index)
    t2_slices, t2_note = _neighbours(t2, place)
    t1_slices, t1_note = _nearest(t1, t2, t2_slices, box)
    if not _inside(drawn, header, t1_slices[1]):
        raise ExclusionError(t1.uid, "the box lies outside the T1W image", "choose a T1W series that covers the lesion")
    squared = "" if np.allclose(astuple(box), astuple(drawn), rtol=0, atol=SQUARE_TOLERANCE) else "box made square"
    values = {
        **{column: row[column] for column in ("patient_id", "label", "site", "sop_instance_uid")},
        "t1_series_uid": t1.uid,
        "t2_series_uid": t2.uid,
        "box_side_mm": side,
        **{column: getattr(box, column) for column in BOX},
        "note": "; ".join(note for note in (squared, t2_note, t1_note) if note),
    }
    return values, (*t1_slices, *t2_slices)


def _annotated_slice(row: Row, index: _Index) -> tuple[Series, int]:
    sop = row["sop_instance_uid"]
    if sop not in index.of_slice:
        remedy = "add its DICOM file to the folder or correct sop_instance_uid"
        raise ExclusionError(sop, "no readable image has this SOPInstanceUID", remedy)
    t2, place = index.of_slice[sop]
    if row["t2_series_uid"] not in ("", t2.uid):
        remedy = "correct t2_series_uid or leave it empty"
        raise ExclusionError(sop, f"the slice belongs to series {t2.uid}, not to t2_series_uid", remedy)
    if not t2.is_sagittal or t2.weighting == "T1W":
        found = "T1W" if t2.is_sagittal else "not sagittal"
        raise ExclusionError(sop, f"the annotated slice is {found}", "annotate a slice of a sagittal T2W series")
    return t2, place


def _check_box(box: Box, header: SliceHeader) -> None:
    drawn = f"box x {box.x_min:g} to {box.x_max:g}, y {box.y_min:g} to {box.y_max:g}"
    if box.x_max <= box.x_min or box.y_max <= box.y_min:
        raise ExclusionError(header.sop_instance_uid, f"{drawn} is empty or reversed", "redraw the box")
    if not _inside(box, header, header):
        image = f"the image of {header.columns} columns and {header.rows} rows"
        raise ExclusionError(
            header.sop_instance_uid, f"{drawn} lies outside {image}", "redraw the box in pixels of the slice"
        )


def _t1_series(row: Row, t2: Series, index: _Index) -> Series:
    wanted, frame = row["t1_series_uid"], t2.frame_of_reference_uid
    choose = "name the right series in t1_series_uid"
    if wanted:
        candidates = [one for one in index.of_uid.get(wanted, []) if one.is_sagittal]
    else:
        candidates = [one for one in index.of_study[t2.study_uid] if one.is_sagittal and one.weighting == "T1W"]
    if not candidates:
        item, where = (wanted, "of t1_series_uid") if wanted else (t2.study_uid, "in the study")
        raise ExclusionError(item, f"no sagittal T1W series {where}", f"add its DICOM files or {choose}")
    aligned = [one for one in candidates if frame and one.frame_of_reference_uid == frame]
    if not aligned:
        reason = "T1W and T2W do not share a frame of reference"
        raise ExclusionError(candidates[0].uid, reason, "name a T1W series of the same examination in t1_series_uid")
    if len(aligned) > 1:
        uids = ", ".join(sorted(one.uid for one in aligned))
        raise ExclusionError(t2.study_uid, f"several sagittal T1W series: {uids}", choose)
    return aligned[0]


def _neighbours(series: Series, place: int) -> tuple[Neighbours, str]:
    last = len(series.slices) - 1
    previous, following = max(place - 1, 0), min(place + 1, last)
    note = "T2W edge slice repeated" if previous == place or following == place else ""
    return (series.slices[previous], series.slices[place], series.slices[following]), note


def _nearest(t1: Series, t2: Series, t2_slices: Neighbours, box: Box) -> tuple[Neighbours, str]:
    """For each T2W slice the T1W slice nearest to the box's centre in it, along the T1W normal."""
    centres = [project(t2_slices[1], header) @ (*box.centre, 1.0) for header in t2_slices]
    points = np.array([pixel_to_patient(header) @ centre for header, centre in zip(t2_slices, centres, strict=True)])
    distances = np.abs((points @ t1.normal)[:, None] - t1.offsets)  # (3, T1W slices) mm
    away, t1_distance = distances.min(axis=1), _slice_distance(t1)
    if away[1] > max(t1_distance, _slice_distance(t2)):
        reason = f"the lesion slice lies {away[1]:.1f} mm from the nearest T1W slice"
        raise ExclusionError(t1.uid, reason, "choose a T1W series that covers the lesion")
    previous, same, following = (t1.slices[int(place)] for place in distances.argmin(axis=1))
    note = f"nearest T1W slice {away.max():.1f} mm away" if away.max() > BEYOND_STACK * t1_distance else ""
    return (previous, same, following), note


def _slice_distance(series: Series) -> float:
    """Usual distance between the slices of a series in mm."""
    return float(np.median(np.diff(series.offsets))) if len(series.slices) > 1 else SINGLE_SLICE_DISTANCE


def _inside(box: Box, drawn_on: SliceHeader, header: SliceHeader) -> bool:
    """Whether the corners of a box drawn on one slice lie within the pixels of another."""
    corners = np.array([[x, y, 1.0] for x in (box.x_min, box.x_max) for y in (box.y_min, box.y_max)])
    x, y, _ = project(drawn_on, header) @ corners.T
    size_x, size_y = header.columns - 0.5, header.rows - 0.5
    return bool(min(x.min(), y.min()) >= -0.5 and x.max() <= size_x and y.max() <= size_y)
