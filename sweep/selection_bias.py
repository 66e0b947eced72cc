"""How good is the best of many configurations really? The winner's luck, taken out by bootstrap.

Bootstrap bias corrected cross-validation (BBC-CV): Tsamardinos, Greasidou & Borboudakis 2018, doi
10.1007/s10994-018-5714-4, with an own answer to races. Everywhere `label` (N,), `fold` (N,) and `score` (C, N) are of
sweep.patient_metrics, a row of `score` per configuration. The criterion that selects and the one that scores are the
same: the mean of the folds' AUCs, or the pooled AUC where all patients are given one fold.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweep.patient_metrics import Array, Estimate

DRAWS = 100  # times that resamples without a score are drawn again
# Weight of "no better than the others" against folds done; 1, 2, 5 and 10 were tried in simulated races.
PRIOR_FOLDS = 2.0
ROUNDS = 15  # of the two-way fit


@dataclass(frozen=True)
class SelectedBest:
    """`naive` is the criterion of row `winner`, the best, `corrected` BBC-CV's estimate with its percentile interval.

    `wins` (C,) is the share of resamples that each configuration won: how sure the choice is. `resampled` are the
    (resamples,) scores behind `corrected`: paired with those of other configurations on the same folds and seed.
    """

    winner: int
    naive: float
    corrected: Estimate
    wins: Array
    resampled: Array


def bbc_cv(label: Array, score: Array, fold: Array, resamples: int = 1000, seed: int = 0) -> SelectedBest:
    """Select in every resample of the patients, score the selected on the patients left out; the mean is the estimate.

    Selection sees the patients drawn, with their multiplicity; of equals the first configuration wins. A resample
    scores about 37 % of the patients, so the interval errs on the wide side; it has 63 % of them to choose by, so the
    estimate errs on the low side where configurations differ much.

    A configuration whose scores are nan in some folds was dropped by a race. It is not `winner`, but it competes in
    the resamples, its folds filled by fill_dropped_folds: another draw of the patients might have kept it, and left
    out, the patients that were kind to the survivors would flatter their figure (docs/decisions.md).

    ValueError without a complete configuration, or where hardly any resample leaves both classes in a fold.
    """
    complete: Array = np.logical_not(np.isnan(score).any(axis=1))
    if not complete.any():
        raise ValueError("no configuration has all folds: finish one before its selection can be corrected")
    naive = np.where(complete, _criteria(label, score, fold, np.ones((len(label), 1)))[:, 0], -np.inf)
    drawn = draw_patients(label, fold, resamples, seed)
    selected = np.argmax(_criteria(label, score, fold, drawn), axis=0)
    outside = np.empty(resamples)
    if complete.all():
        for winner in np.unique(selected):
            won = selected == winner
            outside[won] = weighted_fold_means(label, score[winner], fold, drawn[:, won] == 0)
    else:
        outside = _criteria(label, score, fold, drawn == 0)[selected, np.arange(resamples)]
    wins = np.bincount(selected, minlength=len(score)) / resamples
    best = int(naive.argmax())
    return SelectedBest(best, float(naive[best]), percentile_estimate(outside), wins, outside)


def fill_dropped_folds(auc: Array) -> Array:
    """(C, K, B) AUCs of configurations, folds and samples with nan for folds not done -> the same without these.

    Filled with fold effect + configuration effect of a two-way additive model, fitted by turns. What the race saw is
    all that decided what is missing, so the fit may ignore the race; but few folds say little, so a configuration's
    effect after n folds is shrunk by n / (n + PRIOR_FOLDS). A fold that is nan everywhere in a sample stays nan.
    """
    done = ~np.isnan(auc)
    known, folds_done, done_by = np.where(done, auc, 0.0), done.sum(axis=1), np.maximum(done.sum(axis=0), 1)
    own = np.zeros(folds_done.shape)
    for _ in range(ROUNDS):
        of_fold = (known - done * own[:, None]).sum(axis=0) / done_by
        own = (known - done * of_fold).sum(axis=1) / (folds_done + PRIOR_FOLDS)
    filled: Array = np.where(done, auc, np.where(done.any(axis=0), of_fold, np.nan) + own[:, None])
    return filled


def percentile_estimate(values: Array) -> Estimate:
    """Mean of the resamples' figures, and the percentiles that hold the middle 95 % of them."""
    low, high = np.quantile(values, [0.025, 0.975])
    return Estimate(float(values.mean()), float(low), float(high))


