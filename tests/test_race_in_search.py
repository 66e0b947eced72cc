"""The race inside a sweep: who is dropped, what Optuna is told of it, and that a killed sweep decides alike."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from optuna.trial import TrialState

from benchmarks.search_cost import replay, simulate
from sweep.compose import load_settings
from sweep.ledger import Ledger, Unit
from sweep.proposals import open_study
from sweep.race_model import Array
from sweep.racing import Evidence, expected_improvement
from sweep.search import Search
from sweep.settings import SettingsError
from tests.test_search import finish

FOLDS, CONFIGURATIONS = 6, 8
RACING = [
    "search.racing.strategy=posterior",
    "search.racing.alpha=0.05",
    f"folds.count={FOLDS}",
    f"search.configurations={CONFIGURATIONS}",
]
Event = tuple[int, int]


def score(unit: Unit) -> float:
    """Qualities far apart, folds of different difficulty, and some chance; a function of the unit alone."""
    chance = np.random.default_rng([int(unit.configuration, 16), unit.fold]).normal(0, 0.01)
    return float(0.55 + int(unit.configuration[:2], 16) / 256 * 0.4 + 0.01 * unit.fold + chance)


def open_race(folder: Path, overrides: Sequence[str] = ()) -> Search:
    folder.mkdir(exist_ok=True)
    settings = load_settings([*RACING, *overrides])
    study = open_study(folder / "optuna.journal", "test", settings.own_values())
    return Search(settings, study, Ledger(folder / "ledger", "split"), FOLDS, score)


def run(search: Search, folder: Path, workers: int = 1, seed: int = 0, stop_after: int = 10**6) -> list[Event]:
    """Work through the search with several units in flight, which end in an order drawn from `seed`."""
    random, flying, done = np.random.default_rng(seed), [], []
    while len(done) < stop_after:
        while len(flying) < workers and (unit := search.next_unit()):
            flying.append(unit)
        if not flying:
            break
        candidate, fold = flying.pop(int(random.integers(len(flying))))
        finish(search, folder, candidate, fold)
        done.append((candidate.number, fold))
    return done


def fate(search: Search) -> list[tuple[str, str, list[int], dict[str, object]]]:
    return [(c.state, c.why_dropped, sorted(c.fold_aucs), dict(c.values)) for c in search.candidates]


@pytest.mark.parametrize("strategy", ["posterior", "lossless", "wilcoxon", "forgiving", "halving"])
def test_a_race_trains_less_and_ends_with_the_full_comparisons_winner(tmp_path: Path, strategy: str) -> None:
    search = open_race(tmp_path, [f"search.racing.strategy={strategy}", "search.sampler=RandomSampler"])
    events = run(search, tmp_path)
    assert search.is_finished and len(events) == len(set(events)) < FOLDS * CONFIGURATIONS
    means = {c.number: np.mean([score(c.unit(fold)) for fold in range(FOLDS)]) for c in search.candidates}
    assert search.best and search.best.is_complete and search.best.number == max(means, key=lambda n: means[n])
    assert {c.state for c in search.candidates} == {"complete", "pruned"}


@pytest.mark.parametrize(
    ("strategy", "sampler"),
    [("posterior", "TPESampler"), ("posterior wide", "RandomSampler"), ("lossless", "TPESampler")],
)
def test_the_benchmarks_replay_costs_and_finds_what_the_search_does(
    tmp_path: Path, strategy: str, sampler: str
) -> None:
    source, random = simulate(1, CONFIGURATIONS, folds=FOLDS), np.random.default_rng(0)
    rows, columns = random.permutation(CONFIGURATIONS), random.permutation(FOLDS)  # as the replay shuffles them
    own = [f"search.racing.strategy={strategy.removesuffix(' wide')}", f"search.sampler={sampler}"]
    settings = load_settings([*RACING, *own])

    def place(unit: Unit) -> tuple[int, int]:
        number = next(one.number for one in search.candidates if one.unit(unit.fold) == unit)
        return rows[number], columns[search._order.index(unit.fold)]

    def influence(unit: Unit) -> Array:
        row, column = place(unit)
        return source.influence[row, source.fold == column]

    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    ledger = Ledger(tmp_path / "ledger", "split")
    search = Search(settings, study, ledger, FOLDS, lambda unit: float(source.auc[place(unit)]), influence)
    cost = len(run(search, tmp_path)) / source.auc.size
    means = source.auc.mean(axis=1)
    assert search.is_finished and search.best and cost < 1
    found = cost, means.max() - means[rows[search.best.number]]
    assert found == pytest.approx(replay(source, strategy, 0.05, seed=0))


def test_optuna_is_told_the_truth_about_the_race(tmp_path: Path) -> None:
    search = open_race(tmp_path)
    run(search, tmp_path)
    states = {"complete": TrialState.COMPLETE, "pruned": TrialState.PRUNED}
    trials = open_study(tmp_path / "optuna.journal", "test", {}).get_trials()
    for candidate, trial in zip(search.candidates, trials, strict=True):
        assert trial.state == states[candidate.state]
        assert max(trial.intermediate_values) == len(candidate.fold_aucs)
        assert trial.intermediate_values[len(candidate.fold_aucs)] == trial.value == candidate.mean_fold_auc
    assert any(candidate.state == "pruned" for candidate in search.candidates)


def test_why_a_configuration_was_dropped_outlives_the_process(tmp_path: Path) -> None:
    search = open_race(tmp_path)
    run(search, tmp_path)
    reasons = [c.why_dropped for c in search.candidates]
    assert [c.why_dropped for c in open_race(tmp_path).candidates] == reasons
    assert open_race(tmp_path).is_finished
    assert any("against configuration" in reason and "chance to win" in reason for reason in reasons)


def test_a_deterministic_sweep_is_a_function_of_its_seed(tmp_path: Path) -> None:
    fates = []
    for workers, seed in ((1, 0), (3, 1), (8, 2)):
        search = open_race(tmp_path / str(workers), ["search.deterministic=true"])
        run(search, tmp_path / str(workers), workers, seed)
        assert search.is_finished
        fates.append(fate(search))
    assert fates[0] == fates[1] == fates[2] and any(state == "pruned" for state, *_ in fates[0])


def test_a_deterministic_sweep_is_one_with_failures_too(tmp_path: Path) -> None:
    fates = []
    for workers in (1, 8):
        folder, flying = tmp_path / str(workers), []
        search = open_race(folder, ["search.deterministic=true", "resources.tries=1"])
        fails = search._order[3]
        while not search.is_finished:
            while len(flying) < workers and (unit := search.next_unit()):
                flying.append(unit)
            candidate, fold = flying.pop()
            if (candidate.number, fold) == (0, fails):
                search.failed(candidate, fold, "training diverged")
            else:
                finish(search, folder, candidate, fold)
        fates.append(fate(search))
    assert fates[0] == fates[1] and any(state == "failed" for state, *_ in fates[0])


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_killed_at_any_event_it_comes_to_the_same_decisions(tmp_path: Path, deterministic: str) -> None:
    overrides = [f"search.deterministic={deterministic}"]
    whole = open_race(tmp_path / "whole", overrides)
    events = run(whole, tmp_path / "whole")
    for killed_after in (*range(1, len(events), 9), len(events)):
        folder = tmp_path / str(killed_after)
        before = run(open_race(folder, overrides), folder, stop_after=killed_after)
        resumed = open_race(folder, overrides)
        after = run(resumed, folder)
        assert len(before + after) == len(set(before + after)) == len(events), "a fold was trained twice, or left out"
        assert fate(resumed) == fate(whole)


def test_a_kill_between_the_reason_and_the_telling_is_made_up_for(tmp_path: Path) -> None:
    whole = open_race(tmp_path)
    run(whole, tmp_path)
    journal, states = tmp_path / "optuna.journal", [trial.state for trial in whole._study.trials]
    *kept, _told = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(kept))
    assert open_study(journal, "test", {}).trials[-1].state == TrialState.RUNNING
    assert [trial.state for trial in open_race(tmp_path)._study.trials] == states


@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_what_failed_races_on_with_the_next_start_wherever_that_is_killed(tmp_path: Path, deterministic: str) -> None:
    overrides, fates = [f"search.deterministic={deterministic}"], []
    for killed_after in (10**6, 1, 5, 14):
        folder = tmp_path / str(killed_after)
        first = open_race(folder, [*overrides, "resources.tries=1"])
        run(first, folder, stop_after=FOLDS)
        candidate, fold = first.next_unit() or pytest.fail("no unit")
        first.failed(candidate, fold, "node lost")
        run(open_race(folder, overrides), folder, stop_after=killed_after)
        last = open_race(folder, overrides)
        run(last, folder)
        failed, *others = open_study(folder / "optuna.journal", "test", {}).trials[candidate.number :]
        again = next(trial for trial in others if trial.params == failed.params)
        assert (failed.state, again.state) == (TrialState.FAIL, TrialState.PRUNED) and candidate.number
        fates.append((fate(last), [(trial.number, trial.state, trial.params) for trial in last._study.trials]))
    assert all(each == fates[0] for each in fates)


@pytest.mark.parametrize("strategy", ["none", "posterior"])
@pytest.mark.parametrize("deterministic", ["true", "false"])
def test_a_budget_of_folds_ends_the_sweep_with_one_complete_configuration(
    tmp_path: Path, strategy: str, deterministic: str
) -> None:
    own = [f"search.racing.strategy={strategy}", f"search.deterministic={deterministic}"]
    for workers in (1, 4):
        search = open_race(tmp_path / str(workers), [*own, "search.max_folds=9", "search.sampler=RandomSampler"])
        events = run(search, tmp_path / str(workers), workers)
        assert search.is_finished and search.best and 9 <= len(events) <= 9 + FOLDS
        reasons = [c.why_dropped for c in search.candidates if c.state == "pruned"]
        assert any("search.max_folds=9 is used up" in reason for reason in reasons)
        assert {c.state for c in search.candidates} == {"complete", "pruned"}


def test_a_budget_of_hours_ends_the_sweep(tmp_path: Path) -> None:
    settings = load_settings([*RACING, "search.racing.strategy=none", "search.max_hours=1"])
    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    search = Search(settings, study, Ledger(tmp_path / "ledger", "split"), FOLDS, score, hours=lambda _: 0.125)
    assert len(run(search, tmp_path)) == 8 and search.is_finished
    assert [candidate.state for candidate in search.candidates] == ["complete", "pruned"]
    with pytest.raises(SettingsError, match=r"^search\.max_hours: the clock is no function of the seed"):
        load_settings(["search.max_hours=1", "search.deterministic=true"])


def test_a_small_expected_improvement_begins_no_further_configuration(tmp_path: Path) -> None:
    counts = {}
    for limit in ("null", "0.02", "0.0001"):
        many = ["search.configurations=40", f"search.min_expected_improvement={limit}", "search.sampler=RandomSampler"]
        search = open_race(tmp_path / limit, [*many, "search.racing.strategy=none"])
        run(search, tmp_path / limit)
        assert search.is_finished and all(candidate.is_complete for candidate in search.candidates)
        counts[limit] = len(search.candidates)
    assert counts["null"] == 40 and 10 <= counts["0.02"] < counts["0.0001"] <= 40


def test_a_decision_predicts_the_improvement_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted = []

    def counted(evidence: Evidence) -> float:
        predicted.append((len(evidence.auc), evidence.done.sum(), evidence.alive.sum()))
        return expected_improvement(evidence)

    monkeypatch.setattr("sweep.search.expected_improvement", counted)
    search = open_race(tmp_path, ["search.min_expected_improvement=0.0001", "search.sampler=RandomSampler"])
    while not search.is_finished:
        run(search, tmp_path, stop_after=1)
    assert len(predicted) == len(set(predicted)) > FOLDS


HOPELESS = ["search.racing.hopeless_after=2", "search.configurations=14", "search.sampler=RandomSampler"]


def open_with_curves(folder: Path) -> Search:
    folder.mkdir(exist_ok=True)
    settings = load_settings([*RACING, *HOPELESS])
    study = open_study(folder / "optuna.journal", "test", settings.own_values())
    ledger = Ledger(folder / "ledger", "split")
    return Search(settings, study, ledger, FOLDS, score, inner_aucs=lambda _: np.array([0.5, 0.7, 0.8]))


def test_a_hopeless_first_fold_drops_its_configuration_for_good(tmp_path: Path) -> None:
    search = open_with_curves(tmp_path)
    for _ in range(10):
        unit = search.next_unit()
        assert unit
        assert search.hopeless_below(*unit) == (), "too few have finished it"
        finish(search, tmp_path, *unit)
    unit = search.next_unit()
    assert unit
    candidate, fold = unit
    assert candidate.number == 10
    assert search.hopeless_below(candidate, fold) == pytest.approx((-np.inf, 0.7, 0.8))
    assert search.hopeless_below(search.candidates[0], fold) == (), "the race knows more of what has a fold"
    search.hopeless(candidate, fold, "inner AUC 0.51")
    why = f"fold {fold} is hopeless: inner AUC 0.51 (after 10 folds of the sweep)"
    assert (candidate.state, candidate.why_dropped) == ("pruned", why)
    search.hopeless(candidate, fold + 1, "another fold of it was in training, too")
    again = open_with_curves(tmp_path)
    assert fate(again)[10] == ("pruned", why, [], dict(candidate.values))
    rest = run(again, tmp_path)
    assert again.is_finished and 10 not in {number for number, _ in rest}
    assert again.best and again.best.number != 10


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.racing.strategy=none", r"ends folds of a race; write search\.racing\.strategy=posterior"),
        ("training.early_stopping=none", r"write training\.early_stopping=inner"),
        ("search.deterministic=true", r"write deterministic=false"),
    ],
)
def test_what_hopeless_folds_need(override: str, message: str) -> None:
    with pytest.raises(SettingsError, match=r"^search\.racing\.hopeless_after=2: .*" + message):
        load_settings([*RACING, "search.racing.hopeless_after=2", override])


CONDITIONAL = [
    "search/space=none",
    "search.space.model.optimizer={choices: [adam, adamw]}",
    "search.space.model.l2_weight={low: 1e-6, high: 1e-2, log: true, when: {model.optimizer: [adamw]}}",
]


@pytest.mark.parametrize("name", ["TPESampler", "RandomSampler"])
def test_a_setting_under_a_condition_is_searched_only_where_it_holds(tmp_path: Path, name: str) -> None:
    overrides = [*CONDITIONAL, f"search.sampler={name}", "search.racing.strategy=none"]
    search = open_race(tmp_path, overrides)
    run(search, tmp_path)
    own = load_settings([]).model.l2_weight
    trials = open_study(tmp_path / "optuna.journal", "test", {}).get_trials()
    for candidate, trial in list(zip(search.candidates, trials, strict=True))[1:]:
        searched = candidate.values["model.optimizer"] == "adamw"
        assert ("model.l2_weight" in trial.params) == searched == (candidate.values["model.l2_weight"] != own)
        assert candidate.configuration.model.l2_weight == candidate.values["model.l2_weight"]
    assert {c.values["model.optimizer"] for c in search.candidates} == {"adam", "adamw"}
    assert fate(open_race(tmp_path, overrides)) == fate(search)


@pytest.mark.parametrize(
    ("when", "message"),
    [
        ("model.optimizer: [sgd]", r"model\.optimizer is never \['sgd'\]; write choices .*\['adam', 'adamw'\]"),
        ("model.optimizer: []", r"model\.optimizer is never \[\]"),
        ("model.stem: [3x3]", r"model\.stem is never \['3x3'\]"),
        ("model.l2_weight: [1]", r"model\.l2_weight is never \[1\]"),
    ],
)
def test_a_condition_that_never_holds_is_refused(when: str, message: str) -> None:
    condition = f"search.space.model.l2_weight={{low: 1e-6, high: 1e-2, when: {{{when}}}}}"
    with pytest.raises(SettingsError, match=r"^search\.space\.model\.l2_weight\.when: " + message):
        load_settings([*CONDITIONAL[:2], condition])


def test_a_grid_knows_no_conditions() -> None:
    with pytest.raises(SettingsError, match="a grid knows no conditions"):
        load_settings([*CONDITIONAL, "search.sampler=GridSampler"])


def test_many_workers_find_work_and_finish(tmp_path: Path) -> None:
    search = open_race(tmp_path)
    handed_out = [search.next_unit() for _ in range(12)]
    assert all(handed_out) and len({c.unit(fold) for c, fold in filter(None, handed_out)}) == 12


def test_dropped_with_a_fold_in_training_is_decided_when_it_ends(tmp_path: Path) -> None:
    search = open_race(tmp_path)
    run(search, tmp_path, workers=5, seed=3)
    for candidate in search.candidates:
        assert not candidate.running and candidate.state in ("complete", "pruned")


def test_what_cannot_win_gets_no_other_fold_while_one_of_its_own_is_in_training(tmp_path: Path) -> None:
    settings = load_settings([*RACING, "search.racing.strategy=lossless", "search.configurations=2"])
    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    own = settings.configuration(settings.own_values()).digest
    ledger = Ledger(tmp_path / "ledger", "split")
    search = Search(settings, study, ledger, FOLDS, lambda unit: 0.9 if unit.configuration == own else 0.1)
    run(search, tmp_path, stop_after=FOLDS)
    first, second = search.next_unit(), search.next_unit()
    assert first and second and first[0] is second[0] is search.candidates[1]
    finish(search, tmp_path, *first)
    assert search.next_unit() is None and not search.is_finished
    finish(search, tmp_path, *second)
    assert search.is_finished and [c.state for c in search.candidates] == ["complete", "pruned"]


@pytest.mark.parametrize("name", ["RandomSampler", "QMCSampler", "NSGAIISampler"])
def test_any_sampler_of_optuna_by_its_name(tmp_path: Path, name: str) -> None:
    search = open_race(tmp_path, [f"search.sampler={name}"])
    run(search, tmp_path)
    assert search.is_finished and len({c.configuration.digest for c in search.candidates}) == CONFIGURATIONS


def test_a_grid_visits_every_point(tmp_path: Path) -> None:
    space = ["search/space=none", "search.space.training.batch_size={low: 16, high: 32, step: 8}"]
    overrides = [*space, "search.sampler=GridSampler", "search.configurations=4", "search.racing.strategy=none"]
    search = open_race(tmp_path, overrides)
    run(search, tmp_path)
    assert {c.values["training.batch_size"] for c in search.candidates[1:]} == {16, 24, 32}


def test_an_unknown_sampler_is_refused_with_those_there_are(tmp_path: Path) -> None:
    search = open_race(tmp_path, ["search.sampler=TPE"])
    with pytest.raises(SettingsError, match=r"^search\.sampler=TPE: .*write one of .*TPESampler"):
        search.next_unit()


@pytest.mark.parametrize("strategy", ["posterior", "paired", "halving"])
def test_folds_that_end_first_may_hold_one_class(tmp_path: Path, strategy: str) -> None:
    """As sites may, with folds=leave_one_site_out."""
    search = open_race(tmp_path, [f"search.racing.strategy={strategy}"])
    first: list[int] = []

    def without_an_auc(unit: Unit) -> float:
        first.append(unit.fold)
        return float("nan") if unit.fold == first[0] else score(unit)

    search._score = without_an_auc
    run(search, tmp_path)
    assert search.is_finished and search.best


def test_only_what_the_race_dropped_might_have_won(tmp_path: Path) -> None:
    """And after a resumption, too; what failed gets its folds then."""
    budget = ["search.sampler=RandomSampler", "search.max_folds=12", "resources.tries=1"]
    race, cut = open_race(tmp_path / "race"), open_race(tmp_path / "cut", budget)
    run(race, tmp_path / "race")
    run(cut, tmp_path / "cut", stop_after=1)
    begun = {unit[0].number: unit for unit in iter(cut.next_unit, None)}
    cut.failed(*begun.pop(1), "training diverged")
    cut.hopeless(*begun.pop(2), "below all others")
    for unit in begun.values():
        cut.returned(*unit)
    run(cut, tmp_path / "cut")

    def out(search: Search) -> list[int]:
        return list(np.flatnonzero(search._evidence(newcomers=0).out))

    assert any(one.dropped for one in race.candidates) and not out(race)
    by_budget = [one.number for one in cut.candidates if one.dropped and "max_folds" in one.dropped.why]
    assert by_budget and out(cut) == sorted([1, 2, *by_budget])
    assert out(open_race(tmp_path / "cut", budget)) == sorted([2, *by_budget])
