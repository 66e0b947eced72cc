"""One driver and one meaning for a run folder; tables hold what the ledger holds."""

from math import isnan
from pathlib import Path

import pandas as pd
import pytest

from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.ledger import Ledger
from sweep.run_folder import RunFolder, fold_threshold, held_out_auc, write_tables
from sweep.settings import SettingsError

FOLDS = 2
RESULT = '{"best_epoch": 2, "epochs": 3, "seconds": 1.5, "side_by_side": 1}'
EVALUATION = load_settings([]).evaluation


def finish_fold(ledger: Ledger, candidate: Candidate, fold: int, malignant_probability: float) -> None:
    """A finished fold of two malignant and two benign patients, two slices each."""
    rows = [
        {"patient_id": f"{fold}-{patient}", "sop_instance_uid": f"{fold}.{patient}.{slice_number}", "label": label}
        | {"probability": (malignant_probability if label else 0.4) - 0.1 * slice_number}
        for patient, label in enumerate((1, 1, 0, 0))
        for slice_number in range(2)
    ]
    unit = candidate.unit(fold)
    inner = pd.DataFrame(rows).assign(patient_id=lambda table: "inner-" + table["patient_id"])
    inner["probability"] -= 0.2
    pd.DataFrame(rows).to_parquet(ledger.begin(unit) / "predictions.parquet", index=False)
    inner.to_parquet(ledger.begin(unit) / "inner_predictions.parquet", index=False)
    (ledger.begin(unit) / "result.json").write_text(RESULT)
    ledger.finish(unit)
    candidate.fold_aucs[fold] = held_out_auc(ledger, unit)


@pytest.fixture
def candidates() -> list[Candidate]:
    settings = load_settings([])
    values = [settings.own_values(), settings.own_values() | {"model.learning_rate": 0.001}]
    return [Candidate(number, v, settings.configuration(v), FOLDS) for number, v in enumerate(values)]


def test_a_folds_auc_is_per_patient_by_the_highest_slice(tmp_path: Path, candidates: list[Candidate]) -> None:
    ledger = Ledger(tmp_path, "split")
    finish_fold(ledger, candidates[0], 0, malignant_probability=0.45)
    assert candidates[0].fold_aucs[0] == 1.0  # by slice 0.45 and 0.35 against 0.4 and 0.3 would give 0.75
    finish_fold(ledger, candidates[0], 1, malignant_probability=0.4)
    assert candidates[0].fold_aucs[1] == 0.5


def test_the_tables_hold_the_finished_folds(tmp_path: Path, candidates: list[Candidate]) -> None:
    ledger, run = Ledger(tmp_path / "ledger", "split"), RunFolder(tmp_path)
    for fold in range(FOLDS):
        finish_fold(ledger, candidates[0], fold, malignant_probability=0.9)
    finish_fold(ledger, candidates[1], 0, malignant_probability=0.9)
    candidates[1].failures[1] = "out of memory"
    write_tables(run, ledger, candidates, EVALUATION)
    table = pd.read_csv(tmp_path / "configurations.csv")
    assert table["state"].tolist() == ["complete", "failed"]
    assert table["folds_done"].tolist() == [2, 1]
    assert table["mean_fold_auc"].isna().tolist() == [False, True], "a missing fold was averaged away"
    assert table["failure"][1] == "fold 1: out of memory"
    assert table["model.learning_rate"].tolist() == [1e-4, 1e-3]
    predictions = pd.read_parquet(tmp_path / "predictions.parquet")
    assert predictions.groupby(["configuration", "fold"]).size().to_dict() == {(0, 0): 8, (0, 1): 8, (1, 0): 8}

    thresholds = pd.read_csv(tmp_path / "thresholds.csv")
    assert thresholds.to_numpy().tolist() == [[0, 0, 0.5], [0, 1, 0.5], [1, 0, 0.5]]
    costs = pd.read_csv(tmp_path / "costs.csv")[["configuration", "fold", "epochs", "seconds"]]
    assert costs.to_numpy().tolist() == [[0, 0, 3, 1.5], [0, 1, 3, 1.5], [1, 0, 3, 1.5]]


def test_the_auc_of_folds_and_configurations_follows_the_rule_of_slices(
    tmp_path: Path, candidates: list[Candidate]
) -> None:
    ledger, run, candidate = Ledger(tmp_path / "ledger", "split"), RunFolder(tmp_path), candidates[0]
    slices = {("a", 1): [0.9, 0.9], ("b", 1): [0.8, 0.8], ("c", 0): [0.95, 0.1], ("d", 0): [0.1, 0.1]}
    rows = [(f"{who}", label, p) for (who, label), values in slices.items() for p in values]
    for fold in range(FOLDS):
        table = pd.DataFrame(rows, columns=["patient_id", "label", "probability"])
        table["patient_id"] += str(fold)
        table["sop_instance_uid"] = [f"1.{number}" for number in range(len(rows))]
        table.to_parquet(ledger.begin(candidate.unit(fold)) / "predictions.parquet", index=False)
        (ledger.begin(candidate.unit(fold)) / "result.json").write_text(RESULT)
        ledger.finish(candidate.unit(fold))
        assert held_out_auc(ledger, candidate.unit(fold)) == 0.5  # c's one high slice stands above a and b
        candidate.fold_aucs[fold] = held_out_auc(ledger, candidate.unit(fold), "mean")
    write_tables(run, ledger, [candidate], load_settings(["evaluation.slices=mean"]).evaluation)
    assert pd.read_csv(tmp_path / "configurations.csv").loc[0, "mean_fold_auc"] == candidate.mean_fold_auc == 1.0


