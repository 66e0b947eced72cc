"""Reading: order along the normal, foreign files, duplicates, multi-frame images, stacks, contrast, privacy."""

import os
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import UID, RLELossless

from datasets.dicom import list_files, read_series
from datasets.pixels import read_pixels
from datasets.workers import workers
from tests.mr_files import (
    SERIES_RULES,
    T1W,
    T2W,
    Stack,
    read_folder,
    series_in,
    slice_dataset,
    study,
    texture,
    tilted,
    write_stack,
)

sitk = pytest.importorskip("SimpleITK")
FILES = Path(__file__).parent / "files"


@pytest.mark.parametrize("degrees", [(0, 0, 0), (0, 0, 180), (4, -12, 9), (170, 3, -5)])
def test_slices_are_sorted_from_right_to_left(tmp_path: Path, degrees: tuple[float, float, float]) -> None:
    t2 = replace(study(1)[0], directions=tilted(degrees))
    write_stack(tmp_path, t2)
    (series,) = series_in(tmp_path)
    left = np.array([header.position for header in series.slices]) @ series.slices[0].normal
    assert series.slices[0].normal[0] > 0.9
    np.testing.assert_allclose(np.diff(left), t2.thickness, atol=1e-5)


def test_order_does_not_depend_on_file_names_or_folders(tmp_path: Path) -> None:
    t2, _ = study(1)
    for index in range(t2.slices):
        folder = tmp_path / str(index % 3)
        folder.mkdir(exist_ok=True)
        name = folder / f"{t2.slices - index}.anything"
        slice_dataset(t2, index, np.zeros((t2.rows, t2.columns))).save_as(name, enforce_file_format=True)
    (series,) = series_in(tmp_path)
    along_normal = [t2.sop(index) for index in range(t2.slices)]
    assert [header.sop_instance_uid for header in series.slices] in (along_normal, along_normal[::-1])


def test_real_series_agrees_with_simpleitk(shared: Path) -> None:
    folder = shared / "data" / "sagittal-t1"
    (series,) = series_in(folder)
    names = list(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder)))
    ours = [header.path for header in series.slices]
    assert len(ours) == 12
    assert ours in (names, names[::-1])
    assert series.is_sagittal
    assert series.weighting == "T1W"
    assert not series.traits
    for header in series.slices[::4]:
        np.testing.assert_array_equal(read_pixels(header), sitk.GetArrayFromImage(sitk.ReadImage(str(header.path)))[0])


def enlarge(dataset: Dataset) -> None:
    dataset.Rows = dataset.Columns = 3000


