"""A phantom cohort on disk: readable, marked as synthetic, deterministic, complete or absent."""

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import SimpleITK as sitk  # noqa: N813

from datasets import phantom
from datasets.phantom import draw_labels, simulate_patient, write_phantom
from datasets.phantom_features import TABLE_1, TABLE_2

PATIENTS, SEED = 4, 3


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("phantom") / "cohort"
    write_phantom(folder, PATIENTS, SEED, processes=1)
    return folder


@pytest.fixture(scope="module")
def headers(cohort: Path) -> list[pydicom.Dataset]:
    return [pydicom.dcmread(path) for path in sorted((cohort / "dicom").rglob("IM*"))]


def contents(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_same_seed_gives_the_same_bytes_whatever_the_processes(cohort: Path, tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    write_phantom(tmp_path / "again", PATIENTS, SEED, processes=2, progress=lambda done, of: seen.append((done, of)))
    assert contents(tmp_path / "again") == contents(cohort)
    assert (seen, seen[-1]) == (sorted(seen), (PATIENTS, PATIENTS))
    assert list(tmp_path.iterdir()) == [tmp_path / "again"]


def test_another_seed_gives_another_patient() -> None:
    first, second = (simulate_patient(seed, 0, 0)[0][0].pixels for seed in (SEED, SEED + 1))
    assert not np.array_equal(first, second)


def test_every_file_says_that_it_is_synthetic(headers: list[pydicom.Dataset], cohort: Path) -> None:
    for header in headers:
        for tag in ("PatientName", "SeriesDescription", "ImageComments", "Manufacturer", "PatientComments"):
            assert "SYNTHETIC" in str(header[tag].value)
        assert header.QualityControlImage == "YES"
        assert header.ContentQualification == "RESEARCH"
    assert "no patient was imaged" in (cohort / "README.txt").read_text()


def test_headers_are_those_of_a_spine_study(headers: list[pydicom.Dataset]) -> None:
    table = pd.DataFrame(
        {
            name: header.get(name)
            for name in ("PatientID", "StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID", "EchoTime")
        }
        | {"plane": int(np.argmax(np.abs(np.cross(*np.reshape(header.ImageOrientationPatient, (2, 3))))))}
        for header in headers
    )
    assert table.PatientID.nunique() == PATIENTS
    for _, study in table.groupby("PatientID"):
        assert study.StudyInstanceUID.nunique() == study.FrameOfReferenceUID.nunique() == 1
        series = study.drop_duplicates("SeriesInstanceUID")
        assert sorted(zip(series.plane, series.EchoTime, strict=True)) == [(0, 15), (0, 90), (2, 90)]
    for header in headers:
        assert (header.BitsAllocated, header.BitsStored, header.HighBit) == (16, 12, 11)
        assert header.file_meta.TransferSyntaxUID == pydicom.uid.ExplicitVRLittleEndian
        assert 100 < header.pixel_array.max() <= 4095
    assert len({header.SOPInstanceUID for header in headers}) == len(headers)


def test_simpleitk_reads_the_geometry_that_was_painted(cohort: Path) -> None:
    reader = sitk.ImageSeriesReader()
    study, _ = simulate_patient(SEED, 0, draw_labels(PATIENTS, SEED)[0])
    for uid in reader.GetGDCMSeriesIDs(str(cohort / "dicom" / "0001")):
        image = sitk.ReadImage(reader.GetGDCMSeriesFileNames(str(cohort / "dicom" / "0001"), uid))
        pixels = sitk.GetArrayFromImage(image)
        series = next(s for s in study if s.pixels.shape == pixels.shape)
        np.testing.assert_array_equal(pixels, series.pixels)
        for slice_, row, column in ((0, 0, 0), (2, 10, 90), (4, 95, 3)):
            ours = series.grid.corner() + (np.array([column, row, slice_]) * series.grid.spacing) @ series.grid.axes
            np.testing.assert_allclose(image.TransformIndexToPhysicalPoint((column, row, slice_)), ours, atol=1e-3)


def test_annotations_name_t2w_slices_and_boxes_within_them(cohort: Path, headers: list[pydicom.Dataset]) -> None:
    annotations = pd.read_csv(cohort / "annotations.csv", dtype={"patient_id": str})
    by_uid = {header.SOPInstanceUID: header for header in headers}
    for row in annotations.itertuples():
        header = by_uid[row.sop_instance_uid]
        assert header.PatientID == row.patient_id
        assert header.EchoTime == 90
        assert abs(header.ImageOrientationPatient[0]) < 0.2  # sagittal: columns run front to back
        assert 0 <= row.x_min < row.x_max <= header.Columns - 1
        assert 0 <= row.y_min < row.y_max <= header.Rows - 1
        assert row.x_max - row.x_min == pytest.approx(row.y_max - row.y_min, abs=0.03)
    for _, rows in annotations.groupby("patient_id"):
        positions = sorted(by_uid[uid].InstanceNumber for uid in rows.sop_instance_uid)
        assert 2 <= len(positions) <= 4
        assert np.diff(positions).max() == 1
        assert rows.label.nunique() == 1


def test_tables_hold_every_patient(cohort: Path) -> None:
    annotations = pd.read_csv(cohort / "annotations.csv").drop_duplicates("patient_id")
    features, readers = pd.read_csv(cohort / "features.csv"), pd.read_csv(cohort / "readers.csv")
    assert list(features) == ["patient_id", *TABLE_1]
    assert list(features.patient_id) == list(annotations.patient_id)
    assert features[list(TABLE_1)].isin([0, 1]).all(axis=None)
    assert readers.groupby("patient_id").reader.apply(set).map(lambda names: names == set(TABLE_2)).all()
    assert readers.call.isin([0, 1]).all()


def test_malignant_share_is_the_studys_and_order_tells_nothing() -> None:
    for patients in (4, 96, 190):
        labels = draw_labels(patients, 0)
        assert len(labels) == patients
        assert sum(labels) == max(2, round(patients * 50 / 190))
    first_half = np.mean([np.mean(draw_labels(96, seed)[:48]) for seed in range(200)])
    assert first_half == pytest.approx(25 / 96, abs=0.02)


@pytest.mark.parametrize(
    ("patients", "seed", "remedy"), [(3, 0, "patients=4"), (8, -1, "seed of 0"), (10_000, 0, "9999")]
)
def test_bad_arguments_say_what_to_write(tmp_path: Path, patients: int, seed: int, remedy: str) -> None:
    with pytest.raises(ValueError, match=remedy):
        write_phantom(tmp_path / "cohort", patients, seed)
    assert not any(tmp_path.iterdir())


def test_never_writes_into_a_folder_in_use(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ValueError, match="empty folder"):
        write_phantom(tmp_path, PATIENTS, SEED)


def test_an_interrupted_write_leaves_no_cohort_and_can_be_repeated(tmp_path: Path, cohort: Path) -> None:
    def interrupt(_done: int, _patients: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_phantom(tmp_path / "cohort", PATIENTS, SEED, 1, interrupt)
    assert not (tmp_path / "cohort").exists()
    write_phantom(tmp_path / "cohort", PATIENTS, SEED, 1)
    assert contents(tmp_path / "cohort") == contents(cohort)
    assert list(tmp_path.iterdir()) == [tmp_path / "cohort"]


def test_importing_needs_no_torch() -> None:
    import subprocess
    import sys

    code = "import sys, datasets.phantom; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
    assert phantom.__doc__
