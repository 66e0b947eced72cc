"""Pixels of an image as numbers: every encoding that hospitals use, or the reason why not."""

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.pixels.processing import apply_rescale

from datasets.dicom import SliceHeader


def read_pixels(header: SliceHeader) -> NDArray[np.float32]:
    """Image (rows, columns) after rescale slope and intercept.

    Raises:
        ValueError: the pixel data cannot be decoded or do not have the header's shape; says why, without the path.
    """
    syntax = "unknown transfer syntax"
    try:
        dataset = pydicom.dcmread(header.path)
        syntax = dataset.file_meta.TransferSyntaxUID.name
        pixels = apply_rescale(dataset.pixel_array, dataset)
    except Exception as error:  # decoders raise whatever a damaged file provokes
        raise ValueError(f"pixel data cannot be decoded ({syntax}, {type(error).__name__})") from error
    if not np.isfinite(pixels).all():
        raise ValueError("pixel data hold values that are not numbers")
    if pixels.shape != (header.rows, header.columns):
        raise ValueError(f"pixel data have shape {pixels.shape}, not {(header.rows, header.columns)} as before")
    return np.asarray(pixels, dtype=np.float32)
