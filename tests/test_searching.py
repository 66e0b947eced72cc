"""The search in the report: history, cost, importance, and the map over two settings, each beside what it must be."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import plotly.graph_objects as go
import pytest

from sweep.predictions import fold_table
from sweep.report.search_plots import CELLS, contour
from sweep.report.searching import importance
from tests.run_folders import drop_by_race, keep_folds, write_run
from tests.test_report import report

SPACE = {name: {"log": name == "a", "choices": None} for name in ("a", "b")}


def test_settings_are_ranked_from_ten_configurations_on(tmp_path: Path) -> None:
    few = report(write_run(tmp_path / "few", (1.0, 1.2), folds=5))
    assert few[1]["search"]["settings"] == [] and "too few, or too equal" in few[0].text
    run = write_run(tmp_path / "a", tuple(np.linspace(0.5, 2.5, 12)), folds=5)
    page, summary, _ = report(run)
    rows, table = summary["search"]["settings"], pd.read_csv(run / "configurations.csv")
    shares = [row["importance"] for row in rows]
    assert len(rows) == 8 and shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)
    for row in rows:
        expected = table[row["setting"]].rank().corr(table["mean_fold_auc"].rank())
        assert row["spearman"] == pytest.approx(expected)
    assert pd.read_csv(run / "settings_importance.csv")["importance"].tolist() == shares
    shown = {path for path, _, _ in page.figures}
    assert {f"search.settings.{place}.{name}" for place in range(8) for name in ("importance", "spearman")} <= shown
    top = [row["setting"] for row in rows[:3]]
    maps = [name for name in page.plots if name.startswith("plot-contour-")]
    assert maps == [f"plot-contour-{top[a]}-{top[b]}" for a, b in ((0, 1), (0, 2), (1, 2))]
    for name in maps:
        go.Figure(json.loads(re.sub(r'"--\w+"', '"red"', json.dumps(page.plots[name]))))


def test_history_and_cost_count_every_fold_and_only_complete_configurations_lead(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 3.0, 1.5, 1.2))
    keep_folds(run, {1: {0, 1, 2}}, failure={1: "loss became nan"})
    costs = [(n, fold, 6, 30.0) for n in range(4) for fold in range(3 if n == 1 else 10)]
    pd.DataFrame(costs, columns=["configuration", "fold", "epochs", "seconds"]).to_csv(run / "costs.csv", index=False)
    page, summary, _ = report(run)
    history = summary["search"]["history"]
    aucs = pd.read_csv(run / "configurations.csv")["mean_fold_auc"]
    assert [row["mean_fold_auc"] for row in history] == [aucs[0], None, aucs[2], aucs[3]]
    assert [row["best_so_far"] for row in history] == [aucs[0], aucs[0], aucs[2], aucs[2]]
    assert [row["fold_trainings"] for row in history] == [10, 13, 23, 33]
    cost = {"fold_trainings": 33, "full": 40, "spared": 0, "spared_share": 0, "hours": 33 * 30 / 3600, "epochs": 33 * 6}
    assert summary["search"]["cost"] == cost
    assert "33 finished fold-trainings" in page.text and "0.28 hours" in page.text
    line, points = page.plots["plot-history"]["data"]
    assert points["x"] == line["x"] == [0, 2, 3] and line["y"] == [aucs[0], aucs[2], aucs[2]]
    table = pd.read_csv(run / "search_history.csv")
    assert table["fold_trainings"].tolist() == [10, 13, 23, 33] and table["mean_fold_auc"].isna().tolist()[1]


def test_what_a_race_dropped_stands_there_with_its_evidence_and_what_it_spared(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", tuple(np.linspace(0.5, 2.5, 12)), folds=5)
    why = "AUC -0.031 [-0.052, -0.010] against configuration 3: chance to win 0.0002"
    drop_by_race(run, {1: {0, 1}, 4: {0, 1, 2}}, why)
    page, summary, _ = report(run)
    found = summary["search"]
    assert (found["cost"]["spared"], found["cost"]["spared_share"]) == (5, 5 / 60)
    assert "The race spared 5 of them (8 %)" in page.text and page.text.count(why) >= 2
    assert len(found["settings"]) == 8 and "10 complete configurations and the dropped" in page.text
    shown = {path for path, _, _ in page.figures}
    predictions, best = pd.read_parquet(run / "predictions.parquet"), summary["best"]["configuration"]
    for place, (number, folds) in enumerate({1: 2, 4: 3}.items()):
        row = found["dropped"][place]
        assert (row["configuration"], row["folds_done"], row["why"]) == (number, folds, why)
        rows = predictions[predictions["fold"] < folds]
        means = [fold_table(rows[rows["configuration"] == one], "max")["auc"].mean() for one in (number, best)]
        assert (row["mean"], row["best_mean"]) == pytest.approx(means)
        difference = row["difference"]
        assert difference["value"] == pytest.approx(means[0] - means[1])
        assert difference["low"] < difference["value"] < difference["high"]
        assert {f"search.dropped.{place}.{name}" for name in ("mean", "best_mean", "difference.low")} <= shown


def test_a_hopeless_configuration_stands_there_with_its_inner_auc_and_in_no_figure(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", folds=5)
    why = "fold 3 is hopeless: inner AUC 0.512 by epoch 4, where 0.731 could still reach the lowest finished one"
    drop_by_race(run, {1: {0, 1}}, "chance to win 0.0002")
    assert "partial_predictions.parquet" not in report(run)[0].text
    drop_by_race(run, {1: set()}, why)
    page, summary, _ = report(run)
    (row,) = summary["search"]["dropped"]
    assert (row["configuration"], row["folds_done"], row["mean"], row["why"]) == (1, 0, None, why)
    assert why in page.text and "its predictions by then, partial_predictions.parquet" in page.text
    shown = {path for path, _, _ in page.figures if path.startswith("search.dropped")}
    assert shown == {"search.dropped.0.configuration", "search.dropped.0.folds_done"}
    assert summary["selection"]["compared"] == 3


def test_importance_finds_the_setting_that_matters_on_any_scale() -> None:
    random = np.random.default_rng(0)
    settings = pd.DataFrame({"a": 10 ** random.uniform(-6, -2, 60), "b": random.random(60)})
    settings["c"] = random.choice(["one", "two"], 60)
    settings["d"] = random.random(60) < 0.5
    value = 0.1 * np.log10(settings["a"]) + 0.01 * random.normal(size=60)
    found = importance(settings, value, ["a"])
    assert list(found) == ["a", *list(found)[1:]] and found["a"] > 0.8 and set(found) == set(settings)
    assert importance(settings, value, ["a"]) == found
    by_choice = importance(settings, (settings["c"] == "one") + 0.01 * random.normal(size=60), ["a"])
    assert max(by_choice, key=lambda name: by_choice[name]) == "c"


def test_the_map_is_linear_between_configurations_and_empty_outside() -> None:
    corners = pd.DataFrame({"a": [1e-4, 1e-4, 1e-2, 1e-2], "b": [0.0, 1.0, 0.0, 1.0]})
    table = corners.assign(configuration=range(4), mean_fold_auc=[0.6, 0.7, 0.8, 0.9])
    drawn = contour(("a", "b"), table, 3, SPACE)
    assert drawn is not None and drawn["layout"]["xaxis"]["type"] == "log"
    surface = np.array(drawn["data"][0]["z"], float)
    assert surface.shape == (CELLS, CELLS)  # rows are the second setting
    expected = 0.6 + 0.2 * np.linspace(0, 1, CELLS)[None, :] + 0.1 * np.linspace(0, 1, CELLS)[:, None]
    assert surface == pytest.approx(expected)
    triangle = contour(("a", "b"), table.iloc[:3], 0, SPACE)
    assert triangle is not None and triangle["data"][0]["z"][-1][-1] is None
    assert contour(("a", "b"), table.iloc[[0, 3]], 0, SPACE) is None
    assert contour(("a", "b"), table.assign(b=[0.0, 0.0, 1.0, 1.0]), 0, SPACE) is None
