"""Which configurations may be dropped before all their folds are trained, and whose next fold is worth most.

Pure NumPy: a strategy is a function of the evidence alone, so that a resumed sweep comes to the same decisions. All
configurations see the folds in one shared order, which with `posterior` and `lossless` changes with the leader.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.special import ndtr, ndtri
from scipy.stats import wilcoxon as signed_rank_test

from sweep.race_model import Array, chance_above, differences, predicted_means, without_known_luck

EARLY_SHARE = 0.01
# Errors of means over few folds have heavier tails than the model, as families of configurations have luck with a
# fold: they are multiplied by CAUTION (1 + 1 / folds done). Chosen on simulated tables, so that no more winners are
# lost than alpha says.
CAUTION = 0.8
# Of the chance to win of a configuration that is not to win, after one more fold: no more than about this.
LEFT_BY_A_FOLD = 0.1
FEWEST_CURVES = FEWEST_CONFIGURATIONS = 10


@dataclass(frozen=True)
class Evidence:
    """What a sweep knows of C configurations on K folds. Folds without an AUC (one class) are left out beforehand."""

    auc: Array
    """(C, K): nan where a fold is not finished. An empty row is the configuration that could be proposed next."""
    influence: Array
    """(C, N): every patient's influence on the AUC of the own fold, see `fold_influence`; 0 where not finished."""
    fold: Array
    """(N,): column of each patient's fold."""
    alive: Array
    """(C,): neither dropped nor failed."""
    last: bool = True
    """No other configuration than these will be proposed."""
    out: Array | bool = False
    """(C,): failed, hopeless, or left out by a budget: it cannot win any more, and nothing was risked by the race."""

    @property
    def done(self) -> Array:
        return ~np.isnan(self.auc)

    @property
    def complete(self) -> Array:
        return self.done.all(axis=1) & self.alive

    @property
    def leader(self) -> int | None:
        """The best complete configuration, of equals the earliest."""
        return int(np.argmax(np.where(self.complete, self.auc.mean(axis=1), -1))) if self.complete.any() else None


class Drop(NamedTuple):
    """Why a configuration is dropped: its mean of folds' AUCs less the leader's, as `why` estimates it."""

    row: int
    against: int
    difference: float
    low: float
    high: float
    why: str
    risked: bool = True
    """It might have won, which counts towards alpha."""
    after: int = 0
    """Fold-trainings of the sweep that were finished then; 0: not known."""


@dataclass(frozen=True)
class Verdict:
    """What a strategy makes of the evidence."""

    drops: list[Drop]
    value: Array
    """(C,): of one more fold of each configuration, in any unit; only their order counts; -inf: it gets none."""
    folds: Array
    """(K,): columns in the order in which they are to be trained."""
    enough: float = 0.0
    """Once the values' sum is no more than this, the race is over."""
    spread: float = 0.0
    """How much less the next fold is worth for each one under way, where values are not positive."""

    def worth(self, under_way: Array) -> Array:
        """(C,): of the next fold of each configuration beside those under way; -inf if these will probably be enough.

        The third power has many workers spend the fewest folds on what is dropped soon (docs/measurements.md).

        Args:
            under_way: (C,) folds in training.
        """
        left = np.where(under_way > 0, LEFT_BY_A_FOLD, 1.0) @ self.value
        if self.enough and under_way.any() and left <= self.enough:
            return np.full(len(self.value), -np.inf)
        return np.where(self.value > 0, self.value / (1 + under_way) ** 3, self.value - self.spread * under_way)


Strategy = Callable[[Evidence, float], Verdict]
Rule = Callable[[Evidence, int, int, float], Drop | None]
"""Of the evidence, the leader's row, an unfinished configuration's row and alpha: why that one is dropped, if it is."""