@pytest.mark.parametrize(("setting", "expected"), [("youden", 0.475), ("sensitivity", 0.475), ("fixed", 0.5)])
def test_a_threshold_is_chosen_on_inner_validation_patients(
    tmp_path: Path, candidates: list[Candidate], setting: str, expected: float
) -> None:
    """Inner patients score 0.75 and 0.2, the fold's own 0.95 and 0.4: chosen there it would be 0.675."""
    ledger, evaluation = Ledger(tmp_path, "split"), load_settings([f"evaluation.threshold={setting}"]).evaluation
    finish_fold(ledger, candidates[0], 0, malignant_probability=0.95)
    assert fold_threshold(ledger, candidates[0].unit(0), evaluation) == pytest.approx(expected)


@pytest.mark.parametrize("inner", [[], [0, 1]])
def test_without_inner_patients_of_both_classes_the_threshold_is_the_fixed_one(
    tmp_path: Path, candidates: list[Candidate], inner: list[int]
) -> None:
    ledger, unit = Ledger(tmp_path, "split"), candidates[0].unit(0)
    finish_fold(ledger, candidates[0], 0, malignant_probability=0.95)
    file = ledger.finished(unit) / "inner_predictions.parquet"
    pd.read_parquet(file).iloc[inner].to_parquet(file, index=False)
    assert fold_threshold(ledger, unit, load_settings(["evaluation.threshold=youden"]).evaluation) == 0.5


def test_a_fold_of_one_class_has_no_auc(tmp_path: Path, candidates: list[Candidate]) -> None:
    ledger, unit = Ledger(tmp_path, "split"), candidates[0].unit(0)
    finish_fold(ledger, candidates[0], 0, malignant_probability=0.95)
    file = ledger.finished(unit) / "predictions.parquet"
    pd.read_parquet(file).query("label == 0").to_parquet(file, index=False)
    assert isnan(held_out_auc(ledger, unit))


def test_tables_can_be_written_before_any_fold_is_finished(tmp_path: Path, candidates: list[Candidate]) -> None:
    write_tables(RunFolder(tmp_path), Ledger(tmp_path / "ledger", "split"), candidates, EVALUATION)
    assert pd.read_parquet(tmp_path / "predictions.parquet").empty
    assert pd.read_csv(tmp_path / "configurations.csv")["state"].tolist() == ["running", "running"]
    write_tables(RunFolder(tmp_path), Ledger(tmp_path / "ledger", "split"), [], EVALUATION)
    assert pd.read_csv(tmp_path / "configurations.csv").empty
    assert pd.read_csv(tmp_path / "thresholds.csv").columns.tolist() == ["configuration", "fold", "threshold"]


def test_a_run_takes_the_same_settings_again_and_no_others(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.require(load_settings(["seed=1"]))  # nothing here yet
    run.save(load_settings([]))
    run.require(load_settings(["search.configurations=9", "resources.tries=1"]))
    with pytest.raises(SettingsError, match=r"seed was 2022, now 1"):
        run.require(load_settings(["seed=1"]))
    with pytest.raises(SettingsError, match=r"model\.backbone was narrow, now resnet50; "):
        run.require(load_settings(["model=resnet50"]))


def test_a_run_is_evaluated_anew_but_not_with_another_rule_of_slices(tmp_path: Path) -> None:
    run, readers = RunFolder(tmp_path), tmp_path / "readers.csv"
    run.save(load_settings([]))
    readers.touch()
    others = ["evaluation.threshold=youden", "evaluation.resamples=200", f"evaluation.readers={readers}"]
    run.require(load_settings([*others, "evaluation.sensitivity=0.9", f"evaluation.features={readers}"]))
    with pytest.raises(SettingsError, match=r"evaluation\.slices was max, now mean\); write those, or another name="):
        run.require(load_settings(["evaluation.slices=mean"]))
    with pytest.raises(SettingsError, match=r"folds\.by was patient, now site"):
        run.require(load_settings(["folds=leave_one_site_out"]))


@pytest.mark.parametrize("text", ["", "name: x\n", "{"])
def test_settings_of_another_version_are_refused_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / "settings.yaml").write_text(text)
    with pytest.raises(SettingsError, match=r"settings\.yaml: not written by this version; write another name="):
        RunFolder(tmp_path).require(load_settings([]))


def test_a_folder_is_locked_for_one_driver_at_a_time(tmp_path: Path) -> None:
    second = RunFolder(tmp_path).locked()
    with RunFolder(tmp_path).locked(), pytest.raises(SettingsError, match="another sweep is running"):
        second.__enter__()
    with RunFolder(tmp_path).locked():
        pass
