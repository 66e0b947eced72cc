"""The plots of the search, as sweep.report.plots: its history, and the AUC over one and over two settings."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from scipy.interpolate import griddata
from scipy.spatial import QhullError

from sweep.report.plots import Figure

DECADES = 100.0  # choices whose largest is this many times the smallest are drawn on a log axis
CELLS = 40  # of a contour, along each axis
SURFACE = {
    "type": "contour",
    "colorscale": [[0, "--page"], [1, "--accent"]],
    "contours": {"coloring": "heatmap"},
    "line": {"color": "--faint", "width": 0.5},
    "colorbar": {"thickness": 10, "outlinewidth": 0, "nticks": 5},
    "hoverinfo": "skip",
}


def history(rows: list[dict[str, Any]], best: int) -> Figure:
    """Mean fold AUC of the configurations in the order of the search, and the best so far."""
    known = pd.DataFrame(rows).dropna(subset="mean_fold_auc")
    points = _points(known, best, "configuration", "mean_fold_auc", "%{customdata} fold-trainings so far")
    points["customdata"] = known["fold_trainings"].tolist()
    so_far = {"x": points["x"], "y": known["best_so_far"].tolist(), "mode": "lines", "name": "best so far"}
    so_far |= {"line": {"color": "--accent", "width": 2, "shape": "hv"}, "hoverinfo": "skip"}
    axes = {"xaxis": {"title": {"text": "configuration"}}, "yaxis": {"title": {"text": "mean fold AUC"}}}
    return {"data": [so_far, points], "layout": {"height": 300, "showlegend": False, **axes}}


def setting(name: str, configurations: pd.DataFrame, best: int, span: Mapping[str, Any]) -> Figure:
    """Mean fold AUC of the complete configurations against one setting, searched over `span` (search.space)."""
    known = configurations.dropna(subset=[name, "mean_fold_auc"])
    low, high = known["mean_fold_auc"].min(), known["mean_fold_auc"].max()
    margin = 0.12 * (high - low) + 0.005
    axes = {"xaxis": _setting_axis(known[name], span), "yaxis": {"range": [low - margin, high + margin], "nticks": 5}}
    points = _points(known, best, name, "mean_fold_auc", "%{x}")
    return {"data": [points], "layout": {"height": 210, "showlegend": False, **axes}}


def contour(
    names: tuple[str, str], configurations: pd.DataFrame, best: int, space: Mapping[str, Mapping[str, Any]]
) -> Figure | None:
    """Mean fold AUC over two numeric settings, linear between configurations; None where they all lie on a line.

    Projected: the other settings differ from point to point.
    """
    known = configurations.dropna(subset=[*names, "mean_fold_auc"])
    axes = [_setting_axis(known[name], space[name]) for name in names]
    logs = [axis["type"] == "log" for axis in axes]
    places = [
        np.log10(known[name]) if log else known[name].astype(float) for name, log in zip(names, logs, strict=True)
    ]
    grids = [np.linspace(place.min(), place.max(), CELLS) for place in places]
    try:
        z = griddata(np.stack(places, axis=1), known["mean_fold_auc"], tuple(np.meshgrid(*grids)), rescale=True)
    except QhullError:
        return None
    x, y = ((np.power(10, grid) if log else grid).tolist() for grid, log in zip(grids, logs, strict=True))
    surface = SURFACE | {"x": x, "y": y, "z": np.where(np.isnan(z), np.array(None), z).tolist()}
    points = _points(known, best, *names, f"{names[0]} %{{x}}<br>{names[1]} %{{y}}")
    layout = {"height": 320, "showlegend": False, "xaxis": axes[0], "yaxis": axes[1]}
    return {"data": [surface, points], "layout": layout}


def _points(known: pd.DataFrame, best: int, x: str, y: str, hover: str) -> Figure:
    """A marker per configuration: the diamond is configuration 0, the one in colour the best."""
    numbers = known["configuration"].astype(int).tolist()
    aucs = known["mean_fold_auc"].tolist()
    return {
        "x": known[x].tolist(),
        "y": known[y].tolist(),
        "mode": "markers",
        "text": [f"{_role(number, best)}<br>AUC {auc:.3f}" for number, auc in zip(numbers, aucs, strict=True)],
        "hovertemplate": f"%{{text}}<br>{hover}<extra></extra>",
        "marker": {
            "size": [12 if number in (0, best) else 8 for number in numbers],
            "symbol": ["diamond" if number == 0 else "circle" for number in numbers],
            "color": ["--accent" if number == best else "--muted" for number in numbers],
            "line": {"color": "--panel", "width": 1},
        },
    }


def _role(number: int, best: int) -> str:
    roles = [role for role, held in (("the settings' own values", number == 0), ("best", number == best)) if held]
    return f"configuration {number}" + (f" ({', '.join(roles)})" if roles else "")


def _setting_axis(values: "pd.Series[Any]", span: Mapping[str, Any]) -> Figure:
    titled: Figure = {"title": {"text": values.name}}
    if not pd.api.types.is_numeric_dtype(values):
        return titled | {"type": "category"}
    wide_choices = span["choices"] is not None and values.max() >= DECADES * values.min()
    if values.min() > 0 and (span["log"] or wide_choices):
        return titled | {"type": "log", "dtick": 1, "exponentformat": "power"}
    return titled | {"type": "linear", "nticks": 5}
