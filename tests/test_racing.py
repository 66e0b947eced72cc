"""Every racing strategy keeps the same contract; each then its own promise."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import optuna
import pytest
from optuna.pruners import WilcoxonPruner

from benchmarks.search_cost import Table, replay, simulate
from sweep.patient_metrics import Array, auc, delong_variance, placements
from sweep.race_model import chance_above, predicted_means, without_known_luck
from sweep.racing import (
    STRATEGIES,
    Evidence,
    Verdict,
    expected_improvement,
    fold_influence,
    hopeless_below,
)
from sweep.settings import Racing

NAMES = sorted(STRATEGIES)


@pytest.fixture(scope="module")
def source() -> Table:
    return simulate(3, configurations=24)


def evidence_of(source: Table, done: Array, *, last: bool = True) -> Evidence:
    influence = source.influence * done[:, source.fold]
    alive = np.ones(len(done), bool)
    return Evidence(np.where(done, source.auc, np.nan), influence, source.fold, alive, last)


def partly_done(source: Table, seed: int) -> Array:
    """The first configuration complete, the others the first one to nine folds."""
    folds = np.random.default_rng(seed).integers(1, 10, len(source.auc))
    folds[0] = source.auc.shape[1]
    return np.arange(source.auc.shape[1]) < folds[:, None]


def test_the_settings_name_every_strategy() -> None:
    assert set(Racing.model_json_schema()["properties"]["strategy"]["enum"]) == set(STRATEGIES)


@pytest.mark.parametrize("name", NAMES)
def test_a_race_ends_with_a_complete_configuration_and_costs_no_more_than_everything(source: Table, name: str) -> None:
    for seed in range(3):
        cost, regret = replay(source, name, 0.05, seed)
        assert 1 / 24 <= cost <= 1 and regret >= 0


@pytest.mark.parametrize("name", NAMES)
def test_only_unfinished_configurations_are_dropped_and_never_the_leader(source: Table, name: str) -> None:
    for seed in range(5):
        done = partly_done(source, seed)
        evidence = evidence_of(source, done)
        verdict = STRATEGIES[name](evidence, 0.05)
        for drop in verdict.drops:
            assert not done[drop.row].all() and drop.row != drop.against
            assert drop.low <= drop.difference <= drop.high and drop.why
        assert sorted(verdict.folds) == list(range(10)) and verdict.value.shape == (24,)


@pytest.mark.parametrize("name", NAMES)
def test_equal_evidence_gives_an_equal_verdict_and_is_left_untouched(source: Table, name: str) -> None:
    evidence = evidence_of(source, partly_done(source, 1))
    before = evidence.auc.copy()
    first, second = (STRATEGIES[name](evidence, 0.05) for _ in range(2))
    assert first.drops == second.drops and np.array_equal(first.value, second.value)
    assert np.array_equal(evidence.auc, before, equal_nan=True)


@pytest.mark.parametrize("name", sorted(set(NAMES) - {"none", "halving"}))
def test_a_hopeless_configuration_is_dropped_by_its_ninth_fold(name: str) -> None:
    random = np.random.default_rng(0)
    auc_of = np.vstack([random.uniform(0.9, 0.95, (6, 10)), random.uniform(0.1, 0.2, (1, 10))])
    done = np.ones((7, 10), bool)
    done[6, 9] = False
    influence = np.tile(random.normal(0, 0.01, (1, 10)), (7, 1))
    verdict = STRATEGIES[name](Evidence(np.where(done, auc_of, np.nan), influence, np.arange(10), done[:, 0]), 0.05)
    assert [drop.row for drop in verdict.drops] == [6]


def test_none_costs_everything_and_lossless_loses_nothing(source: Table) -> None:
    assert replay(source, "none", 0.05, 1) == (1.0, 0.0)
    for seed in range(5):
        cost, regret = replay(source, "lossless", 0.05, seed)
        assert regret == 0 and cost < 1


def test_taking_off_known_luck_leaves_means_over_all_folds_as_they_are(source: Table) -> None:
    everything, _ = without_known_luck(source.auc, source.influence, source.fold)
    assert np.allclose(everything.mean(axis=1), source.auc.mean(axis=1), atol=1e-12)
    done = partly_done(source, 6)
    done[1:5] = True  # five complete ones, whose luck is known on the folds that the others lack, too
    evidence = evidence_of(source, done)
    left, variance = without_known_luck(evidence.auc, evidence.influence, evidence.fold)
    assert np.array_equal(np.isnan(left), ~done) and (variance > 0).all()


def test_the_luck_of_one_that_ranks_patients_as_a_complete_one_does_is_known(source: Table) -> None:
    """It is 0.1 worse on every fold: what is left says so after two folds, as far as ridge regression goes."""
    done = np.repeat([[True] * 10, [True] * 2 + [False] * 8], [23, 1], axis=0)
    auc_of, influence = source.auc.copy(), source.influence.copy()
    auc_of[23], influence[23] = auc_of[0] - 0.1, influence[0]
    left, variance = without_known_luck(np.where(done, auc_of, np.nan), influence * done[:, source.fold], source.fold)
    truth = auc_of[0].mean() - 0.1
    assert abs(left[23, :2] - truth).max() < 0.6 * abs(auc_of[23, :2] - truth).max()
    assert variance[23] < 0.5 * (influence[0, source.fold < 2] ** 2).sum() / 2


def test_where_nothing_is_complete_no_luck_is_known(source: Table) -> None:
    done = partly_done(source, 7)
    done[0, 9] = False
    evidence = evidence_of(source, done)
    left, variance = without_known_luck(evidence.auc, evidence.influence, evidence.fold)
    assert np.array_equal(left, evidence.auc, equal_nan=True)
    squares = (evidence.influence**2).sum(axis=1)
    assert variance == pytest.approx(squares / done.sum(axis=1))


def test_squared_influences_sum_to_delongs_variance() -> None:
    random = np.random.default_rng(2)
    label, score = np.repeat([0, 1], [30, 12]), random.normal(size=42)
    influence = np.concatenate(fold_influence(*placements(label, score)))
    assert np.sum(influence**2) == pytest.approx(delong_variance(label, score), rel=1e-12)


def test_the_paired_difference_has_no_error_left_once_all_folds_are_done(source: Table) -> None:
    """SE² = s²/m · (1 - m/K), against the formula written out for one pair."""
    done = partly_done(source, 4)
    drops = {drop.row: drop for drop in STRATEGIES["paired"](evidence_of(source, done), 0.4999).drops}
    assert drops
    for row, drop in drops.items():
        m = done[row].sum()
        differ = (source.influence[row] - source.influence[0])[source.fold < m]
        error = np.sqrt((differ**2).sum() / m / m * (1 - m / 10))
        assert drop.high - drop.low == pytest.approx(2 * 1.959964 * error, rel=1e-6)


def test_wilcoxon_decides_as_optunas_pruner(source: Table) -> None:
    done = partly_done(source, 5)
    dropped = {drop.row for drop in STRATEGIES["wilcoxon"](evidence_of(source, done), 0.1).drops}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize", pruner=WilcoxonPruner(p_threshold=0.1, n_startup_steps=2))
    expected = set()
    for row in range(len(done)):
        trial = study.ask()
        for step in np.flatnonzero(done[row]):
            trial.report(source.auc[row, step], int(step))
        if row == 0:
            study.tell(trial, float(source.auc[row].mean()))
        elif trial.should_prune():
            expected.add(row)
    assert dropped == expected and dropped


def test_halving_spends_42_percent_of_ten_folds() -> None:
    assert replay(simulate(1, configurations=50), "halving", 0.05, 1)[0] == pytest.approx(0.42)


def test_halving_drops_nothing_that_is_complete(source: Table) -> None:
    """One may be far ahead of the others where some folds take much longer."""
    done = np.zeros(source.auc.shape, bool)
    done[:, :2] = True
    worst = int(np.argmin(source.auc[:, :2].mean(axis=1)))
    done[worst] = True
    dropped = {drop.row for drop in STRATEGIES["halving"](evidence_of(source, done), 0.05).drops}
    assert dropped and worst not in dropped


def test_predicted_means_are_the_means_once_all_is_done(source: Table) -> None:
    mean, factor, own = predicted_means(source.auc)
    assert mean == pytest.approx(source.auc.mean(axis=1)) and not own.any() and not factor.any()


def test_predictions_hold_what_they_promise() -> None:
    """95 % intervals of means of ten folds, predicted from one to nine, on the model's own tables."""
    random, inside = np.random.default_rng(7), []
    for _ in range(60):
        auc_of = 0.8 + random.normal(0, 0.04, (40, 1)) + random.normal(0, 0.05, 10) + random.normal(0, 0.03, (40, 10))
        done = np.arange(10) < random.integers(1, 10, (40, 1))
        done[0] = True
        mean, factor, own = predicted_means(np.where(done, auc_of, np.nan))
        error = np.sqrt(own + (factor**2).sum(axis=1))[1:]
        inside.append(np.abs(mean - auc_of.mean(axis=1))[1:] < 1.96 * error)
    assert 0.93 < np.mean(inside) < 0.98


