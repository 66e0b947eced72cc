"""The page's plots as Plotly figures: plain dictionaries of data and layout, without colours of their own.

A colour that starts with "--" is a variable of report.css; report.js puts in its value, light or dark. Hover texts
are read as HTML by Plotly, so identifiers are escaped here.
"""

import html
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from sweep import patient_metrics, predictions

Figure = dict[str, Any]
DECADES = 100.0  # choices whose largest is this many times the smallest are drawn on a log axis


def roc(patients: pd.DataFrame) -> Figure:
    """ROC curve of every fold, their vertical mean, the pooled curve and the threshold's operating point."""
    label, score, fold = predictions.arrays(patients)
    aucs = patient_metrics.fold_aucs(label, score, fold)
    defined = [number for number, value in aucs.items() if not np.isnan(value)]
    curves = [_fold_curve(number, label[fold == number], score[fold == number]) for number in defined]
    if defined:
        mean = patient_metrics.mean_roc_points(label, score, fold)
        curves.append(_curve(*mean, name="mean of folds", line={"color": "--accent", "width": 3}))
    if len(np.unique(label)) == 2:
        pooled = patient_metrics.roc_points(label, score)
        curves.append(_curve(*pooled, name="pooled", line={"color": "--malignant", "width": 2, "dash": "dash"}))
        curves.append(_operating_point(label, score))
    return {"data": [_chance(), *curves], "layout": _roc_layout()}


def _curve(x: patient_metrics.Array, y: patient_metrics.Array, **style: Any) -> Figure:
    hover = "%{fullData.name}<br>sensitivity %{y:.3f}<br>1 \N{MINUS SIGN} specificity %{x:.3f}<extra></extra>"
    return {"x": x.tolist(), "y": y.tolist(), "mode": "lines", "hovertemplate": hover, **style}


def _fold_curve(number: int, label: patient_metrics.Array, score: patient_metrics.Array) -> Figure:
    style: Figure = {"name": f"fold {number}", "showlegend": False, "line": {"color": "--thin", "width": 1.2}}
    return _curve(*patient_metrics.roc_points(label, score), **style)


def _operating_point(label: patient_metrics.Array, score: patient_metrics.Array) -> Figure:
    called = score >= patient_metrics.THRESHOLD
    x, y = (np.array([called[label == kind].mean()]) for kind in (0, 1))
    marker = {"size": 11, "color": "--panel", "line": {"color": "--malignant", "width": 3}}
    return _curve(x, y, name=f"threshold {patient_metrics.THRESHOLD}") | {"mode": "markers", "marker": marker}


def _chance() -> Figure:
    line = {"color": "--faint", "width": 1, "dash": "dot"}
    return {"x": [0, 1], "y": [0, 1], "mode": "lines", "line": line, "hoverinfo": "skip", "showlegend": False}


def _roc_layout() -> Figure:
    ticks = {"range": [-0.02, 1.02], "dtick": 0.2, "constrain": "domain"}
    return {
        "height": 500,
        "xaxis": {**ticks, "title": {"text": "1 \N{MINUS SIGN} specificity"}},
        "yaxis": {**ticks, "title": {"text": "sensitivity"}, "scaleanchor": "x"},
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.14, "yanchor": "top"},
    }


def probabilities(patients: pd.DataFrame) -> Figure:
    """Every patient's probability, a row per class; the spread within a row only separates the points."""
    return {
        "data": [_class_points(patients, 0, "benign", "circle"), _class_points(patients, 1, "malignant", "diamond")],
        "layout": {
            "height": 300,
            "showlegend": False,
            "xaxis": {"range": [-0.02, 1.02], "dtick": 0.25, "title": {"text": "highest slice probability"}},
            "yaxis": {"range": [-0.6, 1.6], "tickvals": [0, 1], "ticktext": ["benign", "malignant"], "showgrid": False},
            "shapes": [_threshold_line()],
        },
    }


def _class_points(patients: pd.DataFrame, label: int, name: str, symbol: str) -> Figure:
    rows = patients[patients["label"] == label].sort_values("probability")
    spread = (np.arange(len(rows)) * 0.618034 % 1 - 0.5) * 0.7  # the golden ratio never lines points up
    texts = [f"patient {html.escape(identifier)}" for identifier in rows["patient_id"]]
    return {
        "x": rows["probability"].tolist(),
        "y": (label + spread).tolist(),
        "mode": "markers",
        "name": name,
        "text": texts,
        "customdata": rows["outcome"].tolist(),
        "hovertemplate": "%{text}<br>probability %{x:.3f}, %{customdata}<extra></extra>",
        "marker": {"color": f"--{name}", "symbol": symbol, "size": 8, "opacity": 0.75},
    }


def _threshold_line() -> Figure:
    line = {"color": "--muted", "width": 1, "dash": "dash"}
    return {"type": "line", "x0": 0.5, "x1": 0.5, "y0": 0, "y1": 1, "yref": "paper", "line": line}


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
    roles = [role for role, held in (("study's own setting", number == 0), ("best", number == best)) if held]
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
