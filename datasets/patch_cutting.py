"""What the processes of an ingest do: cut one patient's patches out of its images, each image read once.

Apart from patches.py, so that the processes need not import pandas before they start.
"""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.geometry import Box, patch_to_channels, sample
from datasets.headers import SliceHeader
from datasets.pixels import read_pixels

SCALE_PERCENTILE = 99.0
FLOAT16_LIMIT = 60_000.0
KEPT_BYTES = 2**24  # of a patient's images


class PatientBoxes(NamedTuple):
    """The work of one process at a time: rows of the array, each with its box and images."""

    patient_id: str
    rows: list[tuple[int, Box, tuple[SliceHeader, ...]]]


class Written(NamedTuple):
    """What came of a patient: why images cannot be read, else a digest of each image's pixels."""

    patient_id: str
    failures: dict[str, str]
    contents: dict[str, str]


def file_hash(path: str | Path) -> str:
    with io.FileIO(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def cut_patches(file: Path, context: float, patient: PatientBoxes) -> Written:
    """Write a patient's rows into the array (lesion slices, 6, side, side) of a file; `context` in box sides."""
    # Once this was freed, glibc keeps as much for the images instead of fetching new pages for each (mallopt(3), on
    # M_MMAP_THRESHOLD), which took a third of the time.
    np.empty(KEPT_BYTES, np.uint8)
    pixels: dict[SliceHeader, NDArray[Any]] = {}
    failures: dict[str, str] = {}
    for header in {header for _, _, images in patient.rows for header in images}:
        try:
            pixels[header] = read_pixels(header)
        except ValueError as error:
            failures[header.sop_instance_uid] = str(error)
    if failures:
        return Written(patient.patient_id, failures, {})
    samples = {header: image[::4, ::4].astype(np.float32) for header, image in pixels.items()}
    scales = {header: _intensity_scale(image, samples[header]) for header, image in pixels.items()}
    array = np.load(file, mmap_mode="r+")
    side = array.shape[-1]
    for row, box, images in patient.rows:
        matrices = patch_to_channels(box, images, context, side)
        for channel, (header, matrix) in enumerate(zip(images, matrices, strict=True)):
            values = sample(pixels[header], matrix, side) / scales[header]
            array[row, channel] = np.clip(values, -FLOAT16_LIMIT, FLOAT16_LIMIT)
    contents = {one.sop_instance_uid: _digest(image) for one, image in samples.items() if np.ptp(image) > 0}
    return Written(patient.patient_id, {}, contents)


def _digest(sample: NDArray[np.float32]) -> str:
    """Images that agree in every fourth row and column are one image: noise would tell others apart."""
    return hashlib.sha256(sample.tobytes()).hexdigest()


def _intensity_scale(image: NDArray[Any], sample: NDArray[np.float32]) -> np.float32:
    """The 99th percentile of the sample's magnitudes, or the image's largest one where that is 0."""
    return np.float32(np.percentile(np.abs(sample), SCALE_PERCENTILE) or np.abs(image.astype(np.float32)).max() or 1.0)
