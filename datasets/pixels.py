"""Pixels of an image as numbers: every encoding that hospitals use, or the reason why not.

A size is believed only where the file or the codestream bears it out, so that memory follows the file, not its claims.
"""

import io
import struct
import warnings
from contextlib import ExitStack
from typing import Any, BinaryIO

import imagecodecs
import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import uid as syntaxes
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, get_frame
from pydicom.pixels.decoders.base import get_decoder
from pydicom.pixels.processing import apply_modality_lut
from pydicom.pixels.utils import as_pixel_options
from pydicom.tag import Tag
from pydicom.uid import UID

from datasets.dicom_file import SkipError, open_dicom
from datasets.headers import SliceHeader
from datasets.plain_elements import NotPlainError, plain_dataset, read_plain

_CODECS = {
    **dict.fromkeys(syntaxes.JPEGTransferSyntaxes, imagecodecs.jpeg8_decode),
    **dict.fromkeys(syntaxes.JPEGLSTransferSyntaxes, imagecodecs.jpegls_decode),
    **dict.fromkeys(syntaxes.JPEG2000TransferSyntaxes, imagecodecs.jpeg2k_decode),
}
MOST_RLE_BYTES = 5 << 19  # of a frame; each may become 64
MOST_TILES = 1024  # of a JPEG 2000 image; each costs a decoder several kilobytes
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # SOF markers of JPEG and JPEG-LS
_JPEG2000_START, _END = b"\xff\x4f\xff\x51", b"\xff\xd9"
_IMAGE_PIXEL = (
    *("NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation", "Rows", "Columns", "BitsAllocated"),
    *("BitsStored", "HighBit", "PixelRepresentation", "ExtendedOffsetTable", "ExtendedOffsetTableLengths"),
)
_VALUES = ("RescaleSlope", "RescaleIntercept", "ModalityLUTSequence", "PixelPaddingValue", "PixelPaddingRangeLimit")
_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
_TAGS = [Tag(keyword) for keyword in (*_IMAGE_PIXEL, *_VALUES, *_GROUPS)]
_WANTED = frozenset(map(int, _TAGS))

_REASONS = {AttributeError: "image attributes are missing", NotImplementedError: "encoding not supported"}


def read_pixels(header: SliceHeader) -> NDArray[Any]:
    """Image (rows, columns) after rescale slope and intercept or the modality lookup table, 0 where it is padding.

    MONOCHROME1 is inverted, so that more is always brighter. Of a multi-frame image only the frame is read. The numbers
    are float32, or integers that float32 holds exactly where nothing rescales them.

    Raises:
        ValueError: the pixel data cannot be decoded or do not have the header's shape; says why, without the path.
    """
    syntax = "unknown transfer syntax"
    try:
        with warnings.catch_warnings(), ExitStack() as opened:
            warnings.simplefilter("ignore")  # they quote the file
            try:
                file: BinaryIO | io.FileIO = opened.enter_context(io.FileIO(header.path))
                dataset, transfer_syntax = _read_native(file)
            except NotPlainError:
                file = opened.enter_context(open_dicom(header.path))
                dataset = pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=_TAGS)
                transfer_syntax = _transfer_syntax(dataset)
            syntax = transfer_syntax.name
            stored = _stored_values(file, dataset, transfer_syntax, header)
            pixels = _meaning(stored, dataset, header.frame or 0)
    except SkipError as damage:
        raise ValueError(f"pixel data cannot be decoded ({syntax}, {damage})") from None
    except Exception as error:  # decoders raise whatever a damaged file provokes
        why = _REASONS.get(type(error), type(error).__name__)
        raise ValueError(f"pixel data cannot be decoded ({syntax}, {why})") from None
    if pixels.dtype.kind == "f" and not np.isfinite(pixels).all():
        raise ValueError("pixel data hold values that are not numbers")
    return pixels


def _read_native(file: BinaryIO) -> tuple[Dataset, UID]:
    plain = read_plain(file, _WANTED)
    if plain.syntax.is_encapsulated:
        raise NotPlainError
    file.seek(plain.pixels)
    return plain_dataset(plain.encoded(), plain.syntax), plain.syntax


