"""Milliseconds of a training step of one fold: a sweep's path under Lightning beside a bare loop, and every switch.

    python benchmarks/train_step.py                                       # a GPU: ResNet50; a CPU: the narrow network
    python benchmarks/train_step.py --network resnet50 --steps 2 --rounds 5
    python benchmarks/train_step.py --network resnet50 --count            # what a step must compute, without a clock

All stand in one process and take turns, a window of steps each, so that what else the machine does hits all alike. A
ratio is the median, over the rounds, of a path's window to the bare loop's in the same round. `lightning` is a pack of
one fold under the Trainer; `fold` is the same without it, and each switch is `fold` with that switch.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from fold_throughput import BATCH, CUDA, DEVICE, bare_loop, classifier, folds, synchronise, trainer
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from lightning_modules.pack import FoldPack

Step = Callable[[], None]
SWITCHES: dict[str, dict[str, Any]] = {
    "fold": {},
    "channels_last=false": {"channels_last": False},
    "fused_optimizer=true": {"fused_optimizer": True},
    "precision=bf16-mixed": {"precision": "bf16-mixed"},
}
ON_A_GPU: dict[str, dict[str, Any]] = {
    "precision=tf32": {"precision": "tf32"},
    "cuda_graphs=true": {"cuda_graphs": True},
    "cuda_graphs, fused": {"cuda_graphs": True, "fused_optimizer": True},
    "cuda_graphs, fused, bf16": {"cuda_graphs": True, "fused_optimizer": True, "precision": "bf16-mixed"},
}


class Turns(pl.Callback):
    """Times windows of the Trainer's steps; after each, the others take as many."""

    def __init__(self, others: dict[str, Step], steps: int, seconds: float) -> None:
        self.others, self.steps = others, steps
        self.until = time.monotonic() + seconds
        self.seconds: dict[str, list[float]] = {name: [] for name in ("lightning", *others)}
        self._began = 0.0

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if (trainer.fit_loop.batch_idx + 1) % self.steps:
            return
        synchronise()
        self.seconds["lightning"].append(time.perf_counter() - self._began)
        for name, step in self.others.items():
            began = time.perf_counter()
            for _ in range(self.steps):
                step()
            synchronise()
            self.seconds[name].append(time.perf_counter() - began)
        trainer.should_stop = time.monotonic() > self.until
        self._began = time.perf_counter()


class Operations(TorchDispatchMode):
    """Counts the operations that compute something, and the bytes of the tensors that they make."""

    def __init__(self) -> None:
        super().__init__()
        self.count = self.bytes = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = function(*args, **(kwargs or {}))
        if not function.is_view and function is not torch.ops.aten.empty.memory_format:
            self.count += 1
            if not any(result.alias_info for result in function._schema.returns):  # in place
                self.bytes += sum(tensor.nbytes for tensor in tree_leaves(made) if isinstance(tensor, Tensor))
        return made


def count(options: argparse.Namespace) -> None:
    """The arithmetic of docs/performance.md: one step of the network on images that are already there."""
    model = classifier(options, 0).to(DEVICE)
    images = torch.rand(BATCH, 6, 64, 64, device=DEVICE).contiguous(memory_format=torch.channels_last)
    with FlopCounterMode(display=False) as flop:
        with Operations() as forward:
            loss = F.binary_cross_entropy_with_logits(model.network(images), torch.ones(BATCH, device=DEVICE))
        with Operations() as backward:
            loss.backward()
    weights = sum(parameter.numel() for parameter in model.parameters())
    saved = 8 * weights + 2 * sum(tensor.nbytes for tensor in model.state_dict().values())
    print(f"{options.network}, batch {BATCH}, float32\n\n| | counted |\n|---|---|")
    print(f"| forward and backward | {flop.get_total_flops() / 1e9:.2f} GFLOP |")
    print(f"| their operations, without views | {forward.count} and {backward.count} |")
    print(f"| tensors that the forward pass makes | {forward.bytes / 1e9:.3f} GB |")
    print(f"| weights | {weights:,} |")
    print(f"| Adam: weight and two moments read and written, gradient read | {7 * 4 * weights / 1e9:.3f} GB |")
    print(f"| a checkpoint: weights, best weights, Adam's moments | {saved / 1e6:.1f} MB |")


def main(options: argparse.Namespace) -> None:
    warnings.filterwarnings("ignore")
    logging.getLogger("pytorch_lightning").setLevel(logging.ERROR)
    torch.set_num_threads(options.threads)
    switches = SWITCHES | (ON_A_GPU if CUDA else {}) | ({"compile=true": {"compile": True}} if options.compile else {})
    total = (options.rounds + 1) * options.steps
    others: dict[str, Step] = {"loop": bare_loop(options, total).__next__}
    for name, arithmetic in switches.items():
        (fold,) = folds(options, 1, [BATCH] * total, **arithmetic)
        fold.begin_epoch()
        others[name] = fold.step
    turns = Turns(others, options.steps, options.seconds)
    trainer(turns).fit(FoldPack(folds(options, 1, [BATCH] * total)), range(total))
    print(
        f"torch {torch.__version__}, {torch.cuda.get_device_name() if CUDA else f'{options.threads} threads'}, ", end=""
    )
    print(f"{options.network}, batch {BATCH}, {len(turns.seconds['loop']) - 1} rounds of {options.steps} steps")
    print("\n| path | ms a step (range) | times the bare loop (range) |\n|---|---|---|")
    for name, seconds in turns.seconds.items():
        taken = [1e3 * each / options.steps for each in seconds[1:]]  # the first round warms up, records and compiles
        ratios = [one / loop for one, loop in zip(seconds[1:], turns.seconds["loop"][1:], strict=True)]
        print(f"| {name} | {statistics.median(taken):.2f} ({min(taken):.2f} to {max(taken):.2f}) ", end="")
        print(f"| {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f}) |")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="resnet50" if CUDA else "narrow")
    parser.add_argument("--steps", type=int, default=40 if CUDA else 10, help="in a window")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=420, help="after which no further round begins")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="torch.compile as well, a minute or more")
    parser.add_argument("--count", action="store_true", help="only print what a step must compute")
    parser.set_defaults(precision="32-true")
    arguments = parser.parse_args()
    (count if arguments.count else main)(arguments)
