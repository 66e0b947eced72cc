"""Milliseconds from the last training step of a unit (configuration, fold) to the first of the next, in one process.

    python benchmarks/unit_to_unit.py [ROUNDS]

Units of one epoch on a phantom of 96 patients, through what a warm worker calls: the ledger's begin, train_pack, the
ledger's finish. "The network's passes" are validation and prediction; "the rest" is all else between two units. Figures
are medians over the rounds with their range. One thread.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from numpy.typing import NDArray

from datasets.folds import make_split, split_digest
from datasets.tables import to_csv
from lightning_modules.fold_training import FoldTraining
from sweep.compose import load_settings
from sweep.ledger import Ledger, Unit
from sweep.prepare import prepare_patches
from sweep.train_fold import Task, train_pack

SETTINGS = ["data.phantom.patients=96", "model=narrow", "training.epochs=1", "search/space=none"]
SETTINGS += ["search.configurations=1", "augmentation.benign_factor=1", "augmentation.malignant_factor=2"]
WARM_UP = 3

Times = NDArray[np.float64]
"""(start or end, wall or processor)."""


def timed(method: Callable[..., Any], calls: list[Times]) -> Callable[..., Any]:
    def call(*arguments: Any) -> Any:
        start = time.perf_counter(), time.process_time()
        result = method(*arguments)
        calls.append(1e3 * np.array([start, (time.perf_counter(), time.process_time())]))
        return result

    return call


def main(rounds: int) -> None:
    warnings.filterwarnings("ignore")
    steps, passes, first, last, network = (list[Times]() for _ in range(5))
    FoldTraining.step = timed(FoldTraining.step, steps)  # type: ignore[method-assign]
    FoldTraining.logits = timed(FoldTraining.logits, passes)  # type: ignore[method-assign]
    with tempfile.TemporaryDirectory() as folder:
        settings = load_settings([*SETTINGS, f"cache={folder}/cache"])
        store, path = prepare_patches(settings).store, Path(folder, "split.csv")
        split = make_split(store.lesions.drop_duplicates("patient_id"), settings.folds.count or 0, settings.seed)
        path.write_text(to_csv(split), encoding="utf-8")
        ledger = Ledger(Path(folder, "ledger"), split_digest(split))
        for seed in range(WARM_UP + rounds + 1):  # another one makes another configuration
            configuration = settings.model_copy(update={"seed": seed}).configuration({})
            unit = Unit(configuration.digest, fold=0)
            train_pack([Task(configuration, unit.fold, ledger.begin(unit), path)], store)
            ledger.finish(unit)
            first.append(steps[0][0])
            last.append(steps[-1][1])
            network.append(np.diff(np.sum(passes, 0), axis=0)[0])
            steps.clear()
            passes.clear()
    whole, model = (np.array(first[1:]) - last[:-1])[WARM_UP:], np.array(network[:-1])[WARM_UP:]
    print(f"torch {torch.__version__}, {rounds} rounds\n")
    print("| | ms (range) | ms of the processor (range) |\n|---|---|---|")
    for name, taken in ("from step to step", whole), ("the network's passes", model), ("the rest", whole - model):
        columns = [f"{np.median(each):.1f} ({each.min():.1f} to {each.max():.1f})" for each in taken.T]
        print(f"| {name} | {' | '.join(columns)} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 30)
