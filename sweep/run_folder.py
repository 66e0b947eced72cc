"""runs/NAME: what stands where, and the tables that the driver writes into it."""

import fcntl
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from optuna import Study
from pyarrow.parquet import ParquetFile
from pydantic import ValidationError

from datasets.tables import to_csv
from sweep.candidate import Candidate
from sweep.ledger import Ledger, Unit, write_atomically
from sweep.operating_point import choose_threshold
from sweep.patient_metrics import THRESHOLD, Array, auc, placements
from sweep.predictions import COLUMNS, arrays, configuration_figures, per_patient
from sweep.racing import fold_influence
from sweep.search import Search
from sweep.settings import Evaluation, Resources, Settings, SettingsError
from sweep.slices import Rule, aggregate
from sweep.storage import leased

# Columns of configurations.csv before those of the searched settings.
OWN_COLUMNS = ["configuration", "digest", "state", "folds_done", "mean_fold_auc", "sd_fold_auc", "pooled_auc"]
OWN_COLUMNS += ["failure", "dropped"]
COST_COLUMNS = ["configuration", "fold", "epochs", "best_epoch", "seconds"]


class RunFolder:
    """The files of one run; in splits/ tables and journals of further searches, by the digest of their split."""

    def __init__(self, path: Path) -> None:
        self.path, self.settings, self.split = path, path / "settings.yaml", path / "split.csv"
        self.journal, self.splits, self.ledger = path / "optuna.journal", path / "splits", path / "ledger"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the folder for one driver.

        Raises:
            SettingsError: another sweep is running in it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with (self.path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise SettingsError(
                    f"{self.path}: another sweep is running here; wait, or write another name="
                ) from error
            with leased(self.path):
                yield

    def save(self, settings: Settings) -> None:
        write_atomically(self.settings, yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False))

    def saved(self) -> Settings:
        """The settings of the run.

        Raises:
            SettingsError: another version of this program wrote them.
        """
        try:
            return Settings.model_validate(yaml.safe_load(self.settings.read_text()))
        except (ValidationError, yaml.YAMLError) as error:
            raise SettingsError(f"{self.settings}: not written by this version; write another name=") from error

    def require(self, settings: Settings) -> None:
        """Check that a run already here means the same numbers.

        Raises:
            SettingsError: the folder holds a run with other settings.
        """
        if not self.settings.exists():
            return
        difference = _difference(self.saved().decisive(), settings.decisive())
        if difference:
            raise SettingsError(
                f"{self.path}: holds a run with other settings ({difference}); write those, or another name="
            )


def _difference(saved: dict[str, object], now: dict[str, object]) -> str:
    names = sorted(name for name in saved.keys() | now.keys() if saved.get(name) != now.get(name))
    return "; ".join(f"{name} was {saved.get(name)}, now {now.get(name)}" for name in names[:3])


def open_search(settings: Settings, study: Study, ledger: Ledger, folds: int) -> Search:
    """A search over the ledger's split, which scores patients by the settings' rule."""
    rule = settings.evaluation.slices
    score, influence = partial(held_out_auc, ledger, rule=rule), partial(held_out_influence, ledger, rule=rule)
    hours = partial(device_hours, ledger, settings.resources)
    return Search(settings, study, ledger, folds, score, influence, hours, partial(inner_aucs, ledger))


def inner_aucs(ledger: Ledger, unit: Unit) -> Array:
    """A finished unit's AUC of its inner validation patients by epoch."""
    return pd.read_csv(ledger.finished(unit) / "curve.csv")["inner_auc"].to_numpy(float)


def device_hours(ledger: Ledger, resources: Resources, unit: Unit) -> float:
    """A finished unit's part of its GPU's time, in hours; on CPUs of its worker's."""
    result = _result(ledger, unit)
    return float(result["seconds"]) / 3600 * (resources.gpus_per_fold or 1) / int(result["side_by_side"])


def _result(ledger: Ledger, unit: Unit) -> dict[str, Any]:
    return dict(json.loads((ledger.finished(unit) / "result.json").read_text()))


def held_out_auc(ledger: Ledger, unit: Unit, rule: Rule = "max") -> float:
    """AUC per patient of a finished unit's held-out fold; nan where it holds one class only, as a site may."""
    return auc(*_held_out(ledger, unit, rule))


