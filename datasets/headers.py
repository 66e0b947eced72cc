"""One DICOM file to slice headers: identity, geometry and contrast of each image in it, without its pixels.

Nothing that identifies a person leaves this file: no names, dates or free text, only UIDs, geometry and timing.
Coordinates are DICOM patient coordinates (LPS) in mm; pixel coordinates are (x = column, y = row), 0 at the
centre of the first pixel.
"""

import io
import math
import re
import warnings
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.datadict import dictionary_VR
from pydicom.dataset import Dataset
from pydicom.tag import BaseTag, Tag
from pydicom.uid import UID, MediaStorageDirectoryStorage

from datasets.dicom_file import SkipError, read_before_pixels
from datasets.plain_elements import NotPlainError, plain_dataset, read_plain
from datasets.series_rules import SeriesRules, Trait, Weighting

MOST_PIXELS = 2**22  # of an image: above 2048 by 2048 a size is taken for damage
LONGEST_DESCRIPTION = 256  # characters; DICOM allows 64, and some patterns take long on more than these
UNIT_TOLERANCE = 1e-2  # of direction cosines, which some writers round to two places

_UID = re.compile(r"[0-9.]{1,64}")
_IMAGE = ("Modality", "Rows", "Columns", "SamplesPerPixel", "NumberOfFrames")
_UIDS = ("SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID")
_PLACE = ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing")
_CONTRAST = (
    *("RepetitionTime", "EchoTime", "InversionTime", "ScanningSequence", "ScanOptions", "ImageType"),
    *("ContrastBolusAgent", "SeriesDescription", "ProtocolName"),
)
_PULSES = ("EchoPulseSequence", "EchoPlanarPulseSequence")
_ENHANCED = (*_PULSES, "SpectrallySelectedSuppression", "ContrastBolusAgentSequence")
_REPETITION = ("DiffusionBValue", "TemporalPositionIdentifier", "EchoNumbers", "AcquisitionNumber")
_SINGLE_FRAME = (*_IMAGE, *_UIDS, *_PLACE, *_CONTRAST, *_ENHANCED, *_REPETITION)
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_TAGS = [Tag(keyword) for keyword in (*_SINGLE_FRAME, *_GROUPS)]
_WANTED = frozenset(map(int, _TAGS))  # as plain numbers, which compare faster
_OF_SLICE = (int(Tag("SOPInstanceUID")), int(Tag("ImagePositionPatient")))
_GROUP_TAGS = [int(Tag(keyword)) for keyword in _GROUPS]
_KEYWORDS = {Tag(keyword): keyword for keyword in _SINGLE_FRAME}
_VRS = {tag: dictionary_VR(tag) for tag in _KEYWORDS}
_OF_FRAMES = {Tag(name): name for name in (*_PLACE, *_CONTRAST, *_REPETITION, "InversionRecovery")} | {
    Tag("EffectiveEchoTime"): "EchoTime",
    Tag("InversionTimes"): "InversionTime",
    Tag("FrameType"): "ImageType",
    Tag("TemporalPositionIndex"): "TemporalPositionIdentifier",
    Tag("FrameAcquisitionNumber"): "AcquisitionNumber",
}  # in functional groups, and the same facts' names in a single-frame image


@dataclass(frozen=True, slots=True)
class SliceHeader:
    """Identity, geometry and contrast of one image, or of one frame of a multi-frame image."""

    path: str = field(repr=False)
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
    acquisition: tuple[int, ...]  # digests of what tells images at one position apart, the most telling first

    @property
    def normal(self) -> NDArray[np.float64]:
        """Unit vector (3,) across the slice, towards the patient's left, back or head, whichever is nearest."""
        across = np.cross(self.orientation[:3], self.orientation[3:])
        along_nearest_axis = across[np.abs(across).argmax()]
        unit: NDArray[np.float64] = across / np.copysign(np.linalg.norm(across), along_nearest_axis)
        return unit


