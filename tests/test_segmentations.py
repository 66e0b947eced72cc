"""DICOM SEG to boxes, against what was painted."""

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pytest
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.data import get_testdata_file
from pydicom.sr.codedict import codes

from datasets.dicom import Series
from tests.mr_files import Stack, slice_dataset, study
from tests.regions import SECRET, STACKS, T2, annotations, boxes, draw_quietly, reason, series_of, voxels_of


def described(number: int) -> SegmentDescription:
    kind = (codes.SCT.Lesion, codes.SCT.Lesion)
    return SegmentDescription(number, SECRET, *kind, SegmentAlgorithmTypeValues.MANUAL)


def write_seg(
    folder: Path, stack: Stack, mask: NDArray[Any], kind: str = "BINARY", change: Any = None, **options: Any
) -> str:
    """A segmentation of the stack's own slices; mask (slices, rows, columns) or, of several segments, with one more."""
    sources = [slice_dataset(stack, index, np.zeros((stack.rows, stack.columns))) for index in range(stack.slices)]
    for source in sources:
        source.PatientName, source.PatientBirthDate, source.PatientSex = SECRET, "19700101", "O"
        source.StudyDate = source.StudyTime = source.StudyID = source.AccessionNumber = ""
        source.ReferringPhysicianName, source.SliceThickness = SECRET, stack.thickness
    numbers = range(1, mask.shape[3] + 1 if mask.ndim == 4 else 2)
    segmentation = Segmentation(
        sources,
        mask,
        SegmentationTypeValues[kind],
        [described(number) for number in numbers],
        highdicom.UID(),
        1,
        highdicom.UID(),
        1,
        "maker",
        "model",
        "1",
        "serial",
        content_creator_name=SECRET,
        content_description=SECRET,
        **options,
    )
    if change:
        change(segmentation)
    segmentation.save_as(folder / "segmentation")
    return "segmentation"


def painted(stack: Stack, extents: dict[int, tuple[int, int, int, int]], values: Any = np.uint8) -> NDArray[Any]:
    """A mask of rectangles x first to last, y first to last, by slice."""
    mask = np.zeros((stack.slices, stack.rows, stack.columns), dtype=values)
    for index, (x_first, x_last, y_first, y_last) in extents.items():
        mask[index, y_first : y_last + 1, x_first : x_last + 1] = 1
    return mask


EXTENTS = {2: (10, 17, 12, 20), 3: (9, 18, 11, 21), 4: (11, 11, 13, 13)}
EDGES = {2: [9.5, 11.5, 17.5, 20.5], 3: [8.5, 10.5, 18.5, 21.5], 4: [10.5, 12.5, 11.5, 13.5]}


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_box_of_a_segment_is_the_box_painted(tmp_path: Path, stack: Stack, kind: str) -> None:
    mask = painted(stack, EXTENTS, np.float32 if kind == "FRACTIONAL" else np.uint8)
    if kind == "FRACTIONAL":
        mask[3, 5, 5] = 0.4  # less than half
    table = annotations(tmp_path, write_seg(tmp_path, stack, mask, kind), None)
    expected = {stack.sop(index): box for index, box in EDGES.items()}
    assert boxes(table, series_of(tmp_path, stack)) == expected


@pytest.mark.parametrize("kind", ["BINARY", "LABELMAP"])
def test_segment_is_chosen_by_number(tmp_path: Path, kind: str) -> None:
    mask = np.stack([painted(T2, {1: (3, 5, 3, 5)}), painted(T2, EXTENTS)], axis=-1)
    name, series = write_seg(tmp_path, T2, mask, kind), series_of(tmp_path, T2)
    expected = {T2.sop(index): box for index, box in EDGES.items()}
    assert boxes(annotations(tmp_path, name, None, segment=2), series) == expected
    for segment in ("", 3):
        why = reason(annotations(tmp_path, name, None, segment=segment), series)
        assert why == "the DICOM SEG holds the segments 1, 2"


def test_segment_drawn_on_another_matrix_is_mapped_through_patient_coordinates(tmp_path: Path) -> None:
    """The T1W pixels are half as large, its slices half as far apart; no reference leads to the T2W series."""
    t1 = replace(study(1)[1], spacing=(1.0, 1.0), rows=96, columns=80, thickness=2.0, slices=13)
    mask = painted(t1, dict.fromkeys((5, 6, 7), (20, 29, 24, 41)))
    table = annotations(tmp_path, write_seg(tmp_path, t1, mask))
    image_t1, image_t2 = voxels_of(t1), voxels_of(T2)
    corners = [
        image_t2.TransformPhysicalPointToContinuousIndex(image_t1.TransformContinuousIndexToPhysicalPoint((x, y, 6)))
        for x, y in ((19.5, 23.5), (29.5, 41.5))
    ]
    assert corners[0][2] == pytest.approx(3)
    found = boxes(table, series_of(tmp_path, T2, t1))
    np.testing.assert_allclose(found[T2.sop(3)], [*corners[0][:2], *corners[1][:2]], atol=1e-3)


def other_frame_of_reference(segmentation: Segmentation) -> None:
    segmentation.FrameOfReferenceUID = "1.2.9"


def without_positions(segmentation: Segmentation) -> None:
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        del groups.PlanePositionSequence


def without_references(segmentation: Segmentation) -> None:
    del segmentation.ReferencedSeriesSequence
    for groups in segmentation.PerFrameFunctionalGroupsSequence:
        del groups.DerivationImageSequence


