"""A run folder's tables in memory."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datasets.tables import read_csv
from sweep import predictions as out_of_fold
from sweep.features import read_features
from sweep.further_validation import FURTHER
from sweep.patient_metrics import outcomes
from sweep.readers import read_readers
from sweep.run_folder import OWN_COLUMNS
from sweep.settings import flatten

TABLES = ("cohort", "excluded", "split", "configurations", "thresholds", "costs")
_TEXT = ["patient_id", "site", "sop_instance_uid", "t1_series_uid", "t2_series_uid", "note", "item", "reason", "remedy"]
_TEXT += ["digest", "state", "failure", "dropped"]


class RunFolderError(ValueError):
    """A run folder that no report can be written from; the message names the file and the remedy."""


@dataclass(frozen=True)
class RunTables:
    """What a run has left behind; data contracts in the README of the project."""

    folder: Path
    settings: dict[str, Any]
    cohort: pd.DataFrame
    excluded: pd.DataFrame
    split: pd.DataFrame
    configurations: pd.DataFrame
    predictions: pd.DataFrame
    thresholds: pd.DataFrame
    costs: pd.DataFrame
    readers: pd.DataFrame | None
    features: pd.DataFrame | None
    ingested: dict[str, Any]
    """Counts of files by fate, and of series."""
    further: dict[str, pd.DataFrame]
    """FURTHER tables by name, where the run has them."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def evaluation(self) -> dict[str, Any]:
        """The settings of that name."""
        return dict(self.settings["evaluation"])

    def setting_of_best(self, name: str) -> Any:
        """Value of a setting, by dotted name, in the best configuration."""
        best = self.configurations.set_index("configuration").loc[self.best]
        return best[name] if name in self.searched else flatten(self.settings)[name]

    @property
    def searched(self) -> list[str]:
        """Dotted names of the searched settings."""
        return [name for name in self.configurations.columns if name not in OWN_COLUMNS]

    @property
    def complete(self) -> pd.DataFrame:
        """Configurations with all folds: the only ones that can be compared."""
        return self.configurations[self.configurations["state"] == "complete"]

    @property
    def best(self) -> int | None:
        """The complete configuration with the highest mean of its folds' AUCs (of equals the lowest number), if any."""
        aucs = self.complete.set_index("configuration")["mean_fold_auc"].dropna().sort_index()
        return None if aucs.empty else int(str(aucs.idxmax()))

    def predictions_of(self, configuration: int) -> pd.DataFrame:
        """The configuration's out-of-fold predictions, complete and at one with its row in configurations.csv."""
        rows = out_of_fold.require_complete(self.predictions, self.cohort, self.split, configuration)
        listed = self.configurations.set_index("configuration").loc[configuration]
        for name, value in out_of_fold.configuration_figures(rows, self.evaluation["slices"]).items():
            if not np.isclose(value, float(str(listed[name])), rtol=0, atol=1e-9, equal_nan=True):
                raise RunFolderError(
                    f"configuration {configuration}: configurations.csv has {name} {listed[name]}, predictions.parquet "
                    f"gives {value}: the two are of different sweeps; start the sweep again to rewrite them"
                )
        return rows

    @cached_property
    def scores(self) -> pd.DataFrame:
        """Probability of every patient (a row each) under every complete configuration (a column each)."""
        numbers = sorted(int(number) for number in self.complete["configuration"])
        return pd.DataFrame({number: self._score(self.predictions_of(number)) for number in numbers})

    @cached_property
    def competing(self) -> pd.DataFrame:
        """`scores`, and those of the configurations that a race dropped: nan where their folds were not trained."""
        dropped = self.configurations.query("state == 'pruned' and folds_done > 0")["configuration"]
        return self.scores.join([self._partial_score(int(number)) for number in sorted(dropped)])

    def _score(self, rows: pd.DataFrame) -> "pd.Series[float]":
        return out_of_fold.per_patient(rows, self.evaluation["slices"]).set_index("patient_id")["probability"]

    def _partial_score(self, configuration: int) -> "pd.Series[float]":
        folds = self.predictions.loc[self.predictions["configuration"] == configuration, "fold"].unique()
        split = self.split[self.split["fold"].isin(folds)]
        cohort = self.cohort[self.cohort["patient_id"].isin(split["patient_id"])]
        rows = out_of_fold.require_complete(self.predictions, cohort, split, configuration)
        return self._score(rows).rename(configuration)

    def patients_of(self, configuration: int) -> pd.DataFrame:
        """predictions.per_patient of a complete configuration, with threshold of the fold, outcome and call (0, 1)."""
        patients = out_of_fold.per_patient(self.predictions_of(configuration), self.evaluation["slices"])
        own = self.thresholds[self.thresholds["configuration"] == configuration].set_index("fold")["threshold"]
        patients["threshold"] = patients["fold"].map(own).astype(float)
        if missing := sorted(patients.loc[patients["threshold"].isna(), "fold"].unique().tolist()):
            why = f"thresholds.csv has none for folds {missing}; start the sweep again to rewrite it"
            raise RunFolderError(f"configuration {configuration}: {why}")
        label, score, _ = out_of_fold.arrays(patients)
        threshold = patients["threshold"].to_numpy()
        return patients.assign(outcome=outcomes(label, score, threshold), call=(score >= threshold).astype(int))


def read_run(run: Path) -> RunTables:
    """Read a run folder's tables. Raises RunFolderError naming a table that is missing."""
    types: dict[str, type] = dict.fromkeys(("configuration", "fold", "label"), int)
    types |= {"probability": float, "patient_id": str, "sop_instance_uid": str}
    return RunTables(
        folder=run.resolve(),
        settings=yaml.safe_load(_existing(run / "settings.yaml").read_text()),
        ingested=json.loads(_existing(run / "ingest.json").read_text()),
        **{name: _read_csv(run / f"{name}.csv") for name in TABLES},
        predictions=pd.read_parquet(_existing(run / "predictions.parquet"), columns=out_of_fold.COLUMNS).astype(types),
        readers=read_readers(run / "readers.csv") if (run / "readers.csv").is_file() else None,
        features=read_features(run / "features.csv") if (run / "features.csv").is_file() else None,
        further={name: _read_csv(run / f"{name}.csv") for name in FURTHER if (run / f"{name}.csv").is_file()},
    )


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise RunFolderError(f"{path}: no such file: no run folder, or its sweep has not begun; start the sweep")
    return path


def _read_csv(path: Path) -> pd.DataFrame:
    return read_csv(_existing(path), dict.fromkeys(_TEXT, str))
