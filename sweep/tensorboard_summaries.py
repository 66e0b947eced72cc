"""What TensorBoard shows of a sweep, as its own protocol buffers; sweep/tracking.py decides when to write."""

import csv
import io
from collections.abc import Mapping, Sequence
from math import isnan
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.plugins.custom_scalar import layout_pb2, metadata
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from tensorboard.plugins.text.summary_v2 import text_pb
from tensorboard.util.tensor_util import make_tensor_proto

from sweep.patient_metrics import NAN, auc, folds_with_both_classes, roc_points
from sweep.predictions import arrays

CURVES = ("train_loss", "inner_loss", "inner_auc")


def scalars(values: Mapping[Any, float]) -> Summary:
    """Scalars of one step, by tag; nan, which stands for "not measured", is left out."""
    measured = {tag: value for tag, value in values.items() if not isnan(value)}
    return Summary(value=[Summary.Value(tag=tag, simple_value=value) for tag, value in measured.items()])


def fold_curve(curve: Path) -> list[tuple[int, Summary]]:
    """(epoch, scalars) of a fold's curve.csv."""
    # Not by pandas: it would take 40 times as long, every second for every fold in training.
    rows = csv.DictReader(curve.read_text().splitlines())
    values = ((int(row["epoch"]), {f"training/{name}": float(row[name] or NAN) for name in CURVES}) for row in rows)
    return [(epoch, scalars(measured)) for epoch, measured in values]


def race(fold_aucs: Sequence[float], why_dropped: str) -> list[tuple[int, Summary]]:
    """(folds done, mean fold AUC so far) of a configuration, and at the end why it was dropped, if it was."""
    defined = [auc for auc in fold_aucs if not isnan(auc)]
    means = np.cumsum(defined) / np.arange(1, len(defined) + 1)
    steps = [(done, scalars({"race/mean_so_far": mean})) for done, mean in enumerate(means, start=1)]
    return [*steps, (len(defined), text_pb("race/dropped", why_dropped))] if why_dropped else steps


def hparams_session(row: str, settings: Mapping[str, object]) -> Summary:
    """One fold's part of a row of the HParams table: sessions of a row are averaged, metric by metric.

    No experiment summary belongs to it: TensorBoard takes the first one in the whole log folder, and hides the
    settings that only another sweep has searched. Without any, it joins the settings of all sessions.
    """
    plain = (bool, int, float, str, np.generic)
    hparams = {name: value if isinstance(value, plain) else str(value) for name, value in settings.items()}
    return hparams_pb(hparams, trial_id=row)


def bands(curves: Sequence[Path]) -> list[tuple[int, Summary]]:
    """(epoch, mean over folds and one standard deviation, n - 1, below and above it) of the folds' curve.csv files.

    A fold that has stopped early keeps its last values, so that no mean jumps when one leaves.
    """
    by_fold = {fold: pd.read_csv(curve, index_col="epoch")[[*CURVES]] for fold, curve in enumerate(curves)}
    epochs = pd.concat(by_fold, axis="columns").sort_index().ffill().stack(level=0)
    mean, sd = (epochs.groupby("epoch").agg(statistic) for statistic in ("mean", "std"))
    borders = [mean, (mean - sd).add_suffix("_minus_sd"), (mean + sd).add_suffix("_plus_sd")]
    table = pd.concat(borders, axis="columns").add_prefix("mean_of_folds/")
    return [(int(epoch), scalars(row)) for epoch, row in zip(table.index, table.to_dict("records"), strict=True)]


def bands_layout() -> Summary:
    """Custom Scalars page: one margin chart a curve. TensorBoard merges the same layout from several runs."""
    charts = []
    for curve in CURVES:
        tag = f"mean_of_folds/{curve}"
        band = {"value": tag, "lower": f"{tag}_minus_sd", "upper": f"{tag}_plus_sd"}
        charts.append({"title": curve, "margin": {"series": [band]}})
    title = "Mean ± sd over folds (a fold that has stopped keeps its last value)"
    layout = make_tensor_proto(layout_pb2.Layout(category=[{"title": title, "chart": charts}]).SerializeToString())
    own = metadata.create_summary_metadata()
    return Summary(value=[Summary.Value(tag=metadata.CONFIG_SUMMARY_TAG, metadata=own, tensor=layout)])


def roc_picture(patients: pd.DataFrame, title: str) -> Summary:
    """ROC curve of each fold's held-out patients (as predictions.per_patient), of all of them pooled, and of chance."""
    figure = Figure(figsize=(5, 5), dpi=120, layout="constrained")
    axes = figure.add_subplot(aspect="equal", title=title)
    axes.set(xlabel="1 - specificity", ylabel="sensitivity")
    label, score, fold = arrays(patients)
    thin: dict[str, Any] = {"color": "tab:blue", "linewidth": 1, "alpha": 0.4}
    for inside in folds_with_both_classes(label, fold):
        axes.plot(*roc_points(label[inside], score[inside]), **thin)
    axes.plot([], [], **thin, label="folds")
    axes.plot(*roc_points(label, score), color="tab:blue", linewidth=2.5, label=f"pooled, AUC {auc(label, score):.3f}")
    axes.plot((0, 1), (0, 1), color="grey", linestyle="--", label="chance")
    axes.legend(loc="lower right")
    png = io.BytesIO()
    figure.savefig(png, format="png")
    width, height = figure.canvas.get_width_height()
    image = Summary.Image(width=width, height=height, colorspace=4, encoded_image_string=png.getvalue())
    return Summary(value=[Summary.Value(tag="held_out/roc", image=image)])
