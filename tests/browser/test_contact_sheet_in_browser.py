"""The contact sheet in a real browser: it filters, its frames lie on the pictures, it asks for nothing."""

from pathlib import Path
from typing import Any

import pytest

from sweep.contact_sheet import write_contact_sheet
from tests.browser.chromium import use
from tests.test_contact_sheet import PATIENTS, write_cohort

USE = """
const patient = (place) => place.querySelector("bdi").textContent;
const shown = () => [...document.querySelectorAll(".patient")].filter((place) => place.offsetParent).map(patient);
const type = (text) => {
  filter.value = text;
  filter.dispatchEvent(new Event("input", {bubbles: true}));
  return shown();
};
const place = (element) => {
  const { left, top, right, bottom } = element.getBoundingClientRect();
  return [left, top, right, bottom];
};
seen.title = document.title;
seen.all = type(""); seen.name = type("mÜLLER"); seen.words = type("malignant 007"); seen.none = type("nobody");
seen.status = document.querySelector("[role=status]").textContent;
type(""); noted.click(); seen.noted = shown(); noted.click();
seen.picture = place(document.querySelector("img")); seen.frames = place(document.querySelector(".channels svg"));
seen.loaded = [...document.images].every((image) => image.complete && image.naturalWidth > 0);
const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.requests = asked.filter((name) => !name.startsWith("data:"));
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a headless Chromium saw of a contact sheet with hostile identifiers."""
    folder: Path = tmp_path_factory.mktemp("browser")
    page = folder / "ingest.html"
    store = write_cohort(folder / "store", PATIENTS)
    write_contact_sheet(page, store, {"not DICOM": 41}, title="Cohort", widest_context=3.0)
    return use(page, USE)


def test_the_page_works_without_an_error_or_a_request(seen: dict[str, Any]) -> None:
    assert (seen["errors"], seen["blocked"], seen["requests"]) == ([], [], [])
    assert seen["loaded"] and seen["title"] == "Cohort · contact sheet"


def test_patients_are_filtered_by_words_and_by_notes(seen: dict[str, Any]) -> None:
    assert seen["all"] == PATIENTS
    assert (seen["name"], seen["words"], seen["none"]) == (["Müller, no"], ["007"], [])
    assert seen["status"] == "0 of 5 patients"
    assert seen["noted"] == PATIENTS[1::2]


def test_frames_cover_the_picture_and_a_narrow_screen_needs_no_sideways_scrolling(seen: dict[str, Any]) -> None:
    assert seen["frames"] == pytest.approx(seen["picture"], abs=0.5)
    assert seen["overflow"] <= 0
