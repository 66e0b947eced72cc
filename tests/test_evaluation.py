"""The report's statistics: the right functions get the right patients, and every degenerate run has a page."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.tables import read_csv
from sweep import comparison, predictions
from sweep.report.evaluation import decision_curve
from sweep.report.tables import RunFolderError, read_run
from sweep.selection_bias import bbc_cv
from tests.run_folders import keep_folds, synthetic_cohort, write_readers_and_features, write_run
from tests.test_report import SCRIPT, report


def with_thresholds(run: Path, thresholds: dict[int, float], configuration: int = 0) -> Path:
    rows = [{"configuration": configuration, "fold": fold, "threshold": value} for fold, value in thresholds.items()]
    pd.DataFrame(rows).to_csv(run / "thresholds.csv", index=False)
    return run


def with_readers(run: Path, readers: pd.DataFrame) -> Path:
    readers.to_csv(run / "readers.csv", index=False)
    return run


def test_the_answer_is_the_corrected_auc_before_the_naive_one(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.2, 1.3, 1.1))
    page, summary, patients = report(run)
    tables = read_run(run)
    scores = np.stack([tables.patients_of(number)["probability"].to_numpy() for number in range(3)])
    label, _, fold = predictions.arrays(patients)
    expected = bbc_cv(label, scores, fold, 30)
    assert summary["corrected"]["estimate"]["value"] == expected.corrected.value
    assert summary["corrected"]["wins"] == expected.wins[summary["best"]["configuration"]]
    shown = [path for path, _, _ in page.figures if path.endswith(".value")]
    assert shown[:2] == ["corrected.estimate.value", "best.mean_of_folds.value"]
    assert "errs on the low side when configurations differ" in page.text


def test_incomplete_configurations_have_no_part_in_the_correction(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.2, 1.3, 3.0))
    keep_folds(run, {2: {0, 1, 2, 3, 4, 5, 6, 7, 8}})
    _, summary, _ = report(run)
    _, alone, _ = report(write_run(tmp_path / "b", (1.2, 1.3)))
    assert summary["corrected"] == alone["corrected"] and summary["selection"]["candidates"] == 2


def test_what_a_race_dropped_competes_in_the_correction(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.2, 1.3, 1.4, 1.1))
    keep_folds(run, {2: {0, 1, 2}, 3: set()})
    table = pd.read_csv(run / "configurations.csv")
    table.assign(state=table["state"].replace("running", "pruned")).to_csv(run / "configurations.csv", index=False)
    page, summary, patients = report(run)
    rows = pd.read_parquet(run / "predictions.parquet").query("configuration == 2")
    partial = predictions.per_patient(rows).set_index("patient_id")["probability"].reindex(patients["patient_id"])
    tables = read_run(run)
    scores = np.stack([tables.patients_of(number)["probability"].to_numpy() for number in range(2)] + [partial])
    label, _, fold = predictions.arrays(patients)
    expected = bbc_cv(label, scores, fold, 30)
    assert np.isnan(scores).any() and expected.wins[2] > 0
    assert summary["corrected"]["estimate"]["value"] == expected.corrected.value
    assert (summary["selection"]["candidates"], summary["selection"]["dropped"]) == (2, 1)
    assert "dropped before all their folds: 1." in page.text and "The best of 3 configurations" in page.text
    assert summary["best"]["configuration"] in (0, 1)
    nothing = read_run(run)
    nothing.configurations["state"] = nothing.configurations["state"].replace("complete", "failed")
    assert nothing.best is None and nothing.competing.columns.tolist() == [2]
    half = pd.read_parquet(run / "predictions.parquet")
    half[half.index != rows.index[0]].to_parquet(run / "predictions.parquet", index=False)
    with pytest.raises(predictions.PredictionsError, match="configuration 2: 1 slices have no prediction"):
        report(run)


def test_one_configuration_needs_no_correction_and_no_comparison(tmp_path: Path) -> None:
    page, summary, _ = report(write_run(tmp_path / "a", (1.2,)))
    assert summary["corrected"]["estimate"] is None and "nothing to correct" in page.text
    assert summary["study_setting"]["p"] is None and "is itself the best" in page.text
    assert summary["ensembles"] == []


def test_too_few_patients_for_a_bootstrap_are_said(tmp_path: Path) -> None:
    cohort = synthetic_cohort(12, malignant_share=0.09)
    page, summary, _ = report(write_run(tmp_path / "a", (1.2, 1.3), folds=2, cohort=cohort))
    assert summary["corrected"]["estimate"] is None and "too few for a bootstrap" in page.text


def test_best_against_configuration_0_is_the_paired_test(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 2.0))
    _, summary, patients = report(run)
    label, score, fold = predictions.arrays(patients)
    study = read_run(run).patients_of(0)["probability"].to_numpy()
    expected = comparison.paired_mean_of_folds(label, score, study, fold)
    assert summary["study_setting"]["p"] == expected.p and expected.difference.value > 0
    keep_folds(run, {0: {1, 2}})
    assert "no comparison" in report(run)[0].text


def test_thresholds_of_the_folds_make_the_calls(tmp_path: Path) -> None:
    changes = {"evaluation.threshold": "youden"}
    run = with_thresholds(
        write_run(tmp_path / "a", (1.5,), changes=changes), dict.fromkeys(range(2, 10), 0.5) | {0: 0.2, 1: 0.9}
    )
    page, summary, patients = report(run)
    thresholds = patients["fold"].map({0: 0.2, 1: 0.9}).fillna(0.5)
    assert (patients["call"] == (patients["probability"] >= thresholds)).all()
    assert summary["best"]["counts"]["TP"] == (patients["call"] & patients["label"]).sum()
    assert summary["best"]["thresholds"] == {"lowest": 0.2, "highest": 0.9}
    assert "0.200 to 0.900" in page.text and "Youden" in page.text
    with pytest.raises(RunFolderError, match=r"configuration 0: thresholds.csv has none for folds \[2, 9\]"):
        report(with_thresholds(run, dict.fromkeys((0, 1, 3, 4, 5, 6, 7, 8), 0.2)))


def test_nobody_called_malignant_has_no_ppv_and_no_error_analysis(tmp_path: Path) -> None:
    run = with_thresholds(write_run(tmp_path / "a", (1.5,)), dict.fromkeys(range(10), 1.0))
    write_readers_and_features(run)
    page, summary, _ = report(run)
    measures = summary["best"]["measures"]
    assert (
        measures["ppv"]["value"] is None and measures["mcc"]["value"] is None and measures["specificity"]["value"] == 1
    )
    assert "No benign patient was called malignant" in page.text


def test_ties_everywhere_are_chance(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.0, 1.2))
    pd.read_parquet(run / "predictions.parquet").assign(probability=0.5).to_parquet(run / "predictions.parquet")
    figures = {"mean_fold_auc": 0.5, "sd_fold_auc": 0.0, "pooled_auc": 0.5}
    pd.read_csv(run / "configurations.csv").assign(**figures).to_csv(run / "configurations.csv", index=False)
    page, summary, _ = report(run)
    assert summary["best"]["permutation_p"] == 1 and summary["corrected"]["estimate"]["value"] == 0.5
    assert summary["calibration"]["slope"]["value"] is None and "no interval can be estimated" in page.text


def test_mcnemar_counts_only_patients_that_the_reader_called(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    patients = report(run)[2].sort_values("patient_id")
    same = pd.DataFrame({"patient_id": patients["patient_id"], "reader": "same", "call": patients["call"]})
    perfect = same.assign(reader="perfect", call=patients["label"])[::2]
    page, summary, _ = report(with_readers(run, pd.concat([same, perfect])))
    half, whole = summary["table2"]
    assert (half["reader"], half["patients"], whole["patients"]) == ("perfect", 48, 96)
    assert whole["counts"] == summary["best"]["counts"] and whole["sensitivity_test"]["p"] == 1
    of_class, wrong = patients["label"] == 1, patients["label"] != patients["call"]
    missed = int((of_class & wrong)[::2].sum())
    test = half["sensitivity_test"]
    assert missed > 0 and (test["only_reader_right"], test["only_model_right"]) == (missed, 0)
    assert test["p"] == comparison.mcnemar(missed, 0).exact <= test["holm"]
    assert "McNemar" in page.text


def test_a_reader_of_other_patients_only_has_dashes(tmp_path: Path) -> None:
    readers = pd.DataFrame({"patient_id": ["else"], "reader": "R", "call": 1})
    _, summary, _ = report(with_readers(write_run(tmp_path / "a", (1.5,)), readers))
    assert summary["table2"][0]["patients"] == 0 and summary["table2"][0]["specificity_test"]["holm"] is None


def test_without_readers_and_features_the_page_says_so_or_leaves_them_out(tmp_path: Path) -> None:
    page, summary, _ = report(write_run(tmp_path / "a", (1.5,)))
    assert "No readers.csv was given" in page.text and "Imaging features" not in page.text
    assert (summary["table2"], summary["features"], summary["sites"]) == ([], None, None)
    assert not (tmp_path / "a" / "table1.csv").exists()


def test_sites_are_compared_where_there_are_several(tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    cohort["site"] = np.where(cohort["patient_id"] < "040", "A", np.where(cohort["patient_id"] < "090", "B", "C"))
    page, summary, _ = report(write_run(tmp_path / "a", (1.5,), cohort=cohort))
    rows = summary["sites"]["rows"]
    assert [row["site"] for row in rows] == ["A", "B", "C"] and sum(row["patients"] for row in rows) == 96
    assert summary["sites"]["left_out"] == ["B", "C"] and summary["sites"]["p"] is None
    assert "no test for differences" in page.text


def test_patients_without_a_site_are_no_site(tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    cohort["site"] = np.where(cohort["patient_id"] < "030", "A", np.where(cohort["patient_id"] < "060", "B", ""))
    changes = {"folds.by": "site"}
    page, summary, patients = report(write_run(tmp_path / "a", (1.5,), cohort=cohort, changes=changes))
    assert [row["site"] for row in summary["sites"]["rows"]] == ["A", "B"]
    assert summary["sites"]["unnamed"] == 36 and "Without a site and in no row: 36 patients" in page.text
    named = patients[patients["patient_id"] < "060"]
    label, score, _ = predictions.arrays(named)
    expected = comparison.auc_heterogeneity(label, score, np.where(named["patient_id"] < "030", "A", "B"))
    assert summary["sites"]["q"] == (expected.q if np.isfinite(expected.q) else None)
    assert "conditional on these sites" in page.text
    cohort["site"] = cohort["site"].replace("B", "")
    assert report(write_run(tmp_path / "b", (1.5,), cohort=cohort))[1]["sites"] is None


def test_the_wins_are_those_of_the_configuration_on_the_page(tmp_path: Path) -> None:
    """Configurations 1 and 2 tie but for rounding; BBC-CV's own winner may be either."""
    run = write_run(tmp_path / "a", (1.2, 1.5, 1.3))
    rows = pd.read_parquet(run / "predictions.parquet")
    second = rows[rows["configuration"] == 1]
    rows = pd.concat([rows[rows["configuration"] != 2], second.assign(configuration=2)])
    rows.to_parquet(run / "predictions.parquet", index=False)
    table = pd.read_csv(run / "configurations.csv")
    figures = ["mean_fold_auc", "sd_fold_auc", "pooled_auc"]
    table.loc[2, figures] = table.loc[1, figures]
    table.loc[1, "mean_fold_auc"] -= 1e-13
    table.to_csv(run / "configurations.csv", index=False)
    _, summary, _ = report(run)
    assert summary["best"]["configuration"] == 2 and summary["corrected"]["wins"] == 0  # of equals 1 wins resamples


