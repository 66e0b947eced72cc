"""Enhanced and legacy converted multi-frame MR reads as the same images in single frames do."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pydicom.dataset import Dataset

from datasets.dicom import Series
from datasets.pixels import read_pixels
from tests.mr_files import (
    enhanced_dataset,
    read_folder,
    series_in,
    slice_dataset,
    study,
    texture,
    tilted,
    write_stack,
)

sitk = pytest.importorskip("SimpleITK")


def facts(series: Series) -> list[tuple[object, ...]]:
    return [
        (header.position, header.orientation, header.pixel_spacing, header.rows, header.columns, header.weighting)
        for header in series.slices
    ]


@pytest.mark.parametrize("converted", [False, True], ids=["enhanced", "legacy converted"])
@pytest.mark.parametrize("which", [0, 1], ids=["T2W", "T1W"])
def test_a_multi_frame_image_reads_as_its_slices_do(tmp_path: Path, which: int, converted: bool) -> None:
    stack = replace(study(1)[which], directions=tilted((4, -12, 9)))
    write_stack(tmp_path / "single", stack)
    order = [3, 0, 6, 1, 5, 2, 4]
    if converted:
        dataset = legacy_converted([slice_dataset(stack, index, texture(stack.points(index))) for index in order])
    else:
        dataset = enhanced_dataset(stack, order=order)
    (tmp_path / "multi").mkdir()
    dataset.save_as(tmp_path / "multi" / "image", enforce_file_format=True)
    (single,), (multi,) = series_in(tmp_path / "single"), series_in(tmp_path / "multi")
    assert facts(multi) == facts(single)
    frames = [int(header.sop_instance_uid.removeprefix(f"{dataset.SOPInstanceUID}#")) for header in multi.slices]
    assert frames not in (sorted(frames), sorted(frames)[::-1]) or converted  # highdicom sorts them
    image = sitk.ReadImage(str(tmp_path / "multi" / "image"))
    for one, other, frame in zip(single.slices, multi.slices, frames, strict=True):
        np.testing.assert_array_equal(read_pixels(other), read_pixels(one))
        np.testing.assert_array_equal(read_pixels(other), sitk.GetArrayFromImage(image)[frame - 1])


def legacy_converted(singles: list[Dataset]) -> Dataset:
    """By highdicom, an independent writer."""
    highdicom = pytest.importorskip("highdicom.legacy")
    for single in singles:
        single.InstanceNumber, single.StudyDate, single.StudyTime, single.PatientName = 1, "", "", ""
        single.Manufacturer, single.AccessionNumber, single.PatientBirthDate, single.PatientSex = "", "", "", ""
        single.StudyID, single.ReferringPhysicianName, single.SeriesNumber, single.SliceThickness = "", "", 1, 4
        single.ImageType = ["ORIGINAL", "PRIMARY", "M"]
    converted: Dataset = highdicom.LegacyConvertedEnhancedMRImage(
        singles, series_instance_uid="1.2.3.4", series_number=1, sop_instance_uid="1.2.3.4.5", instance_number=1
    )
    return converted


def test_frames_may_be_rescaled_one_by_one(tmp_path: Path) -> None:
    stack, _ = study(1)
    dataset = enhanced_dataset(stack, lambda points: np.full(points.shape[:2], 10.0))
    for slope, group in enumerate(dataset.PerFrameFunctionalGroupsSequence, start=1):
        item = Dataset()
        item.RescaleSlope, item.RescaleIntercept = slope, -5
        group.PixelValueTransformationSequence = [item] if slope > 1 else []
    shared = Dataset()
    shared.RescaleSlope, shared.RescaleIntercept = 100, 0
    dataset.SharedFunctionalGroupsSequence[0].PixelValueTransformationSequence = [shared]
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    values = {header.frame: read_pixels(header).max() for header in series_in(tmp_path)[0].slices}
    assert values == {0: 1000, **{frame: 10 * (frame + 1) - 5 for frame in range(1, stack.slices)}}


def test_the_header_of_a_multi_frame_image_is_read_without_its_pixels(tmp_path: Path) -> None:
    stack, _ = study(1)
    enhanced_dataset(stack).save_as(tmp_path / "image", enforce_file_format=True)
    content = (tmp_path / "image").read_bytes()
    (tmp_path / "image").write_bytes(content[: content.rfind(b"\xe0\x7f\x10\x00")])
    assert len(series_in(tmp_path)[0].slices) == stack.slices


def test_more_frames_than_functional_groups_are_a_lie(tmp_path: Path) -> None:
    dataset = enhanced_dataset(study(1)[0])
    dataset.NumberOfFrames = 2_000_000_000
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    assert read_folder(tmp_path).skipped == {"multi-frame image without functional groups for every frame": 1}


def test_inversion_recovery_of_a_multi_frame_image_suppresses_fat_as_in_single_frames(tmp_path: Path) -> None:
    dataset = enhanced_dataset(study(1)[0])
    modifier = Dataset()
    modifier.InversionTimes, modifier.InversionRecovery = [160.0], "YES"
    dataset.SharedFunctionalGroupsSequence[0].MRModifierSequence = [modifier]
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    assert series_in(tmp_path)[0].traits == {"fat-suppressed"}


def test_what_a_vendor_writes_beside_a_frames_facts_does_not_count(tmp_path: Path) -> None:
    dataset, vendors = enhanced_dataset(study(1)[0]), Dataset()
    vendors.ImagePositionPatient = [0, 0, 0]
    for group in dataset.PerFrameFunctionalGroupsSequence:
        group.private_block(0x2005, "Vendor MR", create=True).add_new(0x0F, "SQ", [vendors])
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    assert not series_in(tmp_path)[0].has_repeated_positions
