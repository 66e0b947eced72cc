"""Disturb sweeps at random, start each again, and compare with one that nobody disturbed.

    python tests/failures/run.py --rounds 50 --seed 1 [--only driver_killed journal_torn]
    python tests/failures/run.py --every-write  # the disk is full from each kind of write on, once
    python tests/failures/run.py --settings search.racing.strategy=posterior search.deterministic=true  # of all sweeps

Without --only, root also runs tests/cluster/test_node_loss.py: hosts killed, gone, cut off and healed, drained.

Prints a line a round; exit code 1 and the folders kept where something was lost, trained twice or came out otherwise.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))  # for a script, whose own folder is all that Python knows
from tests.failures import disks, full_disk, plugin, processes, units  # noqa: F401
from tests.failures.disturbances import DISTURBANCES
from tests.failures.sweeps import Place, check, check_complete, check_kept, check_same


def undisturbed(folder: Path, *changes: str) -> Place:
    """The sweep that all others with the same `changes` of settings are compared with; it fills the cache."""
    place = Place(folder / "undisturbed", folder / "cache", [*changes])
    place.environment |= full_disk.install(place.folder / "plugin", place.run.parent, chosen="")
    check(place.finish() == 0, place.printed)
    check_complete(place)
    place.writes = full_disk.kinds(place.folder / "plugin")
    return place


def play(name: str, seed: int, folder: Path, reference: Place, writes: Sequence[str] = ()) -> Place:
    """Disturb a sweep, start it again, and look at what came out.

    `writes`: one of which a full disk meets; by default one of all.

    Raises:
        DisturbanceError: says what does not hold.
    """
    place = Place(folder, reference.cache, [*reference.changes], writes=[*writes] or reference.writes)
    DISTURBANCES[name](place, random.Random(seed))
    before = {folder: files for folder, files in (place.units() | place.before).items() if folder not in place.forgiven}
    check(place.finish() == 0, f"the sweep cannot be finished: {place.printed[-2000:]}")
    for message in place.must_log:
        check(message in place.log, f"not in the log: {message}")
    check_kept(before, place)
    check_complete(place)
    if place.is_deterministic:
        check_same(place, reference)
    return place


def unmount(place: Path) -> None:
    for folder in (place / "runs", place / "cache"):
        if folder.is_mount():
            subprocess.run(["umount", "--lazy", folder], check=True)


def hosts_lost() -> int:
    """Several hosts have a suite of their own, which starts them once for all its disturbances; 1 if it failed."""
    suite = ["pytest", "-v", "-rs", "-m", "by_hand or not by_hand", "tests/cluster/test_node_loss.py"]
    failed = subprocess.run([sys.executable, "-m", *suite], cwd=plugin.ROOT, check=False).returncode != 0
    print(f"several hosts: {'failed' if failed else 'none lost, where none was skipped above'}", flush=True)
    return int(failed)


def names(chosen: Sequence[str], rounds: int | None, seed: int) -> Iterator[tuple[str, int]]:
    """Every chosen disturbance once, in a random order, before any comes again."""
    generator = random.Random(seed)
    order: list[str] = []
    for number in range(rounds or len(chosen)):
        order = order or generator.sample(sorted(chosen), len(chosen))
        yield order.pop(), seed * 1000 + number


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every-write", action="store_true")
    parser.add_argument("--settings", nargs="+", default=[])
    parser.add_argument("--only", nargs="+", choices=sorted(DISTURBANCES), default=[])
    arguments = parser.parse_args()
    failed = 0
    folder = Path(tempfile.mkdtemp(prefix="failures-"))
    print(f"{folder}: the undisturbed sweep", flush=True)
    reference = undisturbed(folder, *arguments.settings)
    chosen = arguments.only or [*DISTURBANCES]
    rounds = [(name, seed, list[str]()) for name, seed in names(chosen, arguments.rounds, arguments.seed)]
    if arguments.every_write:
        rounds = [("disk_full", number, [write]) for number, write in enumerate(reference.writes)]
    for name, seed, writes in rounds:
        started = time.monotonic()
        try:
            play(name, seed, folder / f"{name}-{seed}", reference, writes)
            outcome = "nothing lost"
        except Exception as error:
            failed += 1
            outcome = f"{type(error).__name__}: {error}"
        unmount(folder / f"{name}-{seed}")
        print(
            f"{name}{' from '.join(['', *writes])}, seed {seed}: {outcome} ({time.monotonic() - started:.0f} s)",
            flush=True,
        )
    print(f"{len(rounds)} rounds, {failed} failed", flush=True)
    if not (arguments.only or arguments.every_write or os.geteuid()):
        failed += hosts_lost()
    if not failed:
        shutil.rmtree(folder)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
