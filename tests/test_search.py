"""Every fold of every configuration is handed out once, what failed again; ledger and journal bring it all back."""

from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.journal import mend
from sweep.ledger import Ledger, Unit
from sweep.proposals import open_study
from sweep.search import Search

FOLDS, CONFIGURATIONS = 3, 4


def score(unit: Unit) -> float:
    """A configuration's quality, from its digest: any function will do."""
    return (int(unit.configuration[:4], 16) % 100 + unit.fold) / 200


def open_search(folder: Path, overrides: Sequence[str] = ()) -> Search:
    settings = load_settings([f"folds.count={FOLDS}", f"search.configurations={CONFIGURATIONS}", *overrides])
    study = open_study(folder / "optuna.journal", "test", settings.own_values())
    return Search(settings, study, Ledger(folder / "ledger", "split"), FOLDS, score)


def finish(search: Search, folder: Path, candidate: Candidate, fold: int) -> None:
    ledger = Ledger(folder / "ledger", "split")
    ledger.begin(candidate.unit(fold))
    ledger.finish(candidate.unit(fold))
    search.succeeded(candidate, fold)


def run_all(search: Search, folder: Path) -> list[tuple[int, int]]:
    order = []
    while unit := search.next_unit():
        finish(search, folder, *unit)
        order.append((unit[0].number, unit[1]))
    return order


