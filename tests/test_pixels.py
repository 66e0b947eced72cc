"""Pixels in every encoding, against SimpleITK and against what was written; sizes that lie; what cannot be decoded."""

import io
import shutil
import struct
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from datasets.dicom import SliceHeader
from datasets.pixels import read_pixels
from tests.mr_files import series_in, slice_dataset, study

sitk = pytest.importorskip("SimpleITK")
FILES = Path(__file__).parent / "files"
NATIVE = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
ENCODED = [RLELossless, JPEGLSLossless, JPEG2000Lossless]
T2, _ = study(1)
RAMP = (np.add.outer(np.arange(T2.rows) ** 2, 7 * np.arange(T2.columns)) % 4096).astype(np.int64)


def written(tmp_path: Path, stored: NDArray[Any] = RAMP, syntax: UID = ExplicitVRLittleEndian, **tags: Any) -> Path:
    """A file of one image with these stored values."""
    dataset = slice_dataset(T2, 0, np.zeros(stored.shape))
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    kind = f"{'ui'[dataset.PixelRepresentation]}{dataset.BitsAllocated // 8}"
    dataset.PixelData = stored.astype(("<" if syntax != ExplicitVRBigEndian else ">") + kind).tobytes()
    if syntax in ENCODED:
        dataset.compress(syntax, generate_instance_uid=False)
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.save_as(tmp_path / "image", enforce_file_format=True)
    return tmp_path / "image"


def one_header(folder: Path) -> SliceHeader:
    ((header,),) = (series.slices for series in series_in(folder))
    return header


def by_simpleitk(path: Path) -> NDArray[Any]:
    image: NDArray[Any] = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    return image


@pytest.mark.parametrize("number", range(1, 10))
def test_nine_encodings_of_one_real_image_give_the_same_pixels(number: int, tmp_path: Path) -> None:
    shutil.copy(FILES / "transfer-syntaxes" / f"{number}.dcm", tmp_path)
    expected = by_simpleitk(FILES / "transfer-syntaxes" / "1.dcm")[0]
    assert expected.std() > 50
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), expected)


@pytest.mark.parametrize("syntax", NATIVE + ENCODED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(
    ("allocated", "bits", "signed"), [(8, 8, 0), (16, 12, 0), (16, 12, 1), (16, 16, 0), (16, 16, 1)]
)
def test_what_was_written_is_read(syntax: UID, allocated: int, bits: int, signed: int, tmp_path: Path) -> None:
    stored = RAMP * 16 >> 16 - bits
    stored = stored - (1 << bits - 1) if signed else stored
    tags = {"BitsAllocated": allocated, "BitsStored": bits, "HighBit": bits - 1, "PixelRepresentation": signed}
    path = written(tmp_path, stored, syntax, **tags)
    pixels = read_pixels(one_header(tmp_path))
    assert np.array_equal(pixels.astype(np.float32), pixels)
    np.testing.assert_array_equal(pixels, stored)
    if syntax != JPEGLSLossless or not signed:  # GDCM leaves the sign bit of JPEG-LS where it is
        np.testing.assert_array_equal(pixels, by_simpleitk(path)[0])


@pytest.mark.parametrize("syntax", NATIVE, ids=lambda syntax: syntax.keyword)
def test_an_odd_number_of_bytes_is_read(syntax: UID, tmp_path: Path) -> None:
    stored, tags = RAMP[:-1, :-1] // 16, {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}
    assert stored.size % 2
    path = written(tmp_path, stored, syntax, Rows=stored.shape[0], Columns=stored.shape[1], **tags)
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), stored)
    np.testing.assert_array_equal(by_simpleitk(path)[0], stored)


def test_a_high_throughput_jpeg_2000_is_read(tmp_path: Path) -> None:
    path = written(tmp_path)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([(FILES / "htj2k" / "48x40.j2c").read_bytes()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = HTJ2KLossless
    dataset.save_as(path)
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), RAMP)


