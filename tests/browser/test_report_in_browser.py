"""The page in a real browser: it draws its plots, sorts and filters, and asks the network for nothing."""

from typing import Any

import pytest

from sweep.report import write_report
from tests.browser.chromium import use
from tests.run_folders import write_run

CLICK = """
const rows = () => [...document.getElementById("patient-table").tBodies[0].rows];
const probabilities = () => rows().map((row) => Number(row.cells[4].querySelector("data").value));
const heading = document.querySelectorAll("#patient-table thead button")[4];
seen.plots = document.querySelectorAll(".js-plotly-plot .main-svg").length > 0
  && [...document.querySelectorAll(".plot")].every((plot) => plot.querySelector(".main-svg"));
heading.click(); seen.ascending = probabilities();
heading.click(); seen.descending = probabilities();
document.querySelector(".filters [data-outcome=FP]").click();
seen.shown = rows().filter((row) => row.offsetParent).map((row) => row.dataset.outcome);
seen.requests = performance.getEntriesByType("resource").map((entry) => entry.name);
"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a headless Chromium saw of a demo run's report."""
    return use(write_report(write_run(tmp_path_factory.mktemp("browser") / "demo")), CLICK)


def test_the_page_draws_all_plots_without_an_error_or_a_request(seen: dict[str, Any]) -> None:
    assert seen["plots"]
    assert (seen["errors"], seen["blocked"], seen["requests"]) == ([], [], [])


def test_a_click_sorts_by_value_and_a_second_one_turns_the_order(seen: dict[str, Any]) -> None:
    assert len(seen["ascending"]) == 96 and seen["ascending"] == sorted(seen["ascending"])
    assert seen["descending"] == seen["ascending"][::-1]


def test_the_filter_leaves_the_patients_of_one_outcome(seen: dict[str, Any]) -> None:
    assert seen["shown"] and set(seen["shown"]) == {"FP"}


def test_a_narrow_screen_needs_no_sideways_scrolling(seen: dict[str, Any]) -> None:
    assert seen["overflow"] <= 0
