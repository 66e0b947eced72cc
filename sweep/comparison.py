"""Is one better than the other? Paired and unpaired tests of calls, AUCs, features and sites.

Everywhere `label` is (N,) with 1 = malignant and 0 = benign, scores are (N,) with higher = more malignant, and
`fold` is (N,) with the number of the fold that held the patient out. A test without data to go by gives nan.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats
from scipy.special import stdtr, stdtrit

from sweep import patient_metrics
from sweep.patient_metrics import NAN, Array, Estimate, fold_placements


@dataclass(frozen=True)
class McNemar:
    """Two-sided p of a paired table, exact and mid-p."""

    exact: float
    mid_p: float


@dataclass(frozen=True)
class AucComparison:
    """Two AUCs on the same patients; `difference` is first - second, p two-sided."""

    first: float
    second: float
    difference: Estimate
    p: float


@dataclass(frozen=True)
class FisherTest:
    """Two-sided p; the sample odds ratio ad/bc, and the conditional one with the exact interval that belongs to it."""

    p: float
    sample_odds_ratio: float
    odds_ratio: Estimate


@dataclass(frozen=True)
class Heterogeneity:
    """Cochran's Q of the sites' AUCs; `left_out` sites have no variance to weigh them by."""

    q: float
    freedom: int
    p: float
    i_squared: float
    sites: dict[str, Estimate]
    left_out: tuple[str, ...]


def mcnemar(only_first: int, only_second: int) -> McNemar:
    """Do two readers differ? From the patients that only the first and only the second called rightly.

    Exact: min(1, 2 P(X <= min)) with X binomial(discordant, 1/2) (McNemar 1947). Mid-p: 2 P(X <= min) - P(X = min),
    which keeps its level in all but extreme cases where the exact test is far below it (Fagerland et al. 2013,
    doi 10.1186/1471-2288-13-91). Both are 1 without discordant patients.
    """
    fewer, discordant = min(only_first, only_second), only_first + only_second
    twice = 2 * float(stats.binom.cdf(fewer, discordant, 0.5))
    return McNemar(min(1.0, twice), min(1.0, twice - float(stats.binom.pmf(fewer, discordant, 0.5))))


def paired_delong(label: Array, first: Array, second: Array) -> AucComparison:
    """Two score vectors on the same patients, each of one model or reader (DeLong et al. 1988, doi 10.2307/2531595).

    Var(difference) = S1/m + S0/n, with S the variance of the differences of a class's placements; normal. Not for
    scores pooled over fold models: paired_mean_of_folds is.
    """
    return _compare(label, first, second, np.zeros(len(label)), normal=True)


def paired_mean_of_folds(label: Array, first: Array, second: Array, fold: Array) -> AucComparison:
    """Two configurations' mean-of-folds AUCs over the same folds, with Student's t.

    As patient_metrics.within_fold_error, on the differences of placements, so what the two have in common cancels.
    Conditional on the trained models: that another training would differ is not in it. The better of many is
    flattered by its selection, and p does not know that. Folds with one class have no part.
    """
    return _compare(label, first, second, fold, normal=False)


def _compare(label: Array, first: Array, second: Array, fold: Array, normal: bool) -> AucComparison:
    folds = [fold_placements(label, score, fold) for score in (first, second)]
    if not folds[0]:
        return AucComparison(NAN, NAN, Estimate(), NAN)
    values = [float(np.mean([malignant.mean() for malignant, _ in of_score])) for of_score in folds]
    placed = [(m1 - m2, b1 - b2) for (m1, b1), (m2, b2) in zip(*folds, strict=True)]
    error, freedom = patient_metrics.within_fold_error(placed)
    freedom = np.inf if normal else freedom
    difference = values[0] - values[1]
    half = float(stdtrit(freedom, 0.975) * error)
    p = float(2 * stdtr(freedom, -abs(difference / error)))
    return AucComparison(values[0], values[1], Estimate(difference, difference - half, difference + half), p)


def fisher_exact(first_with: int, first_all: int, second_with: int, second_all: int) -> FisherTest:
    """A feature in two groups, as Table 1: Fisher 1935, two-sided p over all tables no likelier than this one.

    `odds_ratio` is the conditional maximum likelihood estimate, its 95 % interval Cornfield's exact one, both of the
    noncentral hypergeometric distribution as R's fisher.test has them; it reaches to 0 or inf beside an empty cell.
    A feature that all have or nobody leaves p = 1 and no odds ratio; a group of nobody leaves no p either.
    """
    if not (first_all and second_all):
        return FisherTest(NAN, NAN, Estimate())
    table = np.array([[first_with, first_all - first_with], [second_with, second_all - second_with]])
    if not table.sum(axis=0).all():
        return FisherTest(1.0, NAN, Estimate())
    conditional, sample = (stats.contingency.odds_ratio(table, kind=kind) for kind in ("conditional", "sample"))
    interval = conditional.confidence_interval()
    estimate = Estimate(float(conditional.statistic), float(interval.low), float(interval.high))
    return FisherTest(float(stats.fisher_exact(table).pvalue), float(sample.statistic), estimate)


def holm(p: Array) -> Array:
    """Adjusted p (tests,) that keep the chance of any false rejection (Holm 1979); nan stays and does not count."""

    def step_down(tested: Array) -> Array:
        order = np.argsort(tested)
        raised = np.maximum.accumulate(tested[order] * np.arange(len(tested), 0, -1))
        return np.asarray(np.minimum(1, raised)[np.argsort(order)])

    return _where_tested(p, step_down)


def benjamini_hochberg(p: Array) -> Array:
    """Adjusted p (tests,) that keep the false discovery rate (Benjamini & Hochberg 1995); nan as in holm."""
    return _where_tested(p, stats.false_discovery_control)


def _where_tested(p: Array, adjust: Callable[[Array], Array]) -> Array:
    adjusted, tested = np.full(len(p), NAN), ~np.isnan(p)
    adjusted[tested] = adjust(p[tested])
    return adjusted


def permutation_test(label: Array, score: Array, fold: Array, permutations: int = 2000, seed: int = 0) -> float:
    """One-sided p of the mean-of-folds AUC (pooled where `fold` is constant) against labels dealt anew within folds.

    p = (1 + permutations that reach the AUC) / (1 + permutations) (Phipson & Smyth 2010, doi 10.2202/1544-6115.1585).
    The models stay as they were trained: it asks whether these scores know the labels, not what the pipeline would
    find in shuffled ones, which takes a run of its own. nan where no fold holds both classes.
    """
    if not (observed := [malignant.mean() for malignant, _ in fold_placements(label, score, fold)]):
        return NAN
    random, dealt = np.random.default_rng(seed), np.zeros(permutations)
    for inside in patient_metrics.folds_with_both_classes(label, fold):
        m, n = (label[inside] == 1).sum(), (label[inside] == 0).sum()
        ranks = random.permuted(np.tile(stats.rankdata(score[inside]), (permutations, 1)), axis=1)
        dealt += (ranks[:, :m].sum(axis=1) - m * (m + 1) / 2) / (m * n) / len(observed)
    reached = np.count_nonzero(dealt >= np.mean(observed) - 1e-12)
    return float((1 + reached) / (1 + permutations))


def auc_heterogeneity(label: Array, score: Array, site: Array) -> Heterogeneity:
    """Do the sites' AUCs differ by more than chance? Cochran's Q (1954) with DeLong's variances; chi-squared p.

    Weights 1/variance, I^2 = max(0, (Q - freedom)/Q) (Higgins et al. 2003, doi 10.1136/bmj.327.7414.557). Sites with
    fewer than two of a class, and sites at AUC 0 or 1, have no variance: they are left out and named. Estimated
    weights make it a little keen: with four sites of 10 to 20 malignant patients it finds 7 % where 5 % are due.
    """
    sites = {str(name): (label[site == name], score[site == name]) for name in np.unique(site)}
    aucs = {name: patient_metrics.auc_interval(*patients) for name, patients in sites.items()}
    variances = {name: patient_metrics.delong_variance(*patients) for name, patients in sites.items()}
    used = [name for name, variance in variances.items() if variance > 0]
    left_out = tuple(name for name in aucs if name not in used)
    freedom = len(used) - 1
    if freedom < 1:
        return Heterogeneity(NAN, max(freedom, 0), NAN, NAN, aucs, left_out)
    values, weights = np.array([aucs[name].value for name in used]), np.array([1 / variances[name] for name in used])
    q = float(weights @ (values - np.average(values, weights=weights)) ** 2)
    i_squared = max(0.0, 1 - freedom / q) if q > 0 else 0.0
    return Heterogeneity(q, freedom, float(stats.chi2.sf(q, freedom)), i_squared, aucs, left_out)
