"""A synthetic cohort on disk: real DICOM MR files, annotations, Table 1's features and simulated readers."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.annotations import BOX, CohortError
from datasets.phantom_anatomy import ABNORMAL, Vertebra, draw_anatomy, half_extent
from datasets.phantom_dicom import uid, write_study
from datasets.phantom_features import BENIGN_PATIENTS, MALIGNANT_PATIENTS, draw_calls, draw_features
from datasets.phantom_series import Grid, Series, acquire_study
from datasets.workers import spread, unheard, workers

README = """Synthetic data: no patient was imaged. Written by datasets/phantom.py, patients={patients} seed={seed}.
dicom/           MR images of mathematical spines (sagittal T1W and T2W, axial T2W)
annotations.csv  boxes around the abnormal vertebra on sagittal T2W slices, label 1 = malignant
features.csv     imaging features of each patient, frequencies from Yeh et al. 2022, Table 1
readers.csv      simulated readers, sensitivity and specificity from Yeh et al. 2022, Table 2
"""

PHANTOM_VERSION = 1  # raised when the same (patients, seed) no longer gives the same bytes


def write_phantom(
    folder: Path,
    patients: int,
    seed: int,
    processes: int | None = None,
    progress: Callable[[int, int], object] = unheard,
) -> None:
    """Write a cohort of `patients` to `folder`: the same bytes for the same (patients, seed).

    `progress` is called with (patients written, patients). Raises CohortError for arguments that cannot work.
    """
    if not 4 <= patients <= 9999:
        raise CohortError(f"patients={patients}: a phantom has both classes; write patients=4 or more, up to 9999")
    if seed < 0:
        raise CohortError(f"seed={seed}: write a seed of 0 or more")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise CohortError(f"{folder} exists already: name a new or an empty folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}-unfinished-", dir=folder.parent) as temporary:
        unfinished = Path(temporary, "phantom")
        with workers(processes) as pool:
            labels = list(enumerate(draw_labels(patients, seed)))
            tables = spread(pool, partial(_write_patient, unfinished, seed), labels, progress)
        for name in tables[0]:
            pd.concat(of_patient[name] for of_patient in tables).to_csv(unfinished / f"{name}.csv", index=False)
        (unfinished / "README.txt").write_text(README.format(patients=patients, seed=seed))
        unfinished.rename(folder)


def draw_labels(patients: int, seed: int) -> list[int]:
    """Label of each patient, 50 of 190 malignant as in the study, in random order."""
    share = MALIGNANT_PATIENTS / (MALIGNANT_PATIENTS + BENIGN_PATIENTS)
    labels = np.arange(patients) < max(2, round(patients * share))
    return [int(label) for label in np.random.default_rng([seed, 0]).permutation(labels)]


def simulate_patient(seed: int, index: int, label: int) -> tuple[list[Series], dict[str, pd.DataFrame]]:
    """Patient number `index` of the cohort of this seed: the study, and the patient's rows of the three tables."""
    patient_id, generator = f"SYNTHETIC-{index + 1:04d}", np.random.default_rng([seed, 1 + index])
    features = draw_features(label, generator)
    calls = draw_calls(label, generator)
    anatomy = draw_anatomy(features, generator)
    study = acquire_study(anatomy, generator)
    boxes = _draw_boxes(anatomy.vertebrae[ABNORMAL], study[0].grid, generator)
    slices = [uid(seed, patient_id, study[0].name, number) for number in boxes]
    lesions = pd.DataFrame({"patient_id": patient_id, "label": label, "sop_instance_uid": slices})
    return study, {
        "annotations": lesions.join(pd.DataFrame(boxes.values(), columns=BOX).round(2)),
        "features": pd.DataFrame([{"patient_id": patient_id} | {name: int(has) for name, has in features.items()}]),
        "readers": pd.DataFrame({"patient_id": patient_id, "reader": calls.keys(), "call": calls.values()}),
    }


def _draw_boxes(
    body: Vertebra, grid: Grid, generator: np.random.Generator
) -> dict[int, tuple[float, float, float, float]]:
    """Square boxes (as BOX) by slice, nearly tight, on two to four neighbouring ones through the middle of the body."""
    centre, normal, count = np.array(body.centre), grid.axes[2], int(generator.integers(2, 5))
    middle = grid.pixel_of(centre)[2] + generator.uniform(-0.5, 0.5)
    first = int(np.clip(round(middle - (count - 1) / 2), 1, grid.shape[0] - 1 - count))
    boxes = {}
    for index in range(first, first + count):
        half = half_extent(body) / grid.spacing[0] * generator.uniform(1.0, 1.05)
        along = (grid.corner(index) - centre) @ normal / normal[0]  # mm from the centre to the slice, to the left
        x, y = grid.pixel_of(centre + np.array([along, 0, 0]))[:2] + half * generator.uniform(-0.025, 0.025, 2)
        boxes[index] = (x - half, y - half, x + half, y + half)
    return boxes


def _write_patient(folder: Path, seed: int, indexed_label: tuple[int, int]) -> dict[str, pd.DataFrame]:
    """Write the files of a patient (index, label); the rows of the tables."""
    study, tables = simulate_patient(seed, *indexed_label)
    write_study(folder / "dicom" / f"{indexed_label[0] + 1:04d}", tables["features"]["patient_id"][0], study, seed)
    return tables
