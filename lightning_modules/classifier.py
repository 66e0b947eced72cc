"""One fold's model: input, network, loss, optimiser and per-patient validation."""

from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torchmetrics.functional.classification import binary_auroc

from lightning_modules.augmentation import (
    AffineRanges,
    central_crop,
    draw_affine,
    identity_affine,
    reach,
    resample,
    standardise,
)
from lightning_modules.backbone import build_backbone
from lightning_modules.weights import load_weights

# patches (B, 6, side, side) as stored; label (B,) float32, 1 is malignant; row (B,) of the patch store;
# patient (B,) integer code.
Batch = dict[str, Tensor]

OPTIMIZERS: dict[str, type[torch.optim.Adam]] = {"adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class FractureClassifier(pl.LightningModule):
    """Probability of malignancy of each lesion slice.

    Randomness is a function of `seed` and the epoch alone: initial weights from seed; each epoch's affines and dropout
    from (seed, epoch), set at the epoch's first batch, so that an epoch resumed in a new process gives the same bytes.
    The order of the samples is the data module's to keep in the same way.

    l2_weight: the loss has l2_weight · Σ w² added, over the kernels of convolutions and of the fully connected layer,
        not over biases or batch normalisation. With optimizer "adam" it goes exactly into the gradient, as the study
        has it (coupled); "adamw" shrinks those kernels by 2 · l2_weight · learning_rate a step, apart from the
        gradient (Loshchilov and Hutter, ICLR 2019).
    context, widest_context: sides of the crop and of the stored patches, in box sides.
    size: side of the network's input, in pixels.

    Logs train_loss (mean over samples, without the L2 term), inner_loss (mean over slices) and inner_auc each epoch.
    """

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
        ranges: AffineRanges,
        seed: int,
    ) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_epoch_seed(seed, None))
            self.network = build_backbone(backbone, stem=stem, dropout=dropout)
        load_weights(self.network, weights, backbone=backbone)
        # A quarter less time for a step on a CPU, and what tensor cores want.
        self.network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimizer, self.learning_rate, self.beta1, self.l2_weight = optimizer, learning_rate, beta1, l2_weight
        self.context, self.widest_context, self.size = context, widest_context, size
        self.ranges, self.seed = ranges, seed
        self.affine_generator = torch.Generator()
        self.validated: list[Batch] = []

    def forward(self, patches: Tensor, theta: Tensor) -> Tensor:
        """Logits (B,), float32, of stored patches (B, 6, side, side) seen through theta (B, 2, 3)."""
        centre, extent = central_crop(patches, self.widest_context, reach(self.context, self.ranges))
        images = resample(centre, theta, context=self.context, widest_context=extent, size=self.size)
        logits: Tensor = self.network(standardise(images).contiguous(memory_format=torch.channels_last))
        return logits.float()

    def on_train_batch_start(self, batch: Batch, batch_idx: int) -> None:
        # Not at the epoch's start: Lightning builds a later epoch's data iterator, which draws from the same
        # generator, after that hook, and a resumed epoch's before it.
        if batch_idx == 0:
            epoch_seed = _epoch_seed(self.seed, self.current_epoch)
            self.affine_generator.manual_seed(epoch_seed)
            torch.manual_seed(epoch_seed)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        patches, label = batch["patches"], batch["label"]
        theta = draw_affine(len(patches), self.ranges, self.affine_generator)
        loss = F.binary_cross_entropy_with_logits(self(patches, theta), label)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(patches))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        logit = self(batch["patches"], identity_affine(len(batch["patches"])))
        self.validated.append({"logit": logit, "label": batch["label"], "patient": batch["patient"]})

    def on_validation_epoch_end(self) -> None:
        logit, label, patient = (
            torch.cat([part[key] for part in self.validated]) for key in ("logit", "label", "patient")
        )
        self.validated.clear()
        self.log("inner_loss", F.binary_cross_entropy_with_logits(logit, label))
        self.log("inner_auc", patient_auc(logit, label, patient))

    def predict_step(self, batch: Batch, batch_idx: int) -> Batch:
        """The batch's rows of the patch store, row (B,), and their probability (B,) of malignancy."""
        logit = self(batch["patches"], identity_affine(len(batch["patches"])))
        return {"row": batch["row"], "probability": torch.sigmoid(logit)}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kernels = [parameter for parameter in self.parameters() if parameter.ndim > 1]
        others = [parameter for parameter in self.parameters() if parameter.ndim <= 1]
        # Both optimisers count weight_decay · w, the gradient of weight_decay / 2 · w².
        groups: list[dict[str, Any]] = [
            {"params": kernels, "weight_decay": 2 * self.l2_weight},
            {"params": others, "weight_decay": 0.0},
        ]
        return OPTIMIZERS[self.optimizer](groups, lr=self.learning_rate, betas=(self.beta1, 0.999))


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


def _epoch_seed(seed: int, epoch: int | None) -> int:
    # Nearby seeds and epochs give unrelated streams, and no pair repeats another's.
    sequence = np.random.SeedSequence([seed, 0 if epoch is None else epoch + 1])
    return int(sequence.generate_state(1, np.uint64)[0])
