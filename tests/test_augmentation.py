"""Geometry of the one resampling, held to independent arithmetic; randomness apart from its use."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation import (
    AffineRanges,
    central_crop,
    draw_affine,
    identity_affine,
    reach,
    resample,
    standardise,
)

WIDE = AffineRanges(translation=0.2, scaling=0.5, rotation_degrees=30.0, flip=True)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def noise(count: int, side: int, seed: int = 0) -> Tensor:
    return torch.rand(count, 6, side, side, generator=generator(seed))


def ramps(count: int, side: int, span: float) -> Tensor:
    """Patches of x and y by turns, in box sides from the centre: bilinear interpolation is exact on them."""
    axis = ((torch.arange(side) + 0.5) / side - 0.5) * span
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y, x, y, x, y]).expand(count, 6, side, side)


def pixel_centres(size: int) -> Tensor:
    """(size, size, 2): normalised (x, y) of each pixel's centre."""
    axis = (2 * torch.arange(size) + 1) / size - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    return torch.stack([x, y], -1)


def test_identity_at_the_widest_context_is_a_plain_resize() -> None:
    patches = noise(3, 48)
    ours = resample(patches, identity_affine(3), context=3.0, widest_context=3.0, size=20)
    plain = F.interpolate(patches, (20, 20), mode="bilinear", align_corners=False)
    torch.testing.assert_close(ours, plain, atol=1e-5, rtol=0)


@pytest.mark.parametrize("context", [1.7, 3.0])
def test_agrees_with_scipy_on_the_same_grid(context: float) -> None:
    """At the widest context the grid leaves the patch."""
    side, size, widest = 45, 32, 3.0
    patches, theta = noise(8, side).half(), draw_affine(8, WIDE, generator(1))
    ours = resample(patches, theta, context=context, widest_context=widest, size=size).numpy()
    points = pixel_centres(size).double().numpy()
    for sample in range(8):
        matrix = theta[sample].double().numpy()
        x, y = np.moveaxis(points @ matrix[:, :2].T + matrix[:, 2], -1, 0) * context / widest
        pixels = np.stack([((y + 1) * side - 1) / 2, ((x + 1) * side - 1) / 2])
        for channel in range(6):
            image = patches[sample, channel].double().numpy()
            theirs = map_coordinates(image, pixels, order=1, mode="nearest")
            np.testing.assert_allclose(ours[sample, channel], theirs, atol=1e-4)


@pytest.mark.parametrize("side", [96, 97])
@pytest.mark.parametrize("context", [1.0, 1.37, 2.5])
def test_the_crop_is_centred_and_as_wide_as_the_context(side: int, context: float) -> None:
    centre, extent = central_crop(ramps(1, side, 3.0), 3.0, reach(context, AffineRanges()))
    images = resample(centre, identity_affine(1), context=context, widest_context=extent, size=16)
    expected = pixel_centres(16) * context / 2
    torch.testing.assert_close(images[0, :2].permute(1, 2, 0), expected, atol=1e-5, rtol=0)


def test_an_output_point_shows_the_point_that_theta_names() -> None:
    theta = draw_affine(5, WIDE, generator(2))
    images = resample(ramps(5, 200, 6.0), theta, context=2.0, widest_context=6.0, size=16)
    named = torch.einsum("nij,hwj->nhwi", theta[:, :, :2], pixel_centres(16)) + theta[:, None, None, :, 2]
    torch.testing.assert_close(images[:, :2].permute(0, 2, 3, 1), named, atol=1e-5, rtol=0)


def test_the_image_is_magnified_turned_and_then_shifted() -> None:
    """A spot right of the centre ends where shift, turn and magnification, recovered from theta, send it."""
    theta = draw_affine(6, AffineRanges(0.1, 0.3, 25.0), generator(3))
    axis = torch.linspace(-1, 1, 301)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    spot = torch.exp(-((x - 0.3) ** 2 + y**2) / 0.002).expand(6, 6, 301, 301)
    images = resample(spot, theta, context=1.0, widest_context=1.0, size=301)[:, 0]
    weights = images / images.sum((1, 2), keepdim=True)
    seen = torch.stack([(weights * x).sum((1, 2)), (weights * y).sum((1, 2))], 1)
    forward = torch.linalg.inv(theta[:, :, :2])
    expected = (forward @ (torch.tensor([0.3, 0.0]) - theta[:, :, 2])[:, :, None])[:, :, 0]
    torch.testing.assert_close(seen, expected, atol=5e-3, rtol=0)


def test_draws_fill_their_ranges_and_no_more() -> None:
    ranges = AffineRanges(translation=0.1, scaling=0.25, rotation_degrees=20.0)
    forward = torch.linalg.inv(draw_affine(4000, ranges, generator(4))[:, :, :2])
    shift = -(forward @ draw_affine(4000, ranges, generator(4))[:, :, 2:])[:, :, 0] / 2
    magnification = torch.linalg.det(forward).sqrt()
    degrees = torch.rad2deg(torch.atan2(forward[:, 1, 0], forward[:, 0, 0]))
    for drawn, low, high in (
        (shift[:, 0], -0.1, 0.1),
        (shift[:, 1], -0.1, 0.1),
        (magnification.log(), -math.log(1.25), math.log(1.25)),
        (degrees, -20.0, 20.0),
    ):
        assert low - 1e-4 <= drawn.min() <= low * 0.99
        assert high * 0.99 <= drawn.max() <= high + 1e-4
        assert abs(drawn.mean()) < 0.05 * high


