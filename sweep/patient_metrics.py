"""Per-patient performance: AUC with intervals, ROC points, and outcomes at a threshold. Pure NumPy and SciPy.

Everywhere `label` is (N,) with 1 = malignant and 0 = benign, `score` is (N,) with higher = more malignant,
and `fold` is (N,) with the number of the fold that held the patient out. Order does not matter.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit, ndtri, stdtrit

Array = NDArray[Any]
THRESHOLD = 0.5  # the study's: a patient with probability >= 0.5 is called malignant


@dataclass(frozen=True)
class Estimate:
    """A figure with its two-sided interval; `low` and `high` are nan where none can be estimated."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class FoldMean:
    """Mean of the folds' AUCs. `undefined` folds hold one class: they have no AUC and no part in the mean."""

    value: float
    sd: float
    standard_error: float
    low: float
    high: float
    influence_curve: Estimate
    undefined: tuple[int, ...]


@dataclass(frozen=True)
class FoldShift:
    """Mean-of-folds minus pooled AUC, and the standard deviation of that were all folds on one scale."""

    difference: float
    noise: float

    @property
    def limit(self) -> float:
        """The size that the difference exceeds in one of twenty runs by chance alone."""
        return float(ndtri(0.975) * self.noise)

    @property
    def beyond_noise(self) -> bool:
        return abs(self.difference) > self.limit


def placements(label: Array, score: Array) -> tuple[Array, Array]:
    """Share of the other class that each patient is ranked on the right side of; ties count a half.

    Returns (malignant,) shares of benign patients scored lower and (benign,) shares of malignant patients
    scored higher: the structural components of DeLong et al. 1988, by the midranks of Sun & Xu 2014
    (doi 10.1109/LSP.2014.2337313), O(N log N). The mean of either is the AUC. ValueError on a nan score.
    """
    malignant, benign = score[label == 1], score[label == 0]
    if np.isnan(score).any() or len(malignant) + len(benign) != len(label):
        raise ValueError("labels must be 0 or 1 and scores numbers: predict the missing cases first")
    within_all, within_malignant, within_benign = map(_midranks, (score, malignant, benign))
    with np.errstate(invalid="ignore", divide="ignore"):
        benign_lower = (within_all[label == 1] - within_malignant) / len(benign)
        malignant_higher = 1 - (within_all[label == 0] - within_benign) / len(malignant)
    return benign_lower, malignant_higher


def _midranks(score: Array) -> Array:
    _, inverse, count = np.unique(score, return_inverse=True, return_counts=True)
    ranks: Array = (np.cumsum(count) - (count - 1) / 2)[inverse]
    return ranks


def auc(label: Array, score: Array) -> float:
    """Area under the ROC curve: Mann-Whitney's probability, ties a half. nan with one class only."""
    if len(np.unique(label)) < 2:
        return float("nan")
    return float(placements(label, score)[0].mean())


def delong_variance(label: Array, score: Array) -> float:
    """Variance of the AUC (DeLong et al. 1988, by Sun & Xu 2014); nan with fewer than two of a class."""
    components = placements(label, score)
    if min(map(len, components)) < 2:
        return float("nan")
    return float(sum(component.var(ddof=1) / len(component) for component in components))


def auc_interval(label: Array, score: Array, scale: str = "plain", confidence: float = 0.95) -> Estimate:
    """Pooled AUC with DeLong's interval, on the AUC's scale (`plain`, cut at 0 and 1) or the `logit` scale.

    It takes all scores as one model's. A variance of zero, as at AUC 1, is an artefact: no interval then.
    """
    return interval_on_scale(auc(label, score), delong_variance(label, score), scale, confidence)


def interval_on_scale(value: float, variance: float, scale: str = "plain", confidence: float = 0.95) -> Estimate:
    """An AUC with the interval that its variance gives, as auc_interval."""
    error = float(np.sqrt(variance))
    if scale == "logit" and 0 < value < 1 and error > 0:
        half = ndtri(0.5 + confidence / 2) * error / (value * (1 - value))
        return Estimate(value, float(expit(logit(value) - half)), float(expit(logit(value) + half)))
    return Estimate(value, *_plain_interval(value, error if scale == "plain" else 0.0, confidence))


