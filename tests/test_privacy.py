"""Private and hostile texts in every text tag and in the identifiers, sought in everything that is written."""

import csv
import html
import warnings
from pathlib import Path

import pandas as pd
import pydicom
import pytest
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset

from datasets.phantom import write_phantom
from tests.test_main import TINY, sweep

NAME, BIRTH_DATE = "Secretname^Planted", "19410203"
HOSTILE = [
    "<script>alert(7)</script>",
    "../../planted",
    "=cmd()|'/C calc'!A0",
    "planted\nline",
    "P" * 200,
    "007 planted",
    "Ü患者",
]
PRIVATE = ["Secretname", BIRTH_DATE, "alert(13)", "planted-in-tag", "Q" * 64]
IN_TAGS = ["<script>alert(13)</script>", "../../planted-in-tag", "=planted-in-tag()", "planted-in-tag\nline", "Q" * 200]
TEXT = {"LO", "SH", "ST", "LT", "UT", "UC"}
DECIDES_THE_SERIES = {"ContrastBolusAgent", "SpecificCharacterSet", "SeriesDescription"}
TAGS = [
    (keyword, representation)
    for tag, (representation, count, _, retired, keyword) in DicomDictionary.items()
    if representation in TEXT | {"PN", "DA"} and count == "1" and not retired and tag >= 0x00080000
    if keyword not in DECIDES_THE_SERIES
]
QUICK = [setting for setting in TINY if "phantom" not in setting and "configurations" not in setting]
QUICK += ["search.configurations=1", "training.epochs=1", "folds.count=2", "data.root=planted-folder", "data=dicom"]
QUICK += ["data.annotations=planted-folder/annotations.csv"]


def plant(dataset: Dataset, every_tag: bool) -> None:
    for place, (keyword, representation) in enumerate(TAGS if every_tag else TAGS[:60]):
        planted = {"PN": NAME, "DA": BIRTH_DATE}.get(representation, IN_TAGS[place % len(IN_TAGS)])
        setattr(dataset, keyword, planted)
    dataset.SeriesDescription = f"{NAME} planted-in-tag <script>alert(13)</script>"
    block = dataset.private_block(0x0011, "planted-in-tag", create=True)
    block.add_new(0x01, "LO", NAME)
    dataset.RequestAttributesSequence = [Dataset()]
    dataset.RequestAttributesSequence[0].ScheduledProcedureStepDescription = NAME


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cohort whose files and identifiers hold what must not come out; one patient's pixels are cut off."""
    folder = tmp_path_factory.mktemp("privacy")
    write_phantom(folder / "planted-folder", patients=16, seed=3)
    table = pd.read_csv(folder / "planted-folder" / "annotations.csv", dtype=str)
    patients = table["patient_id"].unique()
    renamed = dict(zip(patients, HOSTILE, strict=False))
    damaged = set(table.loc[table["patient_id"] == patients[len(HOSTILE)], "sop_instance_uid"])
    with warnings.catch_warnings(action="ignore"):
        for number, path in enumerate(
            path for path in (folder / "planted-folder" / "dicom").rglob("*") if path.is_file()
        ):
            dataset = pydicom.dcmread(path)
            plant(dataset, every_tag=number % 40 == 0)
            dataset.save_as(path)
            if str(dataset.SOPInstanceUID) in damaged:
                path.write_bytes(path.read_bytes()[:-50])
    table["patient_id"] = table["patient_id"].replace(renamed)
    table.to_csv(folder / "planted-folder" / "annotations.csv", index=False)
    return folder


def outputs(folder: Path, *names: str) -> dict[Path, bytes]:
    return {path: path.read_bytes() for name in names for path in (folder / name).rglob("*") if path.is_file()}


def check_private(written: dict[Path, bytes], shown: str) -> None:
    for secret in PRIVATE:
        holders = [path for path, content in written.items() if secret.encode() in content or secret in str(path)]
        assert holders == [] and secret not in shown, secret


def test_planted_texts_are_absent_or_harmless_in_a_whole_sweep(workplace: Path) -> None:
    done = sweep(workplace, "name=planted", *QUICK)
    assert done.returncode == 0, done.stderr
    written = outputs(workplace, "runs/planted", "cache")
    check_private(written, done.stdout + done.stderr)
    run = workplace / "runs" / "planted"
    assert len(pd.read_csv(run / "excluded.csv"))
    assert "planted-folder" not in (run / "excluded.csv").read_text() + (run / "ingest.html").read_text()
    for page in (run / "report.html", run / "ingest.html"):
        assert "<script>alert" not in page.read_text() and html.escape(HOSTILE[0]) in page.read_text()
    for table in run.glob("*.csv"):
        with table.open(newline="") as file:
            assert [cell for row in csv.reader(file) for cell in row if cell.startswith(("=", "+", "@"))] == []
    assert [path for path in written if any(name[:20] in str(path.relative_to(workplace)) for name in HOSTILE)] == []
    assert not (workplace.parent / "planted").exists()
    assert {"007 planted", "planted line", HOSTILE[2], "P" * 200} <= {
        name.removeprefix("'") for name in pd.read_csv(run / "patients.csv", dtype=str)["patient_id"]
    }


def test_pseudonyms_stand_for_the_identifiers_everywhere(workplace: Path) -> None:
    key = "data.pseudonym_key=apart/pseudonyms.key"
    (workplace / "apart").mkdir()
    done = sweep(workplace, "name=pseudonyms", *QUICK, "data.pseudonyms=true", key, "cache=own-cache")
    assert done.returncode == 0, done.stderr
    written = outputs(workplace, "runs/pseudonyms", "own-cache")
    check_private(written, done.stdout + done.stderr)
    identifiers = [name.replace("\n", " ").encode() for name in HOSTILE] + [b"SYNTHETIC-0", b"alert(7)"]
    content = b"".join(written.values()) + (done.stdout + done.stderr).encode()
    assert [name for name in identifiers if name in content] == []
    patients = pd.read_csv(workplace / "runs" / "pseudonyms" / "patients.csv", dtype=str)["patient_id"]
    assert patients.str.fullmatch("P-[A-Z2-7]{12}").all()
    assert len(list((workplace / "apart").iterdir())) == 2