def read_headers(path: str, rules: SeriesRules) -> list[SliceHeader] | str:
    """A header for each frame of a file, or why it holds no image that has a place in the patient."""
    try:
        with warnings.catch_warnings(action="ignore"):  # they quote the file
            with suppress(NotPlainError, ValueError):
                return [_plain_header(path, rules)]
            dataset = read_before_pixels(path, _TAGS)
            if dataset.file_meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
                return "DICOMDIR"
            frames = _frames(dataset)
            return [_slice_header(path, index if len(frames) > 1 else None, facts, rules) for index, facts in frames]
    except SkipError as reason:
        return str(reason)
    except Exception as error:  # pydicom raises whatever a damaged file provokes, OSError too but without a number
        return "unreadable file" if getattr(error, "errno", None) else "unreadable header"


def _plain_header(path: str, rules: SeriesRules) -> SliceHeader:
    """A slice has its UID and position to itself; the rest is worked out once for all slices that have the same.

    Raises:
        NotPlainError, ValueError: the file is to be read by pydicom.
        SkipError: it holds no image that has a place in the patient.
    """
    with io.FileIO(path) as file:
        plain = read_plain(file, _WANTED)
    uid, position = (_split(plain.value(tag)) for tag in _OF_SLICE)
    if len(uid) > 1 or not _UID.fullmatch(uid[0]) or any(tag in plain.wanted for tag in _GROUP_TAGS):
        raise NotPlainError
    common = _header_in_common(plain.encoded(without=_OF_SLICE), plain.syntax, rules)
    if isinstance(common, SkipError):
        raise common
    return replace(common, path=path, sop_instance_uid=uid[0], position=_numbers(map(float, position), 3))


@lru_cache(64)
def _header_in_common(encoded: bytes, syntax: UID, rules: SeriesRules) -> SliceHeader | SkipError:
    """The header of a slice that stands nowhere yet."""
    try:
        ((_, facts),) = _frames(plain_dataset(encoded, syntax))
        facts |= {"SOPInstanceUID": "0", "ImagePositionPatient": [0, 0, 0]}
        return _slice_header("", None, facts, rules)
    except SkipError as reason:
        return reason


def _frames(dataset: Dataset) -> list[tuple[int, dict[str, Any]]]:
    """Index and facts of each frame, in a multi-frame image from its functional groups."""
    facts = dict.fromkeys(_SINGLE_FRAME) | {
        _KEYWORDS[tag]: _value(dataset, tag) for tag in dataset.keys() & _KEYWORDS.keys()
    }
    rows, columns = int(facts["Rows"] or 0), int(facts["Columns"] or 0)
    if not rows or not columns:
        raise SkipError("not an image")
    if facts["Modality"] not in (None, "", "MR"):  # a segmentation, too, has its place and a description
        raise SkipError("not MR")
    if rows * columns > MOST_PIXELS:
        raise SkipError("image size beyond measure")
    if facts["SamplesPerPixel"] not in (None, 1):
        raise SkipError("colour image")
    shared, of_frames = (dataset.get(name) or [] for name in _GROUPS)
    count = int(facts["NumberOfFrames"] or 1)
    if count == 1 and not of_frames:
        return [(0, facts)]
    if not 1 <= count <= len(of_frames):
        raise SkipError("multi-frame image without functional groups for every frame")
    for group in shared[:1]:
        facts |= _group_facts(group)
    return [(index, facts | _group_facts(group)) for index, group in enumerate(of_frames[:count])]


def _value(dataset: Dataset, tag: BaseTag) -> Any:
    """Value of an element; plain text without pydicom's conversion, which would take longer than all the rest."""
    raw = dataset.get_item(tag).value
    if _VRS[tag] not in ("CS", "DS", "IS", "UI") or not isinstance(raw, bytes):
        return dataset[tag].value
    texts = _split(raw)
    return texts if len(texts) > 1 else texts[0]


def _split(raw: bytes) -> list[str]:
    return raw.decode("ascii", "replace").rstrip("\0 ").split("\\")


def _group_facts(group: Dataset) -> dict[str, Any]:
    sequences = [element.value for element in group if element.VR == "SQ" and not element.is_private]
    items = [item for sequence in sequences for item in sequence[:1]]
    return {_OF_FRAMES[tag]: item[tag].value for item in items for tag in item.keys() & _OF_FRAMES.keys()}


