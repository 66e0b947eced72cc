"""Registration on known rigid motions: phantoms, a pattern without symmetry, and a real lumbar spine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import SimpleITK as sitk  # noqa: N813
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation

from datasets.dicom import Series, SliceHeader
from datasets.geometry import pixel_to_patient
from datasets.phantom import write_phantom
from datasets.registration import RegistrationError, register
from tests.mr_files import SAGITTAL, T1W, Brightness, Stack, read_folder, series_in, study, texture, tilted, write_stack

Points = NDArray[np.float64]
Scan = tuple[Series, Series, Points]
"""T1W, T2W, and the points (n, 3) at which errors are measured."""

MOTIONS = {  # rotation vector in degrees, translation in mm along x (across the slices), y, z
    "none": ((0, 0, 0), (0, 0, 0)),
    "in the plane": ((7, 0, 0), (0, -10, 11)),
    "across the slices": ((0, 4, -5), (7, 3, -4)),
    "all": ((-4, 3, 6), (-5, 8, -11)),
}


def moved(series: Series, motion: str | tuple[float, float, float], points: Points, frame: str | None = None) -> Series:
    """The series as if the patient had turned about the middle of the points and shifted."""
    degrees, shift = MOTIONS[motion] if isinstance(motion, str) else ((0, 0, 0), motion)
    turn, middle = Rotation.from_rotvec(degrees, degrees=True), points.mean(axis=0)

    def move(header: SliceHeader) -> SliceHeader:
        position = turn.apply(np.array(header.position) - middle) + middle + shift
        orientation = turn.apply(np.reshape(header.orientation, (2, 3))).ravel()
        frame_of_reference = frame or header.frame_of_reference_uid
        return replace(
            header,
            position=tuple(position.tolist()),
            orientation=tuple(orientation.tolist()),
            frame_of_reference_uid=frame_of_reference,
        )

    headers = [move(header) for header in series.slices]
    return Series(tuple(sorted(headers, key=lambda header: float(headers[0].normal @ header.position))))


def errors(true: Series, found: Series, t2: Series, points: Points) -> tuple[float, float]:
    """Largest distance of a point of T1W from its place: pixels in the plane of T2W, mm across it."""

    def to_patient(series: Series) -> Points:
        header = min(series.slices, key=lambda one: one.sop_instance_uid)
        across = np.cross(header.orientation[:3], header.orientation[3:])
        return np.vstack([np.insert(pixel_to_patient(header), 2, across, axis=1), [0, 0, 0, 1]])

    homogeneous = np.column_stack([points, np.ones(len(points))])
    away = (homogeneous @ (to_patient(found) @ np.linalg.inv(to_patient(true))).T)[:, :3] - points
    across = away @ t2.normal
    in_plane = np.linalg.norm(away - np.outer(across, t2.normal), axis=1)
    return float(in_plane.max() / min(t2.slices[0].pixel_spacing)), float(np.abs(across).max())


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory: pytest.TempPathFactory) -> list[Scan]:
    """Different grids, fields of view, shading and noise in T1W and T2W; the points are the boxes' corners."""
    folder = tmp_path_factory.mktemp("registration") / "phantom"
    write_phantom(folder, patients=4, seed=31, processes=1)
    series = read_folder(folder / "dicom").series
    headers = {header.sop_instance_uid: (one, header) for one in series for header in one.slices}
    scans = []
    for _, rows in pd.read_csv(folder / "annotations.csv").groupby("patient_id"):
        t2 = headers[rows["sop_instance_uid"].iloc[0]][0]
        t1 = next(one for one in series if (one.study_uid, one.weighting) == (t2.study_uid, "T1W") and one.is_sagittal)
        corners = [
            pixel_to_patient(headers[row.sop_instance_uid][1]) @ (x, y, 1)
            for row in rows.itertuples()
            for x in (row.x_min, row.x_max)
            for y in (row.y_min, row.y_max)
        ]
        scans.append((t1, t2, np.array(corners)))
    return scans


