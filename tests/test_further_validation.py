"""Nested cross-validation leaks nothing and is right about noise; repeats and permutations are other splits.

Trainings are simulated: a patient's probability under a learning rate is drawn once for all splits, so that a choice
which has seen a patient is rewarded on this patient.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.folds import make_split, read_split
from sweep import further_validation
from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.further_validation import (
    further_searches,
    further_trainings,
    permute_labels,
    require_inner_folds,
    write_further_tables,
)
from sweep.patient_metrics import auc, mean_of_folds
from sweep.predictions import arrays
from sweep.proposals import chosen_study
from sweep.run_folder import RunFolder
from sweep.search_pool import SearchPool, Stage
from sweep.settings import Settings, SettingsError

FOLDS, RATES = 4, [round(0.001 * number, 3) for number in range(1, 11)]
CHOICES = f"search.space.model.learning_rate={{choices: {RATES}}}"


def settings_of(*overrides: str) -> Settings:
    few = ["search/space=none", CHOICES, "model.learning_rate=0.001", "search.configurations=6"]
    return load_settings([*few, f"folds.count={FOLDS}", *overrides])


def patients_of(count: int = 40, seed: int = 0) -> pd.DataFrame:
    patients = pd.DataFrame({"patient_id": [f"p{number:03d}" for number in range(count)]})
    return make_split(patients.assign(label=np.arange(count) % 2), FOLDS, seed)


def train(stage: Stage, candidate: Candidate, fold: int, seed: int, effect: Sequence[float]) -> None:
    """Leave in the ledger what a training would: probabilities of the fold's patients, none of inner ones."""
    split, unit = read_split(stage.split), candidate.unit(fold)
    rate = RATES.index(float(candidate.values["model.learning_rate"]))
    random = np.random.default_rng([seed, rate])
    noise = dict(zip([f"p{number:03d}" for number in range(1000)], random.normal(size=1000), strict=True))
    held_out = split[split["fold"] == fold]
    logit = held_out["patient_id"].map(noise) + effect[rate] * held_out["label"]
    table = held_out.assign(sop_instance_uid="1", probability=1 / (1 + np.exp(-logit))).drop(columns="fold")
    folder = stage.ledger.begin(unit)
    table.to_parquet(folder / "predictions.parquet")
    table.iloc[:0].to_parquet(folder / "inner_predictions.parquet")
    stage.ledger.finish(unit)


def drive(
    pool: SearchPool, seed: int = 0, effect: Sequence[float] = (0.0,) * len(RATES), units: int = 10**6
) -> list[tuple[str, int, int]]:
    """Train up to so many of the pool's units, where every rate has an effect; returns which."""
    done: list[tuple[str, int, int]] = []
    while len(done) < units and (unit := pool.next_unit()):
        stage = pool.stage(unit[0])
        train(stage, *unit, seed, effect)
        stage.search.succeeded(*unit)
        done.append((stage.split.stem, unit[0].number, unit[1]))
    return done


def open_pool(
    folder: Path, settings: Settings, split: pd.DataFrame, best: Sequence[Candidate] = ()
) -> tuple[RunFolder, SearchPool]:
    folder.mkdir(exist_ok=True)
    run = RunFolder(folder)
    return run, further_searches(run, settings, split, best)


def candidates(settings: Settings, rates: Sequence[float]) -> list[Candidate]:
    trials = chosen_study(settings, [{"model.learning_rate": rate} for rate in rates]).trials
    return [Candidate(trial.number, trial.params, settings.configuration(trial.params), FOLDS) for trial in trials]


def test_no_unit_of_an_outer_folds_search_has_its_patients(tmp_path: Path) -> None:
    split = patients_of()
    run, pool = open_pool(tmp_path, settings_of("evaluation=nested"), split)
    done = drive(pool)
    assert pool.is_finished and len(pool.begun) == FOLDS
    for fold, (inner, test) in enumerate(pool.begun):
        outside = set(split.loc[split["fold"] == fold, "patient_id"])
        inside = read_split(inner.split)
        assert set(inside["patient_id"]) == set(split["patient_id"]) - outside
        assert sorted(inside["fold"].unique()) == list(range(FOLDS - 1))
        searched = [unit for unit in done if unit[0] == inner.split.stem]
        assert len(searched) == 6 * (FOLDS - 1) - equal_units(inner)
        for unit in (candidate.unit(number) for candidate in inner.search.candidates for number in candidate.fold_aucs):
            predicted = pd.read_parquet(inner.ledger.finished(unit) / "predictions.parquet")
            assert outside.isdisjoint(predicted["patient_id"])
        tested = read_split(test.split)
        assert set(tested.loc[tested["fold"] == 0, "patient_id"]) == outside
        assert [unit[1:] for unit in done if unit[0] == test.split.stem] == [(0, 0)], "the fold is predicted once"
        assert inner.search.best and test.search.candidates[0].values == inner.search.best.values
    assert len({stage.search.candidates[0].configuration.seed for begun in pool.begun for stage in begun}) == FOLDS
    assert not (tmp_path / "split.csv").exists() and run.splits.is_dir()


