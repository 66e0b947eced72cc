"""report.html: one file without a network request, from the summary, the patients and the run's tables."""

import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from itertools import combinations
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

import sweep.report.plots as plots
import sweep.report.search_plots as search_plots
from sweep.explanations import Explanations
from sweep.report.galleries import MOST, galleries
from sweep.report.reading import BAND
from sweep.report.searching import ENOUGH_TO_RANK
from sweep.report.tables import RunTables
from sweep.settings import flatten

LIBRARIES = ["torch", "pytorch-lightning", "ray", "optuna", "pydicom", "numpy", "scipy", "pandas", "plotly"]
# Paths may hold names; settings.yaml keeps them.
MACHINE_PATHS = {"output", "cache", "data.root", "data.annotations", "model.weights"}
MACHINE_PATHS |= {"evaluation.readers", "evaluation.features"}
FORMATS = {"auc": ".3f", "gain": "+.3f", "short": ".2f", "ratio": ".2f", "percent": ".1%", "whole": ".0%", "count": ""}
MINUS = "\N{MINUS SIGN}"
UNDEFINED = Markup('<span class="undefined" title="not defined">&ndash;</span>')


def render(summary: dict[str, Any], patients: pd.DataFrame, run: RunTables, explained: Explanations) -> str:
    """The page. Every figure of the summary stands in a <data> element that names its place and full value."""
    drawn = _plots(summary, patients, run)
    return render_template(
        "report.html",
        summary | {"patients": patients.to_dict("records")},
        ranked=_ranked(summary["configurations"]),
        plots=drawn,
        plots_of=lambda kind: [name for name in drawn if name.startswith(kind)],
        galleries=galleries(run, patients, explained),
        explanation_problem=explained.problem,
        most_shown=MOST,
        excluded=run.excluded.to_dict("records"),
        searched=run.searched,
        settings=list(shown_settings(run.settings)),
        versions=[("python", platform.python_version()), *((library, version(library)) for library in LIBRARIES)],
        enough_to_rank=ENOUGH_TO_RANK,
        band=BAND,
        plotly_js=Markup(get_plotlyjs()),
    )


def render_template(name: str, shown: dict[str, Any], **more: Any) -> str:
    """A template of this folder, with `shown` for its figures and, with `more`, for its text."""
    loader = FileSystemLoader(Path(__file__).parent)
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals["figure"] = lambda path, style="auc": figure(shown, path, style)
    environment.filters["setting"] = setting_text
    return environment.get_template(name).render(**shown, **more)


def figure(summary: Any, path: str, style: str = "auc") -> Markup:
    """The figure at a dotted path of the summary, rounded to be read, with its full value for machines."""
    value = summary
    for key in path.split("."):
        value = value[int(key)] if isinstance(value, list) else value[key]
    if value is None:
        return UNDEFINED
    return Markup('<data data-figure="{}" value="{}">{}</data>').format(path, value, _rounded(value, style))


def _rounded(value: Any, style: str) -> str:
    if value == "Infinity":
        return "\N{INFINITY}"
    if style == "p":
        return "<0.001" if value < 0.001 else f"{value:.3f}"
    if style == "p is":
        return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"
    form = ".0f" if style == "ratio" and value >= 100 else FORMATS[style]
    return f"{value:{form}}".replace("-", MINUS).replace("%", " %")


def setting_text(value: Any) -> str:
    """A setting as one reads it: 0.00012 as 1.2e-4."""
    if not isinstance(value, float):
        return value if isinstance(value, str) else json.dumps(value)
    mantissa, _, exponent = f"{value:.3g}".partition("e")
    if value and abs(value) < 1e-3:
        mantissa, _, exponent = f"{value:.2e}".partition("e")
        mantissa = mantissa.rstrip("0").rstrip(".")
    return f"{mantissa}e{int(exponent)}" if exponent else mantissa


def _ranked(configurations: list[dict[str, Any]]) -> list[int]:
    """Places of the configurations in the summary, the best first and those without an AUC last."""
    means = [row["mean_fold_auc"] for row in configurations]
    return sorted(range(len(means)), key=lambda place: -1 if means[place] is None else means[place], reverse=True)


def _plots(summary: dict[str, Any], patients: pd.DataFrame, run: RunTables) -> dict[str, plots.Figure]:
    if run.best is None:
        return {}
    varied = [name for name in run.searched if run.complete[name].nunique() > 1]
    space = run.settings["search"]["space"]
    return {
        "roc": plots.roc(patients, summary["best"]["roc_band"]),
        "precision-recall": plots.precision_recall(patients),
        "probabilities": plots.probabilities(patients),
        "calibration": plots.calibration(summary["calibration"]["curve"]),
        "decision-curve": plots.decision_curve(summary["decision_curve"]),
        "history": search_plots.history(summary["search"]["history"], run.best),
        **{f"setting-{name}": search_plots.setting(name, run.complete, run.best, space[name]) for name in varied},
        **_contours(summary, run, run.best),
    }


def _contours(summary: dict[str, Any], run: RunTables, best: int) -> dict[str, plots.Figure]:
    """Of the three most important numbers by twos; rank correlations exist for numbers only."""
    numbers = [row["setting"] for row in summary["search"]["settings"] if row["spearman"] is not None]
    space = run.settings["search"]["space"]
    pairs = combinations(numbers[:3], 2)
    found = {names: search_plots.contour(names, run.complete, best, space) for names in pairs}
    return {f"contour-{first}-{second}": plot for (first, second), plot in found.items() if plot}


def shown_settings(settings: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """(dotted name, value) of every setting; folders and files of the machine are only said to be set."""
    space = settings["search"]["space"]
    for name, value in flatten(settings | {"search": settings["search"] | {"space": {}}}).items():
        hidden = name in MACHINE_PATHS and value not in (None, "none", "imagenet")
        yield name, "set (paths are not printed)" if hidden else value
    yield from ((f"search.space.{name}", _range(span)) for name, span in space.items())


def _range(span: Mapping[str, Any]) -> str:
    if span["choices"] is not None:
        values = "one of " + ", ".join(setting_text(choice) for choice in span["choices"])
    else:
        values = f"{setting_text(span['low'])} to {setting_text(span['high'])}{', log scale' if span['log'] else ''}"
    asked = [f"{name} is {' or '.join(map(setting_text, choices))}" for name, choices in span["when"].items()]
    return f"{values}, where {' and '.join(asked)}" if asked else values
