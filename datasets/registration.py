"""Rigid registration of a T1W series to the T2W series of a patient who moved in between, by SimpleITK.

Mattes mutual information (Mattes et al. 2003, doi:10.1109/TMI.2003.809072): a search over translations, then descent
over three resolutions. One thread and a fixed seed, so the same bits every time. Patient coordinates (LPS) in mm.
"""

from dataclasses import replace

import numpy as np
import SimpleITK as sitk  # noqa: N813 (the field's habit)
from numpy.typing import NDArray
from scipy import ndimage
from scipy.interpolate import make_interp_spline
from scipy.spatial.transform import Rotation

from datasets.dicom import Series
from datasets.pixels import read_pixels

RESOLUTIONS = ((6.0, 2.0), (4.0, 1.0), (2.0, 0.5))  # mm of a pixel in the plane, mm of the optimiser's first step
SEARCH_STEPS, SEARCH_STEP = [0, 0, 0, 1, 3, 7], 8.0  # steps either way along x, y, z; mm
STARTS = 6  # the search's best translations, from each of which a descent is tried
FEWEST_SLICES, LARGEST_GAP = 5, 2.5  # with 4, errors reached 1.8 pixels; largest gap in usual distances of slices
LARGEST_SHIFT, LARGEST_TURN = 60.0, 30.0  # mm at the middle of the T2W volume, degrees
SMALLEST_OVERLAP = 0.3  # of the body in the T2W volume
LARGEST_PLATEAU = 0.6  # share of the information left 8 mm away: right ones 0.3 to 0.56, wrong ones 0.65 to 1.15
AIR = 0.1  # of the bright end: what is darker is outside the body

Volumes = tuple[sitk.Image, sitk.Image, sitk.Image]
"""T2W, T1W, and the body in T2W (0 or 1)."""


class RegistrationError(ValueError):
    """Why two series cannot be registered."""


def register(t1: Series, t2: Series) -> Series:
    """The T1W series with positions, orientations and frame of reference moved to where the T2W series has them.

    Raises:
        RegistrationError: few, irregular or unreadable slices, no common anatomy to be found, an implausible motion.
    """
    (fixed, body), (moving, _) = _volume(t2), _volume(t1)
    start = np.zeros(3) if t1.shares_frame(t2) else np.subtract(_middle(moving), _middle(fixed))
    to_t1 = _find_motion((fixed, moving, body), start)
    turn, to_t2 = np.reshape(to_t1.GetMatrix(), (3, 3)), to_t1.GetInverse()
    shift, degrees = np.linalg.norm(to_t1.GetTranslation() - start), np.degrees(Rotation.from_matrix(turn).magnitude())
    if shift > LARGEST_SHIFT or degrees > LARGEST_TURN:
        raise RegistrationError(f"a motion of {shift:.0f} mm and {degrees:.0f} degrees was found, which is implausible")
    moved = [
        replace(
            header,
            position=tuple(to_t2.TransformPoint(header.position)),
            orientation=tuple((np.reshape(header.orientation, (2, 3)) @ turn).ravel().tolist()),
            frame_of_reference_uid=t2.frame_of_reference_uid,
        )
        for header in t1.slices
    ]
    return Series(tuple(sorted(moved, key=lambda header: float(moved[0].normal @ header.position))))


def _find_motion(volumes: Volumes, start: NDArray[np.float64]) -> sitk.Euler3DTransform:
    """From T2W to T1W coordinates."""
    try:
        found = [_descend_from(volumes, translation) for translation in _promising(volumes, start)]
        plateau, to_t1 = min(found, key=lambda one: one[0])
        overlap = _descend(volumes, to_t1, *RESOLUTIONS[-1])
    except RuntimeError:  # ITK's, where no sample of T2W lies in T1W
        raise RegistrationError("the volumes of T1W and T2W do not overlap") from None
    if plateau > LARGEST_PLATEAU:
        raise RegistrationError("T1W and T2W do not show the same anatomy clearly enough")
    if overlap < SMALLEST_OVERLAP:
        raise RegistrationError("the volumes of T1W and T2W hardly overlap")
    return to_t1


def _promising(volumes: Volumes, start: NDArray[np.float64]) -> list[tuple[float, ...]]:
    """Translations by mutual information times overlap, without which slivers of the images would win."""
    method, images = _method(volumes, RESOLUTIONS[0][0])
    method.SetOptimizerAsExhaustive(SEARCH_STEPS, SEARCH_STEP)
    method.SetOptimizerScales([1.0] * 6)
    method.SetInitialTransform(sitk.Euler3DTransform(_middle(volumes[0]), 0.0, 0.0, 0.0, start.tolist()))
    found: list[tuple[float, tuple[float, ...]]] = []

    def note() -> None:
        score = method.GetMetricValue() * method.GetMetricNumberOfValidPoints()
        found.append((score, method.GetOptimizerPosition()[3:]))

    method.AddCommand(sitk.sitkIterationEvent, note)
    method.Execute(*images)
    return [translation for _, translation in sorted(found)[:STARTS]]


def _descend_from(volumes: Volumes, translation: tuple[float, ...]) -> tuple[float, sitk.Euler3DTransform]:
    """The optimum, and the mutual information 8 mm away along y and z as a share of that there."""
    to_t1 = sitk.Euler3DTransform(_middle(volumes[0]), 0.0, 0.0, 0.0, translation)
    method, images = _method(volumes, RESOLUTIONS[-2][0])
    information = []
    try:
        for millimetres, step in RESOLUTIONS[:-1]:
            _descend(volumes, to_t1, millimetres, step)
        for shift in np.array([(0, 0, 0), (0, 8, 0), (0, -8, 0), (0, 0, 8), (0, 0, -8)]):
            away = sitk.Euler3DTransform(to_t1)
            away.SetTranslation((to_t1.GetTranslation() + shift).tolist())
            method.SetInitialTransform(away)
            information.append(-method.MetricEvaluate(*images))
    except RuntimeError:  # no overlap
        return np.inf, to_t1
    return float(np.mean(information[1:]) / max(information[0], 1e-9)), to_t1


