"""The contact sheet shows what the store holds, where the grid puts it, and nothing else acts in it."""

import base64
import io
import re
import tracemalloc
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from datasets.cohort import LESION_COLUMNS
from datasets.patch_store import EXCLUDED_COLUMNS, PatchStore
from sweep.contact_sheet import LARGEST_TILE, picture, summary, write_contact_sheet

HOSTILE = "</h3><script>alert(1)</script><img src=//evil.example/x>"
EXCLUDED = [
    ("A", "1.2.840.1", "box x 3.5 to 1, y 2 to 9 is empty or reversed", "redraw the box"),
    ("A", "1.2.840.2", "box x 3 to 1, y 2 to 9 is empty or reversed", "redraw the box"),
    ("B", "1.2.840.3", "box x -4 to -6, y 2 to 9 is empty or reversed", "redraw the box"),
    ("B", "1.2.840.4", "several sagittal T1W series: 1.2.5, 1.2.6", "name one"),
    ("C", "1.2.840.5", "several sagittal T1W series: 1.2.7, 1.2.8, 1.2.9", "name one"),
    ("D", "1.2.840.6", "no decoder for JPEG 2000", "export again"),
    ("E", "site", "several values: 'Bern, 'Ulm'", "correct"),
    ("D", "site", f"several values: {HOSTILE}, 'Bern'", "correct"),
    (HOSTILE, "1.2.840.7", f"unknown value [red] \x1b[2J {HOSTILE}", "correct"),
]