def fold_influence(malignant: Array, benign: Array) -> tuple[Array, Array]:
    """Influence of a fold's patients on its AUC from their placements (DeLong et al. 1988, doi 10.2307/2531595).

    Scaled so that the sum of squares over the fold is DeLong's unbiased variance of the AUC, and the sum of squared
    differences between two configurations that of their paired difference.
    """
    first, second = ((part - part.mean()) / np.sqrt(len(part) * max(len(part) - 1, 1)) for part in (malignant, benign))
    return first, second


def paired(evidence: Evidence, leader: int, row: int, alpha: float) -> Drop | None:
    """Drop what is below the leader by a one-sided test of the paired difference on the folds that both have.

    After m of K folds the standard error is sqrt(s²/m · (1 - m/K)), s² the mean over these folds of the within-fold
    variance of the paired difference. The correction for a finite population (Cochran, Sampling Techniques, 1977,
    section 2.6) is due because the comparison to be predicted is of these K folds.
    """
    shared = evidence.done[row]
    done, folds = shared.sum(), len(shared)
    difference = (evidence.auc[row] - evidence.auc[leader])[shared].mean()
    variance = _paired_variance(evidence, leader, row)[shared].mean()
    error = np.sqrt(variance / done * (1 - done / folds))
    if difference + ndtri(1 - alpha) * error >= 0:
        return None
    return _drop(row, leader, difference, error, "paired difference on the folds done")


def lossless(evidence: Evidence, leader: int, row: int, alpha: float) -> Drop | None:  # noqa: ARG001
    """Drop only what stays below the leader even with AUC 1 in every fold left; the leader's hardest folds first."""
    best, worst = (float(np.where(evidence.done[row], evidence.auc[row], rest).mean()) for rest in (1, 0))
    mean = float(evidence.auc[leader].mean())
    if best > mean + 1e-12 or (best > mean - 1e-12 and row < leader):
        return None
    return Drop(row, leader, best - mean, worst - mean, best - mean, "best case of all folds")


def wilcoxon(evidence: Evidence, leader: int, row: int, alpha: float) -> Drop | None:
    """Optuna's WilcoxonPruner: a one-sided signed-rank test over the folds that both have, two at least."""
    difference = (evidence.auc[row] - evidence.auc[leader])[evidence.done[row]]
    above = np.nanmean(evidence.auc[row]) >= evidence.auc[leader].mean()
    if above or len(difference) < 2 or not difference.any():
        return None
    p = _signed_rank_p(tuple(difference))
    error = difference.std(ddof=1) / np.sqrt(len(difference))
    return _drop(row, leader, difference.mean(), error, f"signed-rank test, p = {p:.3f}") if p < alpha else None


@lru_cache(maxsize=10_000)
def _signed_rank_p(difference: tuple[float, ...]) -> float:
    """Slow, and asked again at every decision."""
    return float(signed_rank_test(difference, alternative="less", zero_method="zsplit").pvalue)


def forgiving(evidence: Evidence, leader: int, row: int, alpha: float) -> Drop | None:  # noqa: ARG001
    """Drop what on average is below the leader's worst fold (Bergman et al. 2024, arXiv 2405.03389)."""
    gap = np.nanmean(evidence.auc[row]) - evidence.auc[leader].min()
    return _drop(row, leader, gap, 0.0, "mean below the leader's worst fold") if gap < 0 else None


def none(evidence: Evidence, alpha: float) -> Verdict:  # noqa: ARG001
    """Every configuration gets all folds, one configuration after the other."""
    rows, columns = evidence.auc.shape
    return Verdict([], -np.arange(rows, dtype=float), np.arange(columns))


def against_leader(rule: Rule, evidence: Evidence, alpha: float) -> Verdict:
    """One configuration after the other gets its folds; once one is complete, the rule judges all begun ones by it.

    Beside a fold under way another configuration's comes first: what is dropped soon should not have ten at once.
    """
    verdict, leader = replace(none(evidence, alpha), spread=float(len(evidence.auc))), evidence.leader
    if leader is None:
        return verdict
    begun = evidence.alive & evidence.done.any(axis=1) & ~evidence.done.all(axis=1)
    drops = [rule(evidence, leader, int(row), alpha) for row in np.flatnonzero(begun)]
    folds = np.argsort(evidence.auc[leader], kind="stable") if rule is lossless else verdict.folds
    return replace(verdict, drops=[drop for drop in drops if drop], folds=folds)


