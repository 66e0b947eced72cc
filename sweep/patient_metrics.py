"""Per-patient performance: AUC with intervals, ROC points, and outcomes at a threshold. Pure NumPy and SciPy.

Everywhere `label` is (N,) with 1 = malignant and 0 = benign, `score` is (N,) with higher = more malignant,
and `fold` is (N,) with the number of the fold that held the patient out. Order does not matter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit
from scipy.stats import binomtest, rankdata

Array = NDArray[Any]
THRESHOLD = 0.5  # the study's: a patient with probability >= 0.5 is called malignant
DEALS = 500  # of the patients to folds anew
NAN = float("nan")


@dataclass(frozen=True)
class Estimate:
    """A figure with its two-sided 95 % interval; nan is what cannot be estimated."""

    value: float = NAN
    low: float = NAN
    high: float = NAN


@dataclass(frozen=True)
class FoldMean(Estimate):
    """Mean of the folds' AUCs. `undefined` folds hold one class: they have no AUC and no part in the mean."""

    sd: float = NAN
    influence_curve: Estimate = Estimate()
    undefined: tuple[int, ...] = ()


@dataclass(frozen=True)
class FoldShift:
    """Mean-of-folds minus pooled AUC, its standard deviation were all folds on one scale, and 1.96 times that.

    The difference exceeds the limit in one of twenty runs by chance alone.
    """

    difference: float
    noise: float
    limit: float


def placements(label: Array, score: Array) -> tuple[Array, Array]:
    """Share of the other class that each patient is ranked on the right side of; ties count a half.

    Returns (malignant,) shares of benign patients scored lower and (benign,) shares of malignant patients
    scored higher: the structural components of DeLong et al. 1988, by the midranks of Sun & Xu 2014
    (doi 10.1109/LSP.2014.2337313), O(N log N). The mean of either is the AUC. ValueError on a nan score.
    """
    malignant, benign = score[label == 1], score[label == 0]
    if np.isnan(score).any() or len(malignant) + len(benign) != len(label):
        raise ValueError("labels must be 0 or 1 and scores numbers: predict the missing cases first")
    within_all, within_malignant, within_benign = map(rankdata, (score, malignant, benign))
    with np.errstate(invalid="ignore", divide="ignore"):
        benign_lower = (within_all[label == 1] - within_malignant) / len(benign)
        malignant_higher = 1 - (within_all[label == 0] - within_benign) / len(malignant)
    return benign_lower, malignant_higher


def auc(label: Array, score: Array) -> float:
    """Area under the ROC curve: Mann-Whitney's probability, ties a half. nan with one class only."""
    return float(placements(label, score)[0].mean()) if len(np.unique(label)) == 2 else NAN


def delong_variance(label: Array, score: Array) -> float:
    """Variance of the AUC (DeLong et al. 1988, by Sun & Xu 2014); nan with fewer than two of a class."""
    components = placements(label, score)
    if min(map(len, components)) < 2:
        return NAN
    return float(sum(component.var(ddof=1) / len(component) for component in components))


def auc_interval(label: Array, score: Array, scale: str = "plain") -> Estimate:
    """Pooled AUC with DeLong's interval, on the AUC's scale (`plain`, cut at 0 and 1) or the `logit` scale.

    It takes all scores as one model's. A variance of zero, as at AUC 1, is an artefact: no interval then.
    """
    return interval_on_scale(auc(label, score), delong_variance(label, score), scale)


def interval_on_scale(value: float, variance: float, scale: str = "plain") -> Estimate:
    """An AUC with the interval that its variance gives, as auc_interval."""
    error = float(np.sqrt(variance))
    if scale == "logit" and 0 < value < 1 and error > 0:
        half = ndtri(0.975) * error / (value * (1 - value))
        return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))
    return _plain_interval(value, error if scale == "plain" else 0.0)


