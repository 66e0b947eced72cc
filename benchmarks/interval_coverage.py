"""How often 95 % intervals of the mean of folds' AUCs hold the truth.

    python benchmarks/interval_coverage.py [REPETITIONS]

Binormal scores, ten folds, 2.8 benign patients for each malignant one; half a patient is one more in every other fold.
"""

import sys

import numpy as np
from scipy.stats import norm

from sweep.patient_metrics import FoldMean, mean_of_folds

MALIGNANT_PER_FOLD = (1.5, 2, 2.5, 3, 5, 8)


def draw(random: np.random.Generator, true_auc: float, malignant: float) -> FoldMean:
    """One simulated cross-validation."""
    sizes = [int(malignant) if fold % 2 else int(np.ceil(malignant)) for fold in range(10)]
    benign = int(2.8 * malignant)
    label = np.concatenate([[1] * size + [0] * benign for size in sizes])
    fold = np.repeat(np.arange(10), [size + benign for size in sizes])
    score = random.normal(size=len(label)) + np.sqrt(2) * norm.ppf(true_auc) * label
    return mean_of_folds(label, score, fold)


def main(repetitions: int) -> None:
    print("| true AUC | malignant a fold | influence curve (LeDell) | ours |\n|---|---|---|---|")
    random = np.random.default_rng(1)
    for true_auc in (0.5, 0.75, 0.85, 0.93):
        for malignant in MALIGNANT_PER_FOLD:
            found = [draw(random, true_auc, malignant) for _ in range(repetitions)]
            curve = np.mean([folds.influence_curve.low <= true_auc <= folds.influence_curve.high for folds in found])
            ours = np.mean([folds.low <= true_auc <= folds.high for folds in found])
            print(f"| {true_auc} | {malignant} | {curve:.1%} | {ours:.1%} |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
