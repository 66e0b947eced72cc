"""DICOM files to series: headers first, slices in order along the normal, pixels on demand.

Nothing that identifies a person leaves this file: no names, dates or free text, only UIDs, geometry and timing.
Coordinates are DICOM patient coordinates (LPS) in mm; pixel coordinates are (x = column, y = row), 0 at the
centre of the first pixel.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.errors import InvalidDicomError

from datasets.series_rules import SeriesRules, Trait, Weighting

# pydicom's warnings about malformed values quote the value, which may be a name: none may reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total."""

PARALLEL_TOLERANCE = 1e-3  # largest difference of direction cosines within one stack
SAME_POSITION = 0.01  # mm
FILES_PER_TASK = 64

_TAGS = [
    *("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "NumberOfFrames"),
    *("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows", "Columns"),
    *("RepetitionTime", "EchoTime", "SeriesDescription"),
]


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """Identity, geometry and contrast of one image, or of one frame of a multi-frame image."""

    path: Path = field(repr=False)
    frame: int | None  # index of the frame in a multi-frame image, None for a single-frame one
    sop_instance_uid: str  # UID of a single-frame image; UID#N for frame N (from 1) of a multi-frame one
    series_instance_uid: str
    study_instance_uid: str
    frame_of_reference_uid: str
    position: tuple[float, ...]  # of the first pixel's centre (x, y, z), mm
    orientation: tuple[float, ...]  # direction of a row (x, y, z), then of a column (x, y, z)
    pixel_spacing: tuple[float, ...]  # mm between rows, between columns
    rows: int
    columns: int
    weighting: Weighting | None
    traits: frozenset[Trait]
    acquisition: str  # digest of what tells images at one position apart: echo, image type, repetition

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector (3,) across the slice, towards the patient's left, back or head, whichever is nearest."""
        across = np.cross(self.orientation[:3], self.orientation[3:])
        along_nearest_axis = across[np.abs(across).argmax()]
        unit: NDArray[np.float64] = across / np.copysign(np.linalg.norm(across), along_nearest_axis)
        return unit


@dataclass(frozen=True, slots=True)
class Series:
    """Parallel slices of one series, sorted along their common normal; sagittal ones from right to left."""

    slices: tuple[SliceHeader, ...]

    @property
    def uid(self) -> str:
        return self.slices[0].series_instance_uid

    @property
    def study_uid(self) -> str:
        return self.slices[0].study_instance_uid

    @property
    def frame_of_reference_uid(self) -> str:
        return self.slices[0].frame_of_reference_uid

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector (3,) across the slices, in the direction of their order."""
        return self.slices[0].normal

    @property
    def is_sagittal(self) -> bool:
        """Whether the normal lies closer to the patient's left-right axis than to the other two."""
        return int(np.abs(self.normal).argmax()) == 0

    @property
    def weighting(self) -> Weighting | None:
        return self.slices[0].weighting

    @property
    def traits(self) -> frozenset[Trait]:
        return frozenset().union(*(header.traits for header in self.slices))

    @property
    def has_repeated_positions(self) -> bool:
        """Whether two images lie at one place, so that neighbours cannot be told."""
        return bool((np.diff(self.offsets) < SAME_POSITION).any())

    @property
    def offsets(self) -> NDArray[np.float64]:
        """Position (slices,) of each slice along the common normal, mm, ascending."""
        return np.array([header.position for header in self.slices]) @ self.normal


@dataclass(frozen=True)
class Reading:
    """What a folder holds."""

    series: tuple[Series, ...]
    skipped: Counter[str]  # how many files were left aside, by reason
    conflicting: frozenset[str]  # SOPInstanceUIDs under which different images were found


def list_files(root: Path, leave_out: Path) -> list[Path]:
    """Every regular file below a folder, sorted, the folder `leave_out` apart."""
    found: list[Path] = []
    leave_out = leave_out.resolve()
    for folder, folders, names in os.walk(root):
        folders[:] = [name for name in folders if Path(folder, name).resolve() != leave_out]
        found += [path for name in names if (path := Path(folder, name)).is_file()]
    return sorted(found)


def read_series(paths: list[Path], executor: Executor, rules: SeriesRules, progress: Progress | None = None) -> Reading:
    """Reads all headers and groups them."""
    tasks = [paths[start : start + FILES_PER_TASK] for start in range(0, len(paths), FILES_PER_TASK)]
    headers: dict[str, SliceHeader] = {}
    skipped: Counter[str] = Counter()
    for done, results in enumerate(executor.map(partial(_read_headers, rules), tasks), start=1):
        for result in results:
            if isinstance(result, str):
                skipped[result] += 1
            elif headers.setdefault(result.sop_instance_uid, result) is not result:
                skipped["SOPInstanceUID read before"] += 1
        if progress:
            progress("headers", min(done * FILES_PER_TASK, len(paths)), len(paths))
    return Reading(tuple(group_series(headers.values())), skipped, frozenset())


def group_series(headers: Iterable[SliceHeader]) -> Iterator[Series]:
    """Slices of one SeriesInstanceUID, in one frame of reference and parallel, in order along the normal.

    A series of several orientations, as a localiser is, becomes a Series for each of its stacks.
    """
    stacks: dict[tuple[str, str], list[list[SliceHeader]]] = {}
    for header in headers:
        stacks_of_series = stacks.setdefault((header.series_instance_uid, header.frame_of_reference_uid), [])
        stack = next((stack for stack in stacks_of_series if _parallel(stack[0], header)), None)
        if stack is None:
            stacks_of_series.append(stack := [])
        stack.append(header)
    for stack in (stack for stacks_of_series in stacks.values() for stack in stacks_of_series):
        normal = stack[0].normal
        yield Series(tuple(sorted(stack, key=lambda header: float(normal @ header.position))))


def _parallel(first: SliceHeader, second: SliceHeader) -> bool:
    pairs = zip(first.orientation, second.orientation, strict=True)
    return all(abs(one - other) <= PARALLEL_TOLERANCE for one, other in pairs)


def _read_headers(rules: SeriesRules, paths: list[Path]) -> list[SliceHeader | str]:
    return [_read_header(path, rules) for path in paths]


def _read_header(path: Path, rules: SeriesRules) -> SliceHeader | str:
    """The header, or why the file is skipped."""
    try:
        dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=list(_TAGS))
    except InvalidDicomError:
        return "not DICOM"
    except Exception:  # pydicom raises whatever a damaged file provokes
        return "unreadable header"
    try:
        return _slice_header(path, dataset, rules)
    except Exception:  # an element is absent or malformed: reports, presentation states, multi-frame images
        return "not a single-frame image with a position"


