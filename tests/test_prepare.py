"""A split is made once; a run never goes on with other images, boxes, labels or weights than it began with."""

from pathlib import Path

import pandas as pd
import pytest
import torch

from datasets.annotations import CohortError
from datasets.ingest import Ingested
from datasets.patches import PatchStore
from sweep.compose import load_settings
from sweep.prepare import check_networks, prepare_split, require_patients, write_cohort
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
    write_cohort(run, settings(), Ingested(store, 10, {"not DICOM": 2}))
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
    shuffled = settings("data.shuffle_labels=true")
    split = prepare_split(run, shuffled, store).set_index("patient_id")["label"]
    write_cohort(run, shuffled, Ingested(store, 10, {}))
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


def test_a_refused_run_keeps_the_cohort_it_began_with(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    write_cohort(run, settings(), Ingested(store, 10, {}))
    prepare_split(run, settings(), store)
    before = (tmp_path / "cohort.csv").read_bytes()
    other = write_store(tmp_path / "other", patients=30)
    with pytest.raises(SettingsError, match="changed since this run began"):
        write_cohort(run, settings(), Ingested(PatchStore(other.folder, "other"), 10, {}))
    assert (tmp_path / "cohort.csv").read_bytes() == before


@pytest.mark.parametrize(("most", "enough"), [(0.1, False), (0.2, True)])
def test_a_cohort_that_lost_too_many_patients_does_not_start(tmp_path: Path, most: float, enough: bool) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    lost = pd.DataFrame({"patient_id": ["a", "b", "b", "c"], "item": "1.2", "reason": "no T1W", "remedy": "add it"})
    lost.to_csv(store.folder / "excluded.csv", index=False)
    own = settings(f"data.max_excluded={most}")
    if enough:
        require_patients(run, own, store)
        return
    message = r"3 of 27 patients \(11%\) fall out, more than data.max_excluded=0.1; .* no T1W; add it.*excluded.csv"
    with pytest.raises(CohortError, match=message):
        require_patients(run, own, store)


def test_a_cohort_without_patients_never_starts(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    store.lesions.iloc[:0].to_csv(store.folder / "cohort.csv", index=False)
    empty = PatchStore(store.folder, "empty")
    with pytest.raises(CohortError, match="0 of 0 patients"):
        require_patients(run, settings("data.max_excluded=1"), empty)
