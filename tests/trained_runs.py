"""A run folder with really trained folds, small and without Ray, for tests of what needs weights and patches."""

from pathlib import Path

import pandas as pd

from datasets.folds import split_digest
from datasets.ingest import Ingested
from datasets.patch_store import PatchStore
from sweep.candidate import Candidate
from sweep.compose import load_settings
from sweep.ledger import Ledger
from sweep.prepare import prepare_split, write_cohort
from sweep.run_folder import RunFolder, held_out_auc, write_tables
from tests.folds import train_fold
from tests.stores import write_store

SCRIPT = "<script>document.title='owned'</script>"
HOSTILE = {"patient 03": SCRIPT, "patient 05": "=1+1", "patient 06": 'a" onload="x'}
QUICK = ["name=run", "input.size=64", "input.context=1.25", "training.epochs=2", "training.batch_size=16"]
QUICK += ["data.widest_context=1.5", "folds.count=3", "augmentation.benign_factor=1", "augmentation.malignant_factor=2"]
QUICK += ["model.learning_rate=1e-3", "search/space=none", "search.configurations=1"]


def write_trained_run(folder: Path, names: dict[str, str]) -> Path:
    """One configuration, three folds of 24 patients; `names` gives some of them ("patient 00", …) other identifiers."""
    settings = load_settings([*QUICK, f"output={folder}", f"cache={folder}/cache"])
    store, run = _renamed(write_store(folder / "store"), names), RunFolder(Path(settings.run_folder))
    run.path.mkdir()
    skipped = {"not DICOM": 4, "no image: presentation state": 2}
    write_cohort(run, settings, Ingested(store, files=300, skipped=skipped, series=60))
    split = prepare_split(run, settings, store)
    run.save(settings)
    ledger = Ledger(run.ledger, split_digest(split))
    candidate = Candidate(0, {}, settings.configuration({}), 3)
    for fold in range(3):
        train_fold(candidate.configuration, fold, ledger.begin(candidate.unit(fold)), store=store, split=run.split)
        ledger.finish(candidate.unit(fold))
        candidate.fold_aucs[fold] = held_out_auc(ledger, candidate.unit(fold))
    write_tables(run, ledger, [candidate], settings.evaluation)
    return run.path


def _renamed(store: PatchStore, names: dict[str, str]) -> PatchStore:
    lesions = pd.read_csv(store.folder / "cohort.csv", keep_default_na=False)
    lesions.replace({"patient_id": names}).to_csv(store.folder / "cohort.csv", index=False)
    return store
