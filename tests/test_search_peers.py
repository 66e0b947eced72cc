"""The peers' own code decides on a small table, as the benchmark has it decide on large ones."""

import sys
from pathlib import Path

import numpy as np
import pytest

from benchmarks.search_peers import main

MODULES = {"smac": "smac", "wilcoxon": "optuna", "asha": "ray.tune", "posterior": "sweep"}


@pytest.mark.parametrize("peer", MODULES)
def test_a_peer_spares_folds_and_names_a_configuration(
    peer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip(MODULES[peer], reason=f"{peer} is not installed here")
    random, y, table = np.random.default_rng(0), np.arange(60) % 2, tmp_path / "small.npz"
    scores = random.normal(size=(8, 60)) + np.arange(8)[:, None] / 2 * y
    np.savez(table, scores=scores, y=y, fold=np.arange(60) // 2 % 5)
    monkeypatch.setattr(sys, "argv", ["search_peers", str(table), "--orders", "1", "--peers", peer])
    main()
    *_, row = capsys.readouterr().out.splitlines()
    name, decides, orders, cost, kept, mean, worst = row.strip("| ").split(" | ")
    assert (name, decides, orders) == ("small", peer, "1") and kept in ("0.0%", "100.0%")
    assert 1 / 8 <= float(cost) < 1 and 0 <= float(mean) <= 1 and float(worst) == pytest.approx(float(mean), abs=1e-4)
