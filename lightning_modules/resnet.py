"""Residual networks for small images: He et al., CVPR 2016, doi 10.1109/CVPR.2016.90, figures 3 and 5, table 1.

Parameters have torchvision's names and shapes, so that its published files load. The stride of a bottleneck stands in
its 3x3 convolution, as in those files.
"""

import torch
from torch import Tensor, nn

BASIC, BOTTLENECK = (3, 3), (1, 3, 1)
"""Kernel sizes of a block's convolutions."""


class Block(nn.Module):
    """A residual block; a bottleneck's last convolution has four times its width."""

    def __init__(self, kernels: tuple[int, ...], channels: int, width: int, stride: int) -> None:
        super().__init__()
        out = width * (4 if kernels == BOTTLENECK else 1)
        strided = kernels.index(3)
        self.depth = len(kernels)
        before = channels
        for number, kernel in enumerate(kernels, 1):
            after = out if number == self.depth else width
            step = stride if number - 1 == strided else 1
            self.add_module(f"conv{number}", _convolution(before, after, kernel, step))
            self.add_module(f"bn{number}", nn.BatchNorm2d(after))
            before = after
        same = stride == 1 and channels == out
        self.stride = stride
        self.downsample = None if same else nn.Sequential(_convolution(channels, out, 1, 1), nn.BatchNorm2d(out))

    def forward(self, images: Tensor) -> Tensor:
        # The stride of this 1x1 convolution is taken before it: with the stride in it, oneDNN's backward pass of a
        # narrow channels_last network ends the process from 224 pixels on (torch 2.13, CPU).
        skipped = images if self.downsample is None else self.downsample(images[..., :: self.stride, :: self.stride])
        for number in range(1, self.depth + 1):
            images = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(images))
            images = torch.relu_(images if number < self.depth else images.add_(skipped))
        return images


class ResNet(nn.Sequential):
    """(B, 3, H, W) to features (B, F), the means over the last stage's pixels."""

    def __init__(
        self, kernels: tuple[int, ...], blocks: list[int], widths: list[int], *, stem_kernel: int, stem_stride: int
    ) -> None:
        super().__init__()
        self.conv1 = _convolution(3, widths[0], stem_kernel, stem_stride)
        self.bn1 = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.features = widths[0]
        for stage, (count, width) in enumerate(zip(blocks, widths, strict=True), 1):
            self.add_module(f"layer{stage}", self._stage(kernels, count, width, stride=1 if stage == 1 else 2))

    def _stage(self, kernels: tuple[int, ...], count: int, width: int, stride: int) -> nn.Sequential:
        blocks = []
        for number in range(count):
            blocks.append(Block(kernels, self.features, width, stride if number == 0 else 1))
            self.features = width * (4 if kernels == BOTTLENECK else 1)
        return nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = super().forward(images)  # type: ignore[no-untyped-call]
        return features.mean((2, 3))


def _convolution(before: int, after: int, kernel: int, stride: int) -> nn.Conv2d:
    convolution = nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False)
    # He et al., ICCV 2015, doi 10.1109/ICCV.2015.123.
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    return convolution