def _slice_header(path: Path, dataset: pydicom.Dataset, rules: SeriesRules) -> SliceHeader:
    if int(dataset.get("NumberOfFrames") or 1) != 1:
        raise ValueError("multi-frame image")
    repetition_time, echo_time = (_optional_float(dataset.get(name)) for name in ("RepetitionTime", "EchoTime"))
    header = SliceHeader(
        path=path,
        frame=None,
        sop_instance_uid=str(dataset.SOPInstanceUID),
        series_instance_uid=str(dataset.SeriesInstanceUID),
        study_instance_uid=str(dataset.StudyInstanceUID),
        frame_of_reference_uid=str(dataset.get("FrameOfReferenceUID") or ""),
        position=_numbers(dataset.ImagePositionPatient, 3),
        orientation=_numbers(dataset.ImageOrientationPatient, 6),
        pixel_spacing=_numbers(dataset.PixelSpacing, 2),
        rows=int(dataset.Rows),
        columns=int(dataset.Columns),
        weighting=rules.weighting(repetition_time, echo_time, str(dataset.get("SeriesDescription") or "")),
        traits=frozenset(),
        acquisition="",
    )
    if min(header.pixel_spacing) <= 0 or not np.isfinite(header.normal).all():
        raise ValueError("degenerate geometry")
    return header


def _numbers(values: Iterable[float], count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not np.isfinite(numbers).all():
        raise ValueError(f"{count} finite numbers expected")
    return numbers


def _optional_float(value: object) -> float | None:
    return float(str(value)) if value not in (None, "") else None
