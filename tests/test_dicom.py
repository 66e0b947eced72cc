"""Reading: order along the normal, classification, pixels, foreign files, privacy."""

import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom.uid import UID

from datasets.dicom import list_files, read_series
from datasets.pixels import read_pixels
from datasets.series_rules import SeriesRules
from tests.mr_files import T1W, Stack, series_in, slice_dataset, study, tilted, write_stack

sitk = pytest.importorskip("SimpleITK")


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
    ours = [str(header.path) for header in series.slices]
    assert len(ours) == 12
    assert ours in (names, names[::-1])
    assert series.is_sagittal
    for header in series.slices[::4]:
        np.testing.assert_array_equal(read_pixels(header), sitk.GetArrayFromImage(sitk.ReadImage(str(header.path)))[0])


def test_real_encodings_decode_to_the_same_pixels_or_name_the_transfer_syntax(shared: Path, tmp_path: Path) -> None:
    folder = shared / "data" / "transfer-syntaxes"
    expected = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "1.dcm")))[0]
    decoded = 0
    for source in sorted(folder.glob("*.dcm")):
        encoded = tmp_path / source.stem / source.name
        encoded.parent.mkdir()
        shutil.copy(source, encoded)
        ((header,),) = (series.slices for series in series_in(encoded.parent))
        syntax = pydicom.dcmread(source, stop_before_pixels=True).file_meta.TransferSyntaxUID
        try:
            np.testing.assert_array_equal(read_pixels(header), expected)
            decoded += 1
        except ValueError as error:
            assert syntax.is_compressed, source.name
            assert UID(syntax).name in str(error)
            assert str(tmp_path) not in str(error)
    assert decoded >= 4  # explicit and implicit little endian, big endian, RLE


def test_pixels_are_rescaled_and_signed(tmp_path: Path) -> None:
    t2, _ = study(1)
    stored = np.arange(t2.rows * t2.columns, dtype=float).reshape(t2.rows, t2.columns)
    dataset = slice_dataset(t2, 0, stored)
    dataset.PixelRepresentation, dataset.RescaleSlope, dataset.RescaleIntercept = 1, 2.5, -100.0
    dataset.PixelData = (stored - 1000).astype("<i2").tobytes()
    dataset.save_as(tmp_path / "one", enforce_file_format=True)
    pixels = read_pixels(series_in(tmp_path)[0].slices[0])
    assert pixels.dtype == np.float32
    np.testing.assert_allclose(pixels, (stored - 1000) * 2.5 - 100)


def test_truncated_pixels_give_a_reason(tmp_path: Path) -> None:
    t2, _ = study(1)
    slice_dataset(t2, 0, np.zeros((t2.rows, t2.columns))).save_as(tmp_path / "one", enforce_file_format=True)
    content = (tmp_path / "one").read_bytes()
    (tmp_path / "one").write_bytes(content[:-500])
    with pytest.raises(ValueError, match=r"cannot be decoded \(Explicit VR Little Endian"):
        read_pixels(series_in(tmp_path)[0].slices[0])


def test_foreign_files_are_skipped_and_counted(tmp_path: Path) -> None:
    t2, _ = study(1)
    write_stack(tmp_path, t2)
    zeros = np.zeros((t2.rows, t2.columns))
    multi_frame, no_position = slice_dataset(t2, 20, zeros), slice_dataset(t2, 21, zeros)
    multi_frame.NumberOfFrames = 3
    del no_position.ImagePositionPatient
    for name, dataset in {"m": multi_frame, "p": no_position, "again": slice_dataset(t2, 0, zeros)}.items():
        dataset.save_as(tmp_path / name, enforce_file_format=True)
    (tmp_path / "notes.txt").write_text("not an image")
    (tmp_path / "empty").touch()
    (tmp_path / "cut").write_bytes((tmp_path / "m").read_bytes()[:200])
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "pipe")
    with ThreadPoolExecutor(1) as executor:
        reading = read_series(list_files(tmp_path, leave_out=tmp_path / "cache"), executor, SeriesRules())
    series, skipped = reading.series, reading.skipped
    assert [len(one.slices) for one in series] == [t2.slices]
    assert skipped["not DICOM"] == 2
    assert skipped["SOPInstanceUID read before"] == 1
    assert skipped["not a single-frame image with a position"] + skipped["unreadable header"] == 3


def test_spawned_processes_read_the_same_and_report_progress(tmp_path: Path) -> None:
    for number in range(10):
        for stack in study(number):
            write_stack(tmp_path / str(number), stack)
    seen: list[tuple[str, int, int]] = []
    files = list_files(tmp_path, leave_out=tmp_path / "cache")
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as executor:
        reading = read_series(files, executor, SeriesRules(), lambda *step: seen.append(step))
    assert list(reading.series) == series_in(tmp_path)
    assert seen == [("headers", 64, 140), ("headers", 128, 140), ("headers", 140, 140)]


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


@pytest.mark.parametrize(
    ("repetition_time", "echo_time", "description", "expected"),
    [
        (400, 15, "", "T1W"),
        (3200, 90, "", "T2W"),
        (400, 15, "SAG T2 misnamed", "T1W"),
        (3200, 90, "t1", "T2W"),
        (None, None, "Sag T2 FSE", "T2W"),
        (None, 15, "COL RACHIS SAG_T1", "T1W"),
        (2000, 10, "sag T1w FLAIR", "T1W"),
        (2000, 30, "PD", None),
        (None, None, "T1 and T2", None),
        (None, None, "at1 T10 T12 level", None),
    ],
)
def test_timing_decides_before_description(
    repetition_time: float | None, echo_time: float | None, description: str, expected: str | None
) -> None:
    assert SeriesRules().weighting(repetition_time, echo_time, description) == expected


def test_headers_hold_nothing_personal(shared: Path, tmp_path: Path) -> None:
    t2: Stack = replace(study(1)[0], tags={**T1W, "PatientName": "Doe^Jane", "SeriesDescription": "T1 Jane"})
    write_stack(tmp_path, t2)
    source = next((shared / "data" / "sagittal-t1").glob("*.dcm"))
    private = pydicom.dcmread(source, stop_before_pixels=True)
    shown = repr(series_in(tmp_path)) + repr(series_in(source.parent))
    for text in ("Jane", str(tmp_path), str(private.PatientBirthDate), str(private.SeriesDescription)):
        assert text
        assert text not in shown
