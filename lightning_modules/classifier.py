"""One model: stored patches to logits, initial weights, L2 and optimiser."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from lightning_modules.augmentation import AffineRanges, central_crop, reach, resample, standardise
from lightning_modules.backbone import build_backbone
from lightning_modules.weights import load_weights


@dataclass(frozen=True)
class Arithmetic:
    """How the same function is computed; docs/performance.md gives each switch's tolerance against the default.

    precision: "32-true"; "tf32", convolutions and matrix products of a GPU with 10 bits of mantissa; "bf16-mixed",
        bfloat16 where autocast takes it; "64-true".
    channels_last: the order of a tensor's axes in memory.
    fused_optimizer: one kernel instead of several a parameter.
    compile: the backbone by torch.compile.
    cuda_graphs: a training step is recorded once and replayed; without effect on a CPU.
    """

    precision: str = "32-true"
    channels_last: bool = True
    fused_optimizer: bool = False
    compile: bool = False
    cuda_graphs: bool = False


class FractureClassifier(nn.Module):
    """Logit of malignancy of each lesion slice.

    l2_weight: the loss has l2_weight · Σ w² added, over the kernels of convolutions and of the fully connected layer,
        not over biases or batch normalisation. With optimizer "adam" it goes exactly into the gradient, as the study
        has it (coupled); "adamw" shrinks those kernels by 2 · l2_weight · learning_rate a step, apart from the
        gradient (Loshchilov and Hutter, ICLR 2019).
    context, widest_context: sides of the crop and of the stored patches, in box sides.
    size: side of the network's input, in pixels.
    sequences, neighbours: which of the six channels it sees; the others are zero, their mean after standardisation.
    seed: decides the initial weights.
    """

    seen: Tensor
    """(6, 1, 1), 1 where the network sees the channel."""

    def __init__(
        self,
        *,
        backbone: str,
        stem: str,
        weights: str,
        dropout: float,
        optimizer: str,
        learning_rate: float,
        beta1: float,
        l2_weight: float,
        context: float,
        widest_context: float,
        size: int,
        sequences: str = "both",
        neighbours: int = 1,
        ranges: AffineRanges,
        seed: int,
        arithmetic: Arithmetic = Arithmetic(),
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(epoch_seed(seed, None))
            self.network = build_backbone(backbone, stem=stem, dropout=dropout)
        load_weights(self.network, weights, backbone=backbone)
        self.memory_format = torch.channels_last if arithmetic.channels_last else torch.contiguous_format
        dtype = torch.float64 if arithmetic.precision == "64-true" else torch.float32
        self.network.to(dtype=dtype, memory_format=self.memory_format)  # type: ignore[call-overload]
        if arithmetic.compile:
            self.network.network.compile()
        self.optimizer, self.learning_rate, self.beta1, self.l2_weight = optimizer, learning_rate, beta1, l2_weight
        self.context, self.widest_context, self.size = context, widest_context, size
        self.ranges, self.seed, self.arithmetic = ranges, seed, arithmetic
        self.register_buffer("seen", seen_channels(sequences, neighbours).float()[:, None, None], persistent=False)

    def forward(self, patches: Tensor, theta: Tensor) -> Tensor:
        """Logits (B,) of stored patches (B, 6, side, side) seen through theta (B, 2, 3); float32, or 64 if so set."""
        centre, extent = central_crop(patches, self.widest_context, reach(self.context, self.ranges))
        images = standardise(resample(centre, theta, context=self.context, widest_context=extent, size=self.size))
        images = images * self.seen
        dtype = self.network.head.weight.dtype
        mixed = self.arithmetic.precision == "bf16-mixed"
        if patches.is_cuda:  # these are the process's, and another fold's may differ; the backward pass follows at once
            torch.backends.cuda.matmul.allow_tf32 = self.arithmetic.precision == "tf32"
            torch.backends.cudnn.allow_tf32 = self.arithmetic.precision == "tf32"
        # A weight is used once a step: a cache of converted ones would only go stale in a recorded step.
        with torch.autocast(patches.device.type, torch.bfloat16, enabled=mixed, cache_enabled=False):
            logits: Tensor = self.network(images.to(dtype).contiguous(memory_format=self.memory_format))
        return logits.to(dtype)

    def make_optimizer(self) -> torch.optim.Optimizer:
        """Over the parameters where they are now; on a GPU its state stays there, so that a step can be recorded."""
        kernels = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        # Both optimisers count weight_decay · w, the gradient of weight_decay / 2 · w².
        groups: list[dict[str, Any]] = [
            {"params": kernels, "weight_decay": 2 * self.l2_weight},
            {"params": others, "weight_decay": 0.0},
        ]
        return torch.optim.Adam(
            groups,
            lr=self.learning_rate,
            betas=(self.beta1, 0.999),
            decoupled_weight_decay=self.optimizer == "adamw",
            fused=self.arithmetic.fused_optimizer or None,  # False would rule out foreach as well
            capturable=kernels[0].is_cuda and self.arithmetic.cuda_graphs,
        )


def patient_auc(logit: Tensor, label: Tensor, patient: Tensor) -> Tensor:
    """Area under the ROC curve over patients, each by the highest logit of its slices; NaN with one class only.

    logit, label, patient: (N,), one a slice. The highest one decides, as in Yeh et al., doi 10.1007/s00586-022-07121-1.
    """
    codes, position = torch.unique(patient, return_inverse=True)
    highest = logit.new_full(codes.shape, -torch.inf).scatter_reduce(0, position, logit, "amax")
    malignant = logit.new_zeros(codes.shape).scatter_reduce(0, position, label, "amax").long()
    if malignant.min() == malignant.max():
        return logit.new_tensor(torch.nan)
    return binary_auroc(highest, malignant)


def seen_channels(sequences: str, neighbours: int) -> Tensor:
    """(6,), 1 where the network sees the channel: T1W previous, same, next slice, then T2W."""
    sequence = torch.tensor([sequences != "t2w", sequences != "t1w"])
    position = torch.tensor([neighbours > 0, True, neighbours > 0])
    return torch.outer(sequence, position).flatten()


def epoch_seed(seed: int, epoch: int | None) -> int:
    """Seed of an epoch's random streams, or, without an epoch, of the initial weights."""
    # Nearby seeds and epochs give unrelated streams, and no pair repeats another's.
    sequence = np.random.SeedSequence([seed, 0 if epoch is None else epoch + 1])
    return int(sequence.generate_state(1, np.uint64)[0])
