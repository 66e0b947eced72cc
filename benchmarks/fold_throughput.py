"""Samples a second of one fold and of several on one device: ours, and what a user would write instead.

    python benchmarks/fold_throughput.py                  # a GPU: ResNet50, packs of 1 to 20; a CPU: the narrow network
    python benchmarks/fold_throughput.py --only check     # whether the fast paths compute the same thing

Peers, in the same run:
    lightning   a Lightning script: DataLoader with workers, one affine per sample on the CPU, by MONAI where it is
                installed and as torchvision's RandomAffine does it where not, self.log; one fold
    processes   that script k times at once on the device, as fractional GPUs have it
    loop        a bare PyTorch loop on device-resident data with our augmentation: the floor of one fold
Ours: `pack K`, K folds of FoldPack under Lightning's Trainer; `workers K`, K processes of one fold, as a sweep has them
on K cores; `threads K`, one process of one fold with K threads; and on a GPU `graphs K`, a pack whose steps are
recorded. Tried beside them: `stacked K`, K folds as one network with stacked weights by torch.func, in a bare loop.

Every case is a process of its own; its figure is the median over windows of steps, with the range. Needs torch,
pytorch-lightning and torchmetrics. "folds an hour" counts the study's fold: 100 epochs of 400 steps of 32 samples.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import logging
import math
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "32")
sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from lightning_modules.augmentation import AffineRanges, draw_affine
from lightning_modules.classifier import Arithmetic, FractureClassifier
from lightning_modules.fold_training import FoldTraining, Samples
from lightning_modules.pack import FoldPack

CUDA = torch.cuda.is_available()
DEVICE = torch.device("cuda" if CUDA else "cpu")
BATCH, LESIONS, SIDE = (32, 570, 192) if CUDA else (32, 64, 192)
WARM_UP, WINDOWS = (20, 5) if CUDA else (3, 5)
SECONDS_TO_BEGIN = 120.0  # for all copies, imports and warm-up included
STUDY_FOLD = 100 * 400 * 32  # samples
RANGES = AffineRanges(translation=0.05, scaling=0.1, rotation_degrees=10.0)


def classifier(options: argparse.Namespace, seed: int, **switches: Any) -> FractureClassifier:
    return FractureClassifier(
        backbone=options.network,
        stem="7x7",
        weights="none",
        dropout=0.0,
        optimizer="adam",
        learning_rate=1e-4,
        beta1=0.5,
        l2_weight=1e-5,
        context=1.0,
        widest_context=3.0,
        size=64,
        ranges=RANGES,
        seed=seed,
        arithmetic=Arithmetic(**{"precision": options.precision} | switches),
    )


def patches() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(LESIONS) % 2
    return torch.rand(LESIONS, 6, SIDE, SIDE, generator=generator).half(), label.float()


def folds(options: argparse.Namespace, count: int, sizes: list[int], **switches: Any) -> list[FoldTraining]:
    stored, label = patches()

    def order(epoch: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        return np.random.default_rng(epoch).integers(0, LESIONS, sum(sizes))

    samples = Samples(stored.to(DEVICE), label, torch.arange(LESIONS), order, sizes, np.arange(0))
    return [FoldTraining(classifier(options, seed, **switches), samples) for seed in range(count)]


def by_monai() -> Callable[[Tensor], Tensor]:
    from monai.data import set_track_meta
    from monai.transforms import RandAffine

    set_track_meta(False)
    radians, shift = math.radians(RANGES.rotation_degrees), RANGES.translation * 64
    return RandAffine(1.0, radians, None, shift, RANGES.scaling, spatial_size=(64, 64), padding_mode="border")


def by_torch(image: Tensor) -> Tensor:
    """A random affine and the central third of one image, (6, 64, 64)."""
    angle = math.radians(random.uniform(-RANGES.rotation_degrees, RANGES.rotation_degrees))
    zoom = random.uniform(1 - RANGES.scaling, 1 + RANGES.scaling)
    cos, sin = math.cos(angle) / zoom, math.sin(angle) / zoom
    x, y = (random.uniform(-2 * RANGES.translation, 2 * RANGES.translation) for _ in range(2))
    theta = torch.tensor([[[cos, sin, x], [-sin, cos, y]]]) / 3
    grid = F.affine_grid(theta, [1, 6, 64, 64], align_corners=False)
    return F.grid_sample(image[None], grid, padding_mode="border", align_corners=False)[0]


MONAI = importlib.util.find_spec("monai") is not None


class PerSample(Dataset[tuple[Tensor, Tensor]]):
    """A user's data set: one crop, affine and resize a sample, by a worker's CPU."""

    def __init__(self, samples: int) -> None:
        self.samples = samples
        self.patches, self.label = patches()
        self.affine = by_monai() if MONAI else by_torch

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, item: int) -> tuple[Tensor, Tensor]:
        crop = self.affine(self.patches[item % LESIONS].float())
        return (crop - crop.mean((1, 2), keepdim=True)) / crop.std((1, 2), keepdim=True), self.label[item % LESIONS]


class Script(pl.LightningModule):
    """A user's module."""

    def __init__(self, options: argparse.Namespace) -> None:
        super().__init__()
        self.network = classifier(options, 0, channels_last=False).network

    def training_step(self, batch: tuple[Tensor, Tensor], batch_idx: int) -> Tensor:
        loss = F.binary_cross_entropy_with_logits(self.network(batch[0]).float(), batch[1])
        self.log("train_loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), 1e-4, betas=(0.5, 0.999), weight_decay=2e-5)


def synchronise() -> None:
    if CUDA:
        torch.cuda.synchronize()


class Clock(pl.Callback):
    """Seconds of each window of `steps` steps after the first WARM_UP ones."""

    def __init__(self, steps: int, barrier: Callable[[], None]) -> None:
        self.steps, self.barrier, self.seconds, self._began = steps, barrier, [], 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.stepped(trainer.fit_loop.batch_idx)

    def stepped(self, step: int) -> None:
        done = step + 1 - WARM_UP
        if done >= 0 and done % self.steps == 0:
            synchronise()
            if done == 0:
                self.barrier()
            else:
                self.seconds.append(time.perf_counter() - self._began)
            self._began = time.perf_counter()


def trainer(clock: pl.Callback, precision: str = "32-true") -> pl.Trainer:
    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    accelerator = "gpu" if CUDA else "cpu"
    return pl.Trainer(accelerator=accelerator, devices=1, max_epochs=1, callbacks=[clock], precision=precision, **quiet)  # type: ignore[arg-type]


def loader_workers(options: argparse.Namespace, copies: int) -> int:
    """Of the script's DataLoader, where it runs `copies` times."""
    return options.workers if options.workers >= 0 else min(8, (os.cpu_count() or 1) // copies) if CUDA else 0


def run_lightning(options: argparse.Namespace, clock: Clock, steps: int) -> int:
    workers = loader_workers(options, options.copies)
    loader = DataLoader(PerSample(steps * BATCH), BATCH, shuffle=True, num_workers=workers, pin_memory=CUDA)
    mixed = options.precision == "bf16-mixed"
    trainer(clock, "bf16-mixed" if mixed else "32-true").fit(Script(options), loader)
    return 1


def bare_loop(options: argparse.Namespace, steps: int) -> Iterator[None]:
    """A step at a time."""
    stored, label = (tensor.to(DEVICE) for tensor in patches())
    model = classifier(options, 0).to(DEVICE)
    optimizer = model.make_optimizer()
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, LESIONS, (steps, BATCH))).to(DEVICE)
    theta = draw_affine(steps * BATCH, RANGES, torch.Generator().manual_seed(0)).view(steps, BATCH, 2, 3).to(DEVICE)
    for step in range(steps):
        optimizer.zero_grad()
        loss = F.binary_cross_entropy_with_logits(model(stored[rows[step]], theta[step]), label[rows[step]])
        loss.backward()
        optimizer.step()
        yield


