"""The page in a real browser: it draws its plots, sorts and filters, and asks the network for nothing."""

import json
import re
import shutil
import subprocess
from typing import Any

import pytest

from sweep.report import write_report
from tests.run_folders import write_run

QUIET = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
QUIET += " --disable-background-networking --disable-component-update"
# Listens before the page's own scripts run, clicks after them, and leaves what it saw in the document.
LISTEN = """<script>const seen = {errors: [], blocked: []};
addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("securitypolicyviolation", (event) => seen.blocked.push(event.blockedURI));</script>"""
CLICK = """<script>setTimeout(() => {
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
seen.overflow = document.documentElement.scrollWidth - document.documentElement.clientWidth;
const result = document.createElement("pre"); result.id = "seen"; result.textContent = JSON.stringify(seen);
document.body.append(result);
}, 1000);</script>"""


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a headless Chromium saw of a demo run's report."""
    chromium = shutil.which("chromium") or shutil.which("google-chrome") or shutil.which("chrome")
    if chromium is None:
        pytest.skip("no Chromium at hand")
    folder = tmp_path_factory.mktemp("browser")
    page = write_report(write_run(folder / "demo"))
    text = page.read_text().replace("<head>", f"<head>{LISTEN}", 1)
    page.write_text(text.removesuffix("</html>") + CLICK)
    command = [chromium, "--headless", *QUIET.split(), f"--user-data-dir={folder / 'profile'}", "--window-size=500,900"]
    command += ["--virtual-time-budget=8000", "--dump-dom", page.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<pre id="seen">(.*?)</pre>', dom, re.DOTALL)
    assert found, "the page's scripts did not run to their end"
    result: dict[str, Any] = json.loads(found[1])
    return result


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