def draw_patients(label: Array, fold: Array, resamples: int, seed: int) -> Array:
    """How often each patient stands in each bootstrap sample, (N, resamples); zero: left out.

    Patients are drawn as in the paper, N of N with replacement, without strata. Resamples whose patients drawn or
    left out have no fold with both classes have no score, and are drawn again; ValueError where that hardly helps.
    """
    random, kept, missing = np.random.default_rng(seed), [], resamples
    nothing = np.zeros(len(label))
    for _ in range(DRAWS):
        drawn = random.multinomial(len(label), np.full(len(label), 1 / len(label)), size=missing).T.astype(float)
        both = [weighted_fold_means(label, nothing, fold, weight) for weight in (drawn, drawn == 0)]
        kept.append(drawn[:, ~np.isnan(both).any(axis=0)])
        missing -= kept[-1].shape[1]
        if not missing:
            return np.concatenate(kept, axis=1)
    raise ValueError(
        f"{int(label.sum())} malignant and {int((1 - label).sum())} benign patients are too few for a bootstrap: "
        f"{resamples - missing} of {resamples} resamples had both classes in a fold, drawn and left out"
    )


def _criteria(label: Array, score: Array, fold: Array, weight: Array) -> Array:
    """(C, resamples): every configuration's mean of the folds' AUCs, dropped folds filled."""
    aucs = np.stack([weighted_fold_aucs(label, row, fold, weight) for row in score])
    return _mean(fill_dropped_folds(aucs) if np.isnan(score).any() else aucs, axis=1)


def weighted_fold_means(label: Array, score: Array, fold: Array, weight: Array) -> Array:
    """Mean of the folds' AUCs in samples that hold patient i weight[i, b] times: (N, B) -> (B,).

    With all weights 1 it is patient_metrics.mean_of_folds. A fold with one class in the sample has no part in it.
    """
    return _mean(weighted_fold_aucs(label, score, fold, weight), axis=0)


def _mean(aucs: Array, axis: int) -> Array:
    """Of those that are not nan; nan where all are."""
    known = ~np.isnan(aucs)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, aucs, 0.0).sum(axis) / known.sum(axis))


def weighted_fold_aucs(label: Array, score: Array, fold: Array, weight: Array) -> Array:
    """AUC of every fold, in the order of their numbers, in samples as above: (N, B) -> (K, B). Ties count a half.

    nan for a fold with one class in the sample or a score that is nan. Running sums of the benign weights, in order of
    fold and score, give the benign patients below every malignant one: O(N log N + N B), and exact, since all sums are
    of whole numbers.
    """
    folds, fold = np.unique(fold, return_inverse=True)
    key = fold * len(score) + np.unique(score, return_inverse=True)[1]  # orders by fold, then score; ties share it
    malignant, benign = (np.flatnonzero(label == kind)[np.argsort(key[label == kind])] for kind in (1, 0))
    running = np.concatenate([np.zeros((1, weight.shape[1])), np.cumsum(weight[benign], axis=0)])

    def benign_before(keys: Array, side: Literal["left", "right"] = "left") -> Array:
        return running[np.searchsorted(key[benign], keys, side)]

    below = (benign_before(key[malignant]) + benign_before(key[malignant], "right")) / 2
    below -= benign_before(fold[malignant] * len(score))
    numbers, starts = np.unique(fold[malignant], return_index=True)
    ranked_right = np.add.reduceat(weight[malignant] * below, starts, axis=0)
    benign_of_fold = benign_before((numbers + 1) * len(score)) - benign_before(numbers * len(score))
    pairs = np.add.reduceat(weight[malignant], starts, axis=0, dtype=float) * benign_of_fold
    aucs = np.full((len(folds), weight.shape[1]), np.nan)
    aucs[numbers] = np.divide(ranked_right, pairs, out=np.full(pairs.shape, np.nan), where=pairs > 0)
    aucs[fold[np.isnan(score)]] = np.nan
    return aucs
