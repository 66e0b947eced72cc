"""A folder of DICOM files to series: headers, slices in order along the normal, duplicates told from conflicts.

Coordinates are DICOM patient coordinates (LPS) in mm.
"""

import filecmp
import logging
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from operator import attrgetter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from datasets.headers import SliceHeader, read_headers
from datasets.pixels import read_pixels
from datasets.series_rules import SeriesRules, Trait, Weighting
from datasets.workers import spread, unheard

__all__ = ["Progress", "Reading", "Series", "SliceHeader", "group_series", "list_files", "read_series"]

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, what is done and the total."""

log = logging.getLogger(__name__)

PARALLEL_TOLERANCE = 1e-3  # largest difference of direction cosines within one stack
SPACING_TOLERANCE = 1e-3  # largest relative difference of pixel spacings within one stack
STATION_SHIFT = 50.0  # mm across the normal from which on slices belong to another station of the table
SAME_POSITION = 0.1  # mm; scanners write the places of two echoes some hundredths apart
SINGLE_SLICE_DISTANCE = 4.0  # mm, the usual sagittal spine slice, where a series has one slice only
FILES_AT_ONCE = 64


@dataclass(frozen=True)
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

    @cached_property
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

    @cached_property
    def traits(self) -> frozenset[Trait]:
        return frozenset().union(*(header.traits for header in self.slices))

    @property
    def has_repeated_positions(self) -> bool:
        """Whether two images lie at one place, so that neighbours cannot be told."""
        return bool((np.diff(self.offsets) < SAME_POSITION).any())

    @cached_property
    def offsets(self) -> NDArray[np.float64]:
        """Position (slices,) of each slice along the common normal, mm, ascending."""
        return np.array([header.position for header in self.slices]) @ self.normal

    @property
    def slice_distance(self) -> float:
        """Usual distance between slices in mm: the median, of two in the middle the lower."""
        distances = np.sort(np.diff(self.offsets))
        return float(distances[(len(distances) - 1) // 2]) if len(distances) else SINGLE_SLICE_DISTANCE

    def shares_frame(self, other: "Series") -> bool:
        """Whether one frame of reference holds for both."""
        return self.frame_of_reference_uid == other.frame_of_reference_uid != ""


@dataclass(frozen=True)
class Reading:
    """What a folder holds."""

    series: tuple[Series, ...]
    skipped: Counter[str]  # how many files were left aside, by reason
    conflicting: frozenset[str]  # SliceHeader.sop_instance_uid under which different images were found


def list_files(root: Path, leave_out: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change (ns) of every file below a folder but for `leave_out`, sorted; links are followed."""
    found: dict[str, tuple[int, int]] = {}
    folders, seen, unlisted = [os.fspath(root)], {os.path.realpath(leave_out)}, 0
    for folder in folders:
        if (real := os.path.realpath(folder)) in seen:
            continue
        seen.add(real)
        try:
            entries = sorted(os.scandir(folder), key=attrgetter("name"))
        except OSError:
            unlisted += 1
            continue
        for entry in entries:
            try:
                if entry.is_dir():
                    folders.append(entry.path)
                elif entry.is_file():
                    status = entry.stat()
                    found[entry.path] = status.st_size, status.st_mtime_ns
            except OSError:  # a link to nowhere
                continue
    if unlisted:
        log.warning("%d folders cannot be listed, and their files are missing: give the right to read them", unlisted)
    return dict(sorted(found.items()))


