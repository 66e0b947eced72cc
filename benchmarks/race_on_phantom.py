"""Racing on and off, end to end on the phantom: seconds of whole sweeps, folds trained, and the best one's AUC.

    python benchmarks/race_on_phantom.py [--seeds 1 2 3] [--configurations 12] [--strategy posterior]

Without a race, with one, and with one in which a first fold may end as hopeless after two epochs. The sweeps of a seed
try the same configurations (RandomSampler) on the same folds, one after the other, on all cores.
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
    "data.phantom.patients=64",
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


def sweep(folder: Path, name: str, *settings: str) -> tuple[float, int, int, float]:
    """Seconds, folds trained, the best configuration's number and its mean of folds' AUCs."""
    command = [sys.executable, "-m", "sweep", f"name={name}", *SETTINGS, *settings]
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
    parser.add_argument("--configurations", type=int, default=12)
    parser.add_argument("--strategy", default="posterior")
    args = parser.parse_args()
    race = f"search.racing.strategy={args.strategy}"
    ways = {"none": [], args.strategy: [race], f"{args.strategy}, hopeless": [race, "search.racing.hopeless_after=2"]}
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    print("| seed | racing | s | folds trained | best configuration | its AUC, mean of folds |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for seed in args.seeds:
            common = [f"seed={seed}", f"search.configurations={args.configurations}"]
            subprocess.run(  # writes the phantom and its patches, which all then find
                [sys.executable, "-m", "sweep", "ingest", f"name=ingest-{seed}", *SETTINGS, *common],
                cwd=temporary,
                check=True,
                capture_output=True,
            )
            for number, (way, settings) in enumerate(ways.items()):
                took, folds, best, auc = sweep(Path(temporary), f"race-{seed}-{number}", *common, *settings)
                seconds[way].append(took)
                print(f"| {seed} | {way} | {took:.0f} | {folds} | {best} | {auc:.4f} |", flush=True)
    for way in [*ways][1:]:
        ratios = [took / without for took, without in zip(seconds[way], seconds["none"], strict=True)]
        spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        print(f"\nseconds with {way} over without a race: {spread}")


if __name__ == "__main__":
    main()