def stacked_loop(options: argparse.Namespace, steps: int) -> Iterator[None]:
    """As bare_loop, every fold on its own samples; torch.func knows no channels_last."""
    stored, label = (tensor.to(DEVICE) for tensor in patches())
    models = [classifier(options, seed, channels_last=False).to(DEVICE) for seed in range(options.folds)]
    weights, buffers = torch.func.stack_module_state(cast(list[torch.nn.Module], models))
    optimizer = torch.optim.Adam(weights.values(), 1e-4, betas=(0.5, 0.999), weight_decay=2e-5)
    shape = steps, options.folds, BATCH
    rows = torch.from_numpy(np.random.default_rng(0).integers(0, LESIONS, shape)).to(DEVICE)
    theta = draw_affine(math.prod(shape), RANGES, torch.Generator().manual_seed(0)).view(*shape, 2, 3).to(DEVICE)

    def loss(weights: Any, buffers: Any, patches: Tensor, theta: Tensor, label: Tensor) -> Tensor:
        logits = torch.func.functional_call(models[0], (weights, buffers), (patches, theta))
        return F.binary_cross_entropy_with_logits(logits, label)

    gradient = torch.func.vmap(torch.func.grad(loss))
    for step in range(steps):
        found = gradient(weights, buffers, stored[rows[step]], theta[step], label[rows[step]])
        for name, weight in weights.items():
            weight.grad = found[name]
        optimizer.step()
        yield


