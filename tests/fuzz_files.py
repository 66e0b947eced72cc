"""Small sound DICOM files of every kind that the reader has to read, for tests/fuzz_dicom.py to damage."""

import io
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import UID, EnhancedMRImageStorage, MRImageStorage

PRIVATE = "Zyxwvut"  # stands in every text that identifies a person and may appear nowhere

LITTLE, IMPLICIT, BIG = "1.2.840.10008.1.2.1", "1.2.840.10008.1.2", "1.2.840.10008.1.2.2"
DEFLATED, RLE = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.5"
JPEG_LS, JPEG_LS_LOSSY = "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"
JPEG_2000, JPEG_2000_LOSSY = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"
JPEG_8_BIT, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1 = (f"1.2.840.10008.1.2.4.{number}" for number in (50, 57, 70))
LOSSY_OPTIONS: dict[str, dict[str, Any]] = {JPEG_LS_LOSSY: {"jls_error": 2}, JPEG_2000_LOSSY: {"j2k_cr": [4]}}
Pixels = NDArray[Any]
ENCAPSULATED = [RLE, JPEG_LS, JPEG_LS_LOSSY, JPEG_2000, JPEG_2000_LOSSY, JPEG_8_BIT, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1]


def _pixels(count: int) -> Pixels:
    """Smooth 12-bit images (count, 36, 32)."""
    frame, row, column = np.mgrid[:count, :36, :32]
    pixels: Pixels = np.rint(1900 + 900 * np.sin(row / 7 + frame) + 800 * np.cos(column / 6)).astype(np.uint16)
    return pixels


def _image(syntax: str, pixels: Pixels) -> Dataset:
    """What single-frame and enhanced images have in common; `pixels` (frames, rows, columns)."""
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = UID(syntax)
    dataset.SpecificCharacterSet, dataset.Modality = "ISO_IR 192", "MR"
    dataset.SOPInstanceUID, dataset.StudyInstanceUID = "1.2.3.4.5", "1.2.3"
    dataset.SeriesInstanceUID, dataset.FrameOfReferenceUID = "1.2.3.4", "1.2.3.9"
    for keyword in (
        "PatientName",
        "PatientID",
        "InstitutionName",
        "SeriesDescription",
        "ImageComments",
        "AccessionNumber",
    ):
        setattr(dataset, keyword, f"{PRIVATE}^t2 é")
    dataset.PatientBirthDate, dataset.ImageType, dataset.InstanceNumber = "19500101", ["ORIGINAL", "PRIMARY"], 1
    dataset.Rows, dataset.Columns, dataset.SamplesPerPixel = *pixels.shape[1:], 1
    dataset.PhotometricInterpretation, dataset.PixelRepresentation = "MONOCHROME2", int(pixels.dtype.kind == "i")
    dataset.BitsAllocated = 8 * pixels.dtype.itemsize
    dataset.BitsStored = min(dataset.BitsAllocated, 12)
    dataset.HighBit = dataset.BitsStored - 1
    reference = Dataset()
    reference.ReferencedSOPInstanceUID, reference.PurposeOfReferenceCodeSequence = "1.2.3.5", Sequence([Dataset()])
    dataset.ReferencedImageSequence = Sequence([reference])
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x10, "OB", bytes(range(64)))
    return dataset


def _single_frame(syntax: str, pixels: Pixels, **tags: object) -> Dataset:
    dataset = _image(syntax, pixels)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = MRImageStorage
    dataset.ImagePositionPatient, dataset.PixelSpacing = [3, -20, 11], [2, 2]
    dataset.ImageOrientationPatient = [0, 1, 0, 0, 0, -1]
    dataset.RepetitionTime, dataset.EchoTime = 3200, 90
    dataset.RescaleSlope, dataset.RescaleIntercept = 2, -100
    for keyword, value in tags.items():
        setattr(dataset, keyword, value)
    return dataset


def _group(**tags: object) -> Sequence:
    item = Dataset()
    for keyword, value in tags.items():
        setattr(item, keyword, value)
    return Sequence([item])


def _enhanced(syntax: str, pixels: Pixels) -> Dataset:
    dataset = _image(syntax, pixels)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = EnhancedMRImageStorage
    dataset.NumberOfFrames = len(pixels)
    (shared,) = dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    shared.PixelMeasuresSequence = _group(PixelSpacing=[2, 2], SliceThickness=4)
    shared.PlaneOrientationSequence = _group(ImageOrientationPatient=[0, 1, 0, 0, 0, -1])
    shared.MRTimingAndRelatedParametersSequence = _group(RepetitionTime=3200)
    dataset.PerFrameFunctionalGroupsSequence = Sequence([Dataset() for _ in pixels])
    for index, frame in enumerate(dataset.PerFrameFunctionalGroupsSequence):
        frame.FrameContentSequence = _group(
            StackID="1", InStackPositionNumber=index + 1, DimensionIndexValues=[1, index + 1]
        )
        frame.PlanePositionSequence = _group(ImagePositionPatient=[3 + 4 * index, -20, 11])
        frame.MREchoSequence = _group(EffectiveEchoTime=90.0)
        frame.PixelValueTransformationSequence = _group(RescaleSlope=1 + index, RescaleIntercept=-5, RescaleType="US")
    return dataset


