"""Patient → fold: stratified by label, or by site; saved once as a table, the same for every configuration."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.annotations import CohortError, quoted
from datasets.tables import read_csv, to_csv

FEWEST_IN_TRAINING = 2  # of a class: one to train on and one for the inner validation split


def make_split(patients: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Assign every patient to the one fold that validates it; the order of the rows does not matter.

    `patients` has a row per patient: patient_id, label (0 benign, 1 malignant). The result has fold (from 0), too, and
    is sorted by patient_id.

    Raises:
        CohortError: a class has fewer patients than there are folds.
    """
    table = patients[["patient_id", "label"]].sort_values("patient_id", ignore_index=True)
    smallest = int(np.bincount(table["label"], minlength=2).min())
    if smallest < folds:
        raise CohortError(
            f"folds.count={folds}: one class has only {smallest} patients, so some folds could not be scored; "
            f"write folds.count={max(2, smallest)} or less, or add patients"
        )
    if smallest - -(-smallest // folds) < FEWEST_IN_TRAINING:
        raise CohortError(
            f"one class has only {smallest} patients, too few to train, stop early and score; add patients"
        )
    from sklearn.model_selection import StratifiedKFold  # slow to import, and workers only read splits

    splitter = StratifiedKFold(folds, shuffle=True, random_state=seed)
    for fold, (_, held_out) in enumerate(splitter.split(table, table["label"])):
        table.loc[held_out, "fold"] = fold
    return table.astype({"fold": int})


def make_site_split(patients: pd.DataFrame) -> pd.DataFrame:
    """Hold every site out once: a fold per site, numbered in the order of the sites' names; else as `make_split`.

    A site with one class is a fold without an AUC.

    Raises:
        CohortError: a patient has no site, two sites look like one, or too few of a class stand at the sites.
    """
    table = patients[["patient_id", "label", "site"]].sort_values("patient_id", ignore_index=True)
    if nowhere := int((table["site"] == "").sum()):
        raise CohortError(
            f"folds.by=site: {nowhere} of {len(table)} patients have no site; "
            "fill the column site of annotations.csv, or write folds=tenfold"
        )
    spellings = table.groupby(table["site"].map(str.casefold))["site"].unique()
    for different in spellings[spellings.map(len) > 1]:
        raise CohortError(f"folds.by=site: site stands as {' and '.join(map(quoted, different))}; write it alike")
    counts = pd.crosstab(table["site"], table["label"]).reindex(columns=[0, 1], fill_value=0)
    scored = int((counts > 0).all(axis=1).sum())
    if scored < 2:
        raise CohortError(
            f"folds.by=site: {scored} of {len(counts)} sites have both benign and malignant patients, and a mean of "
            "AUCs takes at least 2; write folds=tenfold, or add patients"
        )
    elsewhere = (counts.sum() - counts).min(axis=1)
    if elsewhere.min() < FEWEST_IN_TRAINING:
        site = quoted(str(elsewhere.idxmin()))
        raise CohortError(
            f"folds.by=site: without site {site} one class has only {elsewhere.min()} patients, "
            "too few to train and stop early; write folds=tenfold, or add patients"
        )
    return table.assign(fold=table["site"].map(counts.index.get_loc))[["patient_id", "label", "fold"]]


def inner_validation(split: pd.DataFrame, fold: int, fraction: float, seed: int) -> frozenset[str]:
    """Patients kept apart from the training patients of a fold to stop early; never patients of the fold itself.

    They are a `fraction` of the training patients, stratified by label, at least one of each class.
    """
    training = split[split["fold"] != fold]
    generator = np.random.default_rng((seed, fold))
    inner: set[str] = set()
    for _, patients in training.groupby("label")["patient_id"]:
        size = max(1, round(fraction * len(patients)))
        inner |= set(generator.choice(patients.to_numpy(str), size, replace=False))
    return frozenset(inner)


def shuffle_labels(lesions: pd.DataFrame, seed: int) -> pd.DataFrame:
    """The same lesion slices with the labels permuted between patients: what a classifier scores by chance alone."""
    patients = lesions.groupby("patient_id")["label"].first()
    permuted = pd.Series(np.random.default_rng(seed).permutation(patients.to_numpy()), index=patients.index)
    return lesions.assign(label=lesions["patient_id"].map(permuted))


def split_digest(split: pd.DataFrame) -> str:
    """Sixteen hexadecimal digits that stand for the whole table, labels included."""
    return hashlib.sha256(to_csv(split).encode()).hexdigest()[:16]


def read_split(path: Path) -> pd.DataFrame:
    """The saved table: patient_id as text, label, fold."""
    return read_csv(path, {"patient_id": str, "label": int, "fold": int})
