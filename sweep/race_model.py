"""What a race expects of configurations that have not all their folds yet. Pure NumPy."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import betaincc

Array = NDArray[Any]
EM_STEPS = 12
# Of the complete configurations, the best ones: enough, and a decision's time does not grow with the sweep.
MOST_COMPLETE = 20


def predicted_means(auc: Array, least: Array | float = 0.0) -> tuple[Array, Array, Array]:
    """Mean over all K folds of every configuration, predicted from the folds done.

    The AUC of configuration c on fold f is t_c + b_f + e_cf, with t normal around a common mean (which shrinks towards
    it what has few folds, as James and Stein 1961 do), b the difficulty of the fold, and e normal. The variances come
    by maximum likelihood (EM, Laird and Ware 1982, doi 10.2307/2529876), which holds although who got more folds
    depends on the first ones (Rubin 1976: missing at random). Folds done are known, so they have no error.

    Args:
        auc: (C, K), nan where not done.
        least: (C,) variance that e has at least.

    Returns:
        mean (C,); factor (C, K) and own (C,), so that the errors' covariance is factor · factorᵀ + diag(own).
    """
    done = (~np.isnan(auc)).astype(float)
    known = np.nan_to_num(auc)
    count, totals, folds = done.sum(axis=1), known.sum(axis=1), auc.shape[1]
    overall = totals.sum() / done.sum()
    spread = float((done * (known - overall) ** 2).sum() / done.sum()) + 1e-6
    between = within = spread / 2
    for _ in range(EM_STEPS):
        noise = np.maximum(within, least) + np.zeros(len(auc))
        shrink = between / (noise + between * count)
        # Fold effects with t integrated out; their prior, a standard deviation of 0.1, matters to unseen folds alone.
        weight = 1 / noise
        precision = np.diag(weight @ done) - (done * (weight * shrink)[:, None]).T @ done + np.eye(folds) / 0.01
        right = weight @ known - (weight * shrink * totals) @ done + overall / 0.01
        covariance = np.linalg.inv(precision)
        effect = covariance @ right
        ability = shrink * (totals - done @ effect)
        uncertain = noise * shrink
        squares = ((known - done * (effect + ability[:, None])) ** 2).sum() + (count * uncertain).sum()
        within = max(float(squares / done.sum()), 1e-6)
        between = max(float((ability**2 + uncertain)[count > 0].mean()), 1e-6)
    left = folds - count
    mean = (totals + (1 - done) @ effect + left * ability) / folds
    own = (left**2 * uncertain + left * noise) / folds**2
    sensitivity = (1 - done - done * (shrink * left)[:, None]) / folds
    return mean, sensitivity @ np.linalg.cholesky(covariance), own


def without_known_luck(auc: Array, influence: Array, fold: Array) -> tuple[Array, Array]:
    """Folds' AUCs, less what is known of the luck of their patients from configurations that have all folds.

    Who ranks a fold's patients alike is lucky with it alike, and how far a complete configuration's AUC on a fold lies
    above its mean is known. So this is a regression estimator (Cochran, Sampling Techniques, 1977, chapter 7): the
    patients' influence on a configuration's AUC is explained by that on the complete ones' AUCs, and for each of these
    by the others', by ridge regression; with its weights the complete ones' deviations from their means are taken off.
    These sum to 0 over all folds, so a configuration's mean over all folds stays what it is.

    Args:
        auc: (C, K), nan where not done.
        influence: (C, N) of patients on the AUC of their fold, 0 where that is not done.
        fold: (N,) column of each patient's fold.

    Returns:
        What is left of the AUCs, (C, K); and of their variances by patients, (C,), nan where nothing is done.
    """
    done, columns = ~np.isnan(auc), np.arange(auc.shape[1])
    complete = np.flatnonzero(done.all(axis=1))
    complete = complete[np.argsort(-auc[complete].mean(axis=1), kind="stable")[:MOST_COMPLETE]]
    known, luck = influence[complete], auc[complete] - auc[complete].mean(axis=1, keepdims=True)
    rows_as_bytes = np.ascontiguousarray(done).view(f"S{len(columns)}")[:, 0]
    _, first, pattern = np.unique(rows_as_bytes, return_index=True, return_inverse=True)
    patterns = done[first]
    of_fold = np.stack([known[:, fold == column] @ known[:, fold == column].T for column in columns])
    gram = np.tensordot(patterns.astype(float), of_fold, 1)
    penalty = np.trace(gram, axis1=1, axis2=2) / max(len(complete), 1) + 1e-12
    inverse = np.linalg.inv(gram + penalty[:, None, None] * np.eye(len(complete)))
    cross = influence @ known.T
    weights = np.matmul(cross[:, None], inverse[pattern])[:, 0]
    whole = inverse[pattern[complete]]
    itself = np.arange(len(complete))
    weights[complete] = -whole[itself, itself] / whole[itself, itself, itself][:, None]
    weights[complete, itself] = 0.0
    patients = patterns @ np.bincount(fold, minlength=len(columns))
    used = len(complete) - penalty * np.trace(inverse, axis1=1, axis2=2)
    freedom = 1 - used / np.maximum(patients, 1)
    # gram · weights is cross - penalty · weights, as the weights solve the ridge's equations.
    explained = weights * (cross + penalty[pattern, None] * weights)
    squares = np.einsum("cn,cn->c", influence, influence) - explained.sum(axis=1)
    folds = np.where(done.any(axis=1), done.sum(axis=1), np.nan)
    return auc - weights @ luck, np.maximum(squares, 0) / freedom[pattern] ** 2 / folds


def differences(prediction: tuple[Array, Array, Array], leader: int) -> tuple[Array, Array]:
    """(C,) predicted differences to the leader and their standard errors, from predicted_means."""
    mean, factor, own = prediction
    variance = own + own[leader] + ((factor - factor[leader]) ** 2).sum(axis=1)
    return mean - mean[leader], np.sqrt(np.maximum(variance, 1e-18))


def chance_above(threshold: float, auc: Array, mean: Array, error: Array) -> Array:
    """(C,) probability that the mean over all folds ends above the threshold; 0 where no fold is left.

    The mean of the folds left has a beta distribution with the predicted moments: an AUC is at most 1, so a threshold
    that only more than that would reach has no chance, and one near it less than a normal distribution gives.

    Args:
        threshold: mean of folds' AUCs.
        auc: (C, K), nan where not done.
        mean: (C,) predicted over all K folds.
        error: (C,) standard error of that mean.
    """
    left, folds = np.isnan(auc).sum(axis=1), auc.shape[1]
    known, share = np.nansum(auc, axis=1), np.maximum(left, 1)
    needed = np.clip((folds * threshold - known) / share, 0, 1)
    expected = np.clip((folds * mean - known) / share, 0.02, 0.999)
    variance = np.clip((error * folds / share) ** 2, 1e-12, 0.9 * expected * (1 - expected))
    size = expected * (1 - expected) / variance - 1
    nothing = np.zeros(len(left))
    return np.asarray(betaincc(expected * size, (1 - expected) * size, needed, where=left > 0, out=nothing))
