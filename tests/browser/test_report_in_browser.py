"""The page in a real browser: it draws its plots, sorts and filters, and asks the network for nothing."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sweep.report import write_report
from tests.browser.chromium import use
from tests.run_folders import synthetic_cohort, write_run
from tests.test_report import SCRIPT, Page

CLICK = """
const texts = [];
window.Blob = class extends Blob { constructor(parts, options) { super(parts, options); texts.push(parts[0]); } };
document.addEventListener("click", (event) => event.target.closest(".download") && event.preventDefault());
seen.csv = [...document.querySelectorAll(".download")].map((link) => {
  link.click();
  return [link.getAttribute("aria-label"), link.download, texts.at(-1)];
});
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
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    cohort = synthetic_cohort()
    cohort["patient_id"] = cohort["patient_id"].replace({"000": SCRIPT, "001": "<b>&amp;</b>"})
    run = write_run(tmp_path_factory.mktemp("browser") / "demo", tuple(np.linspace(0.8, 2, 10)), cohort=cohort)
    write_report(run)
    return run


@pytest.fixture(scope="module")
def seen(run: Path) -> dict[str, Any]:
    """What a headless Chromium saw of a demo run's report."""
    page = run / "opened.html"
    page.write_text((run / "report.html").read_text())
    return use(page, CLICK)


def downloads(seen: dict[str, Any]) -> dict[str, list[list[str]]]:
    """Rows of every CSV, by the name of its table or plot."""
    return {label.split(" the ", 1)[1]: list(csv.reader(text.splitlines())) for label, _, text in seen["csv"]}


def test_the_csvs_of_plots_hold_the_figures_of_summary_and_tables(seen: dict[str, Any], run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    patients = pd.read_csv(run / "patients.csv", dtype={"patient_id": str})
    curves: dict[tuple[str, str], list[tuple[float, float]]] = {}
    for _, name, text in seen["csv"]:
        for curve, x, y, _ in list(csv.reader(text.splitlines()))[1:] if name.startswith("plot-") else ():
            curves.setdefault((name.removesuffix(".csv"), curve), []).append((x, y))
    found = {names: np.array(points, float) for names, points in curves.items() if "surface" not in names}
    expected = {
        ("plot-roc", "95 % band"): [(row["false_positive_rate"], row["high"]) for row in summary["best"]["roc_band"]],
        ("plot-roc", "lower limit"): [(row["false_positive_rate"], row["low"]) for row in summary["best"]["roc_band"]],
        ("plot-calibration", "bins of 0.1"): [
            (row["mean_probability"], row["observed"]) for row in summary["calibration"]["curve"]
        ],
        ("plot-decision-curve", "model"): [(row["threshold"], row["model"]) for row in summary["decision_curve"]],
        ("plot-history", "best so far"): [
            (row["configuration"], row["best_so_far"]) for row in summary["search"]["history"]
        ],
    }
    for names, points in expected.items():
        np.testing.assert_array_equal(found[names], points, str(names))
    operating = summary["best"]["measures"]
    assert found["plot-roc", "calls"].tolist() == [
        [
            pytest.approx(1 - operating["specificity"]["value"]),
            operating["sensitivity"]["value"],
        ]
    ]
    shown = [x for kind in ("benign", "malignant") for x, _ in found["plot-probabilities", kind]]
    assert sorted(shown) == sorted(patients["probability"])
    table = pd.read_csv(run / "configurations.csv")
    for name in summary["best"]["settings"]:
        setting = found[f"plot-setting-{name}", ""]
        np.testing.assert_array_equal(setting, table[[name, "mean_fold_auc"]])
    assert [name for name, curve in curves if curve == "surface"], "no contour was drawn"


def test_the_csvs_of_tables_hold_the_figures_of_the_page_and_names_as_they_are(seen: dict[str, Any], run: Path) -> None:
    page = Page(run / "report.html")
    tables = downloads(seen)
    folds = next(rows for name, rows in tables.items() if name.startswith("table Folds"))
    best = json.loads((run / "summary.json").read_text())["best"]
    assert [float(row[3]) for row in folds[1:11]] == [fold["auc"] for fold in best["folds"]]
    names = {row[0] for name, rows in tables.items() if "atients" in name for row in rows}
    assert {SCRIPT, "<b>&amp;</b>"} <= names
    held = {cell for rows in tables.values() for row in rows for cell in " ".join(row).split()}
    tabled = {
        value for path, value, _ in page.figures if path.startswith(("patients.", "configurations.", "best.folds."))
    }
    assert len(tabled) > 100 and tabled <= held
    hover = [row[3] for name, rows in tables.items() if "robability of every" in name for row in rows]
    assert f"patient {SCRIPT}" in hover


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