def test_every_fold_of_every_configuration_once(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    order = run_all(search, tmp_path)
    assert sorted(order) == [(number, fold) for number in range(CONFIGURATIONS) for fold in range(FOLDS)]
    assert search.is_finished


def test_configuration_0_is_the_studys_own_setting(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_all(search, tmp_path)
    settings = load_settings([])
    assert dict(search.candidates[0].values) == settings.own_values()
    assert len({candidate.configuration.digest for candidate in search.candidates}) == CONFIGURATIONS


def test_proposals_stay_in_their_ranges_and_whole_numbers_stay_whole(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=12"])
    run_all(search, tmp_path)
    space = load_settings([]).search.space
    for candidate in search.candidates:
        assert all(space[name].holds(value) for name, value in candidate.values.items())
        assert isinstance(candidate.values["augmentation.benign_factor"], int)


def test_folds_of_several_configurations_are_in_flight_at_once(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    units = [search.next_unit() for _ in range(FOLDS + 2)]
    assert [unit[0].number for unit in units if unit] == [0, 0, 0, 1, 1]


def test_the_split_says_how_many_folds_there_are(tmp_path: Path) -> None:
    settings = load_settings(["folds=leave_one_site_out", "search.configurations=1"])
    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    search = Search(settings, study, Ledger(tmp_path / "ledger", "split"), 5, score)
    assert [fold for _, fold in run_all(search, tmp_path)] == [0, 1, 2, 3, 4]


def test_a_fold_without_an_auc_is_left_out_of_the_mean_that_optuna_hears(tmp_path: Path) -> None:
    settings = load_settings(["search.configurations=2"])
    study = open_study(tmp_path / "optuna.journal", "test", settings.own_values())
    aucs = {0: 0.75, 1: float("nan"), 2: 1.0}
    search = Search(settings, study, Ledger(tmp_path / "ledger", "split"), FOLDS, lambda unit: aucs[unit.fold])
    run_all(search, tmp_path)
    assert [candidate.mean_fold_auc for candidate in search.candidates] == [0.875, 0.875]
    assert [trial.value for trial in study.trials] == [0.875, 0.875]
    assert search.is_finished and search.best is search.candidates[0]


def test_a_search_with_fold_0_alone_left_is_not_finished(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=1"])
    first, *others = [search.next_unit() or pytest.fail("no unit") for _ in range(FOLDS)]
    for candidate, fold in others:
        finish(search, tmp_path, candidate, fold)
    search.failed(*first, "node lost")
    assert first[1] == 0 and not search.is_finished
    assert not open_search(tmp_path, ["search.configurations=1"]).is_finished


def test_nothing_more_is_handed_out_while_the_last_folds_run(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=1"])
    units = [search.next_unit() for _ in range(FOLDS)]
    assert search.next_unit() is None and not search.is_finished
    for unit in units:
        assert unit
        finish(search, tmp_path, *unit)
    assert search.is_finished


def test_the_best_is_the_complete_configuration_with_the_highest_mean(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    first, fold = search.next_unit() or pytest.fail("no unit")
    finish(search, tmp_path, first, fold)
    assert search.best is None
    run_all(search, tmp_path)
    means = {c.number: sum(score(c.unit(fold)) for fold in range(FOLDS)) / FOLDS for c in search.candidates}
    assert search.best and means[search.best.number] == max(means.values()) == search.best.mean_fold_auc


def test_a_failed_fold_is_tried_again_then_fails_its_configuration(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["resources.tries=2", "search.configurations=2"])
    candidate, fold = search.next_unit() or pytest.fail("no unit")
    search.failed(candidate, fold, "out of memory")
    again = search.next_unit()
    assert again == (candidate, fold)
    search.failed(candidate, fold, "out of memory")
    assert candidate.state == "failed" and candidate.failures == {fold: "out of memory"}
    rest = run_all(search, tmp_path)
    assert {number for number, _ in rest} == {1}
    assert search.is_finished and search.best is search.candidates[1]


def test_a_final_failure_is_not_tried_again(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=1"])
    candidate, fold = search.next_unit() or pytest.fail("no unit")
    search.failed(candidate, fold, "training diverged", final=True)
    assert search.next_unit() is None and search.is_finished and candidate.state == "failed"


@pytest.mark.parametrize("retried", [0, 1])
def test_other_folds_of_a_wave_are_trained_whenever_one_failed_for_good(tmp_path: Path, retried: int) -> None:
    search = open_search(tmp_path, ["search.configurations=1", "search.deterministic=true"])
    units = [search.next_unit() or pytest.fail("no unit") for _ in range(FOLDS)]
    if retried:
        search.failed(*units[1], "node lost")
    search.failed(*units[0], "training diverged", final=True)
    if not retried:
        search.failed(*units[1], "node lost")
    finish(search, tmp_path, *units[2])
    assert not search.is_finished and run_all(search, tmp_path) == [(0, units[1][1])]


def test_optuna_is_told_means_and_failures(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=2", "resources.tries=1"])
    candidate, fold = search.next_unit() or pytest.fail("no unit")
    search.failed(candidate, fold, "training diverged")
    run_all(search, tmp_path)
    trials = open_study(tmp_path / "optuna.journal", "test", {}).get_trials()
    assert [trial.state for trial in trials] == [TrialState.FAIL, TrialState.COMPLETE]
    assert trials[1].value == search.candidates[1].mean_fold_auc


def test_resuming_repeats_no_finished_fold_and_proposes_nothing_twice(tmp_path: Path) -> None:
    for name in ("undisturbed", "killed"):
        (tmp_path / name).mkdir()
    undisturbed = open_search(tmp_path / "undisturbed")
    run_all(undisturbed, tmp_path / "undisturbed")
    killed = open_search(tmp_path / "killed")
    done = []
    for _ in range(FOLDS + 2):
        candidate, fold = killed.next_unit() or pytest.fail("no unit")
        finish(killed, tmp_path / "killed", candidate, fold)
        done.append((candidate.number, fold))
    killed.next_unit()  # in training when the driver dies
    resumed = open_search(tmp_path / "killed")
    rest = run_all(resumed, tmp_path / "killed")
    assert not set(done) & set(rest)
    assert sorted(done + rest) == [(number, fold) for number in range(CONFIGURATIONS) for fold in range(FOLDS)]
    assert [dict(c.values) for c in resumed.candidates] == [dict(c.values) for c in undisturbed.candidates]


def test_a_finished_sweep_can_be_extended(tmp_path: Path) -> None:
    run_all(open_search(tmp_path), tmp_path)
    assert open_search(tmp_path).is_finished
    extended = open_search(tmp_path, ["search.configurations=5"])
    assert {number for number, _ in run_all(extended, tmp_path)} == {4}


def test_a_failed_configuration_is_retried_by_the_next_start(tmp_path: Path) -> None:
    search = open_search(tmp_path, ["search.configurations=1", "resources.tries=1"])
    candidate, fold = search.next_unit() or pytest.fail("no unit")
    search.failed(candidate, fold, "node lost")
    again = open_search(tmp_path, ["search.configurations=1"])
    assert len(run_all(again, tmp_path)) == FOLDS and again.candidates[0].state == "complete"


def test_what_failed_and_a_later_start_completes_is_complete_in_the_study(tmp_path: Path) -> None:
    two = ["search.configurations=2"]
    search = open_search(tmp_path, [*two, "resources.tries=1"])
    search.failed(*(search.next_unit() or pytest.fail("no unit")), "node lost")
    run_all(search, tmp_path)
    again = open_search(tmp_path, two)
    finish(again, tmp_path, *(again.next_unit() or pytest.fail("no unit")))
    mend(tmp_path / "optuna.journal")  # as after a kill
    run_all(open_search(tmp_path, two), tmp_path)
    more = open_search(tmp_path, ["search.configurations=3"])
    assert {number for number, _ in run_all(more, tmp_path)} == {2}
    trials = open_study(tmp_path / "optuna.journal", "test", {}).trials
    failed, second, first, third = trials
    assert failed.state == TrialState.FAIL and first.params == failed.params
    assert {trial.state for trial in (first, second, third)} == {TrialState.COMPLETE}
    assert [trial.value for trial in (first, second, third)] == [one.mean_fold_auc for one in more.candidates]
    values = [dict(one.values) for one in more.candidates]
    assert [dict(one.values) for one in open_search(tmp_path, ["search.configurations=3"]).candidates] == values


def test_equal_configurations_share_their_units(tmp_path: Path) -> None:
    few = ["search/space=none", "search.space.training.batch_size={choices: [16, 32]}", "search.configurations=6"]
    search = open_search(tmp_path, few)
    handed_out = []
    while unit := search.next_unit():
        handed_out.append(unit)
    assert len({candidate.unit(fold) for candidate, fold in handed_out}) == len(handed_out)
    for unit in handed_out:
        finish(search, tmp_path, *unit)
    assert search.next_unit() is None and search.is_finished
    assert len(search.candidates) == 6 and all(candidate.is_complete for candidate in search.candidates)


def test_the_journal_is_an_optuna_study_that_others_can_open(tmp_path: Path) -> None:
    search = open_search(tmp_path)
    run_all(search, tmp_path)
    backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "optuna.journal"))
    study = optuna.load_study(study_name="test", storage=optuna.storages.JournalStorage(backend))
    best = search.best
    assert best and study.best_trial.number == best.number and study.best_value == best.mean_fold_auc
