"""A file as pydicom is given it: told from other files, inflated, and within bounds that no honest file reaches."""

import io
import logging
import zlib
from contextlib import suppress
from typing import BinaryIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset, read_preamble
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian

# What pydicom says about malformed values quotes the value, which may be a name, and the path: none may reach a log.
pydicom.config.settings.reading_validation_mode = pydicom.config.IGNORE
logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)

MOST_INFLATED_BYTES = 2**26
MOST_IN_MEMORY = 2**24  # bytes of a file; of larger ones sequence items are counted in these
MOST_ITEMS = 2**15  # of sequences; pydicom takes 20 microseconds for each
MOST_NESTED = 100  # items of undefined length without an end; pydicom searches all the rest for each
FIRST_BYTES = 2**17  # in which most headers end, Siemens' private elements included

_ITEMS = (b"\xfe\xff\x00\xe0", b"\xff\xfe\xe0\x00")  # tag of an item, little and big endian
_OPEN_ITEM, _ITEM_END = b"\xfe\xff\x00\xe0\xff\xff\xff\xff", b"\xfe\xff\x0d\xe0"
_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00", b"\x00\x08")  # of files without a preamble


class SkipError(Exception):
    """Why a file is left aside or its pixels cannot be read; says nothing that identifies a person."""


def open_dicom(path: str) -> BinaryIO:
    """A file at its start: in memory unless it is large, and inflated where its data set is deflated.

    In memory, asking for more bytes than there are, as false lengths do, reserves none.

    Raises:
        SkipError: the file is not DICOM, or inflates to more than MOST_INFLATED_BYTES.
        OSError: the file cannot be read.
    """
    file = io.BufferedReader(io.FileIO(path))
    start, size = file.read(1024), file.seek(0, io.SEEK_END)
    file.seek(0)
    if start[128:132] != b"DICM" and start[:2] not in _FIRST_GROUPS:
        file.close()
        raise SkipError("not DICOM")
    is_deflated = DeflatedExplicitVRLittleEndian.encode() in start
    if size > MOST_IN_MEMORY and not is_deflated:
        return file
    with file:
        return _inflate(file) if is_deflated else io.BytesIO(file.read())


def _inflate(file: BinaryIO) -> BinaryIO:
    """The file as it would be without deflation; pydicom itself inflates without a limit."""
    read_preamble(file, force=True)
    read_dataset(file, False, True, stop_when=lambda tag, *_: tag >> 16 != 2)  # explicit VR, little endian
    end_of_meta = file.tell()
    file.seek(0)
    plain = pydicom.uid.ExplicitVRLittleEndian.encode().ljust(len(DeflatedExplicitVRLittleEndian), b"\0")
    meta = file.read(end_of_meta).replace(DeflatedExplicitVRLittleEndian.encode(), plain)
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    inflated = inflater.decompress(file.read(), MOST_INFLATED_BYTES)
    if inflater.unconsumed_tail:
        raise SkipError("inflates beyond measure")
    return io.BytesIO(meta + inflated)


def read_before_pixels(path: str, tags: list[BaseTag]) -> Dataset:
    """Reads FIRST_BYTES in one go, more only where the header is longer, since pydicom reads many times.

    Raises:
        SkipError: as `open_dicom`, or the header is beyond measure.
    """
    with open_dicom(path) as file:
        first = io.BytesIO(file.read(FIRST_BYTES))
        with suppress(Exception):  # a longer header is cut off
            dataset = pydicom.dcmread(first, stop_before_pixels=True, force=True, specific_tags=tags)
            if first.tell() < FIRST_BYTES:
                return dataset
        file.seek(0)
        start = file.read(MOST_IN_MEMORY)
        if sum(map(start.count, _ITEMS)) > MOST_ITEMS or start.count(_OPEN_ITEM) > start.count(_ITEM_END) + MOST_NESTED:
            raise SkipError("more sequence items than an image has")
        file.seek(0)
        return pydicom.dcmread(file, stop_before_pixels=True, force=True, specific_tags=tags)
