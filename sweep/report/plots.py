"""The page's plots as Plotly figures: plain dictionaries of data and layout, without colours of their own.

A colour that starts with "--" is a variable of report.css; report.js puts in its value, light or dark. Hover texts
are read as HTML by Plotly, so identifiers are escaped here.
"""

import html
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from sweep import patient_metrics, predictions
from sweep.patient_metrics import Array

Figure = dict[str, Any]
FAINT = {"color": "--faint", "width": 1.5, "dash": "dot"}
UNNAMED = {"showlegend": False, "hoverinfo": "skip"}


def roc(patients: pd.DataFrame, band: list[dict[str, Any]]) -> Figure:
    """ROC curve of every fold, their vertical mean with its band, the pooled curve and the point of the calls."""
    label, score, fold = predictions.arrays(patients)
    curves = [_line([0, 1], [0, 1], "chance", FAINT) | UNNAMED]
    for inside in patient_metrics.folds_with_both_classes(label, fold):
        points, name = patient_metrics.roc_points(label[inside], score[inside]), f"fold {fold[inside][0]}"
        curves.append(_line(*points, name, {"color": "--thin", "width": 1.2}) | {"showlegend": False})
    mean, pooled = patient_metrics.mean_roc_points(label, score, fold), patient_metrics.roc_points(label, score)
    curves += [*_band(band), _line(*mean, "mean of folds", {"color": "--accent", "width": 3})]
    curves.append(_line(*pooled, "pooled", {"color": "--malignant", "width": 2, "dash": "dash"}))
    curves.append(_operating_point(label, patients["call"].to_numpy()))
    figure = _chart(curves, "1 \N{MINUS SIGN} specificity", "sensitivity")
    figure["layout"]["height"] = 500
    figure["layout"]["yaxis"] |= {"scaleanchor": "x", "constrain": "domain"}
    figure["layout"]["xaxis"] |= {"constrain": "domain"}
    return figure


def _band(rows: list[dict[str, Any]]) -> list[Figure]:
    """Pointwise limits, rows of bootstrap.roc_band: the lower without a line, the upper filled down to it."""
    x, low, high = ([row[name] for row in rows] for name in ("false_positive_rate", "low", "high"))
    filled = {"fill": "tonexty", "fillcolor": "--band", "hoverinfo": "skip"}
    return [_line(x, low, "lower limit", {"width": 0}) | UNNAMED, _line(x, high, "95 % band", {"width": 0}) | filled]


def _operating_point(label: Array, called: Array) -> Figure:
    x, y = ([float(called[label == kind].mean())] for kind in (0, 1))
    marker = {"size": 11, "color": "--panel", "line": {"color": "--malignant", "width": 3}}
    return _line(x, y, "calls", {}) | {"mode": "markers", "marker": marker}


def probabilities(patients: pd.DataFrame) -> Figure:
    """Every patient's probability, a row per class; the spread within a row only separates the points."""
    return {
        "data": [_class_points(patients, 0, "benign", "circle"), _class_points(patients, 1, "malignant", "diamond")],
        "layout": {
            "height": 300,
            "showlegend": False,
            "xaxis": {"range": [-0.02, 1.02], "dtick": 0.25, "title": {"text": "probability"}},
            "yaxis": {"range": [-0.6, 1.6], "tickvals": [0, 1], "ticktext": ["benign", "malignant"], "showgrid": False},
            "shapes": [_threshold_band(patients["threshold"])],
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


def _threshold_band(thresholds: "pd.Series[float]") -> Figure:
    """From the folds' lowest threshold to their highest: a line where they are one."""
    band = {"x0": thresholds.min(), "x1": thresholds.max(), "y0": 0, "y1": 1, "yref": "paper", "layer": "below"}
    return {"type": "rect", **band, "line": {"color": "--muted", "width": 1, "dash": "dash"}, "fillcolor": "--wash"}


def precision_recall(patients: pd.DataFrame) -> Figure:
    """Precision over recall, a step per distinct probability, beside the share of malignant patients."""
    label, score, _ = predictions.arrays(patients)
    wrong, recall = (rate[1:] for rate in patient_metrics.roc_points(label, score))
    precision = recall * label.mean() / (recall * label.mean() + wrong * (1 - label.mean()))
    share = _line([0, 1], [label.mean()] * 2, "malignant share", FAINT)
    curve = _line([0, *recall], [precision[0], *precision], "pooled", {"color": "--accent", "width": 3, "shape": "vh"})
    return _chart([share, curve], "recall (sensitivity)", "precision (PPV)")


def calibration(curve: list[dict[str, Any]]) -> Figure:
    """Malignant share over mean probability, with intervals: rows of calibration.calibration_curve."""
    above = [row["observed_high"] - row["observed"] for row in curve]
    below = [row["observed"] - row["observed_low"] for row in curve]
    error = {"type": "data", "symmetric": False, "array": above, "arrayminus": below, "thickness": 1, "width": 3}
    x, y = [row["mean_probability"] for row in curve], [row["observed"] for row in curve]
    points = _line(x, y, "bins of 0.1", {"color": "--accent", "width": 2}) | {"mode": "lines+markers", "error_y": error}
    return _chart([_line([0, 1], [0, 1], "ideal", FAINT), points], "mean probability", "malignant share")


def decision_curve(rows: list[dict[str, Any]]) -> Figure:
    """Net benefit over threshold, of evaluation.decision_curve: the model, acting on everyone, and on nobody."""
    x, model, everyone = ([row[name] for row in rows] for name in ("threshold", "model", "everyone"))
    curves = [
        _line([0, 1], [0, 0], "nobody", FAINT),
        _line(x, everyone, "everyone", {"color": "--malignant", "width": 2, "dash": "dash"}),
        _line(x, model, "model", {"color": "--accent", "width": 3}),
    ]
    best = max(*model, everyone[0])
    return _chart(curves, "threshold", "net benefit", (-0.35 * best - 0.01, 1.1 * best + 0.01))


def _line(x: Sequence[float] | Array, y: Sequence[float] | Array, name: str, line: Figure) -> Figure:
    hover = "%{fullData.name}<br>%{xaxis.title.text} %{x:.3f}<br>%{yaxis.title.text} %{y:.3f}<extra></extra>"
    points = {"x": np.asarray(x).tolist(), "y": np.asarray(y).tolist()}
    return points | {"mode": "lines", "name": name, "line": line, "hovertemplate": hover}


def _chart(traces: list[Figure], x: str, y: str, y_range: tuple[float, float] = (-0.02, 1.02)) -> Figure:
    legend = {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.2, "yanchor": "top"}
    axes = {"xaxis": {"range": [-0.02, 1.02], "title": {"text": x}}, "yaxis": {"range": y_range, "title": {"text": y}}}
    return {"data": traces, "layout": {"height": 360, "legend": legend, **axes}}
