"""A split is made once; a run never goes on with other images, boxes, labels or weights than it began with.

Readers and features come into the run folder under the identifiers of the cohort, or not at all.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from datasets.annotations import CohortError
from datasets.fold_data import FoldData
from datasets.ingest import Ingested
from datasets.patch_store import PatchStore
from sweep.compose import load_settings
from sweep.features import read_features
from sweep.prepare import check_networks, prepare_patches, prepare_split, require_patients, write_cohort
from sweep.readers import read_readers
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
    write_cohort(run, settings(), Ingested(store, 10, {"not DICOM": 2}, 4))
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
    write_cohort(run, shuffled, Ingested(store, 10, {}, 4))
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
    from lightning_modules.backbone import NetworkError, build_backbone

    torch.save(build_backbone("resnet18", stem="7x7").network.state_dict(), tmp_path / "resnet18.pt")
    fitting = ["model.backbone=resnet18", f"model.weights={tmp_path}/resnet18.pt"]
    check_networks(settings(*fitting))
    stems = "search.space.model.stem={choices: [7x7, 3x3]}"
    with pytest.raises(NetworkError, match="the first convolution is of another stem"):
        check_networks(settings(*fitting, stems))


def test_a_refused_run_keeps_the_cohort_it_began_with(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    write_cohort(run, settings(), Ingested(store, 10, {}, 4))
    prepare_split(run, settings(), store)
    before = (tmp_path / "cohort.csv").read_bytes()
    other = write_store(tmp_path / "other", patients=30)
    with pytest.raises(SettingsError, match="changed since this run began"):
        write_cohort(run, settings(), Ingested(PatchStore(other.folder, "other"), 10, {}, 4))
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


def store_at_sites(folder: Path, *sites: str) -> PatchStore:
    """A small store whose patients are at the sites in turn."""
    store = write_store(folder)
    number = store.lesions["patient_id"].str.split().str[1].astype(int)
    store.lesions.assign(site=number.map(lambda n: sites[n % len(sites)])).to_csv(folder / "cohort.csv", index=False)
    return PatchStore(folder, "sites")


def test_no_site_is_trained_on_or_stopped_by_in_the_fold_that_holds_it_out(tmp_path: Path) -> None:
    store = store_at_sites(tmp_path / "store", "A", "B", "C", "D")
    own = settings("folds=leave_one_site_out", "folds.count=null")
    split = prepare_split(RunFolder(tmp_path), own, store)
    assert pd.read_csv(tmp_path / "split.csv").columns.tolist() == ["patient_id", "label", "fold"]
    site, configuration = store.lesions["site"].to_numpy(), own.configuration({})
    for fold in range(4):
        data = FoldData(
            store.lesions,
            split,
            fold,
            batch_size=8,
            benign_factor=1,
            malignant_factor=1,
            early_stopping="inner",
            inner_fraction=configuration.inner_fraction,
            seed=own.seed,
            order_seed=0,
        )
        held_out, seen = set(site[data.held_out_rows]), set(site[[*data.training_rows, *data.inner_rows]])
        assert held_out == {"ABCD"[fold]} and seen == {*"ABCD"} - held_out
        rows = np.concatenate([data.held_out_rows, data.training_rows, data.inner_rows])
        assert sorted(rows) == list(range(len(store.lesions)))


def test_without_sites_no_site_is_left_out(tmp_path: Path) -> None:
    own = settings("folds=leave_one_site_out", "folds.count=null")
    with pytest.raises(CohortError, match=r"24 of 24 patients have no site; fill the column site"):
        prepare_split(RunFolder(tmp_path), own, write_store(tmp_path / "store"))
    assert not (tmp_path / "split.csv").exists()


def test_the_phantoms_readers_and_features_come_along_under_the_cohorts_pseudonyms(tmp_path: Path) -> None:
    own = settings("data.phantom.patients=8", f"cache={tmp_path}/cache", "data.pseudonyms=true")
    own = own.model_copy(update={"data": own.data.model_copy(update={"pseudonym_key": tmp_path / "key"})})
    ingested = prepare_patches(own)
    write_cohort(RunFolder(tmp_path), own, ingested)
    cohort = set(pd.read_csv(tmp_path / "cohort.csv")["patient_id"])
    readers, features = read_readers(tmp_path / "readers.csv"), read_features(tmp_path / "features.csv")
    assert set(readers["patient_id"]) == set(features.index) == cohort and len(cohort) == 8
    assert all(patient.startswith("P-") for patient in cohort) and readers["reader"].nunique() > 1
    assert features.isin([0, 1]).all(axis=None)


def own_readers(tmp_path: Path, text: str) -> Settings:
    (tmp_path / "mine.csv").write_text(text, encoding="utf-8-sig")
    return settings(f"evaluation.readers={tmp_path}/mine.csv", f"cache={tmp_path}/cache")


def test_readers_are_read_as_annotations_are(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Semicolons, blanks and decomposed letters; notes stay behind, and patients that are not in the cohort."""
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    lesions = store.lesions.replace({"patient_id": {"patient 03": "M\u00fcller"}})
    lesions.to_csv(store.folder / "cohort.csv", index=False)
    rows = ["patient_id;reader;score;note", " patient 01 ;=A;0.75;secret", "Mu\u0308ller;=A;0.25", "somebody;=A;1;"]
    with caplog.at_level("INFO", logger="sweep"):
        write_cohort(run, own_readers(tmp_path, "\n".join(rows)), Ingested(PatchStore(store.folder, "x"), 1, {}, 4))
    table = read_readers(tmp_path / "readers.csv")
    assert table.to_numpy().tolist() == [["patient 01", "=A", 1, 0.75], ["M\u00fcller", "=A", 0, 0.25]]
    assert "secret" not in (tmp_path / "readers.csv").read_text()
    assert "readers.csv: left out 1 patients that are not in the cohort" in caplog.text
    assert "somebody" not in caplog.text


