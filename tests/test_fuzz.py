"""The reader gives pixels or a reason for whatever it is given; the supervisor sees what breaks that promise."""

import ctypes
import random
import sys
import time
from pathlib import Path

import pytest

from tests.fuzz_damages import Seed, damaged
from tests.fuzz_dicom import examine, fuzz
from tests.fuzz_files import written_files
from tests.supervised import Supervisor, Work

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is measured through Linux's /proc")

FILES = written_files()


@pytest.mark.parametrize("name", FILES)
def test_an_undamaged_file_gives_pixels(tmp_path: Path, name: str) -> None:
    (tmp_path / "image").write_bytes(FILES[name])
    assert examine([tmp_path / "image"]) == "pixels"


def test_a_damaged_file_can_be_made_again() -> None:
    seeds = [Seed.of(name, data) for name, data in FILES.items()]
    first, again = ([damaged(seed, random.Random(seed.name), seeds) for seed in seeds] for _ in range(2))
    assert first == again
    assert sum(data != seed.file for (data, _), seed in zip(first, seeds, strict=True)) > len(seeds) / 2


def crash(_: list[Path]) -> str:
    return str(ctypes.string_at(0))


def hang(_: list[Path]) -> str:
    while True:
        time.monotonic()


def flood(_: list[Path]) -> str:
    return f"{len(bytearray(1_000_000) * 300)} bytes, given back at once"


def fail(paths: list[Path]) -> str:
    raise KeyError(paths[0].name)


def answer(_: list[Path]) -> str:
    return f"{len(bytearray(1_000_000) * 50)} bytes"


@pytest.mark.parametrize(
    ("work", "outcome"),
    [(crash, "crash SIGSEGV"), (hang, "hang"), (flood, "memory"), (fail, "KeyError"), (answer, "50000000 bytes")],
)
def test_the_supervisor_tells_what_became_of_a_file_and_goes_on(tmp_path: Path, work: Work, outcome: str) -> None:
    (tmp_path / "image").write_bytes(b"")
    supervisor = Supervisor(work, tmp_path)
    answers = [supervisor.do([tmp_path / "image"]) for _ in range(2)]
    supervisor.stop()
    assert [given.outcome.strip() for given in answers] == [outcome] * 2
    assert all((given.finding is None) == (work is answer) for given in answers)


def test_five_thousand_damaged_files(tmp_path: Path) -> None:
    report = fuzz(seed=2022, files=5000, keep=tmp_path / "findings")
    assert not report.findings, str(report)
    assert report.files == 5000
    # a fuzzer whose files are all refused at the door, or all sound, proves nothing
    assert report.outcomes["pixels"] > 500
    assert sum(count for outcome, count in report.outcomes.items() if outcome.startswith("refused")) > 250
    assert sum(count for outcome, count in report.outcomes.items() if outcome.startswith("skipped")) > 500
