"""Two runs side by side: the tests behind the figures, who is refused, and one set of figures in page and tables."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweep import comparison
from sweep.__main__ import main
from sweep.predictions import arrays
from sweep.report.compare import compare_runs
from sweep.report.tables import RunFolderError, read_run
from sweep.selection_bias import bbc_cv
from tests.run_folders import synthetic_cohort, write_run
from tests.test_report import SCRIPT, Page, at


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same patients and folds; the second run has the better configurations."""
    folder = tmp_path_factory.mktemp("runs")
    first = write_run(folder / "first", separations=(1.0, 1.4, 0.8))
    changes = {"model.dropout": 0.3, "data.root": "/home/SECRET"}
    return first, write_run(folder / "second", separations=(1.6, 2.2), changes=changes)


def compared(runs: tuple[Path, Path], folder: Path, **options: Any) -> dict[str, dict[str, Any]]:
    return {row["measure"]: row for row in compare_runs(*runs, folder, **options)["measures"]}


def test_differences_and_tests_are_those_of_the_best_configurations(runs: tuple[Path, Path], tmp_path: Path) -> None:
    rows = compared(runs, tmp_path)
    tables = [read_run(run) for run in runs]
    assert [table.best for table in tables] == [1, 1]
    first, second = (table.patients_of(1) for table in tables)
    (label, one, fold), (_, two, _) = arrays(first), arrays(second)
    folds = comparison.paired_mean_of_folds(label, one, two, fold)
    assert rows["AUC, mean of folds"]["difference"]["value"] == folds.difference.value < 0
    assert rows["AUC, mean of folds"]["p"] == folds.p
    assert rows["AUC, pooled"]["p"] == comparison.paired_delong(label, one, two).p
    right = [(table["call"] == table["label"]).to_numpy() for table in (first, second)]
    for name, of_class in (("sensitivity", label == 1), ("specificity", label == 0), ("accuracy", label >= 0)):
        only = [int((right[0] & ~right[1] & of_class).sum()), int((right[1] & ~right[0] & of_class).sum())]
        row, test = rows[name], comparison.mcnemar(*only)
        assert [row["only_first_right"], row["only_second_right"]] == only
        assert (row["p"], row["mid_p"]) == (test.exact, test.mid_p)
        assert row["difference"]["value"] == pytest.approx((only[0] - only[1]) / of_class.sum())


def test_the_corrected_difference_is_that_of_the_paired_resamples(runs: tuple[Path, Path], tmp_path: Path) -> None:
    row = compared(runs, tmp_path)["AUC, corrected for selection"]
    corrected = []
    for run in map(read_run, runs):
        label, _, fold = arrays(run.patients_of(0))
        scores = np.stack([run.patients_of(number)["probability"] for number in run.complete["configuration"]])
        corrected.append(bbc_cv(label, scores, fold, run.evaluation["resamples"]))
    differences = corrected[0].resampled - corrected[1].resampled
    assert row["difference"]["value"] == pytest.approx(corrected[0].corrected.value - corrected[1].corrected.value)
    low, high = np.quantile(differences, [0.025, 0.975])
    assert [row["difference"][end] for end in ("low", "high")] == pytest.approx([low, high])
    unpaired = corrected[0].resampled - np.roll(corrected[1].resampled, 1)
    assert differences.std() < unpaired.std(), "resamples of the two runs are not of the same patients"


def test_a_run_does_not_differ_from_itself(runs: tuple[Path, Path], tmp_path: Path) -> None:
    result = compare_runs(runs[0], runs[0], tmp_path)
    assert all(row["difference"]["value"] == 0 for row in result["measures"]) and result["settings"] == []


def test_page_and_tables_hold_the_same_figures_and_no_paths(runs: tuple[Path, Path], tmp_path: Path) -> None:
    result = compare_runs(*runs, tmp_path / "both")
    page = Page(tmp_path / "both" / "compare.html")
    assert len(page.figures) > 40 and "SECRET" not in page.text
    assert all(float(value) == at(result, path) for path, value, _ in page.figures)
    table = pd.read_csv(tmp_path / "both" / "comparison.csv")
    assert table["difference.value"].tolist() == [row["difference"]["value"] for row in result["measures"]]
    patients = pd.read_csv(tmp_path / "both" / "comparison_patients.csv", dtype={"patient_id": str})
    assert len(patients) == result["patients"] == 96 and {"probability_first", "call_second"} <= set(patients)
    differing = {row["setting"]: (row["first"], row["second"]) for row in result["settings"]}
    assert differing["model.dropout"] == ("0", "0.3") and "name" not in differing


def test_other_folds_leave_no_paired_mean_of_folds(runs: tuple[Path, Path], tmp_path: Path) -> None:
    dealt = write_run(tmp_path / "dealt", folds=5)
    rows = compared((runs[0], dealt), tmp_path / "both")
    assert rows["AUC, mean of folds"]["difference"]["value"] is None and rows["AUC, pooled"]["p"] is not None
    assert "AUC, corrected for selection" not in rows
    assert "other folds" in Page(tmp_path / "both" / "compare.html").text


def test_other_patients_are_refused_or_left_out_on_demand(runs: tuple[Path, Path], tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    fewer = write_run(tmp_path / "fewer", cohort=cohort[~cohort["patient_id"].isin(["003", "050"])])
    with pytest.raises(RunFolderError, match=r"2 only in first \(003 …\); .*patients=common"):
        compare_runs(runs[0], fewer, tmp_path / "both")
    assert not (tmp_path / "both").exists()
    result = compare_runs(runs[0], fewer, tmp_path / "both", common=True)
    assert result["patients"] == 94 and result["left_out"] == [2, 0]
    strangers = write_run(tmp_path / "strangers", cohort=cohort.assign(patient_id="x" + cohort["patient_id"]))
    with pytest.raises(RunFolderError, match=r"96 only in first .*; 96 only in strangers .*; run both on the same"):
        compare_runs(runs[0], strangers, tmp_path / "none", common=True)


def test_other_labels_are_refused_with_the_patient(runs: tuple[Path, Path], tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    turned = cohort.assign(label=cohort["label"].where(cohort["patient_id"] != "007", 1 - cohort["label"]))
    other = write_run(tmp_path / "other", cohort=turned)
    with pytest.raises(RunFolderError, match="1 patients have another label in other than in first, the first 007"):
        compare_runs(runs[0], other, tmp_path / "both")


def test_the_command_prints_the_table_and_names_the_page(
    runs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", *map(str, runs)]) == 0
    said = capsys.readouterr()
    assert "AUC, mean of folds" in said.out and "first-and-second/compare.html" in said.err
    assert main(["compare", *map(str, runs), str(tmp_path / "both")]) == 0
    assert (tmp_path / "both" / "compare.html").read_bytes() == (
        runs[0].parent / "first-and-second" / "compare.html"
    ).read_bytes()
    for wrong in (["compare", "a"], ["compare", *map(str, runs), "a", "b"], ["compare", *map(str, runs), "patient=x"]):
        assert main(wrong) == 2
    assert main(["compare", str(runs[0]), str(tmp_path)]) == 2


def test_names_are_escaped(runs: tuple[Path, Path], tmp_path: Path) -> None:
    owned = tmp_path / SCRIPT.replace("/", "")
    shutil.copytree(runs[0], owned)
    compare_runs(runs[0], owned, tmp_path / "both")
    page = Page(tmp_path / "both" / "compare.html")
    assert [tag for tag, _ in page.tags].count("script") == 1 and SCRIPT.replace("/", "") in page.text