def test_a_lossy_jpeg_is_read(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    stream, smooth = io.BytesIO(), (RAMP // 40).astype(np.uint8)
    image.fromarray(smooth).save(stream, "JPEG", quality=95)
    path = written(tmp_path, smooth, BitsAllocated=8, BitsStored=8, HighBit=7)
    dataset = pydicom.dcmread(path)
    dataset.PixelData = encapsulate([stream.getvalue()])
    dataset["PixelData"].is_undefined_length = True
    dataset.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    dataset.save_as(path)
    pixels = read_pixels(one_header(tmp_path))
    np.testing.assert_array_equal(pixels, by_simpleitk(path)[0])
    assert np.abs(pixels - smooth).mean() < 3


@pytest.mark.parametrize("name", ["", "_big_endian", "_RLE", "_jpeg_2k_lossless", "_jpeg_ls_lossless"])
def test_every_frame_of_a_real_multi_frame_image_is_read_alone(name: str) -> None:
    data_store = pytest.importorskip("data_store", reason="the package pydicom-data holds Enhanced MR images")
    path = Path(data_store.__file__).parent / "data" / f"emri_small{name}.dcm"
    expected = by_simpleitk(path)
    assert expected.shape == (10, 64, 64)
    header = SliceHeader(
        path, 0, "1#1", "1", "1", "1", (0, 0, 0), (1, 0, 0, 0, 1, 0), (1, 1), 64, 64, None, frozenset(), ()
    )
    for frame in range(10):
        np.testing.assert_array_equal(read_pixels(replace(header, frame=frame)), expected[frame])
    with pytest.raises(ValueError, match="cannot be decoded"):
        read_pixels(replace(header, frame=10))


@pytest.mark.parametrize("name", ["MR2_UNCI", "MR2_J2KR", "MR2_J2KI", "MR-SIEMENS-DICOM-WithOverlays"])
def test_real_images_with_overlays_and_odd_bits_agree_with_simpleitk(name: str, tmp_path: Path) -> None:
    data_store = pytest.importorskip("data_store", reason="the package pydicom-data holds these images")
    shutil.copy(Path(data_store.__file__).parent / "data" / f"{name}.dcm", tmp_path)
    np.testing.assert_allclose(read_pixels(one_header(tmp_path)), by_simpleitk(tmp_path / f"{name}.dcm")[0], atol=1)


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless], ids=["native", "RLE"])
@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("high_bit", [11, 13])
def test_bits_beside_the_stored_ones_are_not_pixels(signed: int, high_bit: int, syntax: UID, tmp_path: Path) -> None:
    values = RAMP - 2048 * signed
    junk = np.random.default_rng(0).integers(0, 1 << 16, RAMP.shape)
    below = high_bit - 11
    mask = 0xFFF << below
    stored = (values << below & mask) | (junk & 0xFFFF & ~mask)
    stored = np.where(stored >= 1 << 15, stored - (1 << 16), stored) if signed else stored
    tags = {"BitsStored": 12, "HighBit": high_bit, "PixelRepresentation": signed}
    path = written(tmp_path, stored, syntax, **tags)
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), values)
    if not below:  # GDCM takes HighBit for granted
        np.testing.assert_array_equal(by_simpleitk(path)[0], values)


@pytest.mark.parametrize("signed", [0, 1])
def test_rescaling_and_inversion(signed: int, tmp_path: Path) -> None:
    stored, lowest, highest = RAMP - 2048 * signed, -2048 * signed, 4095 - 2048 * signed
    tags: dict[str, Any] = {
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": signed,
        "RescaleSlope": 2.5,
        "RescaleIntercept": -100,
    }
    written(tmp_path, stored, **tags, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(read_pixels(one_header(tmp_path)), (highest + lowest - stored) * 2.5 - 100)


@pytest.mark.parametrize(
    ("tags", "padded"),
    [
        ({"PixelPaddingValue": 0}, RAMP == 0),
        ({"PixelPaddingValue": 20, "PixelPaddingRangeLimit": 700}, (RAMP >= 20) & (RAMP <= 700)),
        ({"PixelPaddingValue": 700, "PixelPaddingRangeLimit": 20}, (RAMP >= 20) & (RAMP <= 700)),
        ({"PixelPaddingValue": 60000}, RAMP < 0),
    ],
)
def test_padding_is_zero_after_rescaling(tags: dict[str, Any], padded: NDArray[np.bool_], tmp_path: Path) -> None:
    written(tmp_path, RescaleSlope=1, RescaleIntercept=5, **tags)
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), np.where(padded, 0, RAMP + 5))


def test_padding_of_signed_pixels_may_be_written_unsigned(tmp_path: Path) -> None:
    dataset = pydicom.dcmread(written(tmp_path, RAMP - 2048, PixelRepresentation=1))
    dataset.add_new("PixelPaddingValue", "US", 65536 - 2000)
    dataset.save_as(tmp_path / "image")
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), np.where(RAMP == 48, 0, RAMP - 2048))


