"""A sweep of seconds in a process of its own, what it left, and what must hold of that after any disturbance."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
import psutil
import torch

from sweep.predictions import require_complete

FOLDS, CONFIGURATIONS, EPOCHS = 3, 2, 6
SECONDS = 900.0  # for whatever is waited for: the machine may be busy with other things
SETTINGS = [
    "name=sweep",
    "data.phantom.patients=24",
    "data.pixels_per_box=32",
    f"folds.count={FOLDS}",
    f"search.configurations={CONFIGURATIONS}",
    "search/space=resnet50",
    f"training.epochs={EPOCHS}",
    f"training.patience={EPOCHS}",
    "input.size=32",
    "augmentation.benign_factor=4",
    "augmentation.malignant_factor=8",
    "search.space.augmentation.benign_factor={low: 4, high: 5}",
    "search.space.augmentation.malignant_factor={low: 7, high: 8}",
    "evaluation.resamples=100",
]
RESULTS = ["configurations.csv", "predictions.parquet", "patients.csv", "split.csv", "thresholds.csv"]


class DisturbanceError(AssertionError):
    """What must hold after a disturbance does not."""


@dataclass
class Place:
    """Folder in which one sweep runs, again and again; all its files stand below `folder`, but the cache."""

    folder: Path
    cache: Path
    changes: list[str] = field(default_factory=list)
    forgiven: set[Path] = field(default_factory=set)
    """Finished folds that were damaged on purpose."""
    must_log: list[str] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)
    writes: list[str] = field(default_factory=list)
    """The files at which the disk may become full, see full_disk."""
    before: dict[Path, dict[str, tuple[int, int, str]]] = field(default_factory=dict)
    """What was finished just before the disturbance, see `units`."""

    @property
    def is_deterministic(self) -> bool:
        """Whether timing decides nothing: without a race all configurations get all folds."""
        return "search.deterministic=true" in self.changes or not any("racing" in change for change in self.changes)

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "sweep"

    @property
    def printed(self) -> str:
        return "".join(path.read_text(errors="replace") for path in sorted(self.folder.glob("printed-*")))

    @property
    def log(self) -> str:
        path = self.run / "sweep.log"
        return path.read_text() if path.exists() else ""

    def start(self) -> subprocess.Popen[bytes]:
        """`python -m sweep …` in a session of its own, so that no signal meant for it reaches the tests."""
        self.folder.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "sweep", *SETTINGS, f"cache={self.cache}", *self.changes]
        environment = os.environ | {"OMP_NUM_THREADS": "1"} | self.environment
        number = len(list(self.folder.glob("printed-*")))
        with (self.folder / f"printed-{number}").open("wb") as printed:
            return subprocess.Popen(
                command, cwd=self.folder, env=environment, stdout=printed, stderr=printed, start_new_session=True
            )

    def finish(self) -> int:
        """The same command until its end; its exit code."""
        with ended(self.start()) as driver:
            return driver.wait(SECONDS)

    def units(self) -> dict[Path, dict[str, tuple[int, int, str]]]:
        """Of every finished fold its files: inode, time of change and content."""
        return {done.parent: _files(done.parent) for done in self.run.glob("ledger/*/*/fold-[0-9]/DONE")}


def _files(folder: Path) -> dict[str, tuple[int, int, str]]:
    return {path.name: _state(path) for path in folder.iterdir()}


def _state(path: Path) -> tuple[int, int, str]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def ended(driver: subprocess.Popen[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """Nothing of the driver outlives the block: a suite that leaves Ray behind slows what follows."""
    family: set[psutil.Process] = set()
    try:
        yield driver
    finally:
        family |= descendants(driver)
        if driver.poll() is None:
            driver.kill()
            driver.wait()
        for process in family:
            with suppress(psutil.Error):
                process.kill()


def descendants(driver: subprocess.Popen[bytes]) -> set[psutil.Process]:
    with suppress(psutil.Error):
        return set(psutil.Process(driver.pid).children(recursive=True))
    return set()


def called(processes: set[psutil.Process], *names: str) -> list[psutil.Process]:
    """Those whose command line holds one of the names, in the order of their start."""
    found = []
    for process in processes:
        with suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if any(name in line for name in names):
                found.append(process)
    return sorted(found, key=lambda process: process.pid)


def training() -> list[psutil.Process]:
    """Workers of this process's sweep, be they on a Ray that it started or joined."""
    return called(set(psutil.Process().children(recursive=True)), "Trainable.train")


def until(condition: Callable[[], object], driver: subprocess.Popen[bytes], pause: float = 0.05) -> bool:
    """Wait until the condition holds; False if the sweep ended first."""
    limit = time.monotonic() + SECONDS
    while not condition():
        if driver.poll() is not None:
            return False
        if time.monotonic() > limit:
            driver.send_signal(signal.SIGABRT)
            raise DisturbanceError(f"waited {SECONDS:.0f} s in vain")
        time.sleep(pause)
    return True


def check(condition: object, problem: str) -> None:
    if not condition:
        raise DisturbanceError(problem)


def check_kept(before: dict[Path, dict[str, tuple[int, int, str]]], place: Place) -> None:
    """Every fold that was finished is still there, byte for byte, and was not written again."""
    after = place.units()
    for folder, files in before.items():
        check(folder in after, f"{folder}: a finished fold is gone")
        check(after[folder] == files, f"{folder}: a finished fold was written again")


def check_saved(place: Place) -> None:
    """Of every fold in training all finished epochs: only the one that was cut is repeated."""
    for checkpoint in place.run.glob("ledger/*/*/*.partial-*/last.ckpt"):
        finished = pd.read_csv(checkpoint.with_name("curve.csv"))["epoch"].tolist()
        saved = [row["epoch"] for row in torch.load(checkpoint, weights_only=True)["curve"]]
        check(saved[: len(finished)] == finished, f"{checkpoint}: epochs {saved} are saved of {finished}")


def check_complete(place: Place) -> None:
    """All folds of all configurations that no race dropped, once; nothing half-finished is left."""
    text = {"patient_id": str, "sop_instance_uid": str}
    cohort, split = (pd.read_csv(place.run / f"{name}.csv", dtype=text) for name in ("cohort", "split"))
    predictions = pd.read_parquet(place.run / "predictions.parquet")
    configurations = pd.read_csv(place.run / "configurations.csv")
    ended = set(configurations["state"])
    check(ended == {"complete"} or ended == {"complete", "pruned"}, f"configurations are {', '.join(ended)}")
    for number in configurations.loc[configurations["state"] == "complete", "configuration"]:
        require_complete(predictions, cohort, split, number)
    folds = configurations.drop_duplicates("digest")["folds_done"].sum()
    check(len(place.units()) == folds, f"{len(place.units())} finished folds of {folds}")


def check_same(place: Place, undisturbed: Place) -> None:
    """The tables and the report's figures, to the last byte."""
    different = [name for name in RESULTS if (place.run / name).read_bytes() != (undisturbed.run / name).read_bytes()]
    figures = [json.loads((one.run / "summary.json").read_text()) for one in (place, undisturbed)]
    for each in figures:
        each["search"].pop("cost")  # measured seconds
    different += ["summary.json"] if figures[0] != figures[1] else []
    check(not different, f"not as in the undisturbed sweep: {', '.join(different)}")
