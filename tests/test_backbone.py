"""Networks by name: published shapes, names and sizes; one logit."""

import importlib
import importlib.util
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_modules.backbone import RESNETS, STEMS, NetworkError, build_backbone

# Parameters of the published networks with 1000 classes (torchvision's model cards), and inputs of that last layer.
PUBLISHED = {
    "resnet18": (11_689_512, 512),
    "resnet34": (21_797_672, 512),
    "resnet50": (25_557_032, 2048),
    "resnet101": (44_549_160, 2048),
    "resnet152": (60_192_808, 2048),
}

# Yabu et al., doi 10.1016/j.spinee.2021.03.006, by timm's names, and the smallest input of those that refuse 64 pixels.
SECOND_STUDY = {
    "vgg16": 64,
    "vgg19": 64,
    "densenet121": 64,
    "densenet169": 64,
    "densenet201": 64,
    "inception_resnet_v2": 75,
    "inception_v3": 75,
    "resnet50": 64,
    "legacy_xception": 64,
}


@pytest.fixture(scope="module")
def timm() -> Iterator[None]:
    """timm, beside a CPU build of torch too: torchvision's wheel lacks the declaration of its operators there."""
    for package in ("timm", "torchvision"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install -e '.[timm]'")
    library = None
    try:
        importlib.import_module("torchvision")
    except RuntimeError:
        library = declare_torchvision_operators()
    yield
    del library


def declare_torchvision_operators() -> Any:
    spec = importlib.util.find_spec("torchvision")
    assert spec is not None
    assert spec.origin is not None
    source = Path(spec.origin).with_name("_meta_registrations.py").read_text()
    library: Any = torch.library.Library("torchvision", "DEF")  # type: ignore[no-untyped-call]
    for name in set(re.findall(r'(?:register_meta\("|"torchvision::)(\w+)"', source)):
        library.define(f"{name}() -> ()")
    return library


def shapes_on_meta(name: str, stem: str, size: int) -> tuple[dict[str, Tensor], torch.Size]:
    with torch.device("meta"):
        network = build_backbone(name, stem=stem)
        return network.network.state_dict(), network(torch.zeros(2, 6, size, size)).shape


@pytest.mark.parametrize("stem", STEMS)
@pytest.mark.parametrize("name", RESNETS)
def test_every_resnet_gives_one_logit_a_sample(name: str, stem: str) -> None:
    assert shapes_on_meta(name, stem, 64)[1] == (2,)


@pytest.mark.parametrize("name", PUBLISHED)
def test_sizes_and_parameter_names_are_the_published_ones(name: str) -> None:
    state, _ = shapes_on_meta(name, "7x7", 64)
    parameters = sum(value.numel() for key, value in state.items() if "running" not in key and "tracked" not in key)
    published, features = PUBLISHED[name]
    assert parameters == published - 1000 * (features + 1)
    block, layers, _ = RESNETS[name]
    convolutions = {"conv1.weight"}
    for stage, blocks in enumerate(layers, 1):
        for position in range(blocks):
            inside = range(1, len(block) + 1)
            convolutions |= {f"layer{stage}.{position}.conv{number}.weight" for number in inside}
    assert convolutions == {key for key, value in state.items() if value.ndim == 4 and "downsample" not in key}
    assert {"bn1.running_mean", "layer2.0.downsample.0.weight", "layer2.0.downsample.1.bias"} <= state.keys()


@pytest.mark.parametrize("kind", [("resnet50", "bottleneck"), ("resnet18", "basic")])
def test_the_same_weights_give_the_same_features_as_monais(kind: tuple[str, str]) -> None:
    monai = pytest.importorskip("monai.networks.nets.resnet")
    name, block = kind
    layers, widths = RESNETS[name][1:]
    shape: dict[str, Any] = {"spatial_dims": 2, "n_input_channels": 3, "conv1_t_size": 7, "conv1_t_stride": 2}
    theirs = monai.ResNet(block, layers, widths, bias_downsample=False, feed_forward=False, **shape).double()
    ours = build_backbone(name, stem="7x7").network.double()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    for mode in (True, False):
        torch.testing.assert_close(ours.train(mode)(images), theirs.train(mode)(images), atol=1e-11, rtol=1e-11)


def test_a_narrow_network_learns_from_large_images() -> None:
    """With the stride inside the 1x1 convolution torch 2.13 ends the process here."""
    network = build_backbone("narrow", stem="7x7").to(memory_format=torch.channels_last)
    network(torch.randn(4, 6, 224, 224).contiguous(memory_format=torch.channels_last)).sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in network.parameters())


def test_stems() -> None:
    """As published the first layers quarter the side twice over; with the 3x3 stem only max pooling halves it."""
    sides = {}
    for stem in STEMS:
        network = build_backbone("narrow", stem=stem).network
        assert isinstance(network.conv1, nn.Conv2d)
        assert isinstance(network.maxpool, nn.MaxPool2d)
        sides[network.conv1.kernel_size] = network.maxpool(network.conv1(torch.zeros(1, 3, 64, 64))).shape[-1]
    assert sides == {(7, 7): 16, (3, 3): 32}


def test_six_channels_reach_the_network_as_three() -> None:
    network = build_backbone("narrow", stem="7x7").eval()
    images = torch.randn(2, 6, 32, 32)
    by_hand = torch.einsum("oi,nihw->nohw", network.adapter.weight[:, :, 0, 0], images)
    expected = network.head(network.network(by_hand))[:, 0]
    torch.testing.assert_close(network(images), expected, atol=1e-5, rtol=1e-4)


def test_dropout_stands_before_the_fully_connected_layer() -> None:
    network = build_backbone("narrow", stem="7x7", dropout=1.0)
    images = torch.randn(4, 6, 32, 32)
    assert torch.equal(network.train()(images), network.head.bias.expand(4))
    assert network.eval()(images).std() > 0


def test_a_stem_is_for_resnets() -> None:
    with pytest.raises(NetworkError, match=r"model\.stem=3x3 .*timm/vgg16.*model\.stem=7x7"):
        build_backbone("timm/vgg16", stem="3x3")


def test_without_timm_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(NetworkError, match=re.escape("pip install -e '.[timm]'")):
        build_backbone("timm/vgg16", stem="7x7")


def test_importing_the_builder_imports_no_model_library() -> None:
    program = "import sys, lightning_modules.backbone; print([m for m in ('timm', 'pandas') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.usefixtures("timm")
class TestTimm:
    @pytest.mark.parametrize("name", SECOND_STUDY)
    def test_the_second_study_is_reachable(self, name: str) -> None:
        assert shapes_on_meta(f"timm/{name}", "7x7", SECOND_STUDY[name])[1] == (2,)

    def test_the_same_weights_give_the_same_logits_as_ours(self) -> None:
        ours, theirs = (build_backbone(name, stem="7x7").eval() for name in ("resnet18", "timm/resnet18"))
        theirs.load_state_dict(ours.state_dict())
        images = torch.randn(2, 6, 64, 64)
        torch.testing.assert_close(ours(images), theirs(images), atol=1e-4, rtol=1e-4)

    def test_an_unknown_name_is_answered_with_close_ones(self) -> None:
        with pytest.raises(NetworkError, match=r"timm/legacy_exception is not in timm .*legacy_xception"):
            build_backbone("timm/legacy_exception", stem="7x7")