def held_out_influence(ledger: Ledger, unit: Unit, rule: Rule = "max") -> Array:
    """Influence of a finished unit's held-out patients on its AUC, malignant ones first, each class by patient_id."""
    influence: Array = np.concatenate(fold_influence(*placements(*_held_out(ledger, unit, rule))))
    return influence


def _held_out(ledger: Ledger, unit: Unit, rule: Rule) -> tuple[Array, Array]:
    """label and score of a finished unit's held-out patients. Without pandas: a sweep resumes by reading all units."""
    table = ParquetFile(ledger.finished(unit) / "predictions.parquet").read(["patient_id", "label", "probability"])
    patient, label, probability = (column.to_numpy() for column in table.columns)
    return label[np.unique(patient, return_index=True)[1]], aggregate(probability, patient, rule)


def unit_predictions(ledger: Ledger, unit: Unit, name: str = "predictions") -> pd.DataFrame:
    """A finished unit's out-of-fold, or `inner_predictions`, per lesion slice, with its fold."""
    return pd.read_parquet(ledger.finished(unit) / f"{name}.parquet").assign(fold=unit.fold)


@cache  # a finished unit never changes
def fold_threshold(ledger: Ledger, unit: Unit, evaluation: Evaluation) -> float:
    """Where a finished unit calls a patient malignant: chosen on its inner validation patients, never on its fold.

    THRESHOLD where it is fixed, or where those patients are none or of one class.
    """
    if evaluation.threshold == "fixed":
        return THRESHOLD
    label, score, _ = arrays(per_patient(unit_predictions(ledger, unit, "inner_predictions"), evaluation.slices))
    chosen = choose_threshold(label, score, evaluation.sensitivity if evaluation.threshold == "sensitivity" else None)
    return THRESHOLD if isnan(chosen) else chosen


def candidate_predictions(ledger: Ledger, candidate: Candidate) -> pd.DataFrame:
    """Out-of-fold predictions of a configuration's finished folds, in the columns of predictions.parquet."""
    frames = [unit_predictions(ledger, candidate.unit(fold)) for fold in sorted(candidate.fold_aucs)]
    if not frames:
        return pd.DataFrame(columns=COLUMNS)
    return pd.concat(frames, ignore_index=True).assign(configuration=candidate.number)[COLUMNS]


def write_tables(run: RunFolder, ledger: Ledger, candidates: Sequence[Candidate], evaluation: Evaluation) -> None:
    """configurations.csv, thresholds.csv, costs.csv and predictions.parquet from the ledger's finished folds."""
    predictions = [candidate_predictions(ledger, candidate) for candidate in candidates]
    rows = [_row(candidate, table, evaluation.slices) for candidate, table in zip(candidates, predictions, strict=True)]
    table = pd.DataFrame(rows, columns=None if rows else OWN_COLUMNS)
    write_atomically(run.path / "configurations.csv", to_csv(table))
    finished = [(one.number, one.unit(fold)) for one in candidates for fold in sorted(one.fold_aucs)]
    thresholds = [(number, unit.fold, fold_threshold(ledger, unit, evaluation)) for number, unit in finished]
    columns = ["configuration", "fold", "threshold"]
    write_atomically(run.path / "thresholds.csv", to_csv(pd.DataFrame(thresholds, columns=columns)))
    costs = [_result(ledger, unit) | {"configuration": number, "fold": unit.fold} for number, unit in finished]
    write_atomically(run.path / "costs.csv", to_csv(pd.DataFrame(costs, columns=COST_COLUMNS)))
    filled = [table for table in predictions if len(table)]
    everything = pd.concat(filled, ignore_index=True) if filled else pd.DataFrame(columns=COLUMNS)
    write_atomically(run.path / "predictions.parquet", everything.to_parquet(index=False))


def _row(candidate: Candidate, predictions: pd.DataFrame, rule: Rule) -> dict[str, object]:
    nothing = dict.fromkeys(("mean_fold_auc", "sd_fold_auc", "pooled_auc"), float("nan"))
    figures = configuration_figures(predictions, rule) if candidate.is_complete else nothing
    failure = "; ".join(f"fold {fold}: {reason}" for fold, reason in sorted(candidate.failures.items()))
    return {
        "configuration": candidate.number,
        "digest": candidate.configuration.digest,
        "state": candidate.state,
        "folds_done": len(candidate.fold_aucs),
        **figures,
        "failure": failure,
        "dropped": candidate.why_dropped,
        **candidate.values,
    }
