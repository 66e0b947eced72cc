"""Affine maps between patch, pixel and patient coordinates, and sampling along them.

Pixel coordinates are (x = column, y = row) with 0 at the centre of the first pixel; patient coordinates are DICOM's
(LPS) in mm. Planar maps are homogeneous 3 by 3 matrices or their first two rows (2 by 3), acting on (x, y, 1).
DICOM PS3.3 C.7.6.2.1.1, equation C.7.6.2.1-1.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from datasets.dicom import SliceHeader

LARGEST_STEP = 1.5  # source pixels per patch pixel above which the source is smoothed against aliasing

Matrix = NDArray[np.float64]


class Box(NamedTuple):
    """A lesion's box in pixels of its slice: outer edges, continuous coordinates."""

    x_min: float
    y_min: float
    x_max: float
    y_max: float

    @property
    def centre(self) -> tuple[float, float]:
        return (self.x_min + self.x_max) / 2, (self.y_min + self.y_max) / 2


def pixel_to_patient(header: SliceHeader) -> Matrix:
    """(3, 3): (x, y, 1) in pixels to patient coordinates in mm."""
    row_direction, column_direction = np.reshape(header.orientation, (2, 3))
    between_rows, between_columns = header.pixel_spacing
    return np.column_stack([row_direction * between_columns, column_direction * between_rows, header.position])


def project(source: SliceHeader, target: SliceHeader) -> Matrix:
    """(3, 3): (x, y, 1) in pixels of one slice to pixels of another, along the normal of the other."""
    to_patient, plane = pixel_to_patient(source), pixel_to_patient(target)
    to_patient[:, 2] -= plane[:, 2]
    across = plane[:, :2]
    onto_plane = np.linalg.solve(across.T @ across, across.T @ to_patient)  # least squares, for skewed axes too
    return np.vstack([onto_plane, [0.0, 0.0, 1.0]])


def square(box: Box, pixel_spacing: tuple[float, ...]) -> tuple[Box, float]:
    """The box made square in mm about its centre with its longer side, and that side in mm."""
    between_rows, between_columns = pixel_spacing
    side = max((box.x_max - box.x_min) * between_columns, (box.y_max - box.y_min) * between_rows)
    (x, y), half_width, half_height = box.centre, side / between_columns / 2, side / between_rows / 2
    return Box(x - half_width, y - half_height, x + half_width, y + half_height), side


def patch_to_pixel(box: Box, context: float, side: int) -> Matrix:
    """(3, 3): patch coordinates (u, v, 1), 0 at the first patch pixel's centre, to pixels of the box's slice.

    The patch has `side` pixels a side and spans `context` times the box about the box's centre.
    """
    x, y = box.centre
    step_x, step_y = context * (box.x_max - box.x_min) / side, context * (box.y_max - box.y_min) / side
    middle = (side - 1) / 2
    return np.array([[step_x, 0.0, x - step_x * middle], [0.0, step_y, y - step_y * middle], [0.0, 0.0, 1.0]])


def patch_to_channels(box: Box, slices: tuple[SliceHeader, ...], context: float, side: int) -> list[Matrix]:
    """Maps (2, 3) from patch coordinates to the pixels of each channel's slice, in the order of the channels.

    `slices` are T1W previous, same, next, T2W previous, same, next; the box is drawn on the last but one.

    Each T2W slice holds the grid of its own plane, carried over along the T2W normal from the box's slice; the T1W
    slices get those grids along the T1W normal, so that relative obliquity stays.
    """
    to_box_slice, t1_slices, t2_slices = patch_to_pixel(box, context, side), slices[:3], slices[3:]
    to_t2 = [project(t2_slices[1], header) @ to_box_slice for header in t2_slices]
    to_t1 = [project(t2, t1) @ grid for t1, t2, grid in zip(t1_slices, t2_slices, to_t2, strict=True)]
    return [matrix[:2] for matrix in (*to_t1, *to_t2)]


def sample(image: NDArray[Any], matrix: Matrix, side: int) -> NDArray[np.float32]:
    """Patch (side, side) by linear interpolation, 0 outside the image; `matrix` (2, 3) maps (u, v, 1) to (x, y).

    Where the patch is coarser than the image by more than LARGEST_STEP, a Gaussian of standard deviation
    (step - 1) / 2 pixels smooths the image first.
    """
    steps = np.linalg.norm(matrix[:, :2], axis=1)  # of x and of y
    if steps.max() > LARGEST_STEP:
        from scipy import ndimage  # takes a process of an ingest as long to import as a patient takes, and is rare

        image = ndimage.gaussian_filter(image.astype(np.float32), np.maximum(steps[::-1] - 1, 0) / 2, mode="nearest")
    (rows, columns), along = image.shape, np.arange(side)
    x, y = (along * by_u + (along[:, None] * by_v + start) for by_u, by_v, start in matrix)
    outside = (x < 0) | (x > columns - 1) | (y < 0) | (y > rows - 1)
    left, top = np.floor(x).clip(0, columns - 1), np.floor(y).clip(0, rows - 1)
    to_right, down = (x - left).astype(np.float32), (y - top).astype(np.float32)
    first_row, first_column = int(top.min()), int(left.min())
    near = image[first_row : int(top.max()) + 2, first_column : int(left.max()) + 2].astype(np.float32)
    width, flat = near.shape[1], near.ravel()
    upper_left = ((top - first_row) * width + (left - first_column)).astype(np.intp)

    def between(left: NDArray[np.intp]) -> NDArray[np.float32]:
        values = flat.take(left, mode="clip")  # beyond the last pixel the weight is 0
        values += to_right * (flat.take(left + 1, mode="clip") - values)
        return values

    values = between(upper_left)
    values += down * (between(upper_left + width) - values)
    values[outside] = 0
    return values