def test_shrinkage_orders_equals_by_their_folds() -> None:
    """Equally good folds so far: who has more of them is believed more."""
    auc_of = np.random.default_rng(1).normal(0.8, 0.03, (30, 10))
    auc_of[0], auc_of[1:4] = 0.8, 0.95
    done = np.arange(10) < 1
    done = np.tile(done, (30, 1))
    done[0] = True
    for row, folds in enumerate((1, 4, 8), start=1):
        done[row, :folds] = True
    mean, _, _ = predicted_means(np.where(done, auc_of, np.nan))
    assert all(less < more for less, more in pairwise(mean[1:4]))


def test_the_tables_of_the_benchmark_hold_aucs(source: Table) -> None:
    assert np.all((source.auc >= 0) & (source.auc <= 1))
    assert auc(np.array([0, 1]), np.array([0.0, 1.0])) == 1


def test_the_chance_to_end_above_is_that_of_simulated_folds() -> None:
    """Folds left with a mean that is beta distributed, by drawing them."""
    random = np.random.default_rng(11)
    auc_of = np.array([[0.9, 0.8, np.nan, np.nan], [0.95, np.nan, np.nan, np.nan], [0.9, 0.9, 0.9, 0.9]])
    mean, error = np.array([0.87, 0.9, 0.9]), np.array([0.02, 0.05, 0.0])
    found = chance_above(0.9, auc_of, mean, error)
    for row, left in ((0, 2), (1, 3)):
        expected = (4 * mean[row] - np.nansum(auc_of[row])) / left
        size = expected * (1 - expected) / (4 * error[row] / left) ** 2 - 1
        drawn = random.beta(expected * size, (1 - expected) * size, 200_000)
        assert found[row] == pytest.approx(np.mean(np.nansum(auc_of[row]) + left * drawn > 3.6), abs=0.005)
    assert found[2] == 0


