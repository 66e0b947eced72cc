"""One sequence alone: figures of the same patients and folds, on the page as in the tables."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep import patient_metrics
from sweep.explanations import Explanations
from sweep.report import write_report
from sweep.report.sequences import one_sequence
from sweep.report.summary import patient_table
from sweep.report.tables import read_run
from tests.run_folders import write_run
from tests.test_report import Page, at


def test_the_same_predictions_change_nothing_and_reversed_ones_everything(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    patients, slices = patient_table(run), run.predictions_of(int(str(run.best)))
    table = slices.assign(T1W=slices["probability"], T2W=0.25 * slices["probability"])
    same, smaller = one_sequence(patients, Explanations(table, None), "max")
    label, score, fold = (patients[name].to_numpy() for name in ("label", "probability", "fold"))
    expected = patient_metrics.mean_of_folds(label, score, fold)
    assert same["sequence"] == "T1W" and same["auc"]["value"] == smaller["auc"]["value"] == expected.value
    assert (same["auc"]["low"], same["auc"]["high"]) == (expected.low, expected.high)
    assert (same["difference"].value, same["change"], same["calls_changed"]) == (0, 0, 0)
    assert smaller["change"] == pytest.approx(0.75 * score.mean())
    assert smaller["calls_changed"] == patients["call"].sum() > 0
    reversed_ = slices.assign(T1W=1 - slices["probability"], T2W=slices["label"] * 0.9)
    worse, perfect = one_sequence(patients, Explanations(reversed_, None), "mean")
    assert perfect["auc"]["value"] == 1 and perfect["difference"].value == pytest.approx(1 - expected.value)
    assert worse["auc"]["value"] < 0.5 and worse["difference"].high < 0 and worse["p"] < 0.001


def test_page_summary_and_csv_have_the_same_figures(trained_run: Path) -> None:
    page = Page(write_report(trained_run))
    summary = json.loads((trained_run / "summary.json").read_text())
    figures = {path: float(value) for path, value, _ in page.figures if path.startswith(("sequences", "flow"))}
    assert {f"sequences.{row}.{name}" for row in (0, 1) for name in ("auc.value", "change", "p")} <= figures.keys()
    assert all(float(at(summary, path)) == value for path, value in figures.items())
    table = pd.read_csv(trained_run / "sequences.csv").set_index("sequence")
    for row in summary["sequences"]:
        assert table.loc[row["sequence"], "auc.value"] == row["auc"]["value"]
        assert table.loc[row["sequence"], "calls_changed"] == row["calls_changed"]
    assert np.isfinite(table["change"]).all()


def test_without_weights_nothing_is_said_of_sequences(trained_run: Path, tmp_path: Path) -> None:
    run = Path(shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("explanations", "*.pt")))
    page = write_report(run)
    assert "One sequence alone" not in page.read_text()
    assert json.loads((run / "summary.json").read_text())["sequences"] == []
