"""Do the probabilities mean what they say? Brier score, calibration curve and error, Cox's slope and intercept.

Everywhere `label` is (N,) with 1 = malignant and 0 = benign, `probability` is (N,) of malignancy in 0 to 1.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.optimize import minimize
from scipy.special import expit, logit, ndtri

from sweep.patient_metrics import Array, Estimate, wilson

SATURATED = 1e-6  # probabilities of 0 and 1 have no logit: they count as this far from it


@dataclass(frozen=True)
class Calibration:
    """Ideal: intercept 0, slope 1. Intercept below 0: probabilities too high; slope below 1: too extreme."""

    intercept: Estimate
    slope: Estimate


def brier_score(label: Array, probability: Array) -> float:
    """Mean squared error of the probabilities (Brier 1950): 0 is perfect, saying the prevalence q gets q(1-q)."""
    return float(np.mean((probability - label) ** 2))


def calibration_curve(label: Array, probability: Array, bins: int = 10) -> pd.DataFrame:
    """A row per bin that holds patients: low, high, patients, mean_probability, observed, observed_low, observed_high.

    Bins of equal width; a probability on an edge belongs to the lower one. `observed` is the malignant share, with
    Wilson's interval.
    """
    edges = np.linspace(0, 1, bins + 1)
    bin_of = np.searchsorted(edges[1:-1], probability)
    rows = []
    for number in np.unique(bin_of):
        inside = bin_of == number
        observed = wilson(int(label[inside].sum()), int(inside.sum()))
        bounds = {"low": edges[number], "high": edges[number + 1], "patients": int(inside.sum())}
        shares = {"observed": observed.value, "observed_low": observed.low, "observed_high": observed.high}
        rows.append(bounds | {"mean_probability": probability[inside].mean()} | shares)
    return pd.DataFrame(rows)


def expected_calibration_error(label: Array, probability: Array, bins: int = 10) -> float:
    """Mean distance of probability and malignant share over bins of equal width, weighted by their patients.

    Naeini et al. 2015 (doi 10.1609/aaai.v29i1.9602). Not zero for perfect probabilities: few patients a bin and
    many bins raise it, so compare it only between models on the same patients.
    """
    curve = calibration_curve(label, probability, bins)
    return float(np.average(abs(curve["mean_probability"] - curve["observed"]), weights=curve["patients"]))


def calibration(label: Array, probability: Array) -> Calibration:
    """Logistic recalibration (Cox 1958; Van Calster et al. 2019, doi 10.1186/s12916-019-1466-7) with Wald's intervals.

    Intercept a of logit P(malignant) = a + logit(p), slope b of logit P(malignant) = a' + b logit(p), by maximum
    likelihood. Neither exists with one class; the slope also not where the classes are separated or p constant.
    """
    if len(np.unique(label)) < 2:
        return Calibration(Estimate(), Estimate())
    x = logit(np.clip(probability, SATURATED, 1 - SATURATED))
    ones = np.ones((len(x), 1))
    intercept = _last_coefficient(label, ones, x)
    benign, malignant = x[label == 0], x[label == 1]
    if benign.max() <= malignant.min() or malignant.max() <= benign.min():
        return Calibration(intercept, Estimate())
    return Calibration(intercept, _last_coefficient(label, np.c_[ones, x], np.zeros(len(x))))


def _last_coefficient(label: Array, design: Array, offset: Array) -> Estimate:
    """Of the logistic regression with the design (N, coefficients) and the offset (N,)."""

    def loss(beta: Array) -> tuple[float, Array]:
        linear = offset + design @ beta
        gradient = design.T @ (expit(linear) - label)
        return float(np.mean(np.logaddexp(0, linear) - label * linear)), gradient / len(label)

    beta = minimize(loss, np.zeros(design.shape[1]), jac=True, tol=1e-9).x
    probability = expit(offset + design @ beta)
    information = (design.T * probability * (1 - probability)) @ design
    half = ndtri(0.975) * np.sqrt(np.linalg.inv(information)[-1, -1])
    return Estimate(float(beta[-1]), float(beta[-1] - half), float(beta[-1] + half))
