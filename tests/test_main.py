"""The program as its user runs it: end to end on a tiny phantom, again, on DICOM files, and misspelt."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pytest
import torch

from sweep.predictions import require_complete

TINY = ["data.phantom.patients=24", "folds.count=3", "search.configurations=2", "training.epochs=2", "input.size=32"]
TINY += [
    "augmentation.benign_factor=1",
    "augmentation.malignant_factor=2",
    "data.pixels_per_box=32",
    "search/space=resnet50",
]


def sweep(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`python -m sweep …` in a folder, as from a shell."""
    command = [sys.executable, "-m", "sweep", *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env=environment)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the tiny demo has been run once."""
    folder = tmp_path_factory.mktemp("workplace")
    done = sweep(folder, "name=demo", *TINY)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def run(workplace: Path) -> Path:
    return workplace / "runs" / "demo"


def test_the_run_folder_holds_everything(run: Path) -> None:
    names = ["settings.yaml", "cohort.csv", "excluded.csv", "split.csv", "configurations.csv", "predictions.parquet"]
    names += ["patients.csv", "tensorboard", "optuna.journal", "report.html", "summary.json", "sweep.log"]
    assert [name for name in names if not (run / name).exists()] == []
    best = pd.read_csv(run / "configurations.csv")["mean_fold_auc"].max().item()
    assert f'value="{best!r}"' in (run / "report.html").read_text()
    assert list((run / "tensorboard").rglob("*.tfevents.*"))
    assert "configuration 1 fold 2: AUC" in (run / "sweep.log").read_text()


def test_every_configuration_is_complete_and_out_of_fold(run: Path) -> None:
    configurations = pd.read_csv(run / "configurations.csv")
    assert configurations["state"].tolist() == ["complete", "complete"]
    text = {"patient_id": str, "sop_instance_uid": str}
    cohort, split = (pd.read_csv(run / f"{name}.csv", dtype=text) for name in ("cohort", "split"))
    predictions = pd.read_parquet(run / "predictions.parquet")
    for number in configurations["configuration"]:
        assert len(require_complete(predictions, cohort, split, number)) == len(cohort)


def test_configuration_0_has_the_settings_own_values(run: Path) -> None:
    own = pd.read_csv(run / "configurations.csv").iloc[0]
    assert (own["model.learning_rate"], own["augmentation.malignant_factor"], own["input.context"]) == (1e-4, 2, 1.0)


def test_the_same_command_again_trains_nothing_and_leaves_the_same_summary(workplace: Path, run: Path) -> None:
    summary = (run / "summary.json").read_bytes()
    units = {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("*")}
    again = sweep(workplace, "name=demo", *TINY)
    assert again.returncode == 0 and "nothing to train" in again.stderr
    assert (run / "summary.json").read_bytes() == summary
    assert {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("*")} == units


def test_more_configurations_extend_the_run(workplace: Path, run: Path) -> None:
    units = {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("DONE")}
    extended = sweep(workplace, "name=demo", *TINY, "search.configurations=3")
    assert extended.returncode == 0, extended.stderr
    after = {path: path.stat().st_mtime_ns for path in (run / "ledger").rglob("DONE")}
    assert units.items() <= after.items() and len(after) == len(units) + 3


def test_other_settings_do_not_mix_into_the_run(workplace: Path) -> None:
    refused = sweep(workplace, "name=demo", *TINY, "training.epochs=3")
    assert refused.returncode == 2
    assert "training.epochs was 2, now 3" in refused.stderr and "another name=" in refused.stderr


def test_without_a_name_other_settings_make_another_run() -> None:
    from sweep.compose import load_settings

    folders = {load_settings([*TINY, change]).run_folder for change in ("seed=1", "seed=2", "training.epochs=3")}
    assert len(folders) == 3


def test_the_report_is_rebuilt_from_the_run_folder_alone(workplace: Path, run: Path) -> None:
    page = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert sweep(workplace, "report", "runs/demo").returncode == 0
    assert (run / "report.html").read_text() == page


def test_dicom_files_give_what_the_phantom_they_are_gave(workplace: Path, run: Path) -> None:
    written = sweep(workplace, "phantom", "PHANTOM", "patients=24")
    assert written.returncode == 0, written.stderr
    files = ["data=dicom", "data.root=PHANTOM", "data.annotations=PHANTOM/annotations.csv"]
    tiny = [setting for setting in TINY if "phantom" not in setting]
    done = sweep(workplace, "name=mine", *files, *tiny)
    assert done.returncode == 0, done.stderr
    mine = workplace / "runs" / "mine"
    for name in ("cohort.csv", "split.csv"):
        assert (mine / name).read_bytes() == (run / name).read_bytes()
    first_two = [pd.read_parquet(folder / "predictions.parquet").query("configuration < 2") for folder in (mine, run)]
    pd.testing.assert_frame_equal(*first_two)


def test_shuffled_labels_are_permuted_between_patients_and_said_so(workplace: Path) -> None:
    done = sweep(workplace, "name=chance", *TINY, "data.shuffle_labels=true", "search.configurations=1")
    assert done.returncode == 0, done.stderr
    tables = [pd.read_csv(workplace / "runs" / name / "split.csv") for name in ("demo", "chance")]
    assert tables[0]["label"].sum() == tables[1]["label"].sum()
    assert (tables[0]["label"] != tables[1]["label"]).any()
    assert "shuffled" in (workplace / "runs" / "chance" / "report.html").read_text()


def test_a_missing_annotation_column_stops_before_training(tmp_path: Path) -> None:
    (tmp_path / "annotations.csv").write_text("patient_id,label\np1,0\n")
    done = sweep(tmp_path, "data=dicom", f"data.root={tmp_path}", "data.annotations=annotations.csv")
    assert done.returncode == 2 and "sop_instance_uid" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["search.configurations=0"],
        ["model.learning_rate=-1"],
        ["data.root=/nowhere"],
        ["bogus=1"],
        ["phantom"],
        ["phantom", "FOLDER", "patients=2"],
        ["phantom", "FOLDER", "size=2"],
        ["report", "runs/absent"],
        ["model.weights=README.md", "model=resnet50"],
    ],
)
def test_bad_input_is_exit_code_2_and_one_line(arguments: Sequence[str], tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no weights")
    done = sweep(tmp_path, *arguments)
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1 and done.stderr.startswith("sweep: ")
    assert not (tmp_path / "runs").exists()


def test_help_lists_every_setting_without_torch_or_ray(tmp_path: Path) -> None:
    code = (
        "import runpy, sys; sys.argv = ['sweep', '--help']\n"
        "try: runpy.run_module('sweep', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "print(sorted({'torch', 'ray', 'pandas', 'optuna'} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "model.learning_rate=" in done.stdout and "python -m sweep report" in done.stdout


def test_the_remedy_that_is_printed_works_under_the_same_name(workplace: Path) -> None:
    refused = sweep(workplace, "name=small", *TINY, "folds.count=10")
    assert refused.returncode == 2 and "write folds.count=6 or less" in refused.stderr
    assert not (workplace / "runs" / "small" / "settings.yaml").exists()
    done = sweep(workplace, "name=small", *TINY, "folds.count=2", "search.configurations=1", "training.epochs=1")
    assert done.returncode == 0, done.stderr


def test_moved_boxes_do_not_continue_a_run_on_other_images(workplace: Path) -> None:
    if not (workplace / "PHANTOM").exists():
        assert sweep(workplace, "phantom", "PHANTOM", "patients=24").returncode == 0
    moved = pd.read_csv(workplace / "PHANTOM" / "annotations.csv", dtype={"patient_id": str})
    files = ["data=dicom", "data.root=PHANTOM", "data.annotations=moved.csv", "search.configurations=1"]
    tiny = [setting for setting in TINY if "phantom" not in setting]
    moved.to_csv(workplace / "moved.csv", index=False)
    assert sweep(workplace, "name=moved", *files, *tiny, "training.epochs=1").returncode == 0
    moved[["x_min", "x_max"]] += 5
    moved.to_csv(workplace / "moved.csv", index=False)
    refused = sweep(workplace, "name=moved", *files, *tiny, "training.epochs=1")
    assert refused.returncode == 2 and "changed since this run began" in refused.stderr


def test_a_relative_path_of_weights_reaches_the_workers(workplace: Path, run: Path) -> None:
    weights = torch.load(next((run / "ledger").rglob("weights.pt")), weights_only=True)
    own = {name.removeprefix("network.network."): value for name, value in weights.items() if ".network." in name}
    torch.save(own, workplace / "own.pt")
    quick = ["search.configurations=1", "training.epochs=1", "model.weights=own.pt"]
    done = sweep(workplace, "name=pretrained", *TINY, *quick)
    assert done.returncode == 0, done.stderr


def test_an_output_that_is_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "runs").touch()
    done = sweep(tmp_path)
    assert done.returncode == 2 and len(done.stderr.strip().splitlines()) == 1 and "runs" in done.stderr


def test_a_failed_configuration_is_exit_code_1_and_named(workplace: Path) -> None:
    diverging = [
        "model.l2_weight=1e38",
        "model.learning_rate=10",
        "search/space=none",
        "search.configurations=1",
        "folds.count=2",
    ]
    tiny = [setting for setting in TINY if not setting.startswith(("search", "folds"))]
    done = sweep(workplace, "name=fails", *tiny, *diverging)
    assert done.returncode == 1, done.stderr
    assert re.search(r"configuration 0 failed at fold \d: training diverged", done.stderr)
    assert pd.read_csv(workplace / "runs" / "fails" / "configurations.csv")["state"].tolist() == ["failed"]
    assert "training diverged" in (workplace / "runs" / "fails" / "report.html").read_text()


def test_two_sweeps_never_share_a_folder(workplace: Path, run: Path) -> None:
    from sweep.run_folder import RunFolder

    with RunFolder(run).locked():
        refused = sweep(workplace, "name=demo", *TINY)
    assert refused.returncode == 2 and "another sweep is running" in refused.stderr


def test_the_summary_is_the_same_as_the_tables(run: Path) -> None:
    summary = json.dumps(json.loads((run / "summary.json").read_text()))
    best = pd.read_csv(run / "configurations.csv").nlargest(1, "mean_fold_auc").iloc[0]
    assert repr(float(best["mean_fold_auc"])) in summary


def test_ingest_reads_the_cohort_only_and_the_sweep_goes_on_from_there(workplace: Path) -> None:
    phantom = workplace / "LOOK"
    assert sweep(workplace, "phantom", "LOOK", "patients=20").returncode == 0
    files = ["name=look", "data=dicom", "data.root=LOOK", "data.annotations=LOOK/annotations.csv"]
    done = sweep(workplace, "ingest", *files)
    assert done.returncode == 0, done.stderr
    assert "excluded" in done.stderr and "20 patients" in done.stderr and "ingest.html" in done.stderr
    run = workplace / "runs" / "look"
    assert {"cohort.csv", "excluded.csv", "ingest.html"} <= {path.name for path in run.iterdir()}
    assert not (run / "split.csv").exists()
    table = pd.read_csv(phantom / "annotations.csv", dtype=str)
    lost = table["patient_id"].unique()[:3]
    table.loc[table["patient_id"].isin(lost), "x_max"] = "9999"
    table.to_csv(phantom / "annotations.csv", index=False)
    for command in (["ingest"], []):
        refused = sweep(workplace, *command, *files)
        assert refused.returncode == 2 and "3 of 20 patients (15%) fall out" in refused.stderr
    assert set(pd.read_csv(run / "excluded.csv", dtype=str)["patient_id"]) == set(lost)
    tiny = [setting for setting in TINY if "phantom" not in setting and "configurations" not in setting]
    tiny += ["folds.count=2", "search.configurations=1", "training.epochs=1", "data.max_excluded=0.2"]
    assert sweep(workplace, *files, *tiny).returncode == 0


def test_nested_repeats_and_permutations_are_added_to_a_finished_run(workplace: Path, run: Path) -> None:
    further = ["evaluation=nested", "evaluation.repeats=2", "evaluation.permutations=1"]
    complete = len(pd.read_csv(run / "configurations.csv"))  # three where the run has been extended before
    done = sweep(workplace, "name=demo", *TINY, *further)
    assert done.returncode == 0, done.stderr
    assert "evaluation.nested: 15 fold-trainings" in done.stderr
    assert f"evaluation.repeats: {2 * 3 * complete} fold-trainings" in done.stderr
    text = {"patient_id": str}
    patients, split = (pd.read_csv(run / f"{name}.csv", dtype=text) for name in ("nested_patients", "split"))
    predicted = patients.sort_values("patient_id", ignore_index=True)[["patient_id", "label", "fold"]]
    pd.testing.assert_frame_equal(predicted, split)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["nested"]["mean_of_folds"]["value"] == pytest.approx(pd.read_csv(run / "nested.csv")["auc"].mean())
    assert [len(row["other_splits"]) for row in summary["repeats"]] == [2] * complete
    assert summary["permutations"]["p"] in (0.5, 1)
    assert "nested cross-validation" in (run / "report.html").read_text()
    again = sweep(workplace, "name=demo", *TINY, *further)
    assert again.returncode == 0 and "outer fold" not in again.stderr
    assert json.loads((run / "summary.json").read_text()) == summary
    journal = min((run / "splits").glob("*.journal"))
    written = journal.read_bytes()
    journal.write_bytes(written.replace(b'"worker_id":"', b'"worker_id":"x', 1))
    refused = sweep(workplace, "name=demo", *TINY, *further)
    assert refused.returncode == 2 and f"{journal.name}: not as it was written" in refused.stderr
    journal.write_bytes(written)
    assert sweep(workplace, "name=demo", *TINY).returncode == 0
    assert not (run / "nested.csv").exists()
    assert json.loads((run / "summary.json").read_text())["nested"] is None
