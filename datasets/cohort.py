"""Annotations and series to cohort: six slices and a square box for every lesion slice, or the reason why not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.annotations import BOX
from datasets.dicom import Reading, Series, SliceHeader
from datasets.geometry import Box, pixel_to_patient, project, square
from datasets.ingest_rules import Leakage
from datasets.leakage import SharedContent, contradictions, resolve
from datasets.patch_store import EXCLUDED_COLUMNS

LESION_COLUMNS = ["patient_id", "label", "site", "sop_instance_uid", "t1_series_uid", "t2_series_uid", *BOX]
LESION_COLUMNS += ["box_side_mm", "note"]
SQUARE_TOLERANCE = 0.05  # pixels that a square box's edges may be off through rounding
BEYOND_STACK = 0.6  # slice distances from the nearest slice; within a stack no point is farther than 0.5
GAP = 1.5  # slice distances between two slices from which on one is missing between them

Row = dict[Any, Any]


class ExclusionError(Exception):
    """Why a patient is left out: the item at fault, the reason and the remedy."""

    def __init__(self, item: str, reason: str, remedy: str) -> None:
        super().__init__(item, reason, remedy)
        self.row = {"item": item, "reason": reason, "remedy": remedy}


Pairs = list[tuple[Series, Series]]
Register = Callable[[Pairs], list[Series | ExclusionError]]
"""(T1W, T2W) to the T1W series with its slices in order, moved into the T2W frame of reference, or why it cannot be."""


@dataclass(frozen=True)
class Cohort:
    """A row per lesion slice, a row per reason of exclusion, and the images of each lesion row.

    The six images of a row are in the order of the channels: T1W previous, same, next, T2W previous, same, next.
    """

    lesions: pd.DataFrame
    slices: tuple[tuple[SliceHeader, ...], ...]
    excluded: pd.DataFrame


def in_one_frame(pairs: Pairs) -> list[Series | ExclusionError]:
    """Of each pair T1W as it is, where it shares its frame of reference with T2W."""
    reason = "T1W and T2W do not share a frame of reference"
    remedy = "write data.registration=rigid, or name a T1W series of the same examination in t1_series_uid"
    return [t1 if t1.shares_frame(t2) else ExclusionError(t1.uid, reason, remedy) for t1, t2 in pairs]


def build_cohort(
    reading: Reading,
    annotations: pd.DataFrame,
    excluded: Sequence[Mapping[str, str]] = (),
    *,
    leakage: Leakage = "stop",
    register: Register = in_one_frame,
) -> Cohort:
    """Find the slices of every annotated lesion; a patient with any problem is excluded whole.

    Images belong to the patient whose annotated SOPInstanceUID lies in their study; PatientID plays no part.
    `excluded` holds what is known before.

    Raises:
        LeakageError: several patients share a study or series, and `leakage` is to stop.
    """
    index, annotations = _Index(reading), annotations.reset_index(drop=True)
    usable, leaking = resolve(annotations, _shared_content(index, annotations), leakage)
    names = dict(zip(annotations.loc[usable.index, "patient_id"], usable["patient_id"], strict=True))
    earlier = [{**row, "patient_id": names.get(row["patient_id"], row["patient_id"])} for row in excluded]
    problems = [*earlier, *leaking, *contradictions(usable)]
    lesions: list[tuple[_Lesion, Series]] = []
    for row in usable.drop_duplicates().to_dict("records"):
        with _excluding(row, problems):
            lesion = _annotated_lesion(row, index)
            lesions.append((lesion, _t1_series(lesion, index)))
    pairs = {(id(t1), id(lesion.t2)): (t1, lesion.t2) for lesion, t1 in lesions}
    moved = dict(zip(pairs, register(list(pairs.values())), strict=True))
    found: list[tuple[Row, tuple[SliceHeader, ...]]] = []
    for lesion, t1 in lesions:
        with _excluding(lesion.row, problems):
            if isinstance(aligned := moved[id(t1), id(lesion.t2)], ExclusionError):
                raise aligned
            found.append(_lesion_row(lesion, aligned, index))
    out = {problem["patient_id"] for problem in problems}
    kept = [(row, slices) for row, slices in found if row["patient_id"] not in out]
    return Cohort(
        pd.DataFrame([row for row, _ in kept], columns=LESION_COLUMNS),
        tuple(slices for _, slices in kept),
        pd.DataFrame(problems, columns=EXCLUDED_COLUMNS).drop_duplicates(ignore_index=True),
    )


@contextmanager
def _excluding(row: Row, problems: list[dict[str, str]]) -> Iterator[None]:
    try:
        yield
    except ExclusionError as problem:
        problems.append({"patient_id": row["patient_id"], **problem.row})


class _Index:
    """What was read: series by slice, by their UID and by study, and the UIDs of conflicting images."""

    def __init__(self, reading: Reading) -> None:
        self.of_slice: dict[str, tuple[Series, int]] = {}
        self.of_uid: dict[str, list[Series]] = {}
        self.of_study: dict[str, list[Series]] = {}
        self.conflicting = reading.conflicting
        for one in reading.series:
            self.of_uid.setdefault(one.uid, []).append(one)
            self.of_study.setdefault(one.study_uid, []).append(one)
            self.of_slice |= {header.sop_instance_uid: (one, place) for place, header in enumerate(one.slices)}

    def named_by(self, row: Row) -> list[Series]:
        annotated = [self.of_slice[sop][0]] if (sop := row["sop_instance_uid"]) in self.of_slice else []
        return [*annotated, *self.of_uid.get(row["t1_series_uid"], ())]

    def require_unambiguous(self, sop_instance_uid: str) -> None:
        if sop_instance_uid in self.conflicting:
            reason, remedy = "different images have this SOPInstanceUID", "leave the wrong one out of the folder"
            raise ExclusionError(sop_instance_uid, reason, remedy)


@dataclass(frozen=True)
class _Lesion:
    """A row of annotations: a box drawn on one slice of a T2W series."""

    row: Row
    t2: Series
    place: int
    box: Box

    @property
    def header(self) -> SliceHeader:
        return self.t2.slices[self.place]

    @property
    def centre(self) -> NDArray[np.float64]:
        """Of the box (3,), in patient coordinates, mm."""
        return np.asarray(pixel_to_patient(self.header) @ (*self.box.centre, 1.0))


def _shared_content(index: _Index, annotations: pd.DataFrame) -> list[SharedContent]:
    """Studies under several patients, and series where their studies do not tell already."""
    users = [
        (row["patient_id"], series.study_uid, series.uid)
        for row in annotations.to_dict("records")
        for series in index.named_by(row)
    ]
    table, shared = pd.DataFrame(users, columns=["patient_id", "study", "series"]), list[SharedContent]()
    for kind in ("study", "series"):
        told, patients_of = {case.patients for case in shared}, table.groupby(kind, sort=False)["patient_id"]
        cases = [SharedContent(str(uid), kind, tuple(patients.unique())) for uid, patients in patients_of]
        shared += [case for case in cases if len(case.patients) > 1 and case.patients not in told]
    return shared


def _lesion_row(lesion: _Lesion, t1: Series, index: _Index) -> tuple[Row, tuple[SliceHeader, ...]]:
    slices, notes = _slices(t1, lesion)
    for header in slices:
        index.require_unambiguous(header.sop_instance_uid)
    box, side = square(lesion.box, lesion.header.pixel_spacing)
    if max(lesion.box.x_min - box.x_min, lesion.box.y_min - box.y_min) > SQUARE_TOLERANCE:
        notes.insert(0, "box made square")
    found = {"t1_series_uid": t1.uid, "t2_series_uid": lesion.t2.uid, "box_side_mm": side, "note": "; ".join(notes)}
    return lesion.row | found | box._asdict(), slices


def _annotated_lesion(row: Row, index: _Index) -> _Lesion:
    sop = row["sop_instance_uid"]
    index.require_unambiguous(sop)
    if sop not in index.of_slice:
        remedy = "add its DICOM file to the folder or correct sop_instance_uid"
        raise ExclusionError(sop, "no readable image has this SOPInstanceUID", remedy)
    t2, place = index.of_slice[sop]
    if row["t2_series_uid"] not in ("", t2.uid):
        remedy = "correct t2_series_uid or leave it empty"
        raise ExclusionError(sop, f"the slice belongs to series {t2.uid}, not to t2_series_uid", remedy)
    remedy = "annotate a slice of the plain sagittal T2W series"
    if not t2.is_sagittal:
        raise ExclusionError(sop, "the annotated slice is not sagittal", remedy)
    unfit = sorted(t2.traits | ({"T1W"} if t2.weighting == "T1W" else set()))
    if unfit and not row["t2_series_uid"]:
        remedy += f", or write {t2.uid} in t2_series_uid to use it all the same"
        raise ExclusionError(sop, f"the annotated slice is not of a plain T2W series but {', '.join(unfit)}", remedy)
    _require_distinct_positions(t2)
    lesion = _Lesion(row, t2, place, Box(*(row[column] for column in BOX)))
    _check_box(lesion.box, lesion.header)
    return lesion


def _require_distinct_positions(series: Series) -> None:
    if series.has_repeated_positions:
        remedy = "leave one image of each position in the folder, or annotate or name another series"
        raise ExclusionError(series.uid, "several images at one position", remedy)


def _check_box(box: Box, header: SliceHeader) -> None:
    drawn = f"box x {box.x_min:g} to {box.x_max:g}, y {box.y_min:g} to {box.y_max:g}"
    if box.x_max <= box.x_min or box.y_max <= box.y_min:
        raise ExclusionError(header.sop_instance_uid, f"{drawn} is empty or reversed", "redraw the box")
    if not _inside(np.array([[box.x_min, box.x_max], [box.y_min, box.y_max]]), header):
        reason = f"{drawn} lies outside the image of {header.columns} columns and {header.rows} rows"
        raise ExclusionError(header.sop_instance_uid, reason, "redraw the box in pixels of the slice")


def _t1_series(lesion: _Lesion, index: _Index) -> Series:
    """The named series, else the only plain sagittal T1W one of the study.

    Of several, and of several stacks of one series, those in the T2W frame of reference come first, then those that
    cover the lesion.
    """
    t2, named = lesion.t2, lesion.row["t1_series_uid"]
    candidates = _named_t1(named, t2, index) if named else _plain_t1(t2, index)
    aligned = [one for one in candidates if one.shares_frame(t2)]
    covering = []
    for one in aligned:
        with suppress(ExclusionError):
            _covering_slice(one, lesion)
            covering.append(one)
    fitting = covering or aligned or candidates
    if len(fitting) > 1:
        one_uid = len({one.uid for one in fitting}) == 1
        remedy = "leave only one of its stacks in the folder" if one_uid else "write the right one in t1_series_uid"
        raise ExclusionError(t2.study_uid, f"several sagittal T1W series: {_listed(fitting)}", remedy)
    _require_distinct_positions(fitting[0])
    return fitting[0]


def _named_t1(uid: str, t2: Series, index: _Index) -> list[Series]:
    named = [one for one in index.of_uid.get(uid, ()) if one is not t2 and one.is_sagittal]
    if not named:
        reason = "no sagittal series beside the T2W one has this UID of t1_series_uid"
        raise ExclusionError(uid, reason, "add its DICOM files or correct t1_series_uid")
    return named


def _plain_t1(t2: Series, index: _Index) -> list[Series]:
    others = [one for one in index.of_study[t2.study_uid] if one.uid != t2.uid and "localizer" not in one.traits]
    sagittal = [one for one in others if one.weighting in ("T1W", None) and one.is_sagittal]
    weighted = [one for one in sagittal if one.weighting]
    if plain := [one for one in weighted if not one.traits]:
        return plain
    reason = "no plain sagittal T1W series in the study"
    for what, series in (("", weighted), ("of unknown weighting: ", [one for one in sagittal if not one.weighting])):
        reason += f"; {what}{_listed(series)}" if series else ""
    remedy = "add its DICOM files, or write the UID of the one to use in t1_series_uid"
    raise ExclusionError(t2.study_uid, reason, remedy)


def _listed(series: list[Series]) -> str:
    """UIDs with traits and number of slices."""
    texts = [f"{one.uid} ({', '.join([*sorted(one.traits), f'{len(one.slices)} slices'])})" for one in series]
    return ", ".join(sorted(texts))


def _covering_slice(t1: Series, lesion: _Lesion) -> int:
    """Place of the T1W slice nearest to the lesion, which must show the whole box."""
    away = np.abs(t1.offsets - lesion.centre @ t1.normal)
    place = int(away.argmin())
    remedy = "choose a T1W series that covers the lesion"
    if away[place] > max(t1.slice_distance, lesion.t2.slice_distance):
        raise ExclusionError(t1.uid, f"the lesion slice lies {away[place]:.1f} mm from the nearest T1W slice", remedy)
    box, header = lesion.box, t1.slices[place]
    corners = np.array([[x, y, 1.0] for x in (box.x_min, box.x_max) for y in (box.y_min, box.y_max)])
    if not _inside((project(lesion.header, header) @ corners.T)[:2], header):
        raise ExclusionError(t1.uid, "the box lies outside the T1W image", remedy)
    return place


def _slices(t1: Series, lesion: _Lesion) -> tuple[tuple[SliceHeader, ...], list[str]]:
    """Three T1W slices, three T2W slices and notes.

    The T1W slices are those nearest to the box's centre in the T2W slices, moved along the T2W normal from slice to
    slice; at the edge of a stack, and at a gap in it, the last slice is repeated.
    """
    t2, place = lesion.t2, lesion.place
    first, last = _unbroken(t2, place)
    t2_places = [max(place - 1, first), place, min(place + 1, last)]
    steps = t2.offsets[t2_places] - t2.offsets[place]  # mm
    targets = lesion.centre @ t1.normal + steps * (t2.normal @ t1.normal)  # mm along the T1W normal
    t1_first, t1_last = _unbroken(t1, _covering_slice(t1, lesion))
    distances = np.abs(targets[:, None] - t1.offsets[t1_first : t1_last + 1])  # (3, T1W slices) mm
    t1_places, away = t1_first + distances.argmin(axis=1), float(distances.min(axis=1).max())
    notes = []
    if len(set(t2_places)) < 3:
        edge = place in (0, len(t2.slices) - 1)
        notes.append("T2W edge slice repeated" if edge else "T2W slice repeated at a gap")
    if away > BEYOND_STACK * t1.slice_distance:
        notes.append(f"nearest T1W slice {away:.1f} mm away")
    return (*(t1.slices[one] for one in t1_places), *(t2.slices[one] for one in t2_places)), notes


def _unbroken(series: Series, place: int) -> tuple[int, int]:
    """First and last of the slices around one that no gap separates from it."""
    gaps = np.flatnonzero(np.diff(series.offsets) > GAP * series.slice_distance)
    return int(gaps[gaps < place].max(initial=-1)) + 1, int(gaps[gaps >= place].min(initial=len(series.slices) - 1))


def _inside(points: NDArray[np.float64], header: SliceHeader) -> bool:
    """Whether points (2, N), x and y, lie within the pixels of an image."""
    edges = np.array([[header.columns], [header.rows]]) - 0.5
    return bool((points >= -0.5).all() and (points <= edges).all())