def _plain_interval(
    value: float, error: float, confidence: float, freedom: float = float("inf")
) -> tuple[float, float]:
    """Student's t with that freedom, cut off at 0 and 1; nan without an error to go by."""
    if not error > 0:
        return float("nan"), float("nan")
    half = float(stdtrit(freedom, 0.5 + confidence / 2) * error)
    return max(0.0, value - half), min(1.0, value + half)


def average_precision(label: Array, score: Array) -> float:
    """Mean precision over the steps of recall, without interpolation (scikit-learn's); nan with one class only.

    Noise reaches the share of malignant patients, so figures compare only at the same share.
    """
    from sklearn.metrics import average_precision_score  # slow to import, and the search loop needs only the AUC

    return float(average_precision_score(label, score)) if len(np.unique(label)) == 2 else float("nan")


def fold_aucs(label: Array, score: Array, fold: Array) -> dict[int, float]:
    """AUC of every fold, in the order of their numbers; nan for a fold with one class only."""
    return {int(number): auc(label[fold == number], score[fold == number]) for number in np.unique(fold)}


def mean_of_folds(label: Array, score: Array, fold: Array, confidence: float = 0.95) -> FoldMean:
    """Mean of the folds' AUCs with its interval, from the patients' influence within their folds.

    The primary figure: it compares patients only within a fold, so score shifts between fold models cannot
    touch it. `sd` is the folds' sample standard deviation. Patients of folds with one class are left out;
    `undefined` names these folds. The interval is within_fold_error's; `influence_curve` is that of LeDell et
    al. 2015 (doi 10.1214/15-EJS1035), which docs/measurements.md shows to be too narrow for small folds.
    """
    aucs = fold_aucs(label, score, fold)
    defined = [number for number, value in aucs.items() if not np.isnan(value)]
    undefined = tuple(number for number in aucs if number not in defined)
    if not defined:
        return FoldMean(np.nan, np.nan, np.nan, np.nan, np.nan, Estimate(np.nan, np.nan, np.nan), undefined)
    values = np.array([aucs[number] for number in defined])
    mean, sd = float(values.mean()), float(values.std(ddof=1)) if len(values) > 1 else float("nan")
    inside = np.isin(fold, defined)
    label, score, fold = label[inside], score[inside], fold[inside]
    curve = Estimate(mean, *_plain_interval(mean, _influence_error(label, score, fold), confidence))
    error, freedom = within_fold_error(fold_placements(label, score, fold))
    interval = _plain_interval(mean, error, confidence, freedom)
    return FoldMean(mean, sd, error, *interval, curve, undefined)


def fold_placements(label: Array, score: Array, fold: Array) -> list[tuple[Array, Array]]:
    """Placements within every fold that holds both classes, in the order of the folds' numbers."""
    folds = (fold == number for number in np.unique(fold))
    return [placements(label[inside], score[inside]) for inside in folds if len(np.unique(label[inside])) == 2]


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
        return float("nan"), float("nan")
    return float(np.sqrt(variance)), float(variance**2 / sum(part**2 / freedom for part, freedom in parts))


def _influence_error(label: Array, score: Array, fold: Array) -> float:
    """LeDell et al. 2015: sqrt(mean over folds of the mean squared influence / N).

    A patient's influence is (placement - AUC of the fold) / share of the patient's class among all N.
    """
    prevalence, squares = label.mean(), []
    for number in np.unique(fold):
        malignant, benign = placements(label[fold == number], score[fold == number])
        centre = malignant.mean()
        influence = np.concatenate([(malignant - centre) / prevalence, (benign - centre) / (1 - prevalence)])
        squares.append(np.mean(influence**2))
    return float(np.sqrt(np.mean(squares) / len(label)))