def larger_than_its_pixels(segmentation: Segmentation) -> None:
    segmentation.Rows = segmentation.Columns = 65535


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (other_frame_of_reference, "frame of reference is not the series'"),
        (without_positions, "cannot be read (KeyError)"),
        (without_references, "no readable sagittal series"),
        (larger_than_its_pixels, "cannot be read"),
    ],
)
def test_unfit_segmentation_excludes_its_patient(tmp_path: Path, change: Any, expected: str) -> None:
    table = annotations(tmp_path, write_seg(tmp_path, T2, painted(T2, EXTENTS), change=change), None)
    assert expected in reason(table, series_of(tmp_path, T2))


def test_segmentation_of_another_program_is_read(tmp_path: Path) -> None:
    """pydicom's real liver segmentation (written by dcmqi), turned into a slice of a sagittal series."""
    dataset = dcmread(str(get_testdata_file("liver_1frame.dcm")))
    shared, own = dataset.SharedFunctionalGroupsSequence[0], dataset.PerFrameFunctionalGroupsSequence[0]
    dataset.PerFrameFunctionalGroupsSequence = [own]  # whoever cut the file to one frame left all items
    stack = replace(T2, rows=dataset.Rows, columns=dataset.Columns, frame_of_reference=dataset.FrameOfReferenceUID)
    between_rows, between_columns = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    stack = replace(stack, spacing=(between_rows, between_columns), slices=3)
    shared.PlaneOrientationSequence[0].ImageOrientationPatient = stack.directions.ravel().tolist()
    own.PlanePositionSequence[0].ImagePositionPatient = [round(value, 6) for value in stack.position(1)]
    dataset.save_as(tmp_path / "liver")
    y, x = np.nonzero(dataset.pixel_array)
    expected = {stack.sop(1): [x.min() - 0.5, y.min() - 0.5, x.max() + 0.5, y.max() + 0.5]}
    assert boxes(annotations(tmp_path, "liver", stack), series_of(tmp_path, stack)) == expected


def test_frames_of_a_multi_frame_image_keep_their_names(tmp_path: Path) -> None:
    (one,) = series_of(tmp_path, T2)
    frames = tuple(replace(header, sop_instance_uid=f"1.9#{7 - at}") for at, header in enumerate(one.slices))
    table = annotations(tmp_path, write_seg(tmp_path, T2, painted(T2, EXTENTS)))
    assert boxes(table, [Series(frames)]) == {f"1.9#{index + 1}": box for index, box in EDGES.items()}


def test_references_may_be_missing_where_the_series_is_named(tmp_path: Path) -> None:
    table = annotations(tmp_path, write_seg(tmp_path, T2, painted(T2, EXTENTS), change=without_references))
    assert boxes(table, series_of(tmp_path, T2)) == {T2.sop(index): box for index, box in EDGES.items()}


def hostile(segmentation: Segmentation) -> None:
    text = f"{SECRET}<script>../=cmd()\n" + 200 * "x"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        segmentation.SegmentSequence[0].SegmentLabel = segmentation.ContentLabel = text
        segmentation.PatientName, segmentation.StudyID = text, text
    segmentation.SegmentSequence[0].SegmentDescription = segmentation.DeviceSerialNumber = text


def test_texts_of_a_segmentation_stay_inside(tmp_path: Path) -> None:
    table = annotations(tmp_path, write_seg(tmp_path, T2, painted(T2, EXTENTS), change=hostile))
    assert boxes(table, series_of(tmp_path, T2)) == {T2.sop(index): box for index, box in EDGES.items()}


def test_damaged_segmentations_exclude_or_are_read(tmp_path: Path) -> None:
    series, random = series_of(tmp_path, T2), np.random.default_rng(0)
    name = write_seg(tmp_path, T2, painted(T2, EXTENTS))
    table, good = annotations(tmp_path, name), (tmp_path / name).read_bytes()
    reasons = set()
    for _ in range(100):
        damaged = bytearray(good)
        for place in random.integers(132, len(good), 5):
            damaged[place] = random.integers(256)
        (tmp_path / name).write_bytes(damaged)
        drawn, excluded = draw_quietly(table, series)
        assert bool(excluded) == ("A" not in drawn["patient_id"].tolist())
        reasons |= {problem["reason"] for problem in excluded}
    assert len(reasons) > 3


def test_other_files_than_segmentations_exclude_their_patient(tmp_path: Path) -> None:
    series = series_of(tmp_path, T2)
    image = next((tmp_path / "images").rglob("*-*"))
    (tmp_path / "text").write_text("text")
    (tmp_path / "cut").write_bytes((tmp_path / write_seg(tmp_path, T2, painted(T2, EXTENTS))).read_bytes()[:2000])
    for name in (str(image), "text", "cut"):
        assert "cannot be read" in reason(annotations(tmp_path, name), series)


def test_empty_and_transverse_segments_are_excluded(tmp_path: Path) -> None:
    axial = replace(T2, uid="1.2.3.1.7", directions=np.array([[1.0, 0, 0], [0, 1.0, 0]]))
    series = series_of(tmp_path, T2, axial)
    empty = write_seg(tmp_path, T2, painted(T2, {}), omit_empty_frames=False)
    assert "on no slice" in reason(annotations(tmp_path, empty), series)
    across = write_seg(tmp_path, axial, painted(axial, EXTENTS))
    assert "planes are not the series'" in reason(annotations(tmp_path, across), series)
