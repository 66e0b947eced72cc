"""A batch of stored patches to network input: context crop, shift, scale, rotation, flip and resize in one resampling.

Decide, record, then apply: `draw_affine` decides and its theta is the record; `resample` applies it. Normalised
coordinates are those of torch.nn.functional.grid_sample with align_corners=False throughout: -1 and 1 are the outer
edges of the first and last pixel, so a square spans the same millimetres at every resolution.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F


@dataclass(frozen=True)
class AffineRanges:
    """How far a random affine may go; the default moves nothing.

    translation: largest shift along each axis, as a fraction of the crop's side.
    scaling: the magnification is log-uniform in [1 / (1 + scaling), 1 + scaling], so that enlarging and shrinking
        by the same ratio are equally likely.
    rotation_degrees: largest rotation either way.
    flip: mirror half of the samples top to bottom. On a sagittal slice this keeps the front of the vertebra (wedge
        deformity) and its back (pedicles, canal) on their sides, which a left-right mirror would exchange.
    """

    translation: float = 0.0
    scaling: float = 0.0
    rotation_degrees: float = 0.0
    flip: bool = False


def identity_affine(count: int) -> Tensor:
    """Theta (count, 2, 3) that changes nothing."""
    return torch.eye(2, 3).repeat(count, 1, 1)


def draw_affine(count: int, ranges: AffineRanges, generator: torch.Generator) -> Tensor:
    """Random theta (count, 2, 3): output points to the points of the crop that they show, both normalised (x, y).

    The crop's image is flipped, magnified and rotated about its centre, then shifted; theta is the inverse of that,
    as grid_sample wants it. Every sample takes five numbers from the generator whatever the ranges, so that changing
    one range leaves the other draws as they were.
    """
    shift_x, shift_y, zoom, turn, mirror = (2 * torch.rand(count, 5, generator=generator) - 1).unbind(1)
    magnification = torch.exp(zoom * math.log1p(ranges.scaling))
    angle = turn * math.radians(ranges.rotation_degrees)
    cos, sin = torch.cos(angle) / magnification, torch.sin(angle) / magnification
    upright = torch.where(mirror < 0, -1.0, 1.0) if ranges.flip else torch.ones(count)
    linear = torch.stack([cos, sin, -upright * sin, upright * cos], 1).view(count, 2, 2)
    # A shift by the whole crop's side is 2 in normalised coordinates.
    shift = 2 * ranges.translation * torch.stack([shift_x, shift_y], 1)
    return torch.cat([linear, -linear @ shift[:, :, None]], 2)


def reach(context: float, ranges: AffineRanges) -> float:
    """Side, in box sides, of the centred square that holds every point a crop of `context` box sides can show."""
    angle = math.radians(min(ranges.rotation_degrees, 45.0))
    turned = math.cos(angle) + math.sin(angle)
    return context * (1 + ranges.scaling) * turned * (1 + 2 * ranges.translation)


def central_crop(patches: Tensor, widest_context: float, extent: float) -> tuple[Tensor, float]:
    """The centre of `patches` (B, 6, side, side), at least `extent` box sides wide, and its side in box sides.

    A view, so that only what the resampling can reach is converted to float32.
    """
    side = patches.shape[-1]
    # Two pixels more on each side: the neighbours that bilinear interpolation reads, and rounding.
    margin = max(0, math.floor((side - side * extent / widest_context) / 2) - 2)
    kept = slice(margin, side - margin)
    return patches[..., kept, kept], widest_context * (side - 2 * margin) / side


def resample(patches: Tensor, theta: Tensor, *, context: float, widest_context: float, size: int) -> Tensor:
    """Network input (B, 6, size, size), float32, from patches (B, 6, side, side) spanning `widest_context` box sides.

    The crop of `context` box sides about the patch's centre is transformed by `theta` (B, 2, 3) and resized in one
    bilinear grid_sample (align_corners=False). Beyond the patch its edge pixels repeat (padding_mode="border"): zeros
    would draw a dark frame that the standardisation then spreads over the picture.
    """
    count, channels = patches.shape[:2]
    # Mixed precision would round the grid's coordinates to 8 bits, half a pixel.
    with torch.autocast(patches.device.type, enabled=False):
        onto_patch = theta.to(patches.device, torch.float32) * (context / widest_context)
        grid = F.affine_grid(onto_patch, [count, channels, size, size], align_corners=False)
        return F.grid_sample(patches.float(), grid, padding_mode="border", align_corners=False)


def standardise(images: Tensor) -> Tensor:
    """`images` (B, C, H, W), each channel of each with mean 0 and standard deviation 1; constant channels become 0."""
    mean = images.mean((2, 3), keepdim=True)
    centred = images - mean
    # torch.std_mean is twenty times slower here on a CPU.
    deviation = centred.square().mean((2, 3), keepdim=True).sqrt()
    # Rounding leaves a constant channel a deviation of about 1e-7 of its mean.
    scale = torch.where(deviation > 1e-5 * mean.abs(), 1 / deviation, 0.0)
    return centred * scale
