"""Damages DICOM files and holds the reader to its promise: pixels or a reason, no crash, hang or flood of memory.

    python tests/fuzz_dicom.py --minutes 15 --seed 1         until the time is over
    python tests/fuzz_dicom.py --replay findings/some.dcm    one file, in this process

File number n of a seed is always the same bytes. A child process reads the files and a parent watches it, so that a
decoder's segmentation fault ends one file, not the run. What breaks the promise is kept in --findings with its story.
"""

from __future__ import annotations

import argparse
import random
import re
import shutil
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # for a script, whose own folder is all that Python knows
from tests.fuzz_damages import Seed, damaged
from tests.fuzz_files import PRIVATE, packaged_files, written_files
from tests.supervised import Answer, Supervisor


class BrokenPromiseError(AssertionError):
    """What the reader did that it may not do."""


def examine(paths: list[Path]) -> str:
    """Reads the first file, beside the others if there are any; returns a short name of what came of it."""
    from datasets.dicom import read_series
    from datasets.pixels import read_pixels
    from tests.mr_files import SERIES_RULES

    with ThreadPoolExecutor(1) as executor:
        reading = read_series([str(path) for path in paths], executor, SERIES_RULES)
    headers = [header for series in reading.series for header in series.slices]
    for reason in reading.skipped:
        _hold_reason(reason)
    if not headers and not reading.skipped:
        raise BrokenPromiseError("neither a series nor a reason")
    results = []
    for series in reading.series:
        if not np.isfinite(series.offsets).all() or abs(np.linalg.norm(series.normal) - 1) > 1e-6:
            raise BrokenPromiseError("geometry that is not finite")
    for header in headers:
        if PRIVATE.lower() in repr(header).lower() or any(
            "\n" in uid for uid in (header.sop_instance_uid, header.series_instance_uid)
        ):
            raise BrokenPromiseError("text from the file in a header")
        try:
            pixels = read_pixels(header)
        except ValueError as error:
            _hold_reason(str(error))
            causes = [error, error.__cause__, error.__context__]
            if any(isinstance(cause, MemoryError) for cause in causes):
                raise BrokenPromiseError("asks for more memory than there is") from error
            results.append((Path(header.path), f"refused: {error}"))
            continue
        exact = np.array_equal(pixels.astype(np.float32), pixels)  # and finite: nan equals nothing
        if not exact or pixels.shape != (header.rows, header.columns):
            raise BrokenPromiseError(f"pixels {pixels.dtype} {pixels.shape}, or not what float32 holds")
        results.append((Path(header.path), "pixels"))
    for path in paths[1:]:
        if not reading.conflicting and (path, "pixels") not in results and (paths[0], "pixels") not in results:
            raise BrokenPromiseError("a sound file is lost beside a damaged one")
    mine = [result for path, result in results if path == paths[0]]
    if mine:
        return next((result for result in mine if result != "pixels"), "pixels")
    return "skipped: " + next(iter(reading.skipped), "conflicting")


def _hold_reason(reason: str) -> None:
    if not reason.isprintable() or not 3 < len(reason) < 300 or PRIVATE.lower() in reason.lower() or "fuzz" in reason:
        raise BrokenPromiseError(f"reason {reason[:400]!r}")


@dataclass
class Report:
    """How many files were read, what came of them, and the first stories of every kind of finding."""

    files: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    findings: dict[str, list[str]] = field(default_factory=dict)
    printed: Counter[str] = field(default_factory=Counter)  # by libraries in C
    slowest: float = 0.0
    highest: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.files} files; slowest {self.slowest:.2f} s; most memory above the baseline {self.highest >> 20} MB"
        ]
        lines += [f"{count:8} {outcome}" for outcome, count in self.outcomes.most_common()]
        lines += [f"{count:8} printed: {text}" for text, count in self.printed.most_common(40)]
        lines += [f"FINDING {kind}: {len(stories)}\n{stories[0]}" for kind, stories in self.findings.items()]
        return "\n".join(lines)


def fuzz(seed: int, files: int | None = None, minutes: float | None = None, keep: Path | None = None) -> Report:
    """Reads so many damaged files, or for so long; findings go to the folder `keep`."""
    written = [Seed.of(name, data) for name, data in written_files().items()]
    packaged = [Seed.of(name, data) for name, data in packaged_files().items()]
    report, started = Report(), time.monotonic()
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="fuzz", dir=memory if memory.is_dir() else None) as name:
        folder = Path(name)
        sound = [_put(folder / f"sound{index}.dcm", item.file) for index, item in enumerate(written)]
        supervisor = Supervisor(examine, folder, warm_up=sound)
        for index in range(files or sys.maxsize):
            if minutes and time.monotonic() - started > 60 * minutes:
                break
            rng = random.Random(f"{seed}-{index}")
            source = rng.choice(written if rng.random() < 0.8 else packaged or written)
            data, story = damaged(source, rng, written + packaged)
            paths = [_put(folder / "damaged.dcm", data)]
            if rng.random() < 0.1:
                paths.append(rng.choice(sound))
            story = f"seed {seed}, file {index}, {source.name}: {story}"
            _note(report, supervisor.do(paths), story, paths, supervisor.baseline, keep)
        supervisor.stop()
    return report


def _put(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def _note(report: Report, answer: Answer, story: str, paths: list[Path], baseline: int, keep: Path | None) -> None:
    report.files += 1
    report.slowest = max(report.slowest, answer.seconds)
    report.highest = max(report.highest, answer.peak - baseline)
    outcome, finding = answer.outcome, answer.finding
    if PRIVATE.lower() in (told := "\n".join([*answer.warned, answer.printed])).lower():
        outcome, finding = "private text printed", told
    elif finding is None and answer.warned:
        outcome, finding = f"warning: {answer.warned[0]}", "\n".join(answer.warned)
    report.outcomes[_class(outcome)] += 1
    if finding is None:
        report.printed.update(_class(line) for line in answer.printed.splitlines())
        return
    places = re.findall(r'File "[^"]*?([^/"]+)",? line (\d+)', finding) or [("", "")]
    kind = f"{_class(outcome)} {' '.join(places[-1 if 'Traceback' in finding else 0])}".strip()
    stories = report.findings.setdefault(kind, [])
    stories.append(f"{story}\n{finding}")
    if keep and len(stories) <= 3:
        keep.mkdir(parents=True, exist_ok=True)
        place = keep / f"{re.sub('[^a-zA-Z0-9]+', '-', kind)[:80]}-{len(stories)}.dcm"
        shutil.copy(paths[0], place)
        for number, beside in enumerate(paths[1:]):
            shutil.copy(beside, place.with_suffix(f".beside{number}"))
        place.with_suffix(".txt").write_text(stories[-1])


def _class(text: str) -> str:
    return re.sub(r"\d+|/dev/shm/\w+", "#", text)[:160].replace("\n", " | ")


def main() -> int:
    """Exit code 1 where something was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float)
    parser.add_argument("--files", type=int)
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--findings", type=Path, default=Path("findings"))
    parser.add_argument("--replay", type=Path)
    settings = parser.parse_args()
    if settings.replay:
        print(examine([settings.replay, *settings.replay.parent.glob(f"{settings.replay.stem}.beside*")]))
        return 0
    report = fuzz(settings.seed, settings.files, settings.minutes or (None if settings.files else 1), settings.findings)
    print(f"seed {settings.seed}: {report}")
    return bool(report.findings)


if __name__ == "__main__":
    sys.exit(main())
