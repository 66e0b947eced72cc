"""Searches that share the workers: earlier ones first, the next stage after the last, outcomes to the right search."""

from pathlib import Path

import pytest

from sweep.ledger import Ledger
from sweep.search_pool import Chain, SearchPool, Stage
from tests.test_search import CONFIGURATIONS, FOLDS, open_search


def stage(folder: Path, number: int) -> Stage:
    own = folder / str(number)
    own.mkdir(parents=True, exist_ok=True)
    search, ledger = open_search(own, ["resources.tries=1"]), Ledger(own / "ledger", "split")
    return Stage("test", number, search, ledger, own / "split.csv", own / "optuna.journal")


def two_stages(folder: Path) -> Chain:
    yield stage(folder, 1)
    yield stage(folder, 2)


def finish_next(pool: SearchPool) -> int:
    candidate, fold = pool.next_unit() or pytest.fail("no unit")
    where = pool.stage(candidate)
    where.ledger.begin(candidate.unit(fold))
    where.ledger.finish(candidate.unit(fold))
    where.search.succeeded(candidate, fold)
    return where.number


def test_a_stage_begins_when_the_one_before_is_finished(tmp_path: Path) -> None:
    pool = SearchPool([two_stages(tmp_path / "a"), iter([stage(tmp_path / "b", 3)])])
    order = [finish_next(pool) for _ in range(3 * FOLDS * CONFIGURATIONS)]
    assert order == sorted(order) and pool.is_finished and pool.next_unit() is None
    assert len(pool.candidates) == 3 * CONFIGURATIONS


def test_workers_that_wait_for_the_end_of_a_stage_get_units_of_the_next_chain(tmp_path: Path) -> None:
    pool = SearchPool([two_stages(tmp_path / "a"), iter([stage(tmp_path / "b", 3)])])
    units = [pool.next_unit() or pytest.fail("no unit") for _ in range(FOLDS * CONFIGURATIONS + 1)]
    assert [pool.stage(candidate).number for candidate, _ in units] == [1] * FOLDS * CONFIGURATIONS + [3]
    assert not pool.is_finished


def test_a_failure_is_counted_by_the_search_it_belongs_to(tmp_path: Path) -> None:
    """Both searches have an equal configuration 0."""
    pool = SearchPool([iter([stage(tmp_path, number)]) for number in (1, 2)])
    first, *_ = (pool.next_unit() or pytest.fail("no unit") for _ in range(FOLDS * CONFIGURATIONS))
    second = pool.next_unit() or pytest.fail("no unit")
    assert first[0].configuration == second[0].configuration and pool.stage(second[0]).number == 2
    pool.stage(second[0]).search.failed(*second, "training diverged")
    assert (first[0].state, second[0].state) == ("running", "failed")