def equal_units(stage: Stage) -> int:
    """Units that were not trained because an equal configuration's were."""
    return (len(stage.search.candidates) - len({c.configuration.digest for c in stage.search.candidates})) * (FOLDS - 1)


def test_nested_auc_of_noise_is_a_half_where_the_best_configurations_is_not(tmp_path: Path) -> None:
    """Labels that say nothing: the best of ten fixed scores looks good, and nested cross-validation is not taken in."""
    nested, naive = [], []
    for seed in range(5):
        split = patients_of(400, seed)
        settings = settings_of("evaluation=nested", f"seed={seed}")
        run, pool = open_pool(tmp_path / str(seed), settings, permute_labels(split, seed))
        drive(pool, seed)
        write_further_tables(run, settings, [], pool)
        patients = pd.read_csv(run.path / "nested_patients.csv", dtype={"patient_id": str})
        assert sorted(patients["patient_id"]) == sorted(split["patient_id"])
        nested.append(mean_of_folds(*arrays(patients)).value)
        naive.append(np.mean([begun[0].search.best.mean_fold_auc for begun in pool.begun if begun[0].search.best]))
    error = np.std(nested, ddof=1) / np.sqrt(len(nested))
    assert abs(np.mean(nested) - 0.5) < 3 * error < 0.06
    assert np.mean(naive) > 0.53, "this noise rewards no choice, so it proves nothing"


def test_nested_auc_finds_what_there_is(tmp_path: Path) -> None:
    split, settings = patients_of(80), settings_of("evaluation=nested")
    run, pool = open_pool(tmp_path, settings, split)
    drive(pool, effect=[3.0] * len(RATES))
    write_further_tables(run, settings, [], pool)
    folds, patients = (pd.read_csv(run.path / f"{name}.csv") for name in ("nested", "nested_patients"))
    assert folds["fold"].tolist() == list(range(FOLDS)) and folds["auc"].mean() > 0.9
    for fold, value in zip(folds["fold"], folds["auc"], strict=True):
        own = patients[patients["fold"] == fold]
        assert auc(own["label"].to_numpy(), own["probability"].to_numpy()) == value
    assert set(folds["model.learning_rate"]) <= set(RATES) and (folds["candidates"] == 6).all()


def test_a_race_inside_the_outer_folds_saves_trainings_and_every_patient_is_still_predicted_once(
    tmp_path: Path,
) -> None:
    split, settings = patients_of(200), settings_of("evaluation=nested", "search.racing.strategy=posterior")
    run, pool = open_pool(tmp_path, settings, split)
    done = drive(pool, effect=[0.5 * number for number in range(len(RATES))])
    inner = [begun[0].search for begun in pool.begun]
    assert pool.is_finished and any(candidate.dropped for search in inner for candidate in search.candidates)
    assert len(done) < further_trainings(settings, FOLDS, 6)["nested"]
    assert all(search.best and len(search.best.fold_aucs) == FOLDS - 1 for search in inner), "a dropped one was chosen"
    write_further_tables(run, settings, [], pool)
    patients = pd.read_csv(run.path / "nested_patients.csv").sort_values("patient_id", ignore_index=True)
    assert patients[["patient_id", "label", "fold"]].equals(split.sort_values("patient_id", ignore_index=True))
    assert len(pd.read_csv(run.path / "nested.csv")) == FOLDS


