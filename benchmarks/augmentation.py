"""Random affines of a batch on one core: ours, MONAI's and TorchIO's by the sample, kornia's by the batch.

    python benchmarks/augmentation.py

Each turns, scales and shifts 32 images of 6 x 64 x 64 pixels within the same ranges, bilinearly; once from such images,
and once, as in training, from stored patches of three box sides in float16, of which the central box is wanted. Peers
that are not installed are left out: `pip install monai torchio kornia`. The rounds are taken by turns; the figures are
medians of processor time with their range. First, ours is held to scipy.ndimage on the same grid, within 1e-4.
"""

from __future__ import annotations

import argparse
import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from scipy.ndimage import map_coordinates
from torch import Tensor

from lightning_modules.augmentation import AffineRanges, central_crop, draw_affine, reach, resample

BATCH, SIDE = 32, 64
TRANSLATION, SCALING, DEGREES = 0.05, 0.1, 10.0
RANGES = AffineRanges(TRANSLATION, SCALING, DEGREES)

Transform = Callable[[], Tensor]


def ours(images: Tensor, extent: float = 1.0) -> Transform:
    """Of images that span `extent` box sides, as in training: crop, affine and resize in one resampling."""
    generator = torch.Generator().manual_seed(0)

    def transform() -> Tensor:
        centre, width = central_crop(images, extent, reach(1.0, RANGES))
        theta = draw_affine(len(images), RANGES, generator)
        return resample(centre, theta, context=1.0, widest_context=width, size=SIDE)

    return transform


def by_users(one: Callable[[Tensor], Tensor], images: Tensor, extent: float = 1.0) -> Transform:
    """The affine of what it may show of the images, in float32, and the middle of that."""

    def transform() -> Tensor:
        centre, _ = central_crop(images, extent, reach(1.0, RANGES))
        moved = one(centre.float())
        margin = (moved.shape[-1] - SIDE) // 2
        return moved[..., margin : margin + SIDE, margin : margin + SIDE]

    return transform


def monai() -> Callable[[Tensor], Tensor]:
    from monai.transforms import RandAffine

    radians, shift = np.deg2rad(DEGREES), TRANSLATION * SIDE
    one = RandAffine(1.0, radians, None, shift, SCALING, spatial_size=(SIDE, SIDE), padding_mode="border")
    return lambda images: torch.stack([one(image) for image in images])


def torchio() -> Callable[[Tensor], Tensor]:
    from torchio import RandomAffine, ScalarImage

    # Its images are three-dimensional; the last axis is the plane's.
    limits = {"scales": (1 - SCALING, 1 + SCALING, 1 - SCALING, 1 + SCALING, 1, 1), "degrees": (0, 0, 0, 0, -10, 10)}
    one = RandomAffine(**limits, translation=(-3.2, 3.2, -3.2, 3.2, 0, 0))
    return lambda images: torch.stack([one(ScalarImage(tensor=image[..., None])).data[..., 0] for image in images])


def kornia() -> Callable[[Tensor], Tensor]:
    from kornia.augmentation import RandomAffine

    shift, scale = (TRANSLATION, TRANSLATION), (1 - SCALING, 1 + SCALING)
    return RandomAffine(DEGREES, shift, scale, p=1.0, padding_mode="border", align_corners=False)


def check() -> float:
    """Largest difference from scipy.ndimage on the same grid."""
    images = torch.rand(4, 6, SIDE, SIDE)
    theta = draw_affine(4, RANGES, torch.Generator().manual_seed(1))
    found = resample(images, theta, context=1.0, widest_context=1.0, size=SIDE).numpy()
    axis = (2 * np.arange(SIDE) + 1) / SIDE - 1
    points = np.stack(np.meshgrid(axis, axis), -1)
    largest = 0.0
    for image, matrix, result in zip(images.double().numpy(), theta.double().numpy(), found, strict=True):
        x, y = np.moveaxis(points @ matrix[:, :2].T + matrix[:, 2], -1, 0)
        pixels = [((y + 1) * SIDE - 1) / 2, ((x + 1) * SIDE - 1) / 2]
        for channel in range(6):
            expected = map_coordinates(image[channel], pixels, order=1, mode="nearest")
            largest = max(largest, float(np.abs(result[channel] - expected).max()))
    return largest


def main(rounds: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(1)
    difference = check()
    print(f"largest difference from scipy.ndimage: {difference:.1e}")
    assert difference < 1e-4
    peers = {"MONAI, by the sample": monai, "TorchIO, by the sample": torchio, "kornia, by the batch": kornia}
    affines = {name: peer() for name, peer in peers.items() if importlib.util.find_spec(name.split(",")[0].lower())}
    images, stored = torch.rand(BATCH, 6, SIDE, SIDE), torch.rand(BATCH, 6, 3 * SIDE, 3 * SIDE).half()
    for title, source in (("images", (images,)), ("stored patches", (stored, 3.0))):
        compare(
            title, {"ours": ours(*source)} | {name: by_users(one, *source) for name, one in affines.items()}, rounds
        )


def compare(title: str, transforms: dict[str, Transform], rounds: int) -> None:
    milliseconds: dict[str, list[float]] = {name: [] for name in transforms}
    for _ in range(rounds + 1):
        for name, transform in transforms.items():
            began = time.process_time()
            transform()
            milliseconds[name].append(1e3 * (time.process_time() - began))
    reference = statistics.median(milliseconds["ours"][1:])
    print(f"\n| affine of a batch of {BATCH}, from {title} | ms of the processor (range) | times ours |\n|---|---|---|")
    for name, taken in milliseconds.items():
        median = statistics.median(taken[1:])  # the first warms up
        print(f"| {name} | {median:.1f} ({min(taken[1:]):.1f} to {max(taken[1:]):.1f}) | {median / reference:.1f} |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    main(parser.parse_args().rounds)