def halving(evidence: Evidence, alpha: float) -> Verdict:  # noqa: ARG001
    """Successive halving over folds, 2 of ten, 5, all: each rung keeps the share that evens out the rungs' folds."""
    rows, folds = evidence.auc.shape
    done, alive, drops = evidence.done.sum(axis=1), evidence.alive, []
    rungs = [max(1, round(share * folds)) for share in (0.2, 0.5, 1.0)]
    for rung, following in pairwise(rungs):
        keep = max(1, round(rows * rungs[0] / following))
        if evidence.last and evidence.done[alive, :rung].all() and alive.sum() > keep:
            mean = np.where(alive, np.nan_to_num(evidence.auc[:, :rung].mean(axis=1)), -1)
            first, *others = (int(row) for row in np.argsort(-mean, kind="stable")[: alive.sum()])
            why = f"not among the best {keep} after {rung} folds"
            out = [row for row in others[keep - 1 :] if not evidence.complete[row]]
            drops = [_drop(row, first, mean[row] - mean[first], 0.0, why) for row in out]
            break
    return Verdict(drops, -done - np.arange(rows) / rows, np.arange(folds), spread=1.0)


def posterior(evidence: Evidence, alpha: float) -> Verdict:
    """Drop what has, all together, a probability below alpha of ending above the leader.

    The probability is that of `chance_above` by `predicted_means` of what `without_known_luck` leaves of the AUCs, with
    no less variance than half of what patients alone make of that: near-duplicates say little of how others vary.
    `alpha` bounds the chance that the sweep loses the winner of the full comparison. The next fold goes to the
    configuration that most probably is the best one, and is the leader's hardest: what is left is then bounded best,
    and varies least. EARLY_SHARE of alpha is spent on the way, since what is dropped cannot come back; the rest when no
    configuration is to come.
    """
    prediction, folds = _prediction(evidence), np.arange(evidence.auc.shape[1])
    if evidence.leader is not None:
        folds = np.argsort(evidence.auc[evidence.leader], kind="stable")
    leader = int(np.argmax(np.where(evidence.alive & evidence.done.any(axis=1), prediction[0], -1)))
    difference, error = differences(prediction, leader)
    error *= CAUTION * (1 + 1 / np.maximum(evidence.done.sum(axis=1), 1))
    if not evidence.complete[leader]:
        # All folds of one that is likely to lead are worth more than any other's: nothing is dropped before.
        above = np.where(evidence.complete, 0.0, ndtr(difference / error))
        above[leader] = 1e3
        return Verdict([], np.where(evidence.out, 0.0, above), folds)
    above = chance_above(float(evidence.auc[leader].mean()), evidence.auc, prediction[0], error)
    above, enough = np.where(evidence.out, 0.0, above), alpha if evidence.last else 0.0
    rows = np.argsort(above, kind="stable")
    rows = rows[np.isnan(evidence.auc[rows]).any(axis=1)]
    sure = evidence.alive[rows] & evidence.done[rows].any(axis=1)
    sure &= (above.sum() <= enough) | (np.cumsum(above[rows]) <= alpha * EARLY_SHARE)
    drops = [_drop(row, leader, difference[row], error[row], _chance(above[row])) for row in rows[sure]]
    return Verdict(drops, above, folds, enough)


