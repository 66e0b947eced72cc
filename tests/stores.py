"""Small patch stores for tests: noise in which the malignant patients' central channel is brighter in the middle."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from datasets.cohort import LESION_COLUMNS
from datasets.folds import make_split
from datasets.patch_store import CHECKSUMS, PatchStore, checksum_of


def write_store(folder: Path, patients: int = 24, slices: int = 2, side: int = 48, seed: int = 0) -> PatchStore:
    """A store of `patients` (every third malignant) with `slices` lesion slices each, patches of `side` pixels."""
    generator = np.random.default_rng(seed)
    rows = [(f"patient {number:02d}", int(number % 3 == 0)) for number in range(patients) for _ in range(slices)]
    lesions = pd.DataFrame(rows, columns=["patient_id", "label"])
    lesions["sop_instance_uid"] = [f"2.25.{row}" for row in range(len(lesions))]
    lesions = lesions.reindex(columns=LESION_COLUMNS, fill_value="")
    patches = generator.normal(1, 0.2, (len(lesions), 6, side, side))
    third = side // 3
    patches[lesions["label"] == 1, 4, third:-third, third:-third] += 0.5
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "patches.npy", patches.astype(np.float16))
    lesions.to_csv(folder / "cohort.csv", index=False)
    pd.DataFrame(columns=["patient_id", "item", "reason", "remedy"]).to_csv(folder / "excluded.csv", index=False)
    checksums = {file.name: checksum_of(file) for file in folder.iterdir() if file.name != CHECKSUMS}
    (folder / CHECKSUMS).write_text(json.dumps(checksums))
    return PatchStore(folder, "test")


def write_split(path: Path, store: PatchStore, folds: int = 3) -> pd.DataFrame:
    """A saved split of the store's patients."""
    split = make_split(store.lesions[["patient_id", "label"]].drop_duplicates("patient_id"), folds, seed=0)
    split.to_csv(path, index=False)
    return split
