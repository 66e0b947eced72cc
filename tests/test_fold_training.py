"""A step is the plain loop's; randomness is the epoch's alone; switches change how it is computed, not what."""

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_modules.augmentation import draw_affine, identity_affine
from lightning_modules.classifier import Arithmetic, epoch_seed
from lightning_modules.fold_training import FoldTraining
from tests.folds import AUGMENTED, classifier, fold, samples, train_epoch


def plain_loop(epochs: int, **changes: Any) -> tuple[dict[str, Tensor], list[float]]:
    """The same training as its textbook form: a loop over batches without tables, positions or streams."""
    data, model, losses = samples(), classifier(**changes), []
    optimizer = model.make_optimizer()
    for epoch in range(epochs):
        draws = torch.Generator().manual_seed(epoch_seed(model.seed, epoch))
        batches = np.split(data.order(epoch), np.cumsum(data.batch_sizes)[:-1])
        total = 0.0
        for rows in batches:
            theta = draw_affine(len(rows), model.ranges, draws)
            loss = F.binary_cross_entropy_with_logits(model(data.patches[rows], theta), data.label[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            total += loss.item() * len(rows)
        losses.append(total / sum(data.batch_sizes))
    return model.state_dict(), losses


def test_an_epoch_is_the_plain_loops_to_the_last_bit() -> None:
    settings: dict[str, Any] = {"ranges": AUGMENTED, "l2_weight": 1e-3, "learning_rate": 3e-3}
    expected, losses = plain_loop(3, **settings)
    training = fold(**settings)
    assert [train_epoch(training)["train_loss"] for _ in range(3)] == pytest.approx(losses, rel=1e-6)
    for name, value in training.weights().items():
        assert torch.equal(value, expected[name]), name


def test_dropouts_stream_is_the_folds_own() -> None:
    """Numbers drawn elsewhere in the process, or by another fold, change nothing."""
    together, alone = [fold(dropout=0.5, seed=seed) for seed in (1, 2)], fold(dropout=0.5, seed=1)
    for epoch in range(2):
        torch.manual_seed(epoch)
        for training in together:
            training.begin_epoch()
        for _ in range(3):
            torch.rand(2)
            for training in together:
                training.step()
        train_epoch(alone)
        for training in together:
            training.end_epoch()
    for name, value in alone.weights().items():
        assert torch.equal(value, together[0].weights()[name]), name
    assert not torch.equal(together[0].weights()["network.head.weight"], together[1].weights()["network.head.weight"])


@pytest.mark.parametrize(("seed", "epoch", "same"), [(3, 2, True), (3, 1, False), (2, 2, False)])
def test_seed_and_epoch_alone_decide_the_random_numbers_of_an_epoch(seed: int, epoch: int, same: bool) -> None:
    def drawn(seed: int, epoch: int) -> tuple[Tensor, Tensor]:
        training = fold(seed=seed, ranges=AUGMENTED)
        training.epoch = epoch
        torch.rand(7)
        training.begin_epoch()
        return training._thetas, torch.rand(4, generator=training._dropout)

    for first, second in zip(drawn(3, 2), drawn(seed, epoch), strict=True):
        assert torch.equal(first, second) == same


def test_validation_is_of_the_validated_rows_without_augmentation_or_dropout() -> None:
    training = fold(ranges=AUGMENTED, dropout=0.5)
    row = train_epoch(training)
    data, rows = training.samples, np.arange(16, 24)
    model = training.classifier.eval()
    logit = model(data.patches[rows], identity_affine(8)).detach()
    assert row["inner_loss"] == pytest.approx(F.binary_cross_entropy_with_logits(logit, data.label[rows]).item())
    highest = logit.view(4, 2).amax(1)
    assert row["inner_auc"] == pytest.approx(roc_auc_score(data.label[rows][::2], highest))


def test_logits_do_not_depend_on_the_size_of_the_parts() -> None:
    small, large = fold(samples(24, 8, (2,) * 8)), fold(samples(24, 8, (16,)))
    rows = torch.arange(24)
    torch.testing.assert_close(small.logits(rows), large.logits(rows), atol=1e-5, rtol=1e-5)


def test_patches_that_nobody_asked_for_are_not_read() -> None:
    data = samples(32, 16, (8, 8))
    poisoned = replace(data, patches=data.patches.clone(), validation_rows=np.arange(16, 24))
    poisoned.patches[24:] = torch.nan
    training = fold(poisoned)
    assert np.isfinite(list(train_epoch(training).values())).all()
    assert training.logits(torch.arange(24, 32)).isnan().all()


def test_weights_that_a_last_step_made_no_numbers_are_seen_in_its_epochs_loss() -> None:
    """A checkpoint of them would make every further try diverge."""
    training = fold()
    training.begin_epoch()
    for _ in training.samples.batch_sizes:
        training.step()
    with torch.no_grad():
        next(training.classifier.parameters())[0] = torch.nan
    assert np.isnan(training.end_epoch()["train_loss"])


def test_it_learns_what_can_be_learned() -> None:
    training = fold(samples(64, 32, (16, 16)), ranges=AUGMENTED, learning_rate=5e-3)
    for _ in range(10):
        row = train_epoch(training)
    assert row["inner_auc"] > 0.9


def weights_after(arithmetic: Arithmetic, **changes: Any) -> Tensor:
    training = fold(arithmetic=arithmetic, ranges=AUGMENTED, **changes)
    for _ in range(2):
        train_epoch(training)
    kernels = [value.double().flatten() for name, value in training.weights().items() if "weight" in name]
    return torch.cat(kernels)


# Largest relative difference, in the L2 norm over all weights, after six steps; docs/performance.md quotes these.
@pytest.mark.parametrize(
    ("arithmetic", "tolerance"),
    [
        (Arithmetic(channels_last=False), 1e-5),
        (Arithmetic(fused_optimizer=True), 1e-5),
        (Arithmetic(compile=True), 1e-5),
        (Arithmetic(precision="64-true"), 1e-5),
        (Arithmetic(precision="bf16-mixed"), 3e-2),
        (Arithmetic(precision="tf32"), 0.0),
        (Arithmetic(cuda_graphs=True), 0.0),
    ],
    ids=str,
)
def test_switches_stay_within_their_tolerance_of_the_default(arithmetic: Arithmetic, tolerance: float) -> None:
    """The last two do nothing on a CPU."""
    reference = weights_after(Arithmetic())
    found = weights_after(arithmetic)
    difference = (found - reference).norm() / reference.norm()
    assert difference <= tolerance


def test_compiled_weights_have_the_names_of_others() -> None:
    assert fold(arithmetic=Arithmetic(compile=True)).weights().keys() == fold().weights().keys()


def test_two_folds_in_float64_stepped_by_turns_are_the_folds_alone() -> None:
    def double(seed: int) -> FoldTraining:
        return fold(seed=seed, arithmetic=Arithmetic(precision="64-true"), ranges=AUGMENTED, dropout=0.2)

    pair, alone = [double(1), double(2)], [double(1), double(2)]
    for training in pair:
        training.begin_epoch()
    for _ in range(3):
        for training in reversed(pair):
            training.step()
    for training in alone:
        train_epoch(training)
    for one, other in zip(pair, alone, strict=True):
        assert all(torch.equal(value, other.weights()[name]) for name, value in one.weights().items())
        assert one.weights()["network.head.weight"].dtype == torch.float64


class Asked(TorchDispatchMode):
    """Operations of which the host waits for the result, or that begin at the host."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in ("_local_scalar_dense", "nonzero", "lift_fresh", "eye", "copy_from")):
            self.names.append(str(func))
        return func(*args, **(kwargs or {}))


def test_a_step_neither_waits_for_its_device_nor_brings_anything_from_the_host(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but Adam, which counts on the host unless its step is recorded; what else is asked may also be recorded."""
    training = fold(ranges=AUGMENTED, dropout=0.5)
    monkeypatch.setattr(training.optimizer, "step", lambda: None)
    training.begin_epoch()
    with Asked() as asked:
        training.step()
    assert asked.names == []
    with Asked() as asked:
        training.end_epoch()
    assert any("_local_scalar_dense" in name for name in asked.names)


def test_the_benchmarks_run_where_only_torch_and_lightning_are_and_find_packed_folds_equal() -> None:
    folder = Path(__file__).parents[1] / "benchmarks"
    absent = ["monai", "ray", "optuna", "pydicom", "hydra", "pandas", "timm", "pydantic", "torchvision"]
    program = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({absent}))
sys.path.insert(0, {str(folder)!r})
for script, options in (("fold_throughput", "--only check"), ("train_step", "--rounds 1 --steps 1")):
    sys.argv = [script, *options.split()]
    runpy.run_module(script, run_name="__main__")
"""
    printed = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert printed.returncode == 0, printed.stderr
    assert re.search(r"^packed with another: .* 0\.0e\+00$", printed.stdout, re.MULTILINE)
    assert re.search(r"^\| precision=bf16-mixed \| [\d.]+ ", printed.stdout, re.MULTILINE)