def _plain_interval(value: float, error: float, freedom: float = np.inf) -> Estimate:
    """Student's t with that freedom, cut off at 0 and 1; no interval without an error to go by."""
    if not error > 0:
        return Estimate(value)
    half = float(stdtrit(freedom, 0.975) * error)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def average_precision(label: Array, score: Array) -> float:
    """Mean precision over the steps of recall, without interpolation (scikit-learn's); nan with one class only.

    Noise reaches the share of malignant patients, so figures compare only at the same share.
    """
    from sklearn.metrics import average_precision_score  # slow to import, and the search loop needs only the AUC

    return float(average_precision_score(label, score)) if len(np.unique(label)) == 2 else NAN


def fold_aucs(label: Array, score: Array, fold: Array) -> dict[int, float]:
    """AUC of every fold, in the order of their numbers; nan for a fold with one class only."""
    return {int(number): auc(label[fold == number], score[fold == number]) for number in np.unique(fold)}


def mean_of_folds(label: Array, score: Array, fold: Array) -> FoldMean:
    """Mean of the folds' AUCs with its interval, from the patients' influence within their folds.

    The primary figure: it compares patients only within a fold, so score shifts between fold models cannot
    touch it. `sd` is the folds' sample standard deviation. Patients of folds with one class are left out;
    `undefined` names these folds. The interval is within_fold_error's; `influence_curve` is that of LeDell et
    al. 2015 (doi 10.1214/15-EJS1035), which docs/measurements.md shows to be too narrow for small folds.
    """
    undefined = tuple(int(number) for number in np.unique(fold) if len(np.unique(label[fold == number])) < 2)
    if not (placed := fold_placements(label, score, fold)):
        return FoldMean(undefined=undefined)
    aucs = np.array([malignant.mean() for malignant, _ in placed])
    mean, sd = float(aucs.mean()), float(aucs.std(ddof=1)) if len(aucs) > 1 else NAN
    curve, own = _plain_interval(mean, _influence_error(placed)), _plain_interval(mean, *within_fold_error(placed))
    return FoldMean(mean, own.low, own.high, sd, curve, undefined)


def folds_with_both_classes(label: Array, fold: Array) -> Iterator[Array]:
    """(N,) of bool, who is inside, for each such fold in the order of their numbers."""
    folds = (fold == number for number in np.unique(fold))
    return (inside for inside in folds if len(np.unique(label[inside])) == 2)


def fold_placements(label: Array, score: Array, fold: Array) -> list[tuple[Array, Array]]:
    """Placements within every fold that holds both classes."""
    return [placements(label[inside], score[inside]) for inside in folds_with_both_classes(label, fold)]


def within_fold_error(placed: list[tuple[Array, Array]]) -> tuple[float, float]:
    """Standard error of the mean of folds' AUCs, and its degrees of freedom; nan without spread to measure.

    `placed` holds each fold's placements, or for the difference of two AUCs the differences of placements.

    The variance of a fold's AUC is S1/n1 + S0/n0, with S the variance of the placements of a class (DeLong et
    al. 1988, doi 10.2307/2531595). S is pooled over the K folds, with K fewer degrees of freedom than patients,
    since a fold of two malignant patients says little of it; the freedom of the sum is Welch and Satterthwaite's.
    Without the K it would be LeDell's mean squared influence, biased downwards.
    """
    parts = []
    for of_class in zip(*placed, strict=True):
        sizes = np.array([len(values) for values in of_class])
        freedom = float(sizes.sum() - len(sizes))
        squares = sum(float(np.sum((values - values.mean()) ** 2)) for values in of_class)
        parts.append((squares / freedom * np.mean(1 / sizes) / len(sizes) if freedom else np.nan, freedom))
    variance = sum(part for part, _ in parts)
    if not variance > 0:
        return NAN, NAN
    return float(np.sqrt(variance)), float(variance**2 / sum(part**2 / freedom for part, freedom in parts))


