"""Readers: their tables are Table 2's, and the model's help has the limits it must have."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from datasets.phantom_features import TABLE_2
from sweep import readers
from sweep.patient_metrics import Array


def written(folder: Path, text: str) -> Path:
    path = folder / "readers.csv"
    path.write_text(text)
    return path


def case(seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    label = np.repeat([1, 0], [60, 140])
    call = np.where(random.random(200) < 0.8, label, 1 - label).astype(float)
    return label, call, np.round(np.clip(0.35 * label + 0.7 * random.random(200), 0, 1), 2)


@pytest.mark.parametrize(
    ("golden_name", "reader"), [("MSK Radiologist", "msk_radiologist"), ("Resident R1", "resident_first_year")]
)
def test_table_2_is_counted(shared: Path, tmp_path: Path, golden_name: str, reader: str) -> None:
    golden = pd.read_csv(shared / "golden/table2_derived.csv").set_index("reader").loc[golden_name]
    label, patients = np.repeat([1, 0], [50, 140]), np.array([f"{number:03d}" for number in range(190)])
    right = np.concatenate([np.arange(size) < count for size, count in zip((50, 140), TABLE_2[reader], strict=True)])
    rows = pd.DataFrame({"patient_id": patients, "reader": reader, "call": np.where(right, label, 1 - label)})
    found = readers.read_readers(written(tmp_path, rows.sample(frac=1, random_state=0).to_csv(index=False)))
    call = readers.by_patient(found, patients, "call")[reader].to_numpy()
    assert readers.two_by_two(label, call) == {name: golden[name] for name in ("tp", "tn", "fp", "fn")}


def test_a_score_without_a_call_is_called_at_one_half(tmp_path: Path) -> None:
    path = written(tmp_path, "patient_id,reader,score,call\n007,a,0.5,\n8,a,0.49,\n9,a,4,1\n")
    found = readers.read_readers(path)
    assert found["call"].tolist() == [1, 0, 1] and found["score"].tolist() == [0.5, 0.49, 4.0]
    assert found["patient_id"].tolist() == ["007", "8", "9"]
    only_scores = readers.read_readers(written(tmp_path, "patient_id,reader,score\n1,a,0.7\n"))
    assert only_scores["call"].tolist() == [1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patient_id,call\n1,1\n", "no column reader"),
        ("patient_id,reader\n1,a\n", "no column call or score"),
        ("patient_id,reader,call\n1,a,1\n1,a,0\n", "reader a, patient 1 .* has two rows"),
        ("patient_id,reader,call\n1,a,1\n2,a,maybe\n", "patient 2 .call maybe"),
        ("patient_id,reader,call\n1,a,2\n", "call of 0 or 1"),
        ("patient_id,reader,score\n1,a,4\n", "score from 0 to 1"),
        ("patient_id,reader,score\n1,a,\n", "score from 0 to 1"),
    ],
)
def test_a_table_that_cannot_be_read_is_explained(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ValueError, match=rf"readers.csv: .*{message}"):
        readers.read_readers(written(tmp_path, text))


def test_patients_whom_a_reader_did_not_read_count_nowhere() -> None:
    table = pd.DataFrame({"patient_id": ["1", "2"], "reader": ["a", "b"], "call": [1, 0]})
    calls = readers.by_patient(table, np.array(["2", "1", "3"]), "call")
    assert calls["a"].isna().tolist() == [True, False, True]
    assert sum(readers.two_by_two(np.array([0, 1, 1]), calls["a"].to_numpy()).values()) == 1
    helped = readers.with_model(calls["a"].to_numpy(), np.array([0.9, 0.9, 0.1]), 0.3)
    assert all(np.isnan(call).tolist() == [True, False, True] for call in helped.values())


def test_or_and_are_the_logical_ones_and_bound_the_rest() -> None:
    label, call, probability = case(1)
    helped = readers.with_model(call, probability, 0.2)
    model = probability >= 0.5
    assert (helped["reader or model"] == ((call == 1) | model)).all()
    assert (helped["reader and model"] == ((call == 1) & model)).all()
    for second in (helped["model as second opinion"], call, model):
        assert (helped["reader and model"] <= second).all() and (second <= helped["reader or model"]).all()
    tables = {name: readers.two_by_two(label, calls) for name, calls in helped.items()}
    assert tables["reader or model"]["tp"] > tables["reader and model"]["tp"]
    assert tables["reader or model"]["fp"] > tables["reader and model"]["fp"]


def test_the_band_decides_who_decides() -> None:
    _, call, probability = case(2)
    second = {
        band: readers.with_model(call, probability, band)["model as second opinion"] for band in (0.0, 0.2, np.inf)
    }
    assert (second[0.0] == (probability >= 0.5)).all()
    assert (second[np.inf] == call).all()
    inside = (probability >= 0.3) & (probability < 0.7)
    assert (second[0.2][inside] == call[inside]).all()
    assert (second[0.2][~inside] == (probability[~inside] >= 0.7)).all()
