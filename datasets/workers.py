"""Processes for work on many files; the one that asks for it takes part."""

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def unheard(*_: object) -> None:
    """Progress that nobody follows."""


class _Nobody(Executor):
    """Begins nothing, so that `spread` does it all."""

    def submit(self, *_: Any, **__: Any) -> Future[Any]:
        return Future()


@contextmanager
def workers(processes: int | None) -> Iterator[Executor]:
    """For `spread`: processes beside this one, as many as make the number up, or a process a core if None.

    They are spawned, since forking is unsafe beside threads and Ray. Ctrl-C reaches this process only, and drops the
    work that has not begun.
    """
    count = processes or os.cpu_count() or 1
    executor: Executor = _Nobody()
    if count > 1:
        spawn, ignore_interrupt = multiprocessing.get_context("spawn"), (signal.SIGINT, signal.SIG_IGN)
        executor = ProcessPoolExecutor(count - 1, spawn, initializer=signal.signal, initargs=ignore_interrupt)
    try:
        yield executor
    finally:
        executor.shutdown(cancel_futures=True)


def spread(
    executor: Executor,
    function: Callable[[Item], Result],
    items: Sequence[Item],
    report: Callable[[int, int], object] = unheard,
    at_once: int = 1,
) -> list[Result]:
    """A result for each item, in order; `report` hears how many are done, and of how many.

    Workers begin with the first items, `at_once` at a time, and this process with the last, so that it is at work while
    the others still start.
    """
    chunks = [items[start : start + at_once] for start in range(0, len(items), at_once)]
    futures = [executor.submit(_each, function, chunk) for chunk in chunks]
    own: dict[int, list[Result]] = {}
    for index in reversed(range(len(chunks))):
        if futures[index].cancel():
            own[index] = _each(function, chunks[index])
            _tell(report, futures, len(items))
    results: list[Result] = []
    for index, future in enumerate(futures):
        if index not in own:
            own[index] = future.result()
            _tell(report, futures, len(items))
        results += own[index]
    return results


def _tell(report: Callable[[int, int], object], futures: list[Future[Any]], items: int) -> None:
    report(items * sum(future.done() for future in futures) // len(futures), items)


def _each(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]
