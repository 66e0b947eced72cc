"""How good is the best of many configurations really? The winner's luck, taken out by bootstrap.

Bootstrap bias corrected cross-validation (BBC-CV) and its variant with dropping (BBCD-CV): Tsamardinos, Greasidou &
Borboudakis 2018, doi 10.1007/s10994-018-5714-4. Everywhere `label` (N,), `fold` (N,) and `score` (C, N) are those of
sweep.patient_metrics, a row of `score` per configuration. The criterion that selects and the one that scores are the
same: the mean of the folds' AUCs, or the pooled AUC where all patients are given one fold.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sweep.patient_metrics import Array, Estimate

DRAWS = 100  # times that resamples without a score are drawn again


@dataclass(frozen=True)
class SelectedBest:
    """The best configuration, its own figure, and that figure without the luck of having been selected.

    `naive` is the criterion of row `winner`, `corrected` the estimate of BBC-CV with its percentile interval, and
    `wins` (C,) the share of resamples that each configuration won: how sure the choice is. `resampled` are the
    (resamples,) scores behind `corrected`: paired with those of other configurations on the same folds and seed.
    """

    winner: int
    naive: float
    corrected: Estimate
    wins: Array
    resampled: Array


def bbc_cv(
    label: Array,
    score: Array,
    fold: Array,
    resamples: int = 1000,
    seed: int = 0,
    confidence: float = 0.95,
    survivors: Callable[[Array], Array] | None = None,
) -> SelectedBest:
    """Select in every resample of the patients, score the selected on the patients left out; the mean is the estimate.

    Selection sees the patients drawn, with their multiplicity; of equals the first configuration wins. The interval
    holds the middle `confidence` of the resamples' scores. A resample scores about 37 % of the patients, so the
    interval errs on the wide side; the estimate errs on the low side where configurations differ much, since a
    resample has 63 % of the patients to choose by.

    A configuration with nan, dropped before all folds were done, cannot win, as in the sweep and in BBCD-CV.
    `survivors` replays the rule that dropped it: given how often each patient was drawn, (N, resamples), it returns
    which configurations outlive the race in each resample, (C, resamples) of bool; where no complete one does, all of
    them compete. What a resample would have kept and the race dropped stays unseen, and the race saw the patients left
    out: one that drops on weak evidence leaves optimism in. Halving 100 equal configurations over 2, 5 and 10 folds
    left half of it in simulation, dropping one half after three folds a tenth, dropping none nothing.

    ValueError without a complete configuration, or where hardly any resample leaves both classes in a fold.
    """
    complete: Array = np.logical_not(np.any(np.isnan(score), axis=1))
    if not complete.any():
        raise ValueError("no configuration has all folds: finish one before its selection can be corrected")
    everyone = np.ones((len(label), 1))
    naive = _criteria(label, score, fold, everyone, complete)[:, 0]
    drawn = draw_patients(label, fold, resamples, seed)
    inside = _criteria(label, score, fold, drawn, complete)
    alive = complete[:, None] & (True if survivors is None else survivors(drawn))
    selected = np.argmax(np.where(alive | ~alive.any(axis=0), inside, -np.inf), axis=0)
    outside = np.empty(resamples)
    for winner in np.unique(selected):
        won = selected == winner
        outside[won] = weighted_fold_means(label, score[winner], fold, drawn[:, won] == 0)
    wins = np.bincount(selected, minlength=len(score)) / resamples
    return SelectedBest(
        int(naive.argmax()), float(naive.max()), percentile_estimate(outside, confidence), wins, outside
    )


def percentile_estimate(values: Array, confidence: float = 0.95) -> Estimate:
    """Mean of the resamples' figures, and the percentiles that hold the middle `confidence` of them."""
    low, high = np.quantile(values, [(1 - confidence) / 2, (1 + confidence) / 2])
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


def _criteria(label: Array, score: Array, fold: Array, weight: Array, complete: Array) -> Array:
    """(C, resamples); those of incomplete configurations are minus infinity."""
    criteria = np.full((len(score), weight.shape[1]), -np.inf)
    for number in np.flatnonzero(complete):
        criteria[number] = weighted_fold_means(label, score[number], fold, weight)
    return criteria


def weighted_fold_means(label: Array, score: Array, fold: Array, weight: Array) -> Array:
    """Mean of the folds' AUCs in samples that hold patient i weight[i, b] times: (N, B) -> (B,). Ties count a half.

    With all weights 1 it is patient_metrics.mean_of_folds: a fold with one class in the sample has no part in the
    mean; nan where all are so. Running sums of the benign weights, in order of fold and score, give the benign
    patients below every malignant one: O(N log N + N B), and exact, since all sums are of whole numbers.
    """
    fold = np.unique(fold, return_inverse=True)[1]
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
    with np.errstate(invalid="ignore"):
        sums = np.where(pairs > 0, ranked_right / pairs, 0.0).sum(axis=0)
        means: Array = sums / (pairs > 0).sum(axis=0)
    return means
