"""Grad-CAM against a computation by hand, another implementation, and what a map must mean."""

from typing import Any

import pytest
import torch
from monai.visualize import GradCAM
from torch import Tensor, nn

from lightning_modules.augmentation import central_crop, identity_affine, reach, resample, standardise
from lightning_modules.backbone import SixToThree
from lightning_modules.classifier import FractureClassifier
from lightning_modules.grad_cam import signed_maps
from lightning_modules.resnet import Block
from tests.folds import classifier, lesions


def network_input(model: FractureClassifier, patches: Tensor) -> Tensor:
    centre, extent = central_crop(patches, model.widest_context, reach(model.context, model.ranges))
    theta = identity_affine(len(patches))
    return standardise(resample(centre, theta, context=model.context, widest_context=extent, size=model.size))


def test_a_tiny_network_by_hand() -> None:
    model = classifier(size=8).eval()
    pooled = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model.network = SixToThree(nn.Sequential(nn.Conv2d(3, 2, 1, bias=False), pooled), 2, 0.0)
    patches = lesions(3)[0]
    adapter, kernel = model.network.adapter.weight[..., 0, 0], model.network.network[0].weight[..., 0, 0]
    activation = torch.einsum("kc,ci,bihw->bkhw", kernel, adapter, network_input(model, patches))
    # The logit is the head's weights times the means of 8x8 cells: its gradient is weight / 64 everywhere.
    expected = torch.einsum("k,bkhw->bhw", model.network.head.weight[0] / 64, activation)
    assert torch.allclose(signed_maps(model, patches), expected, atol=1e-6)
    assert torch.allclose(expected.sum((1, 2)) + model.network.head.bias, model(patches, identity_affine(3)), atol=1e-5)


class TwoClasses(nn.Module):
    """benign and malignant logits (B, 2), as monai's GradCAM wants them."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logit = self.network(images)
        return torch.stack([-logit, logit], 1)


@pytest.mark.parametrize(("size", "stage"), [(64, "layer2"), (224, "layer4")])
@pytest.mark.parametrize("malignant", [0, 1])
def test_it_agrees_with_monai_on_our_network(size: int, stage: str, malignant: int) -> None:
    model = classifier(size=size).eval()
    patches = lesions(4)[0]
    monai: Any = GradCAM(TwoClasses(model.network).eval(), f"network.network.{stage}")
    theirs = monai.compute_map(network_input(model, patches), class_idx=malignant)[:, 0]
    ours = signed_maps(model, patches) * (1 if malignant else -1)
    assert ours.shape[1:] == theirs.shape[1:]
    assert torch.allclose(ours.clamp(min=0), theirs, atol=1e-5 * float(theirs.max()))
    assert theirs.max() > 0


def test_the_map_of_a_mirrored_image_is_the_mirrored_map_where_the_network_is_symmetric() -> None:
    model = classifier(size=64).eval()
    for module in model.network.modules():
        if isinstance(module, nn.Conv2d):
            module.weight.data = (module.weight + module.weight.flip(2)) / 2
            module.stride, module.padding = (1, 1), tuple(side // 2 for side in module.kernel_size)
        if isinstance(module, Block):
            module.stride = 1
    model.network.network.maxpool = nn.Identity()
    patches = lesions(2)[0]
    mirrored = signed_maps(model, patches.flip(2))
    assert torch.allclose(mirrored, signed_maps(model, patches).flip(1), atol=1e-4 * float(mirrored.abs().max()))


def test_other_weights_give_another_map_and_the_model_is_left_as_it_was() -> None:
    first, second = classifier(size=64, seed=1).eval(), classifier(size=64, seed=2).eval()
    patches = lesions(2)[0]
    before = {name: value.clone() for name, value in first.state_dict().items()}
    assert not torch.allclose(signed_maps(first, patches), signed_maps(second, patches), rtol=0.1)
    assert all(torch.equal(value, before[name]) for name, value in first.state_dict().items())
    assert all(parameter.grad is None for parameter in first.parameters())
    assert not any(module._forward_hooks for module in first.modules())


def test_a_network_without_stages_is_refused() -> None:
    model = classifier(size=16).eval()
    model.network = SixToThree(nn.Sequential(nn.Flatten(), nn.Linear(768, 2)), 2, 0.0)
    with pytest.raises(ValueError, match="no convolutional stage"):
        signed_maps(model, lesions(2)[0])
