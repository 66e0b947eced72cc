"""DICOM and annotations to a patch store: geometry end to end, what rebuilds it, what is excluded, privacy."""

import io
import json
import os
import pickle
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydicom import dcmread
from scipy import ndimage

from datasets.annotations import CohortError, read_annotations
from datasets.cohort import LESION_COLUMNS, build_cohort
from datasets.ingest import ingest
from datasets.ingest_rules import IngestRules
from datasets.leakage import LeakageError
from datasets.patch_store import PatchStore
from datasets.patches import build_store
from datasets.phantom import simulate_patient
from datasets.phantom_dicom import write_study
from datasets.workers import unheard, workers
from tests.mr_files import (
    SERIES_RULES,
    Brightness,
    Stack,
    annotation,
    enhanced_dataset,
    read_folder,
    study,
    texture,
    write_stack,
)

BOX = (12.0, 14.0, 26.0, 28.0)
Row = dict[str, Any]
RULES = IngestRules(pixels_per_box=16, series=SERIES_RULES)


def of_patient(number: int) -> Brightness:
    """Another part of the texture for every patient: equal pixels would be leakage."""
    return lambda points: texture(points + 5 * number)


def write_cohort(folder: Path, patients: int = 3) -> tuple[Path, Path]:
    """Images of some patients with two lesion slices each, and their annotations beside them."""
    rows: list[Row] = []
    for number in range(patients):
        t2, t1 = study(number, spacing=(1.5, 1.6), rows=64, columns=60)
        for stack in (t2, t1):
            write_stack(folder / "images" / str(number), stack, of_patient(number))
        rows += [annotation(f"{number:03d}", number % 2, t2, index, BOX) for index in (2, 3)]
    pd.DataFrame(rows).to_csv(folder / "annotations.csv", index=False)
    return folder / "images", folder / "annotations.csv"


def run(folder: Path, processes: int = 1, **rules: Any) -> tuple[PatchStore, list[str]]:
    """The store and the stages that the ingest went through."""
    stages: dict[str, None] = {}

    def note(stage: str, done: int, total: int) -> None:
        assert 0 < done <= total
        stages[stage] = None

    images, annotations, cache = (folder / name for name in ("images", "annotations.csv", "cache"))
    chosen = RULES.model_copy(update=rules)
    return ingest(images, annotations, cache, chosen, processes=processes, progress=note).store, [*stages]


def file_of(folder: Path, sop: str) -> Path:
    (path,) = (path for path in folder.iterdir() if dcmread(path).SOPInstanceUID == sop)
    return path