def smooth_noise(count: int, side: int, seed: int = 0) -> NDArray[np.float16]:
    """Patches (count, 6, side, side) of blurred noise, every channel another."""
    coarse = np.random.default_rng(seed).normal(1, 0.3, (count, 6, side // 6, side // 6))
    return np.kron(coarse, np.ones((6, 6))).astype(np.float16)


def write_cohort(
    folder: Path, patients: list[str], slices: int = 2, side: int = 48, excluded: Any = EXCLUDED
) -> PatchStore:
    """A store with all columns: every third patient malignant, notes on the first slice of every second."""
    rows = [(patient, number, part) for number, patient in enumerate(patients) for part in range(slices)]
    lesions = pd.DataFrame(columns=LESION_COLUMNS, index=range(len(rows))).fillna("")
    lesions["patient_id"] = [patient for patient, _, _ in rows]
    lesions["label"] = [int(number % 3 == 0) for _, number, _ in rows]
    lesions["site"] = [f"site {number % 2}" for _, number, _ in rows]
    lesions["sop_instance_uid"] = [f"2.25.{row}" for row in range(len(rows))]
    lesions["box_side_mm"] = 31.26
    lesions["note"] = ["T2W edge slice repeated" if number % 2 and not part else "" for _, number, part in rows]
    folder.mkdir(parents=True)
    np.save(folder / "patches.npy", smooth_noise(len(rows), side))
    lesions.to_csv(folder / "cohort.csv", index=False)
    pd.DataFrame(excluded, columns=EXCLUDED_COLUMNS).to_csv(folder / "excluded.csv", index=False)
    return PatchStore(folder, "test")


class Sheet(HTMLParser):
    """Tags with their attributes, and for each patient the text of the article."""

    def __init__(self, store: PatchStore, path: Path, context: float = 3.0) -> None:
        super().__init__()
        write_contact_sheet(path, store, {"not DICOM": 41}, title="Cohort <1>", widest_context=context)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self.articles = "", list[str]()
        self._in_code = False
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._in_code = tag in ("script", "style")
        if tag == "article":
            self.articles.append("")

    def handle_endtag(self, tag: str) -> None:
        self._in_code = False

    def handle_data(self, data: str) -> None:
        if not self._in_code:
            self.text += data
            if self.articles:
                self.articles[-1] += f" {' '.join(data.split())} "

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def pictures(self) -> list[NDArray[np.float64]]:
        return [decoded(base64.b64decode(str(image["src"]).partition("base64,")[2])) for image in self.all("img")]


def decoded(picture: bytes) -> NDArray[np.float64]:
    return np.asarray(Image.open(io.BytesIO(picture)).convert("L")).astype(float)


def tiles(sheet: NDArray[np.float64]) -> NDArray[np.float64]:
    """(6, side, side) in the order of the channels."""
    side = sheet.shape[0] // 2
    return np.stack([np.array_split(row, 3, axis=1) for row in (sheet[:side], sheet[side:])]).reshape(6, side, side)


PATIENTS = ["007", "Müller, no", HOSTILE, "=1+1", "X" * 200]


@pytest.fixture
def store(tmp_path: Path) -> PatchStore:
    return write_cohort(tmp_path / "store", PATIENTS)


def test_every_lesion_shows_its_own_six_channels_in_their_places(store: PatchStore, tmp_path: Path) -> None:
    shown = Sheet(store, tmp_path / "ingest.html").pictures()
    assert len(shown) == len(store.lesions)
    for sheet, patch in zip(shown, store.patches().astype(float), strict=True):
        agreement = np.corrcoef([*tiles(sheet).reshape(6, -1), *patch.reshape(6, -1)])[:6, 6:]
        assert (agreement.diagonal() > 0.9).all()
        assert (agreement.argmax(axis=1) == np.arange(6)).all()


def test_each_channel_is_shrunk_by_averaging_and_fills_the_grey_levels_alone() -> None:
    patch = smooth_noise(1, 192)[0] * np.array([1e-3, 1, 10, 100, 1e3, 1])[:, None, None].astype(np.float16)
    patch[5] = 7
    sheet = tiles(decoded(picture(patch)))
    assert sheet.shape == (6, LARGEST_TILE, LARGEST_TILE)
    assert (sheet[:5].min(axis=(1, 2)) < 25).all() and (sheet[:5].max(axis=(1, 2)) > 230).all()
    assert np.ptp(sheet[5]) < 30, "a channel of one value has no contrast to stretch"


@pytest.mark.parametrize("context", [1.0, 1.5, 3.0, 4.0])
def test_the_drawn_box_is_the_box_of_the_patch_grid(tmp_path: Path, context: float) -> None:
    side = 96
    store = write_cohort(tmp_path / "store", ["007"], slices=1, side=side)
    from_centre = np.abs(np.arange(side) - (side - 1) / 2) * context / side  # in box sides
    inside = (np.maximum.outer(from_centre, from_centre) < 0.5).astype(np.float16)
    np.save(store.folder / "patches.npy", np.broadcast_to(inside, (1, 6, side, side)))
    sheet = Sheet(store, tmp_path / "ingest.html", context)
    boxes = [rectangle for rectangle in sheet.all("rect") if rectangle["class"] == "box"]
    assert len(boxes) == 6
    (view,) = {attributes["viewbox"] for attributes in sheet.all("svg") if "viewbox" in attributes}
    assert view == "0 0 300 200"
    (shown,) = sheet.pictures()
    drawn = np.zeros_like(shown)
    for box in boxes:
        x, y, width, height = (float(box[key] or "") * side / 100 for key in ("x", "y", "width", "height"))
        drawn[round(y) : round(y + height), round(x) : round(x + width)] = 255
    # A box that fills its patch leaves nothing to tell it from.
    assert np.mean(np.abs(drawn - shown) > 128) == 0 or (context == 1 and drawn.min() == 255)


def test_patients_are_named_counted_and_carry_their_notes(store: PatchStore, tmp_path: Path) -> None:
    sheet = Sheet(store, tmp_path / "ingest.html")
    assert len(sheet.articles) == len(PATIENTS)
    for number, (patient, article) in enumerate(zip(PATIENTS, sheet.articles, strict=True)):
        assert patient in article and f"site {number % 2}" in article and "2 slices" in article
        assert ("malignant" if number % 3 == 0 else "benign") in article
        assert f"2.25.{2 * number}" in article and "box 31.3 mm" in article
        assert article.count("T2W edge slice repeated") == number % 2
        assert ("1 with notes" in article) == bool(number % 2)
    assert [article["data-noted"] for article in sheet.all("article")] == ["0", "1", "0", "1", "0"]


def test_exclusions_and_counts_stand_at_the_top(store: PatchStore, tmp_path: Path) -> None:
    sheet = Sheet(store, tmp_path / "ingest.html")
    top = sheet.text[: sheet.text.index("Patients\n")]
    for row in EXCLUDED:
        assert all(cell in top for cell in row)
    words = " ".join(top.split())
    assert "5 patients with 10 lesion slices · 6 patients excluded" in words
    assert re.search(r"benign ?3 ?6 ?malignant ?2 ?4 ?all ?5 ?10", words) and re.search("not DICOM ?41", words)


def test_identifiers_are_text_and_nothing_asks_the_network(store: PatchStore, tmp_path: Path) -> None:
    sheet, harmless = (
        Sheet(one, tmp_path / "ingest.html")
        for one in (store, write_cohort(tmp_path / "other", ["1"] * 5, excluded=[]))
    )
    assert len(sheet.all("script")) == len(harmless.all("script"))
    assert all(str(image["src"]).startswith("data:image/webp;base64,") for image in sheet.all("img"))
    assert {attributes["href"] for _, attributes in sheet.tags if "href" in attributes} == {"#overlay"}
    assert not any(name.startswith("on") for _, attributes in sheet.tags for name in attributes)
    page = (tmp_path / "ingest.html").read_text()
    assert "http:" not in page and "https:" not in page and "default-src 'none'" in page
    assert str(tmp_path) not in page


def test_a_store_without_patients_has_a_page(tmp_path: Path) -> None:
    sheet = Sheet(write_cohort(tmp_path / "store", []), tmp_path / "ingest.html")
    assert "0 patients with 0 lesion slices" in sheet.text and sheet.articles == []


def test_the_same_store_gives_the_same_bytes(store: PatchStore, tmp_path: Path) -> None:
    Sheet(store, tmp_path / "one.html")
    Sheet(store, tmp_path / "two.html")
    assert (tmp_path / "one.html").read_bytes() == (tmp_path / "two.html").read_bytes()


def test_a_page_that_fails_midway_leaves_the_old_one(store: PatchStore, tmp_path: Path) -> None:
    page = tmp_path / "ingest.html"
    Sheet(store, page)
    before = page.read_bytes()
    np.save(store.folder / "patches.npy", np.array(store.patches()[:3]))
    with pytest.raises(IndexError):
        Sheet(store, page)
    assert page.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"store", "ingest.html"}


def test_the_page_is_streamed(tmp_path: Path) -> None:
    """Pictures of all patients together are never in memory, and 800 of them fit in 10 MB."""
    sizes, peaks = [], []
    for patients in (10, 40):
        names = [f"{number:03}" for number in range(patients)]
        store, page = write_cohort(tmp_path / str(patients), names, slices=4, side=96), tmp_path / "ingest.html"
        tracemalloc.start()
        write_contact_sheet(page, store, {}, title="many", widest_context=3.0)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(page.stat().st_size)
    assert (sizes[1] - sizes[0]) / 120 < 12_500
    assert peaks[1] - peaks[0] < (sizes[1] - sizes[0]) / 4


def test_the_summary_counts_patients_and_files_by_reason(store: PatchStore) -> None:
    console = Console(file=io.StringIO(), width=160, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(summary(store, {"not DICOM": 41, "unreadable header": 1}, files=500))
    shown = capture.get()
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    assert {"read as images 458", "skipped: not DICOM 41", "benign 3 6", "malignant 2 4", "all 5 10"} <= set(lines)
    excluded = lines[lines.index("excluded 6") + 1 :]
    assert set(excluded[:3]) == {
        "box x … to …, y … to … is empty or reversed 2",
        "several sagittal T1W series: … 2",
        "several values: … 2",
    }
    assert "no decoder for JPEG 2000 1" in excluded and len(excluded) == 5
    assert "[red]" in shown and "\x1b[2J" not in shown