def _influence_error(placed: list[tuple[Array, Array]]) -> float:
    """LeDell et al. 2015: sqrt(mean over folds of the mean squared influence / N).

    A patient's influence is (placement - AUC of the fold) / share of the patient's class among all N.
    """
    of_class = [sum(map(len, values)) for values in zip(*placed, strict=True)]
    factors = [sum(of_class) / count for count in of_class]
    squares = [
        np.mean(np.concatenate([factor * (of - of.mean()) for factor, of in zip(factors, pair, strict=True)]) ** 2)
        for pair in placed
    ]
    return float(np.sqrt(np.mean(squares) / sum(of_class)))


def fold_shift(label: Array, score: Array, fold: Array, seed: int = 0) -> FoldShift:
    """Do mean-of-folds and pooled AUC differ by more than noise? Patients of one-class folds are left out.

    If the fold models score on one scale, the fold that a patient fell into is arbitrary: dealing the folds anew
    within each class leaves the pooled AUC as it is, and the mean of folds varies around it. `noise` is its standard
    deviation over DEALS such permutations.
    """
    inside = ~np.isin(fold, mean_of_folds(label, score, fold).undefined)
    label, score, fold = label[inside], score[inside], fold[inside]
    difference = mean_of_folds(label, score, fold).value - auc(label, score)
    malignant, benign = label == 1, label == 0
    if min(malignant.sum(), benign.sum()) < 2:
        return FoldShift(difference, NAN, NAN)
    ranked_right = (np.sign(score[malignant][:, None] - score[benign]) + 1) / 2
    random = np.random.default_rng(seed)
    rows, columns = (random.permuted(np.tile(fold[kind], (DEALS, 1)), axis=1) for kind in (malignant, benign))
    aucs = []
    for number in np.unique(fold):
        of_row, of_column = rows == number, columns == number
        aucs.append((of_row @ ranked_right * of_column).sum(axis=1) / of_row[0].sum() / of_column[0].sum())
    noise = float(np.mean(aucs, axis=0).std())
    return FoldShift(difference, noise, float(ndtri(0.975) * noise))


def roc_points(label: Array, score: Array) -> tuple[Array, Array]:
    """False- and true-positive rates from (0, 0) to (1, 1), a point per distinct score (Fawcett 2006)."""
    thresholds = np.unique(score)[::-1]
    benign, malignant = (np.sort(score[label == kind]) for kind in (0, 1))
    below = [np.searchsorted(scores, thresholds) / len(scores) for scores in (benign, malignant)]
    return np.r_[0.0, 1 - below[0]], np.r_[0.0, 1 - below[1]]


def mean_roc_points(label: Array, score: Array, fold: Array) -> tuple[Array, Array]:
    """Folds' ROC curves averaged vertically (Fawcett 2006); the area is the mean of the folds' AUCs, exactly.

    Each rate stands twice, before and after the curves' jumps there. Folds with one class are left out; nan without
    another.
    """
    curves = [roc_points(label[inside], score[inside]) for inside in folds_with_both_classes(label, fold)]
    if not curves:
        return np.array([0.0, 1.0]), np.full(2, np.nan)
    rate = np.unique(np.concatenate([false_positive for false_positive, _ in curves]))
    after = np.mean([np.interp(rate, x, y) for x, y in curves], axis=0)
    before = np.mean([np.interp(-rate, -x[::-1], y[::-1]) for x, y in curves], axis=0)
    return np.repeat(rate, 2), np.stack([before, after], axis=1).ravel()


def outcomes(label: Array, score: Array, threshold: float | Array = THRESHOLD) -> NDArray[np.str_]:
    """(N,) of "TP", "TN", "FP", "FN"; a score at or above the threshold, or its own one (N,), is called malignant."""
    called = score >= threshold
    return np.where(label == 1, np.where(called, "TP", "FN"), np.where(called, "FP", "TN"))


def wilson(successes: int, total: int) -> Estimate:
    """A proportion with Wilson's interval; all nan where there is nobody to count."""
    if total == 0:
        return Estimate()
    interval = binomtest(successes, total).proportion_ci(method="wilson")
    return Estimate(successes / total, float(interval.low), float(interval.high))
