"""Seconds from `python -m sweep` to its first training step, beside what Ray and Lightning alone take to get there.

    python benchmarks/start_up.py [ROUNDS]

The cohort is in the cache, as from the second sweep on. "Ray and Lightning alone" starts a local Ray and imports
Lightning in two processes of it, as the sweep trains two folds at once. The rounds are taken by turns; the figures are
medians with their range.
"""

import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SWEEP = ["search/space=none", "search.configurations=1", "training.epochs=1", "model=narrow", "folds.count=2"]
ALONE = """
import ray, time
from pathlib import Path
ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
@ray.remote(num_cpus=1)
def ready():
    import pytorch_lightning
    return time.time()
times = ray.get([ready.remote() for _ in range(2)])
Path("new").write_text(str(min(times)))
Path("new").rename("first-step")
"""
PLUGIN = """
import time
from pathlib import Path
import pytorch_lightning as pl

class FirstStep(pl.Callback):
    def on_train_batch_start(self, *_):
        file = Path({file!r})
        if not file.exists():
            file.with_suffix(".new").write_text(str(time.time()))
            file.with_suffix(".new").rename(file)

def callbacks():
    return [FirstStep()]
"""


def install_plugin(folder: Path, file: Path) -> None:
    """What Lightning calls in every worker, once a Trainer."""
    information = folder / "first_step-1.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: first-step\nVersion: 1\n")
    entry = "[pytorch_lightning.callbacks_factory]\nfirst_step = first_step:callbacks\n"
    (information / "entry_points.txt").write_text(entry)
    (folder / "first_step.py").write_text(PLUGIN.format(file=str(file)))


def seconds(command: list[str], folder: Path) -> float:
    first_step = folder / "first-step"
    first_step.unlink(missing_ok=True)
    began = time.time()
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        while process.poll() is None and not first_step.exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
    return float(first_step.read_text()) - began


def main(rounds: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        install_plugin(folder / "plugin", folder / "first-step")
        os.environ["PYTHONPATH"] = os.pathsep.join([str(folder / "plugin"), str(Path(__file__).parents[1])])
        taken: dict[str, list[float]] = {"python -m sweep": [], "Ray and Lightning alone": []}
        for number in range(rounds + 1):
            sweep = [sys.executable, "-m", "sweep", f"name=start-{number}", *SWEEP]
            taken["python -m sweep"].append(seconds(sweep, folder))
            taken["Ray and Lightning alone"].append(seconds([sys.executable, "-c", ALONE], folder))
    print("| to the first step | s (range) |\n|---|---|")
    for what, each in taken.items():
        warm = each[1:]  # the first fills the cache, and the system's
        print(f"| {what} | {statistics.median(warm):.1f} ({min(warm):.1f} to {max(warm):.1f}) |")
    ratios = [ours / alone for ours, alone in list(zip(*taken.values(), strict=True))[1:]]
    print(f"\nratio {statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