def test_what_only_more_than_auc_1_would_reach_has_no_chance() -> None:
    auc_of = np.array([[0.5, 0.5, np.nan, np.nan]])
    assert chance_above(0.76, auc_of, np.array([0.7]), np.array([0.1])) == 0
    assert chance_above(0.74, auc_of, np.array([0.7]), np.array([0.1])) > 0


def test_a_training_is_hopeless_if_the_largest_gain_would_leave_it_below_all() -> None:
    curves = [np.array([0.5, 0.6, 0.8]), np.array([0.7, 0.65, 0.75])] * 5
    assert hopeless_below(curves[:9], 1) == ()
    # At the end the least is 0.75; the first kind still gained 0.3 and 0.2 after the first and second epoch.
    assert hopeless_below(curves, 1) == pytest.approx((0.45, 0.55, 0.75))
    assert hopeless_below(curves, 3) == pytest.approx((-np.inf, -np.inf, 0.75))


def test_a_training_like_a_finished_one_is_never_hopeless() -> None:
    random = np.random.default_rng(5)
    curves = [random.uniform(0.5, 1, random.integers(3, 9)) for _ in range(12)]
    least = np.array(hopeless_below(curves, 1))
    for curve in curves:
        assert (np.maximum.accumulate(curve) >= least[: len(curve)] - 1e-12).all()