def _encoded(dataset: Dataset, pixels: Pixels) -> bytes:
    """Codestream of a frame in an encoding that pydicom cannot write; `dataset` is uncompressed."""
    if pixels.dtype == np.uint8:
        from PIL import Image

        Image.fromarray(pixels[0]).save(stream := io.BytesIO(), "JPEG")
        return stream.getvalue()
    import gdcm  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "image.dcm")
        dataset.save_as(path, enforce_file_format=True)
        reader, change, writer = gdcm.ImageReader(), gdcm.ImageChangeTransferSyntax(), gdcm.ImageWriter()
        reader.SetFileName(path)
        change.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.JPEGLosslessProcess14_1))
        assert reader.Read()
        change.SetInput(reader.GetImage())
        assert change.Change()
        writer.SetFileName(path)
        writer.SetFile(reader.GetFile())
        writer.SetImage(change.GetOutput())
        assert writer.Write()
        return next(generate_frames(pydicom.dcmread(path).PixelData, number_of_frames=1))


def _file(dataset: Dataset, pixels: Pixels, undefined_lengths: bool = False) -> bytes:
    """Pixels (frames, rows, columns) into the dataset, in its transfer syntax; the dataset as a file."""
    syntax = str(dataset.file_meta.TransferSyntaxUID)
    if undefined_lengths:
        _leave_lengths_undefined(dataset)
    dataset.PixelData = pixels.astype(pixels.dtype.newbyteorder(">" if syntax == BIG else "<")).tobytes()
    dataset["PixelData"].VR = "OW"
    if syntax in {JPEG_8_BIT, JPEG_LOSSLESS, JPEG_LOSSLESS_SV1}:
        dataset.file_meta.TransferSyntaxUID = UID(LITTLE)
        dataset.PixelData = encapsulate([_encoded(dataset, pixels)])
        dataset.file_meta.TransferSyntaxUID = UID(syntax)
        dataset["PixelData"].VR, dataset["PixelData"].is_undefined_length = "OB", True
    elif syntax in ENCAPSULATED:
        options = LOSSY_OPTIONS.get(syntax, {})
        dataset.file_meta.TransferSyntaxUID = UID(LITTLE)
        dataset.compress(syntax, np.squeeze(pixels), generate_instance_uid=False, **options)
    dataset.save_as(stream := io.BytesIO(), enforce_file_format=True)
    return stream.getvalue()


def _leave_lengths_undefined(dataset: Dataset) -> None:
    for element in dataset:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for item in element.value:
                item.is_undefined_length_sequence_item = True
                _leave_lengths_undefined(item)


def written_files() -> dict[str, bytes]:
    """A small sound file of every kind that the reader has to read, by what is special about it."""
    image, four = _pixels(1), _pixels(4)
    eight_bit, signed = (image // 16).astype(np.uint8), image.astype(np.int16) - 1000
    tables = _group(
        LUTDescriptor=[4096, 0, 16], ModalityLUTType="US", LUTData=np.arange(0, 8192, 2, dtype="<u2").tobytes()
    )
    files = {
        f"single frame {syntax}": _file(_single_frame(syntax, image), image)
        for syntax in [
            LITTLE,
            IMPLICIT,
            BIG,
            DEFLATED,
            RLE,
            JPEG_LS,
            JPEG_LS_LOSSY,
            JPEG_2000,
            JPEG_2000_LOSSY,
            JPEG_LOSSLESS,
            JPEG_LOSSLESS_SV1,
        ]
    }
    files |= {
        f"8 bit {syntax}": _file(_single_frame(syntax, eight_bit, BitsStored=8, HighBit=7), eight_bit)
        for syntax in [LITTLE, RLE, JPEG_2000, JPEG_8_BIT]
    }
    files |= {
        f"signed {syntax}": _file(_single_frame(syntax, signed, BitsStored=16, HighBit=15), signed)
        for syntax in [LITTLE, RLE, JPEG_2000]
    }
    padded = _single_frame(
        IMPLICIT, image, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=0, PixelPaddingRangeLimit=600
    )
    files["MONOCHROME1 with padding"] = _file(padded, image)
    with_table = _single_frame(LITTLE, image, ModalityLUTSequence=tables)
    del with_table.RescaleSlope, with_table.RescaleIntercept
    files["modality table"] = _file(with_table, image)
    files |= {
        f"enhanced {syntax}": _file(_enhanced(syntax, four), four, undefined_lengths=syntax != LITTLE)
        for syntax in [LITTLE, IMPLICIT, BIG, DEFLATED, RLE, JPEG_LS, JPEG_2000]
    }
    return files


def packaged_files(largest: int = 50_000) -> dict[str, bytes]:
    """pydicom's own test files and those of the real files beside the tests that are small enough to be quick."""
    folders = [Path(pydicom.__file__).parent / "data" / "test_files", Path(__file__).parent / "files"]
    try:
        import data_store  # type: ignore[import-untyped]

        folders.append(Path(data_store.__file__).parent / "data")
    except ImportError:  # the package pydicom-data is not installed
        pass
    paths = sorted(path for folder in folders for path in folder.rglob("*") if path.is_file())
    return {
        path.name: path.read_bytes() for path in paths if 132 < path.stat().st_size <= largest and _has_preamble(path)
    }


def _has_preamble(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
