"""Processes for work on many files."""

import multiprocessing
import os
import signal
from collections.abc import Iterator
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(processes: int | None) -> Iterator[Executor]:
    """Spawned processes, since forking is unsafe beside threads and Ray; one a core if None, and one alone is a thread.

    Ctrl-C reaches this process only, and drops the work that has not begun.
    """
    count = processes or os.cpu_count() or 1
    executor: Executor
    if count == 1:
        executor = ThreadPoolExecutor(1)
    else:
        spawn, ignore_interrupt = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        executor = ProcessPoolExecutor(count, spawn, initializer=signal.signal, initargs=ignore_interrupt)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)
