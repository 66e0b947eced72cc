"""Racing on and off, end to end on the phantom: seconds of whole sweeps, folds trained, and the best one's AUC.

    python benchmarks/race_on_phantom.py [--seeds 1 2 3] [--configurations 16] [--strategy posterior]

Both sweeps of a seed try the same configurations (RandomSampler) on the same folds, one after the other, on all cores.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

SETTINGS = [
    "data.phantom.patients=96",
    "data.pixels_per_box=32",
    "input.size=32",
    "training.epochs=8",
    "search/space=resnet50",
    "search.sampler=RandomSampler",
    "augmentation.benign_factor=2",
    "augmentation.malignant_factor=4",
    "search.space.augmentation.benign_factor={low: 1, high: 4}",
    "search.space.augmentation.malignant_factor={low: 2, high: 8}",
]


def sweep(folder: Path, seed: int, strategy: str, configurations: int) -> tuple[float, int, int, float]:
    """Seconds, folds trained, the best configuration's number and its mean of folds' AUCs."""
    name = f"{strategy}-{seed}"
    command = [sys.executable, "-m", "sweep", f"name={name}", f"seed={seed}", *SETTINGS]
    command += [f"search.configurations={configurations}", f"search.racing.strategy={strategy}"]
    started = time.perf_counter()
    subprocess.run(command, cwd=folder, check=True, capture_output=True)
    seconds = time.perf_counter() - started
    run = folder / "runs" / name
    table = pd.read_csv(run / "configurations.csv")
    best = json.loads((run / "summary.json").read_text())["best"]["configuration"]
    (row,) = table[table["configuration"] == best].to_dict("records")
    return seconds, int(table["folds_done"].sum()), int(best), float(row["mean_fold_auc"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--configurations", type=int, default=16)
    parser.add_argument("--strategy", default="posterior")
    args = parser.parse_args()
    ratios = []
    print("| seed | racing | s | folds trained | best configuration | its AUC, mean of folds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            subprocess.run(  # writes the phantom and its patches, which both then find
                [sys.executable, "-m", "sweep", "ingest", f"name=ingest-{seed}", f"seed={seed}", *SETTINGS],
                cwd=temporary,
                check=True,
                capture_output=True,
            )
            found = [
                sweep(Path(temporary), seed, strategy, args.configurations) for strategy in ("none", args.strategy)
            ]
            ratios.append(found[1][0] / found[0][0])
            for strategy, (seconds, folds, best, auc) in zip(("none", args.strategy), found, strict=True):
                print(f"| {seed} | {strategy} | {seconds:.0f} | {folds} | {best} | {auc:.4f} |", flush=True)
    print(
        f"\nseconds with racing over without: {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


if __name__ == "__main__":
    main()
