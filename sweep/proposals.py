"""Who proposes configurations: Optuna's study on a journal, its samplers by name, and its distributions."""

import warnings
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweep.settings import Range, Settings, SettingsError, Value, setting_type


def open_study(journal: Path, name: str, own_values: Mapping[str, Value]) -> optuna.Study:
    """The sweep's Optuna study on a journal file, which optuna-dashboard opens too.

    A new study has the study's own setting waiting as trial 0.
    """
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = JournalStorage(JournalFileBackend(str(journal)))
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize", load_if_exists=True)
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial(dict(own_values))
    return study


def trials_to_go_on_with(study: optuna.Study) -> list[FrozenTrial]:
    """The last trial of every configuration; of one that failed a new one, as Optuna changes none that has ended."""
    last: dict[int, FrozenTrial] = {}
    for trial in study.get_trials(deepcopy=False):
        if trial.state != TrialState.WAITING:
            last[trial.user_attrs.get("again", len(last))] = trial
    for number, trial in last.items():
        if trial.state == TrialState.FAIL:
            params, spans, own = trial.params, trial.distributions, {"again": number}
            again = create_trial(state=TrialState.RUNNING, params=params, distributions=spans, user_attrs=own)
            study.add_trial(again)
            last[number] = study.get_trials(deepcopy=False)[-1]
    return list(last.values())


def chosen_study(settings: Settings, chosen: Sequence[Mapping[str, Value]]) -> optuna.Study:
    """A study in memory whose trials are the chosen values, and wait for their folds."""
    study = optuna.create_study(direction="maximize")
    space = {name: distribution(name, span) for name, span in settings.search.space.items()}
    for values in chosen:
        study.add_trial(create_trial(state=TrialState.RUNNING, params=dict(values), distributions=space))
    return study


def propose(study: optuna.Study, settings: Settings, number: int) -> optuna.Trial:
    """The next trial; a setting under a condition is part of it where the others' values fulfil that."""
    spans = settings.search.space
    space = {name: distribution(name, span) for name, span in spans.items()}
    # For the proposal alone: a grid's sampler would end the study when it hears of its last point.
    told, study.sampler = study.sampler, sampler(settings, number)
    trial = study.ask({name: one for name, one in space.items() if not spans[name].when})
    for name in space:
        if spans[name].when and spans[name].applies(trial.params):
            trial._suggest(name, space[name])  # what `ask` itself calls
    study.sampler = told
    trial.set_user_attr("proposed", True)  # a kill before this leaves half a proposal, see journal.mend
    return trial


def sampler(settings: Settings, number: int) -> optuna.samplers.BaseSampler:
    """Rebuilt for every proposal from (sweep seed, its number), so that a resumed sweep does not repeat itself.

    Raises:
        SettingsError: Optuna has no such sampler, or it cannot be built for this space.
    """
    name, seed = settings.search.sampler, settings.seed + number
    known = sorted(sampler for sampler in optuna.samplers.__all__ if sampler.endswith("Sampler"))
    if name not in known:
        raise SettingsError(f"search.sampler={name}: Optuna has no such class; write one of {', '.join(known)}")
    kind = getattr(optuna.samplers, name)
    options: dict[str, object] = {"seed": seed} if "seed" in signature(kind).parameters else {}
    if name == "TPESampler":
        options |= {"multivariate": True, "group": True, "constant_liar": True}
    if name == "GridSampler":  # numbers its points in an order that its seed gives
        options["seed"] = settings.seed
        options["search_space"] = {name: grid(name, span) for name, span in settings.search.space.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        try:
            return kind(**options)  # type: ignore[no-any-return]
        except (TypeError, ImportError) as error:
            raise SettingsError(f"search.sampler={name}: {str(error).splitlines()[0]}; write TPESampler") from error


def grid(name: str, span: Range) -> list[Value]:
    """A range's values for a grid: its choices, or the steps from low to high."""
    if span.choices is not None:
        return list(span.choices)
    if span.low is None or span.high is None or span.step is None:
        raise SettingsError(f"search.space.{name}: a grid needs choices, or low, high and step")
    count = int((span.high - span.low) / span.step + 1e-9) + 1
    values = [span.low + span.step * index for index in range(count)]
    return [int(value) for value in values] if setting_type(name) is int else list(values)


def distribution(name: str, span: Range) -> BaseDistribution:
    """Optuna's distribution for a setting's range; whole numbers for a setting that takes only those."""
    if span.choices is not None:
        return CategoricalDistribution(span.choices)
    assert span.low is not None and span.high is not None  # Range sees to it
    if setting_type(name) is int:
        return IntDistribution(int(span.low), int(span.high), log=span.log, step=int(span.step or 1))
    return FloatDistribution(span.low, span.high, log=span.log, step=span.step)
