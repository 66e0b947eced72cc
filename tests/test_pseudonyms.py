"""Pseudonyms: one a patient and key, undone by the owner's table only."""

import hashlib
import hmac
import re
from pathlib import Path

import pandas as pd
import pytest

from datasets import pseudonyms
from datasets.annotations import CohortError
from datasets.pseudonyms import pseudonymise
from datasets.tables import read_csv

PATIENTS = ["007", "=cmd()", "Erika Müller", "../x", "<script>", "a\nb", "NA", "x" * 200]


def annotations(patients: list[str] = PATIENTS) -> pd.DataFrame:
    """Two rows a patient."""
    rows = [*patients, *patients]
    return pd.DataFrame({"patient_id": rows, "label": 1, "site": "Köln", "region": range(len(rows))})


def named(table: pd.DataFrame) -> list[str]:
    return list(table["patient_id"])


def test_every_patient_gets_one_harmless_pseudonym_and_all_else_stays(tmp_path: Path) -> None:
    table = pseudonymise(annotations(), tmp_path / "key")
    assert named(table)[: len(PATIENTS)] == named(table)[len(PATIENTS) :]
    assert table["patient_id"].nunique() == len(PATIENTS)
    assert all(re.fullmatch("P-[A-Z2-7]{12}", name) for name in named(table))
    pd.testing.assert_frame_equal(table.drop(columns="patient_id"), annotations().drop(columns="patient_id"))


def test_pseudonym_is_the_keyed_digest(tmp_path: Path) -> None:
    (tmp_path / "key").write_text("0b" * 32)
    (tmp_path / "key").chmod(0o600)
    (name,) = set(named(pseudonymise(annotations(["Müller"]), tmp_path / "key")))
    digest = hmac.new(b"\x0b" * 32, "Müller".encode(), hashlib.sha256).digest()
    number = int.from_bytes(digest[:8], "big") >> 4  # 60 bits in base 32, by hand
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"
    assert name == "P-" + "".join(letters[number >> 5 * place & 31] for place in reversed(range(12)))


def test_pseudonyms_hang_on_the_key_alone(tmp_path: Path) -> None:
    first = named(pseudonymise(annotations(), tmp_path / "a" / "key"))
    assert named(pseudonymise(annotations(PATIENTS[::-1]), tmp_path / "a" / "key")) == first[::-1]
    assert not set(first) & set(named(pseudonymise(annotations(), tmp_path / "b" / "key")))


def test_owner_can_go_back_over_several_cohorts(tmp_path: Path) -> None:
    pseudonymise(annotations(PATIENTS[:3]), tmp_path / "key")
    table = pseudonymise(annotations(PATIENTS[2:]), tmp_path / "key")
    patients = read_csv(tmp_path / "key.patients.csv", {"patient_id": str, "pseudonym": str})
    assert patients["patient_id"].tolist() == PATIENTS
    back = dict(zip(patients["pseudonym"], patients["patient_id"], strict=True))
    assert [back[name] for name in named(table)] == [*PATIENTS[2:], *PATIENTS[2:]]
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "key": 0o600,
        "key.patients.csv": 0o600,
    }


def test_pseudonym_of_two_patients_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudonyms, "CHARACTERS", 1)  # 33 patients, 32 pseudonyms
    with pytest.raises(CohortError, match="two patients share a pseudonym"):
        pseudonymise(annotations([str(number) for number in range(33)]), tmp_path / "key")


@pytest.mark.parametrize(
    ("text", "mode", "message"),
    [
        ("", 0o600, "has 0 bytes"),
        ("0b" * 31, 0o600, "has 31 bytes"),
        ("not hexadecimal", 0o600, "no usable key"),
        ("ü", 0o600, "no usable key"),
        ("0b" * 32, 0o640, "others may read the key .mode 640."),
        ("0b" * 32, 0o604, "run chmod 600"),
    ],
)
def test_unfit_key_is_refused_and_kept(tmp_path: Path, text: str, mode: int, message: str) -> None:
    key = tmp_path / "key"
    key.write_text(text)
    key.chmod(mode)
    with pytest.raises(CohortError, match=message) as caught:
        pseudonymise(annotations(), key)
    assert str(key) in str(caught.value) and "0b0b" not in str(caught.value)
    assert [path.read_text() for path in tmp_path.iterdir()] == [text]


def test_folder_is_no_key(tmp_path: Path) -> None:
    with pytest.raises(CohortError, match="no usable key"):
        pseudonymise(annotations(), tmp_path)