def test_foreign_files_are_skipped_and_counted(tmp_path: Path) -> None:
    t2, _ = study(1)
    write_stack(tmp_path, t2)
    zeros = np.zeros((t2.rows, t2.columns))
    damages: dict[str, Callable[[Dataset], object]] = {
        "multi-frame image without functional groups for every frame": lambda d: setattr(d, "NumberOfFrames", 3),
        "image without position, orientation or pixel spacing": lambda d: delattr(d, "ImagePositionPatient"),
        "image with impossible orientation or pixel spacing": lambda d: setattr(d, "PixelSpacing", [0, 1]),
        "image with a missing or malformed UID": lambda d: setattr(d, "SeriesInstanceUID", "=cmd()"),
        "colour image": lambda d: setattr(d, "SamplesPerPixel", 3),
        "image size beyond measure": enlarge,
        "not an image": lambda d: delattr(d, "Rows"),
    }
    for number, damage in enumerate(damages.values()):
        dataset = slice_dataset(t2, 20 + number, zeros)
        damage(dataset)
        dataset.save_as(tmp_path / f"damage {number}", enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes((tmp_path / "damage 0").read_bytes()[:200])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    reading = read_folder(tmp_path)
    assert [len(one.slices) for one in reading.series] == [t2.slices]
    cut = reading.skipped.pop("unreadable header", 0) + reading.skipped.pop("not an image", 0)
    assert cut == 2
    assert reading.skipped == {"not DICOM": 2, **{reason: 1 for reason in damages if reason != "not an image"}}


def test_an_unreadable_file_is_counted(tmp_path: Path) -> None:
    with ThreadPoolExecutor(1) as executor:
        reading = read_series([str(tmp_path / "gone"), str(tmp_path)], executor, SERIES_RULES)
    assert reading.skipped == {"unreadable file": 2}


def test_pydicoms_own_copies_in_eight_encodings_are_one_image_and_the_truncated_one_conflicts(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    copies = list(folder.glob("MR_small*.dcm"))
    assert len(copies) == 8
    for path in copies:
        (tmp_path / path.name).symlink_to(path)
    reading = read_folder(tmp_path)
    assert reading.skipped == {"duplicate of another file": 7}
    assert not reading.conflicting
    (tmp_path / "cut").symlink_to(folder / "MR_truncated.dcm")
    assert read_folder(tmp_path).conflicting == {reading.series[0].slices[0].sop_instance_uid}


def test_dicomdir_is_counted_and_files_without_meta_header_are_looked_into(tmp_path: Path) -> None:
    folder = Path(pydicom.__file__).parent / "data" / "test_files"
    names = ["dicomdirtests/DICOMDIR", "dicomdirtests/DICOMDIR-bigEnd", "ExplVR_BigEndNoMeta.dcm"]
    for number, name in enumerate(names):
        (tmp_path / str(number)).symlink_to(folder / name)
    assert read_folder(tmp_path).skipped == {"DICOMDIR": 2, "not an image": 1}


def test_linked_folders_are_read_once_and_loops_end(tmp_path: Path) -> None:
    t2, t1 = study(1)
    write_stack(tmp_path / "elsewhere", t1)
    root = tmp_path / "root"
    write_stack(root / "a" / "b", t2)
    (root / "link").symlink_to(tmp_path / "elsewhere")
    (root / "again").symlink_to(tmp_path / "elsewhere")
    (root / "a" / "b" / "loop").symlink_to(root)
    (root / "self").symlink_to(root / "self")
    (root / "cache").symlink_to(tmp_path / "cache")
    write_stack(tmp_path / "cache", study(2)[0])
    assert len(list_files(root, leave_out=tmp_path / "cache")) == t1.slices + t2.slices
    assert len(list_files(root, leave_out=tmp_path / "nowhere")) == t1.slices + 2 * t2.slices


@pytest.mark.parametrize("syntax", [None, RLELossless])
def test_copies_of_one_image_are_one(tmp_path: Path, syntax: UID | None) -> None:
    t2, _ = study(1)
    write_stack(tmp_path / "a", t2)
    write_stack(tmp_path / "b", t2)
    for path in (tmp_path / "b").iterdir():
        dataset = pydicom.dcmread(path)
        if syntax:
            dataset.compress(syntax, generate_instance_uid=False)
        dataset.ContentDate = "20200101"
        dataset.save_as(path)
    reading = read_folder(tmp_path)
    assert [len(series.slices) for series in reading.series] == [t2.slices]
    assert reading.skipped == {"duplicate of another file": t2.slices}
    assert not reading.conflicting


def test_different_images_under_one_uid_conflict(tmp_path: Path) -> None:
    t2, t1 = study(1)
    write_stack(tmp_path / "t1", t1)
    write_stack(tmp_path / "t2", t2)
    for name, index in {"pixels": 2, "position": 3}.items():
        dataset = slice_dataset(t2, index, texture(t2.points(index)))
        if name == "pixels":
            dataset.PixelData = bytes(len(dataset.PixelData))
        else:
            dataset.SeriesInstanceUID, dataset.ImagePositionPatient = t1.uid, list(t2.position(9))
        dataset.save_as(tmp_path / name, enforce_file_format=True)
    reading = read_folder(tmp_path)
    assert reading.conflicting == {t2.sop(2), t2.sop(3)}
    assert not reading.skipped
    assert {series.uid: len(series.slices) for series in reading.series} == {t1.uid: t1.slices + 1, t2.uid: t2.slices}


def written_again(folder: Path, stack: Stack, name: str, **tags: Any) -> None:
    """The stack once more in the same series, with other images at the same places."""
    for index in range(stack.slices):
        dataset = slice_dataset(replace(stack, tags={**stack.tags, **tags}), index, texture(stack.points(index)))
        dataset.SOPInstanceUID = UID(f"{stack.sop(index)}.{len(name)}{index}")
        dataset.save_as(folder / f"{name}{index}", enforce_file_format=True)


def test_two_echoes_in_one_series_become_two_series(tmp_path: Path) -> None:
    stack = replace(study(1)[0], tags={"RepetitionTime": 3000.0, "EchoTime": 100.0})
    write_stack(tmp_path, stack)
    written_again(tmp_path, stack, "proton", EchoTime=20.0)
    for number, path in enumerate(sorted(tmp_path.iterdir())):  # interleaved acquisitions must not halve the stacks
        dataset = pydicom.dcmread(path)
        dataset.AcquisitionNumber = number % 2
        dataset.save_as(path)
    series = series_in(tmp_path)
    assert sorted((len(one.slices), one.weighting or "") for one in series) == [(7, ""), (7, "T2W")]
    assert not any(one.has_repeated_positions for one in series)


def test_places_that_repeat_without_a_difference_are_told(tmp_path: Path) -> None:
    stack, _ = study(1)
    write_stack(tmp_path, stack)
    written_again(tmp_path, stack, "again")
    (series,) = series_in(tmp_path)
    assert series.has_repeated_positions
    assert len(series.slices) == 2 * stack.slices


@pytest.mark.parametrize(
    "change",
    [{"rows": 24}, {"spacing": (1.0, 2.0)}, {"centre": (3.0, -20.0, -289.0)}],
    ids=["size", "spacing", "station"],
)
def test_a_series_of_several_sizes_or_stations_becomes_several_stacks(tmp_path: Path, change: dict[str, Any]) -> None:
    stack, _ = study(1)
    write_stack(tmp_path, stack)
    written_again(tmp_path, replace(stack, **change), "other")
    series = series_in(tmp_path)
    assert [len(one.slices) for one in series] == [stack.slices] * 2
    assert not any(one.has_repeated_positions for one in series)


@pytest.mark.parametrize(
    ("tags", "traits"),
    [
        ({"ContrastBolusAgent": "Gadovist"}, {"contrast-enhanced"}),
        ({"ScanOptions": ["FC", "FS"]}, {"fat-suppressed"}),
        ({"ScanningSequence": ["SE", "IR"], "InversionTime": 160}, {"fat-suppressed"}),
        ({"ScanningSequence": "SE", "InversionTime": 160}, set()),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, {"localizer"}),
        ({"ImageType": ["DERIVED", "PRIMARY", "M", "WATER"]}, {"fat-suppressed"}),
        ({"SeriesDescription": "t1_tse_sag_km"}, {"contrast-enhanced"}),
        ({"SeriesDescription": "", "ProtocolName": "T2 STIR"}, {"fat-suppressed"}),
        ({"ContrastBolusAgent": "", "ScanOptions": "FC", "SeriesDescription": "T2"}, set()),
    ],
)
def test_traits_come_from_headers(tmp_path: Path, tags: dict[str, Any], traits: set[str]) -> None:
    write_stack(tmp_path, replace(study(1)[0], tags={**T2W, **tags}))
    assert series_in(tmp_path)[0].traits == traits


@pytest.mark.parametrize(
    ("tags", "weighting"),
    [
        ({"ScanningSequence": "GR", "RepetitionTime": 500, "EchoTime": 12}, None),
        ({"ScanningSequence": ["EP", "SE"], "RepetitionTime": 4000, "EchoTime": 90}, None),
        ({"ScanningSequence": "SE", "RepetitionTime": 500, "EchoTime": 12}, "T1W"),
        ({"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "SeriesDescription": "矢状断 T1強調"}, "T1W"),
        ({"RepetitionTime": None, "EchoTime": None, "ProtocolName": "t2_tse_sag"}, "T2W"),
    ],
)
def test_weighting_comes_from_headers(tmp_path: Path, tags: dict[str, Any], weighting: str | None) -> None:
    write_stack(tmp_path, replace(study(1)[0], tags=tags))
    assert series_in(tmp_path)[0].weighting == weighting


def test_spawned_processes_read_the_same_and_report_progress(tmp_path: Path) -> None:
    for number in range(10):
        for stack in study(number):
            write_stack(tmp_path / str(number), stack)
    seen: list[tuple[str, int, int]] = []
    files = list_files(tmp_path, leave_out=tmp_path / "cache")
    with workers(2) as executor:
        reading = read_series(list(files), executor, SERIES_RULES, lambda *step: seen.append(step))
    assert list(reading.series) == series_in(tmp_path)
    assert seen == sorted(seen)
    assert (len(seen) >= 3, seen[-1]) == (True, ("headers", 140, 140))


def test_series_of_several_orientations_becomes_several_stacks(tmp_path: Path) -> None:
    sagittal, _ = study(1)
    axial = replace(sagittal, directions=np.array([[1.0, 0, 0], [0, 1.0, 0]]), slices=3)
    write_stack(tmp_path / "s", sagittal)
    for index in range(axial.slices):
        dataset = slice_dataset(axial, index, np.zeros((axial.rows, axial.columns)))
        dataset.SOPInstanceUID = UID(f"9.9.{index + 1}")
        dataset.save_as(tmp_path / f"a{index}", enforce_file_format=True)
    stacks = series_in(tmp_path)
    assert sorted((len(stack.slices), stack.is_sagittal) for stack in stacks) == [(3, False), (7, True)]
    assert len({stack.uid for stack in stacks}) == 1


def test_nothing_personal_leaves_the_reader(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    private: dict[str, Any] = {
        "PatientName": "Doe^Jane",
        "SeriesDescription": "T1 Jane",
        "StationName": "Jane" * 50,
        "PatientAge": "Jane",
    }
    private["ImageType"], private["FrameOfReferenceUID"] = ["ORIGINAL", "PRIMARY", "Jane"], "Jane"
    write_stack(tmp_path / "Jane", replace(study(1)[0], tags={**T1W, **private}))
    for path in (tmp_path / "Jane").iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"400.0", b"Jane!") if path.name < "02" else content[:-100])
    real = pydicom.dcmread(FILES / "sagittal-t1" / "a.dcm", stop_before_pixels=True)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        reading = read_folder(tmp_path)
        shown = [repr(reading), repr(read_folder(FILES / "sagittal-t1"))]
        for header in (one for one in reading.series[0].slices if Path(one.path).name >= "02"):
            with pytest.raises(ValueError) as error:
                read_pixels(header)
            shown.append(str(error.value))
    text = " ".join([*shown, caplog.text, *capfd.readouterr(), *(str(warning.message) for warning in warned)])
    for secret in ("Jane", str(tmp_path), str(real.PatientBirthDate), str(real.SeriesDescription)):
        assert secret
        assert secret not in text


def test_images_of_other_modalities_are_no_series(tmp_path: Path) -> None:
    """A segmentation has a place in the patient and may be described as T1."""
    write_stack(tmp_path, study(1)[0])
    before = series_in(tmp_path)
    stack = replace(study(1)[1], uid="1.2.9", tags={**T1W, "Modality": "SEG", "SeriesDescription": "lesion on sag T1"})
    write_stack(tmp_path, stack)
    reading = read_folder(tmp_path)
    assert list(reading.series) == before and reading.skipped == {"not MR": stack.slices}


def test_two_echoes_are_told_apart_though_their_places_differ_by_some_hundredths(tmp_path: Path) -> None:
    stack = study(1)[0]
    write_stack(tmp_path, stack)
    written_again(tmp_path, replace(stack, centre=(3.03, -20.0, 11.0)), "second", EchoTime=120.0)
    assert [len(one.slices) for one in series_in(tmp_path)] == [stack.slices, stack.slices]


@pytest.mark.parametrize("value", ["450,5", "unknown"])
def test_a_malformed_repetition_time_is_as_if_it_were_missing(tmp_path: Path, value: str) -> None:
    stack = replace(study(1)[0], tags={**T2W, "SeriesDescription": "t2_tse_sag"})
    write_stack(tmp_path, stack)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes().replace(b"DS\x06\x003200.0", b"DS\x08\x00" + value.encode().ljust(8)))
    (series,) = series_in(tmp_path)
    assert len(series.slices) == stack.slices and series.weighting == "T2W"


def test_sequences_nested_without_end_are_given_up_at_once(tmp_path: Path) -> None:
    """pydicom would search the rest of the file for the end of each."""
    stack = study(1)[0]
    write_stack(tmp_path, replace(stack, slices=1))
    (path,) = tmp_path.iterdir()
    content = path.read_bytes()
    place = content.index(b"\x28\x00\x02\x00US")
    opened = b"\x20\x00\x11\x91SQ\x00\x00\xff\xff\xff\xff\xfe\xff\x00\xe0\xff\xff\xff\xff"
    path.write_bytes(content[:place] + opened * 20_000 + content[place:])
    assert read_folder(tmp_path).skipped == {"more sequence items than an image has": 1}
