"""Writes small MR DICOM series of chosen geometry for the tests; kept apart from the package's own phantom."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, EnhancedMRImageStorage, ExplicitVRLittleEndian, MRImageStorage
from scipy.spatial.transform import Rotation

from datasets.dicom import Reading, Series, list_files, read_series
from datasets.series_rules import SeriesRules

COMMON = Path(__file__).parents[1] / "conf" / "data" / "common.yaml"
SERIES_RULES = SeriesRules(**yaml.safe_load(COMMON.read_text("utf-8"))["series"])
T1W = {"RepetitionTime": 400.0, "EchoTime": 15.0}
T2W = {"RepetitionTime": 3200.0, "EchoTime": 90.0}
SAGITTAL = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0]])  # directions of a row and of a column, patient coordinates

Brightness = Callable[[NDArray[np.float64]], NDArray[np.float64]]
"""Stored values at patient coordinates (rows, columns, 3) in mm."""


def texture(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """A smooth pattern without symmetry that fills the whole space."""
    x, y, z = np.moveaxis(points, -1, 0)
    values: NDArray[np.float64] = 500 + 200 * np.sin(y / 7) + 150 * np.cos(z / 9) + 50 * np.sin(x / 5)
    return values


def tilted(degrees: tuple[float, float, float]) -> NDArray[np.float64]:
    """Sagittal row and column directions rotated about the patient's x, y and z axes."""
    rotated: NDArray[np.float64] = np.asarray(
        Rotation.from_euler("xyz", degrees, degrees=True).apply(SAGITTAL), dtype=np.float64
    )
    return rotated


@dataclass(frozen=True)
class Stack:
    """Geometry and identity of one series; `centre` is the patient coordinate (mm) of the stack's middle."""

    uid: str
    study: str
    frame_of_reference: str
    rows: int = 48
    columns: int = 40
    spacing: tuple[float, float] = (2.0, 2.0)  # mm between rows, between columns
    slices: int = 7
    thickness: float = 4.0
    directions: NDArray[np.float64] = field(default_factory=lambda: SAGITTAL)
    centre: tuple[float, float, float] = (3.0, -20.0, 11.0)
    tags: dict[str, Any] = field(default_factory=lambda: dict(T2W))

    def sop(self, index: int) -> str:
        return f"{self.uid}.{index + 1}"

    def position(self, index: int) -> NDArray[np.float64]:
        along_row, along_column = self.directions
        normal = np.cross(along_row, along_column)
        offset = normal * self.thickness * (index - (self.slices - 1) / 2)
        corner = along_row * self.spacing[1] * (self.columns - 1) / 2
        corner = corner + along_column * self.spacing[0] * (self.rows - 1) / 2
        position: NDArray[np.float64] = np.array(self.centre) + offset - corner
        return position

    def points(self, index: int) -> NDArray[np.float64]:
        """Patient coordinates (rows, columns, 3) of the pixel centres in mm."""
        row, column = np.mgrid[: self.rows, : self.columns]
        along_row, along_column = self.directions
        steps = column[..., None] * self.spacing[1] * along_row + row[..., None] * self.spacing[0] * along_column
        points: NDArray[np.float64] = self.position(index) + steps
        return points


def slice_dataset(stack: Stack, index: int, pixels: NDArray[np.float64]) -> Dataset:
    """One single-frame MR image with 16 stored bits, values rounded."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = MRImageStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = UID(stack.sop(index))
    dataset.Modality, dataset.PatientID = "MR", "hospital-number"
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID = stack.study, stack.uid
    dataset.FrameOfReferenceUID, dataset.InstanceNumber = stack.frame_of_reference, index + 1
    dataset.ImagePositionPatient = [float(f"{value:.8g}") for value in stack.position(index)]
    dataset.ImageOrientationPatient = [float(f"{value:.10f}") for value in stack.directions.ravel()]
    dataset.PixelSpacing = list(stack.spacing)
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = stack.rows, stack.columns, 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", 0
    dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit = 16, 16, 15
    dataset.PixelData = np.rint(pixels).astype("<u2").tobytes()
    for keyword, value in stack.tags.items():
        setattr(dataset, keyword, value)
    return dataset


def enhanced_dataset(stack: Stack, brightness: Brightness = texture, order: Sequence[int] | None = None) -> Dataset:
    """The whole stack as one Enhanced MR image; what its slices share stands in the shared functional groups."""
    indices = list(range(stack.slices) if order is None else order)
    singles = [slice_dataset(stack, index, brightness(stack.points(index))) for index in indices]
    dataset = slice_dataset(stack, 0, np.zeros((stack.rows, stack.columns)))
    for keyword in ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", *stack.tags):
        delattr(dataset, keyword)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(singles)
    dataset.PixelData = b"".join(single.PixelData for single in singles)
    first = singles[0]
    shared = _item(PlaneOrientationSequence={"ImageOrientationPatient": first.ImageOrientationPatient})
    shared.update(_item(PixelMeasuresSequence={"PixelSpacing": first.PixelSpacing}))
    shared.update(_item(MRTimingAndRelatedParametersSequence={"RepetitionTime": stack.tags["RepetitionTime"]}))
    dataset.SharedFunctionalGroupsSequence = [shared]
    dataset.PerFrameFunctionalGroupsSequence = [
        _item(
            PlanePositionSequence={"ImagePositionPatient": single.ImagePositionPatient},
            MREchoSequence={"EffectiveEchoTime": stack.tags["EchoTime"]},
        )
        for single in singles
    ]
    return dataset


def _item(**sequences: dict[str, Any]) -> Dataset:
    """A functional group: sequences of one item each."""
    group = Dataset()
    for sequence, attributes in sequences.items():
        item = Dataset()
        for keyword, value in attributes.items():
            setattr(item, keyword, value)
        setattr(group, sequence, [item])
    return group


def write_stack(folder: Path, stack: Stack, brightness: Brightness = texture) -> None:
    """Writes the slices in an order and under names that say nothing about their position."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(stack.slices):
        name = f"{(index * 37 + 11) % 101:03d}-{stack.uid.replace('.', '')}"
        slice_dataset(stack, index, brightness(stack.points(index))).save_as(folder / name, enforce_file_format=True)


def study(number: int, **t1_geometry: Any) -> tuple[Stack, Stack]:
    """T2W and T1W stack of one study; the keywords change the T1W stack."""
    root, frame = f"1.2.3.{number}", f"1.2.3.{number}.9"
    t2 = Stack(f"{root}.2", root, frame)
    t1 = Stack(**{"uid": f"{root}.1", "study": root, "frame_of_reference": frame, "tags": dict(T1W), **t1_geometry})
    return t2, t1


def annotation(patient: str, label: int, stack: Stack, index: int, box: tuple[float, ...]) -> dict[str, Any]:
    """A row of annotations.csv."""
    corners = dict(zip(("x_min", "y_min", "x_max", "y_max"), box, strict=True))
    return {"patient_id": patient, "label": label, "sop_instance_uid": stack.sop(index), **corners}


def read_folder(folder: Path) -> Reading:
    """Everything in a folder, by the default rules."""
    with ThreadPoolExecutor(1) as executor:
        return read_series(list(list_files(folder, leave_out=folder / "cache")), executor, SERIES_RULES)


def series_in(folder: Path) -> list[Series]:
    return list(read_folder(folder).series)
