"""The report of nested cross-validation, other splits and permuted labels: their figures, and what is missing."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from sweep.patient_metrics import mean_of_folds
from sweep.predictions import arrays
from sweep.report.tables import read_run
from tests.run_folders import RANGES, write_run
from tests.test_report import at, report


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Outer folds that chose configurations 1 and 3 in turn, two repeats of two configurations, nine permutations."""
    run = write_run(tmp_path / "demo")
    tables = read_run(run)
    chosen = pd.concat([tables.patients_of(1 if fold % 2 else 3).query(f"fold == {fold}") for fold in range(10)])
    chosen.drop(columns=["outcome", "call"]).assign(threshold=0.4).to_csv(run / "nested_patients.csv", index=False)
    values = {name: low for name, (low, _, _) in RANGES.items()}
    folds = [{"fold": f, "configuration": f % 2, "candidates": 4, "inner_auc": 0.9, "auc": 0.8} for f in range(10)]
    pd.DataFrame([fold | values for fold in folds]).to_csv(run / "nested.csv", index=False)
    repeats = [(1, 1, 0.8), (1, 3, 0.7), (2, 1, 0.9), (2, 3, 0.75)]
    columns = ["repeat", "configuration", "mean_fold_auc"]
    pd.DataFrame(repeats, columns=columns).to_csv(run / "repeats.csv", index=False)
    permuted = pd.DataFrame({"permutation": range(1, 10), "mean_fold_auc": [0.55] * 8 + [0.999]})
    permuted.to_csv(run / "permutations.csv", index=False)
    return run


def test_the_report_leads_with_the_nested_auc(run: Path) -> None:
    page, summary, _ = report(run)
    patients = pd.read_csv(run / "nested_patients.csv", dtype={"patient_id": str})
    label, score, fold = arrays(patients)
    nested = summary["nested"]
    assert nested["mean_of_folds"]["value"] == mean_of_folds(label, score, fold).value
    assert nested["measures"]["sensitivity"]["value"] == np.mean(score[label == 1] >= 0.4)
    shown = [path for path, _, _ in page.figures]
    assert shown.index("nested.mean_of_folds.value") < shown.index("best.mean_of_folds.value")
    assert shown.index("best.mean_of_folds.value") < shown.index("corrected.estimate.value")
    assert {f"nested.folds.{number}.inner_auc" for number in range(10)} <= set(shown)
    assert all(float(value) == float(at(summary, path)) for path, value, _ in page.figures if path in MINE)
    assert set(MINE) <= set(shown)


MINE = ["nested.mean_of_folds.low", "nested.measures.specificity.value", "repeats.1.other_splits.1", "repeats.0.sd"]
MINE += ["permutations.p", "permutations.highest"]


def test_repeats_have_the_spread_of_the_other_splits(run: Path) -> None:
    _, summary, _ = report(run)
    own = pd.read_csv(run / "configurations.csv")["mean_fold_auc"]
    first, second = summary["repeats"]
    assert (first["configuration"], first["own_split"], first["other_splits"]) == (1, own[1], [0.8, 0.9])
    assert first["mean"] == pytest.approx(0.85) and first["sd"] == pytest.approx(np.std([0.8, 0.9], ddof=1))
    assert (second["configuration"], second["own_split"]) == (3, own[3])


def test_p_counts_the_sweep_itself(run: Path) -> None:
    _, summary, _ = report(run)
    assert summary["permutations"]["reached"] == 1 and summary["permutations"]["p"] == (1 + 1) / (9 + 1)


def test_missing_outer_folds_leave_no_nested_auc(run: Path) -> None:
    folds = pd.read_csv(run / "nested.csv")
    folds[folds["fold"] != 4].to_csv(run / "nested.csv", index=False)
    page, summary, _ = report(run)
    assert summary["nested"]["missing_folds"] == [4] and summary["nested"]["mean_of_folds"] is None
    assert "Outer folds 4 have no result yet" in page.text
    assert next(path for path, _, _ in page.figures if path.endswith(".value")) == "corrected.estimate.value"


def test_a_run_without_them_does_not_mention_them(tmp_path: Path) -> None:
    page, summary, _ = report(write_run(tmp_path / "plain"))
    assert (summary["nested"], summary["repeats"], summary["permutations"]) == (None, [], None)
    assert "Beyond one cross-validation" not in page.text
