"""Which (configuration, fold) next: Optuna proposes configurations, the ledger says what is done. Knows no Ray.

Resuming is starting again: configurations come back from Optuna's journal, finished folds from the ledger.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import isnan
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState

from sweep.ledger import Ledger, Unit
from sweep.settings import Configuration, Range, Settings, Value, setting_type

Score = Callable[[Unit], float]


@dataclass
class Candidate:
    """A configuration in the sweep and how far its folds have come."""

    number: int
    """Position in the sweep and Optuna's trial number; 0 is the study's own setting."""
    values: Mapping[str, Value]
    configuration: Configuration
    folds: int
    fold_aucs: dict[int, float] = field(default_factory=dict)
    running: set[int] = field(default_factory=set)
    tries: dict[int, int] = field(default_factory=dict)
    failures: dict[int, str] = field(default_factory=dict)
    """Folds that failed for good, with the last try's reason."""
    last_failure: str = ""

    def unit(self, fold: int) -> Unit:
        return Unit(self.configuration.digest, fold)

    @property
    def is_complete(self) -> bool:
        return len(self.fold_aucs) == self.folds

    @property
    def state(self) -> str:
        return "complete" if self.is_complete else "failed" if self.failures else "running"

    @property
    def mean_fold_auc(self) -> float:
        """Mean over the finished folds that have an AUC; to compare by only once the candidate is complete."""
        defined = [auc for auc in self.fold_aucs.values() if not isnan(auc)]
        return sum(defined) / len(defined) if defined else float("nan")

    def waiting_folds(self) -> Iterator[int]:
        if self.failures:
            return
        yield from (fold for fold in range(self.folds) if fold not in self.fold_aucs and fold not in self.running)


class Search:
    """The state of a sweep: `next_unit` hands out work, `succeeded` and `failed` take the outcome."""

    def __init__(self, settings: Settings, study: optuna.Study, ledger: Ledger, folds: int, score: Score) -> None:
        """Args:
        settings: of the sweep.
        study: from `open_study`; its trials are the sweep's configurations so far.
        ledger: of the sweep's split.
        folds: how many the split has.
        score: the held-out patients' AUC of a finished unit; nan where they are of one class only.
        """
        self._settings, self._study, self._ledger, self._folds, self._score = settings, study, ledger, folds, score
        self._space = {name: distribution(name, span) for name, span in settings.search.space.items()}
        asked = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
        self.candidates = [self._candidate(trial) for trial in asked]

    def next_unit(self) -> tuple[Candidate, int] | None:
        """A waiting fold of the earliest configuration, else of a new one; None when there is none to start now."""
        while True:
            # Two configurations may be equal where few values can be chosen: one unit, trained once.
            in_training = {candidate.unit(fold) for candidate in self.candidates for fold in candidate.running}
            for candidate in self.candidates:
                for fold in candidate.waiting_folds():
                    if candidate.unit(fold) not in in_training:
                        candidate.running.add(fold)
                        return candidate, fold
            if len(self.candidates) >= self._settings.search.configurations:
                return None
            self.candidates.append(self._ask())

    @property
    def is_finished(self) -> bool:
        """All configurations are complete or failed, and nothing runs."""
        busy = any(c.running or list(c.waiting_folds()) for c in self.candidates)
        return not busy and len(self.candidates) >= self._settings.search.configurations

    @property
    def best(self) -> Candidate | None:
        """The complete configuration with the highest mean of folds' AUCs, the earliest of equals."""
        complete = [candidate for candidate in self.candidates if candidate.is_complete]
        return max(complete, key=lambda candidate: (candidate.mean_fold_auc, -candidate.number), default=None)

    def succeeded(self, candidate: Candidate, fold: int) -> None:
        """A unit's results stand in the ledger."""
        candidate.running.discard(fold)
        auc = self._score(candidate.unit(fold))
        for equal in (other for other in self.candidates if other.configuration == candidate.configuration):
            equal.fold_aucs[fold] = auc
            if equal.is_complete:
                self._tell(equal, equal.mean_fold_auc)

    def failed(self, candidate: Candidate, fold: int, reason: str, *, final: bool = False) -> None:
        """A try of a unit failed: it waits for the next one, or, with none left or `final`, its configuration fails."""
        candidate.running.discard(fold)
        candidate.tries[fold] = candidate.tries.get(fold, 0) + 1
        candidate.last_failure = reason
        if final or candidate.tries[fold] >= self._settings.resources.tries:
            candidate.failures[fold] = reason
            self._tell(candidate, None)

    def _ask(self) -> Candidate:
        number = len(self.candidates)
        self._study.sampler = _sampler(self._settings.seed + number)
        return self._candidate(self._study.ask(self._space))

    def _candidate(self, trial: optuna.Trial | FrozenTrial) -> Candidate:
        configuration = self._settings.configuration(trial.params)
        candidate = Candidate(trial.number, trial.params, configuration, self._folds)
        done = (fold for fold in range(candidate.folds) if self._ledger.is_done(candidate.unit(fold)))
        candidate.fold_aucs = {fold: self._score(candidate.unit(fold)) for fold in done}
        if candidate.is_complete:
            self._tell(candidate, candidate.mean_fold_auc)
        return candidate

    def _tell(self, candidate: Candidate, value: float | None) -> None:
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        self._study.tell(candidate.number, value, state, skip_if_finished=True)


def open_study(journal: Path, name: str, own_values: Mapping[str, Value]) -> optuna.Study:
    """The sweep's Optuna study on a journal file, which optuna-dashboard opens too.

    A new study has the study's own setting waiting as trial 0.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(
        storage=storage, study_name=name, direction="maximize", load_if_exists=True, sampler=_sampler(0)
    )
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(own_values))
    return study


def _sampler(seed: int) -> optuna.samplers.BaseSampler:
    """Rebuilt for every proposal from (sweep seed, its number), so that a resumed sweep does not repeat itself."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)


def distribution(name: str, span: Range) -> BaseDistribution:
    """Optuna's distribution for a setting's range; whole numbers for a setting that takes only those."""
    if span.choices is not None:
        return CategoricalDistribution(span.choices)
    if span.low is None or span.high is None:
        raise ValueError(f"search.space.{name}: a range needs low and high")
    if setting_type(name) is int:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=int(span.step or 1))
    return FloatDistribution(span.low, span.high, log=span.log, step=span.step)
