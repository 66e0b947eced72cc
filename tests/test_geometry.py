"""Pixel, patient and patch coordinates, against SimpleITK."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import ndimage

from datasets.dicom import SliceHeader
from datasets.geometry import Box, patch_to_channels, patch_to_pixel, pixel_to_patient, project, sample, square
from datasets.ingest import ingest
from datasets.ingest_rules import IngestRules
from tests.mr_files import SERIES_RULES, Brightness, Stack, annotation, series_in, study, tilted, write_stack

sitk = pytest.importorskip("SimpleITK")

GEOMETRIES = [
    {"rows": 48, "columns": 40, "spacing": (2.0, 2.0)},
    {"rows": 96, "columns": 128, "spacing": (0.6, 0.9)},
    {"directions": tilted((7, -11, 5)), "spacing": (1.1, 1.3)},
    {"directions": tilted((25, 20, -15)), "rows": 31, "centre": (-4.0, 8.0, 2.5)},
]


def header_of(stack: Stack, index: int) -> SliceHeader:
    return SliceHeader(
        path=Path("unused"),
        frame=None,
        sop_instance_uid=stack.sop(index),
        series_instance_uid=stack.uid,
        study_instance_uid=stack.study,
        frame_of_reference_uid=stack.frame_of_reference,
        position=tuple(stack.position(index)),
        orientation=tuple(stack.directions.ravel()),
        pixel_spacing=stack.spacing,
        rows=stack.rows,
        columns=stack.columns,
        weighting=None,
        traits=frozenset(),
        acquisition=(),
    )


def itk_image(header: SliceHeader) -> Any:
    """A one-slice volume with the header's geometry."""
    image = sitk.Image(header.columns, header.rows, 1, sitk.sitkUInt8)
    along_row, along_column = np.reshape(header.orientation, (2, 3))
    image.SetDirection(np.column_stack([along_row, along_column, np.cross(along_row, along_column)]).ravel().tolist())
    image.SetOrigin(header.position)
    image.SetSpacing((header.pixel_spacing[1], header.pixel_spacing[0], 1.0))
    return image


@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_projection_agrees_with_simpleitk(geometry: dict[str, object]) -> None:
    t2, t1 = (header_of(stack, 2) for stack in study(1, **geometry))
    points = np.random.default_rng(0).uniform(-5, 45, (50, 2))
    ours = (project(t2, t1) @ np.column_stack([points, np.ones(50)]).T)[:2].T
    image_t2, image_t1 = itk_image(t2), itk_image(t1)
    for (x, y), found in zip(points, ours, strict=True):
        patient = image_t2.TransformContinuousIndexToPhysicalPoint((x, y, 0.0))
        expected = image_t1.TransformPhysicalPointToContinuousIndex(patient)[:2]
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_real_oblique_slice_agrees_with_simpleitk(shared: Path) -> None:
    (series,) = series_in(shared / "data" / "sagittal-t1")
    header = series.slices[3]
    image = sitk.ReadImage(str(header.path))
    for x, y in [(0.0, 0.0), (255.0, 0.0), (17.25, 201.5)]:
        expected = image.TransformContinuousIndexToPhysicalPoint((x, y, 0.0))
        np.testing.assert_allclose(pixel_to_patient(header) @ (x, y, 1.0), expected, atol=1e-6)


def test_square_keeps_the_centre_and_the_longer_side_in_mm() -> None:
    box, side = square(Box(10, 20, 30, 26), pixel_spacing=(2.0, 0.5))  # 10 mm wide, 12 mm high
    assert side == 12
    assert box == Box(8, 20, 32, 26)


def test_patch_spans_the_context_about_the_box() -> None:
    matrix = patch_to_pixel(Box(10, 20, 18, 28), context=3.0, side=96)
    edges = matrix @ np.array([[-0.5, 47.5, 95.5], [-0.5, 47.5, 95.5], [1, 1, 1]])
    np.testing.assert_allclose(edges[0], [2, 14, 26])
    np.testing.assert_allclose(edges[1], [12, 24, 36])


def test_channels_of_parallel_stacks_share_the_patch_centre() -> None:
    t2, t1 = study(1, spacing=(1.0, 0.5), rows=96, columns=160)
    slices = tuple(header_of(stack, index) for stack in (t1, t2) for index in (2, 3, 4))
    matrices = patch_to_channels(Box(14.5, 18.5, 24.5, 28.5), slices, context=2.0, side=41)
    centres = [matrix @ (20, 20, 1) for matrix in matrices]
    np.testing.assert_allclose(centres[3:], [[19.5, 23.5]] * 3)
    np.testing.assert_allclose(centres[:3], [[79.5, 47.5]] * 3)


def test_sampling_follows_the_matrix_and_smooths_before_coarsening() -> None:
    image = np.random.default_rng(0).normal(size=(60, 50)).astype(np.float32)
    turned = np.array([[0.8, -0.3, 11.0], [0.2, 0.9, 7.5]])
    row, column = np.mgrid[:20, :20]
    x, y = np.einsum("ij,jkl->ikl", turned, np.stack([column, row, np.ones_like(row)]))
    expected = ndimage.map_coordinates(image, [y, x], order=1)
    np.testing.assert_allclose(sample(image, turned, 20), expected, atol=1e-5)
    checkerboard = (np.indices((64, 64)).sum(axis=0) % 2).astype(np.float32)
    coarse = sample(checkerboard, np.array([[4.0, 0, 2.0], [0, 4.0, 2.0]]), 15)
    np.testing.assert_allclose(coarse, 0.5, atol=0.05)


