"""Takes DICOM files apart and damages them, for tests/fuzz_dicom.py."""

# ruff: noqa: ARG001 (every damage has the same signature)
from __future__ import annotations

import functools
import random
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tests.fuzz_files import BIG, DEFLATED, ENCAPSULATED, IMPLICIT, LITTLE

LONG_VRS = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Element:
    """Where an element stands in its file; items and delimiters of sequences and of pixel data count too."""

    tag: tuple[int, int]
    vr: bytes  # empty where the encoding has none
    order: str  # < or >
    start: int
    length_at: int
    value: int
    end: int  # of the value; of its beginning where the length is undefined
    depth: int

    def written(self, value: bytes, tag: tuple[int, int] | None = None, vr: bytes | None = None) -> bytes:
        """The element with another value, its length kept true."""
        tag, vr, value = tag or self.tag, self.vr if vr is None else vr, value + b"\0" * (len(value) % 2)
        head = struct.pack(self.order + "HH", *tag)
        if not vr:
            return head + struct.pack(self.order + "I", len(value)) + value
        if vr in LONG_VRS:
            return head + vr + b"\0\0" + struct.pack(self.order + "I", len(value)) + value
        return head + vr + struct.pack(self.order + "H", len(value) & 0xFFFF) + value


def _walk(data: bytes, at: int, end: int, order: str, implicit: bool, depth: int) -> Iterator[Element]:
    while at + 8 <= end:
        start, tag = at, struct.unpack_from(order + "HH", data, at)
        vr = b"" if implicit or tag[0] == 0xFFFE else data[at + 4 : at + 6]
        length_at = at + (4 if not vr else 8 if vr in LONG_VRS else 6)
        length_size = 2 if vr and vr not in LONG_VRS else 4
        at = length_at + length_size
        if at > end:
            return
        (length,) = struct.unpack_from(order + ("H" if length_size == 2 else "I"), data, length_at)
        stop = at if length == UNDEFINED else min(at + length, end)
        holds_items = vr == b"SQ" or (
            not vr and length >= 8 and data[at : at + 4] == struct.pack(order + "HH", 0xFFFE, 0xE000)
        )
        yield Element(tag, vr, order, start, length_at, at, stop, depth)
        is_item = tag == (0xFFFE, 0xE000) and stop - at >= 8 and data[at + 1] == (0 if order == "<" else data[at + 1])
        if stop > at and (holds_items or (is_item and depth > 0)):
            yield from _walk(data, at, stop, order, implicit, depth + 1)
        at = stop


@dataclass(frozen=True)
class Seed:
    """A sound file, taken apart: `data` is inflated."""

    name: str
    file: bytes
    data: bytes
    deflated_from: int | None
    elements: tuple[Element, ...]

    @functools.cached_property
    def decisive(self) -> list[Element]:
        """Those on which geometry, memory and decoding depend."""
        pixels = next((index for index, e in enumerate(self.elements) if e.tag == PIXEL_DATA), len(self.elements))
        return [e for index, e in enumerate(self.elements) if e.tag in LIES or index >= pixels] or [self.elements[0]]

    @classmethod
    def of(cls, name: str, file: bytes) -> Seed:
        meta: list[Element] = []
        for element in _walk(file, 132, len(file), "<", False, 0):
            if element.tag[0] != 2:
                break
            meta.append(element)
        syntax = next((file[e.value : e.end].rstrip(b"\0 ").decode() for e in meta if e.tag == (2, 0x10)), LITTLE)
        body_at = meta[-1].end if meta else 132
        data = file[:body_at] + zlib.decompress(file[body_at:], -15) if syntax == DEFLATED else file
        body = _walk(data, body_at, len(data), ">" if syntax == BIG else "<", syntax == IMPLICIT, 0)
        return cls(name, file, data, body_at if syntax == DEFLATED else None, (*meta, *body))