def run_stacked(options: argparse.Namespace, clock: Clock, steps: int) -> int:
    for step, _ in enumerate(stacked_loop(options, steps)):
        clock.stepped(step)
    return options.folds


def run_loop(options: argparse.Namespace, clock: Clock, steps: int) -> int:
    for step, _ in enumerate(bare_loop(options, steps)):
        clock.stepped(step)
    return 1


def run_pack(options: argparse.Namespace, clock: Clock, steps: int, **switches: Any) -> int:
    pack = FoldPack(folds(options, options.folds, [BATCH] * steps, **switches))
    trainer(clock).fit(pack, range(steps))
    return options.folds


def run_graphs(options: argparse.Namespace, clock: Clock, steps: int) -> int:
    return run_pack(options, clock, steps, cuda_graphs=True, fused_optimizer=True)


SCRIPTS = ("lightning", "processes")
CASES = {"lightning": run_lightning, "processes": run_lightning, "loop": run_loop, "pack": run_pack}
CASES |= {"graphs": run_graphs, "workers": run_pack, "threads": run_pack, "stacked": run_stacked}


def wait_for_the_others(folder: str, copies: int) -> None:
    if folder:
        Path(folder, str(os.getpid())).touch()
        until = time.monotonic() + SECONDS_TO_BEGIN
        while len(list(Path(folder).iterdir())) < copies:
            if time.monotonic() > until:
                raise TimeoutError("another copy did not come so far, for want of memory perhaps")
            time.sleep(0.01)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """One case, in this process: samples a second in each window."""
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    clock = Clock(options.steps, lambda: wait_for_the_others(options.barrier, options.copies))
    count = CASES[options.case](options, clock, WARM_UP + WINDOWS * options.steps)
    rates = [count * BATCH * options.steps / seconds for seconds in clock.seconds]
    peak = torch.cuda.max_memory_reserved() if CUDA else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"rates": rates, "peak": peak}


def check(options: argparse.Namespace) -> None:
    """The fast paths against the plain one: to the last bit on a CPU."""

    def after(count: int, **switches: Any) -> Tensor:
        # Of each size the first three are taken as they are, also where they are recorded.
        sizes = [BATCH] * 6 + [BATCH - 1] * 6
        trained = folds(options, count, sizes, **switches)
        for fold in trained:
            fold.begin_epoch()
        for _ in sizes:
            for fold in trained:
                fold.step()
        synchronise()
        return torch.cat([value.double().flatten().cpu() for value in trained[0].weights().values()])

    torch.backends.cudnn.deterministic = True
    alone = after(1)
    paths: dict[str, dict[str, Any]] = {"packed with another": {}, "fused optimiser": {"fused_optimizer": True}}
    if CUDA:
        paths |= {"recorded": {"cuda_graphs": True}, "recorded, fused": {"cuda_graphs": True, "fused_optimizer": True}}
    for name, switches in paths.items():
        difference = (after(2, **switches) - alone).norm() / alone.norm()
        print(f"{name}: relative difference of the weights after 12 steps {float(difference):.1e}")


def utilisation(stop: threading.Event, seen: list[float]) -> None:
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while CUDA and not stop.wait(0.5):
        seen.append(float(subprocess.run(command, capture_output=True, text=True).stdout.split()[0]))


