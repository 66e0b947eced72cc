"""ingest.html: every lesion's six channels to check by eye, with what was left out and why; the same in figures."""

from __future__ import annotations

import base64
import io
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image
from rich.table import Column, Table
from rich.text import Text

from datasets.patch_store import PatchStore

LARGEST_TILE = 104  # pixels a side of a channel; with the quality below, 200 patients of 4 slices stay within 10 MB
WINDOW = (1.0, 99.5)  # percentiles of a channel shown as black and as white
DETAILS = re.compile(r"(?<=: ).*|(?<!\w)-?\d[\w.#+]*(?:, -?\d[\w.#+]*)*", re.DOTALL)  # what differs within a reason


def write_contact_sheet(
    path: Path, store: PatchStore, skipped: Mapping[str, int], *, title: str, widest_context: float
) -> None:
    """Write one HTML file that asks the network for nothing; memory does not grow with the patients.

    `skipped` counts files by reason; a patch is `widest_context` box sides wide, and the box its central part.
    """
    here, excluded = Path(__file__).parent, store.excluded
    loader = FileSystemLoader([here, here / "report"])
    template = Environment(loader=loader, autoescape=True, undefined=StrictUndefined).get_template("contact_sheet.html")
    page = template.stream(
        title=title,
        digest=f"{store.digest} {sum(skipped.values())}",
        context=widest_context,
        counts=_counts(store.lesions),
        noted=store.lesions.loc[store.lesions["note"] != "", "patient_id"].nunique(),
        excluded=excluded.to_dict("records"),
        excluded_patients=excluded["patient_id"].nunique(),
        skipped=skipped,
        patients=_patients(store),
    )
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        page.dump(str(temporary), encoding="utf-8")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def summary(store: PatchStore, skipped: Mapping[str, int], *, files: int) -> Table:
    """What became of `files` files, for the terminal; cohort.csv and excluded.csv name every patient."""
    figures = (Column(name, justify="right") for name in ("patients", "slices", "files"))
    table = Table("", *figures, box=None, pad_edge=False)
    table.add_row("read as images", "", "", str(files - sum(skipped.values())))
    for reason, count in skipped.items():
        table.add_row(_printable(f"skipped: {reason}"), "", "", str(count))
    for label, patients, slices in _counts(store.lesions):
        table.add_row(label, str(patients), str(slices), "")
    table.add_row("excluded", str(store.excluded["patient_id"].nunique()), "", "")
    for reason, count in patients_by_reason(store.excluded):
        table.add_row(_printable(f"  {reason}"), str(count), "", "")
    return table


def _counts(lesions: pd.DataFrame) -> list[tuple[str, int, int]]:
    """(label, patients, lesion slices), and both labels together."""
    named = {"benign": lesions["label"] == 0, "malignant": lesions["label"] == 1, "all": lesions["label"] >= 0}
    return [(label, lesions.loc[rows, "patient_id"].nunique(), int(rows.sum())) for label, rows in named.items()]


def patients_by_reason(excluded: pd.DataFrame) -> list[tuple[str, int]]:
    """The most frequent reason first; reasons that differ in details (numbers, UIDs, what follows a colon) are one."""
    alike = excluded.groupby(excluded["reason"].map(lambda reason: DETAILS.sub("…", reason)))
    merged = {rows["reason"].iloc[0] if rows["reason"].nunique() == 1 else str(key): rows for key, rows in alike}
    counts = [(reason, rows["patient_id"].nunique()) for reason, rows in merged.items()]
    return sorted(counts, key=lambda count: -count[1])


def _printable(text: str) -> Text:
    """Neither rich's markup nor a terminal's control codes act in it."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text))


def _patients(store: PatchStore) -> Iterator[dict[str, Any]]:
    """Each patient's rows of the cohort with their pictures, made when the page comes to them."""
    for patient, rows in store.lesions.groupby("patient_id", sort=False):
        patches = store.patches()[rows.index]  # mapped anew for each patient: pages of the ones before are let go
        pictures = [base64.b64encode(picture(patch)).decode() for patch in patches]
        lesions = [row | {"picture": image} for row, image in zip(rows.to_dict("records"), pictures, strict=True)]
        first, noted = lesions[0], int((rows["note"] != "").sum())
        yield {"id": patient, "label": first["label"], "site": first["site"], "noted": noted, "lesions": lesions}


def picture(channels: NDArray[np.float16], rows: int = 2, largest: int = LARGEST_TILE, quality: int = 40) -> bytes:
    """Channels (C, side, side), at most `largest` pixels wide, as an encoded grey image, each with its own brightness.

    In `rows` rows from left to right; of a patch: T1W above T2W, previous, same and next.
    """
    side = min(largest, channels.shape[-1])
    images = (Image.fromarray(channel) for channel in channels.astype(np.float32))
    tiles = np.array([image.resize((side, side), Image.Resampling.BOX) for image in images])  # (C, side, side)
    black, white = np.percentile(tiles, WINDOW, axis=(1, 2), keepdims=True)
    levels = np.clip((tiles - black) / np.maximum(white - black, 1e-6), 0, 1) * 255
    sheet = levels.round().astype(np.uint8).reshape(rows, -1, side, side).swapaxes(1, 2).reshape(rows * side, -1)
    encoded = io.BytesIO()
    Image.fromarray(sheet).save(encoded, "WEBP", quality=quality, method=2)
    return encoded.getvalue()