def fold_shift(label: Array, score: Array, fold: Array) -> FoldShift:
    """Do mean-of-folds and pooled AUC differ by more than noise? Patients of one-class folds are left out.

    If the fold models score on one scale, the fold that a patient fell into is arbitrary: dealing the folds
    anew within each class leaves the pooled AUC as it is, and the mean of folds varies around it. `noise` is
    the exact standard deviation of that permutation distribution. With the concordance matrix C (malignant m,
    benign n), the matrix W of the mean's weights and independent permutations of rows and columns (cf.
    Hoeffding 1951, doi 10.1214/aoms/1177729545), the two-way effects of C and W do not correlate:
    Var = n^2 S(C_i)S(W_i)/(m-1) + m^2 S(C_j)S(W_j)/(n-1) + S(C_ij)S(W_ij)/((m-1)(n-1)),
    S being the sums of squares of the row, column and interaction effects.
    """
    undefined = mean_of_folds(label, score, fold).undefined
    label, score, fold = (values[~np.isin(fold, undefined)] for values in (label, score, fold))
    malignant, benign = label == 1, label == 0
    difference = mean_of_folds(label, score, fold).value - auc(label, score)
    if min(malignant.sum(), benign.sum()) < 2:
        return FoldShift(difference, float("nan"))
    concordance = (np.sign(score[malignant][:, None] - score[benign]) + 1) / 2
    weight = _pair_weights(fold[malignant], fold[benign])
    m, n = concordance.shape
    products = (a * b for a, b in zip(_effect_squares(concordance), _effect_squares(weight), strict=True))
    rows, columns, interaction = products
    variance = n**2 * rows / (m - 1) + m**2 * columns / (n - 1) + interaction / ((m - 1) * (n - 1))
    return FoldShift(difference, float(np.sqrt(variance)))


def _pair_weights(malignant_fold: Array, benign_fold: Array) -> Array:
    """(malignant, benign) weights with sum(weights * concordance) = mean of the folds' AUCs."""
    together = malignant_fold[:, None] == benign_fold
    pairs_of_fold = together.sum(axis=1, keepdims=True) * (malignant_fold[:, None] == malignant_fold).sum(1)[:, None]
    weights: Array = together / pairs_of_fold / len(np.unique(malignant_fold))
    return weights


def _effect_squares(table: Array) -> tuple[float, float, float]:
    rows = table.mean(axis=1, keepdims=True) - table.mean()
    columns = table.mean(axis=0, keepdims=True) - table.mean()
    interaction = table - table.mean() - rows - columns
    return float((rows**2).sum()), float((columns**2).sum()), float((interaction**2).sum())


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
    folds = [number for number in np.unique(fold) if len(np.unique(label[fold == number])) == 2]
    if not folds:
        return np.array([0.0, 1.0]), np.full(2, np.nan)
    curves = [roc_points(label[fold == number], score[fold == number]) for number in folds]
    rate = np.unique(np.concatenate([false_positive for false_positive, _ in curves]))
    after = np.mean([np.interp(rate, x, y) for x, y in curves], axis=0)
    before = np.mean([np.interp(-rate, -x[::-1], y[::-1]) for x, y in curves], axis=0)
    return np.repeat(rate, 2), np.stack([before, after], axis=1).ravel()


def outcomes(label: Array, score: Array, threshold: float | Array = THRESHOLD) -> NDArray[np.str_]:
    """(N,) of "TP", "TN", "FP", "FN"; a score at or above the threshold, or its own one (N,), is called malignant."""
    called = score >= threshold
    return np.where(label == 1, np.where(called, "TP", "FN"), np.where(called, "FP", "TN"))


def wilson(successes: int, total: int, confidence: float = 0.95) -> Estimate:
    """A proportion with Wilson's interval; all nan where there is nobody to count."""
    from scipy.stats import binomtest  # slow to import, and the search loop needs only the AUC

    if total == 0:
        return Estimate(float("nan"), float("nan"), float("nan"))
    interval = binomtest(successes, total).proportion_ci(confidence, method="wilson")
    return Estimate(successes / total, float(interval.low), float(interval.high))
