"""Which (configuration, fold) next: Optuna proposes configurations, they race over the folds. Knows no Ray.

Resuming is starting again: configurations and which were dropped come back from Optuna's journal, finished folds from
the ledger.
"""

from collections import defaultdict
from collections.abc import Callable
from math import isnan, nan

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from sweep.candidate import Candidate
from sweep.ledger import Ledger, Unit
from sweep.proposals import propose, trials_to_go_on_with
from sweep.race_model import Array
from sweep.racing import STRATEGIES, Drop, Evidence, Verdict, expected_improvement, hopeless_below, out_of_budget
from sweep.settings import Settings

Score = Callable[[Unit], float]
Influence = Callable[[Unit], Array]
# They learn nothing from results, so there is nothing to wait for with the first fold of every configuration.
UNLEARNING_SAMPLERS = ("RandomSampler", "GridSampler", "QMCSampler", "BruteForceSampler")


class Search:
    """The state of a sweep: `next_unit` hands out work, `succeeded` and `failed` take the outcome."""

    def __init__(
        self,
        settings: Settings,
        study: optuna.Study,
        ledger: Ledger,
        folds: int,
        score: Score,
        influence: Influence | None = None,
        hours: Score = lambda _: 0.0,
        inner_aucs: Influence | None = None,
    ) -> None:
        """Args:
        settings: of the sweep.
        study: from `open_study`; its trials are the sweep's configurations so far.
        ledger: of the sweep's split.
        folds: how many the split has.
        score: the held-out patients' AUC of a finished unit; nan where they are of one class only.
        influence: their influence on it (racing.fold_influence); the strategies `posterior` and `paired` ask for it.
        hours: of a device, that a finished unit took.
        inner_aucs: of a finished unit, by epoch; asked for with `search.racing.hopeless_after`.
        """
        self._settings, self._study, self._ledger, self._folds, self._score = settings, study, ledger, folds, score
        self._influence = influence if settings.search.racing.strategy in ("posterior", "paired") else None
        self._hours = hours
        self._inner_aucs = inner_aucs if settings.search.racing.hopeless_after else None
        self._curves = defaultdict[int, dict[Unit, Array]](dict)
        self._recorded = trials_to_go_on_with(study)
        self._order = [int(fold) for fold in np.random.default_rng(settings.seed).permutation(folds)]
        if settings.search.racing.strategy == "none":
            self._order.sort()
        self._wave: list[tuple[Candidate, int]] = []
        self.candidates: list[Candidate] = []
        self._equals, self._trial_ids = defaultdict[str, list[Candidate]](list), list[int]()
        # Filled as folds begin and end, a row per candidate: no decision walks through all folds again. Two candidates
        # may be equal where few values can be chosen: a unit under way stands in the earliest one's row, `_shared`.
        shape = max(settings.search.configurations, len(self._recorded)), folds
        self._aucs, self._finished = np.full(shape, np.nan), np.zeros(shape, bool)
        self._under_way = np.zeros(shape, bool)
        self._alive, self._out, self._shared = np.ones(shape[0], bool), np.zeros(shape[0], bool), np.arange(shape[0])
        self._influences: dict[int, Array] = {}
        self._known: tuple[object, ...] = ()  # _verdict fills both
        self._may_ask = False
        self._without_auc, self._done, self._used_hours = set[int](), set[Unit](), 0.0
        if settings.search.deterministic:
            self._plan_waves()
        else:
            self.candidates = [self._candidate(number, trial) for number, trial in enumerate(self._recorded)]
            self._judge()

    def next_unit(self) -> tuple[Candidate, int] | None:
        """The fold worth most, of a configuration in the race or a new one; None when there is none to start now."""
        if self._settings.search.deterministic:
            chosen = next(((candidate, fold) for candidate, fold in self._wave if fold not in candidate.running), None)
        else:
            chosen = self._choose()
        if chosen:
            chosen[0].running.add(chosen[1])
        return chosen

    @property
    def is_finished(self) -> bool:
        """All configurations are complete, dropped or failed, and nothing runs."""
        self._verdict()
        return not (self._wave or self._may_ask or self._under_way.any() or self._waiting().any())

    @property
    def best(self) -> Candidate | None:
        """The complete configuration with the highest mean of folds' AUCs, the earliest of equals."""
        complete = [candidate for candidate in self.candidates if candidate.is_complete]
        return max(complete, key=lambda candidate: (candidate.mean_fold_auc, -candidate.number), default=None)

    def returned(self, candidate: Candidate, fold: int) -> None:
        """A unit was handed out and has no outcome: it waits again, without a try of its own."""
        candidate.running.discard(fold)
        self._under_way[self._shared[candidate.number], fold] = False

    def succeeded(self, candidate: Candidate, fold: int) -> None:
        """A unit's results stand in the ledger."""
        self._reveal(candidate, fold)
        self._go_on()

    def failed(self, candidate: Candidate, fold: int, reason: str, *, final: bool = False) -> None:
        """A try of a unit failed: it waits for the next one, or, with none left or `final`, its configuration fails."""
        self.returned(candidate, fold)
        candidate.tries[fold] = candidate.tries.get(fold, 0) + 1
        candidate.last_failure = reason
        if final or candidate.tries[fold] >= self._settings.resources.tries:
            candidate.failures[fold] = reason
            self._alive[candidate.number], self._out[candidate.number] = False, True
            # Its other folds of the wave are trained all the same, for some of them may be done already.
            self._wave = [unit for unit in self._wave if unit[0] is not candidate or unit[1] != fold]
            self._tell(candidate, TrialState.FAIL)
            self._go_on()

    def hopeless(self, candidate: Candidate, fold: int, reason: str) -> None:
        """A unit was ended as hopeless: its configuration, and what equals it, is out of the race."""
        self.returned(candidate, fold)
        for equal in (one for one in self._equals[candidate.configuration.digest] if one.state == "running"):
            why = f"fold {fold} is hopeless: {reason}"
            drop = Drop(equal.number, equal.number, nan, nan, nan, why, risked=False, after=len(self._done))
            self._drop(equal, drop)
        self._go_on()

    def hopeless_below(self, candidate: Candidate, fold: int) -> tuple[float, ...]:
        """See racing.hopeless_below; () once the configuration has a fold, for then the race itself knows more."""
        if candidate.fold_aucs:
            return ()
        return hopeless_below(list(self._curves[fold].values()), self._settings.search.racing.hopeless_after or 1)

    def _is_another_worth_it(self) -> bool:
        """There is room for a further configuration, and it may be expected to gain the setting's limit."""
        asked = self._settings.search
        room, limit = len(self.candidates) < asked.configurations, asked.min_expected_improvement
        return room and not (limit and expected_improvement(self._evidence(newcomers=0)) < limit)

    def _spent(self) -> str:
        """The budget that is used up, units in training included, or "" while there is some left."""
        asked = self._settings.search
        if asked.max_folds:
            under_way = np.count_nonzero(self._under_way & ~self._finished)
            if len(self._done) + under_way >= asked.max_folds:
                return f"search.max_folds={asked.max_folds} is used up"
        spent = asked.max_hours and self._used_hours >= asked.max_hours
        return f"search.max_hours={asked.max_hours} is used up" if spent else ""

    def _waiting(self) -> Array:
        """(C, K): folds of the candidates in the race that can be started."""
        rows = slice(len(self.candidates))
        waiting: Array = self._alive[rows, None] & ~self._finished[rows] & ~self._under_way[self._shared[rows]]
        return waiting

    def _go_on(self) -> None:
        if not self._settings.search.deterministic:
            self._judge()
        elif not self._wave:
            self._plan_waves()

    def _plan_waves(self) -> None:
        """Deterministic: a wave of units is chosen at once and judged when all are done, whenever each one ends.

        The ledger may be ahead, after a resumption: what a wave finds there counts as done, and nothing else does.
        """
        while not self._wave:
            self._under_way[:] = False  # the last wave's units of a configuration that failed
            self._judge()
            while len(self._wave) < self._folds and (unit := self._choose()):
                self._wave.append(unit)
            if not self._wave:
                return
            for candidate, fold in list(self._wave):
                if self._ledger.is_done(candidate.unit(fold)):
                    self._reveal(candidate, fold)

    def _reveal(self, candidate: Candidate, fold: int) -> None:
        self.returned(candidate, fold)
        auc = self._score(candidate.unit(fold))
        for equal in self._equals[candidate.configuration.digest]:
            self._note(equal, fold, auc)
            self._report(equal)
        self._wave = [unit for unit in self._wave if fold not in unit[0].fold_aucs or unit[1] != fold]

    def _note(self, candidate: Candidate, fold: int, auc: float) -> None:
        unit, row = candidate.unit(fold), candidate.number
        candidate.fold_aucs[fold] = self._aucs[row, fold] = auc
        self._finished[row, fold] = True
        if self._settings.search.max_hours and unit not in self._done:
            self._used_hours += self._hours(unit)
        self._done.add(unit)
        if isnan(auc):
            self._without_auc.add(fold)
        if self._inner_aucs:
            self._curves[fold][unit] = self._inner_aucs(unit)
        if not isnan(auc) and self._influence:
            influence = self._influence(unit)
            self._influences.setdefault(fold, np.zeros((len(self._aucs), len(influence))))[row] = influence

    def _choose(self) -> tuple[Candidate, int] | None:
        while True:
            verdict, columns, waiting = self._judge(), self._columns(), self._waiting()
            worth = self._worth(verdict)
            worth[: len(waiting)][~waiting.any(axis=1)] = -np.inf
            worth[[drop.row for drop in verdict.drops]] = -np.inf
            row = int(np.argmax(worth))
            if worth[row] == -np.inf:
                return None
            if row == len(self.candidates):
                self.candidates.append(self._ask())
                waiting = self._waiting()
            if waiting[row].any():  # else a new one that equals another
                break
        order = [columns[column] for column in verdict.folds]
        fold = next(fold for fold in dict.fromkeys(order + self._order) if waiting[row, fold])
        self._under_way[self._shared[row], fold] = True
        return self.candidates[row], fold

    def _worth(self, verdict: Verdict) -> Array:
        """Of the next fold in every row, beside those under way."""
        worth = verdict.worth(self._under_way[self._shared[: len(verdict.value)]].sum(axis=1))
        has_newcomer = len(worth) > len(self.candidates)
        if has_newcomer and self._settings.search.sampler in UNLEARNING_SAMPLERS and worth.max() > 0:
            worth[-1] = np.inf
        return worth

    def _judge(self) -> Verdict:
        """Drop what the race can do without, or if its folds are in training give it no others and wait for them."""
        verdict = self._verdict()
        for drop in verdict.drops:
            if not self._under_way[self._shared[drop.row]].any():
                self._drop(self.candidates[drop.row], drop._replace(after=len(self._done)))
        return verdict

    def _drop(self, candidate: Candidate, drop: Drop) -> None:
        candidate.dropped = drop
        self._alive[candidate.number], self._out[candidate.number] = False, not drop.risked
        storage, trial = self._study._storage, self._trial_ids[candidate.number]
        if not storage.get_trial(trial).state.is_finished():  # else an earlier start came to the same decision
            storage.set_trial_user_attr(trial, "dropped", list(drop))
            self._tell(candidate, TrialState.PRUNED)

    def _verdict(self) -> Verdict:
        racing, spent = self._settings.search.racing, self._spent()
        known = spent, len(self.candidates), self._finished.sum(), self._alive.sum()
        if known != self._known:  # else a decision rests on the same evidence as the last one
            self._may_ask = not spent and self._is_another_worth_it()
            strategy = STRATEGIES["none" if np.isnan(self._aucs).all() else racing.strategy]
            evidence = self._evidence(newcomers=int(self._may_ask))
            self._last_verdict = out_of_budget(evidence, spent) if spent else strategy(evidence, racing.alpha)
            self._known = known
        return self._last_verdict

    def _columns(self) -> list[int]:
        """Folds in the shared order, without those that turned out to hold one class."""
        return [fold for fold in self._order if fold not in self._without_auc]

    def _evidence(self, newcomers: int) -> Evidence:
        columns = self._columns()
        auc = self._aucs[: len(self.candidates) + newcomers, columns]
        none = np.zeros((len(auc), 0))
        influences = [self._influences.get(fold, none)[: len(auc)] for fold in columns]
        fold = np.repeat(np.arange(len(columns)), [one.shape[1] for one in influences])
        alive, out = self._alive[: len(auc)], self._out[: len(auc)]
        return Evidence(auc, np.hstack([none, *influences]), fold, alive, not newcomers, out)

    def _ask(self) -> Candidate:
        number = len(self.candidates)
        if number < len(self._recorded):  # deterministic, resumed
            return self._candidate(number, self._recorded[number])
        return self._candidate(number, propose(self._study, self._settings, number))

    def _candidate(self, number: int, trial: optuna.Trial | FrozenTrial) -> Candidate:
        values = self._settings.own_values() | trial.params  # where a condition is not fulfilled, the own value stands
        candidate = Candidate(number, values, self._settings.configuration(values), self._folds)
        equals = self._equals[candidate.configuration.digest]
        equals.append(candidate)
        self._trial_ids.append(trial._trial_id)
        self._shared[number] = equals[0].number
        if self._settings.search.deterministic:
            return candidate
        for fold in range(candidate.folds):
            if self._ledger.is_done(candidate.unit(fold)):
                self._note(candidate, fold, self._score(candidate.unit(fold)))
        self._report(candidate)
        if "dropped" in trial.user_attrs:
            self._drop(candidate, Drop(*trial.user_attrs["dropped"]))
        return candidate

    def _report(self, candidate: Candidate) -> None:
        """Tell Optuna the running mean, at step = folds done, and that a configuration is complete."""
        trial = self._study._storage.get_trial(self._trial_ids[candidate.number])
        if not trial.state.is_finished() and not isnan(candidate.mean_fold_auc):
            step, mean = len(candidate.fold_aucs), candidate.mean_fold_auc
            self._study._storage.set_trial_intermediate_value(trial._trial_id, step, mean)
        if candidate.is_complete:
            self._tell(candidate, TrialState.COMPLETE, candidate.mean_fold_auc)

    def _tell(self, candidate: Candidate, state: TrialState, value: float | None = None) -> None:
        number = self._study._storage.get_trial_number_from_id(self._trial_ids[candidate.number])
        self._study.tell(number, value, state, skip_if_finished=True)
