"""Galleries and flow in a real browser: pictures, hostile identifiers, keyboard, screen reader and paper."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from sweep.report import write_report
from tests.browser.chromium import use
from tests.trained_runs import SCRIPT

LOOK = """
const pictures = [...document.querySelectorAll("#galleries image")];
const figures = [...document.querySelectorAll("#galleries figure")];
seen.identifiers = figures.map((figure) => figure.querySelector("bdi").textContent);
seen.labels = figures.map((figure) => figure.querySelector("[role=img]").getAttribute("aria-label"));
seen.drawn = figures.every((figure) => figure.querySelector("svg").getBoundingClientRect().width > 100);
seen.title = document.title;
seen.headings = [...document.querySelectorAll("h1, h2, h3")].map((heading) => Number(heading.tagName[1]));
seen.unnamed = [...document.querySelectorAll("table")].filter((table) => !table.caption).length;
const wide = [...document.querySelectorAll(".scroll")].filter((place) => place.scrollWidth > place.clientWidth);
seen.unreachable = wide.filter((place) => place.tabIndex !== 0).length;
seen.regions = [...document.querySelectorAll(".scroll[tabindex]")].map((place) => place.getAttribute("aria-label"));
dispatchEvent(new Event("beforeprint"));
seen.closed = [...document.querySelectorAll("details")].filter((details) => !details.open).length;
const asked = performance.getEntriesByType("resource").map((entry) => entry.name);
seen.requests = asked.filter((name) => !name.startsWith("data:"));
seen.pictures = pictures.length;
"""


@pytest.fixture(scope="module")
def seen(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    run = Path(shutil.copytree(trained_run, tmp_path_factory.mktemp("browser") / "run"))
    return use(write_report(run), LOOK)


def test_pictures_are_drawn_without_an_error_or_a_request(seen: dict[str, Any]) -> None:
    assert (seen["errors"], seen["blocked"], seen["requests"]) == ([], [], [])
    assert seen["drawn"] and seen["pictures"] > len(seen["identifiers"]) > 10


def test_identifiers_are_text_and_stand_in_the_pictures_labels(seen: dict[str, Any]) -> None:
    assert SCRIPT in seen["identifiers"] and seen["title"] == "run · sweep report"
    assert all(name in label for name, label in zip(seen["identifiers"], seen["labels"], strict=True))


def test_headings_step_down_one_level_and_all_tables_have_captions(seen: dict[str, Any]) -> None:
    assert seen["headings"][0] == 1 and seen["headings"].count(1) == 1
    assert all(after - before <= 1 for before, after in zip(seen["headings"], seen["headings"][1:], strict=False))
    assert seen["unnamed"] == 0


def test_what_scrolls_is_reached_by_keyboard_and_a_narrow_screen_does_not(seen: dict[str, Any]) -> None:
    assert seen["regions"] and all(seen["regions"]) and seen["unreachable"] == 0
    assert seen["overflow"] <= 0


def test_paper_shows_what_is_folded_away(seen: dict[str, Any]) -> None:
    assert seen["closed"] == 0
