"""A split is made once; a run never goes on with other images, boxes, labels or weights than it began with."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from datasets.annotations import CohortError
from sweep.compose import load_settings
from sweep.prepare import check_networks, prepare_split
from sweep.run_folder import RunFolder
from sweep.settings import Settings, SettingsError
from tests.stores import write_store


def settings(*overrides: str) -> Settings:
    return load_settings(["folds.count=3", *overrides])


def test_the_split_is_made_once_and_then_read(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    first = prepare_split(run, settings(), store)
    first.assign(fold=2 - first["fold"]).to_csv(run.split, index=False)
    assert (prepare_split(run, settings(), store)["fold"] == 2 - first["fold"]).all()
    assert len(pd.read_csv(tmp_path / "cohort.csv")) == len(store.lesions)


def test_another_patch_store_is_refused(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    prepare_split(run, settings(), store)
    other = type(store)(store.folder, "another digest")
    with pytest.raises(SettingsError, match="changed since this run began; write another name="):
        prepare_split(run, settings(), other)


def test_other_weights_in_the_same_file_are_refused(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    (tmp_path / "own.pt").write_bytes(b"first")
    own = settings(f"model.weights={tmp_path}/own.pt")
    prepare_split(run, own, store)
    prepare_split(run, own, store)
    (tmp_path / "own.pt").write_bytes(b"second")
    with pytest.raises(SettingsError, match="pretrained weights changed"):
        prepare_split(run, own, store)


def test_shuffled_labels_are_in_split_and_cohort_alike(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    split = prepare_split(run, settings("data.shuffle_labels=true"), store).set_index("patient_id")["label"]
    cohort = pd.read_csv(tmp_path / "cohort.csv").drop_duplicates("patient_id").set_index("patient_id")["label"]
    assert (split == cohort[split.index]).all()
    own = store.lesions.drop_duplicates("patient_id").set_index("patient_id")["label"]
    assert (split != own[split.index]).any() and split.sum() == own.sum()


def test_patients_that_cannot_be_split_leave_no_split(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store", patients=9), RunFolder(tmp_path)
    with pytest.raises(CohortError, match=r"write folds\.count=3 or less"):
        prepare_split(run, settings("folds.count=10"), store)
    assert not run.split.exists()
    assert len(prepare_split(run, settings(), store)) == 9


def test_weights_that_do_not_fit_a_searched_network_are_found_beforehand(tmp_path: Path) -> None:
    from lightning_modules.backbone import build_backbone

    torch.save(build_backbone("resnet18", stem="7x7").network.state_dict(), tmp_path / "resnet18.pt")
    fitting = ["model.backbone=resnet18", f"model.weights={tmp_path}/resnet18.pt"]
    check_networks(settings(*fitting))
    stems = "search.space.model.stem={choices: [7x7, 3x3]}"
    with pytest.raises(SettingsError, match="the first convolution is of another stem"):
        check_networks(settings(*fitting, stems))
