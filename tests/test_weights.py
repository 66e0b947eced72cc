"""Weights from files: what fits is loaded, what does not is named, nothing is executed, nothing is downloaded."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_modules import weights
from lightning_modules.backbone import NetworkError, SixToThree, build_backbone
from lightning_modules.weights import ADAPTER_WEIGHTS, load_weights


def narrow(seed: int, stem: str = "7x7") -> SixToThree:
    torch.manual_seed(seed)
    return build_backbone("narrow", stem=stem)


def published_state(network: SixToThree, classes: int = 1000) -> dict[str, Tensor]:
    """As torchvision writes it: the network's names and a fully connected layer `fc`."""
    head = {"fc.weight": torch.randn(classes, 64), "fc.bias": torch.randn(classes)}
    return {key: value.clone() for key, value in network.network.state_dict().items()} | head


def saved(folder: Path, content: Any) -> str:
    torch.save(content, folder / "weights.pth")
    return str(folder / "weights.pth")


def assert_same_state(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("wrap", [lambda state: state, lambda state: {"state_dict": state, "epoch": 3}])
def test_a_state_dict_is_loaded_and_its_thousand_classes_left_out(tmp_path: Path, wrap: Callable[[Any], Any]) -> None:
    source, network = narrow(1), narrow(2)
    head = {key: value.clone() for key, value in network.head.state_dict().items()}
    load_weights(network, saved(tmp_path, wrap(published_state(source))), backbone="narrow")
    assert_same_state(network.network.state_dict(), source.network.state_dict())
    assert_same_state(network.head.state_dict(), head)


def test_a_fully_connected_layer_of_one_logit_is_taken(tmp_path: Path) -> None:
    state, network = published_state(narrow(1), classes=1), narrow(2)
    load_weights(network, saved(tmp_path, state), backbone="narrow")
    assert torch.equal(network.head.weight, state["fc.weight"])
    assert torch.equal(network.head.bias, state["fc.bias"])


def test_none_changes_nothing() -> None:
    network = narrow(1)
    load_weights(network, "none", backbone="narrow")
    assert_same_state(network.state_dict(), narrow(1).state_dict())


def test_the_adapter_starts_from_both_sequences_and_keeps_their_scale(tmp_path: Path) -> None:
    network = narrow(2)
    load_weights(network, saved(tmp_path, published_state(narrow(1))), backbone="narrow")
    assert torch.equal(network.adapter.weight[:, :, 0, 0], ADAPTER_WEIGHTS)
    torch.testing.assert_close(network.adapter(torch.ones(1, 6, 2, 2)), torch.ones(1, 3, 2, 2))
    only_t1w = torch.cat([torch.ones(1, 3, 1, 1), torch.zeros(1, 3, 1, 1)], 1)
    torch.testing.assert_close(network.adapter(only_t1w)[0, :, 0, 0], torch.tensor([1.0, 0.5, 0.0]))


def test_a_file_without_batch_counters_fits(tmp_path: Path) -> None:
    state = {key: value for key, value in published_state(narrow(1)).items() if not key.endswith("num_batches_tracked")}
    network = narrow(2)
    load_weights(network, saved(tmp_path, state), backbone="narrow")
    assert torch.equal(network.network.state_dict()["bn1.weight"], state["bn1.weight"])


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    state = published_state(narrow(1))
    state["module.conv9.weight"] = state.pop("layer1.0.conv1.weight")
    state["bn1.weight"] = torch.zeros(9)
    with pytest.raises(NetworkError) as caught:
        load_weights(narrow(2), saved(tmp_path, state), backbone="narrow")
    for part in ("weights.pth", 'Missing key(s) in state_dict: "layer1.0.conv1.weight"', '"module.conv9.weight"'):
        assert part in str(caught.value)
    assert "size mismatch for bn1.weight: copying a param with shape torch.Size([9])" in str(caught.value)


def test_a_prefix_is_not_guessed_away_and_the_list_stays_short(tmp_path: Path) -> None:
    state = {f"module.{key}": value for key, value in published_state(narrow(1)).items()}
    with pytest.raises(NetworkError, match=r'Unexpected key.*"module\.conv1\.weight", .* …$') as caught:
        load_weights(narrow(2), saved(tmp_path, state), backbone="narrow")
    assert len(str(caught.value)) < 1000


def test_another_stem_is_called_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match=r"mismatch for conv1\.weight: .*\[8, 3, 7, 7\].*change model\.stem"):
        load_weights(narrow(2, "3x3"), saved(tmp_path, published_state(narrow(1))), backbone="narrow")


