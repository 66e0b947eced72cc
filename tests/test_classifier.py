"""Loss, L2, randomness and per-patient validation of one fold's model."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_modules.augmentation import AffineRanges, draw_affine, identity_affine, resample, standardise
from lightning_modules.classifier import FractureClassifier, patient_auc

AUGMENTED = AffineRanges(translation=0.1, scaling=0.2, rotation_degrees=20.0, flip=True)


def classifier(**changes: Any) -> FractureClassifier:
    settings: dict[str, Any] = {
        "backbone": "narrow",
        "stem": "7x7",
        "weights": "none",
        "dropout": 0.0,
        "optimizer": "adam",
        "learning_rate": 1e-3,
        "beta1": 0.5,
        "l2_weight": 0.0,
        "context": 1.0,
        "widest_context": 3.0,
        "size": 32,
        "ranges": AffineRanges(),
        "seed": 0,
    }
    return FractureClassifier(**settings | changes)


def lesions(count: int, seed: int = 0) -> dict[str, Tensor]:
    """Two slices a patient; malignant ones are darker in the middle of T1W."""
    generator = torch.Generator().manual_seed(seed)
    patches = torch.rand(count, 6, 48, 48, generator=generator)
    label = (torch.arange(count) // 2 % 2).float()
    patches[label == 1, :3, 20:28, 20:28] -= 1.0
    rows = torch.arange(count)
    return {"patches": patches.half(), "label": label, "row": rows + 100, "patient": rows // 2}


def batches(batch: dict[str, Tensor], size: int) -> DataLoader[dict[str, Tensor]]:
    samples = [{key: value[i] for key, value in batch.items()} for i in range(len(batch["label"]))]
    return DataLoader(samples, size)  # type: ignore[arg-type]


def trainer(**flags: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        num_sanity_val_steps=0,
        deterministic=True,
        **flags,
    )


def stepped(model: FractureClassifier, explicit_l2: float = 0.0) -> list[Tensor]:
    """The parameters, kernels apart from others, after three steps in float64, the penalty written out."""
    network, optimizer = model.network.double(), model.configure_optimizers()
    images = torch.randn(8, 6, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    label = lesions(8)["label"].double()
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
        optimizer = model.configure_optimizers()
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


def drawn(seed: int, epoch: int) -> tuple[Tensor, Tensor]:
    """Affines and dropout's random numbers of an epoch."""
    model = classifier(seed=seed)
    lightning = trainer(max_epochs=9)
    lightning.fit_loop.epoch_progress.current.completed = epoch
    model.trainer = lightning
    torch.rand(7)
    model.on_train_batch_start({}, 0)
    return draw_affine(4, AUGMENTED, model.affine_generator), torch.rand(4)


def test_seed_and_epoch_alone_decide_the_random_numbers_of_an_epoch() -> None:
    for first, second in zip(drawn(3, 2), drawn(3, 2), strict=True):
        assert torch.equal(first, second)
    for other in (drawn(3, 1), drawn(2, 2), drawn(2, 3)):
        assert not any(torch.equal(first, second) for first, second in zip(drawn(3, 2), other, strict=True))


def test_the_logits_see_the_context_and_nothing_beyond() -> None:
    batch = lesions(4)
    poisoned = batch["patches"].clone()
    poisoned[:, :, :12] = torch.nan
    for context, harmed in ((1.0, False), (2.5, True)):
        model = classifier(context=context).eval()
        assert model(poisoned, identity_affine(4)).isnan().any() == harmed


@pytest.mark.parametrize("ranges", [AffineRanges(), AUGMENTED])
def test_the_logits_are_the_networks_of_the_standardised_resampling(ranges: AffineRanges) -> None:
    patches, model = lesions(3)["patches"], classifier(ranges=ranges, context=1.3).eval()
    theta = draw_affine(3, ranges, torch.Generator().manual_seed(2))
    images = standardise(resample(patches, theta, context=1.3, widest_context=3.0, size=32))
    torch.testing.assert_close(model(patches, theta), model.network(images), atol=1e-4, rtol=1e-4)


def test_a_training_sample_moves_and_a_validated_one_does_not() -> None:
    batch, model = lesions(4), classifier(ranges=AUGMENTED).eval()
    still = model(batch["patches"], identity_affine(4))
    theta = draw_affine(4, AUGMENTED, torch.Generator().manual_seed(1))
    assert not torch.allclose(model(batch["patches"], theta), still)
    predicted = model.predict_step(batch, 0)
    assert torch.equal(predicted["row"], batch["row"])
    torch.testing.assert_close(predicted["probability"], torch.sigmoid(still))


def test_metrics_do_not_depend_on_the_size_of_the_batches() -> None:
    data, model = lesions(14), classifier().eval()
    logit = model(data["patches"], identity_affine(14)).detach()
    for size in (4, 14):
        lightning = trainer(max_epochs=1)
        lightning.validate(model, batches(data, size), verbose=False)
        found = {name: float(value) for name, value in lightning.callback_metrics.items()}
        highest = [logit[data["patient"] == code].max().item() for code in range(7)]
        labels = [data["label"][data["patient"] == code][0].item() for code in range(7)]
        assert found["inner_auc"] == pytest.approx(roc_auc_score(labels, highest))
        loss = F.binary_cross_entropy_with_logits(logit, data["label"]).item()
        assert found["inner_loss"] == pytest.approx(loss, rel=1e-5)


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


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_it_learns_what_can_be_learned(precision: str) -> None:
    data = lesions(48)
    model = classifier(ranges=AffineRanges(0.05, 0.1, 10.0, True), learning_rate=5e-3)
    lightning = trainer(max_epochs=6, precision=precision)
    lightning.fit(model, batches(data, 16), batches(lesions(32, seed=1), 16))
    assert lightning.callback_metrics["inner_auc"] > 0.9
