"""Units whose training itself goes wrong."""

from __future__ import annotations

import random
import re

import pandas as pd

from tests.failures import bad_unit, broken_gpu, plugin
from tests.failures.disturbances import disturbance
from tests.failures.sweeps import EPOCHS, FOLDS, SECONDS, Place, check, ended

TRIES = 3  # resources.tries


@disturbance
def gpu_broken(place: Place, generator: random.Random) -> None:
    """A CUDA error costs a try and its process, which is of no use any more; what was in its pack goes alone."""
    errors = generator.choice([1, 2])
    broken_gpu.install(place.folder / "plugin", errors)
    place.environment["PYTHONPATH"] = plugin.path(place.folder / "plugin")
    place.changes.append("resources.folds_per_pack=2")
    with ended(place.start()) as driver:
        check(driver.wait(SECONDS) == 0, f"the sweep did not outlive {errors} CUDA errors")
    place.environment.clear()
    place.must_log.append("failed, will be tried again (AcceleratorError")


@disturbance
def loss_not_a_number(place: Place, generator: random.Random) -> None:
    """It is not tried again before the next start, as it would diverge again."""
    epoch = generator.randrange(EPOCHS)
    reason = f"training diverged: loss or weights are nan in epoch {epoch}; lower model.learning_rate"
    _one_goes_wrong(place, generator, "nan", epoch, 1, reason)


@disturbance
def unit_out_of_memory(place: Place, generator: random.Random) -> None:
    """As often as it is tried."""
    reason = "OutOfMemoryError; lower training.batch_size"
    _one_goes_wrong(place, generator, "memory", generator.randrange(EPOCHS), TRIES, reason)
    place.must_log.append(f"failed, will be tried again ({reason}")


def _one_goes_wrong(
    place: Place, generator: random.Random, kind: bad_unit.Kind, epoch: int, tries: int, reason: str
) -> None:
    """Of a pack of two; it alone fails, and its configuration with it."""
    folder = place.folder / "plugin"
    bad_unit.install(folder, kind, epoch=epoch, step=generator.choice([0, 1, 99]), tries=tries)
    place.environment["PYTHONPATH"] = plugin.path(folder)
    place.changes.append("resources.folds_per_pack=2")
    check(place.finish() == 1, "exit code of a sweep with a failed configuration")
    packs = (folder / "tries").read_text()
    check(packs[1:] == "1" * (tries - 1), f"packs that the unit was tried in: {packs}")
    check(re.search(rf"configuration \d failed at fold \d: {re.escape(reason)}", place.printed), "no reason given")
    first_screen = (place.run / "report.html").read_text().partition("<main")[0]
    check(re.search(r"1 of \d+ configurations failed", first_screen), "the report does not say so first")
    done = [folder.parent.parent for folder in place.units()]
    check(max(done.count(configuration) for configuration in done) == FOLDS, "others failed with it")
    predictions = pd.read_parquet(place.run / "predictions.parquet")
    check(predictions["probability"].between(0, 1).all(), "a prediction is not a number")
    place.environment.clear()
