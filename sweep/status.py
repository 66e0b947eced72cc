"""How far a run has come, told by its files alone, from any machine that sees them. Imports neither torch nor Ray."""

from __future__ import annotations

import csv
import hashlib
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import yaml

from sweep.settings import SettingsError

HOUR = 3600.0
WANTED = re.compile(r"(settings\.yaml|(split|configurations)\.csv|ledger/.*/(DONE|curve\.csv))")
FINISHED, BEGUN = re.compile(r"fold-\d+"), re.compile(r"fold-\d+\.partial-.*")
ENDED = ("pruned", "failed")  # states in which a configuration gets no further folds


def status(run: Path, now: float | None = None) -> str:
    """Lines on progress, speed, time left, failures and the best configuration so far.

    `now` is in seconds since the epoch, None the clock's. SettingsError where no run has begun to train in the folder.
    """
    if not (run / "settings.yaml").is_file() or not (run / "split.csv").is_file():
        raise SettingsError(f"{run}: no run that has begun; name its folder, as in `python -m sweep status runs/NAME`")
    # The digest of datasets.folds.split_digest, without pandas: split.csv is the very text of which it is made.
    split = hashlib.sha256((run / "split.csv").read_bytes()).hexdigest()[:16]
    # Repeats, nested and permuted searches have units of other splits.
    configurations, units = _rows(run / "configurations.csv"), list(run.glob(f"ledger/*/{split}/fold-*"))
    moments = _moments(units)
    finished = sorted(moment for own in moments.values() for moment in own)
    now = time.time() if now is None else now
    last = f", the last one {_clock(now - finished[-1])} ago" if finished else ""
    folds = len({row["fold"] for row in _rows(run / "split.csv")})
    asked = yaml.safe_load((run / "settings.yaml").read_text())["search"]["configurations"]
    total = _total(configurations, moments, folds, asked)
    lines = [f"{len(finished)} of {total} folds finished{last}"]
    lines += [_in_training(units), _speed(finished, total), _best(configurations)]
    failed = (row for row in configurations if row["state"] == "failed")
    lines += [f"configuration {row['configuration']} failed: {row['failure']}" for row in failed]
    return "\n".join(filter(None, lines))


def _rows(table: Path) -> list[dict[str, str]]:
    with suppress(FileNotFoundError):  # not there yet, or its folder was renamed meanwhile
        return list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
    return []


def _moments(units: Iterable[Path]) -> dict[str, list[float]]:
    """When folds were finished, by the digest of their configuration; nothing where folds are only begun."""
    moments: dict[str, list[float]] = {}
    for unit in units:
        own = moments.setdefault(unit.parent.parent.name, [])
        with suppress(FileNotFoundError):  # a damaged folder is renamed
            if FINISHED.fullmatch(unit.name):
                own.append((unit / "DONE").stat().st_mtime)
    return moments


def _total(
    configurations: Sequence[dict[str, str]], moments: Mapping[str, Sequence[float]], folds: int, asked: int
) -> int:
    """Folds finished or still to come. Configurations of equal digest share theirs; the newest are in no table yet."""
    listed = {row["digest"] for row in configurations}
    ended = listed - {row["digest"] for row in configurations if row["state"] not in ENDED}
    to_come = max(0, asked - len(configurations) - len(moments.keys() - listed))
    begun = sum(len(moments.get(digest, ())) if digest in ended else folds for digest in listed | moments.keys())
    return begun + to_come * folds


def _in_training(units: Iterable[Path]) -> str:
    epochs = sorted(len(_rows(unit / "curve.csv")) for unit in units if BEGUN.fullmatch(unit.name))
    return f"{len(epochs)} begun, with {', '.join(map(str, epochs))} epochs behind them" if epochs else ""


def _speed(finished: Sequence[float], total: int) -> str:
    """Folds an hour and the time left, by the folds of the last hour in which any was finished."""
    recent = [moment for moment in finished if moment > finished[-1] - HOUR]
    if len(recent) < 2 or recent[-1] == recent[0]:
        return ""
    rate = (len(recent) - 1) / (recent[-1] - recent[0])
    left = f", about {_clock((total - len(finished)) / rate)} left" if total > len(finished) else ""
    return f"{rate * HOUR:.0f} folds an hour{left}"


def _best(configurations: Sequence[dict[str, str]]) -> str:
    complete = [row for row in configurations if row["state"] == "complete"]
    if not complete:
        return "no configuration is complete"
    best = max(complete, key=lambda row: float(row["mean_fold_auc"]))
    return f"best so far: configuration {best['configuration']}, mean AUC of folds {float(best['mean_fold_auc']):.3f}"


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(max(0.0, seconds))))
