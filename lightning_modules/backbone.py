"""Six channels to one logit: 1x1 convolution to three, a published network, dropout, a fully connected layer."""

import difflib

import torch
from torch import Tensor, nn

from lightning_modules.resnet import BASIC, BOTTLENECK, ResNet

# Residual blocks of the four stages; He et al., CVPR 2016, doi 10.1109/CVPR.2016.90, table 1.
RESNETS: dict[str, tuple[tuple[int, ...], list[int], list[int]]] = {
    "resnet18": (BASIC, [2, 2, 2, 2], [64, 128, 256, 512]),
    "resnet34": (BASIC, [3, 4, 6, 3], [64, 128, 256, 512]),
    "resnet50": (BOTTLENECK, [3, 4, 6, 3], [64, 128, 256, 512]),
    "resnet101": (BOTTLENECK, [3, 4, 23, 3], [64, 128, 256, 512]),
    "resnet152": (BOTTLENECK, [3, 8, 36, 3], [64, 128, 256, 512]),
    # Ours, for processors without an accelerator: an eighth of ResNet-18's width and half of its depth.
    "narrow": (BASIC, [1, 1, 1, 1], [8, 16, 32, 64]),
}

# Kernel size and stride of the first convolution; a max pooling layer follows either.
STEMS = {"7x7": (7, 2), "3x3": (3, 1)}


class NetworkError(ValueError):
    """A network or its weights cannot be had, or do not fit each other."""


class SeededDropout(nn.Module):
    """Dropout from a random stream of its own, so that networks trained side by side do not share one."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability
        self.generator: torch.Generator | None = None

    def forward(self, features: Tensor) -> Tensor:
        if not self.training or self.probability == 0:
            return features
        kept = torch.rand(features.shape, generator=self.generator, device=features.device) >= self.probability
        return features * kept / max(1 - self.probability, 1e-9)


class SixToThree(nn.Module):
    """(B, 6, H, W) to logits (B,).

    Attributes: adapter, the 1x1 convolution; network, (B, 3, H, W) to features (B, F); head, the fully connected layer.
    """

    def __init__(self, network: nn.Module, features: int, dropout: float) -> None:
        super().__init__()
        self.adapter = nn.Conv2d(6, 3, kernel_size=1, bias=False)
        self.network = network
        self.dropout = SeededDropout(dropout)
        self.head = nn.Linear(features, 1)

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.network(self.adapter(images))))
        return logits.squeeze(1)


def build_backbone(name: str, *, stem: str, dropout: float = 0.0) -> SixToThree:
    """The network called `name` with random weights from torch's default generator.

    name: one of RESNETS, or timm/NAME for any network of timm (extra `timm`).
    stem: "7x7", the first layers as published; "3x3", a 3x3 first convolution of stride 1 (ResNets only; figure of
        Yeh et al., doi 10.1007/s00586-022-07121-1).

    Raises NetworkError for a name that timm does not know, a stem that it cannot have, or where it cannot be imported.
    """
    if name.startswith("timm/"):
        return SixToThree(*_timm_network(name.removeprefix("timm/"), stem), dropout)
    kernels, blocks, widths = RESNETS[name]
    stem_kernel, stem_stride = STEMS[stem]
    network = ResNet(kernels, blocks, widths, stem_kernel=stem_kernel, stem_stride=stem_stride)
    return SixToThree(network, network.features, dropout)


def _timm_network(name: str, stem: str) -> tuple[nn.Module, int]:
    if stem != "7x7":
        raise NetworkError(
            f"model.stem={stem} is for ResNets; timm/{name} has its own: set model.stem=7x7 (as published)"
        )
    try:
        import timm
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision built for another torch
        raise NetworkError(
            f"model.backbone=timm/{name} needs timm, and the torchvision that belongs to torch {torch.__version__}: "
            f"pip install -e '.[timm]' ({error})"
        ) from error
    if not timm.is_model(name):
        close = " or ".join(difflib.get_close_matches(name, timm.list_models())) or "something else"
        raise NetworkError(f"model.backbone=timm/{name} is not in timm {timm.__version__}; did you mean {close}?")
    network: nn.Module = timm.create_model(name, num_classes=0)
    return network, int(network.head_hidden_size)  # type: ignore[arg-type]
