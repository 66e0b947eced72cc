"""Imaging a synthetic patient: the grid of each series in space, and what a scanner adds to the signal."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datasets.phantom_anatomy import Anatomy
from datasets.phantom_painting import Points, paint_patient

Vector = NDArray[np.float64]
T1, T2 = 0, 1
SAGITTAL = np.array([[0.0, 1.0, 0.0], [0.0, 0.0, -1.0], [-1.0, 0.0, 0.0]])  # along columns, rows, slices
AXIAL = np.eye(3)


@dataclass(frozen=True)
class Grid:
    """Where the voxels of a series lie, mm in patient coordinates."""

    axes: Vector  # (3, xyz) unit vectors along increasing column, row, slice
    spacing: Vector  # (3,) mm between columns, rows, slices
    shape: tuple[int, int, int]  # (slices, rows, columns)
    centre: Vector  # (xyz) of the middle of the volume

    def corner(self, index: float = 0) -> Vector:
        """Centre (xyz) of the first voxel of slice `index`."""
        slices, rows, columns = self.shape
        half = np.array([(columns - 1) / 2, (rows - 1) / 2, (slices - 1) / 2 - index])
        return self.centre - (half * self.spacing) @ self.axes

    def points(self) -> Points:
        column, row, slice_ = (self.axes * self.spacing[:, None])[:, :, None, None, None]  # steps, xyz first
        slices, rows, columns = np.ogrid[tuple(map(slice, self.shape))]
        corner = self.corner()[:, None, None, None]
        return Points(*(corner + slices * slice_ + rows * row + columns * column).astype(np.float32))

    def pixel_of(self, position: Vector) -> Vector:
        """(column, row, slice) of a point (xyz)."""
        return (position - self.corner()) @ self.axes.T / self.spacing


@dataclass(frozen=True)
class Series:
    """One acquired series: pixels (slice, row, column) of 12 bits on a grid."""

    name: str
    contrast: int
    grid: Grid
    pixels: NDArray[np.uint16]


def acquire_study(anatomy: Anatomy, generator: np.random.Generator) -> list[Series]:
    """Sagittal T1W and T2W on different oblique grids, and a coarse axial T2W."""
    centre = np.array([0.0, 8.0, 0.0]) + generator.uniform(-1, 1, 3) * [1.5, 12, 22]
    spacing = generator.uniform(3.8, 4.2)
    slices = int(generator.integers(9, 11))
    plans = (
        ("sagittal T2W", T2, SAGITTAL, (slices, 256, 256), generator.uniform(215, 240), spacing),
        ("sagittal T1W", T1, SAGITTAL, (slices, 224, 224), generator.uniform(205, 235), spacing),
        ("axial T2W", T2, AXIAL, (5, 96, 96), 160.0, 8.0),
    )
    series = []
    for name, contrast, axes, shape, field_of_view, between in plans:
        turn = Rotation.from_euler("xyz", generator.uniform(-4, 4, 3), degrees=True).as_matrix()
        pixel = field_of_view / shape[1]
        shift = generator.uniform(-1, 1, 3) * [0.8, 6, 6]
        grid = Grid(axes @ turn, np.array([pixel, pixel, between]), shape, centre + shift)
        series.append(Series(name, contrast, grid, _expose(anatomy, grid, contrast, generator)))
    return series


def _expose(anatomy: Anatomy, grid: Grid, contrast: int, generator: np.random.Generator) -> NDArray[np.uint16]:
    """Signal through a scanner: contrast, blur, coil sensitivity, Rician noise, gain, 12 bits."""
    signal = paint_patient(anatomy, grid.points(), contrast)
    signal = np.clip(signal, 0.005, None) ** np.float32(generator.uniform(0.85, 1.2))
    blur = generator.uniform(0.3, 0.8)
    signal = ndimage.gaussian_filter(signal, (0, blur, blur))
    _, rows, columns = grid.shape
    row, column = np.linspace(-1, 1, rows)[:, None], np.linspace(-1, 1, columns)
    # A surface coil under the back, and a slow swell along the body.
    tilt, swell, phase = generator.uniform(0.1, 0.5), generator.uniform(0.05, 0.2), generator.uniform(-3, 3)
    signal *= np.exp(tilt * column + swell * np.cos(2.2 * row + phase)).astype(np.float32)
    level = np.float32(generator.uniform(0.015, 0.045))
    real, imaginary = generator.standard_normal((2, *grid.shape), dtype=np.float32) * level
    gain = 1400 * np.exp(generator.normal(0, 0.3))
    return np.asarray(np.clip(np.hypot(signal + real, imaginary) * gain, 0, 4095), np.uint16)
