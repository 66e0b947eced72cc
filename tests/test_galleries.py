"""The report's galleries: who is shown and in what order, pictures that stay small, identifiers that stay text."""

import base64
import io
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from sweep.contact_sheet import picture
from sweep.explanations import LARGEST_TILE, QUALITY, Explanations
from sweep.report import write_report
from sweep.report.galleries import MOST, OUTCOMES, explain_best, galleries
from sweep.report.summary import patient_table
from sweep.report.tables import read_run
from tests.run_folders import synthetic_cohort, write_run
from tests.trained_runs import SCRIPT


class Galleries(HTMLParser):
    """The section's figures: outcome, label for screen readers, hrefs of images, and caption."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.figures: list[dict[str, object]] = []
        self.headings: list[str] = []
        self._inside: str | None = None
        self.feed(page.read_text().partition('<section id="galleries">')[2].partition("</section>")[0])

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "h3":
            self.headings.append("")
        if tag == "figure":
            self.figures.append({"heading": self.headings[-1], "images": [], "caption": ""})
        if tag == "svg" and given.get("role") == "img":
            self.figures[-1]["label"] = given["aria-label"]
        if tag == "image":
            self.figures[-1]["images"].append(given["href"])  # type: ignore[attr-defined]
        self._inside = tag if tag in ("h3", "bdi") else self._inside

    def handle_endtag(self, tag: str) -> None:
        self._inside = None if tag == self._inside else self._inside

    def handle_data(self, data: str) -> None:
        if self._inside == "h3":
            self.headings[-1] += data
        if self._inside == "bdi":
            self.figures[-1]["caption"] = data


def pictures_of_all(patients: pd.DataFrame) -> Explanations:
    """Explanations with the same picture and map for everybody."""
    table = patients[["patient_id", "sop_instance_uid", "fold"]].assign(deciding=True, picture=b"RIFF")
    table["map"] = [[[1.0, -2.0], [0.0, 0.5]]] * len(table)
    return Explanations(table, None)


def test_every_outcome_is_shown_the_worst_errors_first_and_at_most_so_many(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run", cohort=synthetic_cohort(200)))
    patients = patient_table(run)
    found = galleries(run, patients, pictures_of_all(patients))
    assert found is not None and tuple(found["outcomes"]) == OUTCOMES
    for outcome, shown in found["outcomes"].items():
        members = patients[patients["outcome"] == outcome]
        errors = [abs(row["label"] - row["probability"]) for row in shown]
        assert len(shown) == min(MOST, len(members)) and errors == sorted(errors, reverse=True)
        assert {row["patient_id"] for row in shown} <= set(members["patient_id"])
        hidden = members[~members["patient_id"].isin([row["patient_id"] for row in shown])]
        assert not (abs(hidden["label"] - hidden["probability"]) > min(errors)).any()
        assert all(patients.iloc[row["place"]]["patient_id"] == row["patient_id"] for row in shown)
    assert max(len(shown) for shown in found["outcomes"].values()) == MOST


def pixels(uri: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    header, _, data = uri.partition(",")
    assert header == "data:image/webp;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


def test_a_map_shows_what_spoke_for_the_class_called(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path / "run"))
    patients = patient_table(run)
    explained = pictures_of_all(patients)
    nothing_for_benign = [[1.0, 2.0], [0.0, 0.5]]
    maps = zip(explained.table["map"], patients["outcome"] == "FN", strict=True)
    explained.table["map"] = [nothing_for_benign if missed else one for one, missed in maps]
    found = galleries(run, patients, explained)
    assert found is not None
    alpha = {outcome: pixels(found["outcomes"][outcome][0]["map"])[..., 3] for outcome in ("TP", "FP", "TN")}
    corners = {outcome: a[[0, 0, -1, -1], [0, -1, 0, -1]].astype(int) for outcome, a in alpha.items()}
    for called_malignant in ("TP", "FP"):
        upper_left, upper_right, lower_left, lower_right = corners[called_malignant]
        assert upper_left > 150 > lower_right > 40 and upper_right < 20 and lower_left < 20
    assert corners["TN"][1] > 150 and max(corners["TN"][[0, 2, 3]]) < 20
    assert [row["map"] for row in found["outcomes"]["FN"]] == [None] * len(found["outcomes"]["FN"])


def test_the_page_shows_patients_under_their_outcome_with_pictures_and_maps(trained_run: Path) -> None:
    page = Galleries(write_report(trained_run))
    patients = pd.read_csv(trained_run / "patients.csv", dtype=str).replace({"patient_id": {"'=1+1": "=1+1"}})
    titles = {"False negatives": "FN", "False positives": "FP", "True positives": "TP", "True negatives": "TN"}
    assert [heading.partition(":")[0] for heading in page.headings] == list(titles)
    shown = [(titles[str(figure["heading"]).partition(":")[0]], figure["caption"]) for figure in page.figures]
    counts = patients["outcome"].value_counts()
    assert len(shown) == len(set(shown)) == counts.clip(upper=MOST).sum()
    assert set(shown) <= set(zip(patients["outcome"], patients["patient_id"], strict=True))
    for figure in page.figures:
        picture, *maps = figure["images"]  # type: ignore[misc]
        height, width, *_ = pixels(picture).shape
        assert width == 2 * height and len(picture) < 30_000 and len(maps) <= 1
        assert str(figure["caption"]) in str(figure["label"])
    assert sum(len(figure["images"]) == 2 for figure in page.figures) > len(shown) / 2  # type: ignore[arg-type]
    assert (trained_run / "report.html").stat().st_size < 10_000_000


def test_identifiers_cannot_leave_their_place(trained_run: Path) -> None:
    page = write_report(trained_run).read_text()
    assert SCRIPT not in page and "&lt;script&gt;document.title" in page
    assert 'onload="x' not in page
    assert SCRIPT in [figure["caption"] for figure in Galleries(trained_run / "report.html").figures]


def test_pictures_and_truth_agree_with_the_store(trained_run: Path) -> None:
    run = read_run(trained_run)
    patients = patient_table(run)
    table = explain_best(run, patients).table
    assert set(table.loc[table["deciding"], "sop_instance_uid"]) == set(patients["sop_instance_uid"])
    bright = {}
    for row in table[table["deciding"]].to_dict("records"):
        t2w = np.asarray(Image.open(io.BytesIO(row["picture"])).convert("L"), float)[:, 48:]
        bright[row["patient_id"]] = t2w[20:28, 20:28].mean() - t2w[:8, :8].mean()
    malignant = patients.set_index("patient_id")["label"] == 1
    assert min(bright[patient] for patient in malignant.index[malignant]) > 10 + np.mean(
        [bright[patient] for patient in malignant.index[~malignant]]
    )


def test_the_page_says_why_maps_or_pictures_are_missing(trained_run: Path, tmp_path: Path) -> None:
    run = Path(
        shutil.copytree(trained_run, tmp_path / "run", ignore=shutil.ignore_patterns("explanations", "weights.pt"))
    )
    page = write_report(run)
    assert re.search("No Grad-CAM maps: The weights of fold 0, 1, 2 are gone", page.read_text())
    assert all(len(figure["images"]) == 1 for figure in Galleries(page).figures)  # type: ignore[arg-type]
    ingested = json.loads((run / "ingest.json").read_text())
    (run / "ingest.json").write_text(json.dumps(ingested | {"patch_store": "/nowhere"}))
    page = write_report(run)
    assert "No galleries: The patches are gone from the cache" in page.read_text()
    assert not Galleries(page).figures


def test_two_hundred_patients_whose_pictures_are_noise_stay_below_ten_megabytes(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", cohort=synthetic_cohort(200))
    tables = read_run(run)
    slices, patients = tables.predictions_of(int(str(tables.best))), patient_table(tables)
    noise = np.random.default_rng(0).normal(size=(len(slices), 2, 192, 192)).astype(np.float16)
    table = slices.assign(deciding=slices["sop_instance_uid"].isin(patients["sop_instance_uid"]), T1W=0.5, T2W=0.5)
    table["picture"] = [picture(channels, rows=1, largest=LARGEST_TILE, quality=QUALITY) for channels in noise]
    table["map"] = noise[:, 0, :8, :8].astype(float).tolist()
    (run / "explanations").mkdir()
    best = tables.complete.set_index("configuration").loc[tables.best]
    table.to_parquet(run / "explanations" / f"{best['digest']}.parquet")
    page = write_report(run)
    figures = Galleries(page).figures
    assert len(figures) == patients["outcome"].value_counts().clip(upper=MOST).sum() >= 3 * MOST
    assert all(len(figure["images"]) == 2 for figure in figures)  # type: ignore[arg-type]
    assert page.stat().st_size < 10_000_000
