"""Pretrained weights: torchvision's published ImageNet files, or a state dict from disk."""

import hashlib
from pathlib import Path
from textwrap import shorten

import torch
from torch import Tensor

from lightning_modules.backbone import NetworkError, SixToThree

# torchvision's IMAGENET1K_V1 files; the first eight digits of the file's SHA-256 are in its name.
IMAGENET_URLS = {
    "resnet18": "https://download.pytorch.org/models/resnet18-f37072fd.pth",
    "resnet34": "https://download.pytorch.org/models/resnet34-b627a593.pth",
    "resnet50": "https://download.pytorch.org/models/resnet50-0676ba61.pth",
    "resnet101": "https://download.pytorch.org/models/resnet101-63fe2227.pth",
    "resnet152": "https://download.pytorch.org/models/resnet152-394f9c45.pth",
}

# Contribution of T1W previous, same, next, T2W previous, same, next to each of the three channels.
# In photographs, which the filters know, the three mostly agree. With T1W as red and T2W as blue, brightness filters
# see both, and colour-opponent filters where they differ, which is how marrow is read. The lesion's own slice counts
# double.
_T1W = torch.tensor([0.25, 0.5, 0.25, 0.0, 0.0, 0.0])
_T2W = _T1W.flip(0)
ADAPTER_WEIGHTS = torch.stack([_T1W, (_T1W + _T2W) / 2, _T2W])


def load_weights(network: SixToThree, weights: str, *, backbone: str) -> None:
    """Fill `network` in place.

    weights: "none" leaves it as it is; "imagenet" takes torchvision's file for `backbone`; anything else is the path of
        a file by torch.save: a state dict with torchvision's names (for timm/NAME timm's), or a dict that holds one
        under "state_dict". Prefixes such as `module.` are not stripped.

    The fully connected layer is left out where its shape differs, and the adapter starts as ADAPTER_WEIGHTS.
    Raises NetworkError, naming the file and the keys, for anything else that does not fit.
    """
    if weights == "none":
        return
    file = imagenet_file(backbone) if weights == "imagenet" else Path(weights)
    _load_state(network, _read_state(file), file)
    with torch.no_grad():
        network.adapter.weight.copy_(ADAPTER_WEIGHTS[:, :, None, None])


def imagenet_file(backbone: str) -> Path:
    """The published file for `backbone`, in torch.hub's folder; downloaded where missing, SHA-256 always checked."""
    if backbone not in IMAGENET_URLS:
        raise NetworkError(
            f"model.weights=imagenet: no published file is known for model.backbone={backbone}, only for "
            f"{', '.join(IMAGENET_URLS)}; give the path of a state dict, or model.weights=none"
        )
    url = IMAGENET_URLS[backbone]
    file = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    digest = file.stem.rpartition("-")[2]
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, str(file), hash_prefix=digest, progress=False)
        except (OSError, RuntimeError) as error:
            raise NetworkError(
                f"model.weights=imagenet: cannot download {url} ({error}); where this machine has no network, put the "
                f"file at {file} by hand, or set model.weights=none"
            ) from error
    with file.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if not found.startswith(digest):
        raise NetworkError(f"{file} is damaged: its SHA-256 starts with {found[:8]}, not {digest}; delete it")
    return file


def _read_state(file: Path) -> dict[str, Tensor]:
    try:
        found = torch.load(file, map_location="cpu", weights_only=True)
        state: dict[str, Tensor] = found.get("state_dict", found)
        if not all(isinstance(value, Tensor) for value in state.values()):
            raise TypeError
    except Exception as error:  # torch.load raises whatever the unpickler met
        why = "no such file" if isinstance(error, FileNotFoundError) else "not saved by torch.save, or something else"
        raise NetworkError(f"model.weights={file} is no state dict ({why}); give none, imagenet or its path") from error
    return state


def _load_state(network: SixToThree, state: dict[str, Tensor], file: Path) -> None:
    classifier = getattr(network.network, "default_cfg", {}).get("classifier", "fc")
    head = {key: state.pop(f"{classifier}.{key}") for key in ("weight", "bias") if f"{classifier}.{key}" in state}
    try:
        network.network.load_state_dict(state)
    except RuntimeError as error:  # a line for missing keys, one for unexpected ones, and one for each other shape
        lines = [shorten(line.strip(), 250, placeholder=" …") for line in str(error).splitlines()[1:]]
        another_stem = any(line.startswith("size mismatch for conv1.weight") for line in lines)
        remedy = "; the first convolution is of another stem: change model.stem" if another_stem else ""
        raise NetworkError(f"model.weights: {file} does not fit: {' '.join(lines[:4])}{remedy}") from None
    if head and head["weight"].shape == network.head.weight.shape:
        network.head.load_state_dict(head)
