"""Features and readers of synthetic patients have the study's frequencies and never contradict each other."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from datasets.phantom_features import TABLE_1, TABLE_2, draw_calls, draw_features

DRAWN = 20_000
CLASS_SIZE = (140, 50)


@pytest.fixture(scope="module", params=[0, 1], ids=["benign", "malignant"])
def drawn(request: pytest.FixtureRequest) -> tuple[int, pd.DataFrame]:
    generator = np.random.default_rng(7)
    return request.param, pd.DataFrame([draw_features(request.param, generator) for _ in range(DRAWN)])


def test_each_frequency_is_table_1s(drawn: tuple[int, pd.DataFrame]) -> None:
    label, features = drawn
    assert list(features) == list(TABLE_1)
    for name, counts in TABLE_1.items():
        low, high = stats.binom.interval(1 - 1e-5, DRAWN, counts[label] / CLASS_SIZE[label])
        assert low <= features[name].sum() <= high, name


def test_contradictions_never_occur(drawn: tuple[int, pd.DataFrame]) -> None:
    _, f = drawn
    shapes = f[["anterior_wedge_deformity", "entire_body_compression", "central_concave_deformity"]].any(axis=1)
    assert (f.absence_of_collapse != shapes).all()
    assert not (f.anterior_wedge_deformity & f.entire_body_compression).any()
    changes = ["intravertebral_dark_band", "marrow_oedema_band", "intravertebral_dark_patch"]
    changes += ["fluid_or_necrotic_cleft", "diffuse_signal_change", "intravertebral_nodule"]
    assert not (f.homogeneous_marrow_signal & f[changes].any(axis=1)).any()
    assert not (f.marrow_oedema_band & f.diffuse_signal_change).any()
    assert not (f.absence_of_collapse & f.homogeneous_marrow_signal).any()


def test_unrelated_features_are_independent(drawn: tuple[int, pd.DataFrame]) -> None:
    label, f = drawn
    if label == 1:
        assert abs(f.epidural_or_paraspinal_mass.corr(f.diffuse_signal_change)) < 0.03
        assert abs(f.coexisting_lesion_in_other_vertebra.corr(f.absence_of_collapse)) < 0.03
        assert abs(f.body_protrusion.corr(f.intravertebral_nodule)) < 0.03


def test_readers_call_at_table_2s_rates() -> None:
    generator = np.random.default_rng(8)
    for label in (0, 1):
        right = pd.DataFrame([draw_calls(label, generator) for _ in range(DRAWN)]) == label
        for reader, counts in TABLE_2.items():
            rate = counts[0] / 50 if label else counts[1] / 140
            low, high = stats.binom.interval(1 - 1e-5, DRAWN, rate)
            assert low <= right[reader].sum() <= high, reader