def read_series(paths: Sequence[str], executor: Executor, rules: SeriesRules, progress: Progress = unheard) -> Reading:
    """Reads all headers and groups them.

    Of files that hold the same image one is kept. Of different images under one UID one is kept for each place.
    """
    images: dict[str, list[list[SliceHeader]]] = {}  # by SOPInstanceUID; for each file the headers of its frames
    skipped: Counter[str] = Counter()
    read = partial(read_headers, rules=rules)
    for result in spread(executor, read, paths, partial(progress, "headers"), FILES_AT_ONCE):
        if isinstance(result, str):
            skipped[result] += 1
        else:
            images.setdefault(result[0].sop_instance_uid.partition("#")[0], []).append(result)
    pairs = [(copies[0], other) for copies in images.values() for other in copies[1:]]
    kept, conflicting = [copies[0] for copies in images.values()], set[str]()
    for (first, other), same in zip(pairs, spread(executor, _same_image, pairs), strict=True):
        if same:
            skipped["duplicate of another file"] += 1
            continue
        conflicting |= {header.sop_instance_uid for header in (*first, *other)}
        if [_place(header) for header in first] != [_place(header) for header in other]:
            kept.append(other)
    return Reading(tuple(group_series(chain.from_iterable(kept))), skipped, frozenset(conflicting))


def group_series(headers: Iterable[SliceHeader]) -> Iterator[Series]:
    """Slices of one SeriesInstanceUID, in one frame of reference, parallel and of one size, in order along the normal.

    A series of several orientations, as a localiser is, of several sizes or of several stations of the table becomes
    a Series for each of its stacks; a stack of several acquisitions at the same places, one for each acquisition.
    """
    stacks: dict[tuple[object, ...], list[list[SliceHeader]]] = {}
    for header in headers:
        key = header.series_instance_uid, header.frame_of_reference_uid, header.rows, header.columns
        stacks_of_series = stacks.setdefault(key, [])
        stack = next((stack for stack in stacks_of_series if _in_one_stack(stack[0], header)), None)
        if stack is None:
            stacks_of_series.append(stack := [])
        stack.append(header)
    for stack in chain.from_iterable(stacks.values()):
        yield from _acquisitions(stack)


def _acquisitions(stack: list[SliceHeader]) -> list[Series]:
    """The stack by as few facts of the acquisition as it takes, if any do, for no place to repeat."""
    for count in range(len(stack[0].acquisition) + 1):
        parts: dict[tuple[int, ...], list[SliceHeader]] = {}
        for header in stack:
            parts.setdefault(header.acquisition[:count], []).append(header)
        series = [_in_order(part) for part in parts.values()]
        if not any(one.has_repeated_positions for one in series):
            return series
    return [_in_order(stack)]


def _in_order(stack: list[SliceHeader]) -> Series:
    offsets = np.array([header.position for header in stack]) @ stack[0].normal
    return Series(tuple(stack[place] for place in offsets.argsort(kind="stable")))


def _in_one_stack(first: SliceHeader, second: SliceHeader) -> bool:
    spacings = zip(first.pixel_spacing, second.pixel_spacing, strict=True)
    cosines = zip(first.orientation, second.orientation, strict=True)
    apart = [to - start for start, to in zip(first.position, second.position, strict=True)]
    axes = first.orientation[:3], first.orientation[3:]
    shifts = (sum(a * b for a, b in zip(apart, axis, strict=True)) for axis in axes)
    return (
        all(abs(one - other) <= SPACING_TOLERANCE * one for one, other in spacings)
        and all(abs(one - other) <= PARALLEL_TOLERANCE for one, other in cosines)
        and all(abs(shift) < STATION_SHIFT for shift in shifts)
    )


def _same_image(copies: tuple[list[SliceHeader], list[SliceHeader]]) -> bool:
    """Whether two files hold the same image, be it in different encodings."""
    first, other = copies
    try:
        if filecmp.cmp(first[0].path, other[0].path, shallow=False):
            return True
        if [replace(header, path=first[0].path) for header in other] != first:
            return False
        return all(np.array_equal(read_pixels(one), read_pixels(two)) for one, two in zip(first, other, strict=True))
    except (OSError, ValueError):
        return False


def _place(header: SliceHeader) -> tuple[object, ...]:
    return header.series_instance_uid, header.frame_of_reference_uid, header.position, header.orientation