class Malicious:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("executed"),))


def test_a_pickle_is_not_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NetworkError, match=r"weights\.pth is no state dict"):
        load_weights(narrow(2), saved(tmp_path, Malicious()), backbone="narrow")
    assert not Path("executed").exists()


@pytest.mark.parametrize("content", [torch.zeros(3), {"conv1.weight": 3}, [1, 2]])
def test_a_file_that_holds_no_state_dict_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(NetworkError, match="is no state dict"):
        load_weights(narrow(2), saved(tmp_path, content), backbone="narrow")


def test_a_missing_file_is_named_with_the_choices() -> None:
    with pytest.raises(
        NetworkError, match=r"nowhere\.pth is no state dict \(no such file\); give none, imagenet or its path"
    ):
        load_weights(narrow(2), "nowhere.pth", backbone="narrow")


def test_imagenet_is_refused_where_no_file_is_published() -> None:
    with pytest.raises(NetworkError, match=r"model\.backbone=timm/vgg16, only for resnet18, .*model\.weights=none"):
        load_weights(narrow(2), "imagenet", backbone="timm/vgg16")


@pytest.fixture
def publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str | None], Path]:
    """Publishes a file for `narrow` under file://, named by its hash or the given one; returns its place in cache."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)

    def put(digest: str | None) -> Path:
        file = Path(saved(tmp_path, published_state(narrow(1))))
        named = f"narrow-{digest or hashlib.sha256(file.read_bytes()).hexdigest()[:8]}.pth"
        url = file.rename(tmp_path / named).as_uri()
        monkeypatch.setitem(weights.IMAGENET_URLS, "narrow", url)
        return tmp_path / "home" / "hub" / "checkpoints" / named

    return put


def test_the_published_file_is_fetched_once_and_loaded(publish: Callable[[str | None], Path], tmp_path: Path) -> None:
    cached, network = publish(None), narrow(2)
    load_weights(network, "imagenet", backbone="narrow")
    assert cached.exists()
    assert_same_state(network.network.state_dict(), narrow(1).network.state_dict())
    (tmp_path / cached.name).unlink()
    load_weights(network, "imagenet", backbone="narrow")


def test_a_download_with_another_hash_is_not_kept(publish: Callable[[str | None], Path]) -> None:
    cached = publish("deadbeef")
    with pytest.raises(NetworkError, match="deadbeef"):
        load_weights(narrow(2), "imagenet", backbone="narrow")
    assert not cached.exists()


def test_a_damaged_file_in_the_cache_is_refused(publish: Callable[[str | None], Path]) -> None:
    cached = publish(None)
    load_weights(narrow(2), "imagenet", backbone="narrow")
    cached.write_bytes(cached.read_bytes()[:-1])
    with pytest.raises(NetworkError, match=r"narrow-.*\.pth is damaged.*delete it"):
        load_weights(narrow(2), "imagenet", backbone="narrow")


def test_offline_the_error_says_where_to_put_the_file(publish: Callable[[str | None], Path], tmp_path: Path) -> None:
    cached = publish(None)
    (tmp_path / cached.name).unlink()
    with pytest.raises(NetworkError, match="cannot download file://") as caught:
        load_weights(narrow(2), "imagenet", backbone="narrow")
    assert f"put the file at {cached} by hand" in str(caught.value)


def test_the_published_addresses_carry_their_hash() -> None:
    for name, url in weights.IMAGENET_URLS.items():
        assert url.startswith(f"https://download.pytorch.org/models/{name}-")
        assert len(bytes.fromhex(url[-12:-4])) == 4
