"""Two sweeps side by side: the best configuration of each, on the same patients, with paired tests."""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from datasets.tables import to_csv
from sweep import comparison, patient_metrics
from sweep.ledger import write_atomically
from sweep.patient_metrics import Estimate
from sweep.predictions import arrays
from sweep.report.page import render_template, setting_text, shown_settings
from sweep.report.summary import for_json
from sweep.report.tables import RunFolderError, RunTables, read_run
from sweep.selection_bias import bbc_cv, percentile_estimate


def compare_runs(first: Path, second: Path, folder: Path, common: bool = False) -> dict[str, Any]:
    """Write compare.html, comparison.csv and comparison_patients.csv into `folder`; returns what the page shows.

    `common` compares on the patients of both runs where these differ; otherwise that raises RunFolderError, as do
    a patient with two labels and a run without a complete configuration.
    """
    runs = [read_run(path) for path in (first, second)]
    patients = _paired(runs, common)
    same_split = bool((patients[0]["fold"] == patients[1]["fold"]).all())
    measures = [for_json(row) for row in (*_aucs(runs, patients, same_split), *_calls(patients))]
    compared: dict[str, Any] = {
        "runs": [{"name": run.name, "best": run.best, "candidates": len(run.complete)} for run in runs],
        "patients": len(patients[0]),
        "left_out": [len(run.split) - len(patients[0]) for run in runs],
        "same_split": same_split,
        "measures": measures,
        "settings": _differing(runs),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / "comparison.csv", to_csv(pd.json_normalize(measures)))
    both = patients[0].merge(patients[1], on="patient_id", suffixes=("_first", "_second"))
    write_atomically(folder / "comparison_patients.csv", to_csv(both.reset_index()))
    page = render_template("compare.html", compared, all_settings=[run.settings for run in runs])
    write_atomically(folder / "compare.html", page)
    return compared


def _paired(runs: list[RunTables], common: bool) -> list[pd.DataFrame]:
    """The patients of each run's best configuration, in the same order."""
    for run in runs:
        if run.best is None:
            raise RunFolderError(f"{run.name}: no configuration has all its folds; finish the sweep first")
    first, second = tables = [run.patients_of(run.best or 0).set_index("patient_id") for run in runs]
    both = first.index.intersection(second.index)
    alone = [table.index.difference(both) for table in tables]
    if both.empty or (max(map(len, alone)) and not common):
        said = [f"{len(ids)} only in {run.name} ({ids[0]} …)" for run, ids in zip(runs, alone, strict=True) if len(ids)]
        remedy = "run both on the same patients" + ("" if both.empty else ", or add patients=common for those of both")
        raise RunFolderError(f"the runs have other patients: {'; '.join(said)}; {remedy}")
    other = both[first.loc[both, "label"] != second.loc[both, "label"]]
    if len(other):
        raise RunFolderError(
            f"{len(other)} patients have another label in {runs[1].name} than in {runs[0].name}, the first "
            f"{other[0]}; run both on the same annotations"
        )
    return [table.loc[both, ["label", "fold", "probability", "call"]] for table in tables]


def _aucs(runs: list[RunTables], patients: list[pd.DataFrame], same_split: bool) -> Iterator[dict[str, Any]]:
    (label, first, fold), (_, second, other_fold) = map(arrays, patients)
    folds = [patient_metrics.mean_of_folds(label, *of) for of in ((first, fold), (second, other_fold))]
    if same_split:
        test = comparison.paired_mean_of_folds(label, first, second, fold)
        yield _row("AUC, mean of folds", folds, test.difference, p=test.p)
        with suppress(ValueError):  # too few patients to resample, as each report says
            scores = (run.competing.loc[patients[0].index].to_numpy().T for run in runs)
            selected = [bbc_cv(label, score, fold, int(runs[0].evaluation["resamples"])) for score in scores]
            difference = percentile_estimate(selected[0].resampled - selected[1].resampled)
            yield _row("AUC, corrected for selection", [one.corrected for one in selected], difference)
    else:
        yield _row("AUC, mean of folds", folds, Estimate())
    pooled = [patient_metrics.auc_interval(label, score, "logit") for score in (first, second)]
    delong = comparison.paired_delong(label, first, second)
    yield _row("AUC, pooled", pooled, delong.difference, p=delong.p)


def _calls(patients: list[pd.DataFrame]) -> Iterator[dict[str, Any]]:
    label = patients[0]["label"].to_numpy()
    right = [table["call"].to_numpy() == label for table in patients]
    for name, inside in (("sensitivity", label == 1), ("specificity", label == 0), ("accuracy", label >= 0)):
        shares = [patient_metrics.wilson(int(calls[inside].sum()), int(inside.sum())) for calls in right]
        only = [int((inside & one & ~other).sum()) for one, other in (right, right[::-1])]
        test, difference = comparison.mcnemar(*only), Estimate(shares[0].value - shares[1].value)
        more = {"only_first_right": only[0], "only_second_right": only[1], "mid_p": test.mid_p}
        yield _row(name, shares, difference, p=test.exact, **more)


def _row(measure: str, values: Sequence[Estimate], difference: Estimate, **more: float) -> dict[str, Any]:
    first, second = (Estimate(one.value, one.low, one.high) for one in values)  # of a FoldMean no more
    row = {"measure": measure, "first": first, "second": second, "difference": difference}
    return row | dict.fromkeys(("only_first_right", "only_second_right", "p", "mid_p")) | more


def _differing(runs: list[RunTables]) -> list[dict[Any, Any]]:
    """Settings in which the two best configurations, or their sweeps, differ."""
    both = pd.DataFrame()
    for side, run in zip(("first", "second"), runs, strict=True):
        best = run.configurations.set_index("configuration")[run.searched].to_dict("index")[run.best]
        settings = dict(shown_settings(run.settings)) | best
        both = both.join(pd.Series(settings, name=side).drop("name").map(setting_text), how="outer")
    differing = both.fillna("not set")[both["first"] != both["second"]]
    return [{"setting": str(name), **row.to_dict()} for name, row in differing.iterrows()]


def terminal_table(compared: dict[str, Any]) -> Table:
    """The measures as the page has them, without their intervals."""
    table = Table(*("", *(run["name"] for run in compared["runs"]), "difference", "p"), box=None)
    for row in compared["measures"]:
        figures = [(row[side]["value"], ".3f") for side in ("first", "second")]
        figures += [(row["difference"]["value"], "+.3f"), (row["p"], ".3g")]
        table.add_row(row["measure"], *("" if value is None else f"{value:{form}}" for value, form in figures))
    return table