def test_flip_mirrors_top_to_bottom_and_keeps_front_and_back() -> None:
    theta = draw_affine(200, AffineRanges(flip=True), generator(5))
    mirrored = theta[:, 1, 1] < 0
    assert 60 < mirrored.sum() < 140
    images = resample(noise(200, 8), theta, context=1.0, widest_context=1.0, size=8)
    expected = torch.where(mirrored[:, None, None, None], noise(200, 8).flip(2), noise(200, 8))
    torch.testing.assert_close(images, expected, atol=1e-6, rtol=0)


def test_one_range_leaves_the_other_draws_alone() -> None:
    shifted = draw_affine(10, AffineRanges(translation=0.1), generator(6))
    flipped_too = draw_affine(10, AffineRanges(translation=0.1, flip=True), generator(6))
    torch.testing.assert_close(shifted[:, 0, 2], flipped_too[:, 0, 2])
    assert not torch.equal(shifted, flipped_too)


def test_no_ranges_mean_the_identity() -> None:
    assert torch.equal(draw_affine(7, AffineRanges(), generator()), identity_affine(7))


def test_a_generator_decides_the_draws() -> None:
    assert torch.equal(draw_affine(9, WIDE, generator(7)), draw_affine(9, WIDE, generator(7)))
    assert not torch.equal(draw_affine(9, WIDE, generator(7)), draw_affine(9, WIDE, generator(8)))


@pytest.mark.parametrize("ranges", [WIDE, AffineRanges(), AffineRanges(0.1, 0.1, 10.0), AffineRanges(0.0, 0.0, 180.0)])
def test_nothing_beyond_the_reach_is_seen(ranges: AffineRanges) -> None:
    patches, theta = noise(300, 60), draw_affine(300, ranges, generator(9))
    wide, extent = central_crop(patches, 6.0, reach(1.0, ranges))
    seen = resample(wide, theta, context=1.0, widest_context=extent, size=8)
    whole = resample(patches, theta, context=1.0, widest_context=6.0, size=8)
    assert wide.shape[-1] < 60
    torch.testing.assert_close(seen, whole, atol=1e-4, rtol=0)


def test_the_reach_is_reached() -> None:
    """A square much smaller than `reach` would do for none of the extremes, so the crop wastes nothing."""
    for ranges in (AffineRanges(0.2), AffineRanges(scaling=0.5), AffineRanges(rotation_degrees=45.0)):
        theta = draw_affine(3000, ranges, generator(10))
        corners = theta[:, :, :2] @ torch.tensor([[1.0, 1, -1, -1], [1, -1, 1, -1]]) + theta[:, :, 2:]
        assert 0.97 < corners.abs().max() / reach(1.0, ranges) <= 1 + 1e-5


def test_one_resampling_composes_two() -> None:
    first, second = draw_affine(4, AffineRanges(0.05, 0.1, 20.0), generator(11)), draw_affine(4, WIDE, generator(12))
    patches = ramps(4, 300, 6.0)
    twice = resample(patches, first, context=4.0, widest_context=6.0, size=128)
    twice = resample(twice, second, context=1.0, widest_context=4.0, size=16)
    linear = first[:, :, :2] @ second[:, :, :2]
    # The first crop is four times as wide as the second, so its offset counts four times.
    offset = first[:, :, :2] @ second[:, :, 2:] + 4 * first[:, :, 2:]
    once = resample(patches, torch.cat([linear, offset], 2), context=1.0, widest_context=6.0, size=16)
    torch.testing.assert_close(once, twice, atol=1e-4, rtol=0)


def test_a_sample_does_not_depend_on_its_batch() -> None:
    patches, theta = noise(6, 40).half(), draw_affine(6, WIDE, generator(13))
    together = resample(patches, theta, context=1.5, widest_context=3.0, size=24)
    alone = resample(patches[4:5], theta[4:5], context=1.5, widest_context=3.0, size=24)
    assert torch.equal(together[4:5], alone)


def test_mixed_precision_leaves_the_geometry_exact() -> None:
    patches, theta = ramps(2, 64, 3.0), draw_affine(2, WIDE, generator(14))
    exact = resample(patches, theta, context=1.5, widest_context=3.0, size=24)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(resample(patches, theta, context=1.5, widest_context=3.0, size=24), exact)


def test_standardised_channels_have_mean_0_and_deviation_1_whatever_their_units() -> None:
    images = noise(3, 16)
    standard = standardise(images)
    torch.testing.assert_close(standard.mean((2, 3)), torch.zeros(3, 6), atol=1e-5, rtol=0)
    torch.testing.assert_close(standard.std((2, 3), correction=0), torch.ones(3, 6))
    gain = torch.arange(1, 7)[:, None, None] * 100.0
    torch.testing.assert_close(standardise(images * gain + 2 * gain), standard, atol=1e-4, rtol=0)


@pytest.mark.parametrize("value", [0.0, 0.1, -1234.56, 60000.0])
def test_a_constant_channel_becomes_zeros(value: float) -> None:
    images = noise(1, 33)
    images[:, 2] = value
    standard = standardise(images)
    assert torch.equal(standard[:, 2], torch.zeros(1, 33, 33))
    assert torch.isfinite(standard).all()
    assert standard[:, 3].std() > 0.9