@pytest.mark.parametrize(
    ("patient", "motion", "frame"),
    [(0, "none", None), (1, "in the plane", "1.2.3"), (2, "across the slices", None), (3, "all", "1.2.3")],
)
def test_a_known_motion_is_found_to_less_than_a_pixel_with_the_same_bits_whatever_the_threads(
    phantoms: list[Scan], patient: int, motion: str, frame: str | None
) -> None:
    t1, t2, corners = phantoms[patient]
    found = register(moved(t1, motion, corners, frame), t2)
    in_plane, across = errors(t1, found, t2, corners)
    assert in_plane < 1
    assert across < 2  # mm: half a slice
    assert found.frame_of_reference_uid == t2.frame_of_reference_uid
    assert (np.diff(found.offsets) > 0).all()
    np.testing.assert_allclose(np.diff(found.offsets), np.diff(t1.offsets), atol=1e-6)  # rigid, nothing rounded
    assert {header.path for header in found.slices} == {header.path for header in t1.slices}
    if motion == "all":
        threads = sitk.ProcessObject.GetGlobalDefaultNumberOfThreads()
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads + 2)
        try:
            assert register(moved(t1, motion, corners, frame), t2) == found
        finally:
            sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)


def test_images_of_different_patients_are_refused(phantoms: list[Scan]) -> None:
    (t1, _, corners), (_, t2, _) = phantoms[:2]
    with pytest.raises(RegistrationError, match="do not show the same anatomy"):
        register(moved(t1, "none", corners, "1.2.3"), t2)


LATTICE = np.random.default_rng(5).normal(size=(24, 36, 36))  # a value every 8 mm


def pattern(points: Points) -> Points:
    """Blobs without symmetry, 400 to 1600."""
    values = ndimage.map_coordinates(LATTICE, np.moveaxis(points, -1, 0) / 8 + [[[12]], [[18]], [[18]]], mode="wrap")
    return np.asarray(1000 + 600 * np.tanh(values))


T2 = Stack("1.2.4.2", "1.2.4", "1.2.4.9", 120, 100, (1.6, 1.6), 7, centre=(0, 0, 0))
T1 = Stack("1.2.4.1", "1.2.4", "1.2.4.9", 128, 128, (1.4, 1.4), 8, 3.8, centre=(1, 4, -5), tags=dict(T1W))
ROUND_ABOUT = np.array([[x, y, z] for x in (-4, 4) for y in (-25, 25) for z in (-25, 25)], dtype=float)


def scan(folder: Path, t1: Stack = T1, t2: Stack = T2, seen: Brightness = lambda p: 2000 - pattern(p)) -> Scan:
    """The pattern as T2W, its inverse as T1W."""
    write_stack(folder, t2, pattern)
    write_stack(folder, t1, seen)
    found = {series.weighting: series for series in series_in(folder)}
    return found["T1W"], found["T2W"], ROUND_ABOUT


@pytest.mark.parametrize("directions", [SAGITTAL * [[-1], [1]], SAGITTAL[::-1], tilted((3, -4, 2))])
def test_columns_may_run_any_way(tmp_path: Path, directions: NDArray[np.float64]) -> None:
    """Left- and right-handed axes of row, column and slice."""
    t1, t2, points = scan(tmp_path, replace(T1, directions=directions))
    in_plane, across = errors(t1, register(moved(t1, "all", points), t2), t2, points)
    assert in_plane < 1
    assert across < 2