def _transfer_syntax(dataset: Dataset) -> UID:
    declared = dataset.file_meta.get("TransferSyntaxUID")
    if declared is None:
        implicit, little = dataset.original_encoding
        little_endian = syntaxes.ImplicitVRLittleEndian if implicit else syntaxes.ExplicitVRLittleEndian
        return little_endian if little else syntaxes.ExplicitVRBigEndian
    if not UID(declared).is_valid:
        raise SkipError("malformed transfer syntax UID")
    return UID(declared)


def _stored_values(file: BinaryIO, dataset: Dataset, syntax: UID, header: SliceHeader) -> NDArray[Any]:
    """Image (rows, columns) as stored, without the bits beside BitsStored; the file stands at the pixel data."""
    decoder = get_decoder(syntax)
    bits, stored, frame = int(dataset.BitsAllocated), int(dataset.BitsStored), header.frame or 0
    if (dataset.Rows, dataset.Columns) != (header.rows, header.columns):
        raise SkipError(f"{dataset.Rows} rows and {dataset.Columns} columns, not {header.rows} and {header.columns}")
    if bits not in (8, 16) or dataset.get("SamplesPerPixel", 1) != 1:
        raise SkipError(f"{bits} bits allocated, or colours")
    vr, length = _pixel_element(file, little_endian=syntax.is_little_endian)
    used = int(dataset.get("HighBit", stored - 1)) + 1
    options: dict[str, Any] = as_pixel_options(dataset, pixel_keyword="PixelData", pixel_vr=vr)
    if syntax.is_encapsulated:
        offsets = options.pop("extended_offsets", None)
        encoded = get_frame(file, frame, number_of_frames=options["number_of_frames"], extended_offsets=offsets)
        if syntax in _CODECS:
            return _decoded(encoded, syntax, header, dataset)
        if len(encoded) > MOST_RLE_BYTES:
            raise SkipError("run lengths beyond measure")
        source = encapsulate([encoded], has_bot=False)
    else:
        size = header.rows * header.columns * bits // 8
        file.seek(frame * size, io.SEEK_CUR)
        source = file.read(size)
        if len(source) < size or length < (frame + 1) * size:
            raise SkipError("fewer bytes than the image needs")
    if not 0 < stored <= used <= bits:
        raise SkipError(f"{stored} of {bits} bits stored below bit {used}")
    if syntax.is_little_endian and not syntax.is_encapsulated:
        native = np.frombuffer(source, f"<{'ui'[dataset.PixelRepresentation]}{bits // 8}") << bits - used
        native >>= bits - stored
        return native.reshape(header.rows, header.columns)
    options |= {"bits_stored": used, "number_of_frames": 1}
    pixels: NDArray[np.int32] = decoder.as_array(source, index=0, raw=True, **options)[0].astype(np.int32)
    return pixels >> (used - stored)


def _pixel_element(file: BinaryIO, *, little_endian: bool) -> tuple[str, int]:
    """Value representation and length of the pixel data, whose value the file then stands at."""
    order = "<" if little_endian else ">"
    start = file.read(8)
    if len(start) < 8 or struct.unpack(f"{order}HH", start[:4]) != (0x7FE0, 0x0010):
        raise SkipError("no pixel data")
    if start[4:6] in (b"OB", b"OW", b"UN"):
        return start[4:6].decode(), struct.unpack(f"{order}L", file.read(4))[0]
    return "OW", struct.unpack(f"{order}L", start[4:])[0]


