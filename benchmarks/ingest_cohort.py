"""The cohorts of benchmarks/ingest.py: the phantom at the study's matrix, and many copies of a small one."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
from scipy import ndimage

from datasets.phantom import write_phantom

SIDE, FIELD_OF_VIEW = 512, 300.0  # pixels, mm
OTHERS = {"axial T1W": 20, "axial T2W": 20, "coronal T2W": 12}  # slices
AXIAL = [1, 0, 0, 0, 1, 0]
PIXEL_DATA = b"\xe0\x7f\x10\x00OW\x00\x00"
UID_PREFIX = "1.2.826.0.1.3680043.8.498."  # of what pydicom generates, as the phantom's UIDs are


def write_cohort(folder: Path, patients: int) -> Path:
    """The phantom at the study's matrix, a folder per series: dicom/PATIENT/SERIES/, annotations.csv beside."""
    phantom = folder / "phantom"
    write_phantom(phantom, patients, seed=2022)
    places: dict[str, tuple[float, int]] = {}
    for study in sorted((phantom / "dicom").iterdir()):
        for path in study.iterdir():
            dataset = pydicom.dcmread(path)
            factor, margin = enlarge(dataset)
            places[str(dataset.SOPInstanceUID)] = factor, margin
            target = folder / "dicom" / study.name / f"sagittal-{dataset.SeriesNumber}"
            target.mkdir(parents=True, exist_ok=True)
            dataset.save_as(target / f"{dataset.InstanceNumber:04d}")
        for number, (name, slices) in enumerate(OTHERS.items(), start=1):
            write_other(folder / "dicom" / study.name / name.replace(" ", "-"), dataset, number, slices)
    table = pd.read_csv(phantom / "annotations.csv", dtype={"patient_id": str})
    corners = ["x_min", "y_min", "x_max", "y_max"]
    of_slice = np.array([places[uid] for uid in table["sop_instance_uid"]])
    table[corners] = (table[corners] + 0.5).mul(of_slice[:, 0], axis=0).add(of_slice[:, 1], axis=0) - 0.5
    table.to_csv(folder / "annotations.csv", index=False)
    shutil.rmtree(phantom)
    return folder


def enlarge(dataset: pydicom.Dataset) -> tuple[float, int]:
    """To SIDE pixels over the study's field of view, the phantom in the middle, with noise.

    Returns the factor between the pixels, and how many were added to the left of and above the phantom.
    """
    factor = dataset.PixelSpacing[0] / (FIELD_OF_VIEW / SIDE)
    assert dataset.Rows == dataset.Columns and dataset.PixelSpacing[0] == dataset.PixelSpacing[1]
    anatomy = ndimage.zoom(dataset.pixel_array, factor, order=1, grid_mode=True, mode="nearest")
    factor = len(anatomy) / dataset.Columns
    margin = (SIDE - len(anatomy)) // 2
    pixels = np.random.default_rng(dataset.InstanceNumber).normal(20, 3, (SIDE, SIDE))
    pixels[margin : margin + len(anatomy), margin : margin + len(anatomy)] += anatomy
    dataset.PixelData = pixels.clip(0).astype("<u2").tobytes()
    dataset.PixelSpacing = [spacing / factor for spacing in dataset.PixelSpacing]
    directions = np.reshape(dataset.ImageOrientationPatient, (2, 3)).astype(float)
    corner = np.array(dataset.ImagePositionPatient, dtype=float)
    shift = (0.5 - 0.5 * factor + margin) * dataset.PixelSpacing[0]  # of the first pixel's centre
    dataset.ImagePositionPatient = [f"{value:.9g}" for value in corner - directions.sum(axis=0) * shift]
    dataset.Rows = dataset.Columns = SIDE
    return factor, margin


def write_other(folder: Path, like: pydicom.Dataset, number: int, slices: int) -> None:
    folder.mkdir(parents=True)
    like.SeriesInstanceUID, like.ImageOrientationPatient = f"{like.StudyInstanceUID}.{number}"[-64:], AXIAL
    for index in range(slices):
        like.SOPInstanceUID = f"{like.SeriesInstanceUID}.{index}"[-64:]
        like.file_meta.MediaStorageSOPInstanceUID, like.InstanceNumber = like.SOPInstanceUID, index + 1
        like.ImagePositionPatient = [0, 0, 4 * index]
        like.save_as(folder / f"{index:04d}")


def multiply(phantom: Path, folder: Path, patients: int) -> int:
    """Copies of the phantom's studies as so many patients, with UIDs and a pixel of their own."""
    studies = sorted((phantom / "dicom").iterdir())
    table = pd.read_csv(phantom / "annotations.csv", dtype=str)
    rows, files = [], 0
    for number in range(patients):
        source = number % len(studies)
        own, prefix = f"{number:05d}", f"1.2.826.0.1.{10**12 + number}."
        (folder / "dicom" / own).mkdir(parents=True)
        for path in studies[source].iterdir():
            content = path.read_bytes()
            pixels = content.rindex(PIXEL_DATA) + len(PIXEL_DATA) + 4  # behind the length
            content = content[:pixels] + (number + 1).to_bytes(2, "little") + content[pixels + 2 :]
            (folder / "dicom" / own / path.name).write_bytes(content.replace(UID_PREFIX.encode(), prefix.encode()))
            files += 1
        of_study = table[table["patient_id"] == table["patient_id"].unique()[source]].copy()
        of_study["patient_id"] = own
        of_study["sop_instance_uid"] = of_study["sop_instance_uid"].str.replace(UID_PREFIX, prefix, regex=False)
        rows.append(of_study)
    pd.concat(rows).to_csv(folder / "annotations.csv", index=False)
    return files
