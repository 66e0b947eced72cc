"""Run folders as a finished sweep leaves them, with synthetic predictions, for the tests of the report."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from datasets.phantom_features import draw_calls, draw_features
from sweep import predictions as out_of_fold

RANGES: dict[str, tuple[float, float, bool]] = {  # low, high, log; configuration 0 has its own values
    "model.learning_rate": (1e-5, 1e-2, True),
    "model.l2_weight": (1e-7, 1e-3, True),
    "augmentation.benign_factor": (1, 20, False),
    "augmentation.malignant_factor": (1, 40, False),
    "augmentation.translation": (0.0, 0.2, False),
    "augmentation.scaling": (0.0, 0.3, False),
    "augmentation.rotation_degrees": (0.0, 30.0, False),
    "input.context": (1.0, 3.0, False),
}
STUDY = dict(zip(RANGES, (1e-4, 1e-5, 20, 40, 0.05, 0.1, 10.0, 1.0), strict=True))
SPACE = {
    name: {"low": low, "high": high, "log": log, "step": None, "choices": None, "when": {}}
    for name, (low, high, log) in RANGES.items()
}
SETTINGS: dict[str, Any] = {
    "name": "demo",
    "output": "runs",
    "cache": "cache",
    "seed": 2022,
    "data": {
        "source": "phantom",
        "root": None,
        "annotations": None,
        "shuffle_labels": False,
        "widest_context": 3.0,
        "pixels_per_box": 64,
        "phantom": {"patients": 96, "seed": 2022},
    },
    "folds": {"count": 10, "inner_fraction": 0.15},
    "model": {"backbone": "narrow", "stem": "7x7", "weights": "none", "dropout": 0.0, "learning_rate": 1e-4},
    "training": {"epochs": 6, "batch_size": 32, "patience": 3, "early_stopping": "inner", "precision": "32-true"},
    "search": {"configurations": 4, "space": SPACE},
    "evaluation": {"slices": "max", "threshold": "fixed", "sensitivity": 0.95, "resamples": 30},
}


def synthetic_cohort(patients: int = 96, malignant_share: float = 0.28, seed: int = 1) -> pd.DataFrame:
    """A row per lesion slice, two to four of them a patient; columns as far as the report reads them."""
    random = np.random.default_rng(seed)
    labels = np.arange(patients) < round(patients * malignant_share)
    rows = [
        {
            "patient_id": f"{patient:03d}",
            "label": int(labels[patient]),
            "site": "",
            "sop_instance_uid": f"1.2.826.0.{patient}.{number}",
        }
        for patient in random.permutation(patients)
        for number in range(random.integers(2, 5))
    ]
    return pd.DataFrame(rows)


def stratified_split(cohort: pd.DataFrame, folds: int) -> pd.DataFrame:
    patients = cohort.drop_duplicates("patient_id")[["patient_id", "label"]].sort_values(["label", "patient_id"])
    return patients.assign(fold=np.arange(len(patients)) % folds).reset_index(drop=True)


def synthetic_predictions(
    cohort: pd.DataFrame, split: pd.DataFrame, configuration: int, separation: float, fold_shift: float = 0.0
) -> pd.DataFrame:
    """Slices scatter around their patient; patients of the two classes lie `separation` standard deviations apart."""
    frame = cohort.merge(split[["patient_id", "fold"]], on="patient_id")
    patient = pd.Series(np.random.default_rng(7).normal(size=len(split)), index=split["patient_id"])
    random = np.random.default_rng([7, configuration])
    shift = random.normal(size=split["fold"].nunique()) * fold_shift
    logit = separation * (frame["label"] - 0.6) + frame["patient_id"].map(patient) + shift[frame["fold"]]
    probability = 1 / (1 + np.exp(-(logit + 0.5 * random.normal(size=len(frame)))))
    return frame.assign(configuration=configuration, probability=probability)[out_of_fold.COLUMNS]


def sampled(random: np.random.Generator) -> dict[str, float]:
    values = {}
    for name, (low, high, log) in RANGES.items():
        value = np.exp(random.uniform(np.log(low), np.log(high))) if log else random.uniform(low, high)
        values[name] = round(value) if isinstance(low, int) else value
    return values


def configuration_row(configuration: int, rows: pd.DataFrame, folds: int) -> dict[str, Any]:
    """Its row of configurations.csv: figures only where all folds are there."""
    random = np.random.default_rng([11, configuration])
    done = rows["fold"].nunique()
    figures = out_of_fold.configuration_figures(rows) if done == folds else {}
    return {
        "configuration": configuration,
        "digest": f"{configuration:016x}",
        "state": "complete" if done == folds else "running",
        "folds_done": done,
        **{name: figures.get(name) for name in ("mean_fold_auc", "sd_fold_auc", "pooled_auc")},
        "failure": None,
        "dropped": None,
        **(sampled(random) if configuration else STUDY),
    }


def write_run(
    run: Path,
    separations: tuple[float, ...] = (1.2, 2.0, 1.5, 1.7),
    folds: int = 10,
    cohort: pd.DataFrame | None = None,
    fold_shift: float = 0.0,
    excluded: tuple[tuple[str, str, str, str], ...] = (),
    changes: dict[str, Any] | None = None,
) -> Path:
    """Write a finished run, a configuration per separation; `changes` are settings by dotted name."""
    run.mkdir(parents=True)
    cohort = synthetic_cohort() if cohort is None else cohort
    split = stratified_split(cohort, folds)
    tables = [synthetic_predictions(cohort, split, i, s, fold_shift) for i, s in enumerate(separations)]
    cohort.to_csv(run / "cohort.csv", index=False)
    split.to_csv(run / "split.csv", index=False)
    pd.DataFrame(excluded, columns=["patient_id", "item", "reason", "remedy"]).to_csv(run / "excluded.csv", index=False)
    (run / "settings.yaml").write_text(yaml.safe_dump(_changed(SETTINGS, changes or {})))
    files = {"patch_store": "/nowhere", "files": 100, "skipped": {"not DICOM": 7}, "series": 12}
    (run / "ingest.json").write_text(json.dumps(files))
    units = pd.MultiIndex.from_product([range(len(tables)), range(folds)], names=["configuration", "fold"]).to_frame()
    units.assign(threshold=0.5).to_csv(run / "thresholds.csv", index=False)
    units.assign(epochs=6, seconds=30.0).to_csv(run / "costs.csv", index=False)
    save(run, [configuration_row(i, rows, folds) for i, rows in enumerate(tables)], pd.concat(tables))
    return run


def save(run: Path, configurations: list[dict[str, Any]] | pd.DataFrame, predictions: pd.DataFrame) -> None:
    pd.DataFrame(configurations).to_csv(run / "configurations.csv", index=False)
    predictions.to_parquet(run / "predictions.parquet", index=False)


def keep_folds(run: Path, kept: dict[int, set[int]], failure: dict[int, str] | None = None) -> None:
    """Take a configuration's other folds away, as if they had not been finished, or had failed with a reason."""
    predictions = pd.read_parquet(run / "predictions.parquet")
    configurations = pd.read_csv(run / "configurations.csv").astype({"failure": object})
    for number, folds in kept.items():
        gone = (predictions["configuration"] == number) & ~predictions["fold"].isin(folds)
        predictions = predictions[~gone]
        row = configurations["configuration"] == number
        reason = (failure or {}).get(number)
        configurations.loc[row, ["mean_fold_auc", "sd_fold_auc", "pooled_auc"]] = np.nan
        configurations.loc[row, "folds_done"] = len(folds)
        configurations.loc[row, "state"] = "running" if reason is None else "failed"
        configurations.loc[row, "failure"] = reason
    save(run, configurations, predictions)


