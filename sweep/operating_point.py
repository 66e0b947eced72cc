"""Where to call a patient malignant, and every measure of the calls with its interval."""

import numpy as np
from scipy.special import ndtri
from scipy.stats.contingency import relative_risk

from sweep.patient_metrics import NAN, Array, Estimate, roc_points, wilson

SAME = 1e-9  # rates closer than this are equal but for rounding


def choose_threshold(label: Array, score: Array, sensitivity: float | None = None) -> float:
    """The threshold of highest sensitivity + specificity (Youden 1950), or the highest that keeps `sensitivity`.

    For the inner validation patients of a fold, (N,) each; chosen on the patients it is then scored on it flatters.
    It lies midway between two scores, as pROC's, so that it favours neither side; where all shall be called it is
    the lowest score. Of equal ones it is the lowest: a missed malignancy weighs more. nan with one class only,
    which calls nobody: take patient_metrics.THRESHOLD instead.
    """
    if len(np.unique(label)) < 2:
        return NAN
    scores = np.unique(score)[::-1]
    thresholds = np.r_[(scores[:-1] + scores[1:]) / 2, scores[-1]]
    false_positive, true_positive = (rate[1:] for rate in roc_points(label, score))
    if sensitivity is not None:
        return float(thresholds[np.argmax(true_positive >= sensitivity - SAME)])
    youden = true_positive - false_positive
    return float(thresholds[np.flatnonzero(youden >= youden.max() - SAME)[-1]])


def measures(tp: int, tn: int, fp: int, fn: int) -> dict[str, Estimate]:
    """Every measure of a table of calls with its 95 % interval; nan where it is 0/0, as ppv if nobody is called.

    Sensitivity, specificity, accuracy, ppv, npv: Wilson. f1: Wilson's interval of F* = TP/(TP+FP+FN), by
    F1 = 2 F*/(1 + F*) (Hand et al. 2021, doi 10.1007/s10994-021-05964-1). mcc: delta method on Fisher's z.
    Likelihood ratios: Katz's log interval (Simel et al. 1991, doi 10.1016/0895-4356(91)90128-V), none beside an
    empty cell. ppv, npv, f1 and mcc belong to the malignant share of these patients, the others to any.
    """
    overlap = wilson(tp, tp + fp + fn)
    f1 = Estimate(*(2 * share / (1 + share) for share in (overlap.value, overlap.low, overlap.high)))
    return {
        "sensitivity": wilson(tp, tp + fn),
        "specificity": wilson(tn, tn + fp),
        "accuracy": wilson(tp + tn, tp + tn + fp + fn),
        "ppv": wilson(tp, tp + fp),
        "npv": wilson(tn, tn + fn),
        "f1": f1,
        "mcc": _matthews(tp, tn, fp, fn),
        "likelihood_ratio_positive": _likelihood_ratio(tp, tp + fn, fp, fp + tn),
        "likelihood_ratio_negative": _likelihood_ratio(fn, tp + fn, tn, fp + tn),
    }


def _likelihood_ratio(malignant: int, all_malignant: int, benign: int, all_benign: int) -> Estimate:
    if not (all_malignant and all_benign):
        return Estimate()
    ratio = relative_risk(malignant, all_malignant, benign, all_benign)
    low, high = ratio.confidence_interval()
    value = float(ratio.relative_risk)
    return Estimate(value, float(low), float(high)) if 0 < low < high < np.inf else Estimate(value)


def _matthews(tp: int, tn: int, fp: int, fn: int) -> Estimate:
    """Phi of the fourfold table; its variance with multinomial counts by Bishop, Fienberg & Holland 1975, ch. 11."""
    total = tp + tn + fp + fn
    label, call = ((tp + fn, tn + fp), (tp + fp, tn + fn))
    scale = np.sqrt(float(label[0] * label[1]) * float(call[0] * call[1]))
    if not scale > 0:
        return Estimate()
    phi = (tp * tn - fp * fn) / scale
    a, b = ((of[0] - of[1]) / np.sqrt(of[0] * of[1]) for of in (label, call))
    variance = (1 - phi**2 + phi * (1 + phi**2 / 2) * a * b - 0.75 * phi**2 * (a**2 + b**2)) / total
    if not (abs(phi) < 1 and variance > 0):
        return Estimate(float(phi))
    half = ndtri(0.975) * np.sqrt(variance) / (1 - phi**2)
    return Estimate(float(phi), float(np.tanh(np.arctanh(phi) - half)), float(np.tanh(np.arctanh(phi) + half)))