def test_a_missing_slice_is_bridged(tmp_path: Path) -> None:
    t1, t2, points = scan(tmp_path)
    gap = Series(t1.slices[:3] + t1.slices[4:])
    assert errors(gap, register(moved(gap, "in the plane", points), t2), t2, points)[0] < 1


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t1: Series(t1.slices[:4]), "the T1W series has 4 slices"),
        (lambda t1: Series(t1.slices[:3] + t1.slices[5:]), "gap"),
        (lambda t1: Series((*t1.slices, t1.slices[-1])), "repeated positions"),
        (lambda t1: Series((*t1.slices[:-1], shifted(t1.slices[-1]))), "shifted against one another"),
        (lambda t1: Series(tuple(replace(header, rows=99) for header in t1.slices)), "pixel data"),
        (lambda t1: moved(t1, (0, 0, 500), ROUND_ABOUT), "do not overlap"),
        (lambda t1: moved(t1, (0, 35, 53), ROUND_ABOUT), "6[34] mm .* implausible"),
    ],
)
def test_what_cannot_be_registered_is_refused_with_the_reason(tmp_path: Path, change, reason: str) -> None:  # type: ignore[no-untyped-def]
    t1, t2, _ = scan(tmp_path)
    with pytest.raises(RegistrationError, match=reason):
        register(change(t1), t2)


def shifted(header: SliceHeader) -> SliceHeader:
    x, y, z = header.position
    return replace(header, position=(x, y + 10, z))


@pytest.mark.parametrize("value", [0.0, 700.0])
def test_blank_images_are_refused(tmp_path: Path, value: float) -> None:
    t1, t2, _ = scan(tmp_path, seen=lambda points: np.full(points.shape[:2], value))
    with pytest.raises(RegistrationError, match="the T1W images are blank"):
        register(t1, t2)


@pytest.mark.parametrize("motion", ["none", "all"])
def test_a_real_lumbar_spine_against_its_inverse(shared: Path, tmp_path: Path, motion: str) -> None:
    """t2_lumbar.nii.gz cut into slices of 4 mm on two oblique grids, one of them in inverted contrast, both noisy."""
    volume = sitk.ReadImage(str(shared / "data" / "t2_lumbar.nii.gz"))
    values = sitk.GetArrayFromImage(volume).astype(float)
    values = np.clip(values / np.percentile(values, 99.8), 0, 1)
    inverse = np.clip(20 * ndimage.gaussian_filter(values, 1), 0, 1) * (1 - values) ** 1.5
    to_index = np.linalg.inv(np.reshape(volume.GetDirection(), (3, 3)) * volume.GetSpacing())
    middle = np.array(volume.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in volume.GetSize()]))
    noise = np.random.default_rng(1)

    def seen(contrast: NDArray[np.float64], normal: NDArray[np.float64]) -> Brightness:
        def brightness(points: Points) -> Points:
            through = [points + normal * depth for depth in np.linspace(-1.6, 1.6, 5)]
            index = [((place - volume.GetOrigin()) @ to_index.T)[..., ::-1] for place in through]
            mean = np.mean([ndimage.map_coordinates(contrast, np.moveaxis(i, -1, 0), order=1) for i in index], axis=0)
            return np.asarray(np.hypot(1000 * mean + noise.normal(0, 20, mean.shape), 20))

        return brightness

    for stack, contrast, tilt in ((T2, values, (2, -1, 1)), (T1, inverse, (-1, 1, -2))):
        directions = tilted(tilt)
        real = replace(
            stack, rows=185, columns=220, spacing=(1, 1), thickness=4, centre=tuple(middle), directions=directions
        )
        write_stack(tmp_path, real, seen(contrast, np.cross(*directions)))
    scans = {series.weighting: series for series in series_in(tmp_path)}
    t1, t2, points = scans["T1W"], scans["T2W"], ROUND_ABOUT + middle
    in_plane, across = errors(t1, register(moved(t1, motion, points), t2), t2, points)
    assert in_plane < 1
    assert across < 2


def test_a_series_that_is_blank_for_the_most_part_is_refused(tmp_path: Path) -> None:
    t2, t1 = study(1)
    write_stack(tmp_path / "t1", t1)
    write_stack(tmp_path / "t2", t2, lambda points: texture(points) * (abs(points[0, 0, 0] - t2.centre[0]) < 5))
    (moving,), (fixed,) = series_in(tmp_path / "t1"), series_in(tmp_path / "t2")
    with pytest.raises(RegistrationError, match="most of the T2W images are blank"):
        register(moving, fixed)
