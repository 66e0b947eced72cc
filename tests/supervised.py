"""A child process works through files and its parent watches: crashes, hangs and memory end one file, not the run."""

from __future__ import annotations

import faulthandler
import logging
import multiprocessing
import os
import re
import signal
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

SECONDS_PER_FILE = 2.0  # of processor time, which a busy machine does not lengthen
SECONDS_WITHOUT_ANSWER = 30.0  # of the clock, for a child that waits for something
SPARE_BYTES = 200 << 20  # beside twice the size of the files
RETAINED_BYTES = 40 << 20  # a child that keeps so much is replaced, for the next measurement's sake

Work = Callable[[list[Path]], str]
"""Deals with some files and says in a word what came of it."""


@dataclass
class Answer:
    """What the child says about one file."""

    outcome: str
    finding: str | None = None  # traceback of a broken promise
    warned: list[str] = field(default_factory=list)  # warnings and log records
    printed: str = ""  # on standard output and standard error, by libraries in C
    peak: int = 0  # bytes resident, most of all while the file was read
    resident: int = 0  # bytes afterwards
    seconds: float = 0.0  # of processor time


class _Listener(logging.Handler):
    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(f"{record.name}: {record.getMessage()}")


def _memory(process: str, name: str) -> int:
    """VmRSS, or VmHWM (its highest value), in bytes; 0 for a process that has just died."""
    found = re.search(rf"{name}:\s+(\d+)", Path(f"/proc/{process}/status").read_text())
    return int(found[1]) << 10 if found else 0


def child(connection: Connection, work: Work, messages: Path) -> None:
    """Reads files for the parent until it is ended; the timer's signal and faulthandler tell where a hang is."""
    with messages.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    faulthandler.enable()
    faulthandler.register(signal.SIGPROF, chain=True)
    logging.getLogger().addHandler(listener := _Listener())
    while True:
        paths = connection.recv()
        Path("/proc/self/clear_refs").write_text("5")  # the highest resident size counts from here
        started, listener.said = time.process_time(), []
        signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_FILE)
        with warnings.catch_warnings(record=True) as caught:
            try:
                answer = Answer(work(paths))
            except Exception as error:
                told = str(error) if isinstance(error, AssertionError) else ""
                answer = Answer(f"{type(error).__name__} {told}", traceback.format_exc())
        signal.setitimer(signal.ITIMER_PROF, 0)
        answer.seconds = time.process_time() - started
        answer.warned = [*listener.said, *(f"{warning.category.__name__}: {warning.message}" for warning in caught)]
        answer.peak, answer.resident = (_memory("self", name) for name in ("VmHWM", "VmRSS"))
        connection.send(answer)


class Supervisor:
    """Has a child do `work`; the memory that it needs for `warm_up`, a path at a time, is its baseline."""

    def __init__(self, work: Work, folder: Path, warm_up: list[Path] | None = None) -> None:
        self.work, self.warm_up = work, warm_up or []
        self.messages = folder / "messages.txt"
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=child, args=(theirs, self.work, self.messages), daemon=True)
        self.process.start()
        theirs.close()
        self.baseline = self.said_before = 0
        for path in self.warm_up:  # decoders are imported when they are first needed
            self.connection.send([path])
            self.baseline = self.connection.recv().resident

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()

    def do(self, paths: list[Path]) -> Answer:
        """The child's answer, or what became of the child."""
        limit = self.baseline + 2 * sum(path.stat().st_size for path in paths) + SPARE_BYTES
        self.said_before = self.messages.stat().st_size if self.messages.exists() else 0
        self.connection.send(paths)
        answer = self._await(limit)
        if answer.finding is None and answer.peak > limit:
            answer = Answer("memory", f"{self._above_baseline(answer.peak)}, allowed {(limit - self.baseline) >> 20}")
        answer.printed = self._printed()
        retains = answer.resident > self.baseline + RETAINED_BYTES
        if retains or answer.outcome == "memory" or not self.process.is_alive():
            self.stop()
            self._start()
        return answer

    def _above_baseline(self, resident: int) -> str:
        return f"{(resident - self.baseline) >> 20} MB above the baseline"

    def _await(self, limit: int) -> Answer:
        started = time.monotonic()
        while not self.connection.poll(0.02):
            if time.monotonic() - started > SECONDS_WITHOUT_ANSWER:
                return self._end("hang", "no answer")
            if (resident := _memory(str(self.process.pid), "VmRSS")) > 2 * limit:
                return self._end("memory", f"{self._above_baseline(resident)} and rising")
        try:
            answer: Answer = self.connection.recv()
        except (EOFError, ConnectionResetError):
            self.process.join()
            number = -(self.process.exitcode or 0)
            if number == signal.SIGPROF:
                return Answer("hang", self._printed())
            return Answer(f"crash {signal.Signals(number).name if number > 0 else -number}", self._printed())
        return answer

    def _end(self, outcome: str, finding: str) -> Answer:
        os.kill(self.process.pid or 0, signal.SIGPROF)  # its last words say where it is
        self.process.join(5)
        self.process.kill()
        self.process.join()
        return Answer(outcome, f"{finding}\n{self._printed()}")

    def _printed(self) -> str:
        with self.messages.open(errors="replace") as stream:
            stream.seek(self.said_before)
            return stream.read(20_000)