Edit = tuple[int, int, bytes]
"""Bytes from, to and what stands there instead."""

NUMBERS = [0, 1, 2, 3, 4, 7, 8, 12, 15, 16, 17, 24, 31, 32, 36, 64, 255, 256, 1000, 4096, 20000, 32768, 65535]
LENGTHS = [0, 1, 2, 3, 7, 255, 65534, 65535, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, UNDEFINED, 1 << 24, 1 << 29]
TEXTS = rb"0 -1 1e300 -1e300 1e-320 nan inf -inf abc \ 1\ 1\2\3 1_0 0x10 1.5 99999999999999999999 2147483648".split()
TEXTS += [b"", b"\0", b"1\0\\2", b"\xff\xfe", b"\x1b$B", b"1\n2", b" " * 16, b"9" * 4000, b"2\x0c", b"\xd9\xa3"]
TEXTS += [b"t2 " * 20_000, b"a" * 60_000, b"(" * 20_000]  # for regular expressions
COUNTS = rb"0 -1 1 2 3 4 5 64 1000000 2147483647 99999999999999999999 1.5 nan 1\2".split()
PAIRS = rb"0\0 nan\1 -1\-1 1e300\1e300 1e-300\1 2 2\2\2 inf\1 2\x".split()
DIRECTIONS = rb"""0\0\0\0\0\0 1\0\0\1\0\0 1e300\0\0\0\1e300\0 1e-200\0\0\0\1e-200\0 nan\0\0\0\1\0 0\1\0\0\0.5\-1
    1\0\0\-1\0\0 0\1\0 1e-3\0\0\0\1e-3\0""".split()
