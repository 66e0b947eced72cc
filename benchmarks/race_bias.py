"""How far is the corrected AUC of a race from the truth, and from that of the same sweep without a race?

    python benchmarks/race_bias.py [REPETITIONS]

Binormal scores of 50 malignant and 140 benign patients in ten folds; configurations of equal true AUC 0.85, or with a
spread. Two races: each configuration against the leader on the folds that both have, and halving after 2 and 5 folds.
The luck that all configurations share is known here, and taken off the errors.
"""

import sys
from collections.abc import Callable

import numpy as np
from scipy.special import ndtri
from scipy.stats import norm

from sweep.patient_metrics import Array, fold_placements
from sweep.selection_bias import bbc_cv

FOLDS = 10
LABEL = np.repeat([1, 0], [50, 140])
FOLD = np.concatenate([np.arange(50) % FOLDS, np.arange(140) % FOLDS])
RESAMPLES = 50


def draw(seed: int, count: int, rho: float, spread: float) -> tuple[Array, Array]:
    """Scores (C, N) and true AUCs (C,)."""
    random = np.random.default_rng(seed)
    true = np.clip(0.85 + spread * random.normal(size=count), 0.5, 0.98)
    shared, own = random.normal(size=190), random.normal(size=(count, 190))
    signal = np.sqrt(2) * norm.ppf(true)[:, None] * LABEL
    return np.sqrt(rho) * shared + np.sqrt(1 - rho) * own + signal, true


def cells(score: Array) -> tuple[Array, list[list[tuple[Array, Array]]]]:
    """AUCs (C, K), and the placements of every configuration and fold."""
    placed = [fold_placements(LABEL, row, FOLD) for row in score]
    return np.array([[malignant.mean() for malignant, _ in folds] for folds in placed]), placed


def paired(auc: Array, placed: list[list[tuple[Array, Array]]]) -> Array:
    """Folds done (C, K): dropped when the paired difference from the leader is below it with 95 % confidence."""
    done, leader = np.zeros(auc.shape, bool), -1
    for row in range(len(auc)):
        for fold in range(FOLDS):
            done[row, fold] = True
            if leader >= 0 and fold < FOLDS - 1 and _hopeless(auc, placed, row, leader, fold + 1):
                break
        if done[row].all() and (leader < 0 or auc[row].mean() > auc[leader].mean()):
            leader = row
    return done


def _hopeless(auc: Array, placed: list[list[tuple[Array, Array]]], row: int, leader: int, done: int) -> bool:
    differences = (auc[row] - auc[leader])[:done]
    pairs = zip(placed[row][:done], placed[leader][:done], strict=True)
    variance = [sum((a - b).var(ddof=1) / len(a) for a, b in zip(*both, strict=True)) for both in pairs]
    error = np.sqrt(np.mean(variance) / done * (1 - done / FOLDS))
    return bool(differences.mean() + ndtri(0.95) * error < 0)


def halving(auc: Array, _placed: list[list[tuple[Array, Array]]]) -> Array:
    done, alive = np.zeros(auc.shape, bool), np.arange(len(auc))
    for rung in (2, 5, FOLDS):
        done[alive, :rung] = True
        alive = alive[np.argsort(-auc[alive, :rung].mean(axis=1))[: len(alive) // 2]]
    return done


def errors(seed: int, race: Callable[..., Array], count: int, rho: float, spread: float) -> list[float]:
    """Of the naive figure, and of BBC-CV without a race, with the survivors alone, and with all; share trained."""
    score, true = draw(seed, count, rho, spread)
    auc, placed = cells(score)
    luck = (auc.mean(axis=1) - true).mean()
    done = race(auc, placed)
    raced = np.where(done[:, FOLD], score, np.nan)
    survivors = np.flatnonzero(done.all(axis=1))
    full, alone, everyone = (bbc_cv(LABEL, rows, FOLD, RESAMPLES, seed) for rows in (score, score[survivors], raced))
    truth = true[everyone.winner] + luck
    of_race = [estimate - truth for estimate in (everyone.naive, alone.corrected.value, everyone.corrected.value)]
    return [of_race[0], full.corrected.value - true[full.winner] - luck, *of_race[1:], done.mean()]


def main(repetitions: int) -> None:
    print("| race | of | correlation | sd of true AUC | folds trained | naive | no race | survivors | filled |")
    print("|---|---|---|---|---|---|---|---|---|")
    for count, rho, spread in ((100, 0.5, 0.0), (100, 0.5, 0.03), (100, 0.8, 0.0), (20, 0.5, 0.0)):
        for race in (paired, halving):
            found = np.array([errors(seed, race, count, rho, spread) for seed in range(repetitions)])
            means, noise = found.mean(axis=0), found.std(axis=0) / np.sqrt(repetitions)
            cells = " | ".join(f"{mean:+.4f} ± {of:.4f}" for mean, of in zip(means[:4], noise[:4], strict=True))
            print(f"| {race.__name__} | {count} | {rho} | {spread} | {means[4]:.0%} | {cells} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 40)
