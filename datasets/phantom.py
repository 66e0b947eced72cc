"""A synthetic cohort on disk: real DICOM MR files, annotations, Table 1's features and simulated readers."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from datasets.phantom_anatomy import ABNORMAL, Anatomy, draw_anatomy
from datasets.phantom_dicom import slice_uid, write_study
from datasets.phantom_features import BENIGN_PATIENTS, MALIGNANT_PATIENTS, draw_calls, draw_features
from datasets.phantom_series import Grid, Series, acquire_study
from datasets.workers import spread, workers

README = """Synthetic data: no patient was imaged. Written by datasets/phantom.py, patients={patients} seed={seed}.
dicom/           MR images of mathematical spines (sagittal T1W and T2W, axial T2W)
annotations.csv  boxes around the abnormal vertebra on sagittal T2W slices, label 1 = malignant
features.csv     imaging features of each patient, frequencies from Yeh et al. 2022, Table 1
readers.csv      simulated readers, sensitivity and specificity from Yeh et al. 2022, Table 2
"""

PHANTOM_VERSION = 1  # raised when the same (patients, seed) no longer gives the same bytes


class PhantomError(ValueError):
    """Arguments from which no phantom can be written; says what to write instead."""


class Patient(NamedTuple):
    """One synthetic patient in memory."""

    patient_id: str
    label: int
    features: dict[str, bool]
    calls: dict[str, int]
    anatomy: Anatomy
    study: list[Series]
    boxes: dict[int, tuple[float, float, float, float]]  # T2W slice: x_min, y_min, x_max, y_max in pixels


def write_phantom(
    folder: Path,
    patients: int,
    seed: int,
    processes: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Write a cohort of `patients` to `folder`: the same bytes for the same (patients, seed).

    `progress` is called with (patients written, patients). Raises PhantomError for arguments that cannot work.
    """
    _check(folder, patients, seed, processes)
    labels = draw_labels(patients, seed)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-unfinished-", dir=folder.parent) as temporary:
        unfinished = Path(temporary, "phantom")
        with workers(processes) as pool:
            rows = spread(pool, partial(_write_patient, unfinished, seed), list(enumerate(labels)), progress)
        for name, tables in zip(("annotations", "features", "readers"), zip(*rows, strict=True), strict=True):
            pd.concat(tables).to_csv(unfinished / f"{name}.csv", index=False)
        (unfinished / "README.txt").write_text(README.format(patients=patients, seed=seed))
        unfinished.rename(folder)


def _check(folder: Path, patients: int, seed: int, processes: int | None) -> None:
    if patients < 4:
        raise PhantomError(f"patients={patients}: a phantom needs both classes; write patients=4 or more")
    if patients > 9999:
        raise PhantomError(f"patients={patients}: write patients=9999 or fewer")
    if seed < 0:
        raise PhantomError(f"seed={seed}: write a seed of 0 or more")
    if processes is not None and processes < 1:
        raise PhantomError(f"processes={processes}: write processes=1 or more, or leave it out")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PhantomError(f"{folder} exists already: name a new or an empty folder")


def draw_labels(patients: int, seed: int) -> list[int]:
    """Label of each patient, 50 of 190 malignant as in the study, in random order."""
    share = MALIGNANT_PATIENTS / (MALIGNANT_PATIENTS + BENIGN_PATIENTS)
    labels = np.zeros(patients, int)
    labels[: max(2, round(patients * share))] = 1
    return [int(label) for label in np.random.default_rng([seed, 0]).permutation(labels)]


def simulate_patient(seed: int, index: int, label: int) -> Patient:
    """Patient number `index` of the cohort of this seed, whatever the process that asks."""
    generator = np.random.default_rng([seed, 1 + index])
    features = draw_features(label, generator)
    calls = draw_calls(label, generator)
    anatomy = draw_anatomy(features, generator)
    study = acquire_study(anatomy, generator)
    boxes = _draw_boxes(anatomy, study[0].grid, generator)
    return Patient(f"SYNTHETIC-{index + 1:04d}", label, features, calls, anatomy, study, boxes)


def _draw_boxes(
    anatomy: Anatomy, grid: Grid, generator: np.random.Generator
) -> dict[int, tuple[float, float, float, float]]:
    """Square boxes, nearly tight, on two to four neighbouring slices through the middle of the abnormal body."""
    body = anatomy.vertebrae[ABNORMAL]
    count = int(generator.integers(2, 5))
    middle = grid.pixel_of(np.array(body.centre))[2] + generator.uniform(-0.5, 0.5)
    first = int(np.clip(round(middle - (count - 1) / 2), 1, grid.shape[0] - 1 - count))
    boxes = {}
    for index in range(first, first + count):
        half = body.half_extent() / grid.spacing[0] * generator.uniform(1.0, 1.05)
        x, y = _centre_on_slice(anatomy, grid, index) + half * generator.uniform(-0.025, 0.025, 2)
        boxes[index] = (x - half, y - half, x + half, y + half)
    return boxes


def _centre_on_slice(anatomy: Anatomy, grid: Grid, index: int) -> np.ndarray:
    """(column, row) where the left-to-right axis of the abnormal body crosses a slice."""
    centre = np.array(anatomy.vertebrae[ABNORMAL].centre)
    normal = grid.axes[2]
    along = (grid.corner(index) - centre) @ normal / normal[0]
    return grid.pixel_of(centre + np.array([along, 0, 0]))[:2]


def _write_patient(folder: Path, seed: int, indexed_label: tuple[int, int]) -> tuple[pd.DataFrame, ...]:
    """Write the files of a patient (index, label); its rows of annotations, features and readers."""
    index, label = indexed_label
    patient = simulate_patient(seed, index, label)
    write_study(folder / "dicom" / f"{index + 1:04d}", patient.patient_id, patient.study, seed)
    annotations = pd.DataFrame(
        {
            "patient_id": patient.patient_id,
            "label": label,
            "sop_instance_uid": slice_uid(seed, patient.patient_id, patient.study[0].name, number),
        }
        | dict(zip(("x_min", "y_min", "x_max", "y_max"), np.round(box, 2), strict=True))
        for number, box in patient.boxes.items()
    )
    features = pd.DataFrame([{"patient_id": patient.patient_id} | patient.features]).astype(
        dict.fromkeys(patient.features, int)
    )
    readers = pd.DataFrame(
        {"patient_id": patient.patient_id, "reader": list(patient.calls), "call": list(patient.calls.values())}
    )
    return annotations, features, readers