PLACES = rb"nan\0\0 1e300\1e300\1e300 1e308\1e308\-1e308 inf\0\0 0\0 3\-20\11\4 -0\-0\-0".split()
PHOTOMETRIC = [*b"MONOCHROME1 RGB YBR_FULL YBR_FULL_422 YBR_RCT HSV".split(), b"PALETTE COLOR", b"", b"MONOCHROME2\0"]
CHARACTER_SETS = [b"ISO 2022 IR 87", b"\\ISO 2022 IR 149", b"ISO_IR 999", b"GB18030", b"", b"\xff"]
SYNTAXES = [LITTLE, IMPLICIT, BIG, DEFLATED, *ENCAPSULATED, "", "1.2", "1.2.840.113619.5.2", "x" * 70]
SYNTAXES += [f"1.2.840.10008.1.2.4.{number}" for number in (51, 92, 94, 95, 100, 102, 106, 201, 202, 203)]
VRS = rb"SQ UN OB US DS IS FD PN UI AT ZZ OW UT".split()
# SIZ, COD, QCD and SOT of JPEG 2000; the frames of JPEG baseline, lossless and JPEG-LS, Huffman tables, scan
MARKERS = list(map(bytes.fromhex, ("ff4fff51", "ff52", "ff5c", "ff90", "ffc0", "ffc3", "fff7", "ffc4", "ffda")))
MARKER_LIES = [b"\0", b"\xff", b"\x40", b"\1", b"\0\0", b"\xff\xff", b"\x40\0", b"\0\0\0\0", b"\0\1\0\0", b"\0\0\x40\0"]
MARKER_LIES += [b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff", b"\xff\xf8\0\x0d\4"]
HIGH_THROUGHPUT = 12  # bytes behind JPEG 2000's COD marker: style of the code blocks, 0x40 for HTJ2K

LIES: dict[tuple[int, int], tuple[bytes, Sequence[bytes | int]]] = {
    **{
        (0x28, element): (b"US", NUMBERS)
        for element in (0x2, 0x6, 0x10, 0x11, 0x100, 0x101, 0x102, 0x103, 0x120, 0x121)
    },
    (0x28, 0x4): (b"CS", PHOTOMETRIC),
    (0x28, 0x8): (b"IS", COUNTS),
    (0x28, 0x30): (b"DS", PAIRS),
    (0x20, 0x32): (b"DS", PLACES),
    (0x20, 0x37): (b"DS", DIRECTIONS),
    (0x18, 0x80): (b"DS", TEXTS),
    (0x18, 0x81): (b"DS", TEXTS),
    (0x18, 0x9082): (b"FD", NUMBERS),
    (0x28, 0x1052): (b"DS", TEXTS),
    (0x28, 0x1053): (b"DS", TEXTS),
    (0x28, 0x3002): (b"US", NUMBERS),
    (0x28, 0x3006): (b"US", NUMBERS),
    (0x20, 0x13): (b"IS", TEXTS),
    (0x8, 0x5): (b"CS", CHARACTER_SETS),
    **{(0x20, element): (b"UI", TEXTS) for element in (0xD, 0xE, 0x52)},
    (0x8, 0x18): (b"UI", TEXTS),
    (0x8, 0x103E): (b"LO", TEXTS),
    **{(0x7FE0, element): (b"OV", [bytes(8), b"\xff" * 8, bytes(31) + b"\1"]) for element in (1, 2, 8, 9)},
    (0x2, 0x10): (b"UI", [uid.encode() for uid in SYNTAXES]),
}
PIXEL_DATA = (0x7FE0, 0x10)


def _damaged_length(seed: Seed, element: Element, rng: random.Random) -> Edit:
    size = element.value - element.length_at
    true = element.end - element.value
    lie = rng.choice([*LENGTHS, true + 1, true + 2, max(true - 2, 0), true * 2])
    return (
        element.length_at,
        element.value,
        (lie % (1 << 8 * size)).to_bytes(size, "little" if element.order == "<" else "big"),
    )


def _damaged_vr(seed: Seed, element: Element, rng: random.Random) -> Edit:
    return element.start + 4, element.start + 6, rng.choice(VRS)


def _damaged_tag(seed: Seed, element: Element, rng: random.Random) -> Edit:
    other = rng.choice(
        [*LIES, PIXEL_DATA, (0xFFFE, 0xE0DD), (0xFFFE, 0xE00D), (0xFFFE, 0xE000), rng.choice(seed.elements).tag]
    )
    return element.start, element.start + 4, struct.pack(element.order + "HH", *other)


def _deleted(seed: Seed, element: Element, rng: random.Random) -> Edit:
    return element.start, element.end, b""


def _repeated(seed: Seed, element: Element, rng: random.Random) -> Edit:
    return element.end, element.end, seed.data[element.start : element.end] * rng.choice([1, 1, 2, 50])


def _replaced_by_another(seed: Seed, element: Element, rng: random.Random) -> Edit:
    other = rng.choice(seed.elements)
    return element.start, element.end, seed.data[other.start : other.end]


def _random_value(seed: Seed, element: Element, rng: random.Random) -> Edit:
    return (
        element.start,
        element.end,
        element.written(rng.choice([*TEXTS, rng.randbytes(rng.choice([1, 2, 4, 8, 64]))])),
    )


def _nested(seed: Seed, element: Element, rng: random.Random) -> Edit:
    level = struct.pack(element.order + "HH", 0x40, 0xA730) + (b"SQ\0\0" if element.vr else b"") + b"\xff" * 4
    item = struct.pack(element.order + "HHI", 0xFFFE, 0xE000, UNDEFINED)
    return element.start, element.start, (level + item) * rng.choice([2, 50, 400, 3000, 30_000])


def _lie(seed: Seed, element: Element, rng: random.Random) -> Edit:
    """A value of the elements that decide about geometry and memory, at its place or in front of `element`."""
    tag = rng.choice(list(LIES))
    vr, values = LIES[tag]
    present = [candidate for candidate in seed.elements if candidate.tag == tag]
    where = rng.choice(present) if present else element
    return _told(where, tag, vr, rng.choice(values), bool(present))


def _told(where: Element, tag: tuple[int, int], vr: bytes, lie: bytes | int, present: bool) -> Edit:
    value = lie if isinstance(lie, bytes) else struct.pack(where.order + ("d" if vr == b"FD" else "H"), lie)
    written = where.written(value, tag, vr if where.vr or tag[0] == 2 else b"")
    return where.start, where.end if present else where.start, written


def _damaged_codestream(seed: Seed, element: Element, rng: random.Random) -> Edit:
    """A byte, a 16-bit or a 32-bit number among a codestream's headers."""
    pixels = next((e.value for e in seed.elements if e.tag == PIXEL_DATA), 0)
    found = [at for marker in MARKERS if (at := seed.data.find(marker, pixels)) >= 0]
    at = (rng.choice(found) if found else min(pixels + 16, len(seed.data) - 5)) + rng.randrange(2, 48)
    lie = rng.choice(MARKER_LIES)
    if (coding := seed.data.find(b"\xff\x52", pixels)) >= 0 and rng.random() < 0.05:
        at, lie = coding + HIGH_THROUGHPUT, b"\x40"
    return at, min(at + len(lie), len(seed.data)), lie


def _appended(seed: Seed, element: Element, rng: random.Random) -> Edit:
    last = seed.elements[-1]
    return (
        len(seed.data),
        len(seed.data),
        last.written(bytes(rng.choice([2, 1000, 100_000])), rng.choice(list(LIES)), b"OB" * bool(last.vr)),
    )


ELEMENT_DAMAGES = [_damaged_length, _damaged_vr, _damaged_tag, _deleted, _repeated, _replaced_by_another, _random_value]
ELEMENT_DAMAGES += [_nested, _lie, _lie, _lie, _lie, _lie, _lie, _damaged_codestream, _damaged_codestream, _appended]


def _consistent_lie(seed: Seed, rng: random.Random) -> tuple[list[Edit], str]:
    """Rows, columns and the codestream agree about a size that the pixel data do not have."""
    rows, columns = (rng.choice([1, 36, 2048, 8192, 16384, 30000, 65535]) for _ in range(2))
    edits: list[Edit] = []
    for tag, number in (((0x28, 0x10), rows), ((0x28, 0x11), columns)):
        edits += [_told(e, tag, b"US", number, True) for e in seed.elements if e.tag == tag][:1]
    pixels = next((e.value for e in seed.elements if e.tag == PIXEL_DATA), len(seed.data))
    if (at := seed.data.find(b"\xff\x4f\xff\x51", pixels)) >= 0:
        edits.append((at + 8, at + 16, struct.pack(">II", columns, rows)))
        if rng.random() < 0.5:
            edits.append((at + 24, at + 32, struct.pack(">II", columns, rows)))
    for marker in (b"\xff\xc0", b"\xff\xc3", b"\xff\xf7"):
        if (at := seed.data.find(marker, pixels)) >= 0:
            edits.append((at + 5, at + 9, struct.pack(">HH", rows, columns)))
    return edits, f"all agree on {rows} rows and {columns} columns"


def _crowd(seed: Seed, rng: random.Random) -> tuple[list[Edit], str]:
    """As many elements or sequence items as fit into a small file, each of which costs a reader time and memory."""
    where, count = rng.choice(seed.elements), rng.choice([1000, 20_000])
    tag = struct.pack(where.order + "HH", *rng.choice([(0x29, 0x1200), (0x5200, 0x9230), (0x8, 0x1140)]))
    if rng.random() < 0.4:
        elements = (tag + b"LO\0\0" if where.vr else tag + bytes(4)) * count
        return [(where.start, where.start, elements)], f"{count} elements"
    count *= 5
    items = struct.pack(where.order + "HHI", 0xFFFE, 0xE000, 0) * count
    length = struct.pack(where.order + "I", rng.choice([len(items), UNDEFINED]))
    return [(where.start, where.start, tag + b"SQ\0\0" * bool(where.vr) + length + items)], f"{count} items"


def _byte_damage(data: bytearray, rng: random.Random) -> str:
    at, size = rng.randrange(len(data)), rng.choice([1, 1, 2, 4, 16, 256])
    if rng.random() < 0.5:  # headers are short beside pixels and tell more
        at = rng.randrange(min(len(data), 1500))
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
            return f"bit at {at}"
        case 1:
            data[at : at + size] = rng.randbytes(size)
            return f"{size} bytes at {at}"
        case 2:
            del data[at + 1 :]
            return f"cut at {at + 1}"
        case 3:
            data[at:at] = rng.randbytes(size)
            return f"{size} bytes inserted at {at}"
        case 4:
            data[at:at] = data[at : at + size] * rng.choice([1, 3, 200])
            return f"{size} bytes repeated at {at}"
        case _:
            source = rng.randrange(len(data))
            data[at : at + size] = data[source : source + size]
            return f"{size} bytes from {source} to {at}"


@functools.cache
def _deflated_zeros(megabytes: int) -> bytes:
    """Deflate blocks that stand alone, of zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packer.compress(b"")
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * megabytes


def _bomb(seed: Seed, rng: random.Random) -> bytes:
    """A file that inflates to hundreds of megabytes, in its pixel data or in another element."""
    assert seed.deflated_from is not None
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    megabytes, tag = rng.choice([300, 700]), rng.choice([PIXEL_DATA, (0x29, 0x1010), (0x8, 0x103E)])
    element = next((e for e in seed.elements if e.tag == tag), seed.elements[-1])
    head = struct.pack("<HH2sHI", *tag, b"OB", 0, megabytes << 20)
    body = packer.compress(seed.data[seed.deflated_from : element.start] + head) + packer.flush(zlib.Z_FULL_FLUSH)
    rest = zlib.compressobj(9, zlib.DEFLATED, -15)
    return (
        seed.data[: seed.deflated_from]
        + body
        + _deflated_zeros(megabytes)
        + rest.compress(seed.data[element.end :])
        + rest.flush()
    )


def damaged(seed: Seed, rng: random.Random, seeds: list[Seed]) -> tuple[bytes, str]:
    """A damaged file and what was done to it."""
    if seed.deflated_from is not None and rng.random() < 0.1:
        return _bomb(seed, rng), "inflates to hundreds of megabytes"
    edits: list[Edit] = []
    story: list[str] = []
    kind = rng.random()
    if kind < 0.084:
        edits, told = (_consistent_lie if kind < 0.08 else _crowd)(seed, rng)
        story.append(told)
    elif kind < 0.75 and seed.elements:
        for damage in rng.choices(ELEMENT_DAMAGES, k=rng.choice([1, 1, 1, 2, 3])):
            element = rng.choice(seed.decisive if rng.random() < 0.4 else seed.elements)
            edits.append(edit := damage(seed, element, rng))
            story.append(f"{damage.__name__} {element.tag[0]:04x},{element.tag[1]:04x} -> {edit[2][:24]!r}")
    data = bytearray(seed.data)
    for start, end, replacement in sorted(edits, reverse=True):
        data[start:end] = replacement
    if seed.deflated_from is not None and rng.random() < 0.8:
        packer = zlib.compressobj(1, zlib.DEFLATED, -15)
        data[seed.deflated_from :] = packer.compress(bytes(data[seed.deflated_from :])) + packer.flush()
    if (kind >= 0.75 or rng.random() < 0.1) and data:
        story += [_byte_damage(data, rng) for _ in range(rng.choice([1, 1, 2, 8])) if data]
    if kind > 0.97:
        other = rng.choice(seeds).file
        at = rng.randrange(len(other))
        data[rng.randrange(len(data) + 1) :] = other[at:]
        story.append("spliced with another file")
    return bytes(data), "; ".join(story)
