"""Which models to average? All subsets, a greedy search, or simply all; each beside what its selection flatters it by.

Everywhere `label` (N,) and `fold` (N,) are those of sweep.patient_metrics, and `probability` (n, N) holds the
out-of-fold probabilities of n models. An ensemble averages them, and is judged by the mean of the folds' AUCs, or the
pooled AUC where all patients are given one fold. A set of models is a bit mask: bit i of m is set if it holds model i.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

from sweep.patient_metrics import Array, Estimate, folds_with_both_classes
from sweep.selection_bias import bbc_cv, draw_patients, percentile_estimate

MOST_MODELS = 24  # 16 million subsets: half a minute
MOST_CORRECTED = 12  # models whose subsets are all searched in every resample: 4095 subsets, ten seconds
MOST_GREEDY = 50_000  # models times patients for which the greedy search is repeated in every resample
ROUNDS = 25  # of the greedy search


@dataclass(frozen=True)
class Ensemble:
    """Its models (one drawn twice weighs double), its AUC, and the AUC corrected for the selection by bootstrap.

    `corrected` is nan where the search is too large to be repeated in every resample.
    """

    models: tuple[int, ...]
    auc: float
    corrected: Estimate


def compare_ensembles(
    label: Array, probability: Array, fold: Array, resamples: int = 1000, seed: int = 0
) -> dict[str, Ensemble]:
    """The best single model, the average of all, the best subset of up to MOST_CORRECTED models, the greedy choice.

    In the same resamples. The average of all selects nothing, and often truly beats the selected: read them beside it.
    """
    models, average = range(len(probability)), probability.mean(axis=0, keepdims=True)
    single = bbc_cv(label, probability, fold, resamples, seed)
    everything = bbc_cv(label, average, fold, resamples, seed)
    found = {
        "best model": Ensemble((single.winner,), single.naive, single.corrected),
        "average of all": Ensemble(tuple(models), everything.naive, everything.corrected),
    }
    if len(probability) <= MOST_CORRECTED:
        found["best subset"] = best_subset(label, probability, fold, resamples, seed)
    return found | {"greedy": greedy_ensemble(label, probability, fold, resamples, seed)}


def best_subset(label: Array, probability: Array, fold: Array, resamples: int = 1000, seed: int = 0) -> Ensemble:
    """The best of all 2^n - 1 subsets; of equals the first mask. Corrected by BBC-CV up to MOST_CORRECTED models."""
    aucs = subset_aucs(label, probability, fold)
    corrected = Estimate()
    if len(probability) <= MOST_CORRECTED:
        sizes = np.bitwise_count(np.arange(1, len(aucs) + 1))
        averages = _subset_sums(probability)[1:] / sizes[:, None]
        corrected = bbc_cv(label, averages, fold, resamples, seed).corrected
    return Ensemble(members(int(aucs.argmax()) + 1), float(aucs.max()), corrected)


def members(subset: int) -> tuple[int, ...]:
    """Models of a bit mask."""
    return tuple(model for model in range(subset.bit_length()) if subset >> model & 1)


def subset_aucs(label: Array, probability: Array, fold: Array) -> Array:
    """AUC of every subset's average, (2^n - 1,): entry m - 1 is that of mask m. ValueError beyond MOST_MODELS."""
    if len(probability) > MOST_MODELS:
        raise ValueError(f"{len(probability)} models have too many subsets: search greedily, or give {MOST_MODELS}")
    half = len(probability) // 2
    lower, upper = _subset_sums(probability[:half]), _subset_sums(probability[half:])
    return np.concatenate([row_aucs(label, lower + others, fold) for others in upper])[1:]


def _subset_sums(probability: Array) -> Array:
    """Sums over the models of every mask, (2^n, N). Added one by one, so that equal patients stay equal."""
    sums = np.zeros((1, probability.shape[1]))
    for row in probability:
        sums = np.concatenate([sums, sums + row])
    return sums


def row_aucs(label: Array, score: Array, fold: Array) -> Array:
    """Mean of the folds' AUCs of every row, (S, N) -> (S,), by Mann-Whitney's U; nan where no fold has both classes.

    ValueError on nan or a negative score.
    """
    if not (score >= 0).all():
        raise ValueError("ensembles average probabilities: give numbers from 0 to 1 for every patient and model")
    aucs = []
    for inside in folds_with_both_classes(label, fold):
        malignant, ranks = label[inside] == 1, rankdata(score[:, inside], axis=1)
        m, n = int(malignant.sum()), int((~malignant).sum())
        aucs.append((ranks[:, malignant].sum(axis=1) - m * (m + 1) / 2) / (m * n))
    return np.mean(aucs, axis=0) if aucs else np.full(len(score), np.nan)


def greedy_ensemble(label: Array, probability: Array, fold: Array, resamples: int = 1000, seed: int = 0) -> Ensemble:
    """Greedy selection with replacement, corrected by repeating it in every resample, up to MOST_GREEDY."""
    models = greedy_models(label, probability, fold)
    auc = float(row_aucs(label, probability[list(models)].mean(axis=0, keepdims=True), fold)[0])
    if probability.size > MOST_GREEDY:
        return Ensemble(models, auc, Estimate())
    estimates = []
    for count in draw_patients(label, fold, resamples, seed).T.astype(int):
        drawn, left_out = np.repeat(np.arange(len(label)), count), count == 0
        chosen = list(greedy_models(label[drawn], probability[:, drawn], fold[drawn]))
        average = probability[chosen][:, left_out].mean(axis=0, keepdims=True)
        estimates.append(float(row_aucs(label[left_out], average, fold[left_out])[0]))
    return Ensemble(models, auc, percentile_estimate(np.array(estimates)))


def greedy_models(label: Array, probability: Array, fold: Array) -> tuple[int, ...]:
    """Add the model that helps the average most, ROUNDS times; the best of the ensembles met (Caruana et al. 2004,
    doi 10.1145/1015330.1015432, with replacement). Of equals the first model and the smallest ensemble.
    """
    chosen: list[int] = []
    aucs: list[float] = []
    total = np.zeros(len(label))
    for _ in range(ROUNDS):
        candidates = row_aucs(label, total + probability, fold)
        chosen.append(int(candidates.argmax()))
        aucs.append(float(candidates.max()))
        total = total + probability[chosen[-1]]
    return tuple(chosen[: int(np.argmax(aucs)) + 1])