def run_case(options: argparse.Namespace, case: str, count: int) -> dict[str, Any] | None:
    """A case in one process, or `count` of them; None where one of these failed, which says why itself."""
    copies = count if case in ("processes", "workers") else 1
    packed, threads = count if case in ("pack", "graphs", "stacked") else 1, count if case == "threads" else 1
    with tempfile.TemporaryDirectory() as barrier:
        command = [sys.executable, __file__, "--case", case, "--folds", str(packed), "--copies", str(copies)]
        command += ["--barrier", barrier if copies > 1 else "", "--threads", str(threads)]
        for name in ("steps", "network", "precision", "workers"):
            command += [f"--{name}", str(getattr(options, name))]
        seen: list[float] = []
        stop = threading.Event()
        watcher = threading.Thread(target=utilisation, args=(stop, seen))
        watcher.start()
        children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(copies)]
        printed = [child.communicate()[0] for child in children]
        stop.set()
        watcher.join()
    if any(child.returncode for child in children):
        return None
    answers = [json.loads(text.splitlines()[-1]) for text in printed]
    rates = [sum(window) for window in zip(*(answer["rates"] for answer in answers), strict=True)]
    busy = statistics.median(seen[len(seen) // 2 :]) if seen else float("nan")  # the first half is start-up
    return {"case": case, "count": count, "rates": rates, "peak": sum(a["peak"] for a in answers), "busy": busy}


def cases() -> Iterator[tuple[str, int]]:
    yield from [("lightning", 1), ("loop", 1), ("pack", 1)]
    if CUDA:
        yield from [("graphs", 1), ("graphs", 10), ("processes", 4), ("processes", 8), ("processes", 16)]
        yield from [("processes", 2), ("graphs", 5), ("pack", 10), ("graphs", 2), ("stacked", 10), ("graphs", 20)]
    else:
        yield from [("processes", 2), ("workers", 2), ("threads", 2), ("pack", 2), ("stacked", 2)]


def main(options: argparse.Namespace) -> None:
    began = time.monotonic()
    print(f"torch {torch.__version__}, {torch.cuda.get_device_name() if CUDA else f'{os.cpu_count()} cores'}, ", end="")
    print(f"{options.network}, {options.precision}, batch {BATCH}, {WINDOWS} windows of {options.steps} steps")
    workers = ", ".join(f"{loader_workers(options, count)} x {count}" for name, count in cases() if name in SCRIPTS)
    print(f"the script's affines by {'MONAI' if MONAI else 'torch'}, DataLoader workers x processes: {workers}\n")
    check(options)
    if options.only == "check":
        return
    print("\n| case | samples/s (range) | ms a model-step | folds an hour | times lightning | GPU busy % | peak GB |")
    print("|---|---|---|---|---|---|---|", flush=True)
    reference = 0.0
    for case, count in cases():
        if options.only not in ("", case) or time.monotonic() - began > options.seconds - 45:
            continue
        if not (found := run_case(options, case, count)):
            print(f"| {case} {count} | did not run | | | | | |", flush=True)
            continue
        rate = statistics.median(found["rates"])
        reference = reference or rate
        spread = f"{min(found['rates']):.0f} to {max(found['rates']):.0f}"
        print(
            f"| {case} {count} | {rate:.0f} ({spread}) | {1e3 * BATCH / rate:.3f} | {3600 * rate / STUDY_FOLD:.2f} ",
            end="",
        )
        print(f"| {rate / reference:.2f} | {found['busy']:.0f} | {found['peak'] / 1e9:.1f} |", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50" if CUDA else "narrow")
    # tf32 is how PyTorch computes convolutions on a GPU unless told otherwise, and so what the script does.
    parser.add_argument("--precision", default="tf32" if CUDA else "32-true", choices=["32-true", "tf32", "bf16-mixed"])
    parser.add_argument("--steps", type=int, default=40 if CUDA else 10, help="in a window")
    parser.add_argument("--workers", type=int, default=-1, help="of the script's DataLoader; -1: 8 at most, 0 on a CPU")
    parser.add_argument("--seconds", type=float, default=480, help="no case is begun in the last 45 of them")
    parser.add_argument("--only", default="", help=f"check, or one of {', '.join(CASES)}")
    for name, default in (("case", ""), ("barrier", ""), ("folds", 1), ("copies", 1), ("threads", 1)):
        parser.add_argument(f"--{name}", type=type(default), default=default, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case:
        print(json.dumps(measure(arguments)))
    else:
        main(arguments)
