"""What a sweep shows while it works: a table that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from datetime import timedelta

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sweep.candidate import Candidate
from sweep.search import Search

log = logging.getLogger("sweep")


class Display:
    """Progress of the folds of a sweep, redrawn when told to."""

    def __init__(self, search: Search, total: int, epochs: Callable[[int, int], int]) -> None:
        """`total` configurations will there be; `epochs` of a (configuration, fold) are those it has behind it."""
        self._search, self._total, self._epochs = search, total, epochs
        self._reported = {candidate.number for candidate in search.candidates if candidate.dropped}
        self._started = time.monotonic()
        self._done_before = self._done()
        self._console = Console()
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None

    def __enter__(self) -> Display:
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self.draw()
            self._live.stop()

    def finished(self, candidate: Candidate, fold: int) -> list[Candidate]:
        """Log the outcome of a fold, where the table shows it to the log file alone, and return what it dropped."""
        if fold in candidate.fold_aucs:
            outcome = f"AUC {candidate.fold_aucs[fold]:.3f}"
        elif candidate.is_hopeless:
            outcome = "ended as hopeless"
        else:
            again = "failed for good" if fold in candidate.failures else "failed, will be tried again"
            outcome = f"{again} ({candidate.last_failure})"
        level = logging.DEBUG if self._live else logging.INFO
        log.log(level, "configuration %d fold %d: %s · %s", candidate.number, fold, outcome, self.summary())
        fresh = [c for c in self._search.candidates if c.why_dropped and c.number not in self._reported]
        for dropped in fresh:
            self._reported.add(dropped.number)
            folds = f"after {len(dropped.fold_aucs)} of {dropped.folds} folds"
            reason = f"configuration {dropped.number} is dropped {folds}: {dropped.why_dropped}"
            log.log(level, reason)
            if self._live:  # above the table, which has no room for the dropped of a long sweep
                self._console.print(reason, style="dim", highlight=False)
        return fresh

    def summary(self) -> str:
        """'13 of 40 folds · best 0.934 (configuration 1) · 02:05 elapsed, about 03:10 left'."""
        best, candidates = self._search.best, self._search.candidates
        folds, dropped = candidates[0].folds if candidates else 0, [c for c in candidates if c.state == "pruned"]
        done, total = self._done(), self._total * folds - sum(folds - len(c.fold_aucs) for c in dropped)
        leader = f"best {best.mean_fold_auc:.3f} (configuration {best.number})" if best else "no configuration complete"
        racing = sum(candidate.state == "running" for candidate in candidates)
        leader += f" · {racing} in the race, {len(dropped)} dropped" if dropped else ""
        elapsed, new = time.monotonic() - self._started, done - self._done_before
        left = f", about {_clock(elapsed / new * (total - done))} left" if new and done < total else ""
        return f"{done} of {total} folds · {leader} · {_clock(elapsed)} elapsed{left}"

    def _done(self) -> int:
        return sum(len(candidate.fold_aucs) for candidate in self._search.candidates)

    def draw(self) -> None:
        """Show where the sweep is now, on a terminal."""
        if self._live:
            self._live.update(Group(self._table(), Text(self.summary())), refresh=True)

    def _table(self) -> Table:
        best, candidates = self._search.best, self._search.candidates
        table = Table(box=None, pad_edge=False)
        for column in ("configuration", "folds", "AUC so far"):
            table.add_column(column, justify="left" if column == "folds" else "right", no_wrap=True)
        visible = max(3, self._console.height - 6)
        in_race = [candidate for candidate in candidates if candidate.state != "pruned"]
        shown = (candidates if len(candidates) <= visible else in_race)[-visible:]
        # rich would squeeze every column alike to make room for the longest.
        folds = max((len(self._folds(candidate)) for candidate in shown), default=0)
        room = max(10, self._console.width - len("configuration  AUC so far    ") - folds)
        table.add_column("settings", overflow="ellipsis", no_wrap=True, max_width=room)
        for candidate in shown:
            style = "bold" if candidate is best else "red" if candidate.failures else None
            style = "dim" if candidate.state == "pruned" else style
            settings = (f"{name.split('.')[-1]}={_short(value)}" for name, value in candidate.values.items())
            auc = f"{candidate.mean_fold_auc:.3f}" if candidate.fold_aucs else ""
            told = candidate.why_dropped or " ".join(settings)
            table.add_row(str(candidate.number), self._folds(candidate), auc, told, style=style)
        return table

    def _folds(self, candidate: Candidate) -> Text:
        """A mark for every fold: done ■, failed x, in training the number of epochs behind it, waiting ·."""
        marks = Text()
        for fold in range(candidate.folds):
            if fold in candidate.fold_aucs:
                marks.append("■ ", "green")
            elif fold in candidate.failures:
                marks.append("x ", "red")
            elif fold in candidate.running:
                marks.append(f"{self._epochs(candidate.number, fold)} ", "yellow")
            else:
                marks.append("· ", "dim")
        return marks


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _clock(seconds: float) -> str:
    return str(timedelta(seconds=round(seconds))).removeprefix("0:")
