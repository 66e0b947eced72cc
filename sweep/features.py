"""Imaging features that readers noted: how often in either class (Table 1), together, and in which errors."""

import warnings
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.tables import read_csv
from sweep.comparison import benjamini_hochberg, fisher_exact, holm
from sweep.patient_metrics import Array

ITERATIONS = 200  # separable data take more than the 25 that the package allows by default


@dataclass(frozen=True)
class FeatureModel:
    """Firth's logistic regression on all features.

    `table` has a row per feature: feature, coefficient, odds_ratio with low and high, p. `accuracy`, on the `patients`
    it was fitted to, flatters; the out-of-fold `probability` (N,), nan for patients with a missing feature, does not.
    """

    table: pd.DataFrame
    accuracy: float
    patients: int
    probability: Array


def read_features(path: Path, cells: pd.DataFrame | None = None) -> pd.DataFrame:
    """features.csv -> (patients, features) of 1 = present, 0 = absent, nan = not noted, indexed by patient_id.

    `cells` are the file's where they were read otherwise. ValueError names the file, patient, feature and value.
    """
    table = read_csv(path, {"patient_id": str}) if cells is None else cells
    if "patient_id" not in table:
        raise ValueError(f"{path.name}: no column patient_id: add it")
    table = table.set_index("patient_id")
    if table.index.has_duplicates:
        raise ValueError(f"{path.name}: patient {table.index[table.index.duplicated()][0]} has two rows: keep one")
    numbers: pd.DataFrame = table.apply(pd.to_numeric, errors="coerce").astype(float)
    wrong = ~numbers.isin([0, 1]) & table.notna() & (table != "")
    for name, column in table.items():
        for patient, value in column[wrong[name]].head(1).items():
            raise ValueError(f"{path.name}: patient {patient}, {name} is {value}: write 1, 0 or nothing")
    return numbers


def compare_features(features: pd.DataFrame, first: Array, second: Array) -> pd.DataFrame:
    """How often each feature is present in two groups of patients, (N,) of bool each, and Fisher's exact test.

    Columns: feature, first_with, first_all, second_with, second_all (patients with the feature noted), p,
    sample_odds_ratio, odds_ratio with odds_ratio_low and _high, and p adjusted over the features: holm, bh.
    """
    rows = []
    for name, column in features.items():
        counts = [int(count) for group in (first, second) for count in (column[group].sum(), column[group].count())]
        test = fisher_exact(*counts)
        rows.append((name, *counts, test.p, test.sample_odds_ratio, *astuple(test.odds_ratio)))
    names = ["feature", "first_with", "first_all", "second_with", "second_all", "p", "sample_odds_ratio"]
    table = pd.DataFrame(rows, columns=[*names, "odds_ratio", "odds_ratio_low", "odds_ratio_high"])
    p = table["p"].to_numpy()
    return table.assign(holm=holm(p), bh=benjamini_hochberg(p))


def feature_model(features: pd.DataFrame, label: Array, fold: Array) -> FeatureModel:
    """All features together, `label` and `fold` (N,): finite also where a feature has an empty cell.

    Firth 1993 (doi 10.1093/biomet/80.1.27), with Heinze & Schemper's penalised likelihood ratio tests and profile
    intervals (2002, doi 10.1002/sim.1047). A feature without variation has no coefficient; ends of intervals
    that the search missed are nan. ValueError where features depend on each other linearly, or nothing varies.
    """
    from firthmodels import FirthLogisticRegression  # slow to import, as scikit-learn
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.feature_selection import VarianceThreshold
    from sklearn.model_selection import PredefinedSplit, cross_val_predict
    from sklearn.pipeline import make_pipeline

    noted = features.notna().all(axis=1).to_numpy()
    known, truth = features[noted], label[noted]
    varied = known.loc[:, known.nunique() > 1]
    if varied.empty or len(np.unique(truth)) < 2:
        raise ValueError("no feature varies among the patients with all features noted, or they are of one class")
    firth, probability = FirthLogisticRegression(max_iter=ITERATIONS), np.full(len(label), np.nan)
    try:
        firth.fit(varied, truth).lrt()
        training = make_pipeline(VarianceThreshold(), FirthLogisticRegression(max_iter=ITERATIONS))
        split = PredefinedSplit(fold[noted])
        probability[noted] = cross_val_predict(training, varied, truth, cv=split, method="predict_proba")[:, 1]
    except np.linalg.LinAlgError as error:
        raise ValueError("features determine each other, in all patients or without a fold: leave one out") from error
    with warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        interval = firth.conf_int(method="pl", max_iter=ITERATIONS)[:-1]
    missed = (interval[:, 0] >= firth.coef_) | (interval[:, 1] <= firth.coef_)
    low, high = np.where(missed, np.nan, np.exp(interval.T))
    columns = {"coefficient": firth.coef_, "odds_ratio": np.exp(firth.coef_), "low": low, "high": high}
    table = pd.DataFrame({**columns, "p": firth.lrt_pvalues_[:-1]}, index=varied.columns).reindex(known.columns)
    accuracy = float((firth.predict(varied) == truth).mean())
    return FeatureModel(table.rename_axis("feature").reset_index(), accuracy, int(noted.sum()), probability)