def test_features_that_determine_each_other_are_said(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    patients = pd.read_csv(run / "split.csv", dtype={"patient_id": str})["patient_id"]
    present = (np.arange(len(patients)) % 3 == 0).astype(int)
    table = pd.DataFrame({"patient_id": patients, "first": present, "second": 1 - present})
    table.to_csv(run / "features.csv", index=False)
    page, summary, _ = report(run)
    assert summary["features"]["model"] is None and "features determine each other" in page.text


@pytest.mark.parametrize(
    ("kept", "said"),
    [("label == 0", "no feature varies"), ("label > 1", None), ("patient_id == patient_id", None)],
)
def test_features_of_few_patients_or_none_give_a_page(tmp_path: Path, kept: str, said: str | None) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    write_readers_and_features(run)
    patients = pd.read_csv(run / "split.csv", dtype={"patient_id": str}).query(kept)["patient_id"]
    table = pd.read_csv(run / "features.csv", dtype={"patient_id": str})
    table[table["patient_id"].isin(patients)].to_csv(run / "features.csv", index=False)
    _, summary, _ = report(run)
    if said is None:
        assert (summary["features"] is None) == patients.empty
    else:
        assert said in summary["features"]["problem"] and summary["features"]["table1"][0]["first_all"] == 0


def test_tables_as_csv_hold_the_summary(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5, 1.7))
    write_readers_and_features(run)
    _, summary, _ = report(run)
    table2 = read_csv(run / "table2.csv", {"reader": str}).set_index("reader")
    assert table2["measures.ppv.low"]["model"] == summary["best"]["measures"]["ppv"]["low"]
    assert list(table2.index) == [row["reader"] for row in summary["table2"]] + ["model"]
    counts, features = summary["best"]["counts"], summary["features"]
    assert features["table1"][0]["first_all"] == summary["dataset"]["malignant"]
    model = features["errors"][0]
    assert (model["rows"][0]["first_all"], model["rows"][0]["second_all"]) == (counts["FP"], counts["TN"])
    assert read_csv(run / "table1.csv", {"feature": str})["p"].tolist() == [row["p"] for row in features["table1"]]
    errors = read_csv(run / "errors.csv", {"feature": str, "reader": str}).set_index("reader")
    for who in features["errors"]:
        found = errors.loc[who["reader"], "p"].replace({np.nan: None}).tolist()
        assert found == [row["p"] for row in who["rows"]]
    helped = read_csv(run / "readers_with_model.csv", {"reader": str, "way": str}).set_index(["reader", "way"])
    for row in summary["table2"]:
        for way in row["helped"]:
            assert helped.loc[(row["reader"], way["way"]), "specificity_test.p"] == way["specificity_test"]["p"]
    assert len(read_csv(run / "decision_curve.csv", {})) == len(summary["decision_curve"]) == 99