def _slice_header(path: str, frame: int | None, facts: dict[str, Any], rules: SeriesRules) -> SliceHeader:
    if any(not facts[name] for name in _PLACE):
        raise SkipError("image without position, orientation or pixel spacing")
    uids = [str(facts[name] or "") for name in _UIDS]
    if not all(_UID.fullmatch(uid) for uid in uids[:3]):
        raise SkipError("image with a missing or malformed UID")
    description = str(facts["SeriesDescription"] or facts["ProtocolName"] or "")[:LONGEST_DESCRIPTION]
    image_types = _texts(facts["ImageType"])[2:]
    echo_time, inversion_time = (_number(facts[name]) for name in ("EchoTime", "InversionTime"))
    times = (_number(facts["RepetitionTime"]), echo_time) if _is_spin_echo(facts) else (None, None)
    return SliceHeader(
        path=path,
        frame=frame,
        sop_instance_uid=uids[0] if frame is None else f"{uids[0]}#{frame + 1}",
        series_instance_uid=uids[1],
        study_instance_uid=uids[2],
        frame_of_reference_uid=uids[3] if _UID.fullmatch(uids[3]) else "",
        rows=int(facts["Rows"]),
        columns=int(facts["Columns"]),
        **_place(facts),
        weighting=rules.weighting(*times, description),
        traits=rules.traits(
            " ".join([description, *_texts(facts["ScanOptions"]), *image_types, *_suppression(facts)]),
            _agent(facts),
            inversion_time if _is_inversion_recovery(facts) else None,
        ),
        acquisition=tuple(
            zlib.crc32(repr(fact).encode())
            for fact in (image_types, echo_time, inversion_time, *(_texts(facts[name]) for name in _REPETITION))
        ),
    )


def _place(facts: dict[str, Any]) -> dict[str, Any]:
    position, orientation, spacing = (
        _numbers(facts[name], count) for name, count in zip(_PLACE, (3, 6, 2), strict=True)
    )
    row, column = np.reshape(orientation, (2, 3))
    off = np.linalg.norm(row) - 1, np.linalg.norm(column) - 1, row @ column
    if np.abs(off).max() > UNIT_TOLERANCE or min(spacing) <= 0:
        raise SkipError("image with impossible orientation or pixel spacing")
    return {"position": position, "orientation": orientation, "pixel_spacing": spacing}


def _is_spin_echo(facts: dict[str, Any]) -> bool:
    """Whether repetition and echo time tell the weighting: not in gradient echo and echo-planar images."""
    other = {"GR", "EP"} & set(_texts(facts["ScanningSequence"]))
    return not other and facts["EchoPulseSequence"] != "GRADIENT" and facts["EchoPlanarPulseSequence"] != "YES"


def _is_inversion_recovery(facts: dict[str, Any]) -> bool:
    return "IR" in _texts(facts["ScanningSequence"]) or facts.get("InversionRecovery") == "YES"


def _agent(facts: dict[str, Any]) -> str:
    return "agent" if facts["ContrastBolusAgentSequence"] else str(facts["ContrastBolusAgent"] or "")


def _suppression(facts: dict[str, Any]) -> list[str]:
    return ["fatsat"] if str(facts["SpectrallySelectedSuppression"] or "").startswith("FAT") else []


def _texts(value: Any) -> list[str]:
    """A text element of any number of values."""
    if value in (None, ""):
        return []
    several = isinstance(value, Iterable) and not isinstance(value, str)
    return [str(one) for one in value] if several else [str(value)]


def _numbers(values: Iterable[float], count: int) -> tuple[float, ...]:
    numbers = tuple(float(value) for value in values)
    if len(numbers) != count or not all(math.isfinite(number) for number in numbers):
        raise ValueError(f"{count} finite numbers expected")
    return numbers


def _number(value: Any) -> float | None:
    """The first value, None where there is none or it is no number."""
    texts = _texts(value)
    with suppress(ValueError):  # as if it were missing
        return float(texts[0]) if texts else None
    return None