def test_readers_that_are_no_longer_given_leave_the_run_folder(tmp_path: Path) -> None:
    store, run = write_store(tmp_path / "store"), RunFolder(tmp_path)
    given = own_readers(tmp_path, "patient_id,reader,call\npatient 01,A,1\n")
    write_cohort(run, given, Ingested(store, 1, {}, 4))
    assert (tmp_path / "readers.csv").exists() and not (tmp_path / "features.csv").exists()
    write_cohort(run, settings(f"cache={tmp_path}/cache"), Ingested(store, 1, {}, 4))
    assert not (tmp_path / "readers.csv").exists()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("patient,reader,call\np,A,1\n", r"evaluation\.readers=.*mine\.csv: no column patient_id: add it"),
        ("patient_id,reader\np,A\n", r"mine\.csv: no column call or score: add it"),
        ("patient_id,reader,call\np,A,maybe\n", r"reader A, patient p \(call maybe, .* needs a call of 0 or 1"),
        ("patient_id,reader,call\np,A,1\n p,A,0\n", "has two rows: keep one"),
        (
            "patient_id,reader,score\np,A,0,7\n",
            "mine.csv, line 2: cannot be read: more values than columns; write numbers",
        ),
        ("", r"evaluation\.readers=.*mine\.csv: no column patient_id, reader: add it"),
        ('patient_id,reader,call\n"p', "cannot be read as CSV"),
        ("patient_id,reader,call,call\np,A,1,0\n", r"mine\.csv: several columns 'call'; remove all but one"),
    ],
)
def test_readers_that_cannot_be_used_stop_before_anything_is_written(tmp_path: Path, text: str, problem: str) -> None:
    given = own_readers(tmp_path, text)
    with pytest.raises((SettingsError, CohortError), match=problem) as error:
        prepare_patches(given)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "cache").exists()


def test_features_other_than_0_and_1_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("patient_id,pedicle\np,yes\n")
    with pytest.raises(SettingsError, match=r"evaluation\.features=.*patient p, pedicle is yes: write 1, 0 or nothing"):
        prepare_patches(settings(f"evaluation.features={tmp_path}/mine.csv", f"cache={tmp_path}/cache"))