def test_a_modality_lookup_table_is_applied(tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [4096, 0, 16], list(range(4096, 0, -1)), "US"
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    written(tmp_path, ModalityLUTSequence=[table])
    np.testing.assert_array_equal(read_pixels(one_header(tmp_path)), 4096 - RAMP)


def test_a_file_without_meta_header_is_read(tmp_path: Path) -> None:
    for name, syntax in {"i": ImplicitVRLittleEndian, "e": ExplicitVRLittleEndian, "b": ExplicitVRBigEndian}.items():
        (tmp_path / name).mkdir()
        dataset = pydicom.dcmread(written(tmp_path / name, syntax=syntax))
        implicit, little = syntax.is_implicit_VR, syntax.is_little_endian
        del dataset.file_meta, dataset.preamble
        dataset.save_as(tmp_path / name / "image", implicit_vr=implicit, little_endian=little)
        np.testing.assert_array_equal(read_pixels(one_header(tmp_path / name)), RAMP)


def refusal(header: SliceHeader) -> str:
    with pytest.raises(ValueError) as raised:
        read_pixels(header)
    assert raised.value.__cause__ is None
    assert str(Path(header.path).parent) not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("syntax", NATIVE + ENCODED, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("kept", [0.4, 0.9])
def test_a_cut_off_image_gives_a_reason(syntax: UID, kept: float, tmp_path: Path) -> None:
    path = written(tmp_path, syntax=syntax)
    header, content = one_header(tmp_path), path.read_bytes()
    start = content.rfind(b"\xe0\x7f\x10\x00") if syntax != DeflatedExplicitVRLittleEndian else 0
    path.write_bytes(content[: start + int((len(content) - start) * kept)])
    name = "Explicit VR Little Endian" if syntax == DeflatedExplicitVRLittleEndian else syntax.name
    assert f"cannot be decoded ({name}" in refusal(header)


@pytest.mark.parametrize("number", [5, 6])
def test_a_cut_off_lossless_jpeg_gives_a_reason(number: int, tmp_path: Path) -> None:
    shutil.copy(FILES / "transfer-syntaxes" / f"{number}.dcm", tmp_path)
    header = one_header(tmp_path)
    Path(header.path).write_bytes(Path(header.path).read_bytes()[:-20_000])
    assert "JPEG" in refusal(header)


def test_other_damage_names_the_transfer_syntax(tmp_path: Path) -> None:
    path = written(tmp_path)
    header, sound = one_header(tmp_path), pydicom.dcmread(path)
    sound.PixelData = encapsulate([bytes(100)])
    sound["PixelData"].is_undefined_length = True
    for uid, name in {"1.2.840.10008.1.2.4.100": "MPEG2 Main", "1.2.752.24.3.7.6": "1.2.752.24.3.7.6"}.items():
        sound.file_meta.TransferSyntaxUID = UID(uid)
        sound.save_as(path, implicit_vr=False, little_endian=True)
        assert name in refusal(header)
    path.write_bytes(path.read_bytes().replace(b"1.2.752.24.3.7.6", b"<script>".ljust(16, b"\0")))
    assert "(unknown transfer syntax" in refusal(header)
    path.unlink()
    assert "FileNotFoundError" in refusal(header)


def test_sizes_that_lie_are_refused_before_memory_is_taken(tmp_path: Path) -> None:
    path = written(tmp_path)
    dataset, header = pydicom.dcmread(path), one_header(tmp_path)
    dataset.Rows = dataset.Columns = 2048
    dataset.save_as(path)
    assert "2048 rows" in refusal(header)
    assert "fewer bytes" in refusal(replace(header, rows=2048, columns=2048))
    for syntax, at in {JPEGLSLossless: 7, JPEG2000Lossless: 8}.items():
        path = written(tmp_path, syntax=syntax)
        content, marker = bytearray(path.read_bytes()), {7: b"\xff\xf7", 8: b"\xff\x4f\xff\x51"}[at]
        struct.pack_into(">H", content, content.find(marker) + {7: 5, 8: 10}[at], 30_000)
        path.write_bytes(content)
        assert "another size" in refusal(header)


def test_a_deflated_bomb_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, syntax=DeflatedExplicitVRLittleEndian)
    header, content = one_header(tmp_path), path.read_bytes()
    meta = 144 + pydicom.dcmread(path).file_meta.FileMetaInformationGroupLength
    body = zlib.decompress(content[meta:], -zlib.MAX_WBITS)
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    path.write_bytes(content[:meta] + packer.compress(body + bytes(70 << 20)) + packer.flush())
    assert path.stat().st_size < 200_000
    assert "beyond measure" in refusal(header)