def test_expected_improvement_is_the_mean_gain_of_a_further_configuration() -> None:
    """Configurations drawn like the model's, all complete: by drawing further ones."""
    random = np.random.default_rng(3)
    difficulty, best = random.normal(0, 0.05, 10), -1.0
    auc_of = 0.8 + random.normal(0, 0.04, (60, 1)) + difficulty + random.normal(0, 0.02, (60, 10))
    best = auc_of.mean(axis=1).max()
    means = 0.8 + random.normal(0, 0.04, 200_000) + difficulty.mean() + random.normal(0, 0.02 / 10**0.5, 200_000)
    evidence = Evidence(auc_of, np.zeros((60, 0)), np.zeros(0, int), np.ones(60, bool))
    assert expected_improvement(evidence) == pytest.approx(np.maximum(means - best, 0).mean(), rel=0.5, abs=1e-5)
    better = np.vstack([auc_of, np.full(10, best + 0.1)])
    above_all = Evidence(better, np.zeros((61, 0)), np.zeros(0, int), np.ones(61, bool))
    assert expected_improvement(above_all) < expected_improvement(evidence) / 5


def test_expected_improvement_needs_ten_configurations_and_a_complete_one() -> None:
    auc_of = np.random.default_rng(3).uniform(0.7, 0.9, (12, 4))
    evidence = Evidence(auc_of, np.zeros((12, 0)), np.zeros(0, int), np.ones(12, bool))
    assert expected_improvement(evidence) < 0.1
    few = replace(evidence, auc=auc_of[:9], alive=evidence.alive[:9])
    incomplete = replace(evidence, auc=np.where(np.arange(4) < 3, auc_of, np.nan))
    assert expected_improvement(few) == expected_improvement(incomplete) == float("inf")


def test_no_fold_is_begun_when_those_under_way_will_probably_be_enough() -> None:
    value, nobody = np.array([0.0, 0.05, 0.004]), np.zeros(3)
    verdict = Verdict([], value, np.arange(10), enough=0.01)
    assert np.array_equal(verdict.worth(nobody), value)  # it is too much: somebody has to get a fold
    assert np.array_equal(verdict.worth(np.array([0, 1, 0])), np.full(3, -np.inf))  # leaves 0.005 + 0.004
    assert np.array_equal(verdict.worth(np.array([0, 0, 1])), [0.0, 0.05, 0.0005])  # leaves 0.05 + 0.0004


@pytest.mark.parametrize(
    ("name", "workers", "configurations", "most"),
    [
        *((name, 16, 60, 1.35) for name in NAMES if name != "posterior"),
        ("posterior wide", 16, 60, 1.2),  # of 200 configurations it is about a tenth, see docs/measurements.md
        ("posterior", 32, 100, 1.2),
    ],
)
def test_many_workers_cost_hardly_more_than_one(name: str, workers: int, configurations: int, most: float) -> None:
    tables = [simulate(seed, configurations) for seed in range(6)]
    one, many = (np.mean([replay(table, name, 0.03, 0, count)[0] for table in tables]) for count in (1, workers))
    assert many <= most * one


def test_what_cannot_win_any_more_does_not_hold_up_the_end(source: Table) -> None:
    """A configuration without a fold might be anything; once it has failed, it has no chance left to be waited for."""
    done = np.ones_like(partly_done(source, 0))
    done[1] = False
    influence, alive = source.influence * done[:, source.fold], done[:, 0]
    empty = Evidence(np.where(done, source.auc, np.nan), influence, source.fold, alive)
    failed = replace(empty, out=~alive)
    assert STRATEGIES["posterior"](empty, 0.03).value.sum() > 0.03
    assert STRATEGIES["posterior"](failed, 0.03).value.sum() == 0


def test_halving_waits_for_a_fold_that_is_tried_again() -> None:
    auc_of = np.tile(np.linspace(0.9, 0.5, 10)[:, None], 10)
    done = np.tile(np.arange(10) < 2, (10, 1))
    assert STRATEGIES["halving"](evidence_without_patients(auc_of, done), 0.0).drops
    done[0, :3] = [False, True, True]  # the best one's first fold failed, and others went on meanwhile
    assert not STRATEGIES["halving"](evidence_without_patients(auc_of, done), 0.0).drops


def evidence_without_patients(auc_of: Array, done: Array) -> Evidence:
    return Evidence(np.where(done, auc_of, np.nan), np.zeros((len(done), 10)), np.arange(10), np.ones(len(done), bool))