def _prediction(evidence: Evidence) -> tuple[Array, Array, Array]:
    """Without known luck, and with at least half the variance by patients, which is drawn towards the mean of all."""
    auc, variance = without_known_luck(evidence.auc, evidence.influence, evidence.fold)
    folds = evidence.done.sum(axis=1)
    squares = np.nan_to_num(variance) * folds
    typical = squares.sum() / max(folds.sum(), 1)
    return predicted_means(auc, (squares + 2 * typical) / (folds + 2) / 2)


def _chance(above: float) -> str:
    return f"chance to win {above:.2g}" if above else "no chance, as no AUC exceeds 1 in the folds left"


def hopeless_below(curves: Sequence[Array], epochs: int) -> tuple[float, ...]:
    """By epoch the inner AUC that a fold's training must have reached, else it ends as hopeless.

    Below it, even the largest gain that a finished training of this fold still made after that epoch would leave it
    under all of them. () for fewer than FEWEST_CURVES.

    Args:
        curves: of finished trainings of one fold, inner AUC by epoch; those that stopped early are shorter.
        epochs: how many pass before any training is judged.
    """
    if len(curves) < FEWEST_CURVES:
        return ()
    longest = max(map(len, curves))
    reached = np.stack([np.maximum.accumulate(np.pad(one, (0, longest - len(one)), mode="edge")) for one in curves])
    least = reached[:, -1].min() - (reached[:, -1:] - reached).max(axis=0)
    least[: epochs - 1] = -np.inf
    return tuple(least.tolist())


def expected_improvement(evidence: Evidence) -> float:
    """Of one more configuration drawn like those so far, over the best complete one, in mean of folds' AUCs.

    By predicted_means and a normal distribution (Jones et al. 1998, doi 10.1023/A:1008306431147, eq. 15); infinite
    while no configuration is complete or fewer than FEWEST_CONFIGURATIONS have a fold.
    """
    leader = evidence.leader
    if leader is None or evidence.done.any(axis=1).sum() < FEWEST_CONFIGURATIONS:
        return float("inf")
    another = np.full((1, evidence.auc.shape[1]), np.nan)
    difference, error = (each[-1] for each in differences(predicted_means(np.vstack([evidence.auc, another])), leader))
    density = np.exp(-((difference / error) ** 2) / 2) / np.sqrt(2 * np.pi)
    return float(difference * ndtr(difference / error) + error * density)


def out_of_budget(evidence: Evidence, why: str) -> Verdict:
    """Only one configuration gets folds yet, so that one is complete; all others without all folds are dropped."""
    value, folds = np.full(len(evidence.auc), -np.inf), np.arange(evidence.auc.shape[1])
    if not evidence.done.any():
        return Verdict([], value, folds)
    prediction, leader = predicted_means(evidence.auc), evidence.leader
    if leader is None:  # the most folds, of equals the highest prediction
        leader = int(np.argmax(np.where(evidence.alive, evidence.done.sum(axis=1) + prediction[0] / 2, -1)))
    difference, error = differences(prediction, leader)
    value[leader] = 1
    rows = np.flatnonzero(evidence.alive & ~evidence.complete & (value < 0))
    drops = [_drop(int(row), leader, difference[row], error[row], why)._replace(risked=False) for row in rows]
    return Verdict(drops, value, folds)


def _paired_variance(evidence: Evidence, reference: int, row: int) -> Array:
    """(K,): DeLong's variance of each fold's paired difference to `reference`, where both have the fold."""
    squares = (evidence.influence[row] - evidence.influence[reference]) ** 2
    return np.asarray(squares @ (evidence.fold[:, None] == np.arange(evidence.auc.shape[1])))


STRATEGIES: Mapping[str, Strategy] = {
    "none": none,
    "posterior": posterior,
    "halving": halving,
    **{rule.__name__: partial(against_leader, rule) for rule in (paired, lossless, wilcoxon, forgiving)},
}


def _drop(row: int, against: int, difference: float, error: float, why: str) -> Drop:
    half, difference = float(ndtri(0.975) * error), float(difference)
    return Drop(int(row), against, difference, difference - half, difference + half, why)
