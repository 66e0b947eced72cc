"""Galleries: the best configuration's patients as pictures with Grad-CAM, by outcome, the worst errors first."""

import base64
import io
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from sweep.explanations import Explanations, explain
from sweep.report.tables import RunTables

MOST = 12  # patients shown of each outcome, so that the page stays small
OUTCOMES = ("FN", "FP", "TP", "TN")
FEWEST_BOXES = 2.0  # a picture's least side, in box sides
MAP_SIDE, OPACITY = 64, 0.7


def explain_best(run: RunTables, patients: pd.DataFrame) -> Explanations:
    """Explanations of the best configuration's patients; empty without one."""
    if run.best is None:
        return Explanations(pd.DataFrame(), None)
    row = run.complete.set_index("configuration", drop=False).loc[run.best].to_dict()
    slices = run.predictions_of(run.best).drop(columns="configuration")
    deciding = slices["sop_instance_uid"].isin(patients["sop_instance_uid"])
    widest = run.settings["data"]["widest_context"]
    return explain(run.folder, row, slices.assign(deciding=deciding), _boxes_shown(run) / widest)


def _boxes_shown(run: RunTables) -> float:
    """Side of the pictures in box sides: all that the network saw, and the box's surroundings."""
    return float(min(run.settings["data"]["widest_context"], max(FEWEST_BOXES, run.setting_of_best("input.context"))))


def galleries(run: RunTables, patients: pd.DataFrame, explained: Explanations) -> dict[str, Any] | None:
    """For the page: each outcome's patients, their `place` in `patients`, picture and map; None without pictures."""
    if "picture" not in explained.table:
        return None
    ordered = patients.assign(place=range(len(patients)), error=(patients["label"] - patients["probability"]).abs())
    ordered = ordered.sort_values(["error", "patient_id"], ascending=[False, True])
    pictures = explained.table[explained.table["deciding"]].set_index("patient_id")
    shown = [_patient(row, pictures) for row in ordered.groupby("outcome").head(MOST).to_dict("records")]
    return {
        "outcomes": {kind: [row for row in shown if row["outcome"] == kind] for kind in OUTCOMES},
        "boxes": _boxes_shown(run),
        "context": run.setting_of_best("input.context"),
        "cells": len(pictures["map"].iloc[0]) if "map" in pictures else None,
    }


def _patient(row: dict[Any, Any], pictures: pd.DataFrame) -> dict[str, Any]:
    explained = pictures.loc[row["patient_id"]]
    evidence = _evidence(explained["map"], bool(row["call"])) if "map" in pictures else None
    return row | {"picture": _data_uri(explained["picture"]), "map": evidence}


def _evidence(rows: Any, called_malignant: bool) -> str | None:
    """Grad-CAM for the class called, each map to its own maximum, as a picture; None where nothing spoke for it."""
    signed: NDArray[np.float32] = np.stack(list(rows)).astype(np.float32)
    cells = np.maximum(signed if called_malignant else -signed, 0)
    if not cells.max() > 0:
        return None
    fine = Image.fromarray(cells / cells.max()).resize((MAP_SIDE, MAP_SIDE), Image.Resampling.BILINEAR)
    share = np.asarray(fine)
    red, green, blue = np.ones_like(share), 0.85 * (1 - share), np.zeros_like(share)  # yellow to red
    pixels = (np.stack([red, green, blue, OPACITY * share], axis=-1) * 255).round().astype(np.uint8)
    encoded = io.BytesIO()
    Image.fromarray(pixels).save(encoded, "WEBP", quality=60)
    return _data_uri(encoded.getvalue())


def _data_uri(picture: bytes) -> str:
    return f"data:image/webp;base64,{base64.b64encode(picture).decode()}"