def test_store_holds_six_channels_in_order(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    store, stages = run(tmp_path)
    patches = store.patches()
    assert stages == ["headers", "hashes", "patches"]
    assert patches.shape == (6, 6, 48, 48)
    assert patches.dtype == np.float16
    assert isinstance(patches, np.memmap)
    assert not patches.flags.writeable
    assert list(store.lesions) == LESION_COLUMNS
    assert store.lesions["patient_id"].tolist() == ["000", "000", "001", "001", "002", "002"]
    assert list(store.excluded) == ["patient_id", "item", "reason", "remedy"]
    assert store.folder == tmp_path / "cache" / "patches" / store.digest
    names = ["checksums.json", "cohort.csv", "excluded.csv", "patches.npy"]
    assert sorted(path.name for path in store.folder.iterdir()) == names
    # Slices 2 and 3 are neighbours, slice 3 lies to the right of 2: what one calls same the other calls next.
    np.testing.assert_array_equal(patches[0, 3], patches[1, 4])
    np.testing.assert_array_equal(patches[0, 4], patches[1, 5])


def test_values_are_the_image_over_its_scale_and_0_outside(tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1)
    store, _ = run(tmp_path, widest_context=8.0)
    t2, _ = study(0)
    image = np.rint(texture(t2.points(2)))
    scale = np.percentile(image, 99)
    x = 19.0 + (np.arange(128) - 63.5) * 14 / 16
    y = 21.0 + (np.arange(128) - 63.5) * 14 / 16
    expected = ndimage.map_coordinates(image, np.meshgrid(y, x, indexing="ij"), order=1, cval=0.0)
    found = store.patches()[0, 4].astype(float)
    assert (found == 0).mean() > 0.5
    inside = expected > 0
    np.testing.assert_allclose(found[inside] / (expected[inside] / scale), 1.0, atol=0.01)
    assert np.ptp(found[inside] / expected[inside]) * scale < 2e-3


def test_t1_and_t2_of_equal_anatomy_give_equal_patches(tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1)
    store, _ = run(tmp_path, widest_context=1.5)
    t1, t2 = np.split(store.patches()[0].astype(float), 2)
    assert np.abs(t1 / t1.mean() - t2 / t2.mean()).max() < 0.03


def test_second_run_reads_nothing(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    first, _ = run(tmp_path)
    second, stages = run(tmp_path)
    assert stages == []
    assert second == first


def test_moved_and_touched_files_do_not_rebuild(tmp_path: Path) -> None:
    images, _ = write_cohort(tmp_path)
    first, _ = run(tmp_path)
    images.rename(tmp_path / "elsewhere")
    images.mkdir()
    for number, path in enumerate(sorted((tmp_path / "elsewhere").rglob("*-*"))):
        path.rename(images / f"{number}.dcm")
        os.utime(images / f"{number}.dcm")
    second, stages = run(tmp_path)
    assert stages == ["headers", "hashes"]
    assert second == first


def flip_pixel(folder: Path) -> None:
    path = sorted((folder / "images" / "1").iterdir())[3]
    content = bytearray(path.read_bytes())
    content[-1500] ^= 1
    path.write_bytes(content)


def edit_annotations(column: str, value: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        table = pd.read_csv(folder / "annotations.csv", dtype=str)
        table.loc[table["patient_id"] == "001", column] = str(value)
        table.to_csv(folder / "annotations.csv", index=False)

    return edit


@pytest.mark.parametrize(
    "change", [flip_pixel, edit_annotations("x_max", 26.5), edit_annotations("label", 0), edit_annotations("site", "X")]
)
def test_changed_pixel_box_label_or_site_rebuilds(tmp_path: Path, change: Callable[[Path], None]) -> None:
    write_cohort(tmp_path)
    first, _ = run(tmp_path)
    change(tmp_path)
    second, stages = run(tmp_path)
    assert stages == ["headers", "hashes", "patches"]
    assert second.digest != first.digest
    assert first.folder.is_dir()


def test_settings_and_exclusions_belong_to_the_content(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    first, _ = run(tmp_path)
    finer, _ = run(tmp_path, pixels_per_box=20)
    with (tmp_path / "annotations.csv").open("a") as file:
        file.write("lost,0,9.9,1,2,3,4\n")
    with_lost, _ = run(tmp_path)
    assert len({first.digest, finer.digest, with_lost.digest}) == 3
    assert with_lost.excluded["patient_id"].tolist() == ["lost"]
    np.testing.assert_array_equal(with_lost.patches(), first.patches())


def test_any_number_of_processes_gives_the_same_bytes(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    alone, _ = run(tmp_path)
    content = (alone.folder / "patches.npy").read_bytes()
    shutil.rmtree(tmp_path / "cache")
    together, _ = run(tmp_path, processes=2)
    assert together.digest == alone.digest
    assert (together.folder / "patches.npy").read_bytes() == content


def test_interrupted_build_leaves_no_store(tmp_path: Path) -> None:
    images, annotations = write_cohort(tmp_path)

    def interrupt(stage: str, done: int, _: int) -> None:
        if (stage, done) == ("patches", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ingest(images, annotations, tmp_path / "cache", RULES, processes=1, progress=interrupt)
    assert list((tmp_path / "cache" / "patches").iterdir()) == []
    _, stages = run(tmp_path)
    assert "patches" in stages


def test_cache_inside_the_image_folder_is_not_ingested(tmp_path: Path) -> None:
    images, annotations = write_cohort(tmp_path)
    first = ingest(images, annotations, images / "cache", RULES)
    seen: list[str] = []
    assert ingest(images, annotations, images / "cache", RULES, progress=lambda *step: seen.append(step[0])) == first
    assert seen == []


def test_patient_with_unreadable_pixels_is_excluded_with_the_reason(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    whole, _ = run(tmp_path)
    t2, _ = study(1)
    used = file_of(tmp_path / "images" / "1", t2.sop(2))
    used.write_bytes(used.read_bytes()[:-100])
    store, _ = run(tmp_path)
    assert store.lesions["patient_id"].tolist() == ["000", "000", "002", "002"]
    np.testing.assert_array_equal(store.patches(), whole.patches()[[0, 1, 4, 5]])
    (row,) = store.excluded.to_dict("records")
    assert row["patient_id"] == "001"
    assert "Explicit VR Little Endian" in row["reason"]
    again, stages = run(tmp_path)
    assert stages == []
    assert again.excluded.equals(store.excluded)


def test_no_patient_left_is_an_empty_store_with_the_reasons(tmp_path: Path) -> None:
    images, _ = write_cohort(tmp_path, patients=1)
    for path in images.rglob("*-*"):
        path.write_bytes(path.read_bytes()[:-100])
    store, _ = run(tmp_path)
    assert store.patches().shape == (0, 6, 48, 48) and store.lesions.empty
    assert set(store.excluded["patient_id"]) == {"000"}
    shutil.rmtree(images)
    with pytest.raises(CohortError, match="no files; give the folder"):
        run(tmp_path)
    images.mkdir()
    (images / "readme").write_text("no images here")
    store, _ = run(tmp_path)
    assert set(store.excluded["reason"]) == {"no readable image has this SOPInstanceUID"}


def same_pixels_twice(folder: Path, labels: tuple[int, int]) -> None:
    """One person's images under new UIDs as a second patient, beside a third patient."""
    rows: list[Row] = []
    for number in range(3):
        for stack in study(number):
            write_stack(folder / "images", stack, of_patient(max(number, 1)))
        label = labels[number] if number < 2 else 0
        rows.append(annotation(f"P{number}", label, study(number)[0], 3, BOX))
    pd.DataFrame(rows).to_csv(folder / "annotations.csv", index=False)


def test_the_same_pixels_under_two_patients_stop_the_run(tmp_path: Path) -> None:
    same_pixels_twice(tmp_path, (0, 0))
    with pytest.raises(LeakageError, match=r"'P0'.*'P1'"):
        run(tmp_path)
    assert list((tmp_path / "cache" / "patches").iterdir()) == []


@pytest.mark.parametrize(
    ("policy", "labels", "patients", "excluded"),
    [
        ("merge", (1, 1), ["P0", "P0", "P2"], []),
        ("merge", (0, 1), ["P2"], ["P0"]),
        ("exclude", (1, 1), ["P2"], ["P0", "P1"]),
    ],
)
def test_settings_merge_or_exclude_patients_with_the_same_pixels(
    tmp_path: Path, policy: str, labels: tuple[int, int], patients: list[str], excluded: list[str]
) -> None:
    same_pixels_twice(tmp_path, labels)
    store, _ = run(tmp_path, leakage=policy)
    assert store.lesions["patient_id"].tolist() == patients
    assert sorted(set(store.excluded["patient_id"])) == excluded
    assert len(store.patches()) == len(patients)


def test_planted_private_text_appears_in_no_output(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level("DEBUG")
    secrets = ["Secretname^Planted", "19410203", "planted-id", "Planted description", "planted/../../comment"]
    keywords = ["PatientName", "PatientBirthDate", "PatientID", "SeriesDescription", "PatientComments"]
    planted = {**dict(zip(keywords, secrets, strict=True)), "StudyDate": "19990909", "InstitutionName": "x" * 200}
    secrets += ["19990909", "x" * 64, "Planted-folder", str(tmp_path)]
    rows: list[Row] = []
    for number in range(2):
        stacks = [replace(stack, tags={**stack.tags, **planted}) for stack in study(number)]
        for stack in stacks:
            write_stack(tmp_path / "images" / "Planted-folder", stack, of_patient(number))
        rows.append(annotation(f"P{number}", number, stacks[0], 3, BOX))
    damaged = rows[1]["sop_instance_uid"]
    path = file_of(tmp_path / "images" / "Planted-folder", damaged)
    path.write_bytes(path.read_bytes()[:-100])
    rows.append(annotation("lost", 0, study(3)[0], 3, BOX))
    pd.DataFrame(rows).to_csv(tmp_path / "annotations.csv", index=False)
    store, _ = run(tmp_path)
    assert store.lesions["patient_id"].tolist() == ["P0"]
    assert store.excluded["patient_id"].tolist() == ["lost", "P1"]
    written = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    outputs = b"".join(path.name.encode() + path.read_bytes() for path in written).decode("latin-1")
    outputs += caplog.text + "".join(capfd.readouterr()) + repr(store.lesions) + repr(store.excluded)
    assert [secret for secret in secrets if secret in outputs] == []


def test_store_travels_to_another_process_without_its_data(tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1)
    store, _ = run(tmp_path)
    copy = pickle.loads(pickle.dumps(store))
    assert len(pickle.dumps(store)) < 10_000
    np.testing.assert_array_equal(copy.patches(), store.patches())


def test_store_deleted_by_hand_is_rebuilt(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    first, _ = run(tmp_path)
    (fingerprint,) = (tmp_path / "cache" / "fingerprints").iterdir()
    shutil.rmtree(first.folder)
    second, stages = run(tmp_path)
    assert stages == ["headers", "hashes", "patches"]
    assert second == first
    assert json.loads(fingerprint.read_text())[0] == first.digest


def test_store_is_found_from_any_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images, annotations = write_cohort(tmp_path)
    monkeypatch.chdir(tmp_path)
    store = ingest(images, annotations, Path("cache"), RULES).store
    monkeypatch.chdir("/")
    assert store.patches().shape[0] == 6


def write_multi_frame(folder: Path, patients: int) -> None:
    """`write_cohort` again, each series as one Enhanced MR image, its slices named UID#N."""
    (folder / "images").mkdir(parents=True)
    rows: list[Row] = []
    for number in range(patients):
        t2, t1 = study(number, spacing=(1.5, 1.6), rows=64, columns=60)
        for stack in (t2, t1):
            enhanced = enhanced_dataset(stack, of_patient(number))
            enhanced.save_as(folder / "images" / stack.uid, enforce_file_format=True)
        for index in (2, 3):
            row = annotation(f"{number:03d}", number % 2, t2, index, BOX)
            rows.append(row | {"sop_instance_uid": f"{enhanced_uid(t2)}#{index + 1}"})
    pd.DataFrame(rows).to_csv(folder / "annotations.csv", index=False)


def enhanced_uid(stack: Stack) -> str:
    return str(enhanced_dataset(stack).SOPInstanceUID)


def test_multi_frame_images_give_the_same_cohort_as_single_frames(tmp_path: Path) -> None:
    write_cohort(tmp_path / "single")
    write_multi_frame(tmp_path / "multi", 3)
    single, multi = run(tmp_path / "single")[0], run(tmp_path / "multi")[0]
    assert single.excluded.empty and multi.excluded.empty
    np.testing.assert_array_equal(multi.patches(), single.patches())
    same = [column for column in LESION_COLUMNS if column != "sop_instance_uid"]
    pd.testing.assert_frame_equal(multi.lesions[same], single.lesions[same])


def test_a_contrast_enhanced_t1w_beside_the_plain_one_changes_nothing(tmp_path: Path) -> None:
    write_cohort(tmp_path, patients=1)
    plain, _ = run(tmp_path)
    t1 = study(0)[1]
    enhanced = replace(t1, uid="1.2.3.0.7", tags={**t1.tags, "ContrastBolusAgent": "Gadovist"})
    write_stack(tmp_path / "images", enhanced)
    with_both, _ = run(tmp_path)
    assert with_both.lesions.equals(plain.lesions)
    t2 = study(0)[0]
    for path in (tmp_path / "images" / "0").iterdir():
        if dcmread(path).SeriesInstanceUID == t1.uid:
            path.unlink()
    only_enhanced, _ = run(tmp_path)
    (reason,) = set(only_enhanced.excluded["reason"])
    assert only_enhanced.lesions.empty and "1.2.3.0.7" in reason and "contrast-enhanced" in reason
    table = pd.read_csv(tmp_path / "annotations.csv", dtype=str).assign(t1_series_uid="1.2.3.0.7")
    table.to_csv(tmp_path / "annotations.csv", index=False)
    named, _ = run(tmp_path)
    assert set(named.lesions["t1_series_uid"]) == {"1.2.3.0.7"} and set(named.lesions["t2_series_uid"]) == {t2.uid}


def test_a_patient_who_moved_is_excluded_or_registered(tmp_path: Path) -> None:
    """T1W of another frame of reference, moved by a known shift: only registration finds the same anatomy again."""
    scans, tables = simulate_patient(seed=5, index=0, label=0)
    write_study(tmp_path / "images", "SYNTHETIC-0001", scans, seed=5)
    tables["annotations"].to_csv(tmp_path / "annotations.csv", index=False)
    unmoved, _ = run(tmp_path)
    for path in (tmp_path / "images").iterdir():
        dataset = dcmread(path)
        if dataset.EchoTime < 30:
            dataset.FrameOfReferenceUID = "1.2.3.4.5"
            x, y, z = dataset.ImagePositionPatient
            dataset.ImagePositionPatient = [x, y + 11, z - 7]
            dataset.save_as(path)
    excluded, _ = run(tmp_path)
    assert excluded.lesions.empty and "data.registration=rigid" in excluded.excluded["remedy"].iloc[0]
    registered, stages = run(tmp_path, registration="rigid")
    assert "registrations" in stages and registered.excluded.empty
    before, after = (store.patches()[:, 1].astype(float) for store in (unmoved, registered))
    similar = [np.corrcoef(one.ravel(), other.ravel())[0, 1] for one, other in zip(before, after, strict=True)]
    assert min(similar) > 0.95, similar


def test_a_file_that_could_not_be_read_is_read_when_it_can_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions change without a trace in size and time: what could not be read must not be remembered."""
    write_cohort(tmp_path, patients=1)

    class Refused(io.FileIO):
        def __init__(self, path: str) -> None:
            if str(tmp_path / "images") in str(path):
                raise PermissionError(13, "Permission denied")
            super().__init__(path)

    with monkeypatch.context() as patched:
        patched.setattr(io, "FileIO", Refused)
        assert run(tmp_path)[0].lesions.empty
    assert len(run(tmp_path)[0].lesions) == 2


def test_the_places_of_images_belong_to_a_stores_name(tmp_path: Path) -> None:
    """Registration moves T1W by all slices of both series, also by those that no channel shows."""
    images, annotations = write_cohort(tmp_path, patients=1)
    reading = read_folder(images)
    table = read_annotations(annotations)
    stores = []
    for shift in (0.0, 0.5):
        cohort = build_cohort(reading, table)
        slices = tuple(tuple(replace(one, position=(shift, *one.position[1:])) for one in row) for row in cohort.slices)
        with workers(1) as executor:
            stores.append(build_store(replace(cohort, slices=slices), RULES, tmp_path / "cache", executor, unheard))
    assert stores[0].digest != stores[1].digest


@pytest.mark.parametrize("name", ["patches.npy", "cohort.csv", "checksums.json"])
def test_a_store_with_a_flipped_bit_is_noticed_and_built_again(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    write_cohort(tmp_path)
    store, _ = run(tmp_path)
    file = store.folder / name
    whole = file.read_bytes()
    file.write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    again, _ = run(tmp_path)
    assert again == store and file.read_bytes() == whole
    assert "the patch store is built again" in caplog.text


def test_what_a_killed_ingest_had_begun_is_removed(tmp_path: Path) -> None:
    write_cohort(tmp_path)
    patches = tmp_path / "cache" / "patches"
    killed = subprocess.Popen(["true"])
    killed.wait()
    abandoned = patches / f".building-{platform.node()}-{killed.pid}-abc"
    living, elsewhere = patches / f".building-{platform.node()}-{os.getpid()}-abc", patches / ".building-other-1-abc"
    for folder in (abandoned, living, elsewhere):
        folder.mkdir(parents=True)
    run(tmp_path)
    assert not abandoned.exists() and living.exists() and elsewhere.exists()


def test_files_that_vanish_while_they_are_read_end_the_run_without_naming_them(tmp_path: Path) -> None:
    images, annotations = write_cohort(tmp_path)
    cache = tmp_path / "cache"

    def remove(stage: str, done: int, total: int) -> None:
        if (stage, done) == ("headers", total):
            shutil.rmtree(images / "0")

    with pytest.raises(CohortError, match=r"^[^ ]*images: files vanished while they were read; start again") as error:
        ingest(images, annotations, cache, RULES, processes=1, progress=remove)
    assert "/0/" not in str(error.value) and not [*cache.glob("patches/*")] and not [*cache.glob("fingerprints/*")]