def _descend(volumes: Volumes, to_t1: sitk.Euler3DTransform, millimetres: float, step: float) -> float:
    """Moves `to_t1` in place to the optimum; the share of the body in T2W that T1W covers there."""
    method, images = _method(volumes, millimetres)
    method.SetOptimizerAsRegularStepGradientDescent(step, 0.01, 100, gradientMagnitudeTolerance=1e-8)
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(to_t1, inPlace=True)
    method.Execute(*images)
    body = images[0].GetNumberOfPixels() * sitk.GetArrayViewFromImage(volumes[2]).mean()
    return float(method.GetMetricNumberOfValidPoints() / body)


def _method(volumes: Volumes, millimetres: float) -> tuple[sitk.ImageRegistrationMethod, list[sitk.Image]]:
    """Mattes mutual information, and the two volumes with pixels joined in the plane (slices lie too far apart)."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfWorkUnits(1)  # SetNumberOfThreads leaves the metric's threads, whose sums differ in the last bits
    method.SetMetricAsMattesMutualInformation(64)
    # Points beside the voxels' centres: on them, interpolation draws the optimum towards coinciding grids.
    method.SetMetricSamplingStrategy(method.RANDOM)
    method.SetMetricSamplingPercentage(1.0, seed=1)
    method.SetMetricFixedMask(volumes[2])
    method.SetInterpolator(sitk.sitkLinear)
    sizes = [[max(1, round(millimetres / spacing)) for spacing in image.GetSpacing()[:2]] for image in volumes[:2]]
    return method, [sitk.BinShrink(image, [*size, 1]) for image, size in zip(volumes, sizes, strict=False)]


def _middle(image: sitk.Image) -> tuple[float, ...]:
    return tuple(image.TransformContinuousIndexToPhysicalPoint([(count - 1) / 2 for count in image.GetSize()]))


def _volume(series: Series) -> tuple[sitk.Image, sitk.Image]:
    """Pixels without the coil's shading, and the body (0 or 1), on slices of equal distance."""
    _check(series)
    try:
        pixels = np.stack([read_pixels(header).astype(np.float32) for header in series.slices])
    except ValueError as error:
        raise RegistrationError(str(error)) from None
    if np.ptp(pixels) == 0:
        raise RegistrationError(f"the {series.weighting} images are blank")
    first, offsets = series.slices[0], series.offsets
    places = np.linspace(offsets[0], offsets[-1], round(np.ptp(offsets) / np.median(np.diff(offsets))) + 1)
    pixels = np.maximum(make_interp_spline(offsets, pixels, k=1, axis=0)(places), 0)
    smooth = ndimage.gaussian_filter(pixels, (0, 2, 2))
    body = smooth > AIR * np.percentile(smooth, 99)
    if body.mean(axis=0).max() <= 0.5:
        raise RegistrationError(f"most of the {series.weighting} images are blank")
    image = sitk.GetImageFromArray(_unshaded(pixels, body).astype(np.float32))
    image.SetOrigin(first.position)
    image.SetSpacing((*first.pixel_spacing[::-1], float(places[1] - places[0])))
    # The third axis is the order of the slices, whether that makes the axes right- or left-handed.
    image.SetDirection(np.column_stack([*np.reshape(first.orientation, (2, 3)), series.normal]).ravel().tolist())
    mask = sitk.GetImageFromArray(body.astype(np.uint8))
    mask.CopyInformation(image)
    return image, mask


def _check(series: Series) -> None:
    first, gaps, name = series.slices[0], np.diff(series.offsets), f"the {series.weighting} series"
    if len(series.slices) < FEWEST_SLICES:
        raise RegistrationError(f"{name} has {len(series.slices)} slices: a motion takes {FEWEST_SLICES} or more")
    if series.has_repeated_positions or gaps.max() > LARGEST_GAP * np.median(gaps):
        raise RegistrationError(f"{name} has repeated positions or a gap")
    shifts = np.subtract([header.position for header in series.slices], first.position)
    if np.abs(shifts - np.outer(shifts @ series.normal, series.normal)).max() > max(first.pixel_spacing):
        raise RegistrationError(f"{name} has slices that are shifted against one another")


def _unshaded(pixels: NDArray[np.floating], body: NDArray[np.bool_]) -> NDArray[np.floating]:
    """Divided by the coil's sensitivity: a cubic in row and column through the body's mean logarithm.

    Without this, coils that shade T1W and T2W differently moved the optimum of phantoms by up to 1.5 mm.
    """
    logarithm = np.log(np.maximum(pixels, 0.01 * np.percentile(pixels, 99)))
    mean = (logarithm * body).sum(axis=0) / np.maximum(body.sum(axis=0), 1)
    row, column = np.meshgrid(*(np.linspace(-1, 1, count) for count in mean.shape), indexing="ij")
    terms, inside = np.polynomial.legendre.legvander2d(row, column, [3, 3]), body.mean(axis=0) > 0.5
    shading = terms @ np.linalg.lstsq(terms[inside], mean[inside])[0]
    even = pixels / np.exp(np.clip(shading, shading[inside].min(), shading[inside].max()))
    bright: NDArray[np.floating] = np.minimum(even, np.percentile(even[body], 99.5))
    return bright
