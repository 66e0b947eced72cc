"""A configuration in a sweep and how far its folds have come."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isnan

from sweep.ledger import Unit
from sweep.racing import Drop
from sweep.settings import Configuration, Value


@dataclass
class Candidate:
    """A configuration in the sweep and how far its folds have come."""

    number: int
    """Position in the sweep; 0 is the study's own setting. Optuna's trial number, until what failed is tried again."""
    values: Mapping[str, Value]
    configuration: Configuration
    folds: int
    fold_aucs: dict[int, float] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    tries: dict[int, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    """Folds that failed for good, with the last try's reason."""
    last_failure: str = ""
    dropped: Drop | None = None
    """Why the race goes on without it."""

    def unit(self, fold: int) -> Unit:
        return Unit(self.configuration.digest, fold)

    @property
    def is_complete(self) -> bool:
        return len(self.fold_aucs) == self.folds

    @property
    def state(self) -> str:
        if self.is_complete:
            return "complete"
        return "failed" if self.failures else "pruned" if self.dropped else "running"

    @property
    def why_dropped(self) -> str:
        """'AUC -0.031 [-0.052, -0.010] against configuration 3: chance to win 0.0002 (after 57 folds of the sweep)'.

        Empty if it is not.
        """
        if self.dropped is None or self.is_complete:
            return ""
        drop, when = self.dropped, f" (after {self.dropped.after} folds of the sweep)" if self.dropped.after else ""
        if self.is_hopeless:
            return f"{drop.why}{when}"
        interval = f"AUC {drop.difference:+.3f} [{drop.low:+.3f}, {drop.high:+.3f}]"
        return f"{interval} against configuration {drop.against}: {drop.why}{when}"

    @property
    def is_hopeless(self) -> bool:
        return self.dropped is not None and isnan(self.dropped.difference)

    @property
    def mean_fold_auc(self) -> float:
        """Mean over the finished folds that have an AUC; to compare by only once the candidate is complete."""
        defined = [auc for auc in self.fold_aucs.values() if not isnan(auc)]
        return sum(defined) / len(defined) if defined else float("nan")
