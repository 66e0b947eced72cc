"""Several lesion slices a patient: from slices to patients, and intervals that know which slices belong together.

`patient` is (slices,) with the patient of each slice, of any sortable type. Order does not matter.
"""

from typing import Literal

import numpy as np

from sweep.patient_metrics import NAN, Array, Estimate, auc, interval_on_scale, placements

Rule = Literal["max", "mean", "top_mean", "noisy_or"]


def aggregate(probability: Array, patient: Array, rule: Rule = "max", top: int = 3) -> Array:
    """(slices,) probabilities -> (patients,), in the order of np.unique(patient).

    `max` is the study's rule, `top_mean` the mean of the `top` highest slices, or of all where there are fewer.
    `noisy_or` is 1 - prod(1 - p) (Pearl 1988): slices err independently, so many slices alone raise it.
    """
    _, code, count = np.unique(patient, return_inverse=True, return_counts=True)
    order, start = np.lexsort((-probability, code)), np.cumsum(count) - count
    falling = probability[order]
    if rule == "noisy_or":
        with np.errstate(divide="ignore"):
            return np.asarray(-np.expm1(np.add.reduceat(np.log1p(-falling), start)))
    kept = {"max": 1, "top_mean": top, "mean": len(code)}[rule]
    rank = np.arange(len(code)) - start[code[order]]
    return np.asarray(np.add.reduceat(np.where(rank < kept, falling, 0), start) / np.minimum(count, kept))


def clustered_variance(label: Array, score: Array, patient: Array) -> float:
    """Variance of the AUC per slice with patients as clusters: Obuchowski 1997 (doi 10.2307/2533958).

    With a patient's sums E1, E0 of (placement - AUC) over its malignant and benign slices, I1 and I0 patients
    with such slices, I in all, m and n slices: Var = I1/(I1-1) sum(E1^2)/m^2 + I0/(I0-1) sum(E0^2)/n^2 +
    2 I/(I-1) sum(E1 E0)/(mn). With one slice a patient it is DeLong's. nan with fewer than two of I1 or I0.
    """
    components, (identity, code) = placements(label, score), np.unique(patient, return_inverse=True)
    codes = code[label == 1], code[label == 0]
    clusters = [len(np.unique(of_class)) for of_class in codes]
    if min(clusters) < 2:
        return NAN
    sums = [
        np.bincount(of_class, values - values.mean(), len(identity)) / len(values)
        for of_class, values in zip(codes, components, strict=True)
    ]
    own = sum(size / (size - 1) * (total @ total) for size, total in zip(clusters, sums, strict=True))
    return float(own + 2 * len(identity) / (len(identity) - 1) * (sums[0] @ sums[1]))


def clustered_auc_interval(label: Array, score: Array, patient: Array, scale: str = "plain") -> Estimate:
    """AUC per slice with Obuchowski's interval; as patient_metrics.auc_interval, it takes all scores as one model's."""
    return interval_on_scale(auc(label, score), clustered_variance(label, score, patient), scale)