def test_an_interrupted_pool_goes_on_where_it_stopped(tmp_path: Path) -> None:
    split, settings = patients_of(), settings_of("evaluation=nested", "evaluation.repeats=1")
    best = candidates(settings, RATES[3:5])
    _, undisturbed = open_pool(tmp_path / "undisturbed", settings, split, best)
    expected = drive(undisturbed)
    run, killed = open_pool(tmp_path / "killed", settings, split, best)
    first = drive(killed, units=30)
    killed.next_unit()  # in training when the driver dies
    write_further_tables(run, settings, best, killed)
    assert len(pd.read_csv(run.path / "nested.csv")) == 1, "of what is done so far, and no more"
    _, resumed = open_pool(tmp_path / "killed", settings, split, best)
    rest = drive(resumed)
    assert not set(first) & set(rest) and sorted(first + rest) == sorted(expected)
    _, again = open_pool(tmp_path / "killed", settings, split, best)
    assert again.is_finished and again.next_unit() is None


def test_repeats_are_other_splits_of_the_same_patients_and_configurations(tmp_path: Path) -> None:
    split, settings = patients_of(), settings_of("evaluation.repeats=3")
    best = candidates(settings, [RATES[7], RATES[2]])
    best[0].number, best[1].number = 5, 2
    run, pool = open_pool(tmp_path, settings, split, best)
    assert len(drive(pool)) == 3 * 2 * FOLDS
    dealt = [read_split(begun[0].split).set_index("patient_id") for begun in pool.begun]
    own = split.set_index("patient_id")
    assert all((table["label"] == own["label"]).all() for table in dealt)
    assert len({tuple(table["fold"]) for table in [own, *dealt]}) == 4
    write_further_tables(run, settings, best, pool)
    table = pd.read_csv(run.path / "repeats.csv")
    assert list(zip(table["repeat"], table["configuration"], strict=True)) == [
        (r, c) for r in (1, 2, 3) for c in (5, 2)
    ]
    assert table.groupby("configuration")["mean_fold_auc"].nunique().min() > 1


def test_permutations_are_whole_sweeps_on_labels_dealt_within_folds(tmp_path: Path) -> None:
    split, settings = patients_of(), settings_of("evaluation.permutations=3")
    run, pool = open_pool(tmp_path, settings, split)
    drive(pool)
    for (stage,) in pool.begun:
        dealt = read_split(stage.split)
        pd.testing.assert_frame_equal(dealt[["patient_id", "fold"]], split[["patient_id", "fold"]])
        assert (dealt["label"] != split["label"]).any()
        pd.testing.assert_series_equal(dealt.groupby("fold")["label"].sum(), split.groupby("fold")["label"].sum())
        assert len(stage.search.candidates) == 6
    assert len({stage.split for (stage,) in pool.begun}) == 3
    write_further_tables(run, settings, [], pool)
    assert len(pd.read_csv(run.path / "permutations.csv")) == 3


def test_tables_that_are_no_longer_asked_for_go(tmp_path: Path) -> None:
    (tmp_path / "nested.csv").touch()
    run, pool = open_pool(tmp_path, settings_of(), patients_of())
    write_further_tables(run, settings_of(), [], pool)
    assert pool.is_finished and list(tmp_path.iterdir()) == []


def test_the_cost_that_is_announced_is_the_cost(tmp_path: Path) -> None:
    asked = ["evaluation=nested", "evaluation.repeats=2", "evaluation.permutations=2", "search.configurations=2"]
    settings = settings_of(*asked)
    best = candidates(settings, RATES[:2])
    _, pool = open_pool(tmp_path, settings, patients_of(), best)
    done = len(drive(pool))
    searched = [begun[0] for begun in pool.begun if begun[0].kind != "repeat"]
    twice = sum(c.folds for s in searched for c in s.search.candidates[1:] if c.values == s.search.candidates[0].values)
    assert sum(further_trainings(settings, FOLDS, 2).values()) == done + twice
    assert further_trainings(settings, FOLDS, 2) == {"repeats": 16, "nested": 28, "permutations": 16}
    assert further_trainings(settings, FOLDS, 5)["repeats"] == further_validation.REPEATED * 8


def test_too_few_patients_for_inner_folds_are_refused() -> None:
    split = patients_of(40)
    require_inner_folds(split)
    rare = split[(split["label"] == 0) | split.duplicated(["fold", "label"])]
    few = rare[(rare["label"] == 0) | ~rare.duplicated(["fold", "label"])]
    require_inner_folds(few)
    with pytest.raises(
        SettingsError, match="evaluation=nested: without two of the 4 folds one class has only 1 patients"
    ):
        require_inner_folds(few[(few["label"] == 0) | (few["fold"] != 3)])
