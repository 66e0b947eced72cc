"""Writes a sweep's TensorBoard folder from the ledger's curves and predictions. Only the driver calls it."""

import io
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import pandas as pd
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

from sweep.patient_metrics import mean_of_folds
from sweep.predictions import arrays
from sweep.tensorboard_summaries import bands, bands_layout, fold_curve, hparams_session, race, roc_picture, scalars


class Tracker:
    """TensorBoard folder of one sweep: a run for each configuration, and in it a run for each fold.

    What is on disk is never written twice nor changed, so a TensorBoard that is looking on stays right. No file stays
    open between calls.
    """

    def __init__(self, folder: Path) -> None:
        """`folder` is runs/NAME/tensorboard; NAME tells the sweeps of one log folder apart."""
        self._folder = folder
        self._sweep = folder.resolve().parent.name
        # A file of its own for each process: a record that a killed one left half-written ends the file it is in.
        self._file_name = f"events.out.tfevents.{time.time_ns()}.{os.getpid()}"
        self._written: dict[tuple[Path, str], int] = {}

    def follow(self, configuration: int, fold: int, curve: Path) -> None:
        """Write what is new in a fold's curve.csv, which may not exist yet."""
        with suppress(FileNotFoundError):  # no epoch is over yet, or the ledger is renaming the unit's folder just now
            self._append_new(self._fold_run(configuration, fold), "curves", fold_curve(curve))

    def follow_race(self, configuration: int, fold_aucs: Sequence[float], why_dropped: str) -> None:
        """Write what is new of a configuration's mean so far, by the number of folds, and why it was dropped."""
        self._append_new(self._configuration_run(configuration), "race", race(fold_aucs, why_dropped))

    def epochs(self, configuration: int, fold: int) -> int:
        """Number of epochs that a fold has behind it, as far as followed."""
        return self._written.get((self._fold_run(configuration, fold), "curves"), 0)

    def has_all_of(self, configuration: int) -> bool:
        """Whether `finish_configuration` has written it, before which everything else of it is written."""
        return _is_finished(self._configuration_run(configuration))

    def finish_fold(self, configuration: int, fold: int, curve: Path, auc: float) -> None:
        """Write the rest of a finished fold's curve and its held-out patients' AUC; nothing if already there."""
        run = self._fold_run(configuration, fold)
        if not _is_finished(run):
            self.follow(configuration, fold, curve)
            self._append(run, "finished", [(configuration, scalars({"held_out/auc": auc}))])

    def finish_configuration(
        self, configuration: int, settings: Mapping[str, object], curves: Sequence[Path], patients: pd.DataFrame
    ) -> None:
        """Write what is known once all folds of a configuration are finished; nothing if already there.

        Only now do the folds enter the HParams table, which averages those that it has. `settings` are the searched
        ones by dotted name, `curves` the folds' curve.csv in their order; `patients` as predictions.per_patient.
        """
        if self.has_all_of(configuration):
            return
        run = self._configuration_run(configuration)
        row = f"{self._sweep}/{configuration:03d}"
        session = hparams_session(row, settings)
        for fold in range(len(curves)):
            self._append(self._fold_run(configuration, fold), "finished", [(configuration, session)])
        folds = mean_of_folds(*arrays(patients))
        picture = roc_picture(patients, f"{row}: mean AUC of folds {folds.value:.3f}, sd {folds.sd:.3f}")
        of_all_folds = [bands_layout(), scalars({"held_out/mean_auc": folds.value}), picture]
        self._append(run, "finished", [*bands(curves), *((configuration, summary) for summary in of_all_folds)])

    def _configuration_run(self, configuration: int) -> Path:
        return self._folder / f"configuration-{configuration:03d}"

    def _fold_run(self, configuration: int, fold: int) -> Path:
        return self._configuration_run(configuration) / f"fold-{fold}"

    def _append_new(self, run: Path, suffix: str, steps: Sequence[tuple[int, Summary]]) -> None:
        """Those of all steps so far that no file of this kind holds yet."""
        if (run, suffix) not in self._written:
            self._written[run, suffix] = _steps_on_disk(run, suffix)
        if new := steps[self._written[run, suffix] :]:
            self._append(run, suffix, new)
            self._written[run, suffix] = len(steps)

    def _append(self, run: Path, suffix: str, steps: Iterable[tuple[int, Summary]]) -> None:
        file = run / f"{self._file_name}.{suffix}"
        records = io.BytesIO()
        writer = RecordWriter(records)
        if not file.exists():
            writer.write(Event(wall_time=time.time(), file_version="brain.Event:2").SerializeToString())
        for step, summary in steps:
            writer.write(Event(wall_time=time.time(), step=step, summary=summary).SerializeToString())
        run.mkdir(parents=True, exist_ok=True)
        with file.open("ab") as stream:
            stream.write(records.getvalue())


def _is_finished(run: Path) -> bool:
    return any(run.glob("*.finished"))


def _steps_on_disk(run: Path, suffix: str) -> int:
    files = run.glob(f"*.{suffix}")
    return sum(event.HasField("summary") for file in files for event in EventFileLoader(str(file)).Load())