def _decoded(encoded: bytes, syntax: UID, header: SliceHeader, dataset: Dataset) -> NDArray[np.int32]:
    """The codestream's image (rows, columns), once its own account of its size agrees with the header's."""
    if not encoded.rstrip(b"\0\xff").endswith(_END):
        raise SkipError("the codestream is cut off")
    if syntax in syntaxes.JPEG2000TransferSyntaxes:
        encoded = encoded[max(encoded.find(_JPEG2000_START), 0) :]  # some writers wrap it in JP2 boxes
        precision, *shape = _jpeg2000_size(encoded)
    else:
        precision, *shape = _jpeg_size(encoded)
    if shape != [header.rows, header.columns, 1] or precision > dataset.BitsAllocated:
        raise SkipError("the codestream is of another size, depth or colour than the header")
    pixels: NDArray[np.int32] = _CODECS[syntax](encoded).astype(np.int32) & (1 << precision) - 1
    if pixels.shape != (header.rows, header.columns):
        raise SkipError("the codestream holds an image of another size")
    if dataset.PixelRepresentation:
        pixels -= (pixels >> (precision - 1)) << precision  # the sign
    return pixels


def _jpeg_size(encoded: bytes) -> tuple[int, ...]:
    """Precision, rows, columns and components in the frame header (ITU-T T.81 B.2.2, T.87 C.2.2)."""
    at = 2
    while encoded[at] == 0xFF:
        if encoded[at + 1] in _FRAME_HEADERS:
            return struct.unpack_from(">BHHB", encoded, at + 4)
        at += 1 if encoded[at + 1] == 0xFF else 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    raise SkipError("no frame header in the codestream")


def _jpeg2000_size(encoded: bytes) -> tuple[int, ...]:
    """Precision, rows, columns and components in the SIZ marker segment (ITU-T T.800 A.5.1)."""
    x, y, left, top, tile_width, tile_height, _, _, components, precision, *step = struct.unpack_from(
        ">8IH3B", encoded, 8
    )
    tiles = -(-x // tile_width) * -(-y // tile_height)
    if not encoded.startswith(_JPEG2000_START) or tiles > MOST_TILES or step != [1, 1]:
        raise SkipError("impossible sizes in the codestream")
    return (precision & 0x7F) + 1, y - top, x - left, components


def _meaning(stored: NDArray[Any], dataset: Dataset, frame: int) -> NDArray[Any]:
    """Image (rows, columns) in the units that rescaling or the lookup table gives, padding 0 (PS3.3 C.7.5.1.1.2)."""
    padding = _padding(stored, dataset)
    if dataset.get("PhotometricInterpretation") == "MONOCHROME1":
        lowest = -(1 << dataset.BitsStored - 1) if dataset.PixelRepresentation else 0
        stored = 2 * lowest + (1 << dataset.BitsStored) - 1 - stored.astype(np.int32)
    if dataset.get("ModalityLUTSequence"):
        pixels = apply_modality_lut(stored.astype(np.int32), dataset).astype(np.float32)
    else:
        slope, intercept = _rescaling(dataset, frame)
        plain = (slope, intercept) == (1, 0)  # of 16 bits, which float32 holds exactly
        pixels = stored if plain else (stored * slope + intercept).astype(np.float32)
    if padding is not None:
        pixels[padding] = 0
    return pixels


def _padding(stored: NDArray[Any], dataset: Dataset) -> NDArray[np.bool_] | None:
    if dataset.get("PixelPaddingValue") is None:
        return None
    one = _signed(dataset.PixelPaddingValue, dataset)
    other = _signed(dataset.get("PixelPaddingRangeLimit", one), dataset)
    return (stored >= min(one, other)) & (stored <= max(one, other))


def _signed(value: int, dataset: Dataset) -> int:
    """A stored value that the writer may have given with the wrong sign (US for SS, or the other way)."""
    full = 1 << dataset.BitsAllocated
    value %= full
    return value - full if dataset.PixelRepresentation and value >= full // 2 else value


def _rescaling(dataset: Dataset, frame: int) -> tuple[float, float]:
    """Slope and intercept of a frame, of all frames or of the image."""
    shared, of_frames = (dataset.get(name) or [] for name in _GROUPS)
    source = dataset
    for group in (*shared[:1], *of_frames[frame : frame + 1]):
        source = (group.get("PixelValueTransformationSequence") or [source])[0]
    slope, intercept = source.get("RescaleSlope"), source.get("RescaleIntercept")
    return 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
