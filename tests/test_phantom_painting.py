"""Each feature of Table 1 changes the picture, and changes it where it belongs: within the box or outside it."""

import numpy as np
import pytest
from numpy.typing import NDArray

from datasets.phantom_anatomy import ABNORMAL, Anatomy, draw_anatomy, half_extent
from datasets.phantom_features import TABLE_1
from datasets.phantom_painting import Points, body_distance, local_axes, paint_patient
from datasets.phantom_series import SAGITTAL, T1, T2, Grid

GRID = Grid(SAGITTAL, np.array([2.0, 2.0, 4.0]), (9, 110, 110), np.zeros(3))
NOTHING = dict.fromkeys(TABLE_1, False)
OUTSIDE = {  # largest share of the change that may lie in the tight box: a pedicle's root touches its rim
    "epidural_or_paraspinal_mass": 0.02,
    "pedicle_or_posterior_element_involvement": 0.1,
    "coexisting_lesion_in_other_vertebra": 0.02,
}
SHAPES = {"anterior_wedge_deformity", "entire_body_compression", "central_concave_deformity", "body_protrusion"}
WITHIN = set(TABLE_1) - set(OUTSIDE) - SHAPES - {"absence_of_collapse"}


def anatomy(seed: int, *features: str) -> Anatomy:
    return draw_anatomy(NOTHING | dict.fromkeys(features, True), np.random.default_rng(seed))


def change(seed: int, feature: str, contrast: int = T2) -> NDArray[np.float32]:
    """Absolute difference that one feature makes, (slice, row, column)."""
    pictures = [paint_patient(a, GRID.points(), contrast) for a in (anatomy(seed), anatomy(seed, feature))]
    return np.abs(pictures[1] - pictures[0])


def in_box(patient: Anatomy) -> NDArray[np.bool_]:
    """Voxels within the tight box about the abnormal body, all slices."""
    half, points = half_extent(patient.vertebrae[ABNORMAL]), GRID.points()
    return (np.abs(points.y) <= half) & (np.abs(points.z) <= half)


@pytest.mark.parametrize("contrast", [T1, T2])
@pytest.mark.parametrize("feature", sorted(set(TABLE_1) - {"absence_of_collapse"}))
def test_every_feature_shows(feature: str, contrast: int) -> None:
    for seed in range(3):
        assert (change(seed, feature, contrast) > 0.05).sum() > 5, f"{feature} invisible in patient {seed}"


def test_no_collapse_feature_leaves_the_body_whole() -> None:
    whole, absent = anatomy(0).vertebrae, anatomy(0, "absence_of_collapse").vertebrae
    assert whole == absent


@pytest.mark.parametrize("feature", sorted(WITHIN))
def test_marrow_features_stay_in_the_body(feature: str) -> None:
    for seed in range(4):
        assert change(seed, feature)[~in_box(anatomy(seed))].max() == 0


@pytest.mark.parametrize("feature", sorted(OUTSIDE))
def test_outer_features_stay_out_of_the_box(feature: str) -> None:
    for seed in range(8):
        difference = change(seed, feature)
        assert difference[in_box(anatomy(seed))].sum() < OUTSIDE[feature] * difference.sum(), f"patient {seed}"


def test_collapse_takes_height_and_protrusion_adds_depth() -> None:
    def size(*features: str) -> tuple[int, int]:
        body = anatomy(1, *features).vertebrae[ABNORMAL]
        middle = (body_distance(body, *local_axes(body, GRID.points())) < 0)[GRID.shape[0] // 2]
        return int(middle.sum()), int(middle.any(axis=0).sum())  # pixels in area, columns in depth

    whole_area, whole_depth = size()
    for shape in ("anterior_wedge_deformity", "entire_body_compression", "central_concave_deformity"):
        assert size(shape)[0] < 0.9 * whole_area, shape
    assert size("body_protrusion")[1] > whole_depth


def test_signal_depends_on_the_place_alone() -> None:
    """The same points give the same signal on whatever grid they come."""
    patient, points = anatomy(2, "epidural_or_paraspinal_mass", "diffuse_signal_change"), GRID.points()
    part = (slice(2, 5), slice(30, 80), slice(20, 90))
    whole = paint_patient(patient, points, T1)
    np.testing.assert_allclose(paint_patient(patient, Points(*(p[part] for p in points)), T1), whole[part], atol=1e-5)