def test_names_of_readers_sites_and_features_are_never_markup(tmp_path: Path) -> None:
    cohort = synthetic_cohort()
    cohort["site"] = np.where(cohort["patient_id"].astype(int) % 2, "north", SCRIPT)
    run = write_run(tmp_path / "a", (1.5,), cohort=cohort)
    write_readers_and_features(run)
    for name, column in (("readers", "reader"), ("features", None)):
        table = pd.read_csv(run / f"{name}.csv", dtype={"patient_id": str})
        changed = (
            table.assign(reader=SCRIPT + table[column])
            if column
            else table.rename(columns=lambda c: c + "<b>" * (c != "patient_id"))
        )
        changed.to_csv(run / f"{name}.csv", index=False)
    page, _, _ = report(run)
    assert len([tag for tag, _ in page.tags if tag == "script"]) == len(page.plots) + 2
    assert page.text.count(SCRIPT) >= 10  # readers twice or thrice each, a site
    assert "anterior wedge deformity<b>" in page.text


@pytest.mark.parametrize("threshold", [0.1, 0.3, 0.5])
def test_net_benefit_is_what_its_words_say(threshold: float) -> None:
    random = np.random.default_rng(0)
    label, probability = random.integers(0, 2, 200), random.random(200).round(2)
    row = decision_curve(label, probability).set_index("threshold").loc[threshold]
    called = probability >= threshold
    benefit = sum(called & (label == 1)) - sum(called & (label == 0)) * threshold / (1 - threshold)
    assert row["model"] == pytest.approx(benefit / 200)
    everyone = decision_curve(label, np.ones(200)).set_index("threshold")
    assert everyone["model"].to_numpy() == pytest.approx(everyone["everyone"].to_numpy())


def test_the_checklists_are_whole(tmp_path: Path) -> None:
    page, _, _ = report(write_run(tmp_path / "a", (1.5,)))
    html = (tmp_path / "a" / "report.html").read_text()
    claim, tripod = html.split('<table class="checklist">')[1:3]
    assert claim.count('<th scope="row">') == 44
    numbers = {text[:2].rstrip("abc") for text in tripod.split('<th scope="row">')[1:] for text in [text.split("<")[0]]}
    assert numbers == {str(item) for item in range(1, 28)}
    assert "for the author to write" in page.text and "no patient is in two folds" in page.text
