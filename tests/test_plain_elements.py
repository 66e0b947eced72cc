"""A header read by jumping from element to element is the one that pydicom reads, or the file is left to pydicom."""

import random
from pathlib import Path
from typing import Any

import pytest

from datasets import headers, pixels
from datasets.headers import SliceHeader, read_headers
from datasets.pixels import read_pixels
from datasets.plain_elements import NotPlainError, read_plain
from tests.fuzz_damages import Seed, damaged
from tests.fuzz_files import written_files
from tests.mr_files import SERIES_RULES

FILES = Path(__file__).parent / "files"
FUZZED = 500
Read = list[SliceHeader] | str


def left_to_pydicom(*_: object) -> None:
    raise NotPlainError


def both(path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[tuple[Read, list[Any]], tuple[Read, list[Any]]]:
    """Headers and pixels, or why there are none, as they are read and as pydicom alone reads them."""
    found = outcome(path)
    with monkeypatch.context() as patched:
        patched.setattr(headers, "read_plain", left_to_pydicom)
        patched.setattr(pixels, "read_plain", left_to_pydicom)
        return found, outcome(path)


def outcome(path: Path) -> tuple[Read, list[Any]]:
    read = read_headers(str(path), SERIES_RULES)
    return read, [] if isinstance(read, str) else [pixels_of(header) for header in read]


def pixels_of(header: SliceHeader) -> Any:
    try:
        return read_pixels(header).tolist()
    except ValueError as reason:
        return str(reason)


def is_plain(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return bool(read_plain(file, headers._WANTED))
    except NotPlainError:
        return False


@pytest.mark.filterwarnings("ignore")
def test_damaged_files_are_read_as_pydicom_reads_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = [Seed.of(name, data) for name, data in written_files().items()]
    path, plain, skipped = tmp_path / "image", 0, 0
    for number in range(FUZZED):
        rng = random.Random(number)
        data, story = damaged(rng.choice(seeds), rng, seeds)
        path.write_bytes(data)
        found, expected = both(path, monkeypatch)
        assert found == expected, f"{number}: {story}"
        plain += is_plain(path)
        skipped += isinstance(found[0], str)
    assert plain > FUZZED / 4  # or little is compared
    assert FUZZED / 8 < skipped < FUZZED * 7 / 8


@pytest.mark.parametrize("path", sorted(FILES.rglob("*.dcm")), ids=lambda path: path.name)
def test_real_files_are_read_as_pydicom_reads_them(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found, expected = both(path, monkeypatch)
    assert found == expected
    assert not isinstance(found[0], str)


@pytest.mark.parametrize("folder", ["data/sagittal-t1", "data/transfer-syntaxes"])
def test_shared_files_are_read_as_pydicom_reads_them(
    folder: str, shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (shared / folder).glob("*.dcm"):
        found, expected = both(path, monkeypatch)
        assert found == expected
