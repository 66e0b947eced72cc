"""Milliseconds of a training step of one fold: a sweep's path under Lightning beside a bare loop, and every switch.

    python benchmarks/train_step.py                                       # a GPU: ResNet50; a CPU: the narrow network
    python benchmarks/train_step.py --network resnet50 --steps 2 --rounds 5

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
from fold_throughput import BATCH, CUDA, bare_loop, folds, synchronise, trainer

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
    parser.set_defaults(precision="32-true")
    main(parser.parse_args())
