"""Grad-CAM: which parts of the input spoke for a prediction. Selvaraju et al., ICCV 2017, doi 10.1109/ICCV.2017.74."""

import torch
from torch import Tensor

from lightning_modules.augmentation import identity_affine
from lightning_modules.classifier import FractureClassifier

# The deepest stage says most, but of a 64-pixel input a ResNet's last one keeps 2x2 cells, which show no place.
FEWEST_CELLS = 7


def signed_maps(classifier: FractureClassifier, patches: Tensor) -> Tensor:
    """Maps (B, rows, columns), float32, over the network's crop of stored patches (B, 6, side, side).

    The sum over the channels of weight times activation (equation 2 before its ReLU). The activation is the output of
    the network's deepest stage with at least FEWEST_CELLS cells a side (where none has as many, of the deepest with
    several), the weight the mean over the cells of the logit's gradient (equation 1). Positive cells spoke for
    malignant. The ReLU of the map is Grad-CAM for malignant; that of its negative, for benign, whose logit is the
    negative.

    Raises ValueError for a network without convolutional stages. Put the classifier into evaluation mode first.
    """
    outputs: list[Tensor] = []
    stages = classifier.network.network.children()
    hooks = [stage.register_forward_hook(lambda *call: outputs.append(call[-1])) for stage in stages]
    try:
        with torch.enable_grad():
            logit = classifier(patches, identity_affine(len(patches)))
    finally:
        for hook in hooks:
            hook.remove()
    several = [output for output in outputs if output.ndim == 4 and min(output.shape[2:]) > 1]
    if not several:
        raise ValueError("the network has no convolutional stage to map")
    fine = [output for output in several if min(output.shape[2:]) >= FEWEST_CELLS]
    activation = (fine or several)[-1]
    (gradient,) = torch.autograd.grad(logit.sum(), activation)
    weight = gradient.float().mean((2, 3), keepdim=True)
    return (weight * activation.detach()).sum(1)
