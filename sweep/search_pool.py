"""Several searches that share the workers, each over a split of its own, in the shape of one. Knows no Ray."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from sweep.candidate import Candidate
from sweep.ledger import Ledger
from sweep.search import Search


@dataclass(frozen=True)
class Stage:
    """A search over the folds of one split."""

    kind: str
    number: int
    search: Search
    ledger: Ledger
    split: Path
    journal: Path


Chain = Iterator[Stage]
"""Stages of which each is begun when the one before is finished."""


class SearchPool:
    """Hands out the units of the earliest chain that has one waiting."""

    def __init__(self, chains: Sequence[Chain]) -> None:
        self._chains = chains
        self.begun: list[list[Stage]] = [[] for _ in chains]
        """Stages of every chain so far."""
        self._handed_out: dict[int, Stage] = {}  # by the candidate's id(): equal candidates stand in several searches

    def _unfinished(self) -> Iterator[Stage]:
        for further, begun in zip(self._chains, self.begun, strict=True):
            for stage in chain(begun[-1:], further):
                if stage not in begun:
                    begun.append(stage)
                if not stage.search.is_finished:
                    yield stage
                if not stage.search.is_finished:  # it may have turned out to be, when it was asked for a unit
                    break

    def next_unit(self) -> tuple[Candidate, int] | None:
        for stage in self._unfinished():
            if unit := stage.search.next_unit():
                self._handed_out[id(unit[0])] = stage
                return unit
        return None

    def stage(self, candidate: Candidate) -> Stage:
        """Where a candidate that was handed out belongs, and its outcomes are to be told."""
        return self._handed_out[id(candidate)]

    @property
    def is_finished(self) -> bool:
        return next(self._unfinished(), None) is None

    @property
    def candidates(self) -> list[Candidate]:
        """Of all stages so far."""
        return [candidate for begun in self.begun for stage in begun for candidate in stage.search.candidates]
