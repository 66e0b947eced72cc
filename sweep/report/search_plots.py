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


def history(rows: list[dict[str, Any]], best: int) -> Figure:
    """Mean fold AUC of the configurations in the order of the search, and the best so far."""
    known = [row for row in rows if row["mean_fold_auc"] is not None]
    numbers = [row["configuration"] for row in known]
    points: Figure = {
        "x": numbers,
        "y": [row["mean_fold_auc"] for row in known],
        "mode": "markers",
        "text": [
            f"{_role(row['configuration'], best)}<br>{row['fold_trainings']} fold-trainings so far" for row in known
        ],
        "hovertemplate": "%{text}<br>AUC %{y:.3f}<extra></extra>",
        "marker": _markers(numbers, best),
        "showlegend": False,
    }
    so_far: Figure = {"x": numbers, "y": [row["best_so_far"] for row in known], "mode": "lines", "name": "best so far"}
    so_far |= {"line": {"color": "--accent", "width": 2, "shape": "hv"}, "hoverinfo": "skip"}
    axes = {"xaxis": {"title": {"text": "configuration"}}, "yaxis": {"title": {"text": "mean fold AUC"}}}
    return {"data": [so_far, points], "layout": {"height": 300, "showlegend": False, **axes}}


def contour(
    names: tuple[str, str], configurations: pd.DataFrame, best: int, space: Mapping[str, Mapping[str, Any]]
) -> Figure | None:
    """Mean fold AUC over two numeric settings, linear between configurations; None where they all lie on a line.

    Projected: the other settings differ from point to point.
    """
    rows = configurations.dropna(subset=[*names, "mean_fold_auc"])
    axes = [_setting_axis(rows[name], space[name]) for name in names]
    logs = [axis["type"] == "log" for axis in axes]
    places = [np.log10(rows[name]) if log else rows[name].astype(float) for name, log in zip(names, logs, strict=True)]
    grids = [np.linspace(place.min(), place.max(), CELLS) for place in places]
    scale = [(place - grid[0]) / (grid[-1] - grid[0]) for place, grid in zip(places, grids, strict=True)]
    unit = np.linspace(0, 1, CELLS)
    try:
        z = griddata(np.stack(scale, axis=1), rows["mean_fold_auc"], (unit[None, :], unit[:, None]))
    except QhullError:
        return None
    x, y = (np.power(10, grid) if log else grid for grid, log in zip(grids, logs, strict=True))
    surface = {
        "type": "contour",
        "x": x.tolist(),
        "y": y.tolist(),
        "z": [[None if np.isnan(value) else value for value in row] for row in z.tolist()],
        "colorscale": [[0, "--page"], [1, "--accent"]],
        "contours": {"coloring": "heatmap"},
        "line": {"color": "--faint", "width": 0.5},
        "colorbar": {"thickness": 10, "outlinewidth": 0, "nticks": 5},
        "hoverinfo": "skip",
    }
    numbers = rows["configuration"].astype(int).tolist()
    points = {
        "x": rows[names[0]].tolist(),
        "y": rows[names[1]].tolist(),
        "mode": "markers",
        "text": [f"{_role(n, best)}<br>AUC {auc:.3f}" for n, auc in zip(numbers, rows["mean_fold_auc"], strict=True)],
        "hovertemplate": f"%{{text}}<br>{names[0]} %{{x}}<br>{names[1]} %{{y}}<extra></extra>",
        "marker": _markers(numbers, best),
    }
    titled = [axis | {"title": {"text": name}} for name, axis in zip(names, axes, strict=True)]
    layout = {"height": 320, "showlegend": False, "xaxis": titled[0], "yaxis": titled[1]}
    return {"data": [surface, points], "layout": layout}


def setting(name: str, configurations: pd.DataFrame, best: int, span: Mapping[str, Any]) -> Figure:
    """Mean fold AUC of the complete configurations against one setting, searched over `span` (search.space)."""
    rows = configurations.dropna(subset=[name, "mean_fold_auc"])
    margin = 0.12 * (rows["mean_fold_auc"].max() - rows["mean_fold_auc"].min()) + 0.005
    numbers = rows["configuration"].astype(int)
    return {
        "data": [
            {
                "x": rows[name].tolist(),
                "y": rows["mean_fold_auc"].tolist(),
                "mode": "markers",
                "text": [_role(number, best) for number in numbers],
                "hovertemplate": "%{text}<br>%{x}<br>AUC %{y:.3f}<extra></extra>",
                "marker": _markers(numbers.tolist(), best),
            }
        ],
        "layout": {
            "height": 210,
            "showlegend": False,
            "xaxis": {"title": {"text": name}, **_setting_axis(rows[name], span)},
            "yaxis": {
                "range": [rows["mean_fold_auc"].min() - margin, rows["mean_fold_auc"].max() + margin],
                "nticks": 5,
            },
        },
    }


def _role(number: int, best: int) -> str:
    roles = [role for role, held in (("the settings' own values", number == 0), ("best", number == best)) if held]
    return f"configuration {number}" + (f" ({', '.join(roles)})" if roles else "")


def _markers(numbers: list[int], best: int) -> Figure:
    return {
        "size": [12 if number in (0, best) else 8 for number in numbers],
        "symbol": ["diamond" if number == 0 else "circle" for number in numbers],
        "color": ["--accent" if number == best else "--muted" for number in numbers],
        "line": {"color": "--panel", "width": 1},
    }


def _setting_axis(values: "pd.Series[Any]", span: Mapping[str, Any]) -> Figure:
    if not pd.api.types.is_numeric_dtype(values):
        return {"type": "category"}
    wide_choices = span["choices"] is not None and values.max() >= DECADES * values.min()
    if values.min() > 0 and (span["log"] or wide_choices):
        return {"type": "log", "dtick": 1, "exponentformat": "power"}
    return {"type": "linear", "nticks": 5}