def rods(points_and_directions: list[tuple[NDArray[np.float64], NDArray[np.float64]]]) -> Brightness:
    """Brightness of Gaussian rods through given points (mm) along given directions."""

    def brightness(points: NDArray[np.float64]) -> NDArray[np.float64]:
        total = np.zeros(points.shape[:-1])
        for through, direction in points_and_directions:
            away = points - through
            away = away - (away @ direction)[..., None] * direction
            total += 4000 * np.exp(-(away**2).sum(axis=-1) / (2 * 3.0**2))
        return total

    return brightness


T1_GEOMETRIES = [
    {},
    {"spacing": (0.8, 0.8), "rows": 160, "columns": 150},
    {"spacing": (1.0, 1.7), "rows": 120, "columns": 60, "thickness": 3.3, "slices": 11},
    {"directions": tilted((9, 0, 0)), "spacing": (1.3, 1.3), "rows": 90, "columns": 90},
    {"directions": tilted((-6, 10, -8)), "spacing": (0.9, 1.2), "rows": 130, "columns": 100, "slices": 13},
    {"directions": tilted((5, -7, 176)), "centre": (2.2, -17.0, 13.0), "rows": 70, "columns": 70},
]


@pytest.mark.parametrize("t1_geometry", T1_GEOMETRIES)
@pytest.mark.parametrize("t2_directions", [tilted((0, 0, 0)), tilted((3, 6, -5))])
def test_landmarks_lie_within_a_tenth_of_a_pixel(
    tmp_path: Path, t1_geometry: dict[str, Any], t2_directions: NDArray[np.float64]
) -> None:
    """Rods along the T1W normal pierce each T2W plane where the T1W patch, projected along it, must show them."""
    t2, t1 = study(1, **t1_geometry)
    t2 = replace(t2, directions=t2_directions, spacing=(1.4, 1.4), rows=80, columns=72, slices=9)
    box, context, pixels_per_box, middle = (26.0, 30.0, 46.0, 50.0), 2.0, 40, 4
    normal = np.cross(*t1.directions)
    landmarks = [t2.points(middle)[row, column] for row, column in ((27, 24), (40, 50), (52, 30))]
    for stack in (t2, t1):
        write_stack(tmp_path / "images", stack, rods([(landmark, normal) for landmark in landmarks]))
    pd.DataFrame([annotation("A", 1, t2, middle, box)]).to_csv(tmp_path / "annotations.csv", index=False)
    root, annotations, cache = tmp_path / "images", tmp_path / "annotations.csv", tmp_path / "cache"
    rules = IngestRules(widest_context=context, pixels_per_box=pixels_per_box, series=SERIES_RULES)
    store = ingest(root, annotations, cache, rules, processes=1).store

    patches = store.patches()[0].astype(float)
    t2_pixels_per_patch_pixel = context * 20 / store.patches().shape[-1]
    finest = min(t1.spacing + t2.spacing)
    planes = sorted((middle - 1, middle, middle + 1), key=lambda index: t2.position(index)[0])
    for channel, plane in enumerate([*planes, *planes]):
        corner, plane_normal = t2.position(plane), np.cross(*t2.directions)
        for landmark in landmarks:
            pierced = landmark + normal * ((corner - landmark) @ plane_normal) / (normal @ plane_normal)
            found = centroid(patches[channel], expected_in_patch(pierced, t2, plane, box, patches.shape[-1]))
            error_mm = found * t2_pixels_per_patch_pixel * t2.spacing[0]
            assert np.linalg.norm(error_mm) < 0.1 * finest, (channel, landmark, error_mm)


def expected_in_patch(
    point: NDArray[np.float64], t2: Stack, plane: int, box: tuple[float, ...], side: int
) -> NDArray[np.float64]:
    """Patch (row, column) of a point in mm, from the definition of the patch and not from the package."""
    along_row, along_column = t2.directions
    away = point - t2.position(plane)
    pixel = np.array([away @ along_column / t2.spacing[0], away @ along_row / t2.spacing[1]])
    centre = np.array([box[1] + box[3], box[0] + box[2]]) / 2
    per_pixel = side / (2.0 * (box[2] - box[0]))
    return np.asarray((pixel - centre) * per_pixel + (side - 1) / 2)


def centroid(patch: NDArray[np.float64], expected: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance (row, column) of the spot's centre of mass from the expected place."""
    row, column = np.mgrid[: patch.shape[0], : patch.shape[1]]
    near: NDArray[np.float64] = patch * ((row - expected[0]) ** 2 + (column - expected[1]) ** 2 < 13**2)
    found: NDArray[np.float64] = np.array([(near * row).sum(), (near * column).sum()]) / near.sum()
    return found - expected
