"""Logits, loss, L2 and the per-patient AUC."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F

from lightning_modules.augmentation import AffineRanges, draw_affine, identity_affine, resample, standardise
from lightning_modules.classifier import FractureClassifier, patient_auc
from tests.folds import AUGMENTED, classifier, lesions


def stepped(model: FractureClassifier, explicit_l2: float = 0.0) -> list[Tensor]:
    """The parameters, kernels apart from others, after three steps in float64, the penalty written out."""
    network, optimizer = model.network.double(), model.make_optimizer()
    images = torch.randn(8, 6, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = lesions(8)[1].double()
    for _ in range(3):
        loss = F.binary_cross_entropy_with_logits(network(images), label)
        for module in network.modules():
            if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
                loss = loss + explicit_l2 * module.weight.square().sum()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return [parameter.detach() for parameter in network.parameters()]


def test_the_l2_weight_is_a_penalty_on_kernels_added_to_the_loss() -> None:
    ours = stepped(classifier(l2_weight=0.01))
    explicit = stepped(classifier(), explicit_l2=0.01)
    without = stepped(classifier())
    for one, other in zip(ours, explicit, strict=True):
        torch.testing.assert_close(one, other, atol=1e-9, rtol=1e-9)
    assert max((one - other).abs().max() for one, other in zip(ours, without, strict=True)) > 1e-4


def test_adamw_shrinks_the_kernels_apart_from_the_gradient() -> None:
    initial = list(classifier().network.double().parameters())
    shrinking, plain = classifier(optimizer="adamw", l2_weight=0.01), classifier()
    for model in (shrinking, plain):
        optimizer = model.make_optimizer()
        model.network.double()
        F.softplus(model.network(torch.ones(2, 6, 32, 32, dtype=torch.float64))).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    for start, shrunk, kept in zip(initial, shrinking.parameters(), plain.parameters(), strict=True):
        expected = kept - (1e-3 * 0.02 * start if start.ndim > 1 else 0.0)
        torch.testing.assert_close(shrunk, expected, atol=1e-12, rtol=0)


def test_the_seed_alone_decides_the_initial_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.rand(3)
        states.append(classifier(seed=seed).state_dict()["network.head.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_pretrained_weights_are_loaded(tmp_path: Path) -> None:
    published = classifier(seed=1).network.network.state_dict()
    torch.save(published, tmp_path / "weights.pth")
    loaded = classifier(seed=2, weights=str(tmp_path / "weights.pth")).network
    assert torch.equal(loaded.network.state_dict()["conv1.weight"], published["conv1.weight"])


def test_building_a_model_leaves_the_callers_random_stream_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    classifier()
    assert torch.equal(torch.rand(1), expected)


def test_the_logits_see_the_context_and_nothing_beyond() -> None:
    poisoned = lesions(4)[0].clone()
    poisoned[:, :, :12] = torch.nan
    for context, harmed in ((1.0, False), (2.5, True)):
        model = classifier(context=context).eval()
        assert model(poisoned, identity_affine(4)).isnan().any() == harmed


@pytest.mark.parametrize("ranges", [AffineRanges(), AUGMENTED])
def test_the_logits_are_the_networks_of_the_standardised_resampling(ranges: AffineRanges) -> None:
    patches, model = lesions(3)[0], classifier(ranges=ranges, context=1.3).eval()
    theta = draw_affine(3, ranges, torch.Generator().manual_seed(2))
    images = standardise(resample(patches, theta, context=1.3, widest_context=3.0, size=32))
    torch.testing.assert_close(model(patches, theta), model.network(images), atol=1e-4, rtol=1e-4)


def test_patient_auc_agrees_with_scikit_learn_ties_included() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        patient = random.permutation(np.repeat(np.arange(12), 3)) * 7
        label = (patient % 2).astype(np.float32)
        logit = random.integers(-3, 4, 36).astype(np.float32)
        codes = np.unique(patient)
        highest = [logit[patient == code].max() for code in codes]
        ours = patient_auc(torch.from_numpy(logit), torch.from_numpy(label), torch.from_numpy(patient))
        assert float(ours) == pytest.approx(roc_auc_score(codes % 2, highest))


@pytest.mark.parametrize("label", [0.0, 1.0])
def test_patient_auc_of_one_class_is_not_a_number(label: float) -> None:
    assert math.isnan(patient_auc(torch.randn(4), torch.full((4,), label), torch.arange(4)))


@pytest.mark.parametrize(
    ("settings", "seen"),
    [
        ({}, [0, 1, 2, 3, 4, 5]),
        ({"sequences": "t1w"}, [0, 1, 2]),
        ({"sequences": "t2w"}, [3, 4, 5]),
        ({"neighbours": 0}, [1, 4]),
        ({"sequences": "t2w", "neighbours": 0}, [4]),
    ],
)
def test_only_the_chosen_channels_decide(settings: dict[str, object], seen: list[int]) -> None:
    model, (patches, *_) = classifier(**settings).eval(), lesions(4)
    with torch.no_grad():
        before = model(patches, identity_affine(4))
        for channel in range(6):
            changed = patches.clone()
            changed[:, channel] = patches[:, channel].flip(-1) + torch.rand(patches[:, channel].shape)
            same = torch.equal(model(changed, identity_affine(4)), before)
            assert same == (channel not in seen)
