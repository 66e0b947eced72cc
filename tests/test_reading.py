"""Readers beside the model: paired tests, the model's help and everybody's errors, held to their functions."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep import comparison, predictions
from sweep.features import compare_features
from sweep.patient_metrics import auc
from sweep.report.reading import BAND
from sweep.report.tables import read_run
from tests.run_folders import write_readers_and_features, write_run
from tests.test_report import report


def with_reader(run: Path, patients: pd.DataFrame, **columns: object) -> Path:
    pd.DataFrame({"patient_id": patients["patient_id"], "reader": "R", **columns}).to_csv(
        run / "readers.csv", index=False
    )
    return run


def test_a_reader_who_scores_as_the_model_does_not_differ_from_it(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,), fold_shift=1.0)
    patients = report(run)[2]
    page, summary, _ = report(with_reader(run, patients, score=patients["probability"]))
    found = summary["table2"][0]["auc"]
    assert found["reader"]["value"] == summary["best"]["pooled"]["value"]
    assert found["within_folds"]["difference"]["value"] == found["pooled"]["difference"]["value"] == 0
    assert all(way["sensitivity_test"]["p"] == 1 for way in summary["table2"][0]["helped"])
    assert "its difference from the model" in page.text


def test_a_readers_auc_is_tested_on_the_patients_that_the_reader_scored(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    patients = report(run)[2]
    score = np.random.default_rng(0).normal(size=96) + patients["label"]
    _, summary, _ = report(with_reader(run, patients, score=score.where(patients.index % 3 > 0), call=1))
    found, scored = summary["table2"][0]["auc"], patients.index % 3 > 0
    label, model, fold = (values[scored] for values in predictions.arrays(patients))
    expected = comparison.paired_mean_of_folds(label, score.to_numpy()[scored], model, fold)
    assert found["patients"] == 64 and found["within_folds"]["p"] == expected.p == found["within_folds"]["holm"]
    assert found["pooled"]["p"] == comparison.paired_delong(label, score.to_numpy()[scored], model).p
    assert found["reader"]["value"] == auc(label, score.to_numpy()[scored])


def test_calls_alone_give_no_auc_and_no_table_of_aucs(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    page, summary, _ = report(with_reader(run, report(run)[2], call=1))
    assert summary["table2"][0]["auc"] is None and "its difference from the model" not in page.text


def test_a_reader_who_scored_one_class_has_no_auc_but_a_page(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.5,))
    patients = report(run)[2]
    score = patients["probability"].where(patients["label"] == 0)
    page, summary, _ = report(with_reader(run, patients, score=score, call=0))
    found = summary["table2"][0]
    assert found["auc"]["reader"]["value"] is None and found["auc"]["pooled"]["holm"] is None
    assert found["measures"]["sensitivity"]["value"] == 0 and "What the readers would have reached" in page.text


def test_the_models_help_is_counted_patient_by_patient(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.2,))
    rows = [{"configuration": 0, "fold": fold, "threshold": 0.3 + fold / 20} for fold in range(10)]
    pd.DataFrame(rows).to_csv(run / "thresholds.csv", index=False)
    call = np.random.default_rng(1).integers(0, 2, 96)
    patients = report(run)[2]
    _, summary, _ = report(with_reader(run, patients, call=call))
    near = abs(patients["probability"] - patients["threshold"]) < BAND
    second = np.where(near, call, patients["call"])
    helped = {way["way"]: way for way in summary["table2"][0]["helped"]}
    expected = {
        "reader or model": call | patients["call"],
        "reader and model": call & patients["call"],
        "model as second opinion": second,
    }
    assert near.any() and not near.all()
    for name, calls in expected.items():
        right, alone, malignant = calls == patients["label"], call == patients["label"], patients["label"] == 1
        test = helped[name]["sensitivity_test"]
        assert helped[name]["counts"]["TP"] == (malignant & right).sum()
        assert test["only_helped_right"] == (malignant & right & ~alone).sum()
        assert test["p"] == comparison.mcnemar(test["only_alone_right"], test["only_helped_right"]).exact
    tests = [way[f"{kind}_test"] for way in helped.values() for kind in ("sensitivity", "specificity")]
    assert [test["holm"] for test in tests] == list(comparison.holm(np.array([test["p"] for test in tests])))


def test_every_readers_errors_are_analysed(tmp_path: Path) -> None:
    run = write_run(tmp_path / "a", (1.2,))
    write_readers_and_features(run)
    page, summary, patients = report(run)
    tables, errors = read_run(run), summary["features"]["errors"]
    assert tables.readers is not None and tables.features is not None
    assert [who["reader"] for who in errors] == ["model", *sorted(tables.readers["reader"].unique())]
    calls = tables.readers.pivot(index="patient_id", columns="reader", values="call").loc[patients["patient_id"]]
    benign = (patients["label"] == 0).to_numpy()
    for who in errors[1:]:
        call = calls[who["reader"]].to_numpy()
        features = tables.features.loc[patients["patient_id"]]
        expected = compare_features(features, benign & (call == 1), benign & (call == 0))
        assert [row["p"] for row in who["rows"]] == pytest.approx(expected["p"].tolist())
        assert (who["false_positives"], who["true_negatives"]) == (
            (benign & (call == 1)).sum(),
            (benign & (call == 0)).sum(),
        )
    assert "Where model and readers err" in page.text
