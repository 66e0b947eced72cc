"""The elements of a plain file's header, found by jumping from one to the next.

Plain is what scanners write: a preamble, file meta information that begins with its length, VR little endian, implicit
or explicit, and values of known length or sequences. All else is left to pydicom, which takes ten times as long; what
is wanted of a plain header pydicom converts, too, but once for all files that say the same there. PS3.5 section 7.
"""

import io
import struct
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import BinaryIO, NamedTuple

from pydicom import uid as syntaxes
from pydicom.datadict import dictionary_has_tag, dictionary_VR
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.uid import UID, MediaStorageDirectoryStorage
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

FIRST_BYTES = 2**13  # in which most headers end
MORE_BYTES = 2**17  # in which those with a vendor's private elements end
MOST_NESTED = 8  # sequences
MOST_ENCODED = 2**14  # bytes of what is wanted
CHARACTER_SET = 0x00080005

_EXPLICIT, _IMPLICIT, _LENGTH = struct.Struct("<HH2sH"), struct.Struct("<HHL"), struct.Struct("<L")
_SHORT = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_16)
_LONG = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_META_LENGTH = struct.Struct("<128s4sL2sHL")
_DELIMITERS, _ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE, 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_STORED_CLASS, _SYNTAX = 0x00020002, 0x00020010
_PIXELS = frozenset([0x7FE00008, 0x7FE00009, 0x7FE00010])
_UNDEFINED = 0xFFFFFFFF
_PLAIN = [syntaxes.ImplicitVRLittleEndian, syntaxes.ExplicitVRLittleEndian, *syntaxes.JPEGTransferSyntaxes]
_PLAIN += [*syntaxes.JPEGLSTransferSyntaxes, *syntaxes.JPEG2000TransferSyntaxes, *syntaxes.RLETransferSyntaxes]
_SYNTAXES = {f"UI{syntax}{len(syntax) % 2 * chr(0)}".encode(): syntax for syntax in _PLAIN}


class NotPlainError(Exception):
    """The file is left to pydicom."""


class Plain(NamedTuple):
    """A header: its first bytes, where wanted elements, their values and their ends lie, and where the pixels begin."""

    start: bytes
    syntax: UID
    wanted: dict[int, tuple[int, int, int]]
    pixels: int

    def value(self, tag: int) -> bytes:
        """Bytes of an element; empty where it is missing."""
        _, begin, end = self.wanted.get(tag, (0, 0, 0))
        return self.start[begin:end]

    def encoded(self, without: Collection[int] = ()) -> bytes:
        """The wanted elements as they stand in the file, but for some."""
        return b"".join([self.start[begin:end] for tag, (begin, _, end) in self.wanted.items() if tag not in without])


def read_plain(file: BinaryIO, wanted: frozenset[int]) -> Plain:
    """The header of a file that stands at its start; no more is read than it takes.

    Raises:
        NotPlainError: the file is left to pydicom.
        OSError: the file cannot be read.
    """
    start = b""
    for more in (FIRST_BYTES, MORE_BYTES):
        start += file.read(more)
        with suppress(struct.error):  # at the end of the bytes
            return _plain(start, wanted)
    raise NotPlainError


@lru_cache(64)
def plain_dataset(encoded: bytes, syntax: UID) -> Dataset:
    """What pydicom makes of elements, which are to be left as they are: slices of one series mostly share them."""
    if len(encoded) > MOST_ENCODED:
        raise NotPlainError
    return read_dataset(io.BytesIO(encoded), syntax.is_implicit_VR, is_little_endian=True)


def _plain(start: bytes, wanted: frozenset[int]) -> Plain:
    _, magic, *first, length = _META_LENGTH.unpack_from(start)
    if magic != b"DICM" or first != [0x00000002, b"UL", 4]:
        raise NotPlainError
    body = 144 + length
    group, _, vr, _ = _EXPLICIT.unpack_from(start, body)
    meta = {
        tag: start[begin + 4 : begin + 6] + start[value:end]
        for tag, begin, value, end in _elements(start, 144, body, explicit=True)
    }
    syntax, explicit = _SYNTAXES.get(meta.get(_SYNTAX, b"")), vr in _SHORT or vr in _LONG
    if syntax is None or syntax.is_implicit_VR == explicit or group in (0, 2) or any(tag >> 16 != 2 for tag in meta):
        raise NotPlainError
    stored = meta.get(_STORED_CLASS, b"UI")
    if stored[:2] != b"UI" or MediaStorageDirectoryStorage.encode() in stored:
        raise NotPlainError
    found: dict[int, tuple[int, int, int]] = {}
    for tag, begin, value, end in _elements(start, body, None, explicit):
        if tag in _PIXELS:
            return Plain(start, syntax, found, begin)
        if tag in wanted or tag == CHARACTER_SET:
            found[tag] = begin, value, end
        elif tag >> 16 == _DELIMITERS:
            break
    raise NotPlainError


def _elements(
    start: bytes, at: int, until: int | None, explicit: bool, nested: int = 0
) -> Iterator[tuple[int, int, int, int]]:
    """Tag of each element, where it, its value and what follows it begin; the end of an item is one, too."""
    while at != until:
        begin = at
        group, element, vr, length = _EXPLICIT.unpack_from(start, at)
        at += 8
        tag = group << 16 | element
        if not explicit or group == _DELIMITERS:
            length = _LENGTH.unpack_from(start, begin + 4)[0]
        elif vr in _LONG:
            length = _LENGTH.unpack_from(start, at)[0]
            at += 4
        elif vr not in _SHORT:
            raise NotPlainError
        value = at
        if length != _UNDEFINED:
            at += length
        elif vr == b"SQ" if explicit else dictionary_has_tag(tag) and dictionary_VR(tag) == "SQ":
            at = _sequence_end(start, at, explicit, nested)
        elif nested or tag not in _PIXELS:
            raise NotPlainError
        if until is not None and at > until:
            raise NotPlainError
        yield tag, begin, value, at


def _sequence_end(start: bytes, at: int, explicit: bool, nested: int) -> int:
    """Where a sequence of undefined length ends."""
    while True:
        group, element, length = _IMPLICIT.unpack_from(start, at)
        tag, at = group << 16 | element, at + 8
        if tag == _SEQUENCE_END:
            return at
        if tag != _ITEM or nested == MOST_NESTED:
            raise NotPlainError
        until = None if length == _UNDEFINED else at + length
        for tag, begin, _, end in _elements(start, at, until, explicit, nested + 1):
            if tag == CHARACTER_SET or (tag >> 16 == _DELIMITERS and (tag, end - begin, until) != (_ITEM_END, 8, None)):
                raise NotPlainError
            at = end
            if tag == _ITEM_END:
                break
