"""What a report costs: seconds and peak memory, on simulated out-of-fold predictions.

    python benchmarks/report.py [PATIENTS CONFIGURATIONS]

Without arguments: 190 patients of 100 configurations, then 10,000 of 200, each in a process of its own. Three slices a
patient, ten folds, readers and features of 190 patients' kind; a fifth of the configurations was dropped by a race.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from datasets.phantom_features import draw_calls, draw_features
from sweep import predictions
from sweep.compose import load_settings
from sweep.report import write_report

FOLDS, SLICES, SETTINGS = 10, 3, 8


def write_run(run: Path, patients: int, configurations: int) -> None:
    """A run folder as a finished sweep leaves it."""
    random = np.random.default_rng(0)
    label = (np.arange(patients) < 0.26 * patients).astype(int)
    names = [f"{number:05d}" for number in range(patients)]
    split = pd.DataFrame({"patient_id": names, "label": label, "fold": np.arange(patients) % FOLDS})
    cohort = split.loc[np.repeat(np.arange(patients), SLICES), ["patient_id", "label"]].assign(site="")
    cohort["sop_instance_uid"] = [f"1.2.826.0.1.3680043.10.{n // SLICES}.{n % SLICES}" for n in range(len(cohort))]
    table = cohort.merge(split[["patient_id", "fold"]], on="patient_id")
    own = random.normal(size=patients).repeat(SLICES)
    rows, tables = [], []
    for number in range(configurations):
        logit = 1.6 * (table["label"] - 0.6) + own + 0.5 * random.normal(size=len(table))
        dropped = number % 5 == 4
        kept = table.assign(configuration=number, probability=1 / (1 + np.exp(-logit)))[predictions.COLUMNS]
        kept = kept[kept["fold"] < 3] if dropped else kept
        figures = {} if dropped else predictions.configuration_figures(kept)
        state = {"state": "pruned" if dropped else "complete", "folds_done": 3 if dropped else FOLDS, "failure": ""}
        state["dropped"] = "AUC -0.031 [-0.052, -0.010] against configuration 3" if dropped else ""
        nothing = dict.fromkeys(("mean_fold_auc", "sd_fold_auc", "pooled_auc"))
        values = {f"setting.{i}": float(random.random()) for i in range(SETTINGS)}
        rows.append({"configuration": number, "digest": f"{number:016x}"} | nothing | state | figures | values)
        tables.append(kept)
    pd.concat(tables).to_parquet(run / "predictions.parquet", index=False)
    space = {f"setting.{i}": {"low": 0.0, "high": 1.0, "log": False, "step": None, "choices": None} for i in range(8)}
    settings = load_settings([]).model_dump(mode="json")
    (run / "settings.yaml").write_text(yaml.safe_dump(settings | {"search": settings["search"] | {"space": space}}))
    excluded = pd.DataFrame(columns=["patient_id", "item", "reason", "remedy"])
    calls = [(name, *item) for name, y in zip(names, label, strict=True) for item in draw_calls(y, random).items()]
    readers = pd.DataFrame(calls, columns=["patient_id", "reader", "call"])
    features = pd.DataFrame([draw_features(y, random) for y in label]).astype(int).assign(patient_id=names)
    units = pd.MultiIndex.from_product([range(configurations), range(FOLDS)], names=["configuration", "fold"])
    folds = units.to_frame().assign(threshold=0.5, epochs=10, seconds=60.0)
    (run / "ingest.json").write_text('{"patch_store": "/nowhere", "files": 0, "skipped": {}, "series": 0}')
    files = {
        "thresholds": folds,
        "costs": folds,
        "cohort": cohort,
        "split": split,
        "excluded": excluded,
        "configurations": pd.DataFrame(rows),
    }
    for name, content in (files | {"readers": readers, "features": features}).items():
        content.to_csv(run / f"{name}.csv", index=False)


def measure(patients: int, configurations: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        write = [sys.executable, __file__, "write", folder, str(patients), str(configurations)]
        subprocess.run(write, check=True)  # apart, so that its memory is not counted
        size = (Path(folder) / "predictions.parquet").stat().st_size / 2**20
        started = time.perf_counter()
        page = write_report(Path(folder))
        seconds, shown = time.perf_counter() - started, page.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    of = f"{patients} patients, {configurations} configurations ({size:.0f} MiB of predictions)"
    print(f"{of}: {seconds:.1f} s, a page of {shown:.1f} MiB, peak memory {peak:.2f} GiB", flush=True)


def main(arguments: list[str]) -> None:
    if arguments[:1] == ["write"]:
        write_run(Path(arguments[1]), int(arguments[2]), int(arguments[3]))
    elif arguments:
        measure(int(arguments[0]), int(arguments[1]))
    else:
        for size in (("190", "100"), ("10000", "200")):
            subprocess.run([sys.executable, __file__, *size], check=True)


if __name__ == "__main__":
    main(sys.argv[1:])