def drop_by_race(run: Path, kept: dict[int, set[int]], why: str) -> None:
    """Take the other folds of configurations away, as if a race had dropped them."""
    keep_folds(run, kept)
    table = pd.read_csv(run / "configurations.csv").astype({"dropped": object})
    table.loc[table["configuration"].isin(kept), ["state", "dropped"]] = "pruned", why
    table.to_csv(run / "configurations.csv", index=False)


def write_readers_and_features(run: Path) -> None:
    """readers.csv and features.csv of the run's patients, as the phantom's, less a feature that others determine."""
    patients, random = pd.read_csv(run / "split.csv", dtype={"patient_id": str}), np.random.default_rng(3)
    readers, features = [], []
    for identifier, label in zip(patients["patient_id"], patients["label"], strict=True):
        calls = draw_calls(label, random)
        readers += [{"patient_id": identifier, "reader": name, "call": call} for name, call in calls.items()]
        readers[-2]["score"] = readers[-2]["call"] + random.random()  # one of the readers gives scores
        features.append({"patient_id": identifier} | {k: int(v) for k, v in draw_features(label, random).items()})
    pd.DataFrame(readers).to_csv(run / "readers.csv", index=False)
    pd.DataFrame(features).drop(columns="absence_of_collapse").to_csv(run / "features.csv", index=False)


def _changed(settings: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    tree = {name: dict(value) if isinstance(value, dict) else value for name, value in settings.items()}
    for name, value in changes.items():
        section, _, key = name.partition(".")
        tree[section][key] = value
    return tree
