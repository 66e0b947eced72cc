"""What the best configuration looked at: pictures, Grad-CAM maps, and predictions from one sequence alone.

Every patient is explained by the model of the fold that held the patient out. What is made once is kept in the run
folder, so that a report is written again without images, weights or torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from datasets.folds import read_split, split_digest
from datasets.patch_store import PatchStore
from sweep.contact_sheet import picture
from sweep.ledger import Ledger, LedgerError, Unit, write_atomically
from sweep.predictions import SLICE
from sweep.run_folder import RunFolder
from sweep.settings import SettingsError

SAME = [1, 4]  # channels of the lesion's own slice: T1W, T2W
LARGEST_TILE, QUALITY = 192, 60


@dataclass(frozen=True)
class Explanations:
    """`table` has a row per lesion slice: the columns that explain() was given, picture, and those of explain_fold().

    picture: WebP of the patch, T1W beside T2W, of deciding slices only. `problem` says why any are missing.
    """

    table: pd.DataFrame
    problem: str | None


def explain(run: Path, configuration: Mapping[Any, Any], slices: pd.DataFrame, shown: float) -> Explanations:
    """Explain a configuration's held-out predictions, or read what an earlier call kept.

    `configuration` is its row of configurations.csv; `slices` has patient_id, sop_instance_uid, fold, and whether the
    slice is the deciding one of its patient; pictures show the central `shown` of a patch's side.
    """
    kept = run / "explanations" / f"{configuration['digest']}.parquet"
    if kept.is_file():
        return Explanations(pd.read_parquet(kept), None)
    table = pd.DataFrame()
    try:
        store = _store(run)
        table = slices.assign(row=_rows(store, slices)).reset_index(drop=True)
        table["picture"] = _pictures(store, table, shown)
        table = table.join(pd.concat(_folds(RunFolder(run), configuration, store, table)))
    except SettingsError:  # its message has a path, which may hold names
        return Explanations(table, "settings.yaml was written by another version of this program")
    except ValueError as error:
        return Explanations(table, str(error))
    shutil.rmtree(kept.parent, ignore_errors=True)  # another configuration was the best
    kept.parent.mkdir()
    write_atomically(kept, table.to_parquet(index=False))
    return Explanations(table, None)


def _store(run: Path) -> PatchStore:
    folder = Path(json.loads((run / "ingest.json").read_text())["patch_store"])
    if not (folder / "patches.npy").is_file():
        raise ValueError("The patches are gone from the cache; start the sweep again, which makes them anew")
    return PatchStore(folder, folder.name)


def _rows(store: PatchStore, slices: pd.DataFrame) -> NDArray[np.intp]:
    rows = pd.MultiIndex.from_frame(store.lesions[SLICE]).get_indexer(pd.MultiIndex.from_frame(slices[SLICE]))
    if (rows < 0).any():
        raise ValueError("The patches in the cache are of another cohort; start the sweep again")
    return rows


def _pictures(store: PatchStore, table: pd.DataFrame, shown: float) -> pd.Series:
    patches = store.patches()
    margin = round(patches.shape[-1] * (1 - shown) / 2)
    centre = slice(margin, patches.shape[-1] - margin)
    pictures: pd.Series = table.loc[table["deciding"], "row"].map(
        lambda row: picture(patches[row][SAME][:, centre, centre], rows=1, largest=LARGEST_TILE, quality=QUALITY)
    )
    return pictures


def _folds(run: RunFolder, row: Mapping[Any, Any], store: PatchStore, table: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """explain_fold() of every fold's slices, by the model that did not train on them."""
    settings = run.saved()
    configuration = settings.configuration({name: row[name] for name in settings.search.space})
    ledger = Ledger(run.ledger, split_digest(read_split(run.split)))
    if configuration.digest != row["digest"]:
        raise ValueError("settings.yaml and configurations.csv are not of one run")
    from sweep.explain_fold import explain_fold  # torch takes seconds to import

    weights, gone = dict[int, Path](), list[str]()
    for fold in sorted(set(table["fold"])):
        try:
            weights[fold] = ledger.file(Unit(row["digest"], int(fold)), "weights.pt")
        except (LedgerError, FileNotFoundError):  # it names a path, which the page must not
            gone.append(str(fold))
    if gone:
        raise ValueError(f"The weights of fold {', '.join(gone)} are gone from the ledger, or not as they were written")
    for fold, of_fold in weights.items():
        yield explain_fold(configuration, of_fold, store.patches(), table[table["fold"] == fold])
